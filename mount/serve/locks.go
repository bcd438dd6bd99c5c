package serve

import (
	"context"
	"syscall"

	"github.com/lxbridge/lx/core/fuse"
	"github.com/lxbridge/lx/mount/volume"
)

// locker is the server's lock manager, nil where locks hold on this mount only.
func (f *FS) locker() volume.Locker {
	if f.opts.LocalLocks {
		return nil
	}
	l, _ := f.vol.(volume.Locker)
	return l
}

// Getlk implements fuse.Locker.
func (f *FS) Getlk(ctx context.Context, _, fh, owner uint64, lk fuse.Lk, _ bool) (fuse.Lk, syscall.Errno) {
	fl, no := f.file(fh)
	if no != 0 {
		return lk, no
	}
	if l := f.locker(); l != nil {
		out, err := l.Getlk(ctx, fl.h.Handle, owner, lk)
		return out, errno(err)
	}
	out, err := fl.ino.posix.Get(owner, lk)
	return out, errno(err)
}

// Setlk implements fuse.Locker. What was written under a lock is at the server
// before the lock is given back.
func (f *FS) Setlk(ctx context.Context, _, fh, owner uint64, lk fuse.Lk, flock, wait bool) syscall.Errno {
	fl, no := f.file(fh)
	if no != 0 {
		return no
	}
	if flock {
		return errno(fl.ino.flock.Flock(ctx, owner, lk.Type, wait))
	}
	if lk.Type == syscall.F_UNLCK {
		if err := fl.ino.flush(ctx); err != nil && ctx.Err() != nil {
			return errno(err)
		}
	}
	fl.mu.Lock()
	fl.owners[owner] = struct{}{}
	fl.mu.Unlock()
	if l := f.locker(); l != nil {
		return errno(l.Setlk(ctx, fl.h.Handle, owner, lk, wait))
	}
	return errno(fl.ino.posix.Set(ctx, owner, lk, wait))
}

// unlock drops the POSIX locks of an owner that closed a descriptor.
func (fl *file) unlock(owner uint64) {
	fl.mu.Lock()
	delete(fl.owners, owner)
	fl.mu.Unlock()
	fl.ino.posix.ReleaseOwner(owner)
	fl.unlockServer(owner)
}

// unlockAll drops what was locked through this open file (F_OFD_SETLK).
func (fl *file) unlockAll() {
	fl.mu.Lock()
	owners := fl.owners
	fl.owners = nil
	fl.mu.Unlock()
	for o := range owners {
		fl.ino.posix.ReleaseOwner(o)
		fl.unlockServer(o)
	}
}

func (fl *file) unlockServer(owner uint64) {
	l := fl.fs.locker()
	if l == nil {
		return
	}
	all := fuse.Lk{End: 1<<63 - 1, Type: syscall.F_UNLCK}
	if err := l.Setlk(fl.fs.ctx, fl.h.Handle, owner, all, false); err != nil {
		fl.fs.opts.Note(err)
	}
}
