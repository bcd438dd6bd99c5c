package serve

import (
	"context"
	"io/fs"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lxbridge/lx/core/fuse"
	"github.com/lxbridge/lx/mount/volume"
)

// direntType is DT_* of readdir(3).
func direntType(m fs.FileMode) uint32 {
	switch m.Type() {
	case fs.ModeDir:
		return unix.DT_DIR
	case fs.ModeSymlink:
		return unix.DT_LNK
	case fs.ModeNamedPipe:
		return unix.DT_FIFO
	case fs.ModeSocket:
		return unix.DT_SOCK
	case fs.ModeDevice:
		return unix.DT_BLK
	case fs.ModeDevice | fs.ModeCharDevice:
		return unix.DT_CHR
	}
	return unix.DT_REG
}

// Lookup implements fuse.FileSystem.
func (f *FS) Lookup(ctx context.Context, parent uint64, name string) (fuse.Entry, syscall.Errno) {
	p, no := f.inode(parent)
	if no != 0 {
		return fuse.Entry{}, no
	}
	if f.isHidden(p, name) {
		return fuse.Entry{}, syscall.ENOENT
	}
	if e, no, ok := f.listedAs(p, name); ok {
		return e, no
	}
	asked, start := f.tick(), time.Now()
	n, a, err := f.vol.Lookup(ctx, p.node, name)
	f.lookedUp(p, time.Since(start))
	switch no := errno(err); {
	case no == syscall.ENOENT:
		return f.absent()
	case no != 0:
		return fuse.Entry{}, no
	}
	i, a := f.intern(p, name, n, a, asked)
	return f.entry(i, a), 0
}

// absent answers that a name is not there.
func (f *FS) absent() (fuse.Entry, syscall.Errno) {
	if f.opts.NegativeTimeout > 0 {
		return fuse.Entry{EntryValid: f.opts.NegativeTimeout}, 0
	}
	return fuse.Entry{}, syscall.ENOENT
}

// renamed notes that we changed what name in p is.
func (f *FS) renamed(p *inode, name string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.touch(p, name)
}

// make has do make name in p, and answers what was made.
func (f *FS) make(ctx context.Context, p *inode, name string, do func(context.Context) (volume.Node, volume.Attr, error)) (fuse.Entry, syscall.Errno) {
	var n volume.Node
	var a volume.Attr
	err := f.change(ctx, func(ctx context.Context) (err error) {
		n, a, err = do(ctx)
		return err
	}, p)
	if err != nil {
		return fuse.Entry{}, errno(err)
	}
	i, a := f.intern(p, name, n, a, f.tick())
	f.renamed(p, name)
	return f.entry(i, a), 0
}

// Mkdir implements fuse.Mkdirer.
func (f *FS) Mkdir(ctx context.Context, parent uint64, name string, mode, umask uint32) (fuse.Entry, syscall.Errno) {
	p, no := f.inode(parent)
	if no != 0 {
		return fuse.Entry{}, no
	}
	return f.make(ctx, p, name, func(ctx context.Context) (volume.Node, volume.Attr, error) {
		return f.vol.Mkdir(ctx, p.node, name, mode&^umask)
	})
}

// Symlink implements fuse.Symlinker.
func (f *FS) Symlink(ctx context.Context, parent uint64, name, target string) (fuse.Entry, syscall.Errno) {
	p, no := f.inode(parent)
	if no != 0 {
		return fuse.Entry{}, no
	}
	v, ok := f.vol.(volume.Symlinker)
	if !ok {
		return fuse.Entry{}, syscall.EPERM
	}
	return f.make(ctx, p, name, func(ctx context.Context) (volume.Node, volume.Attr, error) {
		return v.Symlink(ctx, p.node, name, target)
	})
}

// Mknod implements fuse.Mknoder. Regular files need no ability of the volume.
func (f *FS) Mknod(ctx context.Context, parent uint64, name string, mode, umask, rdev uint32) (fuse.Entry, syscall.Errno) {
	p, no := f.inode(parent)
	if no != 0 {
		return fuse.Entry{}, no
	}
	if v, ok := f.vol.(volume.Mknoder); ok {
		return f.make(ctx, p, name, func(ctx context.Context) (volume.Node, volume.Attr, error) {
			return v.Mknod(ctx, p.node, name, mode&^umask, rdev)
		})
	}
	if mode&syscall.S_IFMT != syscall.S_IFREG && mode&syscall.S_IFMT != 0 {
		return fuse.Entry{}, syscall.EPERM
	}
	return f.make(ctx, p, name, func(ctx context.Context) (volume.Node, volume.Attr, error) {
		n, a, h, err := f.vol.Create(ctx, p.node, name, syscall.O_WRONLY|syscall.O_CREAT|syscall.O_EXCL, mode&^umask)
		if err != nil {
			return nil, a, err
		}
		if err := h.Close(ctx); err != nil {
			f.vol.Forget(n)
			return nil, a, err
		}
		return n, a, nil
	})
}

// Link implements fuse.Linker.
func (f *FS) Link(ctx context.Context, node, newParent uint64, newName string) (fuse.Entry, syscall.Errno) {
	i, no := f.inode(node)
	if no != 0 {
		return fuse.Entry{}, no
	}
	p, no := f.inode(newParent)
	if no != 0 {
		return fuse.Entry{}, no
	}
	v, ok := f.vol.(volume.Linker)
	if !ok {
		return fuse.Entry{}, syscall.EPERM
	}
	if err := i.settle(ctx, 0, maxOffset); err != nil {
		return fuse.Entry{}, errno(err)
	}
	asked := f.tick()
	var a volume.Attr
	err := f.change(ctx, func(ctx context.Context) (err error) {
		a, err = v.Link(ctx, i.node, p.node, newName)
		return err
	}, p)
	if err != nil {
		return fuse.Entry{}, errno(err)
	}
	f.mu.Lock()
	i.refs++
	f.place(i, p, newName)
	f.touch(p, newName)
	f.mu.Unlock()
	return f.entry(i, i.learn(a, asked)), 0
}

// Readlink implements fuse.Readlinker.
func (f *FS) Readlink(ctx context.Context, node uint64) (string, syscall.Errno) {
	i, no := f.inode(node)
	if no != 0 {
		return "", no
	}
	v, ok := f.vol.(volume.Readlinker)
	if !ok {
		return "", syscall.EINVAL
	}
	s, err := v.Readlink(ctx, i.node)
	return s, errno(err)
}

// Unlink implements fuse.Unlinker.
func (f *FS) Unlink(ctx context.Context, parent uint64, name string) syscall.Errno {
	p, no := f.inode(parent)
	if no != 0 {
		return no
	}
	i := f.child(p, name)
	var hid bool
	err := f.change(ctx, func(ctx context.Context) error {
		return f.takeName(ctx, p, name, func(hidden bool) error {
			if hid = hidden; hidden {
				return nil
			}
			return f.vol.Unlink(ctx, p.node, name)
		})
	}, p)
	if err != nil {
		return errno(err)
	}
	i.doubt()
	f.mu.Lock()
	defer f.mu.Unlock()
	if !hid {
		f.unplace(p, name)
	}
	f.touch(p, name)
	return 0
}

// Rmdir implements fuse.Rmdirer. A directory in which only hidden files are
// left is not empty, as with NFS.
func (f *FS) Rmdir(ctx context.Context, parent uint64, name string) syscall.Errno {
	p, no := f.inode(parent)
	if no != 0 {
		return no
	}
	dir := f.child(p, name)
	hiding := f.hiding(dir)
	err := f.change(ctx, func(ctx context.Context) error {
		err := f.vol.Rmdir(ctx, p.node, name)
		if errno(err) == syscall.ENOTEMPTY && hiding && f.awaitHidden(ctx, dir) {
			err = f.vol.Rmdir(ctx, p.node, name)
		}
		return err
	}, p)
	if err != nil {
		return errno(err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.unplace(p, name)
	f.touch(p, name)
	return 0
}

// Rename implements fuse.Renamer. An open file that is renamed over is hidden
// first where it must be.
func (f *FS) Rename(ctx context.Context, parent uint64, name string, newParent uint64, newName string, flags uint32) syscall.Errno {
	p, no := f.inode(parent)
	if no != 0 {
		return no
	}
	q, no := f.inode(newParent)
	if no != 0 {
		return no
	}
	i, over := f.child(p, name), f.child(q, newName)
	if i != nil {
		if err := i.settle(ctx, 0, maxOffset); err != nil {
			return errno(err)
		}
	}
	err := f.change(ctx, func(ctx context.Context) error {
		rename := func(bool) error { return f.vol.Rename(ctx, p.node, name, q.node, newName, flags) }
		if flags == 0 && over != nil && over != i && over.typ == syscall.S_IFREG && (i == nil || i.typ != syscall.S_IFDIR) {
			return f.takeName(ctx, q, newName, rename)
		}
		return rename(false)
	}, p, q)
	if err != nil {
		return errno(err)
	}
	i.doubt()
	over.doubt()
	f.mu.Lock()
	defer f.mu.Unlock()
	f.touch(p, name)
	f.touch(q, newName)
	if i == over && i != nil {
		return 0 // two names of one file: rename(2) does nothing
	}
	delete(p.children, name)
	switch {
	case i != nil:
		f.place(i, q, newName)
	default:
		f.unplace(q, newName)
	}
	if flags&unix.RENAME_EXCHANGE != 0 && over != nil {
		f.place(over, p, name)
	}
	return 0
}
