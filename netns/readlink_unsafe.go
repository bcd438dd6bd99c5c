package netns

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// readlinkat is readlinkat(2) of a name that ends with a NUL, as getdents64
// gives it, without a copy: a walk makes 100,000 of these calls.
func readlinkat(dir int, name, link []byte) (int, error) {
	n, _, errno := unix.Syscall6(unix.SYS_READLINKAT, uintptr(dir), uintptr(unsafe.Pointer(&name[0])),
		uintptr(unsafe.Pointer(&link[0])), uintptr(len(link)), 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}
