package guest

import "golang.org/x/sys/unix"

// oldNameCall says that n is such a call as newer architectures lack. Not
// rmdir(2)'s number, which is oldlstat's on i386; no other is that of a call
// which answers attributes there.
func oldNameCall(n int) bool {
	switch n {
	case unix.SYS_OPEN, unix.SYS_CREAT, unix.SYS_MKDIR, unix.SYS_MKNOD, unix.SYS_UNLINK,
		unix.SYS_LINK, unix.SYS_SYMLINK, unix.SYS_RENAME, unix.SYS_RENAMEAT:
		return true
	}
	return false
}
