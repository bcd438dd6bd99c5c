// Package guest reaches into processes inside an environment: their memory,
// their place in the file tree, their rights. It runs outside of them, in the
// user namespace above theirs (U1), and trusts nothing it reads.
package guest

import (
	"context"
	"fmt"
	"io"
	"os"
	"runtime"
	"strconv"
	"strings"

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

// maxEnvironment bounds what is read of an environment: the kernel's own limit
// of one variable.
const maxEnvironment = 128 << 10

// Variable is what the thread's program was started with as name; empty where
// that is not known. It lies in the program's memory, which may have changed it.
func (t Thread) Variable(ctx context.Context, name string) (value string, err error) {
	var text []byte
	err = onThread(ctx, func() error {
		f, err := os.Open(t.proc("environ"))
		if err != nil {
			return err
		}
		defer f.Close()
		p, err := io.ReadAll(io.LimitReader(f, maxEnvironment))
		text = p
		return err
	})
	if err != nil {
		return "", fmt.Errorf("cannot read the caller's environment: %w", err)
	}
	for one := range strings.SplitSeq(string(text), "\x00") {
		if value, ok := strings.CutPrefix(one, name+"="); ok {
			return value, nil
		}
	}
	return "", nil
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
