package nfs4

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/lxbridge/lx/core/fuse"
	"github.com/lxbridge/lx/mount/nfs/nfs4/compound"
	"github.com/lxbridge/lx/mount/nfs/nfs4/session"
	"github.com/lxbridge/lx/mount/volume"
	"github.com/lxbridge/lx/mount/volume/lock"
)

var _ volume.Locker = (*Volume)(nil)

// locks is the byte-range locks of a file. The table says what is held here:
// it settles conflicts and deadlocks between programs of this mount and is what
// is reclaimed; the server has the same locks and settles those between clients.
type locks struct {
	table lock.Table

	lost atomic.Int32 // owners in gone

	mu     sync.Mutex
	owners map[uint64]*sequenced
	gone   map[uint64]bool // owners whose locks the server dropped, until they unlock
	freed  chan struct{}   // closed when a lock may have become free at the server
}

// lockState is an owner's state at the server, beneath one open.
type lockState struct {
	*sequenced // shared by the states of one owner on a file

	stateMu sync.Mutex
	id      compound.StateID // zero before the first lock
}

// state is what is sent to the server; ok where there is any.
func (ls *lockState) state() (id compound.StateID, ok bool) {
	ls.stateMu.Lock()
	defer ls.stateMu.Unlock()
	ok = ls.id != (compound.StateID{})
	if id = ls.id; ls.minor > 0 {
		id.Seq = 0
	}
	return id, ok
}

func (ls *lockState) set(id compound.StateID) {
	ls.stateMu.Lock()
	defer ls.stateMu.Unlock()
	ls.id = id
}

// owner is what the server knows a lock owner as: one for all files in 4.1,
// and in 4.0, which numbers its calls, one for each.
func (f *file) owner(id uint64) *sequenced {
	l := &f.locks
	l.mu.Lock()
	defer l.mu.Unlock()
	o := l.owners[id]
	if o == nil {
		if o = f.v.newOwner(); f.v.cfg.Minor > 0 {
			o.id = id
		}
		if l.owners == nil {
			l.owners = map[uint64]*sequenced{}
		}
		l.owners[id] = o
	}
	return o
}

func lockType(typ uint32, wait bool) uint32 {
	t := uint32(compound.LockRead)
	if typ == syscall.F_WRLCK {
		t = compound.LockWrite
	}
	if wait {
		t += compound.LockReadWait - compound.LockRead
	}
	return t
}

func extent(lk fuse.Lk) (off, n uint64) {
	if lk.End >= lock.EOF {
		return lk.Start, math.MaxUint64
	}
	return lk.Start, lk.End - lk.Start + 1
}

// Getlk implements volume.Locker.
func (v *Volume) Getlk(ctx context.Context, vh volume.Handle, owner uint64, lk fuse.Lk) (fuse.Lk, error) {
	h := vh.(*handle)
	v = h.file.v
	out, err := h.file.locks.table.Get(owner, lk)
	if err != nil || out.Type != syscall.F_UNLCK {
		return out, fail("look for a lock", "", err)
	}
	var d compound.Denied
	var taken bool
	off, n := extent(lk)
	id, _ := h.file.owner(owner).next()
	err = v.session.Call(ctx, h.auth, func(c *session.Conn, q *compound.Request) {
		q.PutFH(h.file.fh)
		q.LockT(lockType(lk.Type, false), off, n, compound.LockOwner{Client: c.Client(), ID: id})
	}, func(r *compound.Reply) (err error) {
		if err = r.Next(compound.OpPutFH); err == nil {
			d, taken, err = r.LockT()
		}
		return err
	})
	if err == nil && taken {
		out = fuse.Lk{Start: d.Off, End: lock.EOF, Type: syscall.F_RDLCK}
		if d.Type == compound.LockWrite || d.Type == compound.LockWriteWait {
			out.Type = syscall.F_WRLCK
		}
		if d.Len != math.MaxUint64 && d.Len > 0 && d.Off <= lock.EOF-d.Len {
			out.End = d.Off + d.Len - 1
		}
	}
	return out, fail("look for a lock", "", err)
}

// Setlk implements volume.Locker.
func (v *Volume) Setlk(ctx context.Context, vh volume.Handle, owner uint64, lk fuse.Lk, wait bool) error {
	h := vh.(*handle)
	if lk.Type == syscall.F_UNLCK {
		return fail("unlock", "", h.file.unlock(ctx, owner, lk))
	}
	if err := h.check(); err != nil {
		return fail("lock", "", err)
	}
	t := &h.file.locks.table
	before := t.Held(owner)
	if err := t.Set(ctx, owner, lk, wait); err != nil {
		return fail("lock", "", err)
	}
	settled := make(chan struct{})
	defer close(settled)
	err := h.lock(ctx, owner, lk, wait, func() { <-settled; h.agree(owner, lk) })
	if err != nil {
		h.file.locks.restore(owner, lk, before)
	}
	return fail("lock", "", err)
}

// agree brings the server's locks of owner in lk's range to what the table has:
// the server has granted a lock that nobody waited for any more. The owner may
// have held some of it before, or have called again since.
func (h *handle) agree(owner uint64, lk fuse.Lk) {
	ls := h.lockState(owner, false)
	if ls == nil || ls.begin(h.file.v.ctx) != nil {
		return
	}
	defer ls.end()
	for _, lk := range lock.Undo(h.file.locks.table.Held(owner), lk) {
		var err error
		if lk.Type == syscall.F_UNLCK {
			err = h.unlockNext(h.file.v.ctx, ls, lk, false)
		} else {
			err = h.lockNext(h.file.v.ctx, ls, lk, false)
		}
		if err != nil && h.file.v.ctx.Err() == nil {
			h.file.v.cfg.Note(fmt.Errorf("cannot undo a lock that was given up: %w", err))
		}
	}
}

// restore undoes a lock in the table: what the server said counts.
func (l *locks) restore(owner uint64, lk fuse.Lk, before []fuse.Lk) {
	lk.Type = syscall.F_UNLCK
	ctx := context.Background()
	_ = l.table.Set(ctx, owner, lk, false) // unlocking does not fail
	for _, old := range before {
		_ = l.table.Set(ctx, owner, old, false)
	}
}

// Polls for a lock that another client holds begin after firstPoll and are at
// most lastPoll apart.
const (
	firstPoll = 20 * time.Millisecond
	lastPoll  = time.Second
)

// lock gets a lock from the server. undo is run if that grants it after all
// when ctx has ended.
func (h *handle) lock(ctx context.Context, owner uint64, lk fuse.Lk, wait bool, undo func()) error {
	l := &h.file.locks
	for pause := firstPoll; ; pause = min(2*pause, lastPoll) {
		freed := l.wake()
		err := h.file.v.finish(ctx, func(ctx context.Context) error { return h.tryLock(ctx, owner, lk, wait) }, undo)
		if !wait || !is(err, compound.ErrDenied) && !is(err, compound.ErrLocked) {
			return err
		}
		t := time.NewTimer(pause)
		select {
		case <-t.C:
		case <-freed:
			t.Stop()
		case <-ctx.Done():
			t.Stop()
			return ctx.Err()
		}
	}
}

// wake is closed by free.
func (l *locks) wake() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.freed == nil {
		l.freed = make(chan struct{})
	}
	return l.freed
}

func (l *locks) free() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.freed != nil {
		close(l.freed)
		l.freed = nil
	}
}

// lockState is the state of owner beneath h; nil where there is none, unless made.
func (h *handle) lockState(owner uint64, made bool) *lockState {
	h.mu.Lock()
	defer h.mu.Unlock()
	ls := h.locks[owner]
	if ls == nil && made {
		if h.locks == nil {
			h.locks = map[uint64]*lockState{}
		}
		ls = &lockState{sequenced: h.file.owner(owner)}
		h.locks[owner] = ls
	}
	return ls
}

func (h *handle) tryLock(ctx context.Context, owner uint64, lk fuse.Lk, wait bool) error {
	ls := h.lockState(owner, true)
	if err := ls.begin(ctx); err != nil {
		return err
	}
	defer ls.end()
	return h.lockNext(ctx, ls, lk, wait)
}

// lockNext asks the server for a lock. The caller has the turn of ls.
func (h *handle) lockNext(ctx context.Context, ls *lockState, lk fuse.Lk, wait bool) error {
	if err := h.owner.begin(ctx); err != nil {
		return err
	}
	defer h.owner.end()
	return h.do(ctx, func(c *session.Conn, q *compound.Request, id compound.StateID) {
		q.PutFH(h.file.fh)
		h.putLock(c, q, id, ls, lk, false, wait)
	}, h.readLock(ls))
}

func (h *handle) putLock(c *session.Conn, q *compound.Request, open compound.StateID, ls *lockState, lk fuse.Lk, reclaim, wait bool) {
	off, n := extent(lk)
	typ := lockType(lk.Type, wait)
	owner, seq := ls.next()
	if id, ok := ls.state(); ok {
		q.LockMore(typ, reclaim, off, n, id, seq)
		return
	}
	_, openSeq := h.owner.next()
	q.LockNew(typ, reclaim, off, n, openSeq, open, seq, compound.LockOwner{Client: c.Client(), ID: owner})
}

func (h *handle) readLock(ls *lockState) func(*compound.Reply) error {
	return func(r *compound.Reply) error {
		if err := r.Next(compound.OpPutFH); err != nil {
			return err
		}
		id, _, err := r.Lock()
		if _, ok := ls.state(); !ok {
			h.owner.answered(err)
		}
		ls.answered(err)
		if err == nil {
			ls.set(id)
		}
		return err
	}
}

// unlock gives back what owner holds of a range, through whichever open it got it.
func (f *file) unlock(ctx context.Context, owner uint64, lk fuse.Lk) error {
	f.v.mu.Lock()
	var through []*handle
	for h := range f.handles {
		if h.lockState(owner, false) != nil {
			through = append(through, h)
		}
	}
	f.v.mu.Unlock()
	whole := lk.Start == 0 && lk.End >= lock.EOF
	var errs []error
	for _, h := range through {
		errs = append(errs, h.unlock(ctx, owner, lk, whole))
	}
	l := &f.locks
	l.mu.Lock()
	if l.gone[owner] {
		delete(l.gone, owner)
		l.lost.Add(-1)
	}
	l.mu.Unlock()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	err := l.table.Set(ctx, owner, lk, false)
	l.free()
	return err
}

// unlock unlocks at the server; with forget the owner's state goes as well.
// It is not given up when the caller is.
func (h *handle) unlock(ctx context.Context, owner uint64, lk fuse.Lk, forget bool) error {
	ls := h.lockState(owner, false)
	if ls == nil {
		return nil
	}
	v := h.file.v
	err := v.persist(ctx, func(ctx context.Context) error {
		if err := ls.begin(ctx); err != nil {
			return err
		}
		defer ls.end()
		return h.unlockNext(ctx, ls, lk, forget)
	}, func() {})
	if forget && err == nil {
		h.mu.Lock()
		delete(h.locks, owner)
		h.mu.Unlock()
		err = h.file.release(ctx, h, owner)
	}
	return err
}

// unlockNext unlocks at the server. The caller has the turn of ls.
func (h *handle) unlockNext(ctx context.Context, ls *lockState, lk fuse.Lk, forget bool) error {
	v := h.file.v
	if _, ok := ls.state(); !ok {
		return nil
	}
	off, n := extent(lk)
	err := v.session.Call(ctx, h.auth, func(_ *session.Conn, q *compound.Request) {
		q.PutFH(h.file.fh)
		id, _ := ls.state()
		_, seq := ls.next()
		q.LockU(compound.LockWrite, seq, id, off, n)
		if forget && v.cfg.Minor > 0 {
			q.FreeStateID(id)
		}
	}, func(r *compound.Reply) error {
		if err := r.Next(compound.OpPutFH); err != nil {
			return err
		}
		id, err := r.State(compound.OpLockU)
		ls.answered(err)
		if err != nil {
			return err
		}
		if forget && v.cfg.Minor > 0 && r.Next(compound.OpFreeStateID) == nil {
			id = compound.StateID{}
		}
		ls.set(id)
		return nil
	})
	var st compound.Status
	if errors.As(err, &st) && st.Class() == compound.State {
		ls.set(compound.StateID{}) // there is nothing to give back
		err = nil
	}
	return err
}

// release forgets a lock owner that holds nothing any more.
func (f *file) release(ctx context.Context, h *handle, owner uint64) error {
	l := &f.locks
	l.mu.Lock()
	o := l.owners[owner]
	delete(l.owners, owner)
	l.mu.Unlock()
	if o == nil || f.v.cfg.Minor > 0 {
		return nil
	}
	id, _ := o.next()
	err := f.v.session.Call(ctx, h.auth, func(c *session.Conn, q *compound.Request) {
		q.ReleaseLockOwner(compound.LockOwner{Client: c.Client(), ID: id})
	}, func(r *compound.Reply) error { return r.Next(compound.OpReleaseLockOwner) })
	var st compound.Status
	if errors.As(err, &st) {
		return nil // it still has state beneath another open, which is closed in time
	}
	return err
}

// unlockAll gives back what was locked through h, which is being closed.
func (h *handle) unlockAll(ctx context.Context) error {
	h.mu.Lock()
	var owners []uint64
	for o := range h.locks {
		owners = append(owners, o)
	}
	h.mu.Unlock()
	var errs []error
	for _, o := range owners {
		errs = append(errs, h.file.unlock(ctx, o, fuse.Lk{End: lock.EOF, Type: syscall.F_UNLCK}))
	}
	return errors.Join(errs...)
}

// loseLocks notes that the server dropped the locks that were had through h.
func (h *handle) loseLocks() {
	h.mu.Lock()
	owners := h.locks
	h.locks = nil
	h.mu.Unlock()
	for o := range owners {
		h.file.locks.lose(o)
	}
}

func (l *locks) lose(owner uint64) {
	if len(l.table.Held(owner)) == 0 {
		return
	}
	l.table.ReleaseOwner(owner)
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.gone[owner] {
		if l.gone == nil {
			l.gone = map[uint64]bool{}
		}
		l.gone[owner] = true
		l.lost.Add(1)
	}
}

// reclaimLocks claims what is held through h as from before the server's restart.
func (h *handle) reclaimLocks(ctx context.Context, c *session.Conn) error {
	h.mu.Lock()
	states := maps.Clone(h.locks)
	h.mu.Unlock()
	for owner, ls := range states {
		ls.set(compound.StateID{})
		if h.file.v.cfg.Minor == 0 {
			ls.rename(h.file.v.owners.Add(1))
		}
		for _, lk := range h.file.locks.table.Held(owner) {
			err := c.Patient(ctx, h.auth, func(c *session.Conn, q *compound.Request) {
				q.PutFH(h.file.fh)
				h.putLock(c, q, h.now(), ls, lk, true, false)
			}, h.readLock(ls))
			var st compound.Status
			switch {
			case err == nil:
			case errors.As(err, &st) && st.Class() != compound.Session:
				h.file.locks.lose(owner)
				h.file.v.cfg.Note(fmt.Errorf("a lock is lost: %w", err))
			default:
				return err
			}
		}
	}
	return nil
}

// testLocks looks which lock states the server has taken.
func (h *handle) testLocks(ctx context.Context) {
	h.mu.Lock()
	states := maps.Clone(h.locks)
	h.mu.Unlock()
	for owner, ls := range states {
		id, ok := ls.state()
		if !ok || !h.file.v.bad(ctx, h.auth, id) {
			continue
		}
		h.mu.Lock()
		delete(h.locks, owner)
		h.mu.Unlock()
		h.file.locks.lose(owner)
	}
}
