package portbroker

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// bind is bind(2) with the address as the caller wrote it, byte for byte.
func bind(fd int, sa []byte) syscall.Errno {
	_, _, errno := unix.Syscall(unix.SYS_BIND, uintptr(fd), uintptr(unsafe.Pointer(&sa[0])), uintptr(len(sa)))
	return errno
}
