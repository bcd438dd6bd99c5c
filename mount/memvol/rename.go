package memvol

import (
	"context"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lxbridge/lx/mount/volume"
)

// Rename implements volume.Volume, with RENAME_NOREPLACE and RENAME_EXCHANGE.
func (v *Volume) Rename(ctx context.Context, dir volume.Node, name string, newDir volume.Node, newName string, flags uint32) error {
	if err := v.enter(ctx); err != nil {
		return err
	}
	if err := checkName(newName); err != nil {
		return err
	}
	switch flags {
	case 0, unix.RENAME_NOREPLACE, unix.RENAME_EXCHANGE:
	default:
		return syscall.EINVAL
	}
	from, to := dir.(*node), newDir.(*node)
	if from.dir == nil || to.dir == nil {
		return syscall.ENOTDIR
	}
	if from != to {
		v.moving.Lock()
		defer v.moving.Unlock()
	}
	defer lockBoth(from, to)()

	source, target := from.dir.find(name), to.dir.find(newName)
	switch {
	case source == nil || to.dir.dead:
		return syscall.ENOENT
	case from != to && within(to, source):
		return syscall.EINVAL
	case flags == unix.RENAME_EXCHANGE:
		switch {
		case target == nil:
			return syscall.ENOENT
		case from != to && within(from, target):
			return syscall.EINVAL
		}
		exchange(from, name, source, to, newName, target)
		return nil
	case target != nil && flags == unix.RENAME_NOREPLACE:
		return syscall.EEXIST
	case source == target:
		return nil
	case target != nil && from != to && within(from, target):
		return syscall.ENOTEMPTY
	}
	if target != nil {
		if err := replace(source, target, to); err != nil {
			return err
		}
	}
	from.dir.remove(name)
	to.dir.put(newName, source)
	source.movedTo(to, from)
	from.touch()
	to.touch()
	return nil
}

// replace ends target, a name in the locked directory to, for source.
func replace(source, target, to *node) error {
	switch {
	case target.dir == nil && source.dir == nil:
		target.unlinked()
		return nil
	case target.dir == nil:
		return syscall.ENOTDIR
	case source.dir == nil:
		return syscall.EISDIR
	}
	if err := target.kill(); err != nil {
		return err
	}
	to.nlink--
	return nil
}

func exchange(from *node, name string, source *node, to *node, newName string, target *node) {
	if source == target {
		return
	}
	from.dir.put(name, target)
	to.dir.put(newName, source)
	source.movedTo(to, from)
	target.movedTo(from, to)
	from.touch()
	to.touch()
}

// movedTo marks that n's name moved from one directory to another, both locked.
func (n *node) movedTo(to, from *node) {
	if n.dir != nil && from != to {
		n.dir.parent = to
		from.nlink--
		to.nlink++
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.changed(time.Now())
}

// lockBoth locks two directories, the upper first, and answers what unlocks
// them. Where they differ, Volume.moving is held.
func lockBoth(a, b *node) (unlock func()) {
	if a == b {
		a.mu.Lock()
		return a.mu.Unlock
	}
	if within(a, b) || !within(b, a) && b.ino < a.ino {
		a, b = b, a
	}
	a.mu.Lock()
	b.mu.Lock()
	return func() {
		b.mu.Unlock()
		a.mu.Unlock()
	}
}

// within reports whether n is top or lies below it. Volume.moving is held.
func within(n, top *node) bool {
	if top.dir == nil {
		return false
	}
	for ; n != nil; n = n.dir.parent {
		if n == top {
			return true
		}
	}
	return false
}
