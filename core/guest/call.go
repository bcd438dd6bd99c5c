package guest

import (
	"bytes"
	"strconv"

	"golang.org/x/sys/unix"
)

// InNameCall says whether the thread waits in a system call that opens, makes
// or removes a name. Such a call needs to know who may use the directories on
// its way, and answers no attributes of them. False where that cannot be told.
func (t Thread) InNameCall() bool {
	fd, err := unix.Open(t.proc("syscall"), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	var text [256]byte
	n, err := unix.Read(fd, text[:])
	return err == nil && inNameCall(text[:n])
}

// inNameCall reads /proc/TID/syscall (proc_pid_syscall(5)): the call's number
// and arguments, or "running".
func inNameCall(text []byte) bool {
	number, _, _ := bytes.Cut(text, []byte{' '})
	n, err := strconv.Atoi(string(number))
	if err != nil {
		return false
	}
	switch n {
	case unix.SYS_OPENAT, unix.SYS_OPENAT2, unix.SYS_MKDIRAT, unix.SYS_MKNODAT, unix.SYS_UNLINKAT,
		unix.SYS_LINKAT, unix.SYS_SYMLINKAT, unix.SYS_RENAMEAT2:
		return true
	}
	return oldNameCall(n)
}
