package ns

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Reexec waits until fds[0] can be read, which the parent makes it when the id
// map stands, and executes this program again as argv with fds kept open: only
// an execve(2) as the root of the new namespace gives its capabilities back
// (user_namespaces(7)). It returns only to tell a failure.
func Reexec(argv []string, fds ...int) error {
	p := []unix.PollFd{{Fd: int32(fds[0]), Events: unix.POLLIN}}
	for {
		_, err := unix.Poll(p, -1)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return fmt.Errorf("cannot wait for the id map: %w", err)
		}
		break
	}
	if p[0].Revents&unix.POLLIN == 0 {
		return errors.New("cannot start: nobody wrote the id map")
	}
	for _, fd := range fds {
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETFD, 0); err != nil {
			return err
		}
	}
	return unix.Exec("/proc/self/exe", argv, os.Environ())
}
