package serve

import (
	"context"
	"hash/fnv"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/lxbridge/lx/core/fuse"
	"github.com/lxbridge/lx/mount/volume"
	"github.com/lxbridge/lx/mount/volume/lock"
)

// inode is an object that the kernel or an open file knows.
type inode struct {
	id, ino uint64
	node    volume.Node

	// FS.mu guards these.
	refs     uint64 // the kernel's look-ups, and one for each open file
	parent   *inode // where it was seen last; nil for the root and once it has no name
	name     string
	children map[string]*inode // of a directory: names that the kernel was told
	hidden   bool              // removed while open: name is the hidden one

	posix, flock lock.Table

	mu     sync.Mutex // guards what follows; never held while the server is asked
	attr   volume.Attr
	attrAt time.Time // when the server said so; zero: never
	// changed is the moment of the last change of data or size of our own. What
	// the server was asked before it does not count.
	changed uint64
	seen    version // what the kernel's cached pages are of
	opens   int
	shared  [3]*handle // open handles by access mode, while used
	files   map[*file]struct{}
	behind  behind
}

// version tells whether a file's content may have changed.
type version struct {
	change, size uint64
	mtime        time.Time
}

func versionOf(a volume.Attr) version { return version{a.Change, a.Size, a.Mtime} }

// intern is the inode of a node that the volume answered to a question asked at
// the given moment, with one more reference of the kernel's, and its attributes.
// It gives the volume's reference back where the node was known.
func (f *FS) intern(parent *inode, name string, n volume.Node, a volume.Attr, asked uint64) (*inode, volume.Attr) {
	f.mu.Lock()
	i, known := f.byNode[n]
	if !known {
		f.nextID++
		i = &inode{id: f.nextID, node: n}
		i.posix.Waiters = &f.waiters
		if a.Mode&syscall.S_IFMT == syscall.S_IFDIR {
			i.children = map[string]*inode{}
		}
		i.ino = f.number(a, parent, name, i.id)
		f.inodes[i.id], f.byNode[n], f.byIno[i.ino] = i, i, i
	}
	i.refs++
	if i.id != fuse.RootID {
		f.place(i, parent, name)
	}
	f.mu.Unlock()
	if known {
		f.vol.Forget(n)
	}
	return i, i.learn(a, asked)
}

// number chooses an inode number: the server's, else one of the place where
// the object was found, so that it stays the same after the kernel forgot it.
// The caller holds mu.
func (f *FS) number(a volume.Attr, parent *inode, name string, id uint64) uint64 {
	ino := a.FileID
	if ino == 0 {
		ino = placeNumber(parent, name)
	}
	for {
		if _, taken := f.byIno[ino]; !taken && ino > fuse.RootID {
			return ino
		}
		if a.FileID != 0 && ino > fuse.RootID {
			return ino // two names of one file
		}
		ino = ino*6364136223846793005 + id | 2
	}
}

func placeNumber(parent *inode, name string) uint64 {
	h := fnv.New64a()
	h.Write(strconv.AppendUint(nil, parent.ino, 16))
	h.Write([]byte{'/'})
	h.Write([]byte(name))
	return h.Sum64() >> 1
}

// place notes that i is called name in parent. The caller holds mu.
func (f *FS) place(i, parent *inode, name string) {
	if old := parent.children[name]; old != nil && old != i && old.parent == parent && old.name == name {
		old.parent = nil
	}
	parent.children[name] = i
	i.parent, i.name = parent, name
}

// unplace notes that name is gone from parent.
func (f *FS) unplace(parent *inode, name string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if i := parent.children[name]; i != nil {
		delete(parent.children, name)
		if i.parent == parent && i.name == name {
			i.parent = nil
		}
	}
}

// child is what the kernel knows as name in parent.
func (f *FS) child(parent *inode, name string) *inode {
	f.mu.Lock()
	defer f.mu.Unlock()
	return parent.children[name]
}

// Forget gives back n references of the kernel's.
func (f *FS) Forget(id, n uint64) {
	f.mu.Lock()
	i, ok := f.inodes[id]
	f.mu.Unlock()
	if ok {
		f.unref(i, n)
	}
}

func (f *FS) unref(i *inode, n uint64) {
	f.mu.Lock()
	i.refs -= min(n, i.refs)
	gone := i.refs == 0 && i.id != fuse.RootID && f.inodes[i.id] == i
	if gone {
		delete(f.inodes, i.id)
		delete(f.byNode, i.node)
		if f.byIno[i.ino] == i {
			delete(f.byIno, i.ino)
		}
		if p := i.parent; p != nil && p.children[i.name] == i {
			delete(p.children, i.name)
		}
	}
	f.mu.Unlock()
	if gone {
		f.vol.Forget(i.node)
	}
}

// learn takes attributes for which the server was asked at the given moment,
// and answers them with what it may not have known: our own last writes.
func (i *inode) learn(a volume.Attr, asked uint64) volume.Attr {
	i.mu.Lock()
	defer i.mu.Unlock()
	if !i.attrAt.IsZero() && (asked < i.changed || len(i.behind.pieces) > 0) {
		a.Size, a.Mtime, a.Ctime, a.Change = i.attr.Size, i.attr.Mtime, i.attr.Ctime, i.attr.Change
	}
	i.attr, i.attrAt = a, time.Now()
	return a
}

// changing notes that data or size change. The caller holds mu.
func (i *inode) changing(f *FS) { i.changed = f.tick() }

// touch is changing for who does not hold mu. The size is the server's to say:
// what was known of it is no longer believed.
func (i *inode) touch(f *FS) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.changing(f)
	i.attrAt = time.Time{}
}

// grew notes a write that ends at end. The caller holds mu.
func (i *inode) grew(f *FS, end int64) {
	i.changing(f)
	i.attr.Size = max(i.attr.Size, uint64(end))
	i.attr.Mtime = time.Now()
	i.attr.Ctime = i.attr.Mtime
}

// fresh are attributes not older than limit.
func (i *inode) fresh(limit time.Duration) (volume.Attr, bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.attr, !i.attrAt.IsZero() && time.Since(i.attrAt) < limit
}

// refresh asks the server for i's attributes.
func (f *FS) refresh(ctx context.Context, i *inode) (volume.Attr, error) {
	var h volume.Handle
	if sh := i.anyHandle(); sh != nil {
		defer f.drop(i, sh)
		h = sh.Handle
	}
	asked := f.tick()
	a, err := f.vol.Getattr(ctx, i.node, h)
	if err == nil {
		a = i.learn(a, asked)
	}
	return a, err
}

// show is a, which i has learnt, as the kernel is to see it.
func (f *FS) show(i *inode, a volume.Attr) fuse.Attr {
	if f.opts.Present != nil {
		f.opts.Present(&a)
	}
	f.mu.Lock()
	if i.hidden {
		a.Nlink = 0
	}
	f.mu.Unlock()
	out := fuse.Attr{Ino: i.ino, Size: a.Size, Blocks: (a.Allocated + 511) / 512, Mode: a.Mode, Nlink: a.Nlink,
		UID: a.UID, GID: a.GID, Rdev: a.Rdev, Blksize: uint32(part(f.feat.MaxRead)),
		Atime: stamp(a.Atime, a.Mtime), Mtime: stamp(a.Mtime, a.Mtime), Ctime: stamp(a.Ctime, a.Mtime)}
	return out
}

func stamp(t, other time.Time) syscall.Timespec {
	if t.IsZero() {
		t = other
	}
	if t.IsZero() {
		return syscall.Timespec{}
	}
	return syscall.Timespec{Sec: t.Unix(), Nsec: int64(t.Nanosecond())}
}

func (f *FS) entry(i *inode, a volume.Attr) fuse.Entry {
	return fuse.Entry{Node: i.id, Generation: 1, Attr: f.show(i, a), EntryValid: f.opts.EntryTimeout, AttrValid: f.opts.AttrTimeout}
}

// Lookup implements fuse.FileSystem.
func (f *FS) Lookup(ctx context.Context, parent uint64, name string) (fuse.Entry, syscall.Errno) {
	p, no := f.inode(parent)
	if no != 0 {
		return fuse.Entry{}, no
	}
	if isHidden(name) && f.child(p, name) == nil {
		return fuse.Entry{}, syscall.ENOENT
	}
	asked := f.tick()
	n, a, err := f.vol.Lookup(ctx, p.node, name)
	if err != nil {
		no := errno(err)
		if no == syscall.ENOENT {
			f.unplace(p, name)
			if f.opts.NegativeTimeout > 0 {
				return fuse.Entry{EntryValid: f.opts.NegativeTimeout}, 0
			}
		}
		return fuse.Entry{}, no
	}
	return f.entry(f.intern(p, name, n, a, asked)), 0
}

// Getattr implements fuse.FileSystem.
func (f *FS) Getattr(ctx context.Context, node, _ uint64, _ bool) (fuse.Attr, time.Duration, syscall.Errno) {
	i, no := f.inode(node)
	if no != 0 {
		return fuse.Attr{}, 0, no
	}
	a, err := f.refresh(ctx, i)
	if err != nil {
		return fuse.Attr{}, 0, errno(err)
	}
	return f.show(i, a), f.opts.AttrTimeout, 0
}

// Bits of fuse.SetAttrIn.Valid (FATTR_* of linux/fuse.h).
const (
	fattrMode     = 1 << 0
	fattrUID      = 1 << 1
	fattrGID      = 1 << 2
	fattrSize     = 1 << 3
	fattrAtime    = 1 << 4
	fattrMtime    = 1 << 5
	fattrFH       = 1 << 6
	fattrAtimeNow = 1 << 7
	fattrMtimeNow = 1 << 8
)

// Setattr implements fuse.Setattrer. What was written before is at the server
// before the change, so that a new size or time stays.
func (f *FS) Setattr(ctx context.Context, node uint64, in *fuse.SetAttrIn) (fuse.Attr, time.Duration, syscall.Errno) {
	i, no := f.inode(node)
	if no != 0 {
		return fuse.Attr{}, 0, no
	}
	var s volume.SetAttr
	if in.Valid&fattrMode != 0 {
		m := in.Mode & 0o7777
		s.Mode = &m
	}
	// Where owners are not the server's, chown(2) succeeds without effect, as
	// the kernel's cifs has it.
	if in.Valid&fattrUID != 0 && f.feat.RealModes {
		s.UID = &in.UID
	}
	if in.Valid&fattrGID != 0 && f.feat.RealModes {
		s.GID = &in.GID
	}
	if in.Valid&fattrSize != 0 {
		s.Size = &in.Size
	}
	now := time.Now()
	at := func(set, isNow uint32, t syscall.Timespec) *time.Time {
		switch {
		case in.Valid&isNow != 0:
			return &now
		case in.Valid&set != 0:
			v := time.Unix(t.Unix())
			return &v
		}
		return nil
	}
	s.Atime = at(fattrAtime, fattrAtimeNow, in.Atime)
	s.Mtime = at(fattrMtime, fattrMtimeNow, in.Mtime)
	if s.Size != nil || s.Mtime != nil || s.Mode != nil {
		if err := i.flush(ctx); err != nil {
			return fuse.Attr{}, 0, errno(err)
		}
	}
	var h volume.Handle
	if in.Valid&fattrFH != 0 {
		if fl, no := f.file(in.FH); no == 0 {
			h = fl.h.Handle
		}
	}
	if h == nil {
		if sh := i.writable(); sh != nil {
			defer f.drop(i, sh)
			h = sh.Handle
		}
	}
	if s == (volume.SetAttr{}) {
		return f.Getattr(ctx, node, 0, false)
	}
	i.mu.Lock()
	i.changing(f)
	i.mu.Unlock()
	asked := f.tick()
	a, err := f.vol.Setattr(ctx, i.node, h, s)
	if err != nil {
		return fuse.Attr{}, 0, errno(err)
	}
	a = i.learn(a, asked)
	i.mu.Lock()
	i.changing(f)
	i.mu.Unlock()
	return f.show(i, a), f.opts.AttrTimeout, 0
}
