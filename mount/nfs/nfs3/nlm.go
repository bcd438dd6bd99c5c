package nfs3

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/lxbridge/lx/core/fuse"
	"github.com/lxbridge/lx/mount/nfs/rpc"
	"github.com/lxbridge/lx/mount/nfs/xdr"
	"github.com/lxbridge/lx/mount/volume"
	"github.com/lxbridge/lx/mount/volume/lock"
)

// The network lock manager, version 4 (RFC 1813 appendix II, X/Open XNFS).
const (
	nlmProgram = 100021
	nlmVersion = 4

	nlmTest   = 1
	nlmLock   = 2
	nlmUnlock = 4

	nlmMaxObject = 1024
)

// nlmStat is the answer to a call (nlm4_stats).
type nlmStat uint32

const (
	nlmGranted  nlmStat = 0
	nlmDenied   nlmStat = 1
	nlmNoLocks  nlmStat = 2
	nlmBlocked  nlmStat = 3
	nlmGrace    nlmStat = 4
	nlmDeadlock nlmStat = 5
	nlmReadOnly nlmStat = 6
	nlmStale    nlmStat = 7
	nlmTooBig   nlmStat = 8
)

func (s nlmStat) errno() syscall.Errno {
	switch s {
	case nlmDenied, nlmBlocked:
		return syscall.EAGAIN
	case nlmDeadlock:
		return syscall.EDEADLK
	case nlmReadOnly:
		return syscall.EROFS
	case nlmStale:
		return syscall.ESTALE
	case nlmTooBig:
		return syscall.EFBIG
	}
	return syscall.ENOLCK
}

func (s nlmStat) Error() string {
	if s == nlmGrace {
		return "the lock manager was restarted and takes no new locks yet"
	}
	if s == nlmNoLocks {
		return "the lock manager has no room for locks"
	}
	return s.errno().Error()
}

func (s nlmStat) Unwrap() error { return s.errno() }

// errLockLost is what I/O on a file answers whose lock could not be had again
// after the server was restarted, until it is unlocked or closed by its owner.
var errLockLost = fmt.Errorf("a lock was lost when the server was restarted: %w", syscall.EIO)

const (
	// Waits between polls for a lock that another holds. The server cannot
	// call back: nothing of ours listens.
	firstPoll = 20 * time.Millisecond
	lastPoll  = time.Second
)

// locks is what this mount has locked. The server forgets it when it restarts,
// which shows in the verifier of COMMIT: then it is locked again. statd is not
// ours, so nobody else tells.
type locks struct {
	v     *Volume
	state int32 // what a status monitor would count

	dialing sync.Mutex // one looks for the lock manager at a time

	mu        sync.Mutex // guards what follows
	client    *rpc.Client
	held      map[*node][]held
	calling   map[ownerOf]*calling
	broken    map[*node]bool // files with a lock that was lost
	verifier  [8]byte        // the server's when the first lock was had
	checking  bool
	unchecked bool // a connection was lost since checking began
}

// held is a lock that an owner has, by an open file.
type held struct {
	owner uint64
	by    *handle
	fuse.Lk
}

func newLocks(v *Volume) *locks {
	return &locks{v: v, state: 1, held: map[*node][]held{}, calling: map[ownerOf]*calling{}, broken: map[*node]bool{}}
}

func (l *locks) close() {
	l.mu.Lock()
	c := l.client
	l.mu.Unlock()
	if c != nil {
		_ = c.Close() // it is always nil; calls have their own errors
	}
}

// manager is the client of the lock manager, which is looked for when first needed.
func (l *locks) manager(ctx context.Context) (*rpc.Client, error) {
	l.dialing.Lock()
	defer l.dialing.Unlock()
	l.mu.Lock()
	c := l.client
	l.mu.Unlock()
	if c != nil {
		return c, nil
	}
	v := l.v
	network := "tcp" + v.cfg.Calls.Network[3:]
	port, err := v.port(ctx, v.cfg.Host, network, nlmProgram, nlmVersion)
	if err != nil {
		if errors.Is(err, errNotRegistered) {
			err = fmt.Errorf("the server has no lock manager (mount with nolock for locks of this mount alone): %w", syscall.ENOLCK)
		}
		return nil, err
	}
	cfg := v.calls(v.cfg.Host, network, port, nlmProgram, nlmVersion)
	cfg.Conns, cfg.TLS = 1, nil
	cfg.Lost = func(*rpc.Conn, error) { v.disconnected() }
	if c, err = rpc.Dial(ctx, cfg); err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if v.shut.Load() {
		return nil, errors.Join(rpc.ErrClosed, c.Close())
	}
	l.client = c
	return c, nil
}

// call makes one call about a lock and answers its status, with the results
// left to be read by then, which may be nil.
func (l *locks) call(ctx context.Context, proc uint32, n *node, h held, reclaim bool, then func(*xdr.Decoder) error) (nlmStat, error) {
	c, err := l.manager(ctx)
	if err != nil {
		return 0, err
	}
	call := c.NewCall(proc, h.by.auth)
	defer call.Free()
	call.Again = true
	e := &call.Args
	e.Opaque(nil) // cookie
	if proc == nlmLock {
		e.Bool(false) // block
	}
	if proc != nlmUnlock {
		e.Bool(h.Type == syscall.F_WRLCK)
	}
	e.String(l.v.cfg.Machine)
	e.String(n.handle)
	owner := e.Hold()
	e.Uint64(h.owner)
	e.String(l.v.cfg.Machine)
	e.Set(owner, uint32(e.Since(owner)))
	e.Int32(int32(uint32(h.owner) ^ uint32(h.owner>>32))) // svid: some servers look at it alone
	e.Uint64(h.Start)
	length := uint64(0) // to the end of the file
	if h.End < lock.EOF {
		length = h.End - h.Start + 1
	}
	e.Uint64(length)
	if proc == nlmLock {
		e.Bool(reclaim)
		e.Int32(l.state)
	}
	if err := c.Do(ctx, call); err != nil {
		return 0, err
	}
	d := &call.Results
	d.Opaque(nlmMaxObject)
	s := nlmStat(d.Uint32())
	if d.Err() == nil && then != nil {
		err = then(d)
	}
	return s, errors.Join(err, d.Err())
}

// Getlk implements volume.Locker.
func (v locking) Getlk(ctx context.Context, h volume.Handle, owner uint64, lk fuse.Lk) (fuse.Lk, error) {
	f := h.(*handle)
	var other fuse.Lk
	var s nlmStat
	var err error
	wait := firstPoll
	for {
		s, err = v.locks.call(ctx, nlmTest, f.n, held{owner, f, lk}, false, func(d *xdr.Decoder) error {
			other = holder(d)
			return nil
		})
		if err == nil && s == nlmGrace && pause(ctx, &wait) == nil {
			continue
		}
		break
	}
	switch {
	case err != nil:
	case s == nlmGranted:
		lk.Type = syscall.F_UNLCK
		return lk, nil
	case s == nlmDenied:
		return other, nil
	default:
		err = s
	}
	return lk, v.failure("test a lock", "", err)
}

// holder reads nlm4_holder, which a denial has.
func holder(d *xdr.Decoder) fuse.Lk {
	if d.Remaining() == 0 {
		return fuse.Lk{}
	}
	lk := fuse.Lk{Type: syscall.F_RDLCK}
	if d.Bool() {
		lk.Type = syscall.F_WRLCK
	}
	d.Uint32() // svid: a process of another machine's
	d.Opaque(nlmMaxObject)
	lk.Start = d.Uint64()
	length := d.Uint64()
	lk.End = lock.EOF
	if length > 0 && length <= math.MaxInt64-lk.Start && lk.Start <= math.MaxInt64 {
		lk.End = lk.Start + length - 1
	}
	return lk
}

// pause waits before the next poll, which is then further off.
func pause(ctx context.Context, wait *time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(*wait):
	}
	*wait = min(2**wait, lastPoll)
	return nil
}

// Setlk implements volume.Locker.
func (v locking) Setlk(ctx context.Context, h volume.Handle, owner uint64, lk fuse.Lk, wait bool) error {
	f := h.(*handle)
	err := v.locks.set(ctx, f.n, held{owner, f, lk}, wait)
	return v.failure("lock", "", err)
}

func (l *locks) set(ctx context.Context, n *node, h held, wait bool) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if h.Type != syscall.F_UNLCK {
		return l.poll(ctx, n, h, wait)
	}
	// An unlock that its owner does not wait for is made all the same.
	if l.v.shut.Load() {
		return rpc.ErrClosed
	}
	done := make(chan error, 1)
	l.v.wg.Go(func() { done <- l.poll(l.v.ctx, n, h, false) })
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// poll tries until the server answers for good.
func (l *locks) poll(ctx context.Context, n *node, h held, wait bool) error {
	pollWait := firstPoll
	for {
		s, err := l.try(ctx, n, h)
		switch {
		case err != nil:
			return err
		case s == nlmGranted:
			return nil
		case s == nlmGrace, wait && (s == nlmDenied || s == nlmBlocked):
			if err := pause(ctx, &pollWait); err != nil {
				return err
			}
		default:
			return s
		}
	}
}

// try makes one attempt. The call itself is not cancelled, for nobody would
// know whether the lock was had: where its owner goes, it is undone.
func (l *locks) try(ctx context.Context, n *node, h held) (nlmStat, error) {
	type answer struct {
		s   nlmStat
		err error
	}
	if l.v.shut.Load() {
		return 0, rpc.ErrClosed
	}
	proc := uint32(nlmLock)
	if h.Type == syscall.F_UNLCK {
		proc = nlmUnlock
	}
	done, gone := make(chan answer), make(chan struct{})
	l.v.wg.Go(func() {
		defer l.begin(n, h.owner)()
		before := l.of(n, h.owner)
		s, err := l.call(l.v.ctx, proc, n, h, false, nil)
		if err == nil && s == nlmGranted {
			err = l.granted(n, h)
		}
		select {
		case done <- answer{s, err}:
		case <-gone:
			if err == nil && s == nlmGranted && proc == nlmLock {
				l.undo(n, h, before)
			}
		}
	})
	select {
	case a := <-done:
		return a.s, a.err
	case <-ctx.Done():
		close(gone)
		return 0, ctx.Err()
	}
}

// undo gives up a lock that nobody waits for any more, for what its owner had
// before it.
func (l *locks) undo(n *node, h held, before []fuse.Lk) {
	for _, lk := range lock.Undo(before, h.Lk) {
		proc := uint32(nlmUnlock)
		if lk.Type != syscall.F_UNLCK {
			proc = nlmLock
		}
		part := held{h.owner, h.by, lk}
		s, err := l.call(l.v.ctx, proc, n, part, false, nil)
		switch {
		case err == nil && s == nlmGranted:
			err = l.granted(n, part)
		case err == nil:
			err = s
		}
		if err != nil && l.v.ctx.Err() == nil {
			l.v.cfg.Note(fmt.Errorf("cannot give up a lock: %w", err))
		}
	}
}

// calling is a turn to call for a lock owner.
type calling struct {
	turn  sync.Mutex
	users int // who has it or waits; locks.mu guards it
}

type ownerOf struct {
	n     *node
	owner uint64
}

// begin waits until nobody else calls for an owner, so that what is undone is
// not what it has asked for since; end lets the next one.
func (l *locks) begin(n *node, owner uint64) (end func()) {
	key := ownerOf{n, owner}
	l.mu.Lock()
	c := l.calling[key]
	if c == nil {
		c = &calling{}
		l.calling[key] = c
	}
	c.users++
	l.mu.Unlock()
	c.turn.Lock()
	return func() {
		c.turn.Unlock()
		l.mu.Lock()
		defer l.mu.Unlock()
		if c.users--; c.users == 0 {
			delete(l.calling, key)
		}
	}
}

// of is what an owner holds, by start.
func (l *locks) of(n *node, owner uint64) (lks []fuse.Lk) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, h := range l.held[n] {
		if h.owner == owner {
			lks = append(lks, h.Lk)
		}
	}
	slices.SortFunc(lks, func(a, b fuse.Lk) int { return cmp.Compare(a.Start, b.Start) })
	return lks
}

// granted notes what an owner has now. With the first lock of all it learns
// the server's verifier.
func (l *locks) granted(n *node, h held) error {
	l.mu.Lock()
	first := len(l.held) == 0 && h.Type != syscall.F_UNLCK
	l.held[n] = overlay(l.held[n], h)
	if len(l.held[n]) == 0 {
		delete(l.held, n)
		delete(l.broken, n)
	}
	l.mu.Unlock()
	if !first {
		return nil
	}
	verifier, err := l.v.commitCall(l.v.ctx, n, h.by.auth)
	if err != nil {
		return nil // reclaiming then believes that the server was restarted
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.verifier = verifier
	return nil
}

// overlay is what is held once h is had: of its owner's other locks those
// parts go that it covers.
func overlay(all []held, h held) []held {
	var rest []held
	for _, o := range all {
		if o.owner != h.owner || o.End < h.Start || o.Start > h.End {
			rest = append(rest, o)
			continue
		}
		if o.Start < h.Start {
			left := o
			left.End = h.Start - 1
			rest = append(rest, left)
		}
		if o.End > h.End {
			right := o
			right.Start = h.End + 1
			rest = append(rest, right)
		}
	}
	if h.Type != syscall.F_UNLCK {
		rest = append(rest, h)
	}
	return rest
}

// release gives up what was locked through an open file that is closed.
func (l *locks) release(ctx context.Context, h *handle) error {
	l.mu.Lock()
	owners := map[uint64]bool{}
	for _, o := range l.held[h.n] {
		if o.by == h {
			owners[o.owner] = true
		}
	}
	l.mu.Unlock()
	var err error
	for owner := range owners {
		err = errors.Join(err, l.set(ctx, h.n, held{owner, h, fuse.Lk{Type: syscall.F_UNLCK, End: lock.EOF}}, false))
	}
	return err
}

// lost says that a lock on n was lost, and not given up since.
func (l *locks) lost(n *node) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.broken) > 0 && l.broken[n]
}

// disconnected is told that a connection was lost: perhaps the server was
// restarted and has forgotten our locks.
func (v *Volume) disconnected() {
	l := v.locks
	if l == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.held) == 0 || v.shut.Load() {
		return
	}
	if l.unchecked = true; l.checking {
		return
	}
	l.checking = true
	v.wg.Go(l.check)
}

// check waits for the server and, if it was restarted, locks again.
func (l *locks) check() {
	for {
		l.mu.Lock()
		var n *node
		var auth rpc.Auth
		for at, hs := range l.held {
			n, auth = at, hs[0].by.auth
			break
		}
		if n == nil || !l.unchecked || l.v.ctx.Err() != nil {
			l.checking = false
			l.mu.Unlock()
			return
		}
		l.unchecked = false
		known := l.verifier
		l.mu.Unlock()

		verifier, err := l.v.commitCall(l.v.ctx, n, auth)
		for wait := firstPoll; err != nil && l.v.ctx.Err() == nil && !errors.Is(err, syscall.ESTALE); {
			if pause(l.v.ctx, &wait) == nil {
				verifier, err = l.v.commitCall(l.v.ctx, n, auth)
			}
		}
		if l.v.ctx.Err() != nil || err == nil && verifier == known {
			continue
		}
		l.reclaim()
		l.mu.Lock()
		l.verifier = verifier
		l.mu.Unlock()
	}
}

// reclaim locks again all that was held, as is allowed for a while after a
// server's restart.
func (l *locks) reclaim() {
	l.mu.Lock()
	l.state += 2 // odd while up (XNFS, SM_NOTIFY)
	held := make(map[*node][]held, len(l.held))
	for n, hs := range l.held {
		held[n] = slices.Clone(hs)
	}
	l.mu.Unlock()
	for n, hs := range held {
		for _, h := range hs {
			s, err := l.call(l.v.ctx, nlmLock, n, h, true, nil)
			if err == nil && s == nlmGranted {
				continue
			}
			if err == nil {
				err = s
			}
			if l.v.ctx.Err() != nil {
				return
			}
			l.mu.Lock()
			l.broken[n] = true
			l.mu.Unlock()
			l.v.cfg.Note(fmt.Errorf("a lock was lost when the server was restarted: %w", err))
		}
	}
}
