package serve

import (
	"context"
	"maps"
	"slices"
	"syscall"

	"github.com/lxbridge/lx/core/fuse"
	"github.com/lxbridge/lx/mount/volume"
	"github.com/lxbridge/lx/mount/volume/lock"
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
// before the lock is given back, and what another client wrote under it before
// is seen once it is had. Locks of flock(2) hold on this mount only.
func (f *FS) Setlk(ctx context.Context, _, fh, owner uint64, lk fuse.Lk, flock, wait bool) syscall.Errno {
	fl, no := f.file(fh)
	if no != 0 {
		return no
	}
	i := fl.ino
	if lk.Type == syscall.F_UNLCK {
		if err := i.settle(ctx, 0, maxOffset); err != nil {
			return errno(err)
		}
	}
	if flock {
		return errno(i.flock.Flock(ctx, owner, lk.Type, wait))
	}
	i.mu.Lock()
	if i.owners == nil {
		i.owners = map[uint64]*file{}
	}
	i.owners[owner] = fl
	i.mu.Unlock()
	l := f.locker()
	if l == nil {
		return errno(i.posix.Set(ctx, owner, lk, wait))
	}
	if err := l.Setlk(ctx, fl.h.Handle, owner, lk, wait); err != nil {
		return errno(err)
	}
	if lk.Type != syscall.F_UNLCK {
		f.revalidate(ctx, i)
		f.dispute(ctx, i)
	}
	return 0
}

// dispute has the server asked, from now on, for each name beside i, which was
// just locked: programs that lock a file rely on what others did to files beside
// it, as SQLite does on whether there is a journal.
func (f *FS) dispute(ctx context.Context, i *inode) {
	f.mu.Lock()
	p := i.parent
	if p == nil || p.disputed {
		f.mu.Unlock()
		return
	}
	p.disputed = true
	names := slices.Collect(maps.Keys(p.children))
	f.mu.Unlock()
	n := f.notifier.Load()
	if n == nil {
		return
	}
	done := make(chan struct{})
	f.work.Go(func() {
		defer close(done)
		for _, name := range names {
			f.notified((*n).NotifyInvalEntry(p.id, name, true))
		}
	})
	select { // as in revalidate
	case <-done:
	case <-ctx.Done():
	}
}

// revalidate drops what is cached of i where the server has something newer.
// Where it cannot be asked, all goes.
func (f *FS) revalidate(ctx context.Context, i *inode) {
	i.mu.Lock()
	seen := i.seen
	i.mu.Unlock()
	a, err := f.refresh(ctx, i)
	i.mu.Lock()
	same := err == nil && seen.same(a, f.feat.TimeGranularity, i.attrAt)
	if !same {
		i.seen = versionOf(a)
	}
	i.mu.Unlock()
	if !same {
		i.dropAhead(0, maxOffset)
		select { // who asks for a lock holds nothing that the kernel waits for
		case <-f.invalidated(i, 0, 0):
		case <-ctx.Done():
		}
	}
}

// unlockOwner drops the POSIX locks of an owner that closed a descriptor.
func (f *FS) unlockOwner(ctx context.Context, fl *file, owner uint64) error {
	i := fl.ino
	i.mu.Lock()
	_, locks := i.owners[owner]
	i.mu.Unlock()
	if !locks {
		return nil
	}
	if err := i.settle(ctx, 0, maxOffset); err != nil {
		return err
	}
	i.mu.Lock()
	delete(i.owners, owner)
	i.mu.Unlock()
	f.unlock(i, fl.h, owner)
	return nil
}

// unlockRest drops what was locked through an open file that is no more and
// not unlocked since: nobody names the owner of an OFD lock at close(2).
func (fl *file) unlockRest() {
	i := fl.ino
	var owners []uint64
	i.mu.Lock()
	for o, by := range i.owners {
		if by == fl {
			owners = append(owners, o)
			delete(i.owners, o)
		}
	}
	i.mu.Unlock()
	for _, o := range owners {
		fl.fs.unlock(i, fl.h, o)
	}
}

func (f *FS) unlock(i *inode, h *handle, owner uint64) {
	i.posix.ReleaseOwner(owner)
	l := f.locker()
	if l == nil {
		return
	}
	if err := l.Setlk(f.ctx, h.Handle, owner, fuse.Lk{End: lock.EOF, Type: syscall.F_UNLCK}, false); err != nil {
		f.opts.Note(err)
	}
}
