// Package lock keeps advisory locks as the Linux kernel does (fcntl(2),
// flock(2), fs/locks.c): for volumes that serve locks themselves, and for the
// layer above those that do not.
package lock

import (
	"context"
	"math"
	"slices"
	"sync"
	"syscall"

	"github.com/lxbridge/lx/core/fuse"
)

// EOF is the End of a lock that reaches to the end of the file, however far it
// grows (OFFSET_MAX).
const EOF = math.MaxInt64

// Table is the locks on one file. The zero Table has none and is ready. The
// locks of fcntl(2) and those of flock(2) do not see each other: a file has a
// Table for each. All methods are safe for concurrent use.
type Table struct {
	// Waiters, shared by the tables of a file system, finds deadlocks between
	// them: Set then answers EDEADLK. It is set before the first use; nil, as
	// for flock, lets them wait.
	Waiters *Waiters

	mu      sync.Mutex
	held    []held  // by start; those of one owner do not overlap
	waiting []*wait // in order of arrival
}

type held struct {
	owner uint64
	fuse.Lk
}

// wait is a Set that has not got its lock yet.
type wait struct {
	held
	done chan error // one answer; buffered
}

// Get answers a lock that keeps owner from having lk, or lk with Type F_UNLCK.
func (t *Table) Get(owner uint64, lk fuse.Lk) (fuse.Lk, error) {
	if err := check(lk); err != nil {
		return lk, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if b := t.conflict(held{owner, lk}); b != nil {
		return b.Lk, nil
	}
	lk.Type = syscall.F_UNLCK
	return lk, nil
}

// Set locks, converts or unlocks a range for owner. Where another's lock is in
// the way it fails with EAGAIN or, with wait, waits: until it has the lock,
// until ctx ends (ctx's error, and no lock), or not at all where that would be
// a deadlock (EDEADLK). What owner held stays as it was when Set fails.
func (t *Table) Set(ctx context.Context, owner uint64, lk fuse.Lk, wait bool) error {
	if err := check(lk); err != nil {
		return err
	}
	t.mu.Lock()
	return t.set(ctx, held{owner, lk}, wait)
}

// Flock is Set for flock(2): the whole file, and a conversion first gives up
// what owner held, so that it is lost where the new lock cannot be had.
func (t *Table) Flock(ctx context.Context, owner uint64, typ uint32, wait bool) error {
	h := held{owner, fuse.Lk{Start: 0, End: EOF, Type: typ}}
	if err := check(h.Lk); err != nil {
		return err
	}
	t.mu.Lock()
	i := slices.IndexFunc(t.held, func(o held) bool { return o.owner == owner })
	if i >= 0 && t.held[i].Type != typ {
		t.held = slices.Delete(t.held, i, i+1)
		t.wake()
	}
	return t.set(ctx, h, wait)
}

// ReleaseOwner drops all locks of an owner, as closing a file does. FUSE names
// the owner of POSIX locks at FLUSH and that of flock locks at RELEASE; that of
// OFD locks it does not name when the file is closed: whoever serves them
// remembers the owners that locked through each open file.
func (t *Table) ReleaseOwner(owner uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := len(t.held)
	t.held = slices.DeleteFunc(t.held, func(h held) bool { return h.owner == owner })
	if len(t.held) != n {
		t.wake()
	}
}

// Held is what owner holds, by start.
func (t *Table) Held(owner uint64) (out []fuse.Lk) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, h := range t.held {
		if h.owner == owner {
			out = append(out, h.Lk)
		}
	}
	return out
}

// Undo is what to set, one after the other, so that what an owner has of lk's
// range is again what it held, by start, before it got lk.
func Undo(held []fuse.Lk, lk fuse.Lk) (set []fuse.Lk) {
	at := lk.Start
	for _, h := range held {
		if h.End < lk.Start || h.Start > lk.End {
			continue
		}
		h.Start, h.End = max(h.Start, lk.Start), min(h.End, lk.End)
		if h.Start > at {
			set = append(set, fuse.Lk{Start: at, End: h.Start - 1, Type: syscall.F_UNLCK})
		}
		if h.Type != lk.Type {
			set = append(set, h)
		}
		at = h.End + 1
	}
	if at <= lk.End {
		set = append(set, fuse.Lk{Start: at, End: lk.End, Type: syscall.F_UNLCK})
	}
	return set
}

// Empty reports whether nothing is locked or waited for.
func (t *Table) Empty() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.held) == 0 && len(t.waiting) == 0
}

// set is called with mu locked and unlocks it.
func (t *Table) set(ctx context.Context, h held, block bool) error {
	b := t.conflict(h)
	if b == nil {
		t.apply(h)
		t.wake()
		t.mu.Unlock()
		return nil
	}
	if !block {
		t.mu.Unlock()
		return syscall.EAGAIN
	}
	w := &wait{held: h, done: make(chan error, 1)}
	if !t.Waiters.wait(w, b.owner) {
		t.mu.Unlock()
		return syscall.EDEADLK
	}
	t.waiting = append(t.waiting, w)
	t.mu.Unlock()

	select {
	case err := <-w.done:
		return err
	case <-ctx.Done():
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	i := slices.Index(t.waiting, w)
	if i < 0 {
		return <-w.done // it was answered meanwhile
	}
	t.waiting = slices.Delete(t.waiting, i, i+1)
	t.Waiters.end(w)
	return ctx.Err()
}

// wake answers those waiting, the first first, that can be. A lock that one of
// them gets by conversion may free another, so it goes on until none can.
func (t *Table) wake() {
	for n := -1; n != len(t.waiting); {
		n = len(t.waiting)
		t.waiting = slices.DeleteFunc(t.waiting, t.answer)
	}
}

// answer ends a wait that can be ended and reports whether it did.
func (t *Table) answer(w *wait) bool {
	t.Waiters.end(w)
	b := t.conflict(w.held)
	if b == nil {
		t.apply(w.held)
		w.done <- nil
		return true
	}
	if !t.Waiters.wait(w, b.owner) {
		w.done <- syscall.EDEADLK
		return true
	}
	return false
}

// conflict is the first lock of another that h cannot stand beside.
func (t *Table) conflict(h held) *held {
	if h.Type == syscall.F_UNLCK {
		return nil
	}
	for i := range t.held {
		o := &t.held[i]
		if o.Start > h.End {
			break
		}
		if o.owner != h.owner && o.End >= h.Start && (h.Type == syscall.F_WRLCK || o.Type == syscall.F_WRLCK) {
			return o
		}
	}
	return nil
}

// apply gives h its range: what its owner held there is cut away, and a
// neighbour of the same type becomes one with it.
func (t *Table) apply(h held) {
	var cut []held
	t.held = slices.DeleteFunc(t.held, func(o held) bool {
		switch {
		case o.owner != h.owner:
			return false
		case o.Type == h.Type && (o.End >= h.Start || o.End+1 == h.Start) && (o.Start <= h.End || o.Start == h.End+1):
			h.Start, h.End = min(h.Start, o.Start), max(h.End, o.End)
			return true
		case o.End < h.Start || o.Start > h.End:
			return false
		}
		if o.Start < h.Start {
			left := o
			left.End = h.Start - 1
			cut = append(cut, left)
		}
		if o.End > h.End {
			right := o
			right.Start = h.End + 1
			cut = append(cut, right)
		}
		return true
	})
	if h.Type != syscall.F_UNLCK {
		cut = append(cut, h)
	}
	for _, c := range cut {
		i, _ := slices.BinarySearchFunc(t.held, c.Start, func(o held, start uint64) int {
			if o.Start < start {
				return -1
			}
			return 1
		})
		t.held = slices.Insert(t.held, i, c)
	}
}

func check(lk fuse.Lk) error {
	switch lk.Type {
	case syscall.F_RDLCK, syscall.F_WRLCK, syscall.F_UNLCK:
	default:
		return syscall.EINVAL
	}
	if lk.Start > lk.End || lk.End > EOF {
		return syscall.EINVAL
	}
	return nil
}
