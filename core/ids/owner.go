package ids

import (
	"fmt"
	"os"
	"strconv"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/lxbridge/lx/core/seccomp"
)

// single is the name of the first user namespace seen to have the single-id
// map, which is the environment's own ("user:[4026532201]"). It is held open,
// so that its number names no other.
var single atomic.Pointer[string]

// ours says whether the caller of a call that names owners of files lives in a
// user namespace with the single-id map. A namespace made inside has a map of
// its own, which the kernel knows.
func ours(t *seccomp.Trap) bool {
	known := single.Load()
	if known != nil {
		if name, err := os.Readlink(link(t.TID)); err == nil && name == *known {
			return true
		}
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
	name, err := os.Readlink("/proc/self/fd/" + strconv.Itoa(fd))
	if err != nil || !single.CompareAndSwap(nil, &name) {
		unix.Close(fd)
	}
}
