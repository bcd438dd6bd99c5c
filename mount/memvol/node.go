package memvol

import (
	"context"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lxbridge/lx/mount/volume"
	"github.com/lxbridge/lx/mount/volume/lock"
)

// node is an inode. Its space is given back when it has no name, no open
// handle and no look-up.
//
// Locks are taken from the root down: a directory's before those of what it
// contains. Two nodes that are not directories are never locked at once.
type node struct {
	vol    *Volume
	ino    uint64
	typ    uint32 // S_IFMT
	rdev   uint32
	target string // of a symlink

	lookups atomic.Int64
	locks   lock.Table

	mu                  sync.RWMutex // guards what follows
	mode                uint32       // permission bits
	uid, gid            uint32
	nlink               uint32
	opens               int
	freed               bool
	atime, mtime, ctime time.Time
	btime               time.Time
	change              uint64
	xattrs              map[string][]byte
	dir                 *directory // of a directory: not nil, and never changes
	data                data
}

// newNode is a node with one link, made in dir, which is locked, by ctx's caller.
func (v *Volume) newNode(ctx context.Context, dir *node, mode, rdev uint32) *node {
	now := time.Now()
	n := &node{
		vol: v, ino: v.ino.Add(1), typ: mode & syscall.S_IFMT, rdev: rdev, mode: mode & 0o7777, nlink: 1,
		uid: uint32(os.Getuid()), gid: uint32(os.Getgid()),
		atime: now, mtime: now, ctime: now, btime: now, change: 1,
	}
	n.locks.Waiters = &v.waiters
	if c, ok := volume.CallerOf(ctx); ok {
		n.uid, n.gid = c.UID, c.GID
	}
	if n.typ == syscall.S_IFDIR {
		n.nlink = 2
		n.dir = &directory{parent: dir}
	}
	if dir != nil && dir.mode&syscall.S_ISGID != 0 {
		n.gid = dir.gid
		if n.dir != nil {
			n.mode |= syscall.S_ISGID
		}
	}
	v.nodes.Add(1)
	return n
}

func (n *node) attr() volume.Attr {
	n.mu.RLock()
	defer n.mu.RUnlock()
	a := volume.Attr{
		FileID: n.ino, Size: uint64(n.data.size), Allocated: uint64(n.data.used),
		Mode: n.typ | n.mode, Nlink: n.nlink, Rdev: n.rdev, UID: n.uid, GID: n.gid,
		Atime: n.atime, Mtime: n.mtime, Ctime: n.ctime, Btime: n.btime, Change: n.change,
	}
	switch n.typ {
	case syscall.S_IFLNK:
		a.Size = uint64(len(n.target))
	case syscall.S_IFDIR:
		a.Size = uint64(len(n.dir.names))
	}
	return a
}

// changed marks a change of attributes. n is locked.
func (n *node) changed(now time.Time) {
	n.ctime = now
	n.change++
}

// touch marks a change of content. n is locked.
func (n *node) touch() {
	n.mtime = time.Now()
	n.changed(n.mtime)
}

// stale reports whether a read has to move atime: as relatime does, at most
// once after each change and each day. n is locked, for reading at least.
func (n *node) stale(now time.Time) bool {
	return !n.atime.After(n.mtime) || !n.atime.After(n.ctime) || now.Sub(n.atime) > 24*time.Hour
}

// read marks a read. n is locked.
func (n *node) read(now time.Time) {
	if n.stale(now) {
		n.atime = now
	}
}

// forget gives one look-up back.
func (n *node) forget() {
	switch left := n.lookups.Add(-1); {
	case left < 0 && n != n.vol.root:
		panic("memvol: a node was forgotten more often than found")
	case left == 0:
		n.mu.Lock()
		defer n.mu.Unlock()
		n.free()
	}
}

// unlinked takes one link of a file away.
func (n *node) unlinked() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.nlink--
	n.changed(time.Now())
	n.free()
}

// kill ends a directory, if it is empty.
func (n *node) kill() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.dir.names) != 0 {
		return syscall.ENOTEMPTY
	}
	n.dir.dead = true
	n.nlink = 0
	n.changed(time.Now())
	n.free()
	return nil
}

// free gives the space of a node back if nothing leads to it. n is locked.
func (n *node) free() {
	if n.nlink != 0 || n.opens != 0 || n.lookups.Load() > 0 || n.freed {
		return
	}
	n.freed = true
	n.vol.nodes.Add(-1)
	n.data.truncate(n.vol, 0)
}

// Setattr implements volume.Volume. Changing the owner of a file clears its
// set-id bits, as chown(2) does.
func (v *Volume) Setattr(ctx context.Context, vn volume.Node, h volume.Handle, s volume.SetAttr) (volume.Attr, error) {
	if err := v.enter(ctx); err != nil {
		return volume.Attr{}, err
	}
	n := vn.(*node)
	if s.Size != nil {
		switch {
		case n.dir != nil:
			return volume.Attr{}, syscall.EISDIR
		case n.typ != syscall.S_IFREG, h != nil && !h.(*file).writable():
			return volume.Attr{}, syscall.EINVAL
		case *s.Size > maxSize:
			return volume.Attr{}, syscall.EFBIG
		}
	}
	n.mu.Lock()
	now := time.Now()
	if s.Size != nil {
		n.data.truncate(v, int64(*s.Size))
		n.mtime = now
	}
	if s.UID != nil {
		n.uid = *s.UID
	}
	if s.GID != nil {
		n.gid = *s.GID
	}
	if (s.UID != nil || s.GID != nil) && n.typ == syscall.S_IFREG {
		n.mode &^= syscall.S_ISUID
		if n.mode&syscall.S_IXGRP != 0 {
			n.mode &^= syscall.S_ISGID
		}
	}
	if s.Mode != nil {
		n.mode = *s.Mode & 0o7777
	}
	if s.Atime != nil {
		n.atime = *s.Atime
	}
	if s.Mtime != nil {
		n.mtime = *s.Mtime
	}
	if s.Btime != nil {
		n.btime = *s.Btime
	}
	n.changed(now)
	n.mu.Unlock()
	return n.attr(), nil
}

// Getxattr implements volume.Xattrer.
func (v *Volume) Getxattr(ctx context.Context, vn volume.Node, name string) ([]byte, error) {
	if err := v.enterXattr(ctx, name); err != nil {
		return nil, err
	}
	n := vn.(*node)
	n.mu.RLock()
	defer n.mu.RUnlock()
	value, ok := n.xattrs[name]
	if !ok {
		return nil, syscall.ENODATA
	}
	return slices.Clone(value), nil
}

// Setxattr implements volume.Xattrer.
func (v *Volume) Setxattr(ctx context.Context, vn volume.Node, name string, value []byte, flags uint32) error {
	if err := v.enterXattr(ctx, name); err != nil {
		return err
	}
	if len(value) > 64<<10 {
		return syscall.E2BIG
	}
	n := vn.(*node)
	n.mu.Lock()
	defer n.mu.Unlock()
	_, ok := n.xattrs[name]
	switch {
	case ok && flags&unix.XATTR_CREATE != 0:
		return syscall.EEXIST
	case !ok && flags&unix.XATTR_REPLACE != 0:
		return syscall.ENODATA
	}
	if n.xattrs == nil {
		n.xattrs = map[string][]byte{}
	}
	n.xattrs[name] = slices.Clone(value)
	n.changed(time.Now())
	return nil
}

// Listxattr implements volume.Xattrer.
func (v *Volume) Listxattr(ctx context.Context, vn volume.Node) ([]string, error) {
	if err := v.enter(ctx); err != nil {
		return nil, err
	}
	n := vn.(*node)
	n.mu.RLock()
	defer n.mu.RUnlock()
	names := make([]string, 0, len(n.xattrs))
	for name := range n.xattrs {
		names = append(names, name)
	}
	slices.Sort(names)
	return names, nil
}

// Removexattr implements volume.Xattrer.
func (v *Volume) Removexattr(ctx context.Context, vn volume.Node, name string) error {
	if err := v.enterXattr(ctx, name); err != nil {
		return err
	}
	n := vn.(*node)
	n.mu.Lock()
	defer n.mu.Unlock()
	if _, ok := n.xattrs[name]; !ok {
		return syscall.ENODATA
	}
	delete(n.xattrs, name)
	n.changed(time.Now())
	return nil
}

// enterXattr is enter for an attribute's name. Access control lists are in
// system. and would need more than keeping (acl(5)): they are refused.
func (v *Volume) enterXattr(ctx context.Context, name string) error {
	if err := v.enter(ctx); err != nil {
		return err
	}
	prefix, rest, _ := strings.Cut(name, ".")
	switch {
	case prefix != "user" && prefix != "trusted" && prefix != "security":
		return syscall.EOPNOTSUPP
	case rest == "":
		return syscall.EINVAL
	case len(name) > nameMax:
		return syscall.ERANGE
	}
	return nil
}
