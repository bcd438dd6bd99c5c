package fusetest

import (
	"os"

	"golang.org/x/sys/unix"
)

// OpenFile is os.OpenFile for files of a mount that the calling process serves
// itself. os.OpenFile asks epoll_ctl(2), which asks the file system (POLL), by
// a system call during which Go's collector cannot stop the thread: it waits
// for that call, and the call for the server, which has stopped already.
func OpenFile(name string, flag int, perm uint32) (*os.File, error) {
	fd, err := unix.Open(name, flag|unix.O_CLOEXEC, perm)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: name, Err: err}
	}
	return os.NewFile(uintptr(fd), name), nil
}
