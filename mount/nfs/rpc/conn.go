package rpc

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lxbridge/lx/mount/nfs/xdr"
)

// Conn is one connection. A reader and a writer goroutine belong to it; the
// writer is needed only where a caller could not write without waiting.
type Conn struct {
	client *Client
	nc     net.Conn
	raw    syscall.RawConn // nil where what is written must be copied (TLS)
	packet bool            // UDP: no record marks
	ctx    context.Context // ends with the connection
	cancel context.CancelFunc
	wg     sync.WaitGroup
	wake   chan struct{} // tells the writer that the turn is its own; buffered
	heard  atomic.Uint64 // how often something was read
	load   atomic.Int32  // calls on their way

	mu      sync.Mutex // guards what follows, and callState
	err     error      // why it is lost
	pending map[uint32]*Call
	busy    bool // somebody has the turn to write
	queue   []outgoing
	serving int // calls of the server's whose answer is not written yet

	// Of whoever has the turn to write.
	try  func(fd uintptr) bool
	bufs net.Buffers
	took int
	fail error
	room [][]byte // memory of bufs
	flat []byte

	in reader
}

// outgoing is a message to be written. call is nil for a reply of ours.
type outgoing struct {
	msg  *xdr.Encoder
	call *Call
}

// maxBatch bounds what one write(2) takes from the queue, in bytes.
const maxBatch = 2 << 20

var past = time.Unix(1, 0)

func newConn(c *Client, nc net.Conn) *Conn {
	n := &Conn{client: c, nc: nc, pending: map[uint32]*Call{}, wake: make(chan struct{}, 1), packet: c.cfg.packet()}
	n.ctx, n.cancel = context.WithCancel(context.Background())
	if t, ok := nc.(*net.TCPConn); ok {
		if raw, err := t.SyscallConn(); err == nil {
			n.raw = raw
			tune(raw)
		}
	}
	n.try = func(fd uintptr) bool {
		if len(n.bufs) == 1 {
			n.took, n.fail = unix.Write(int(fd), n.bufs[0])
		} else {
			n.took, n.fail = unix.Writev(int(fd), n.bufs)
		}
		return true
	}
	n.in = reader{conn: n, buf: make([]byte, readAhead)}
	n.wg.Go(n.read)
	n.wg.Go(n.write)
	return n
}

// ackWait is how long a peer may acknowledge or take nothing before TCP gives
// it up: after a minute without a network its retransmission timer would have
// grown so far that a new connection is sooner.
const ackWait = 30 * time.Second

// tune makes TCP find out that the peer is gone. What cannot be set stays as
// it is: the calls' own timers find out later.
func tune(raw syscall.RawConn) {
	_ = raw.Control(func(fd uintptr) {
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(ackWait.Milliseconds()))
	})
}

// RemoteAddr and LocalAddr are the connection's ends.
func (c *Conn) RemoteAddr() net.Addr { return c.nc.RemoteAddr() }
func (c *Conn) LocalAddr() net.Addr  { return c.nc.LocalAddr() }

// Do makes a call on this very connection, and not again on another. It is for
// Config.Connected; all others use Client.Do.
func (c *Conn) Do(ctx context.Context, call *Call) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	call.begin(c.client)
	w := patience{cfg: &c.client.cfg, call: call, client: c.client, soft: true}
	w.start()
	defer w.stop()
	return c.do(ctx, &w)
}

// do sends the call and waits for the reply. Of a lost connection it answers
// *lostError.
func (c *Conn) do(ctx context.Context, w *patience) error {
	call := w.call
	if err := call.seal(!c.packet); err != nil {
		return err
	}
	c.load.Add(1)
	defer c.load.Add(-1)
	if err := c.start(call); err != nil {
		return err
	}
	heard := c.heard.Load()
	for {
		select {
		case <-call.done:
			if call.err != nil {
				return call.err
			}
			if len(call.record) > 0 {
				return call.finish()
			}
			return nil
		case <-ctx.Done():
			c.release(call)
			return ctx.Err()
		case <-call.timer.C:
		}
		late, err := w.late()
		switch {
		case err != nil:
			c.release(call)
			return err
		case c.packet && call.Again:
			call.resent = true
			c.again(call)
		case late && call.Again && c.heard.Load() == heard && !c.packet:
			c.lose(fmt.Errorf("%s does not answer", c.client.cfg.Addr))
		}
		heard = c.heard.Load()
	}
}

// start registers the call and writes it, as far as that is possible without
// waiting; the rest is the writer's.
func (c *Conn) start(call *Call) error {
	c.mu.Lock()
	if c.err != nil {
		defer c.mu.Unlock()
		return &lostError{c.err, true}
	}
	call.state, call.err, call.record = pending, nil, call.record[:0]
	c.pending[call.xid] = call
	if c.busy || c.raw == nil {
		call.writing = true
		c.push(outgoing{&call.head, call})
		c.mu.Unlock()
		return nil
	}
	c.busy = true
	c.mu.Unlock()

	c.room = call.head.Buffers(c.room[:0])
	c.bufs = c.room
	err := c.raw.Write(c.try)
	if err == nil && c.fail != nil {
		err = c.fail
	}
	if err != nil {
		if c.took = 0; !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR) && !errors.Is(err, os.ErrDeadlineExceeded) {
			c.lose(err)
		}
	}
	whole := consume(&c.bufs, c.took)

	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case !whole && c.err == nil && call.state != pending:
		c.loseLocked(errors.New("a reply came before its call was sent"))
	case !whole && c.err == nil:
		call.writing = true
		c.queue = slices.Insert(c.queue, 0, outgoing{nil, call}) // the rest is in c.bufs
	}
	c.pass()
	return nil
}

// again sends a datagram once more. A call that is still queued stays.
func (c *Conn) again(call *Call) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == nil && call.state == pending && !call.writing {
		call.writing = true
		c.push(outgoing{&call.head, call})
	}
}

// push queues a message and sees that somebody writes it. mu is held.
func (c *Conn) push(o outgoing) {
	c.queue = append(c.queue, o)
	if !c.busy {
		c.busy = true
		c.pass()
	}
}

// pass gives the turn to write to the writer, or to nobody. mu is held.
func (c *Conn) pass() {
	if c.busy = len(c.queue) > 0; c.busy {
		select {
		case c.wake <- struct{}{}:
		default:
		}
	}
}

// write is the writer. Each round takes what is queued.
func (c *Conn) write() {
	var batch []outgoing
	for {
		select {
		case <-c.wake:
		case <-c.ctx.Done():
			c.mu.Lock()
			c.written(c.queue)
			c.queue = nil
			c.mu.Unlock()
			return
		}
		c.mu.Lock()
		batch = c.batch(batch[:0])
		c.mu.Unlock()
		copied, err := c.flush(batch)
		if err != nil {
			c.lose(err)
		}
		c.mu.Lock()
		if !copied {
			c.written(batch)
		}
		clear(batch)
		c.pass()
		c.mu.Unlock()
	}
}

// batch takes messages from the queue into c.bufs. mu is held.
func (c *Conn) batch(b []outgoing) []outgoing {
	size := 0
	if len(c.queue) > 0 && c.queue[0].msg != nil {
		c.room = c.room[:0]
	} else {
		c.room = append(c.room[:0], c.bufs...)
	}
	for _, o := range c.queue {
		if len(b) > 0 && (size > maxBatch || c.packet) {
			break
		}
		b = append(b, o)
		if o.msg != nil {
			size += o.msg.Len()
			c.room = o.msg.Buffers(c.room)
		}
	}
	c.queue = slices.Delete(c.queue, 0, len(b))
	c.bufs = c.room
	return b
}

// flush writes c.bufs. Where a call of the batch is cancelled meanwhile, the
// rest is copied and the calls are given back before it goes on.
func (c *Conn) flush(batch []outgoing) (copied bool, err error) {
	if c.raw == nil {
		c.flat = c.flat[:0]
		for _, p := range c.bufs {
			c.flat = append(c.flat, p...)
		}
		c.mu.Lock()
		c.written(batch)
		c.mu.Unlock()
		p := c.flat
		if c.packet {
			p = p[4:]
		}
		_, err = c.nc.Write(p)
		if cap(c.flat) > maxBatch+maxKept {
			c.flat = nil
		}
		return true, err
	}
	for {
		_, err = c.bufs.WriteTo(c.nc)
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			return copied, err
		}
		if err = c.nc.SetWriteDeadline(time.Time{}); err != nil {
			return copied, err
		}
		if !copied {
			var rest []byte
			for _, p := range c.bufs {
				rest = append(rest, p...)
			}
			c.bufs = net.Buffers{rest}
			c.mu.Lock()
			c.written(batch)
			c.mu.Unlock()
			copied = true
		}
	}
}

// written says that the calls' memory is not looked at any more. mu is held.
func (c *Conn) written(batch []outgoing) {
	for _, o := range batch {
		if o.call == nil {
			c.serving--
			continue
		}
		if o.call.writing = false; o.call.state == idle {
			o.call.done <- struct{}{}
		}
	}
}

// consume takes n bytes off the front of v and says whether all are gone.
func consume(v *net.Buffers, n int) bool {
	for len(*v) > 0 && n >= len((*v)[0]) {
		n -= len((*v)[0])
		*v = (*v)[1:]
	}
	if len(*v) == 0 {
		return true
	}
	(*v)[0] = (*v)[0][n:]
	return false
}

// release takes a call back from the connection: nobody touches it afterwards,
// and a late reply is dropped.
func (c *Conn) release(call *Call) {
	c.mu.Lock()
	delete(c.pending, call.xid)
	wait := true
	switch call.state {
	case pending:
		call.state = idle
		if i := slices.IndexFunc(c.queue, func(o outgoing) bool { return o.call == call && o.msg != nil }); i >= 0 {
			c.queue = slices.Delete(c.queue, i, i+1)
			call.writing = false
		}
		if wait = call.writing; wait && c.raw != nil {
			_ = c.nc.SetWriteDeadline(past) // fails only where it is closed, which ends the write too
		}
	case decoding:
		call.state = dropped
		_ = c.nc.SetReadDeadline(past) // as above
	}
	c.mu.Unlock()
	if wait {
		<-call.done
	}
}

// lose ends the connection: it is closed, and all calls on it fail.
func (c *Conn) lose(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.loseLocked(err)
}

func (c *Conn) loseLocked(err error) {
	if c.err != nil {
		return
	}
	c.err = err
	c.cancel()
	_ = c.nc.Close() // what is lost is told to the calls
	for xid, call := range c.pending {
		if call.state != pending {
			continue // the reader's
		}
		delete(c.pending, xid)
		unsent := slices.ContainsFunc(c.queue, func(o outgoing) bool { return o.call == call && o.msg != nil })
		call.complete(&lostError{err, unsent})
	}
	c.client.lost(c, err)
}

// close ends the connection and waits for its goroutines.
func (c *Conn) close(err error) {
	c.lose(err)
	c.wg.Wait()
}

// lostError is a connection that ended under a call.
type lostError struct {
	err    error
	unsent bool // nothing of the call was sent
}

func (e *lostError) Error() string { return "the connection was lost: " + e.err.Error() }
func (e *lostError) Unwrap() error { return e.err }
