package session

import (
	"context"
	"sync"
	"time"

	"github.com/lxbridge/lx/mount/nfs/nfs4/compound"
	"github.com/lxbridge/lx/mount/nfs/rpc"
	"github.com/lxbridge/lx/mount/nfs/xdr"
)

// Conn is one session, from its creation to its loss; for 4.0 one client id.
type Conn struct {
	s      *Session
	id     compound.SessionID
	client uint64
	seq    uint32 // of the next CREATE_SESSION
	fore   compound.Channel

	free chan *slot // those that may be used

	mu     sync.Mutex
	target uint32  // the highest slot that the server wants used
	parked []*slot // those above it
}

// slot carries one call at a time, numbered in order: the server remembers the
// answer to the last, so that a call that is sent twice is done once.
type slot struct {
	id, seq uint32
}

func newConn(s *Session, client uint64, seq uint32) *Conn {
	return &Conn{s: s, client: client, seq: seq}
}

// overhead is what a READ or WRITE compound has beside its data.
const overhead = 2048

// create makes the session, in both directions over this connection.
func (c *Conn) create(ctx context.Context) error {
	io := uint32(c.s.MaxIO + overhead)
	fore := compound.Channel{MaxRequest: io, MaxResponse: io, MaxCached: 8 << 10, MaxOps: 16, MaxRequests: uint32(c.s.Slots)}
	back := compound.Channel{MaxRequest: 4096, MaxResponse: 4096, MaxCached: 4096, MaxOps: 8, MaxRequests: backSlots}
	var made compound.Created
	err := c.bare(ctx, func(_ *Conn, q *compound.Request) {
		q.CreateSession(c.client, c.seq, compound.CreateSessionBackchannel, fore, back)
	}, func(r *compound.Reply) (err error) { made, err = r.CreateSession(); return err })
	if err != nil {
		return err
	}
	c.seq++
	c.id, c.fore = made.ID, made.Fore
	n := max(1, min(made.Fore.MaxRequests, uint32(c.s.Slots)))
	c.free, c.target = make(chan *slot, n), n-1
	for i := range n {
		c.free <- &slot{id: i, seq: 1}
	}
	c.s.back.reset(made.ID)
	return nil
}

// maxData is how much a READ or WRITE may carry in this session.
func (c *Conn) maxData() int {
	if c.s.Minor == 0 {
		return c.s.MaxIO
	}
	return max(4096, int(min(c.fore.MaxRequest, c.fore.MaxResponse))-overhead)
}

func (c *Conn) bindConn(_ *Conn, q *compound.Request) { q.BindConn(c.id) }

func readBind(r *compound.Reply) error {
	_, err := r.BindConn()
	return err
}

// bare sends a compound that stands outside of a session.
func (c *Conn) bare(ctx context.Context, build Build, read Read) error {
	return c.send(ctx, c.s.client.Do, c.s.Auth, false, build, read)
}

// retry repeats Call with the machine's credential while the server asks for time.
func (c *Conn) retry(ctx context.Context, build Build, read Read) error {
	return c.Patient(ctx, c.s.Auth, build, read)
}

// Patient is Call, again while the server asks for time.
func (c *Conn) Patient(ctx context.Context, auth rpc.Auth, build Build, read Read) error {
	var p pause
	for {
		err := c.call(ctx, auth, false, build, read)
		if !isStatus(err, compound.ErrDelay, compound.ErrGrace) {
			return err
		}
		if err := p.wait(ctx); err != nil {
			return err
		}
	}
}

// call sends one compound in a slot.
func (c *Conn) call(ctx context.Context, auth rpc.Auth, into bool, build Build, read Read) error {
	if c.s.Minor == 0 {
		return c.send(ctx, c.s.client.Do, auth, into, build, func(r *compound.Reply) error {
			c.s.last.Store(time.Now().UnixNano())
			return read(r)
		})
	}
	var sl *slot
	select {
	case sl = <-c.free:
	case <-ctx.Done():
		return ctx.Err()
	}
	// read may run again, where a connection was lost in the middle of an answer.
	answered, unsent, next := false, false, sl.seq+1
	err := c.send(ctx, c.s.client.Do, auth, into, func(_ *Conn, q *compound.Request) {
		q.Sequence(c.sequence(sl))
		build(c, q)
		unsent = q.Err != nil
	}, func(r *compound.Reply) error {
		got, err := r.Sequence()
		if err != nil {
			answered = r.Err() == nil
			return lostLease(err)
		}
		answered, sl.seq = true, next
		c.aim(got.Target)
		c.s.heed(c, got.Flags)
		return read(r)
	})
	if answered || unsent {
		c.release(sl)
	} else {
		c.s.work.Go(func() { c.resync(sl) })
	}
	return err
}

// lostLease is what SEQUENCE answered; that the whole client's lease has expired,
// as ganesha says instead of DEADSESSION, means that the session has gone with it.
func lostLease(err error) error {
	if isStatus(err, compound.ErrExpired) {
		return compound.ErrDeadSession
	}
	return err
}

func (c *Conn) sequence(sl *slot) compound.Sequence {
	return compound.Sequence{ID: c.id, Seq: sl.seq, Slot: sl.id, Highest: uint32(cap(c.free)) - 1}
}

// resync learns what became of a slot whose answer was not waited for, by the
// same number once more.
func (c *Conn) resync(sl *slot) {
	var p pause
	for {
		err := c.send(c.s.ctx, c.s.client.Do, c.s.Auth, false, func(_ *Conn, q *compound.Request) { q.Sequence(c.sequence(sl)) },
			func(r *compound.Reply) error { _, err := r.Sequence(); return err })
		switch {
		case err == nil, isStatus(err, compound.ErrSeqFalseRetry, compound.ErrRetryUncached):
			sl.seq++
			c.release(sl)
			return
		case !isStatus(err, compound.ErrDelay):
			c.s.lose(c)
			return
		}
		if p.wait(c.s.ctx) != nil {
			return
		}
	}
}

// aim notes how many slots the server wants used.
func (c *Conn) aim(target uint32) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.target == target {
		return
	}
	c.target = target
	keep := c.parked[:0]
	for _, sl := range c.parked {
		if sl.id <= target {
			c.free <- sl
		} else {
			keep = append(keep, sl)
		}
	}
	c.parked = keep
}

func (c *Conn) release(sl *slot) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if sl.id > c.target {
		c.parked = append(c.parked, sl)
		return
	}
	c.free <- sl
}

// decoder reads results, by Call.Into while they arrive.
type decoder struct{ read Read }

// DecodeResults implements rpc.Decoder.
func (f decoder) DecodeResults(d *xdr.Decoder) error {
	var r compound.Reply
	if err := r.Begin(d); err != nil {
		return err
	}
	return f.read(&r)
}

// send is one call on the wire. A call in a slot, or one that makes or ends a
// session, may reach the server twice.
func (c *Conn) send(ctx context.Context, do func(context.Context, *rpc.Call) error, auth rpc.Auth, into bool, build Build, read Read) error {
	call := c.s.client.NewCall(compound.ProcCompound, auth)
	defer call.Free()
	call.Again = true
	var q compound.Request
	q.Begin(&call.Args, c.s.Minor)
	build(c, &q)
	if q.Err != nil {
		return q.Err
	}
	if into {
		call.Into = decoder{read}
		return do(ctx, call)
	}
	if err := do(ctx, call); err != nil {
		return err
	}
	return decoder{read}.DecodeResults(&call.Results)
}
