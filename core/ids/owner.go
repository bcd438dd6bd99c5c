package ids

import (
	"fmt"
	"os"
	"strconv"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/lxbridge/lx/core/seccomp"
)

// single is the name of the first user namespace seen to have the single-id
// map, which is the environment's own ("user:[4026532201]"). It is held open,
// so that its number names no other.
var single atomic.Pointer[string]

// ours says whether the caller lives in a user namespace with the single-id
// map. A namespace made inside has a map of its own, which the kernel knows.
func ours(t *seccomp.Trap) bool {
	known := single.Load()
	if known != nil && namespaces.is(t.TID, *known) {
		return true
	}
	b, err := os.ReadFile("/proc/" + strconv.Itoa(t.TID) + "/uid_map")
	if err != nil {
		return false
	}
	var inside, outside, size uint32
	n, err := fmt.Sscan(string(b), &inside, &outside, &size)
	if err != nil || n != 3 || inside != 0 || size != 1 {
		return false
	}
	if known == nil {
		hold(link(t.TID))
	}
	return true
}

// link is where a thread's user namespace is named.
func link(tid int) string { return "/proc/" + strconv.Itoa(tid) + "/ns/user" }

// hold makes the namespace the known one, for as long as the process lives.
func hold(link string) {
	fd, err := unix.Open(link, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return
	}
	// /proc/self/fd names what is held, whatever has become of the thread.
	name := make([]byte, nameMax)
	n, err := unix.Readlink("/proc/self/fd/"+strconv.Itoa(fd), name)
	if err != nil {
		unix.Close(fd)
		return
	}
	text := string(name[:n])
	if !single.CompareAndSwap(nil, &text) {
		unix.Close(fd)
	}
}

const (
	nameMax  = 64
	maxLinks = 64
)

// links keeps the ns/user links of threads that called last, open as links: to
// read one is much cheaper than to find it. A link stays with its thread – once
// that is gone, reading fails, whoever has the number then – and always tells
// the namespace that the thread is in now.
type links struct {
	mu  sync.Mutex // guards what follows; never held while a guest is waited for
	fds map[int]int
	buf [nameMax]byte
}

var namespaces = links{fds: map[int]int{}}

// is says whether the thread is in the named user namespace.
func (l *links) is(tid int, name string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if fd, ok := l.fds[tid]; ok {
		if n, err := unix.Readlinkat(fd, "", l.buf[:]); err == nil {
			return string(l.buf[:n]) == name
		}
		unix.Close(fd)
		delete(l.fds, tid)
	}
	fd, err := unix.Open(link(tid), unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return false
	}
	if len(l.fds) >= maxLinks {
		for tid, fd := range l.fds {
			unix.Close(fd)
			delete(l.fds, tid)
		}
	}
	l.fds[tid] = fd
	n, err := unix.Readlinkat(fd, "", l.buf[:])
	return err == nil && string(l.buf[:n]) == name
}
