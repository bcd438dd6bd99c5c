package serve

import (
	"context"
	"crypto/rand"
	"io/fs"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/lxbridge/lx/core/fuse"
	"github.com/lxbridge/lx/mount/volume"
)

const modeDir = fs.ModeDir

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

// hiddenPrefix begins the names of files that were removed while open, where
// the server would not keep them: NFS clients call theirs .nfs….
const hiddenPrefix = ".lx-removed-"

func isHidden(name string) bool { return strings.HasPrefix(name, hiddenPrefix) }

// hide renames an open file out of the way before its name goes.
func (f *FS) hide(ctx context.Context, p *inode, name string) error {
	i := f.child(p, name)
	if f.feat.UnlinkOpen || i == nil {
		return nil
	}
	i.mu.Lock()
	open := i.opens > 0
	i.mu.Unlock()
	if !open {
		return nil
	}
	hidden := hiddenPrefix + rand.Text()[:12]
	if err := f.vol.Rename(ctx, p.node, name, p.node, hidden, 0); err != nil {
		return err
	}
	f.mu.Lock()
	delete(p.children, name)
	f.place(i, p, hidden)
	i.hidden = true
	f.mu.Unlock()
	// Its last close may have come meanwhile.
	i.mu.Lock()
	open = i.opens > 0
	i.mu.Unlock()
	if !open {
		f.removeHidden(i)
	}
	return nil
}

// removeHidden removes a hidden file for good, after its last close.
func (f *FS) removeHidden(i *inode) {
	f.mu.Lock()
	p, name, hidden := i.parent, i.name, i.hidden
	i.hidden = false
	f.mu.Unlock()
	if !hidden || p == nil {
		return
	}
	if err := f.vol.Unlink(f.ctx, p.node, name); err != nil {
		f.opts.Note(err)
	}
	f.unplace(p, name)
}

// made answers a node that was just made.
func (f *FS) made(p *inode, name string, n volume.Node, a volume.Attr, err error) (fuse.Entry, syscall.Errno) {
	if err != nil {
		return fuse.Entry{}, errno(err)
	}
	return f.entry(f.intern(p, name, n, a, f.tick())), 0
}

// Mkdir implements fuse.Mkdirer.
func (f *FS) Mkdir(ctx context.Context, parent uint64, name string, mode, umask uint32) (fuse.Entry, syscall.Errno) {
	p, no := f.inode(parent)
	if no != 0 {
		return fuse.Entry{}, no
	}
	n, a, err := f.vol.Mkdir(ctx, p.node, name, mode&^umask)
	return f.made(p, name, n, a, err)
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
	n, a, err := v.Symlink(ctx, p.node, name, target)
	return f.made(p, name, n, a, err)
}

// Mknod implements fuse.Mknoder. Regular files need no ability of the volume.
func (f *FS) Mknod(ctx context.Context, parent uint64, name string, mode, umask, rdev uint32) (fuse.Entry, syscall.Errno) {
	p, no := f.inode(parent)
	if no != 0 {
		return fuse.Entry{}, no
	}
	if v, ok := f.vol.(volume.Mknoder); ok {
		n, a, err := v.Mknod(ctx, p.node, name, mode&^umask, rdev)
		return f.made(p, name, n, a, err)
	}
	if mode&syscall.S_IFMT != syscall.S_IFREG && mode&syscall.S_IFMT != 0 {
		return fuse.Entry{}, syscall.EPERM
	}
	n, a, h, err := f.vol.Create(ctx, p.node, name, syscall.O_WRONLY|syscall.O_CREAT|syscall.O_EXCL, mode&^umask)
	if err == nil {
		err = h.Close(ctx)
	}
	return f.made(p, name, n, a, err)
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
	if err := i.flush(ctx); err != nil {
		return fuse.Entry{}, errno(err)
	}
	asked := f.tick()
	a, err := v.Link(ctx, i.node, p.node, newName)
	if err != nil {
		return fuse.Entry{}, errno(err)
	}
	f.mu.Lock()
	i.refs++
	f.place(i, p, newName)
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
	if err := f.hide(ctx, p, name); err != nil {
		return errno(err)
	}
	if i != nil && f.child(p, name) != i {
		return 0
	}
	if err := f.vol.Unlink(ctx, p.node, name); err != nil {
		return errno(err)
	}
	f.unplace(p, name)
	return 0
}

// Rmdir implements fuse.Rmdirer. A directory in which only hidden files are
// left is not empty, as with NFS.
func (f *FS) Rmdir(ctx context.Context, parent uint64, name string) syscall.Errno {
	p, no := f.inode(parent)
	if no != 0 {
		return no
	}
	if err := f.vol.Rmdir(ctx, p.node, name); err != nil {
		return errno(err)
	}
	f.unplace(p, name)
	return 0
}

// Rename implements fuse.Renamer.
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
		if err := i.flush(ctx); err != nil {
			f.opts.Note(err)
		}
	}
	if flags&(unix.RENAME_NOREPLACE|unix.RENAME_EXCHANGE) == 0 && over != nil && over != i {
		if err := f.hide(ctx, q, newName); err != nil {
			return errno(err)
		}
	}
	if err := f.vol.Rename(ctx, p.node, name, q.node, newName, flags); err != nil {
		return errno(err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(p.children, name)
	if i != nil {
		f.place(i, q, newName)
	}
	if flags&unix.RENAME_EXCHANGE != 0 && over != nil {
		f.place(over, p, name)
	}
	return 0
}
