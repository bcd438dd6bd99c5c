// Package volume is the contract between a remote file system and the layer
// that serves it to the kernel. A backend (SMB, NFS, SFTP, memory) implements
// Volume and passes the suite in volumetest; retry, caching, prefetch and
// write-behind are layers above it, written once.
package volume

import (
	"context"
	"fmt"
	"io/fs"
	"syscall"
	"time"

	"github.com/lxbridge/lx/core/fuse"
)

// Node names one object of a volume: a comparable value that the volume made.
// Two calls that find the same object answer equal Nodes wherever the volume
// can tell. A Node stays usable until Forget, also after the object's last
// name is gone while it is open. Protocols that address by path keep their
// nodes in a pathtree.
type Node any

// Volume is one mounted file system. All methods are safe for concurrent use
// and return promptly when ctx ends, with an error that matches ctx's.
// Errors carry their errno: see Error and Errno. A Volume does not retry,
// except where its protocol makes repeating safe and invisible.
type Volume interface {
	// Root is the node of the mounted directory. It is never forgotten.
	Root() Node
	// Features says what this volume can do. It does not change.
	Features() Features
	// Lookup finds name ("." and ".." are never asked) in dir; ENOENT where absent.
	Lookup(ctx context.Context, dir Node, name string) (Node, Attr, error)
	// Forget gives back one reference to n. Each Node answered by Lookup,
	// Create, Mkdir, Symlink, Mknod or in a DirEntry counts one, also where an
	// equal Node was answered before. After the last, no more calls name n.
	Forget(n Node)
	// Getattr reads attributes from the server; h, if not nil, is an open handle of n.
	Getattr(ctx context.Context, n Node, h Handle) (Attr, error)
	// Setattr changes what s names, all or nothing where the protocol can, and
	// answers the attributes afterwards.
	Setattr(ctx context.Context, n Node, h Handle, s SetAttr) (Attr, error)
	// ReadDir opens a listing, without "." and "..".
	ReadDir(ctx context.Context, dir Node) (DirStream, error)
	// Open opens a regular file. The access mode and O_TRUNC of flags count;
	// O_APPEND is the layer's above.
	Open(ctx context.Context, n Node, flags int) (Handle, error)
	// Create makes and opens a regular file; with O_EXCL an existing name is
	// EEXIST, without it the existing file is opened.
	Create(ctx context.Context, dir Node, name string, flags int, mode uint32) (Node, Attr, Handle, error)
	Mkdir(ctx context.Context, dir Node, name string, mode uint32) (Node, Attr, error)
	// Unlink removes a name that is no directory, as far as the caller knows: a
	// server may take an empty one instead. An open file stays readable
	// and writable through its handles; a volume whose protocol cannot do that
	// says so in Features and the layer above renames instead.
	Unlink(ctx context.Context, dir Node, name string) error
	Rmdir(ctx context.Context, dir Node, name string) error
	// Rename replaces newName unless flags has RENAME_NOREPLACE; flags that
	// cannot be served give EINVAL.
	Rename(ctx context.Context, dir Node, name string, newDir Node, newName string, flags uint32) error
	Statfs(ctx context.Context) (fuse.Statfs, error)
	// Close ends the connection. Handles are dead afterwards. It waits for the
	// volume's goroutines.
	Close() error
}

// Handle is an open regular file. Several calls may run at once.
type Handle interface {
	// ReadAt fills p from off; fewer bytes with a nil error means end of file.
	ReadAt(ctx context.Context, p []byte, off int64) (int, error)
	// WriteAt writes all of p at off or returns an error.
	WriteAt(ctx context.Context, p []byte, off int64) (int, error)
	// Sync makes what was written durable on the server.
	Sync(ctx context.Context) error
	// Close gives the handle back; its error tells of writes that were lost.
	Close(ctx context.Context) error
}

// Flusher is a Handle whose server may still lose what it took.
type Flusher interface {
	Handle
	// Flush is what close(2) waits for: it tells what the server cannot keep.
	Flush(ctx context.Context) error
}

// AttrHandle is a Handle that came with the attributes of its file.
type AttrHandle interface {
	Handle
	// Opened is what the file was like when the server opened it.
	Opened() Attr
}

// DirStream yields a listing in batches. Next returns io.EOF, and no entries,
// after the last. What it answers is the caller's, to change as well, until the
// next call. Not safe for concurrent use.
type DirStream interface {
	Next(ctx context.Context) ([]DirEntry, error)
	Close() error
}

// Dated is a DirStream that is ahead: Came says when the batch that Next answered
// last came from the server. That of others came just then.
type Dated interface {
	DirStream
	Came() time.Time
}

// DirEntry is a name found by ReadDir. Where Node is not nil, Attr is complete
// and the entry counts as a Lookup: the layer forgets the Node in time.
type DirEntry struct {
	Name string
	Type fs.FileMode // type bits only
	Node Node
	Attr Attr
}

// FileType is the type bits of a stat(2) mode as DirEntry has them.
func FileType(mode uint32) fs.FileMode {
	switch mode & syscall.S_IFMT {
	case syscall.S_IFDIR:
		return fs.ModeDir
	case syscall.S_IFLNK:
		return fs.ModeSymlink
	case syscall.S_IFIFO:
		return fs.ModeNamedPipe
	case syscall.S_IFSOCK:
		return fs.ModeSocket
	case syscall.S_IFBLK:
		return fs.ModeDevice
	case syscall.S_IFCHR:
		return fs.ModeDevice | fs.ModeCharDevice
	}
	return 0
}

// Attr is what a server tells of an object. Mode has type and permission bits
// in the form of stat(2) (S_IFMT). Zero times are unknown. FileID, where not 0,
// is unique and stable within the volume.
type Attr struct {
	FileID, Size, Allocated uint64 // bytes
	Mode, Nlink, Rdev       uint32
	UID, GID                uint32
	Atime, Mtime, Ctime     time.Time
	Btime                   time.Time
	// Change, where not 0, changes with each change of data or attributes.
	Change uint64
}

// SetAttr names the attributes to change: those not nil.
type SetAttr struct {
	Mode, UID, GID *uint32
	Size           *uint64
	Atime, Mtime   *time.Time
	Btime          *time.Time
}

// Features says what a volume can and cannot do.
type Features struct {
	// RealModes: mode, uid and gid come from the server and the kernel may
	// check them (default_permissions).
	RealModes bool
	// CaseInsensitive: names that differ only in case are the same.
	CaseInsensitive bool
	// UnlinkOpen: open files may be unlinked and renamed over.
	UnlinkOpen bool
	// MaxRead and MaxWrite are the largest useful transfers, in bytes; 0 = 1 MiB.
	MaxRead, MaxWrite int
	// TimeGranularity of stored times.
	TimeGranularity time.Duration
	// NameMax is the longest name, in bytes; 0 = 255.
	NameMax int
}

// The optional abilities of a Volume. What is absent answers EOPNOTSUPP (or
// EPERM where link(2), symlink(2) and mknod(2) say so).
type (
	Symlinker interface {
		Symlink(ctx context.Context, dir Node, name, target string) (Node, Attr, error)
	}
	Readlinker interface {
		Readlink(ctx context.Context, n Node) (string, error)
	}
	Linker interface {
		Link(ctx context.Context, n Node, dir Node, name string) (Attr, error)
	}
	Mknoder interface {
		Mknod(ctx context.Context, dir Node, name string, mode, rdev uint32) (Node, Attr, error)
	}
	// Xattrer serves extended attributes; ENODATA where absent. flags are
	// XATTR_CREATE and XATTR_REPLACE.
	Xattrer interface {
		Getxattr(ctx context.Context, n Node, name string) ([]byte, error)
		Setxattr(ctx context.Context, n Node, name string, value []byte, flags uint32) error
		Listxattr(ctx context.Context, n Node) ([]string, error)
		Removexattr(ctx context.Context, n Node, name string) error
	}
	// Locker serves byte-range locks at the server. A volume without it gets
	// locks that hold on this mount only.
	Locker interface {
		Getlk(ctx context.Context, h Handle, owner uint64, lk fuse.Lk) (fuse.Lk, error)
		Setlk(ctx context.Context, h Handle, owner uint64, lk fuse.Lk, wait bool) error
	}
	// Copier copies at the server and answers how much it copied.
	Copier interface {
		CopyRange(ctx context.Context, src Handle, srcOff int64, dst Handle, dstOff, n int64) (int64, error)
	}
	Allocator interface {
		Allocate(ctx context.Context, h Handle, off, n int64, mode uint32) error
	}
	// Seeker serves SEEK_DATA and SEEK_HOLE.
	Seeker interface {
		Seek(ctx context.Context, h Handle, off int64, whence int) (int64, error)
	}
	// Lender is an ability of a Handle in whose memory files are: the bytes that
	// ReadAt would answer, unchanged until the loan is returned, soon, since
	// writers wait for it. Where ok is false ReadAt is to be called.
	Lender interface {
		Lend(off int64, n int) (b []byte, loan fuse.Loan, ok bool)
	}
	// Owner is an ability of a Handle: ReadAt and WriteAt for a p that becomes the
	// volume's where ctx ends them early, so that they need no copy of it.
	Owner interface {
		ReadOwn(ctx context.Context, p []byte, off int64) (int, error)
		WriteOwn(ctx context.Context, p []byte, off int64) (int, error)
	}
	// Stabler is an ability of a Handle: WriteStable is WriteAt, or WriteOwn where
	// it has that, of what Sync is about to be called for, and where nothing else
	// waits for that makes it durable at once.
	Stabler interface {
		WriteStable(ctx context.Context, p []byte, off int64) (int, error)
	}
	// Leaser has promises of the server that nobody else changes a file: while
	// one holds, what is cached of the file's data and attributes is right.
	Leaser interface {
		// Lease names the promise that holds for n now, 0 where there is none. A
		// later one has another name.
		Lease(n Node) uint64
		// OnRecall says whom to call. recall is called when a promise is about to
		// end, or was broken: it brings what is dirty to the server, drops what
		// is cached, and returns; for other clients wait. size is how large n is
		// with what is dirty, and whether anything is; it does not wait.
		OnRecall(recall func(ctx context.Context, n Node), size func(n Node) (uint64, bool))
	}
	// Accesser asks the server whether the caller (CallerOf) may; used where
	// modes are not real.
	Accesser interface {
		Access(ctx context.Context, n Node, mask uint32) error
	}
)

// CallerOf is the process a call is made for; ok is false where lx itself asks.
func CallerOf(ctx context.Context) (c fuse.Caller, ok bool) { return fuse.CallerOf(ctx) }

// Error is a failed operation with the errno for the caller and the reason for people.
type Error struct {
	Op     string // "open", "connect"
	Name   string // a name or share, never a secret
	Errno  syscall.Errno
	Reason string // the server's own words; may be empty
	Err    error
}

func (e *Error) Error() string {
	s := "cannot " + e.Op
	if e.Name != "" {
		s += " " + e.Name
	}
	switch {
	case e.Reason != "":
		return fmt.Sprintf("%s: %s", s, e.Reason)
	case e.Err != nil:
		return fmt.Sprintf("%s: %v", s, e.Err)
	}
	return fmt.Sprintf("%s: %v", s, e.Errno)
}

func (e *Error) Unwrap() []error {
	if e.Err == nil {
		return []error{e.Errno}
	}
	return []error{e.Errno, e.Err}
}
