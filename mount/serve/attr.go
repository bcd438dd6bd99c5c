package serve

import (
	"context"
	"syscall"
	"time"

	"github.com/lxbridge/lx/core/fuse"
	"github.com/lxbridge/lx/mount/volume"
)

// version tells whether a file's content may have changed.
type version struct {
	change, size uint64
	mtime        time.Time
}

// shown is what the kernel was told last.
type shown struct {
	size  uint64
	mtime time.Time
}

func versionOf(a volume.Attr) version { return version{a.Change, a.Size, a.Mtime} }

// same says that nothing changed from v to a, as far as a time of the server's
// granularity, learnt at tells.
func (v version) same(a volume.Attr, granularity time.Duration, learnt time.Time) bool {
	if v != versionOf(a) || v == (version{}) {
		return false
	}
	return a.Change != 0 || granularity < 10*time.Millisecond || learnt.Sub(a.Mtime) > granularity
}

// learn takes attributes for which the server was asked at tick asked, and
// answers what i's attributes are now. Size and times of an answer that may
// not know of our own writes yet do not count.
func (i *inode) learn(a volume.Attr, asked uint64) volume.Attr {
	i.mu.Lock()
	defer i.mu.Unlock()
	if !i.known {
		i.attr, i.known = a, true
	}
	switch {
	case asked < i.asked:
		return i.attr
	case asked < i.changed || len(i.behind.pieces) > 0:
		a.Size, a.Mtime, a.Change = i.attr.Size, i.attr.Mtime, i.attr.Change
	}
	i.attr, i.attrAt, i.asked = a, time.Now(), asked
	i.toldAt = time.Time{}
	return a
}

// wrote notes that bytes up to end were written. The caller holds mu.
func (i *inode) wrote(end int64) {
	i.changed = i.fs.tick()
	i.attr.Size = max(i.attr.Size, uint64(end))
	now := time.Now().Truncate(i.fs.feat.TimeGranularity)
	i.attr.Mtime, i.attr.Ctime = now, now
}

// own are attributes that say what is not at the server yet, where there is
// such and the rest is not older than limit.
func (i *inode) own(limit time.Duration) (volume.Attr, bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.attr, len(i.behind.pieces) > 0 && time.Since(i.attrAt) < limit
}

// modeOnly are the last known attributes of a directory where nobody will see
// more of them than mode and owner. The kernel asks after each change of a
// directory, only to check the permissions of who changes it next, and that
// would cost as much as the change. The answer is not to be kept: who looks at
// the times asks anew, and is told the server's.
func (f *FS) modeOnly(ctx context.Context, i *inode) (volume.Attr, bool) {
	if f.opts.Unseen == nil || i.typ != syscall.S_IFDIR {
		return volume.Attr{}, false
	}
	i.mu.Lock()
	a, young := i.attr, time.Since(i.attrAt) < f.opts.AttrTimeout
	i.mu.Unlock()
	if !young {
		return a, false
	}
	c, ok := fuse.CallerOf(ctx)
	return a, ok && f.opts.Unseen(c)
}

// doubt has i's attributes asked for again: a name of it has changed.
func (i *inode) doubt() {
	if i == nil {
		return
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	i.attrAt, i.toldAt, i.lease = time.Time{}, time.Time{}, 0
}

// refresh asks the server for i's attributes.
func (f *FS) refresh(ctx context.Context, i *inode) (volume.Attr, error) {
	var h volume.Handle
	if sh := i.use(syscall.O_RDWR, syscall.O_RDONLY, syscall.O_WRONLY); sh != nil {
		defer f.drop(i, sh)
		h = sh.Handle
	}
	f.mu.Lock()
	replaced := i.replaced
	f.mu.Unlock()
	if replaced && h == nil {
		return volume.Attr{}, syscall.ESTALE
	}
	lease := f.lease(i)
	asked := f.tick()
	a, err := f.vol.Getattr(ctx, i.node, h)
	if err != nil {
		return a, err
	}
	return f.told(i, a, asked, lease)
}

// told takes attributes of i that were asked for at tick asked, when lease held.
func (f *FS) told(i *inode, a volume.Attr, asked, lease uint64) (volume.Attr, error) {
	if a.Mode&syscall.S_IFMT != i.typ {
		return a, syscall.ESTALE
	}
	a = i.learn(a, asked)
	i.mu.Lock()
	if i.asked <= asked {
		i.lease = lease
	}
	i.mu.Unlock()
	return a, nil
}

// show is a as the kernel is to see it.
func (f *FS) show(i *inode, a volume.Attr) fuse.Attr {
	i.mu.Lock()
	i.shown = shown{a.Size, a.Mtime}
	i.mu.Unlock()
	f.mu.Lock()
	if i.buried != nil && a.Nlink > 0 {
		a.Nlink--
	}
	f.mu.Unlock()
	if f.opts.Present != nil {
		f.opts.Present(&a)
	}
	return fuse.Attr{Ino: i.ino, Size: a.Size, Blocks: (a.Allocated + 511) / 512, Mode: a.Mode, Nlink: a.Nlink,
		UID: a.UID, GID: a.GID, Rdev: a.Rdev, Blksize: uint32(part(f.feat.MaxRead)),
		Atime: stamp(a.Atime, a.Mtime), Mtime: stamp(a.Mtime, a.Mtime), Ctime: stamp(a.Ctime, a.Mtime)}
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
	e := fuse.Entry{Node: i.id, Generation: 1, Attr: f.show(i, a), EntryValid: f.opts.EntryTimeout, AttrValid: f.opts.AttrTimeout}
	f.mu.Lock()
	if i.parent != nil && i.parent.disputed {
		e.EntryValid = 0
	}
	f.mu.Unlock()
	return e
}

// Getattr implements fuse.FileSystem.
func (f *FS) Getattr(ctx context.Context, node, _ uint64, _ bool) (fuse.Attr, time.Duration, syscall.Errno) {
	i, no := f.inode(node)
	if no != 0 {
		return fuse.Attr{}, 0, no
	}
	if a, ok := f.leased(i); ok {
		return f.show(i, a), f.leaseTimeout(), 0
	}
	if a, ok := i.own(f.opts.AttrTimeout); ok {
		return f.show(i, a), f.opts.AttrTimeout, 0
	}
	if a, valid, ok := f.toldAttr(i); ok {
		return f.show(i, a), valid, 0
	}
	if a, valid, ok := f.listedAttr(i); ok {
		return f.show(i, a), valid, 0
	}
	if a, ok := f.modeOnly(ctx, i); ok {
		return f.show(i, a), 0, 0
	}
	start := time.Now()
	a, err := f.refresh(ctx, i)
	if err != nil {
		return fuse.Attr{}, 0, errno(err)
	}
	f.lookedUpAt(i, time.Since(start))
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

// setAttr is what in asks of the volume. Where owners are not the server's,
// chown(2) succeeds without effect, as the kernel's cifs has it.
func (f *FS) setAttr(in *fuse.SetAttrIn) volume.SetAttr {
	var s volume.SetAttr
	if in.Valid&fattrMode != 0 {
		m := in.Mode & 0o7777
		s.Mode = &m
	}
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
	if f.opts.Accept != nil {
		f.opts.Accept(&s)
	}
	return s
}

// Setattr implements fuse.Setattrer. What was written before is at the server
// before the change, so that a new size or time stays.
func (f *FS) Setattr(ctx context.Context, node uint64, in *fuse.SetAttrIn) (fuse.Attr, time.Duration, syscall.Errno) {
	i, no := f.inode(node)
	if no != 0 {
		return fuse.Attr{}, 0, no
	}
	s := f.setAttr(in)
	if s == (volume.SetAttr{}) {
		return f.Getattr(ctx, node, 0, false)
	}
	var h volume.Handle
	if in.Valid&fattrFH != 0 {
		if fl, no := f.file(in.FH); no == 0 {
			h = fl.h.Handle
		}
	}
	if h == nil {
		if sh := i.use(syscall.O_RDWR, syscall.O_WRONLY); sh != nil {
			defer f.drop(i, sh)
			h = sh.Handle
		}
	}
	change := func() (a volume.Attr, err error) {
		a, err = f.vol.Setattr(ctx, i.node, h, s)
		if err == nil {
			i.set(a, s)
		}
		return a, err
	}
	var a volume.Attr
	var err error
	if s.Size != nil {
		err = i.exclude(ctx, int64(min(*s.Size, maxOffset)), maxOffset, func() error { a, err = change(); return err })
	} else if err = i.settle(ctx, 0, maxOffset); err == nil {
		a, err = change()
	}
	if err != nil {
		return fuse.Attr{}, 0, errno(err)
	}
	if in.KillSuidgid {
		a = f.killPrivileges(ctx, i, h, a)
	}
	return f.show(i, a), f.opts.AttrTimeout, 0
}

// set takes attributes that the server answered to our own change s.
func (i *inode) set(a volume.Attr, s volume.SetAttr) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.asked = i.fs.tick()
	i.changed = i.asked
	i.attr, i.attrAt = a, time.Now()
	if s.Size != nil && *s.Size == 0 {
		i.ours = true
	}
}
