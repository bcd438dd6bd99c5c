// Package fuse serves the FUSE protocol of the Linux kernel (include/uapi/linux/fuse.h,
// versions 7.31 to 7.45) on one /dev/fuse descriptor. It knows the wire and nothing
// of what is behind it: files and usbfs are served by the same Server.
package fuse

import (
	"context"
	"syscall"
	"time"
)

// RootID is the node id of a file system's root (FUSE_ROOT_ID).
const RootID = 1

// Caller is who made a request, as the superblock's user namespace and the
// namespaces of the process that opened the connection see it.
type Caller struct {
	UID, GID uint32
	PID      uint32 // thread id; 0 where the kernel itself asks (writeback)
}

// FileSystem is what a Server serves. Methods may be called concurrently.
// The context ends when the caller is interrupted (FUSE_INTERRUPT), when the
// Server's time limit for a request is reached, or when the connection ends;
// it also answers CallerOf. It must not be used after the method has returned.
//
// Abilities beyond these three are the one-method interfaces below; the Server
// finds them once, at New. One that is absent answers ENOSYS, which the kernel
// remembers and does not ask again.
type FileSystem interface {
	// Lookup finds name in parent. Each success counts one reference to the
	// node, given back by Forget. An Entry with Node 0 is a negative answer
	// that may be cached for EntryValid.
	Lookup(ctx context.Context, parent uint64, name string) (Entry, syscall.Errno)
	// Forget gives back n references to a node.
	Forget(node, n uint64)
	// Getattr answers stat. fh is meaningful only where hasFH.
	Getattr(ctx context.Context, node, fh uint64, hasFH bool) (Attr, time.Duration, syscall.Errno)
}

// Attr is a node's attributes (struct fuse_attr). Mode has the S_IFMT bits.
type Attr struct {
	Ino, Size, Blocks   uint64 // Blocks of 512 bytes
	Atime, Mtime, Ctime syscall.Timespec
	Mode, Nlink         uint32
	UID, GID            uint32
	Rdev, Blksize       uint32
}

// Entry is a node found or made.
type Entry struct {
	Node, Generation      uint64
	Attr                  Attr
	EntryValid, AttrValid time.Duration
}

// DirEntry is one name of a directory. Type is the file type of Mode>>12 (DT_*).
type DirEntry struct {
	Name string
	Ino  uint64
	Off  uint64 // what a later ReadDir continues after
	Type uint32
}

// SetAttrIn says what a Setattr changes: the fields whose bit is in Valid (FATTR_*).
type SetAttrIn struct {
	Valid        uint32
	FH           uint64
	Size         uint64
	Atime, Mtime syscall.Timespec
	Mode         uint32
	UID, GID     uint32
	KillSuidgid  bool
}

// Statfs is the answer to statfs(2). Sizes in units of Frsize.
type Statfs struct {
	Blocks, Bfree, Bavail, Files, Ffree uint64
	Bsize, Frsize, Namelen              uint32
}

// OpenOut is an opened file. Flags are FOPEN_*.
type OpenOut struct {
	FH    uint64
	Flags uint32
}

// Lk is a lock as fcntl(2) and flock(2) set it: bytes Start to End inclusive,
// Type F_RDLCK, F_WRLCK or F_UNLCK.
type Lk struct {
	Start, End uint64
	Type       uint32
	PID        uint32
}

// DirSink takes the entries of a ReadDir until it is full. The offset of each
// entry is what a later ReadDir continues after.
type DirSink interface {
	// Add reports whether the entry still fitted.
	Add(e DirEntry) bool
}

// DirPlusSink takes entries with attributes. Each entry added whose Entry.Node
// is not 0 counts one reference, as Lookup does. Callers must call Fits first,
// so that no reference is counted for an entry that did not fit.
type DirPlusSink interface {
	Fits(name string) bool
	Add(d DirEntry, e Entry)
}

// Loan is memory that was lent.
type Loan interface{ Return() }

// The optional abilities. uid, gid of new nodes are the caller's (CallerOf).
type (
	Setattrer interface {
		Setattr(ctx context.Context, node uint64, in *SetAttrIn) (Attr, time.Duration, syscall.Errno)
	}
	Readlinker interface {
		Readlink(ctx context.Context, node uint64) (string, syscall.Errno)
	}
	Symlinker interface {
		Symlink(ctx context.Context, parent uint64, name, target string) (Entry, syscall.Errno)
	}
	Mknoder interface {
		Mknod(ctx context.Context, parent uint64, name string, mode, umask, rdev uint32) (Entry, syscall.Errno)
	}
	Mkdirer interface {
		Mkdir(ctx context.Context, parent uint64, name string, mode, umask uint32) (Entry, syscall.Errno)
	}
	Unlinker interface {
		Unlink(ctx context.Context, parent uint64, name string) syscall.Errno
	}
	Rmdirer interface {
		Rmdir(ctx context.Context, parent uint64, name string) syscall.Errno
	}
	// Renamer takes RENAME_NOREPLACE and RENAME_EXCHANGE in flags.
	Renamer interface {
		Rename(ctx context.Context, parent uint64, name string, newParent uint64, newName string, flags uint32) syscall.Errno
	}
	Linker interface {
		Link(ctx context.Context, node, newParent uint64, newName string) (Entry, syscall.Errno)
	}
	// Opener opens a file. flags are open(2)'s, without O_CREAT and O_EXCL; an
	// O_TRUNC is Open's to do.
	Opener interface {
		Open(ctx context.Context, node uint64, flags uint32) (OpenOut, syscall.Errno)
	}
	Creater interface {
		Create(ctx context.Context, parent uint64, name string, flags, mode, umask uint32) (Entry, OpenOut, syscall.Errno)
	}
	// Reader fills dst, which is part of the reply, and tells how much. Less
	// than len(dst) means end of file.
	Reader interface {
		Read(ctx context.Context, node, fh uint64, off int64, dst []byte) (int, syscall.Errno)
	}
	// Lender answers a large READ from memory that it has, which spares a copy:
	// the bytes that Read would answer, unchanged until the loan is returned,
	// once and soon. Where ok is false Read is asked.
	Lender interface {
		Lend(ctx context.Context, node, fh uint64, off int64, n int) (b []byte, loan Loan, ok bool)
	}
	// Writer takes data, valid until it returns. flags has FUSE_WRITE_CACHE
	// where the kernel's page cache writes.
	Writer interface {
		Write(ctx context.Context, node, fh uint64, off int64, data []byte, flags uint32) (int, syscall.Errno)
	}
	// Flusher is called at each close(2) of a descriptor.
	Flusher interface {
		Flush(ctx context.Context, node, fh, lockOwner uint64) syscall.Errno
	}
	Fsyncer interface {
		Fsync(ctx context.Context, node, fh uint64, datasync bool) syscall.Errno
	}
	// Releaser is called once, when the last descriptor of an open file is gone.
	// flags are FUSE_RELEASE_FLUSH and FUSE_RELEASE_FLOCK_UNLOCK: the lock
	// owner's locks go too.
	Releaser interface {
		Release(node, fh uint64, flags uint32, lockOwner uint64)
	}
	Opendirer interface {
		Opendir(ctx context.Context, node uint64, flags uint32) (OpenOut, syscall.Errno)
	}
	// ReadDirer lists what follows off (0 at the start).
	ReadDirer interface {
		ReadDir(ctx context.Context, node, fh, off uint64, sink DirSink) syscall.Errno
	}
	// ReadDirPluser is ReadDirer with attributes.
	ReadDirPluser interface {
		ReadDirPlus(ctx context.Context, node, fh, off uint64, sink DirPlusSink) syscall.Errno
	}
	Fsyncdirer interface {
		Fsyncdir(ctx context.Context, node, fh uint64, datasync bool) syscall.Errno
	}
	Releasedirer interface {
		Releasedir(node, fh uint64)
	}
	Statfser interface {
		Statfs(ctx context.Context, node uint64) (Statfs, syscall.Errno)
	}
	Accesser interface {
		Access(ctx context.Context, node uint64, mask uint32) syscall.Errno
	}
	// Getxattrer answers into dst; a short dst gives ERANGE; len 0 asks the size.
	Getxattrer interface {
		Getxattr(ctx context.Context, node uint64, name string, dst []byte) (int, syscall.Errno)
	}
	Setxattrer interface {
		Setxattr(ctx context.Context, node uint64, name string, value []byte, flags uint32) syscall.Errno
	}
	// Listxattrer answers names, each ended by a NUL, as listxattr(2) does.
	Listxattrer interface {
		Listxattr(ctx context.Context, node uint64, dst []byte) (int, syscall.Errno)
	}
	Removexattrer interface {
		Removexattr(ctx context.Context, node uint64, name string) syscall.Errno
	}
	// Locker serves byte-range and (where flock is true) whole-file locks.
	// Setlk with wait blocks until the lock is had or ctx ends (EINTR).
	Locker interface {
		Getlk(ctx context.Context, node, fh, owner uint64, lk Lk, flock bool) (Lk, syscall.Errno)
		Setlk(ctx context.Context, node, fh, owner uint64, lk Lk, flock, wait bool) syscall.Errno
	}
	Fallocater interface {
		Fallocate(ctx context.Context, node, fh, off, length uint64, mode uint32) syscall.Errno
	}
	// Lseeker serves SEEK_DATA and SEEK_HOLE only.
	Lseeker interface {
		Lseek(ctx context.Context, node, fh, off uint64, whence uint32) (uint64, syscall.Errno)
	}
	CopyFileRanger interface {
		CopyFileRange(ctx context.Context, nodeIn, fhIn, offIn, nodeOut, fhOut, offOut, length, flags uint64) (uint64, syscall.Errno)
	}
	// Poller tells which events are ready. Where kh is not 0, the file system
	// remembers it and calls Server.NotifyPoll(kh) once when that changes.
	Poller interface {
		Poll(ctx context.Context, node, fh, kh uint64, events uint32, schedule bool) (revents uint32, errno syscall.Errno)
	}
	// Ioctler serves ioctl(2). flags has FUSE_IOCTL_UNRESTRICTED, COMPAT, 32BIT,
	// DIR. The returned bytes are copied to the caller up to outSize; result is
	// the call's return value.
	Ioctler interface {
		Ioctl(ctx context.Context, node, fh uint64, cmd uint32, arg uint64, flags uint32, in []byte, outSize uint32) (result int32, out []byte, errno syscall.Errno)
	}
)
