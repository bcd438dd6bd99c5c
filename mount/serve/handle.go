package serve

import (
	"context"
	"errors"
	"fmt"
	"syscall"

	"github.com/lxbridge/lx/core/fuse"
	"github.com/lxbridge/lx/mount/volume"
)

// FOPEN_* of linux/fuse.h.
const (
	fopenDirectIO             = 1 << 0
	fopenKeepCache            = 1 << 1
	fopenParallelDirectWrites = 1 << 6
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
	fs      *FS
	fh      uint64
	ino     *inode
	h       *handle
	write   bool
	append  bool
	through bool // what is written goes to the server at once
	durable bool // and to its disk: O_DSYNC, which the kernel leaves to us in direct I/O

	told  uint64 // write failures that this file was told of; inode.mu guards it
	ahead ahead
}

// use is an open handle of i with one of these access modes, or nil; drop
// gives it back.
func (i *inode) use(modes ...int) *handle {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.useLocked(modes...)
}

func (i *inode) useLocked(modes ...int) *handle {
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
			f.opts.Note(fmt.Errorf("cannot close %s: %w", f.nameOf(i), err))
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

// accessMode is what the server is asked for: the kernel's writeback reads the
// rest of pages that it was given a part of.
func (f *FS) accessMode(flags uint32) int {
	mode := int(flags & syscall.O_ACCMODE)
	if mode == syscall.O_WRONLY && f.opts.Cache == Loose {
		return syscall.O_RDWR
	}
	return mode
}

// openHandle opens n, for writing only where it may not be read.
func (f *FS) openHandle(ctx context.Context, n volume.Node, mode int, flags uint32) (volume.Handle, int, error) {
	h, err := f.vol.Open(ctx, n, mode|int(flags&syscall.O_TRUNC))
	if asked := int(flags & syscall.O_ACCMODE); asked != mode && (errno(err) == syscall.EACCES || errno(err) == syscall.EPERM) {
		mode = asked
		h, err = f.vol.Open(ctx, n, mode|int(flags&syscall.O_TRUNC))
	}
	return h, mode, err
}

// Open implements fuse.Opener.
func (f *FS) Open(ctx context.Context, node uint64, flags uint32) (fuse.OpenOut, syscall.Errno) {
	i, no := f.inode(node)
	if no != 0 {
		return fuse.OpenOut{}, no
	}
	// From here on the file cannot be removed for good.
	i.mu.Lock()
	i.opens++
	i.mu.Unlock()
	out, err := f.tryOpen(ctx, i, flags)
	if err != nil {
		f.closed(i)
		if no = errno(err); no == syscall.ENOENT {
			no = syscall.ESTALE // the kernel looks the name up again: another may be there
		}
		return fuse.OpenOut{}, no
	}
	return out, 0
}

// closed ends an open: after the last a hidden file goes.
func (f *FS) closed(i *inode) {
	i.mu.Lock()
	i.opens--
	i.mu.Unlock()
	f.exhume(i)
}

func (f *FS) tryOpen(ctx context.Context, i *inode, flags uint32) (fuse.OpenOut, error) {
	f.mu.Lock()
	replaced := i.replaced
	f.mu.Unlock()
	if replaced {
		return fuse.OpenOut{}, syscall.ESTALE
	}
	asked := f.tick()
	h, opened, err := f.acquire(ctx, i, flags)
	if err != nil {
		return fuse.OpenOut{}, err
	}
	i.mu.Lock()
	a, shown := i.attr, i.shown
	fresh := f.opts.Cache == Loose && i.opens > 1
	i.mu.Unlock()
	if !fresh {
		_, fresh = f.leased(i)
	}
	if !fresh {
		if with, ok := h.Handle.(volume.AttrHandle); ok && opened {
			a, err = f.told(i, with.Opened(), asked, f.lease(i))
		} else {
			a, err = f.refresh(ctx, i)
		}
		if err != nil {
			f.drop(i, h)
			return fuse.OpenOut{}, err
		}
		if a.Size != shown.size || !a.Mtime.Equal(shown.mtime) {
			f.invalidate(i, -1, 0)
		}
	}
	return f.opened(i, h, flags, a), nil
}

// acquire is a handle for an open file: one that is open already, or a new one,
// whose attributes then are of now.
func (f *FS) acquire(ctx context.Context, i *inode, flags uint32) (h *handle, opened bool, err error) {
	mode := f.accessMode(flags)
	if flags&syscall.O_TRUNC != 0 {
		err = i.exclude(ctx, 0, maxOffset, func() error {
			vh, mode, err := f.openHandle(ctx, i.node, mode, flags)
			if err != nil {
				return err
			}
			h = i.adopt(vh, mode)
			i.mu.Lock()
			defer i.mu.Unlock()
			i.attr.Size, i.ours = 0, true
			i.changed = f.tick()
			return nil
		})
		return h, false, err
	}
	modes := []int{syscall.O_RDWR}
	if mode != syscall.O_RDWR {
		modes = []int{mode, syscall.O_RDWR}
	}
	if h := i.use(modes...); h != nil {
		return h, false, nil
	}
	vh, mode, err := f.openHandle(ctx, i.node, mode, flags)
	if err != nil {
		return nil, false, err
	}
	return i.adopt(vh, mode), true, nil
}

// opened makes an open file, which is among inode.opens already, and says what
// the kernel may keep.
func (f *FS) opened(i *inode, h *handle, flags uint32, a volume.Attr) fuse.OpenOut {
	fl := &file{fs: f, ino: i, h: h, write: flags&syscall.O_ACCMODE != syscall.O_RDONLY, append: flags&syscall.O_APPEND != 0,
		through: f.opts.Cache != Strict || flags&syscall.O_DIRECT != 0,
		durable: f.opts.Cache == None && flags&syscall.O_DSYNC != 0}
	lease := f.lease(i)
	i.mu.Lock()
	if i.files == nil {
		i.files = map[*file]struct{}{}
	}
	i.files[fl] = struct{}{}
	fl.told = i.behind.failures
	keep := lease != 0 && i.pages == lease || i.seen.same(a, f.feat.TimeGranularity, i.attrAt) || len(i.behind.pieces) > 0 || f.opts.Cache == Loose && i.opens > 1
	i.seen, i.pages = versionOf(a), 0
	if i.lease == lease {
		i.pages = lease
	}
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
		out.Flags |= fopenDirectIO | fopenParallelDirectWrites
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
	acc := f.accessMode(flags)
	var n volume.Node
	var a volume.Attr
	var vh volume.Handle
	err := f.change(ctx, func(ctx context.Context) (err error) {
		n, a, vh, err = f.vol.Create(ctx, p.node, name, acc|int(flags&(syscall.O_EXCL|syscall.O_TRUNC))|syscall.O_CREAT, mode&^umask)
		return err
	}, p)
	if err != nil {
		return fuse.Entry{}, fuse.OpenOut{}, errno(err)
	}
	i, a := f.intern(p, name, n, a, f.tick())
	f.renamed(p, name)
	i.mu.Lock()
	i.opens++
	i.ours = a.Size == 0
	i.mu.Unlock()
	out := f.opened(i, i.adopt(vh, acc), flags, a)
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
	i := fl.ino
	i.mu.Lock()
	i.leaving++
	i.mu.Unlock()
	if fl.write {
		// close(2) has waited; where it was interrupted this does. A failure was
		// noted as it happened.
		_ = i.flush(f.ctx)
	}
	fl.ahead.dropAll()
	fl.unlockRest()
	i.mu.Lock()
	delete(i.files, fl)
	i.mu.Unlock()
	f.drop(i, fl.h)
	f.closed(i)
	i.mu.Lock()
	i.leaving--
	i.mu.Unlock()
	f.unref(i, 1)
}

// Flush implements fuse.Flusher: close(2) tells of writes that were lost.
func (f *FS) Flush(ctx context.Context, _, fh, lockOwner uint64) syscall.Errno {
	fl, no := f.file(fh)
	if no != 0 {
		return no
	}
	var err error
	if fl.write {
		err = fl.sync(ctx)
		if h, ok := fl.h.Handle.(volume.Flusher); ok && err == nil {
			err = h.Flush(ctx)
		}
		if err == nil {
			fl.settled(ctx)
		}
	}
	return errno(errors.Join(err, f.unlockOwner(ctx, fl, lockOwner)))
}

// keepSize is from how large a file on it is worth a question at close(2)
// whether the pages that were written may stay.
const keepSize = 1 << 20

// settled notes what the server says of a file that was written here alone, so
// that a later open keeps its pages.
func (fl *file) settled(ctx context.Context) {
	i := fl.ino
	i.mu.Lock()
	worth := i.ours && i.attr.Size >= keepSize && fl.fs.opts.Cache == Strict && versionOf(i.attr) != i.seen
	size := i.attr.Size
	i.mu.Unlock()
	if !worth {
		return
	}
	// Where it fails the pages go.
	if a, err := fl.fs.refresh(ctx, i); err == nil && a.Size == size {
		i.mu.Lock()
		i.seen = versionOf(a)
		i.mu.Unlock()
	}
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
	h := fl.ino.use(syscall.O_RDWR, syscall.O_WRONLY)
	if h == nil {
		return 0 // nobody has written
	}
	defer f.drop(fl.ino, h)
	return errno(h.Sync(ctx))
}
