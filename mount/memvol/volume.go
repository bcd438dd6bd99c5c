// Package memvol is a volume in memory with all that POSIX and Linux ask of a
// local file system: the reference for other volumes and for the layer above.
package memvol

import (
	"context"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lxbridge/lx/core/fuse"
	"github.com/lxbridge/lx/mount/volume"
	"github.com/lxbridge/lx/mount/volume/lock"
)

const (
	nameMax   = 255
	targetMax = 4095
)

// Options of a new volume.
type Options struct {
	// Size is how many bytes of file data fit; 0 is half of the machine's
	// memory, as for tmpfs.
	Size uint64
	// RootMode is the root's permission bits; 0 is 0755. The root and what lx
	// itself makes belong to this process's user.
	RootMode uint32
}

// Volume is a file system in memory.
type Volume struct {
	root    *node
	size    int64
	waiters lock.Waiters

	used   atomic.Int64 // bytes of pages in use
	nodes  atomic.Int64
	ino    atomic.Uint64
	closed atomic.Bool

	// moving is held while a name changes its directory: the directories'
	// parents stand still for its holder.
	moving sync.Mutex
}

var (
	_ volume.Volume     = (*Volume)(nil)
	_ volume.Symlinker  = (*Volume)(nil)
	_ volume.Readlinker = (*Volume)(nil)
	_ volume.Linker     = (*Volume)(nil)
	_ volume.Mknoder    = (*Volume)(nil)
	_ volume.Xattrer    = (*Volume)(nil)
	_ volume.Locker     = (*Volume)(nil)
	_ volume.Copier     = (*Volume)(nil)
	_ volume.Allocator  = (*Volume)(nil)
	_ volume.Seeker     = (*Volume)(nil)
	_ volume.Accesser   = (*Volume)(nil)
)

// New is an empty volume.
func New(o Options) *Volume {
	v := &Volume{size: int64(o.Size)}
	if v.size == 0 {
		var si unix.Sysinfo_t
		if err := unix.Sysinfo(&si); err == nil {
			v.size = int64(si.Totalram) * int64(si.Unit) / 2
		}
	}
	if o.RootMode == 0 {
		o.RootMode = 0o755
	}
	v.root = v.newNode(context.Background(), nil, syscall.S_IFDIR|o.RootMode, 0)
	return v
}

// enter refuses calls whose caller has gone or whose volume is closed.
func (v *Volume) enter(ctx context.Context) error {
	if v.closed.Load() {
		return syscall.ESHUTDOWN
	}
	return ctx.Err()
}

// Root implements volume.Volume.
func (v *Volume) Root() volume.Node { return v.root }

// Features implements volume.Volume.
func (v *Volume) Features() volume.Features {
	return volume.Features{RealModes: true, UnlinkOpen: true, TimeGranularity: time.Nanosecond, NameMax: nameMax}
}

// Close implements volume.Volume.
func (v *Volume) Close() error {
	v.closed.Store(true)
	return nil
}

// Statfs implements volume.Volume. As many nodes as pages are promised.
func (v *Volume) Statfs(ctx context.Context) (fuse.Statfs, error) {
	if err := v.enter(ctx); err != nil {
		return fuse.Statfs{}, err
	}
	blocks := uint64(v.size) / pageSize
	free := uint64(v.size-v.used.Load()) / pageSize
	nodes := min(uint64(v.nodes.Load()), blocks)
	return fuse.Statfs{
		Blocks: blocks, Bfree: free, Bavail: free, Files: blocks, Ffree: blocks - nodes,
		Bsize: pageSize, Frsize: pageSize, Namelen: nameMax,
	}, nil
}

// reserve takes n bytes of the volume, or gives them back where n is negative.
func (v *Volume) reserve(n int64) error {
	if v.used.Add(n) > v.size && n > 0 {
		v.used.Add(-n)
		return syscall.ENOSPC
	}
	return nil
}

// Lookup implements volume.Volume.
func (v *Volume) Lookup(ctx context.Context, dir volume.Node, name string) (volume.Node, volume.Attr, error) {
	if err := v.enter(ctx); err != nil {
		return nil, volume.Attr{}, err
	}
	if len(name) > nameMax {
		return nil, volume.Attr{}, syscall.ENAMETOOLONG
	}
	d := dir.(*node)
	if d.dir == nil {
		return nil, volume.Attr{}, syscall.ENOTDIR
	}
	d.mu.RLock()
	n := d.dir.find(name)
	if n == nil {
		d.mu.RUnlock()
		return nil, volume.Attr{}, syscall.ENOENT
	}
	n.lookups.Add(1)
	d.mu.RUnlock()
	return n, n.attr(), nil
}

// Forget implements volume.Volume.
func (v *Volume) Forget(n volume.Node) { n.(*node).forget() }

// Getattr implements volume.Volume.
func (v *Volume) Getattr(ctx context.Context, n volume.Node, _ volume.Handle) (volume.Attr, error) {
	if err := v.enter(ctx); err != nil {
		return volume.Attr{}, err
	}
	return n.(*node).attr(), nil
}

// add makes a node with a name in dir and counts one look-up of it. Where the
// name exists it answers that node, without a count, and EEXIST.
func (v *Volume) add(ctx context.Context, dir volume.Node, name string, mode, rdev uint32, target string) (*node, volume.Attr, error) {
	if err := v.enter(ctx); err != nil {
		return nil, volume.Attr{}, err
	}
	if err := checkName(name); err != nil {
		return nil, volume.Attr{}, err
	}
	d := dir.(*node)
	if d.dir == nil {
		return nil, volume.Attr{}, syscall.ENOTDIR
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.dir.dead {
		return nil, volume.Attr{}, syscall.ENOENT
	}
	if d.dir.find(name) != nil {
		return nil, volume.Attr{}, syscall.EEXIST
	}
	n := v.newNode(ctx, d, mode, rdev)
	n.target = target
	n.lookups.Store(1)
	if n.dir != nil {
		d.nlink++
	}
	d.dir.insert(name, n)
	d.touch()
	return n, n.attr(), nil
}

// Create implements volume.Volume.
func (v *Volume) Create(ctx context.Context, dir volume.Node, name string, flags int, mode uint32) (volume.Node, volume.Attr, volume.Handle, error) {
	for {
		n, a, err := v.add(ctx, dir, name, syscall.S_IFREG|mode&0o7777, 0, "")
		if err == nil {
			h, err := v.Open(ctx, n, flags&^os.O_TRUNC)
			if err != nil {
				n.forget()
				return nil, volume.Attr{}, nil, err
			}
			return n, a, h, nil
		}
		if err != syscall.EEXIST || flags&os.O_EXCL != 0 {
			return nil, volume.Attr{}, nil, err
		}
		old, _, err := v.Lookup(ctx, dir, name)
		if err == syscall.ENOENT {
			continue // it went away meanwhile
		}
		if err != nil {
			return nil, volume.Attr{}, nil, err
		}
		h, err := v.Open(ctx, old, flags)
		if err != nil {
			v.Forget(old)
			return nil, volume.Attr{}, nil, err
		}
		return old, old.(*node).attr(), h, nil
	}
}

// Mkdir implements volume.Volume.
func (v *Volume) Mkdir(ctx context.Context, dir volume.Node, name string, mode uint32) (volume.Node, volume.Attr, error) {
	return found(v.add(ctx, dir, name, syscall.S_IFDIR|mode&0o7777, 0, ""))
}

// Symlink implements volume.Symlinker.
func (v *Volume) Symlink(ctx context.Context, dir volume.Node, name, target string) (volume.Node, volume.Attr, error) {
	switch {
	case target == "":
		return nil, volume.Attr{}, syscall.ENOENT
	case len(target) > targetMax:
		return nil, volume.Attr{}, syscall.ENAMETOOLONG
	}
	return found(v.add(ctx, dir, name, syscall.S_IFLNK|0o777, 0, target))
}

// Mknod implements volume.Mknoder.
func (v *Volume) Mknod(ctx context.Context, dir volume.Node, name string, mode, rdev uint32) (volume.Node, volume.Attr, error) {
	switch mode & syscall.S_IFMT {
	case 0:
		mode |= syscall.S_IFREG
	case syscall.S_IFREG, syscall.S_IFIFO, syscall.S_IFSOCK, syscall.S_IFCHR, syscall.S_IFBLK:
	case syscall.S_IFDIR:
		return nil, volume.Attr{}, syscall.EPERM
	default:
		return nil, volume.Attr{}, syscall.EINVAL
	}
	return found(v.add(ctx, dir, name, mode&(syscall.S_IFMT|0o7777), rdev, ""))
}

// found keeps a nil *node from becoming a Node.
func found(n *node, a volume.Attr, err error) (volume.Node, volume.Attr, error) {
	if err != nil {
		return nil, volume.Attr{}, err
	}
	return n, a, nil
}

// Readlink implements volume.Readlinker.
func (v *Volume) Readlink(ctx context.Context, n volume.Node) (string, error) {
	if err := v.enter(ctx); err != nil {
		return "", err
	}
	l := n.(*node)
	if l.typ != syscall.S_IFLNK {
		return "", syscall.EINVAL
	}
	return l.target, nil
}

// Link implements volume.Linker.
func (v *Volume) Link(ctx context.Context, n, dir volume.Node, name string) (volume.Attr, error) {
	if err := v.enter(ctx); err != nil {
		return volume.Attr{}, err
	}
	if err := checkName(name); err != nil {
		return volume.Attr{}, err
	}
	src, d := n.(*node), dir.(*node)
	switch {
	case d.dir == nil:
		return volume.Attr{}, syscall.ENOTDIR
	case src.dir != nil:
		return volume.Attr{}, syscall.EPERM
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case d.dir.dead:
		return volume.Attr{}, syscall.ENOENT
	case d.dir.find(name) != nil:
		return volume.Attr{}, syscall.EEXIST
	}
	src.mu.Lock()
	if src.nlink == 0 {
		src.mu.Unlock()
		return volume.Attr{}, syscall.ENOENT
	}
	src.nlink++
	src.changed(time.Now())
	src.mu.Unlock()
	d.dir.insert(name, src)
	d.touch()
	return src.attr(), nil
}

// Unlink implements volume.Volume.
func (v *Volume) Unlink(ctx context.Context, dir volume.Node, name string) error {
	return v.remove(ctx, dir, name, func(n *node) error {
		if n.dir != nil {
			return syscall.EISDIR
		}
		n.unlinked()
		return nil
	})
}

// Rmdir implements volume.Volume.
func (v *Volume) Rmdir(ctx context.Context, dir volume.Node, name string) error {
	return v.remove(ctx, dir, name, func(n *node) error {
		if n.dir == nil {
			return syscall.ENOTDIR
		}
		if err := n.kill(); err != nil {
			return err
		}
		dir.(*node).nlink--
		return nil
	})
}

// remove takes a name out of dir if end, called with dir locked, agrees.
func (v *Volume) remove(ctx context.Context, dir volume.Node, name string, end func(*node) error) error {
	if err := v.enter(ctx); err != nil {
		return err
	}
	d := dir.(*node)
	if d.dir == nil {
		return syscall.ENOTDIR
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	n := d.dir.find(name)
	if n == nil {
		return syscall.ENOENT
	}
	if err := end(n); err != nil {
		return err
	}
	d.dir.remove(name)
	d.touch()
	return nil
}

// ReadDir implements volume.Volume.
func (v *Volume) ReadDir(ctx context.Context, dir volume.Node) (volume.DirStream, error) {
	if err := v.enter(ctx); err != nil {
		return nil, err
	}
	d := dir.(*node)
	if d.dir == nil {
		return nil, syscall.ENOTDIR
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.read(time.Now())
	return &stream{dir: d, end: d.dir.seq}, nil
}

// Access implements volume.Accesser: modes are real, the kernel checks them.
func (v *Volume) Access(ctx context.Context, _ volume.Node, _ uint32) error { return v.enter(ctx) }

func checkName(name string) error {
	switch {
	case len(name) > nameMax:
		return syscall.ENAMETOOLONG
	case name == "" || name == "." || name == ".." || strings.ContainsAny(name, "/\x00"):
		return syscall.EINVAL
	}
	return nil
}
