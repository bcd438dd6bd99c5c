// Package rpc is a client of ONC RPC (RFC 5531) over TCP and UDP: many calls in
// flight on several connections, made again when they are lost.
//
//	c, err := rpc.Dial(ctx, rpc.Config{Dial: dial, Network: "tcp", Addr: "nas:2049", Program: 100003, Version: 3})
//	call := c.NewCall(procGetattr, cred)
//	defer call.Free()
//	call.Args.Opaque(handle)
//	call.Again = true
//	if err := c.Do(ctx, call); err != nil { … }
//	status := call.Results.Uint32()
//
// A call allocates nothing: calls, their encoders and the memory of replies
// are pooled. Large arguments go out by reference (xdr.Encoder.OpaqueRef),
// large results come straight into the caller's memory (Call.Into).
package rpc

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// Dialer connects to addr ("host:port") over network ("tcp", "udp", with "4" or
// "6" where only that family will do), from local port localPort where that is
// not 0. An error wraps the errno: EADDRINUSE and EACCES speak of localPort.
type Dialer func(ctx context.Context, network, addr string, localPort int) (net.Conn, error)

// Recovery is what becomes of a call that no server answers (nfs(5)).
type Recovery uint8

const (
	Hard    Recovery = iota // it waits
	Soft                    // it fails with EIO
	SoftErr                 // it fails with ETIMEDOUT
)

// Config says whom to call and how.
type Config struct {
	Dial             Dialer
	Network, Addr    string
	Program, Version uint32 // of calls that do not say otherwise
	// Conns is how many connections there are at most (nconnect=); 0 is 1.
	Conns int
	// ReservedPort wants source ports below 1024, as servers do that believe
	// AUTH_SYS only from there. Where none can be had a high one is used: see
	// Client.Reserved.
	ReservedPort bool
	// Timeout (timeo=, 0 is 60 s) and Retrans (retrans=, 0 is 2, below 0 is
	// none) bound the wait for a reply: after Timeout × (Retrans+1) a soft call
	// fails, and for a hard one a connection that was silent is made anew. Over
	// UDP the call is sent again after each Timeout.
	Timeout time.Duration
	Retrans int
	Recovery
	// MaxRecord bounds replies, in bytes; 0 is 2 MiB.
	MaxRecord int
	// TLS, if set, is RPC over TLS (RFC 9289): a server that does not offer it
	// is refused.
	TLS *tls.Config
	// Connected, if set, is called on each new connection before any other call
	// goes there, and makes its calls by Conn.Do alone: it binds a session. If
	// it fails the connection is given up.
	Connected func(ctx context.Context, c *Conn) error
	// Lost, if set, is told of each connection that ended, except by Close, in
	// a goroutine of its own. Another is made when a call wants it.
	Lost func(c *Conn, err error)
	// Serve, if set, answers calls that the server makes.
	Serve Handler
	// Note, if set, is told why the server is out of reach, and nil when it
	// answers again.
	Note func(err error)
}

const (
	defaultTimeout   = 60 * time.Second
	defaultRetrans   = 2
	defaultMaxRecord = 2 << 20

	// dialWait bounds one attempt to connect.
	dialWait = 10 * time.Second
	// Waits between attempts double from firstWait to lastWait.
	firstWait = 100 * time.Millisecond
	lastWait  = 3 * time.Second

	// Linux's range of reserved ports (xprt_sock.h), which leaves out those of
	// well-known services.
	minReserved, maxReserved = 665, 1023
	// reservedTries is how many of them are tried.
	reservedTries = 32
)

var (
	// ErrLost is a call that may or may not have been done: its connection was
	// lost, and it must not be sent again.
	ErrLost = fmt.Errorf("the connection was lost before the reply came: %w", syscall.EIO)
	// ErrClosed is a call on a closed client.
	ErrClosed = fmt.Errorf("the mount is closed: %w", syscall.EIO)
)

func (c *Config) packet() bool { return strings.HasPrefix(c.Network, "udp") }

// Client calls one server. It is safe for concurrent use.
type Client struct {
	cfg    Config
	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	wg     sync.WaitGroup
	xid    atomic.Uint32
	// failed counts connections that could not be made or were lost since a
	// call was answered.
	failed atomic.Int32
	away   atomic.Bool // Note was told so

	mu      sync.Mutex // guards what follows; taken after Conn.mu
	conns   []*Conn
	turn    int
	dialing bool
	down    error         // why the last attempt to connect failed
	rested  time.Time     // when one may be made that is not urgent
	changed chan struct{} // closed when conns, dialing or closed change
	closed  bool
	port    int  // of a lost connection: servers' reply caches know clients by it
	high    bool // no reserved port can be had
}

// Dial connects. The client calls until Close.
func Dial(ctx context.Context, cfg Config) (*Client, error) {
	if cfg.Timeout == 0 {
		cfg.Timeout = defaultTimeout
	}
	if cfg.Retrans == 0 {
		cfg.Retrans = defaultRetrans
	}
	cfg.Retrans = max(cfg.Retrans, 0)
	cfg.Conns = max(cfg.Conns, 1)
	if cfg.MaxRecord == 0 {
		cfg.MaxRecord = defaultMaxRecord
	}
	c := &Client{cfg: cfg, changed: make(chan struct{})}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	c.xid.Store(rand.Uint32())
	if err := c.connect(ctx); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

// Close ends all connections and waits for the client's goroutines. Calls on
// their way fail with ErrClosed.
func (c *Client) Close() error {
	c.mu.Lock()
	c.closed = true
	conns := c.conns
	c.conns = nil
	c.change()
	c.mu.Unlock()
	c.cancel()
	for _, n := range conns {
		n.close(ErrClosed)
	}
	c.wg.Wait()
	return nil
}

// NewCall makes a call of the client's program, to be used up by Call.Free.
func (c *Client) NewCall(proc uint32, auth Auth) *Call {
	call := calls.Get().(*Call)
	call.Program, call.Version, call.Proc = c.cfg.Program, c.cfg.Version, proc
	call.Auth, call.Again = auth, false
	return call
}

func (call *Call) begin(c *Client) {
	call.xid, call.resent = c.xid.Add(1), false
	if call.Auth == nil {
		call.Auth = None
	}
}

// Do makes the call and answers nil when its results are there. Else the error
// is ctx's; *Error where the server refused it; *TimeoutError; ErrLost,
// ErrClosed; or one that matches xdr.ErrFormat.
func (c *Client) Do(ctx context.Context, call *Call) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	call.begin(c)
	w := patience{cfg: &c.cfg, call: call, client: c, soft: c.cfg.Recovery != Hard}
	w.start()
	defer w.stop()
	for refused := false; ; {
		n, err := c.conn(ctx, &w)
		if err != nil {
			return err
		}
		switch err := n.do(ctx, &w).(type) {
		case nil:
			c.answered()
			return nil
		case *lostError:
			switch {
			case errors.Is(err.err, ErrClosed):
				return ErrClosed
			case err.unsent:
			case !call.Again:
				return fmt.Errorf("%w: %w", ErrLost, err.err)
			default:
				call.resent = true
			}
		case *Error:
			c.answered()
			if err.Status != AuthError || refused {
				return err
			}
			if err := call.Auth.Refused(ctx, call.seq, err); err != nil {
				return err
			}
			refused = true
		default:
			return err
		}
	}
}

// Away says why the server is out of reach; nil while it is not.
func (c *Client) Away() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.conns) > 0 && !c.away.Load() {
		return nil
	}
	return c.down
}

// Reserved reports whether connections come from reserved ports.
func (c *Client) Reserved() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.cfg.ReservedPort && !c.high
}

// LocalAddr is the near end of one of the connections; nil while there is none.
func (c *Client) LocalAddr() net.Addr {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.conns) == 0 {
		return nil
	}
	return c.conns[0].LocalAddr()
}

// conn answers the connection with the fewest calls, and waits for one where
// there is none.
func (c *Client) conn(ctx context.Context, w *patience) (*Conn, error) {
	for {
		c.mu.Lock()
		if c.closed {
			c.mu.Unlock()
			return nil, ErrClosed
		}
		if len(c.conns) < c.cfg.Conns && !c.dialing && (len(c.conns) == 0 || time.Now().After(c.rested)) {
			c.dialing = true
			c.wg.Go(c.redial)
		}
		if len(c.conns) > 0 {
			c.turn++
			best := c.conns[c.turn%len(c.conns)]
			for _, n := range c.conns {
				if n.load.Load() < best.load.Load() {
					best = n
				}
			}
			c.mu.Unlock()
			return best, nil
		}
		changed := c.changed
		c.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-w.call.timer.C:
			if _, err := w.late(); err != nil {
				return nil, err
			}
		}
	}
}

// redial makes the connections that are missing, until one cannot be made.
// The first attempt comes after a wait that grows.
func (c *Client) redial() {
	if n := c.failed.Load(); n > 1 {
		wait := lastWait
		if n < 8 {
			wait = min(wait, firstWait<<(n-2))
		}
		select {
		case <-time.After(wait):
		case <-c.ctx.Done():
		}
	}
	for {
		err := c.connect(c.ctx)
		c.mu.Lock()
		if c.dialing = err == nil && len(c.conns) < c.cfg.Conns && !c.closed; c.dialing {
			c.mu.Unlock()
			continue
		}
		if err != nil {
			c.failed.Add(1)
			c.down = err
			c.rested = time.Now().Add(lastWait)
		}
		none := len(c.conns) == 0 && !c.closed
		c.change()
		c.mu.Unlock()
		if none && err != nil {
			c.tell(err)
		}
		return
	}
}

// change wakes who waits for a connection. mu is held.
func (c *Client) change() {
	close(c.changed)
	c.changed = make(chan struct{})
}

// connect makes a connection ready for calls.
func (c *Client) connect(outer context.Context) error {
	ctx, cancel := context.WithTimeout(outer, dialWait)
	defer cancel()
	nc, err := c.dial(ctx)
	if err == nil && c.cfg.TLS != nil {
		nc, err = startTLS(ctx, nc, c.cfg)
	}
	if err != nil {
		return fmt.Errorf("cannot connect to %s: %w", c.cfg.Addr, err)
	}
	n := newConn(c, nc)
	if c.cfg.Connected != nil {
		if err := c.cfg.Connected(outer, n); err != nil {
			n.close(err)
			return fmt.Errorf("cannot use a connection to %s: %w", c.cfg.Addr, err)
		}
	}
	c.mu.Lock()
	closed := c.closed
	if !closed {
		c.conns = append(c.conns, n)
		c.change()
	}
	c.mu.Unlock()
	if closed {
		n.close(ErrClosed)
		return ErrClosed
	}
	n.mu.Lock()
	lost := n.err
	n.mu.Unlock()
	if lost != nil { // meanwhile, before it was known
		c.lost(n, lost)
	}
	return nil
}

// dial connects, from a reserved port where that is wanted and possible.
func (c *Client) dial(ctx context.Context) (net.Conn, error) {
	c.mu.Lock()
	reserved, port := c.cfg.ReservedPort && !c.high, c.port
	c.port = 0
	c.mu.Unlock()
	if reserved {
		for range reservedTries {
			if port == 0 {
				port = minReserved + rand.IntN(maxReserved-minReserved+1)
			}
			nc, err := c.cfg.Dial(ctx, c.cfg.Network, c.cfg.Addr, port)
			switch {
			case err == nil:
				return nc, nil
			case errors.Is(err, syscall.EADDRINUSE), errors.Is(err, syscall.EADDRNOTAVAIL):
				port = 0
				continue
			case !errors.Is(err, syscall.EACCES) && !errors.Is(err, syscall.EPERM):
				return nil, err
			}
			break
		}
		c.mu.Lock()
		c.high = true
		c.mu.Unlock()
	}
	return c.cfg.Dial(ctx, c.cfg.Network, c.cfg.Addr, 0)
}

// lost is told by a connection, whose mu is held, that it ended.
func (c *Client) lost(n *Conn, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	at := -1
	for i, o := range c.conns {
		if o == n {
			at = i
		}
	}
	if at < 0 || c.closed {
		return
	}
	c.conns = append(c.conns[:at:at], c.conns[at+1:]...)
	c.failed.Add(1)
	c.down = fmt.Errorf("lost the connection to %s: %w", c.cfg.Addr, err)
	if a, ok := n.LocalAddr().(*net.TCPAddr); ok && a.Port <= maxReserved {
		c.port = a.Port
	}
	c.change()
	c.wg.Go(func() {
		n.wg.Wait()
		if c.cfg.Lost != nil {
			c.cfg.Lost(n, err)
		}
	})
}

// answered notes that the server is well.
func (c *Client) answered() {
	if c.failed.Load() != 0 {
		c.failed.Store(0)
	}
	if c.away.Load() {
		c.tell(nil)
	}
}

// tell says that the server went away, or came back.
func (c *Client) tell(err error) {
	if c.away.Swap(err != nil) != (err != nil) && c.cfg.Note != nil {
		c.cfg.Note(err)
	}
}

// TimeoutError is a call that was not answered in time. It wraps ETIMEDOUT, or
// EIO under Soft.
type TimeoutError struct {
	Addr  string
	After time.Duration
	Errno syscall.Errno
	Err   error // why there is no connection, if there is none
}

func (e *TimeoutError) Error() string {
	s := fmt.Sprintf("%s has not answered for %v", e.Addr, e.After)
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

func (e *TimeoutError) Unwrap() error { return e.Errno }
func (e *TimeoutError) Timeout() bool { return true }

// patience counts the timeouts of one call.
type patience struct {
	cfg    *Config
	call   *Call
	client *Client
	soft   bool
	n      int
}

func (w *patience) start() { w.call.timer.Reset(w.cfg.Timeout) }
func (w *patience) stop()  { w.call.timer.Stop() }

// late is told that the call's timer has fired. major is one of Retrans+1 times.
func (w *patience) late() (major bool, err error) {
	w.n++
	if major = w.n > w.cfg.Retrans; major {
		if w.soft {
			e := &TimeoutError{w.cfg.Addr, w.cfg.Timeout * time.Duration(w.n), syscall.EIO, w.client.Away()}
			if w.cfg.Recovery == SoftErr {
				e.Errno = syscall.ETIMEDOUT
			}
			return true, e
		}
		w.n = 0
		w.client.tell(fmt.Errorf("%s does not answer, still trying", w.cfg.Addr))
	}
	w.start()
	return major, nil
}
