package mount

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/lxbridge/lx/core/guest"
	"github.com/lxbridge/lx/core/seccomp"
	"github.com/lxbridge/lx/mount/option"
	"github.com/lxbridge/lx/mount/volume"
)

const (
	maxPath = 4095 // PATH_MAX without its NUL
	maxType = 255
)

// mount answers mount(2). The table keeps bind mounts, moves and changes of
// propagation away.
func (b *Broker) mount(ctx context.Context, t *seccomp.Trap) seccomp.Reply {
	flags := uint32(t.Args[3])
	if flags&unix.MS_MGC_MSK == unix.MS_MGC_VAL {
		flags &^= unix.MS_MGC_MSK
	}
	if flags&unix.MS_REMOUNT != 0 {
		return b.remount(ctx, t, flags)
	}
	fsType, err := t.ReadString(t.Args[2], maxType)
	if err != nil {
		return goOn
	}
	d, ok := b.ours(fsType)
	if !ok {
		return goOn
	}
	split := option.SplitPlain
	if d != nil {
		split = d.split
	}
	var params []option.Param
	text, err := readData(t)
	if err == nil {
		params, err = split(text)
	}
	if strings.HasPrefix(fsType, "fuse.") && hasDescriptor(params) {
		return goOn
	}
	if err := t.MayMount(); err != nil {
		return fail(err)
	}
	// The order of the kernel: the strings, the target, the options.
	source, serr := readText(t, t.Args[0])
	target, terr := readText(t, t.Args[1])
	if err := errors.Join(serr, terr); err != nil {
		return fail(err)
	}
	place, perr := directory(ctx, t.Thread, target)
	if perr != nil {
		return fail(perr)
	}
	if err == nil && d == nil {
		err = errUnsupported(fsType)
	}
	if err == nil {
		err = b.mountServed(ctx, t, d, fsType, source, names{target, place}, flags, params)
	}
	if err != nil {
		err = fmt.Errorf("cannot mount %s: %w", source, err)
		b.log(ctx, "mount(2)", "tid", t.TID, "target", place, "err", err)
		b.tell(ctx, t.Thread, err)
		return fail(err)
	}
	return seccomp.Reply{}
}

// names are a target as the caller said it, and for people: mount.cifs says ".".
type names struct{ said, real string }

func (b *Broker) mountServed(ctx context.Context, t *seccomp.Trap, d *driver, fsType, source string, target names, flags uint32, params []option.Param) error {
	o := d.options(fsType)
	if err := option.Parse(o, source, params); err != nil {
		return err
	}
	if flags&unix.MS_MANDLOCK != 0 {
		return o.Set(option.Param{Name: "mand"})
	}
	addFlags(&o.General().Mount, flags)
	f, err := b.establish(ctx, t.Thread, request{driver: d, options: o, given: params, target: target.real})
	if err != nil {
		return err
	}
	defer f.close()
	if err := b.notThere(ctx, t.Thread, target, o); err != nil {
		return err
	}
	if err := t.Attach(ctx, f.sb.mount, target.said, t.Commit); err != nil {
		return err
	}
	b.cfg.Log.Info("mounted", "source", source, "target", target.real)
	return nil
}

// notThere refuses to mount on target what is mounted there already, as the
// kernel does, which has one superblock for equal mounts. What else is wrong
// with target is found when it is mounted on.
func (b *Broker) notThere(ctx context.Context, t guest.Thread, target names, o option.Options) error {
	m, at, err := b.find(ctx, t, unix.AT_FDCWD, target.said, 0)
	if err != nil || m == nil {
		return nil
	}
	unix.Close(at)
	if m.options == nil || !o.Same(m.options) {
		return nil
	}
	return &volume.Error{Op: "use", Name: target.real, Errno: syscall.EBUSY, Reason: "the same is mounted there already"}
}

// addFlags puts flags of mount(2) where fsconfig(2) and fsmount(2) have them.
func addFlags(to *option.Flags, flags uint32) {
	to.ReadOnly = to.ReadOnly || flags&unix.MS_RDONLY != 0
	to.Sync = to.Sync || flags&unix.MS_SYNCHRONOUS != 0
	to.DirSync = to.DirSync || flags&unix.MS_DIRSYNC != 0
	to.LazyTime = to.LazyTime || flags&unix.MS_LAZYTIME != 0
	to.Attr |= attributes(flags)
}

// attributes are the MOUNT_ATTR_* of the MS_* flags (do_mount in the kernel).
func attributes(flags uint32) (attr uint64) {
	for _, f := range []struct {
		ms   uint32
		attr uint64
	}{
		{unix.MS_RDONLY, unix.MOUNT_ATTR_RDONLY}, {unix.MS_NOSUID, unix.MOUNT_ATTR_NOSUID},
		{unix.MS_NODEV, unix.MOUNT_ATTR_NODEV}, {unix.MS_NOEXEC, unix.MOUNT_ATTR_NOEXEC},
		{unix.MS_NODIRATIME, unix.MOUNT_ATTR_NODIRATIME}, {unix.MS_NOSYMFOLLOW, unix.MOUNT_ATTR_NOSYMFOLLOW},
	} {
		if flags&f.ms != 0 {
			attr |= f.attr
		}
	}
	switch {
	case flags&unix.MS_STRICTATIME != 0:
		attr |= unix.MOUNT_ATTR_STRICTATIME
	case flags&unix.MS_NOATIME != 0:
		attr |= unix.MOUNT_ATTR_NOATIME
	}
	return attr
}

// readText reads a path or source; a null pointer is an empty one.
func readText(t *seccomp.Trap, addr uint64) (string, error) {
	if addr == 0 {
		return "", nil
	}
	return t.ReadString(addr, maxPath)
}

// readData reads mount(2)'s data as the kernel copies it: up to a page, or to
// where the memory ends.
func readData(t *seccomp.Trap) (string, error) {
	if t.Args[4] == 0 {
		return "", nil
	}
	page := make([]byte, option.MaxData+1)
	n, err := t.ReadMemory(t.Args[4], page)
	if err != nil {
		return "", err
	}
	text, _, ended := bytes.Cut(page[:n], []byte{0})
	if !ended && n == len(page) {
		return "", &option.Error{Reason: fmt.Sprintf("more than %d bytes of options", option.MaxData), Errno: syscall.EINVAL}
	}
	return string(text), nil
}

// directory says what would keep a mount from target, before a server is asked,
// and else the directory's path as the caller sees it.
func directory(ctx context.Context, t guest.Thread, target string) (path string, err error) {
	path = target
	err = t.DoAs(ctx, func() error {
		fd, err := unix.Open(target, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		if unix.Fchdir(fd) != nil { // one that may be mounted on and not entered
			return nil
		}
		if wd, err := unix.Getwd(); err == nil && filepath.IsAbs(wd) {
			path = wd
		}
		return nil
	})
	if err != nil {
		return "", err
	}
	return path, nil
}
