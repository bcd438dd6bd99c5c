// Package seccomp traps chosen system calls of guests: the table that names
// them, the filter made from it, and the loop that answers (seccomp(2),
// seccomp_unotify(2)). It knows no broker: they register Handlers for rows.
package seccomp

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"syscall"

	"github.com/lxbridge/lx/core/guest"
)

// Trap is one call of a guest that waits for its answer.
type Trap struct {
	ID   uint64 // the kernel's notification id
	Row  *Row
	Arch Arch
	Args [6]uint64 // i386: zero-extended; 16-bit ids widened, with -1 as 0xffffffff
	guest.Thread
	listener *Listener // nil in a trap that a test made: always valid, never answered

	cancel context.CancelCauseFunc // of Serve's context
	slot   int                     // in the page of ids in flight; -1 for none

	mu          sync.Mutex // guards the state below
	committed   bool
	interrupted bool
	answered    bool
}

// Reply is the answer to a Trap. The zero Reply returns 0.
type Reply struct {
	Val   int64
	Errno syscall.Errno
	// Continue lets the kernel run the call as the guest made it: only for
	// calls that lx does not emulate, since the guest may change what its
	// pointers name after they were read.
	Continue bool
}

// Handler serves one row of the table. One of the two may be nil.
type Handler struct {
	// Inline answers at once, without touching guest memory or the file
	// system, or declines; it runs on the receiving thread.
	Inline func(t *Trap) (Reply, bool)
	// Serve runs in a goroutine of its own. ctx ends when the caller dies
	// (ErrCallerGone) or has a signal pending that it catches or dies of
	// (ErrInterrupted). Interrupted, it undoes what it began and answers any
	// error: the caller then gets EINTR or is restarted, as the signal needs,
	// and may thus call again while an earlier Serve still ends. One that
	// does not return within 100 ms is answered for. A success is always told
	// as such. What cannot be undone is done after Commit.
	Serve func(ctx context.Context, t *Trap) Reply
}

// Handlers are a broker's, by the name of the Row ("mount").
type Handlers map[string]Handler

// Why the context of a Serve ended.
var (
	ErrCallerGone  = errors.New("the calling thread no longer waits for an answer")
	ErrInterrupted = fmt.Errorf("a signal interrupted the calling thread: %w", syscall.EINTR)
)

// Valid is nil while the caller waits, so that its thread id and what was
// read by it were its own; else ErrCallerGone or ErrInterrupted.
func (t *Trap) Valid() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.valid()
}

func (t *Trap) valid() error {
	switch {
	case t.interrupted:
		return ErrInterrupted
	case t.answered:
		return ErrCallerGone
	case t.listener == nil:
		return nil
	}
	switch errno := t.listener.idValid(t.ID); errno {
	case 0:
		return nil
	case syscall.ENOENT:
		return ErrCallerGone
	default:
		return fmt.Errorf("cannot ask for the caller: %w", errno)
	}
}

// Commit is Valid, and from then on no signal takes the answer away: what
// Serve answers is what the caller gets. It is called once, just before the
// step that shows to the guest; the death of the caller after it leaves the
// step done, as if it had died right after its call.
func (t *Trap) Commit() error { return t.Attempt(func() bool { return true }) }

// Attempt runs f, which does not wait, unless the caller has gone or was
// interrupted, which it cannot be meanwhile. Where f reports that it has done what
// shows to the guest, that is committed.
func (t *Trap) Attempt(f func() bool) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.valid(); err != nil {
		return err
	}
	t.committed = f()
	return nil
}

// interrupt ends Serve's context; false when the answer is committed, given
// or being given.
func (t *Trap) interrupt() bool {
	if !t.mu.TryLock() {
		return false
	}
	defer t.mu.Unlock()
	if t.committed || t.answered {
		return false
	}
	t.interrupted = true
	t.cancel(ErrInterrupted)
	return true
}

// errnoRestart is ERESTARTSYS: the kernel turns it into EINTR or a restart
// (signal(7)) on the way out of the call, provided that a signal is pending.
const errnoRestart = syscall.Errno(512)

// answer sends r unless an answer has gone.
func (t *Trap) answer(r Reply) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.answered {
		return
	}
	if t.interrupted && (r.Errno != 0 || r.Continue) {
		r = Reply{Errno: errnoRestart}
	}
	t.listener.send(t.ID, r)
	t.done()
}

// done forgets an answered trap.
func (t *Trap) done() {
	t.answered = true
	if t.slot >= 0 {
		t.listener.inflight.drop(t.slot)
	}
}

// AddFD puts a copy of our descriptor fd into the caller's process and tells
// its number there. The call is not answered by it.
func (t *Trap) AddFD(fd int, cloexec bool) (int, error) { return t.addFD(fd, cloexec, 0) }

// AddFDSend is AddFD with the new number as the call's answer, in one step:
// no other answer goes out after it. It commits.
func (t *Trap) AddFDSend(fd int, cloexec bool) (int, error) {
	return t.addFD(fd, cloexec, addFDFlagSend)
}

func (t *Trap) addFD(fd int, cloexec bool, flags uint32) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.valid(); err != nil {
		return -1, err
	}
	if t.listener == nil {
		return -1, fmt.Errorf("cannot give a descriptor to the caller: %w", syscall.ENOSYS)
	}
	theirs, errno := t.listener.addFD(t.ID, fd, cloexec, flags)
	switch {
	case errno == syscall.ENOENT:
		return -1, ErrCallerGone
	case errno != 0:
		return -1, fmt.Errorf("cannot give a descriptor to the caller: %w", errno)
	}
	if flags&addFDFlagSend != 0 {
		t.done()
	}
	return theirs, nil
}
