// Package session keeps a client's standing with an NFS version 4 server: its
// client id and lease, for 4.1 and later the session with its slots and the
// backchannel, and makes all of it anew when the server has lost it. The
// volume above is told when it must reclaim its opens and locks.
//
//	            Call finds the session gone
//	ready ────────────────────────────────▶ lost ──▶ CREATE_SESSION
//	  ▲                                                │ STALE_CLIENTID: EXCHANGE_ID first
//	  │                                                ▼
//	  └── Holder.Reclaim, in it RECLAIM_COMPLETE ◀── state lost? (no: ready at once)
package session

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/lxbridge/lx/mount/nfs/nfs4/compound"
	"github.com/lxbridge/lx/mount/nfs/rpc"
)

// Config of a session.
type Config struct {
	RPC   rpc.Config // Serve and Connected are the session's
	Minor uint32     // 0, 1 or 2
	// Owner names this client to the server, the same after it lost its connection,
	// another for each mount; Verifier is of this instance.
	Owner    string
	Verifier compound.Verifier
	Auth     rpc.Auth // of what is not done for a caller
	MaxIO    int      // the largest READ and WRITE, in bytes
	Slots    int      // how many calls may be in flight
	Holder   Holder
	Note     func(error) // is told of failures that no caller sees
}

// Holder has state at the server that is lost with the client id.
type Holder interface {
	// Reclaim gets the state back after the server forgot it, through c alone:
	// other calls wait. It calls complete once it has claimed what it can; until
	// then the server opens nothing anew (RFC 8881, section 18.51.3). An error that
	// is a status of the session's class has the whole repeated.
	Reclaim(ctx context.Context, c *Conn, complete func() error) error
	// Revoked looks which state the server has taken away.
	Revoked(ctx context.Context)
	// Callback serves one operation of the server's and does not wait.
	Callback(op *compound.CallbackOp, r *compound.CallbackReply)
}

// Session is a client's standing. It is safe for concurrent use.
type Session struct {
	Config
	ctx    context.Context
	cancel context.CancelFunc
	client *rpc.Client
	work   sync.WaitGroup
	lease  atomic.Int64 // time.Duration
	last   atomic.Int64 // when the lease was renewed last, UnixNano
	back   backchannel
	bad    atomic.Bool // a look at revoked state or the backchannel is under way

	mu     sync.Mutex
	cur    *Conn         // nil while lost
	ready  chan struct{} // closed once cur is there again or err says why not; nil where nobody works on it
	err    error
	old    *Conn
	closed bool
}

// ErrClosed is what calls answer after Close.
var ErrClosed = rpc.ErrClosed

// Client is the client id, for owners of opens and locks.
func (c *Conn) Client() uint64 { return c.client }

// New makes a client known and its session.
func New(ctx context.Context, cfg Config) (*Session, error) {
	s := &Session{Config: cfg}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.lease.Store(int64(90 * time.Second))
	s.back.s = s
	cfg.RPC.Program, cfg.RPC.Version = compound.Program, compound.Version
	cfg.RPC.Serve, cfg.RPC.Connected = s.back.serve, s.connected
	var err error
	if s.client, err = rpc.Dial(ctx, cfg.RPC); err != nil {
		s.cancel()
		return nil, err
	}
	c, _, err := s.connect(ctx, nil)
	if err == nil {
		err = s.settle(ctx, c)
	}
	if err != nil {
		s.cancel()
		s.work.Wait()
		return nil, errors.Join(err, s.client.Close())
	}
	s.mu.Lock()
	s.cur = c
	s.mu.Unlock()
	s.work.Go(s.renew)
	return s, nil
}

// connected makes a new connection the session's, in both directions. What
// stops it is found by the calls that follow.
func (s *Session) connected(ctx context.Context, n *rpc.Conn) error {
	s.mu.Lock()
	c := s.cur
	s.mu.Unlock()
	if c == nil || s.Minor == 0 {
		return nil
	}
	err := c.send(ctx, n.Do, s.Auth, false, c.bindConn, readBind)
	if isStatus(err, compound.OK) || !errors.As(err, new(compound.Status)) {
		return err
	}
	return nil
}

// Build appends a compound's operations, Read goes over their results. Both
// may run several times.
type (
	Build = func(*Conn, *compound.Request)
	Read  = func(*compound.Reply) error
)

// Call sends a compound and reads its results. It is sent again where the
// server asks for time or has lost the session.
func (s *Session) Call(ctx context.Context, auth rpc.Auth, build Build, read Read) error {
	return s.call(ctx, auth, false, build, read)
}

// Fetch is Call for large results: read runs while they arrive, on the
// connection's goroutine, and must not wait for anything.
func (s *Session) Fetch(ctx context.Context, auth rpc.Auth, build Build, read Read) error {
	return s.call(ctx, auth, true, build, read)
}

func (s *Session) call(ctx context.Context, auth rpc.Auth, into bool, build Build, read Read) error {
	var p pause
	for {
		c, err := s.current(ctx)
		if err != nil {
			return err
		}
		err = c.call(ctx, auth, into, build, read)
		var st compound.Status
		if err == nil || !errors.As(err, &st) {
			return err
		}
		class := st.Class()
		if s.Minor == 0 && (st == compound.ErrStaleStateID || st == compound.ErrExpired) {
			class = compound.Session // the whole client is forgotten
		}
		switch class {
		case compound.Session:
			s.lose(c)
		case compound.Later:
			if err := p.wait(ctx); err != nil {
				return err
			}
		default:
			return err
		}
	}
}

// current is the session, once there is one. That a recovery failed which began
// before the call – of a soft mount, say, while the network was cut – is no answer:
// it waits for another.
func (s *Session) current(ctx context.Context) (*Conn, error) {
	for first := true; ; first = false {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		s.mu.Lock()
		if s.cur != nil {
			defer s.mu.Unlock()
			return s.cur, nil
		}
		if s.closed {
			s.mu.Unlock()
			return nil, ErrClosed
		}
		began := s.ready != nil
		if !began {
			s.start(s.old)
		}
		ready := s.ready
		s.mu.Unlock()
		select {
		case <-ready:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		s.mu.Lock()
		err := s.err
		s.mu.Unlock()
		if err != nil && !(first && began) {
			return nil, err
		}
	}
}

// lose has a session made anew unless somebody did.
func (s *Session) lose(c *Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cur == c && !s.closed {
		s.cur = nil
		s.start(c)
	}
}

// start begins recovery. The caller holds mu.
func (s *Session) start(old *Conn) {
	ready := make(chan struct{})
	s.ready, s.old, s.err = ready, old, nil
	s.work.Go(func() {
		c, err := s.recover(old)
		if err != nil {
			s.note(fmt.Errorf("cannot recover the session: %w", err))
		}
		s.mu.Lock()
		if s.err, s.ready = err, nil; !s.closed {
			s.cur = c
		}
		s.mu.Unlock()
		close(ready)
	})
}

// recover makes a session after old and, where the server has lost state, has
// it reclaimed.
func (s *Session) recover(old *Conn) (*Conn, error) {
	var p pause
	lost := false
	for {
		c, fresh, err := s.connect(s.ctx, old)
		if err == nil {
			lost = lost || fresh
			old = c
			if lost {
				err = s.Holder.Reclaim(s.ctx, c, func() error { return s.settle(s.ctx, c) })
			}
			if err == nil {
				return c, nil
			}
		}
		var st compound.Status
		if !errors.As(err, &st) || st.Class() == compound.Final {
			return nil, err
		}
		if err := p.wait(s.ctx); err != nil {
			return nil, ErrClosed
		}
	}
}

// connect makes a session: of old's client id where the server knows that
// still. fresh says that it did not, so that no state is left.
func (s *Session) connect(ctx context.Context, old *Conn) (c *Conn, fresh bool, err error) {
	if s.Minor == 0 {
		c, err = s.setClientID(ctx, old)
		return c, old != nil, err
	}
	if old != nil {
		c = newConn(s, old.client, old.seq)
		switch err = c.create(ctx); {
		case err == nil:
			return c, false, nil
		case !isStatus(err, compound.ErrStaleClientID, compound.ErrExpired, compound.ErrSeqMisordered, compound.ErrClientIDInUse):
			old.seq = c.seq
			return nil, false, err
		}
	}
	c = newConn(s, 0, 0)
	var x compound.Exchanged
	err = c.bare(ctx, func(_ *Conn, q *compound.Request) { q.ExchangeID(s.Verifier, s.Owner) },
		func(r *compound.Reply) (err error) { x, err = r.ExchangeID(); return err })
	if err != nil {
		return nil, false, err
	}
	c.client, c.seq = x.Client, x.Seq
	return c, old == nil || x.Client != old.client || !x.Confirmed, c.create(ctx)
}

// settle says that all is reclaimed and learns how long the lease is.
func (s *Session) settle(ctx context.Context, c *Conn) error {
	if s.Minor > 0 {
		err := c.retry(ctx, func(_ *Conn, q *compound.Request) { q.ReclaimComplete() },
			func(r *compound.Reply) error { return r.Next(compound.OpReclaimComplete) })
		if err != nil && !isStatus(err, compound.ErrCompleteAlready) {
			return err
		}
	}
	return c.retry(ctx, func(_ *Conn, q *compound.Request) {
		q.PutRootFH()
		q.GetAttr(compound.Set(compound.AttrLeaseTime))
	}, func(r *compound.Reply) error {
		if err := r.Next(compound.OpPutRootFH); err != nil {
			return err
		}
		a, err := r.GetAttr()
		if err == nil && a.LeaseTime > 0 {
			s.lease.Store(int64(time.Duration(a.LeaseTime) * time.Second))
		}
		return err
	})
}

// MaxData is how much a READ or WRITE may carry.
func (s *Session) MaxData() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cur == nil {
		return s.MaxIO
	}
	return s.cur.maxData()
}

// Lease is how long state outlives the last call.
func (s *Session) Lease() time.Duration { return time.Duration(s.lease.Load()) }

// renew sends something when nothing was sent for a third of the lease.
func (s *Session) renew() {
	for {
		third := s.Lease() / 3
		t := time.NewTimer(third)
		select {
		case <-t.C:
		case <-s.ctx.Done():
			t.Stop()
			return
		}
		if time.Since(time.Unix(0, s.last.Load())) < third {
			continue
		}
		ctx, cancel := context.WithTimeout(s.ctx, s.Lease())
		err := s.Call(ctx, s.Auth, func(c *Conn, q *compound.Request) {
			if s.Minor == 0 {
				q.Renew(c.client)
			}
		}, func(r *compound.Reply) error {
			if s.Minor == 0 {
				return r.Next(compound.OpRenew)
			}
			return nil
		})
		cancel()
		if err != nil && s.ctx.Err() == nil {
			s.note(fmt.Errorf("cannot renew the lease: %w", err))
		}
	}
}

// heedTime is the least time between two looks at what SEQUENCE's flags tell.
const heedTime = time.Second

// heed acts upon what SEQUENCE's flags say.
func (s *Session) heed(c *Conn, flags uint32) {
	s.last.Store(time.Now().UnixNano())
	if flags&(compound.SeqRevoked|compound.SeqBackchannelLost|compound.SeqRestartReclaimNeeded) == 0 || !s.bad.CompareAndSwap(false, true) {
		return
	}
	s.work.Go(func() {
		// The flags stay until what they tell of is mended: once a second is
		// often enough to try.
		defer func() {
			t := time.NewTimer(heedTime)
			defer t.Stop()
			select {
			case <-t.C:
			case <-s.ctx.Done():
			}
			s.bad.Store(false)
		}()
		if flags&compound.SeqRestartReclaimNeeded != 0 {
			s.lose(c)
			return
		}
		if flags&compound.SeqBackchannelLost != 0 {
			if err := c.bare(s.ctx, c.bindConn, readBind); err != nil && s.ctx.Err() == nil {
				s.note(fmt.Errorf("cannot restore the backchannel: %w", err))
			}
		}
		if flags&compound.SeqRevoked != 0 {
			s.Holder.Revoked(s.ctx)
		}
	})
}

func (s *Session) note(err error) {
	if s.Note != nil {
		s.Note(err)
	}
}

// Close takes leave of the server, where it answers until ctx ends, and waits
// for the session's goroutines.
func (s *Session) Close(ctx context.Context) error {
	s.mu.Lock()
	c := s.cur
	s.cur, s.closed = nil, true
	s.mu.Unlock()
	if c != nil && s.Minor > 0 {
		s.leave(ctx, c)
	}
	s.cancel()
	err := s.client.Close()
	s.work.Wait()
	return err
}

// leave has the server forget the client. Where it does not answer the lease
// will end by itself.
func (s *Session) leave(ctx context.Context, c *Conn) {
	_ = c.bare(ctx, func(_ *Conn, q *compound.Request) { q.DestroySession(c.id) },
		func(r *compound.Reply) error { return r.Next(compound.OpDestroySession) })
	_ = c.bare(ctx, func(_ *Conn, q *compound.Request) { q.DestroyClientID(c.client) },
		func(r *compound.Reply) error { return r.Next(compound.OpDestroyClientID) })
}

func isStatus(err error, any ...compound.Status) bool {
	var st compound.Status
	if !errors.As(err, &st) {
		return false
	}
	for _, a := range any {
		if st == a {
			return true
		}
	}
	return false
}

// pause grows from 50 ms to 5 s.
type pause time.Duration

func (p *pause) wait(ctx context.Context) error {
	*p = min(max(2*(*p), pause(50*time.Millisecond)), pause(5*time.Second))
	t := time.NewTimer(time.Duration(*p))
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
