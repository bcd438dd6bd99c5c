package mount

import (
	"fmt"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/lxbridge/lx/core/fuse"
	"github.com/lxbridge/lx/mount/option"
)

// maxParam is the longest text that fsconfig(2) takes, in bytes without its NUL.
const maxParam = 255

// superblock is a new file system with a mount of it that is attached nowhere.
// It lives as long as there are mounts of it.
type superblock struct {
	// cfg's Subtype, lx.cifs, makes the type fuse.lx.cifs in /proc/mounts. The
	// second dot keeps libmount from looking for /sbin/mount.fuse at a remount.
	cfg   fuse.MountConfig
	conn  int    // the FUSE connection
	mount int    // -1 once it is closed
	dev   uint64 // as stat(2) shows it
}

// newSuperblock makes one in our own user namespace.
func newSuperblock(cfg fuse.MountConfig, flags option.Flags) (sb *superblock, err error) {
	if len(cfg.Source) > maxParam {
		return nil, fmt.Errorf("the source is longer than %d bytes: %w", maxParam, syscall.ENAMETOOLONG)
	}
	context, conn, err := fuse.OpenContext()
	if err != nil {
		return nil, err
	}
	defer unix.Close(context)
	sb = &superblock{cfg: cfg, conn: conn, mount: -1}
	defer func() {
		if err != nil {
			sb.close()
			unix.Close(conn)
		}
	}()
	for _, f := range []struct {
		set  bool
		name string
	}{{flags.Sync, "sync"}, {flags.DirSync, "dirsync"}, {flags.LazyTime, "lazytime"}} {
		if !f.set {
			continue
		}
		if err := unix.FsconfigSetFlag(context, f.name); err != nil {
			return nil, fmt.Errorf("cannot set %s: %w", f.name, err)
		}
	}
	if err := fuse.Configure(context, conn, cfg); err != nil {
		return nil, err
	}
	if sb.mount, err = fuse.Fsmount(context, int(flags.Attr)); err != nil {
		return nil, err
	}
	p, err := identify(sb.mount)
	sb.dev = p.dev
	return sb, err
}

// share gives another context of fsopen("fuse") the same superblock: the
// kernel finds it by the connection.
func (sb *superblock) share(context, conn int) error { return fuse.Configure(context, conn, sb.cfg) }

// close closes the mount; the superblock goes with it unless it was attached.
func (sb *superblock) close() {
	if sb.mount >= 0 {
		unix.Close(sb.mount)
		sb.mount = -1
	}
}

// place is what a descriptor stands on.
type place struct {
	dev  uint64
	root bool // of a mount
}

// identify asks without reaching a server, so it answers on a mount that hangs.
func identify(fd int) (place, error) {
	var st unix.Statx_t
	if err := unix.Statx(fd, "", unix.AT_EMPTY_PATH|unix.AT_STATX_DONT_SYNC|unix.AT_NO_AUTOMOUNT, 0, &st); err != nil {
		return place{}, fmt.Errorf("cannot tell a file's device: %w", err)
	}
	return place{unix.Mkdev(st.Dev_major, st.Dev_minor), st.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0}, nil
}
