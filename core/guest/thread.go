// Package guest reaches into processes inside an environment: their memory,
// their place in the file tree, their rights. It runs outside of them, in the
// user namespace above theirs (U1), and trusts nothing it reads.
package guest

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"strconv"

	"golang.org/x/sys/unix"
)

// Thread is one thread of a guest, by its id in our own pid namespace. What it
// reads may belong to another process once the thread has died: callers check
// that the trap is still valid after reading and before acting.
//
// Whatever touches a guest's memory or files may block for as long as a guest
// likes (its memory may be a mapping of a file whose server hangs), in ways
// that no signal ends. So none of it runs on a receiving thread, and none of
// it holds a lock that another trap needs.
type Thread struct {
	TID int
}

// proc is the path of one of the thread's files in our own proc.
func (t Thread) proc(name string) string {
	return "/proc/" + strconv.Itoa(t.TID) + "/" + name
}

// Status reads /proc/TID/status.
func (t Thread) Status() (Status, error) {
	b, err := os.ReadFile(t.proc("status"))
	if err != nil {
		return Status{}, fmt.Errorf("cannot read the caller's status: %w", err)
	}
	return ParseStatus(b)
}

// IDs answers who the thread is, in the numbers of our own user namespace.
func (t Thread) IDs() (IDs, error) {
	s, err := t.Status()
	return s.IDs, err
}

// onThread runs f on an OS thread that ends with it, so that f may change
// what belongs to the thread: root, namespaces, credentials. When ctx ends
// first its cause is returned and f goes on alone.
func onThread(ctx context.Context, f func() error) error {
	done := make(chan error, 1)
	spawn(func() { done <- f() }, nil)
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// spawn starts f on a thread to be thrown away: Go ends a thread whose
// goroutine returns locked. The main thread cannot end and is what
// /proc/PID describes, so a goroutine that landed on it hands over.
func spawn(f func(), started chan<- struct{}) {
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			other := make(chan struct{})
			spawn(f, other)
			<-other
			runtime.UnlockOSThread()
		}
		if started != nil {
			close(started)
		}
		if unix.Gettid() != unix.Getpid() {
			f()
		}
	}()
}
