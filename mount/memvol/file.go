package memvol

import (
	"context"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lxbridge/lx/core/fuse"
	"github.com/lxbridge/lx/mount/volume"
	"github.com/lxbridge/lx/mount/volume/lock"
)

// file is an open regular file.
type file struct {
	n    *node
	mode int // O_RDONLY, O_WRONLY, O_RDWR

	mu     sync.Mutex // guards what follows
	closed bool
	owners map[uint64]bool // who locked through this file and may hold locks
}

var _ volume.Handle = (*file)(nil)

// Open implements volume.Volume.
func (v *Volume) Open(ctx context.Context, vn volume.Node, flags int) (volume.Handle, error) {
	if err := v.enter(ctx); err != nil {
		return nil, err
	}
	n := vn.(*node)
	switch n.typ {
	case syscall.S_IFREG:
	case syscall.S_IFDIR:
		return nil, syscall.EISDIR
	case syscall.S_IFLNK:
		return nil, syscall.ELOOP
	default:
		return nil, syscall.ENXIO
	}
	f := &file{n: n, mode: flags & syscall.O_ACCMODE}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.opens++
	if flags&os.O_TRUNC != 0 && f.writable() {
		n.data.truncate(v, 0)
		n.touch()
	}
	return f, nil
}

func (f *file) readable() bool { return f.mode != syscall.O_WRONLY }
func (f *file) writable() bool { return f.mode != syscall.O_RDONLY }

// enter refuses calls on a dead handle, or one without the right.
func (f *file) enter(ctx context.Context, right bool) error {
	if err := f.n.vol.enter(ctx); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed || !right {
		return syscall.EBADF
	}
	return nil
}

// ReadAt implements volume.Handle.
func (f *file) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	if err := f.enter(ctx, f.readable()); err != nil {
		return 0, err
	}
	if off < 0 {
		return 0, syscall.EINVAL
	}
	now := time.Now()
	f.n.mu.RLock()
	n := f.n.data.read(p, off)
	stale := f.n.stale(now)
	f.n.mu.RUnlock()
	if stale {
		f.n.mu.Lock()
		f.n.read(now)
		f.n.mu.Unlock()
	}
	return n, nil
}

// Lend implements volume.Lender: the file cannot be written to meanwhile.
func (f *file) Lend(off int64, n int) ([]byte, fuse.Loan, bool) {
	if f.enter(context.Background(), f.readable()) != nil || off < 0 {
		return nil, nil, false
	}
	now := time.Now()
	f.n.mu.RLock()
	if b, ok := f.n.data.view(off, n); ok && !f.n.stale(now) {
		return b, (*lent)(f.n), true
	}
	f.n.mu.RUnlock()
	return nil, nil, false
}

// lent is a node that is locked for reading.
type lent node

func (n *lent) Return() { n.mu.RUnlock() }

// WriteAt implements volume.Handle.
func (f *file) WriteAt(ctx context.Context, p []byte, off int64) (int, error) {
	if err := f.enter(ctx, f.writable()); err != nil {
		return 0, err
	}
	f.n.mu.Lock()
	defer f.n.mu.Unlock()
	n, err := f.n.data.write(f.n.vol, p, off)
	if n > 0 {
		f.n.touch()
	}
	return n, err
}

// Sync implements volume.Handle.
func (f *file) Sync(ctx context.Context) error { return f.enter(ctx, true) }

// Close implements volume.Handle. It also drops the locks of owners that were
// not told to unlock: those of open file descriptions.
func (f *file) Close(context.Context) error {
	f.mu.Lock()
	if f.closed {
		f.mu.Unlock()
		return syscall.EBADF
	}
	f.closed = true
	owners := f.owners
	f.owners = nil
	f.mu.Unlock()
	for owner := range owners {
		f.n.locks.ReleaseOwner(owner)
	}
	f.n.mu.Lock()
	defer f.n.mu.Unlock()
	f.n.opens--
	f.n.free()
	return nil
}

// Getlk implements volume.Locker.
func (v *Volume) Getlk(ctx context.Context, h volume.Handle, owner uint64, lk fuse.Lk) (fuse.Lk, error) {
	f := h.(*file)
	if err := f.enter(ctx, true); err != nil {
		return lk, err
	}
	return f.n.locks.Get(owner, lk)
}

// Setlk implements volume.Locker. Unlocking the whole file for an owner, as
// closing a descriptor does, ends what this handle knows of the owner.
func (v *Volume) Setlk(ctx context.Context, h volume.Handle, owner uint64, lk fuse.Lk, wait bool) error {
	f := h.(*file)
	right := lk.Type == syscall.F_UNLCK || lk.Type == syscall.F_RDLCK && f.readable() || lk.Type == syscall.F_WRLCK && f.writable()
	if err := f.enter(ctx, right); err != nil {
		return err
	}
	if lk.Type == syscall.F_UNLCK && lk.Start == 0 && lk.End >= lock.EOF {
		f.mu.Lock()
		delete(f.owners, owner)
		f.mu.Unlock()
		f.n.locks.ReleaseOwner(owner)
		return nil
	}
	if err := f.n.locks.Set(ctx, owner, lk, wait); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		f.n.locks.ReleaseOwner(owner)
		return syscall.EBADF
	}
	if f.owners == nil {
		f.owners = map[uint64]bool{}
	}
	f.owners[owner] = true
	return nil
}

// Allocate implements volume.Allocator: all modes but those that shift data.
func (v *Volume) Allocate(ctx context.Context, h volume.Handle, off, n int64, mode uint32) error {
	f := h.(*file)
	if err := f.enter(ctx, f.writable()); err != nil {
		return err
	}
	if off < 0 || n <= 0 {
		return syscall.EINVAL
	}
	if off > maxSize-n {
		return syscall.EFBIG
	}
	end, keep := off+n, mode&unix.FALLOC_FL_KEEP_SIZE != 0
	f.n.mu.Lock()
	defer f.n.mu.Unlock()
	d := &f.n.data
	switch mode &^ unix.FALLOC_FL_KEEP_SIZE {
	case unix.FALLOC_FL_PUNCH_HOLE:
		if !keep {
			return syscall.EOPNOTSUPP
		}
		d.discard(v, off, end)
	case unix.FALLOC_FL_ZERO_RANGE:
		if err := d.allocate(v, off, end); err != nil {
			return err
		}
		d.zero(off, end)
	case 0:
		if err := d.allocate(v, off, end); err != nil {
			return err
		}
	default:
		return syscall.EOPNOTSUPP
	}
	if !keep {
		d.size = max(d.size, end)
	}
	f.n.touch()
	return nil
}

// Seek implements volume.Seeker.
func (v *Volume) Seek(ctx context.Context, h volume.Handle, off int64, whence int) (int64, error) {
	f := h.(*file)
	if err := f.enter(ctx, true); err != nil {
		return 0, err
	}
	f.n.mu.RLock()
	defer f.n.mu.RUnlock()
	return f.n.data.seek(off, whence)
}

// CopyRange implements volume.Copier. It may be cut short: by the end of src,
// by ctx, or by lack of space.
func (v *Volume) CopyRange(ctx context.Context, src volume.Handle, srcOff int64, dst volume.Handle, dstOff, n int64) (int64, error) {
	s, d := src.(*file), dst.(*file)
	if srcOff < 0 || dstOff < 0 || n < 0 || srcOff > maxSize-n || dstOff > maxSize-n ||
		s.n == d.n && srcOff < dstOff+n && dstOff < srcOff+n {
		return 0, syscall.EINVAL
	}
	buf := chunkPool.Get().(*[chunkSize]byte)
	defer chunkPool.Put(buf)
	var done int64
	for done < n {
		part := buf[:min(n-done, chunkSize-(dstOff+done)%chunkSize)]
		r, err := s.ReadAt(ctx, part, srcOff+done)
		if err == nil && r > 0 {
			r, err = d.WriteAt(ctx, part[:r], dstOff+done)
			done += int64(r)
		}
		if err != nil && done == 0 {
			return 0, err
		}
		if err != nil || r < len(part) {
			break
		}
	}
	return done, nil
}
