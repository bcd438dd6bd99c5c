package rpc

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"time"
)

// Record marking (RFC 5531 11): each fragment has its length before it.
const lastFragment = 1 << 31

const (
	// readAhead is what is read at once, in bytes: many small replies, but
	// little of a large one, whose data is then not copied.
	readAhead = 16 << 10
	// headRoom is what must be there before a reply is decoded while it
	// arrives: more than any header, so that only data is left to come.
	headRoom = 512
	// maxDatagram is what UDP carries.
	maxDatagram = 64 << 10
	// maxServing bounds the server's calls that are answered at once, and the
	// answers that it does not read.
	maxServing = 32
)

var errDropped = errors.New("the call was given up")

// reader is the state of a connection's reading goroutine.
type reader struct {
	conn *Conn
	buf  []byte // buf[r:w] is read and not used
	r, w int

	// While a call decodes its reply:
	call   *Call
	left   int   // bytes of the record that are still in the socket
	broken error // why they could not be read

	spare []byte // memory for the next record
}

// read is the reader. It ends with the connection.
func (c *Conn) read() {
	in := &c.in
	next := in.record
	if c.packet {
		in.buf = make([]byte, maxDatagram)
		next = in.datagram
	}
	for {
		if err := next(); err != nil {
			if errors.Is(err, io.EOF) {
				err = errors.New("the server closed the connection")
			}
			c.lose(err)
			return
		}
	}
}

// some reads what there is. A deadline is how release makes it look up.
func (in *reader) some(p []byte) (int, error) {
	c := in.conn
	for {
		n, err := c.nc.Read(p)
		if n > 0 {
			c.heard.Add(1)
			return n, nil
		}
		if err == nil {
			continue
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			return 0, err
		}
		if err := c.nc.SetReadDeadline(time.Time{}); err != nil {
			return 0, err
		}
		if in.call != nil {
			c.mu.Lock()
			gone := in.call.state == dropped
			c.mu.Unlock()
			if gone {
				return 0, errDropped
			}
		}
	}
}

// need sees that n bytes, at most len(buf), are in the buffer.
func (in *reader) need(n int) error {
	if in.w-in.r >= n {
		return nil
	}
	if in.r+n > len(in.buf) || in.r == in.w {
		in.w = copy(in.buf, in.buf[in.r:in.w])
		in.r = 0
	}
	for in.w-in.r < n {
		m, err := in.some(in.buf[in.w:])
		if err != nil {
			return err
		}
		in.w += m
	}
	return nil
}

// full reads len(p) bytes.
func (in *reader) full(p []byte) error {
	n := copy(p, in.buf[in.r:in.w])
	in.r += n
	for n < len(p) {
		m, err := in.some(p[n:])
		if err != nil {
			return err
		}
		n += m
	}
	return nil
}

// discard reads n bytes and forgets them.
func (in *reader) discard(n int) error {
	for n > 0 {
		if in.r == in.w {
			if err := in.need(1); err != nil {
				return err
			}
		}
		m := min(n, in.w-in.r)
		in.r += m
		n -= m
	}
	return nil
}

// fragment reads a fragment's header.
func (in *reader) fragment(limit int) (n int, last bool, err error) {
	if err := in.need(4); err != nil {
		return 0, false, err
	}
	mark := binary.BigEndian.Uint32(in.buf[in.r:])
	in.r += 4
	n, last = int(mark&^lastFragment), mark&lastFragment != 0
	if n > limit {
		return 0, false, fmt.Errorf("a record of the server's is longer than %d bytes", in.conn.client.cfg.MaxRecord)
	}
	return n, last, nil
}

// record reads one record and gives it to whom it is for.
func (in *reader) record() error {
	limit := in.conn.client.cfg.MaxRecord
	n, last, err := in.fragment(limit)
	if err != nil {
		return err
	}
	if !last {
		return in.fragments(n, limit)
	}
	if n < 8 {
		return fmt.Errorf("a record of %d bytes is no message", n)
	}
	if err := in.need(min(n, headRoom)); err != nil {
		return err
	}
	xid, reply := isReply(in.buf[in.r:])
	if !reply {
		p := make([]byte, n)
		if err := in.full(p); err != nil {
			return err
		}
		in.conn.serve(p)
		return nil
	}
	call, direct := in.find(xid)
	switch {
	case call == nil: // given up, or a duplicate
		return in.discard(n)
	case direct:
		return in.decode(call, n)
	}
	if cap(in.spare) < n {
		in.spare = make([]byte, n)
	}
	p := in.spare[:n]
	if err := in.full(p); err != nil {
		return err
	}
	if in.spare, err = in.message(p); cap(in.spare) > maxKept {
		in.spare = nil
	}
	return err
}

// decode has a call decode its reply while it arrives.
func (in *reader) decode(call *Call, n int) error {
	have := min(n, in.w-in.r)
	head := in.buf[in.r : in.r+have]
	in.r += have
	in.left, in.call = n-have, call
	d := &call.Results
	d.ResetTail(head[8:], in.left, in)
	err := call.open(d)
	if err == nil {
		err = call.Into.DecodeResults(d)
	}
	d.Reset(nil) // what it read goes away
	broken := in.broken
	if in.call, in.broken = nil, nil; errors.Is(broken, errDropped) {
		broken = nil
	}
	if broken != nil {
		err = &lostError{broken, false}
	}
	call.record = call.record[:0]
	in.conn.mu.Lock()
	call.complete(err)
	in.conn.mu.Unlock()
	if broken != nil {
		return broken
	}
	return in.discard(in.left)
}

// ReadTail reads data of a reply into the caller's own memory (xdr.Source).
func (in *reader) ReadTail(p []byte) error {
	for n := 0; n < len(p); {
		m, err := in.some(p[n:])
		if err != nil {
			in.broken = err
			return err
		}
		n += m
		in.left -= m
	}
	return nil
}

// Whole reads the rest of a reply (xdr.Source).
func (in *reader) Whole(head []byte, n int) ([]byte, error) {
	p := in.call.room(len(head) + n)
	return p, in.ReadTail(p[copy(p, head):])
}

// find looks for the call that a reply is for. If the call decodes it while it
// arrives, the call is the reader's from now on.
func (in *reader) find(xid uint32) (call *Call, direct bool) {
	c := in.conn
	c.mu.Lock()
	defer c.mu.Unlock()
	call = c.pending[xid]
	if call != nil && call.Into != nil && call.Auth.Plain() {
		delete(c.pending, xid)
		call.state = decoding
		in.call, direct = call, true
	}
	return call, direct
}

// fragments reads a record of several fragments, the first n bytes long.
func (in *reader) fragments(n, limit int) error {
	var p []byte
	for last := false; ; {
		have := len(p)
		p = append(p, make([]byte, n)...)
		if err := in.full(p[have:]); err != nil {
			return err
		}
		limit -= n + 4 // the headers too, or empty ones came for ever
		if last {
			break
		}
		var err error
		if n, last, err = in.fragment(limit); err != nil {
			return err
		}
	}
	_, err := in.message(p)
	return err
}

// datagram reads one message over UDP.
func (in *reader) datagram() error {
	n, err := in.some(in.buf)
	if err == nil {
		_, err = in.message(append([]byte(nil), in.buf[:n]...))
	}
	return err
}

// message gives a whole message to whom it is for. It takes p and answers
// memory for the next one, if it has some.
func (in *reader) message(p []byte) (spare []byte, err error) {
	if len(p) < 8 {
		return p, fmt.Errorf("a record of %d bytes is no message", len(p))
	}
	xid, reply := isReply(p)
	if !reply {
		in.conn.serve(p)
		return nil, nil
	}
	c := in.conn
	c.mu.Lock()
	defer c.mu.Unlock()
	call := c.pending[xid]
	if call == nil {
		return p, nil
	}
	delete(c.pending, xid)
	spare, call.record = call.record, p
	call.complete(nil)
	return spare, nil
}

// serve answers a call of the server's. One that comes while too many are
// being answered is dropped: the server sends it again.
func (c *Conn) serve(record []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.serving >= maxServing || c.err != nil {
		return
	}
	c.serving++
	c.wg.Go(func() {
		e := answer(c.ctx, c, c.client.cfg.Serve, record)
		c.mu.Lock()
		defer c.mu.Unlock()
		if e == nil || c.err != nil {
			c.serving--
			return
		}
		c.push(outgoing{e, nil}) // it counts until it is written
	})
}
