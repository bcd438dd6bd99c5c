package serve

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"syscall"
	"time"

	"github.com/lxbridge/lx/mount/volume"
)

// hiddenPrefix begins the names of files that were removed while open, where
// the server would not keep them: NFS clients call theirs .nfs…. This mount
// does not list them; where lx dies before their last close they stay, are
// seen, and can be removed.
const hiddenPrefix = ".lx-removed-"

// buriedWait is how long rmdir(2) waits for hidden files to go that are
// perhaps about to: the kernel tells of a file's last close only afterwards.
const buriedWait = time.Second

// grave is where a file was hidden.
type grave struct {
	ino          *inode
	dir          *inode
	name, hidden string
}

// takeName has do take name in p away, by removing it or renaming over it. An
// open file is renamed out of the way first, and removed at its last close.
func (f *FS) takeName(ctx context.Context, p *inode, name string, do func(hidden bool) error) error {
	for n := 0; ; n++ {
		g, err := f.hide(ctx, p, name)
		if err != nil {
			return err
		}
		if err = do(g != nil); err == nil {
			return nil
		}
		if g != nil {
			return errors.Join(err, f.unhide(g))
		}
		switch i := f.child(p, name); {
		case f.feat.UnlinkOpen || i == nil:
			return err
		case i.open(): // since
		case errors.Is(err, syscall.EBUSY) && n < inUseTries && f.inUse(ctx): // its last handle is being closed
		default:
			return err
		}
	}
}

// inUseTries bounds how often what is in use for a moment more is tried again.
const inUseTries = 100

// inUse waits a moment; false where there is nothing to wait for any more.
func (f *FS) inUse(ctx context.Context) bool {
	select {
	case <-time.After(10 * time.Millisecond):
		return f.ctx.Err() == nil
	case <-f.ctx.Done():
	case <-ctx.Done():
	}
	return false
}

// hide renames an open file out of the way; it answers nil where that need not be.
func (f *FS) hide(ctx context.Context, p *inode, name string) (*grave, error) {
	i := f.child(p, name)
	if f.feat.UnlinkOpen || i == nil || !i.open() {
		return nil, nil
	}
	f.mu.Lock()
	kept := i.buried != nil // by the hidden name that another of its links became
	f.mu.Unlock()
	if kept {
		return nil, nil
	}
	g := &grave{i, p, name, hiddenPrefix + rand.Text()[:12]}
	f.mu.Lock()
	p.graves[g.hidden] = true
	f.mu.Unlock()
	if err := f.vol.Rename(ctx, p.node, name, p.node, g.hidden, 0); err != nil {
		f.mu.Lock()
		delete(p.graves, g.hidden)
		f.mu.Unlock()
		return nil, err
	}
	f.mu.Lock()
	delete(p.children, name)
	f.place(i, p, g.hidden)
	i.buried, i.grave = make(chan struct{}), g
	f.mu.Unlock()
	f.exhume(i) // its last close may have come meanwhile
	return g, nil
}

// unhide undoes hide: what was to take the name has failed.
func (f *FS) unhide(g *grave) error {
	f.mu.Lock()
	hidden := g.ino.buried != nil
	f.mu.Unlock()
	if !hidden {
		return nil // it was closed, and is gone
	}
	if err := f.vol.Rename(f.ctx, g.dir.node, g.hidden, g.dir.node, g.name, 0); err != nil {
		return fmt.Errorf("cannot rename %s back to %s: %w", g.hidden, g.name, err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(g.dir.children, g.hidden)
	f.level(g.dir, g.hidden)
	f.place(g.ino, g.dir, g.name)
	f.touch(g.dir, g.name)
	close(g.ino.buried)
	g.ino.buried, g.ino.grave = nil, nil
	return nil
}

// open says that i is open, or being opened. The caller may hold FS.mu.
func (i *inode) open() bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.opens > 0
}

// exhume removes a hidden file that nobody has open any more.
func (f *FS) exhume(i *inode) {
	f.mu.Lock()
	g, gone := i.grave, i.buried
	if gone == nil || i.open() {
		f.mu.Unlock()
		return
	}
	i.buried, i.removing, i.grave = nil, gone, nil
	i.replaced = i.replaced || !i.linked() // who opens it from now on looks it up again
	f.mu.Unlock()
	p, name := g.dir, g.hidden
	err := f.change(f.ctx, func(ctx context.Context) error {
		err := f.vol.Unlink(ctx, p.node, name)
		// Somebody may still read its attributes through the handle: not for long.
		for n := 0; errors.Is(err, syscall.EBUSY) && n < inUseTries && f.inUse(ctx); n++ {
			err = f.vol.Unlink(ctx, p.node, name)
		}
		return err
	}, p)
	if err != nil && !errors.Is(err, syscall.ENOENT) {
		f.opts.Note(&volume.Error{Op: "remove", Name: name, Errno: errno(err), Err: err})
	}
	f.mu.Lock()
	f.unplace(p, name)
	f.level(p, name)
	i.removing = nil
	f.mu.Unlock()
	close(gone)
}

// linked says that an object has other names than its hidden one, for all
// that is known.
func (i *inode) linked() bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.attr.Nlink > 1
}

// level notes that a hidden name is gone. The caller holds mu.
func (f *FS) level(p *inode, name string) {
	delete(p.graves, name)
	f.touch(p, name)
}

// isHidden says that name in p is a file that we have hidden.
func (f *FS) isHidden(p *inode, name string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return p.graves[name]
}

// hiding says that there are hidden files in dir, which may be nil.
func (f *FS) hiding(dir *inode) bool {
	if dir == nil {
		return false
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(dir.graves) > 0
}

// awaitHidden waits for the hidden files of a directory to go. It says whether
// all went.
func (f *FS) awaitHidden(ctx context.Context, dir *inode) bool {
	f.mu.Lock()
	buried := map[*inode]chan struct{}{}
	for _, i := range dir.children {
		if gone := cmp.Or(i.buried, i.removing); gone != nil {
			buried[i] = gone
		}
	}
	f.mu.Unlock()
	late, cancel := context.WithTimeout(ctx, buriedWait)
	defer cancel()
	for i, gone := range buried {
		select {
		case <-gone:
			continue
		case <-late.Done():
		}
		if !i.left() {
			return false
		}
		select { // it is being closed, which takes as long as the server does
		case <-gone:
		case <-ctx.Done():
			return false
		}
	}
	return true
}

// left says that all who had i open are closing it.
func (i *inode) left() bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.opens <= i.leaving
}
