package guest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/lxbridge/lx/core/feature"
)

// GetFD makes our own descriptor (close-on-exec, the caller's to close) of
// the thread's fd: EBADF when it has none (pidfd_getfd(2)).
func (t Thread) GetFD(fd int) (int, error) {
	if pidfd, ok := pidfds.take(t.TID); ok {
		if ours, err := unix.PidfdGetfd(pidfd, fd, 0); err == nil {
			pidfds.put(t.TID, pidfd)
			return ours, nil
		}
		unix.Close(pidfd) // perhaps of a dead thread that had the number
	}
	pidfd, ofThread, err := t.pidfd()
	if err != nil {
		return -1, err
	}
	ours, err := unix.PidfdGetfd(pidfd, fd, 0)
	if err != nil || !ofThread {
		unix.Close(pidfd)
	} else {
		pidfds.put(t.TID, pidfd)
	}
	if err != nil {
		return -1, fmt.Errorf("cannot take descriptor %d of the caller: %w", fd, err)
	}
	return ours, nil
}

// pidfd names the thread itself where the kernel can; else its process, whose
// descriptors the thread shares unless it was made otherwise (CLONE_FILES).
func (t Thread) pidfd() (fd int, ofThread bool, err error) {
	if !feature.Missing(feature.PidfdThread) {
		fd, err := unix.PidfdOpen(t.TID, unix.PIDFD_THREAD)
		if err == nil {
			return fd, true, nil
		} else if !errors.Is(err, unix.EINVAL) {
			return -1, false, fmt.Errorf("cannot open thread %d: %w", t.TID, err)
		}
	}
	fd, err = t.processFD(0)
	return fd, false, err
}

// keptPidfds are those of threads that called last: to make one costs more than
// what it is made for. It names its thread for ever: once that is gone the
// answer is ESRCH, whoever has its number then. One of a process is not kept,
// for the process may outlive the thread.
type keptPidfds struct {
	mu   sync.Mutex  // guards idle
	idle map[int]int // by thread; none is in use
}

const maxKept = 64

var pidfds = keptPidfds{idle: map[int]int{}}

// take hands the thread's pidfd over to the caller.
func (k *keptPidfds) take(tid int) (fd int, ok bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	fd, ok = k.idle[tid]
	delete(k.idle, tid)
	return fd, ok
}

// put takes it back, for which another may have to go.
func (k *keptPidfds) put(tid, fd int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.idle) >= maxKept {
		for _, old := range k.idle {
			unix.Close(old)
		}
		clear(k.idle)
	}
	if old, ok := k.idle[tid]; ok { // a call of it was served meanwhile
		unix.Close(old)
	}
	k.idle[tid] = fd
}

func (t Thread) processFD(flags int) (int, error) {
	s, err := t.Status()
	if err != nil {
		return -1, err
	}
	fd, err := unix.PidfdOpen(s.TGID, flags)
	if err != nil {
		return -1, fmt.Errorf("cannot open process %d: %w", s.TGID, err)
	}
	return fd, nil
}

// SameFile says whether the thread's descriptor theirs and our descriptor
// ours are one open file description (kcmp(2)).
func (t Thread) SameFile(theirs, ours int) (bool, error) {
	const file = 0 // KCMP_FILE
	order, _, errno := unix.Syscall6(unix.SYS_KCMP, uintptr(t.TID), uintptr(unix.Getpid()), file, uintptr(theirs), uintptr(ours), 0)
	if errno != 0 {
		return false, fmt.Errorf("cannot compare descriptor %d of the caller: %w", theirs, errno)
	}
	return order == 0, nil
}

// Exit answers a channel that is closed when the thread's process has ended.
// When ctx ends first the channel stays open for ever and nothing is held.
func (t Thread) Exit(ctx context.Context) (<-chan struct{}, error) {
	fd, err := t.processFD(unix.PIDFD_NONBLOCK)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), "pidfd")
	conn, err := f.SyscallConn()
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("cannot watch process of thread %d: %w", t.TID, err)
	}
	exited := make(chan struct{})
	stop := context.AfterFunc(ctx, func() { f.Close() })
	go func() {
		ended := false
		err := conn.Read(func(fd uintptr) bool {
			p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
			n, err := unix.Poll(p, 0)
			ended = err == nil && n > 0
			return ended
		})
		if err == nil && ended {
			close(exited)
		}
		stop()
		f.Close()
	}()
	return exited, nil
}
