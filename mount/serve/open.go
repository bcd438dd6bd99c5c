package serve

import (
	"context"
	"sync"
	"syscall"
	"time"

	"github.com/lxbridge/lx/core/fuse"
	"github.com/lxbridge/lx/mount/volume"
)

// FOPEN_* of linux/fuse.h.
const (
	fopenDirectIO  = 1 << 0
	fopenKeepCache = 1 << 1
)

// handle is a volume's handle, shared by the open files of an inode that have
// the same access mode.
type handle struct {
	volume.Handle
	mode int // O_RDONLY, O_WRONLY, O_RDWR
	used int // inode.mu guards it
}

// file is an open file.
type file struct {
	fs    *FS
	fh    uint64
	ino   *inode
	h     *handle
	write bool

	mu     sync.Mutex // guards what follows
	owners map[uint64]struct{}
	told   uint64 // write failures that this file has been told of
	ahead  ahead
}

// anyHandle and writable are an open handle of i to use, or nil; drop gives it back.
func (i *inode) anyHandle() *handle { return i.use(syscall.O_RDWR, syscall.O_RDONLY, syscall.O_WRONLY) }
func (i *inode) writable() *handle  { return i.use(syscall.O_RDWR, syscall.O_WRONLY) }

func (i *inode) use(modes ...int) *handle {
	i.mu.Lock()
	defer i.mu.Unlock()
	for _, m := range modes {
		if h := i.shared[m]; h != nil {
			h.used++
			return h
		}
	}
	return nil
}

// drop ends a use; the last closes the handle.
func (f *FS) drop(i *inode, h *handle) {
	i.mu.Lock()
	h.used--
	last := h.used == 0
	if last && i.shared[h.mode] == h {
		i.shared[h.mode] = nil
	}
	i.mu.Unlock()
	if last {
		if err := h.Close(f.ctx); err != nil {
			f.opts.Note(err)
		}
	}
}

// adopt makes a handle that was just opened the inode's, unless there is one.
func (i *inode) adopt(vh volume.Handle, mode int) *handle {
	h := &handle{Handle: vh, mode: mode, used: 1}
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.shared[mode] == nil {
		i.shared[mode] = h
	}
	return h
}

// Open implements fuse.Opener.
func (f *FS) Open(ctx context.Context, node uint64, flags uint32) (fuse.OpenOut, syscall.Errno) {
	i, no := f.inode(node)
	if no != 0 {
		return fuse.OpenOut{}, no
	}
	mode := int(flags & syscall.O_ACCMODE)
	trunc := flags&syscall.O_TRUNC != 0
	var h *handle
	switch mode {
	case syscall.O_RDONLY:
		h = i.use(syscall.O_RDONLY, syscall.O_RDWR)
	case syscall.O_WRONLY:
		h = i.use(syscall.O_WRONLY, syscall.O_RDWR)
	default:
		h = i.use(syscall.O_RDWR)
	}
	if trunc {
		if err := i.flush(ctx); err != nil {
			f.opts.Note(err)
		}
	}
	if h == nil || trunc {
		if trunc {
			i.mu.Lock()
			i.changing(f)
			i.mu.Unlock()
		}
		vh, err := f.vol.Open(ctx, i.node, mode|int(flags&syscall.O_TRUNC))
		if h != nil {
			f.drop(i, h)
		}
		if err != nil {
			return fuse.OpenOut{}, errno(err)
		}
		h = i.adopt(vh, mode)
	}
	// Attributes that the look-up just brought need not be asked again.
	a, ok := i.fresh(min(f.opts.AttrTimeout, time.Second))
	if !ok || trunc {
		asked := f.tick()
		var err error
		if a, err = f.vol.Getattr(ctx, i.node, h.Handle); err != nil {
			f.drop(i, h)
			return fuse.OpenOut{}, errno(err)
		}
		a = i.learn(a, asked)
	}
	return f.opened(i, h, mode, a), 0
}

// opened makes an open file and says what the kernel may keep.
func (f *FS) opened(i *inode, h *handle, mode int, a volume.Attr) fuse.OpenOut {
	fl := &file{fs: f, ino: i, h: h, write: mode != syscall.O_RDONLY, owners: map[uint64]struct{}{}}
	i.mu.Lock()
	i.opens++
	if i.files == nil {
		i.files = map[*file]struct{}{}
	}
	i.files[fl] = struct{}{}
	fl.told = i.behind.failures
	keep := i.seen == versionOf(a) || i.opens > 1 && f.opts.Cache == Loose
	i.seen = versionOf(a)
	i.mu.Unlock()
	f.mu.Lock()
	f.nextFH++
	fl.fh = f.nextFH
	f.files[fl.fh] = fl
	i.refs++
	f.mu.Unlock()
	out := fuse.OpenOut{FH: fl.fh}
	switch {
	case f.opts.Cache == None:
		out.Flags |= fopenDirectIO
	case keep:
		out.Flags |= fopenKeepCache
	}
	return out
}

// Create implements fuse.Creater.
func (f *FS) Create(ctx context.Context, parent uint64, name string, flags, mode, umask uint32) (fuse.Entry, fuse.OpenOut, syscall.Errno) {
	p, no := f.inode(parent)
	if no != 0 {
		return fuse.Entry{}, fuse.OpenOut{}, no
	}
	if isHidden(name) {
		return fuse.Entry{}, fuse.OpenOut{}, syscall.EPERM
	}
	acc := int(flags & syscall.O_ACCMODE)
	asked := f.tick()
	n, a, vh, err := f.vol.Create(ctx, p.node, name, acc|int(flags&(syscall.O_EXCL|syscall.O_TRUNC|syscall.O_CREAT)), mode&^umask)
	if err != nil {
		return fuse.Entry{}, fuse.OpenOut{}, errno(err)
	}
	i, a := f.intern(p, name, n, a, asked)
	out := f.opened(i, i.adopt(vh, acc), acc, a)
	return f.entry(i, a), out, 0
}

// Release implements fuse.Releaser.
func (f *FS) Release(_, fh uint64, flags uint32, lockOwner uint64) {
	fl, no := f.file(fh)
	if no != 0 {
		return
	}
	const flockUnlock = 1 << 1 // FUSE_RELEASE_FLOCK_UNLOCK
	if flags&flockUnlock != 0 {
		fl.ino.flock.ReleaseOwner(lockOwner)
	}
	fl.unlockAll()
	// close(2) has flushed; what a mapping wrote since came through at once.
	if err := fl.ino.flush(f.ctx); err != nil {
		f.opts.Note(err)
	}
	f.release(fl)
}

func (f *FS) release(fl *file) {
	f.mu.Lock()
	_, open := f.files[fl.fh]
	delete(f.files, fl.fh)
	f.mu.Unlock()
	if !open {
		return
	}
	fl.dropAhead()
	i := fl.ino
	i.mu.Lock()
	i.opens--
	last := i.opens == 0
	delete(i.files, fl)
	i.mu.Unlock()
	f.drop(i, fl.h)
	if last {
		f.removeHidden(i)
	}
	f.unref(i, 1)
}

// Flush implements fuse.Flusher: close(2) tells of writes that were lost.
func (f *FS) Flush(ctx context.Context, _, fh, lockOwner uint64) syscall.Errno {
	fl, no := f.file(fh)
	if no != 0 {
		return no
	}
	err := fl.sync(ctx)
	fl.unlock(lockOwner)
	return errno(err)
}

// Fsync implements fuse.Fsyncer.
func (f *FS) Fsync(ctx context.Context, _, fh uint64, _ bool) syscall.Errno {
	fl, no := f.file(fh)
	if no != 0 {
		return no
	}
	if err := fl.sync(ctx); err != nil {
		return errno(err)
	}
	if !fl.write {
		return 0
	}
	return errno(fl.h.Sync(ctx))
}
