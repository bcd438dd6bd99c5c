package mount

import (
	"context"
	"fmt"
	"os"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/lxbridge/lx/core/guest"
	"github.com/lxbridge/lx/core/seccomp"
	"github.com/lxbridge/lx/mount/option"
)

// none says that nothing is mounted that would be ours.
func (b *Broker) none() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.mounts) == 0
}

// find opens what path names for the thread, from dir (a descriptor of the
// thread's, or AT_FDCWD), and tells whose file system it is on. fd is the
// caller's to close when m is not nil. It reaches no server, so it answers on
// a mount that hangs.
func (b *Broker) find(ctx context.Context, t guest.Thread, dir int, path string, flags int) (m *mounted, fd int, err error) {
	from := unix.AT_FDCWD
	if dir != unix.AT_FDCWD {
		if from, err = t.GetFD(dir); err != nil {
			return nil, -1, err
		}
		defer unix.Close(from)
	}
	if path == "" {
		path, flags = ".", flags&^unix.O_NOFOLLOW
	}
	if fd, err = openIn(ctx, t, from, path, unix.O_PATH|flags); err != nil {
		return nil, -1, err
	}
	p, err := identify(fd)
	if err == nil && p.root {
		m = b.lookup(p.dev)
	}
	if m == nil {
		unix.Close(fd)
		return nil, -1, err
	}
	return m, fd, nil
}

// openIn opens a path as the thread would; from is our own descriptor or AT_FDCWD.
func openIn(ctx context.Context, t guest.Thread, from int, path string, flags int) (int, error) {
	opened := make(chan int, 1)
	abandon := func() {
		select {
		case fd := <-opened:
			unix.Close(fd)
		default:
		}
	}
	err := t.DoAs(ctx, func() error {
		fd, err := unix.Openat(from, path, flags|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		opened <- fd
		if ctx.Err() != nil { // nobody may be waiting any more
			abandon()
		}
		return nil
	})
	if err != nil {
		abandon()
		return -1, err
	}
	select {
	case fd := <-opened:
		return fd, nil
	default:
		return -1, context.Cause(ctx)
	}
}

// fspickNone answers fspick(2) while nothing is mounted that is ours.
func (b *Broker) fspickNone(*seccomp.Trap) (seccomp.Reply, bool) {
	return goOn, b.none()
}

const fspickFlags = unix.FSPICK_CLOEXEC | unix.FSPICK_SYMLINK_NOFOLLOW | unix.FSPICK_NO_AUTOMOUNT | unix.FSPICK_EMPTY_PATH

// fspick answers fspick(2): the superblocks of our mounts are ours alone to
// reconfigure.
func (b *Broker) fspick(ctx context.Context, t *seccomp.Trap) seccomp.Reply {
	flags := uint32(t.Args[2])
	path, err := t.ReadString(t.Args[1], maxPath)
	if err != nil || flags&^fspickFlags != 0 || path == "" && flags&unix.FSPICK_EMPTY_PATH == 0 {
		return goOn
	}
	m, at, err := b.find(ctx, t.Thread, int(int32(t.Args[0])), path, noFollow(flags&unix.FSPICK_SYMLINK_NOFOLLOW))
	switch {
	case ctx.Err() != nil:
		return fail(context.Cause(ctx))
	case err != nil || m == nil:
		return goOn
	}
	defer unix.Close(at)
	if err := t.MayMount(); err != nil {
		return fail(err)
	}
	p, err := m.pick(at)
	if err != nil {
		return fail(err)
	}
	c, err := newContext(m.driver, m.Type, m.Source)
	if err != nil {
		_ = p.file.Close() // nothing to lose
		return fail(err)
	}
	c.picked = p
	return b.give(t, c, flags&unix.FSPICK_CLOEXEC != 0)
}

func noFollow(flag uint32) int {
	if flag != 0 {
		return unix.O_NOFOLLOW
	}
	return 0
}

// picked is what a remount collects.
type picked struct {
	*mounted
	file  *os.File // the kernel's context to reconfigure the superblock
	given []option.Param
}

// pick begins to reconfigure the file system that at is a root of.
func (m *mounted) pick(at int) (*picked, error) {
	if m.driver == nil {
		return nil, fmt.Errorf("cannot remount %s: %w", m.Source, errRestarted)
	}
	fd, err := unix.Fspick(at, "", unix.FSPICK_EMPTY_PATH|unix.FSPICK_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("cannot remount %s: %w", m.Source, err)
	}
	return &picked{mounted: m, file: os.NewFile(uintptr(fd), "fscontext")}, nil
}

// superblockFlags are what any context takes (vfs_parse_sb_flag in the kernel).
var superblockFlags = []string{"ro", "rw", "sync", "async", "dirsync", "lazytime", "nolazytime", "mand", "nomand"}

// shown are the options of FUSE in /proc/mounts, which mount(8) gives back at
// a remount.
var shown = []string{"user_id", "group_id", "default_permissions", "allow_other", "max_read", "blksize"}

// set takes an option of a remount.
func (p *picked) set(o option.Param) error {
	switch {
	case slices.Contains(superblockFlags, o.Name):
		return with(p.file, func(fd int) error { return unix.FsconfigSetFlag(fd, o.Name) })
	case slices.Contains(shown, o.Name):
		return nil
	}
	try := p.options.Clone()
	if err := try.Set(o); err != nil {
		return err
	}
	p.given = append(p.given, o)
	return nil
}

// reconfigure does a remount: of the flags, the only thing that can change.
func (p *picked) reconfigure() error {
	if err := unchanged(p.options, p.given); err != nil {
		return err
	}
	return with(p.file, unix.FsconfigReconfigure)
}

// unchanged refuses options that differ from the mounted ones: all that is not
// a flag is settled when the connection is made.
func unchanged(mounted option.Options, given []option.Param) error {
	differs := func(params ...option.Param) (bool, error) {
		o := mounted.Clone()
		for _, p := range params {
			if err := o.Set(p); err != nil {
				return false, err
			}
		}
		return !o.Same(mounted), nil
	}
	if d, err := differs(given...); err != nil || !d {
		return err
	}
	name := ""
	for _, p := range given {
		if d, _ := differs(p); d {
			name = p.Name
			break
		}
	}
	return &option.Error{Name: name, Reason: "a remount cannot change it; unmount and mount again", Errno: syscall.EINVAL}
}

// remount answers mount(2) with MS_REMOUNT.
func (b *Broker) remount(ctx context.Context, t *seccomp.Trap, flags uint32) seccomp.Reply {
	target, err := t.ReadString(t.Args[1], maxPath)
	if err != nil {
		return goOn
	}
	m, at, err := b.find(ctx, t.Thread, unix.AT_FDCWD, target, 0)
	switch {
	case ctx.Err() != nil:
		return fail(context.Cause(ctx))
	case err != nil || m == nil:
		return goOn
	}
	defer unix.Close(at)
	if err := t.MayMount(); err != nil {
		return fail(err)
	}
	if err := m.remount(ctx, t, at, flags); err != nil {
		err = fmt.Errorf("cannot remount %s: %w", m.Source, err)
		b.log(ctx, "mount(2)", "tid", t.TID, "target", target, "err", err)
		b.tell(ctx, t.Thread, err)
		return fail(err)
	}
	return seccomp.Reply{}
}

func (m *mounted) remount(ctx context.Context, t *seccomp.Trap, at int, flags uint32) error {
	text, err := readData(t)
	if err != nil {
		return err
	}
	c, err := m.pick(at)
	if err != nil {
		return err
	}
	defer c.file.Close()
	params, err := m.driver.split(text)
	if err != nil {
		return err
	}
	for _, p := range params {
		if err := c.set(p); err != nil {
			return err
		}
	}
	// What do_remount in the kernel takes from the flags.
	for _, f := range []struct {
		bit     uint32
		on, off string
	}{{unix.MS_RDONLY, "ro", "rw"}, {unix.MS_SYNCHRONOUS, "sync", "async"}, {unix.MS_LAZYTIME, "lazytime", "nolazytime"}} {
		name := f.off
		if flags&f.bit != 0 {
			name = f.on
		}
		if err := c.set(option.Param{Name: name}); err != nil {
			return err
		}
	}
	if err := t.Commit(); err != nil {
		return err
	}
	if err := c.reconfigure(); err != nil {
		return err
	}
	return t.Do(ctx, func() error { return unix.MountSetattr(at, "", unix.AT_EMPTY_PATH, remountAttr(flags)) })
}

// remountAttr is what becomes of a mount's own attributes. Those of access
// times stay when none is asked for.
func remountAttr(flags uint32) *unix.MountAttr {
	const mine = unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC | unix.MOUNT_ATTR_NOSYMFOLLOW
	const times = unix.MS_NOATIME | unix.MS_NODIRATIME | unix.MS_RELATIME | unix.MS_STRICTATIME
	a := &unix.MountAttr{Attr_set: attributes(flags)}
	a.Attr_clr = mine &^ a.Attr_set
	if flags&times != 0 {
		a.Attr_clr |= unix.MOUNT_ATTR__ATIME | unix.MOUNT_ATTR_NODIRATIME&^a.Attr_set
	}
	return a
}
