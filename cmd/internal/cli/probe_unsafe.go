package cli

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// remote is where b lies in memory, for process_vm_readv(2).
func remote(b []byte) unix.RemoteIovec {
	return unix.RemoteIovec{Base: uintptr(unsafe.Pointer(&b[0])), Len: len(b)}
}

// sendNothing answers no notification with a descriptor that is not open
// (struct seccomp_notif_addfd): EBADF where the kernel knows how to, EINVAL elsewhere.
func sendNothing(listener int) unix.Errno {
	add := struct {
		id                        uint64
		flags, src, new, newFlags uint32
	}{flags: unix.SECCOMP_ADDFD_FLAG_SEND, src: ^uint32(0)}
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(listener), unix.SECCOMP_IOCTL_NOTIF_ADDFD, uintptr(unsafe.Pointer(&add)))
	return errno
}
