package guest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Place puts the mount tree on the directory target in the thread's view, in place of
// one that was put there before. Where the directory is missing it is made, if the files
// are the environment's own; if not, or if that is impossible, as in sysfs, the nearest
// directory above is replaced by a copy on tmpfs with all that was in it bound inside.
// tree stays the caller's to close.
func (t Thread) Place(ctx context.Context, tree int, target string, own bool) error {
	fd, err := unix.FcntlInt(uintptr(tree), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("cannot hold the mount: %w", err)
	}
	err = onThread(ctx, func() error {
		defer unix.Close(fd)
		v, err := t.openView()
		if err != nil {
			return err
		}
		defer v.close()
		if err := v.enter(); err != nil {
			return err
		}
		if err := v.makeDir(target, own); err != nil {
			return err
		}
		if err := displace(target); err != nil {
			return err
		}
		return unix.MoveMount(fd, "", unix.AT_FDCWD, target, unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_SYMLINKS)
	})
	if err != nil {
		return fmt.Errorf("cannot place a mount at %s: %w", target, err)
	}
	return nil
}

// makeDir sees to it that target is there.
func (v view) makeDir(target string, own bool) error {
	st, err := os.Stat(target)
	switch {
	case err == nil && !st.IsDir():
		return unix.ENOTDIR
	case err == nil || !errors.Is(err, unix.ENOENT):
		return err
	case own:
		err = os.MkdirAll(target, 0o755)
		if !errors.Is(err, unix.EACCES) && !errors.Is(err, unix.EPERM) && !errors.Is(err, unix.EROFS) {
			return err
		}
	}
	return v.replace(target)
}

// Remove takes away what Place has put on target.
func (t Thread) Remove(ctx context.Context, target string) error {
	return t.Do(ctx, func() error { return displace(target) })
}

// displace takes a FUSE mount from target, if one is there.
func displace(target string) error {
	for {
		// By attributes that need no answer of its server, who may be dead.
		var st unix.Statx_t
		err := unix.Statx(unix.AT_FDCWD, target, unix.AT_STATX_DONT_SYNC|unix.AT_NO_AUTOMOUNT, unix.STATX_TYPE, &st)
		if err == nil && st.Attributes&unix.STATX_ATTR_MOUNT_ROOT == 0 {
			return nil
		}
		fd, err := unix.Open(target, unix.O_PATH|unix.O_CLOEXEC, 0)
		if errors.Is(err, unix.ENOENT) {
			return nil
		}
		if err != nil {
			return err
		}
		var fs unix.Statfs_t
		err = unix.Fstatfs(fd, &fs)
		unix.Close(fd)
		if err == nil && fs.Type != unix.FUSE_SUPER_MAGIC { // one whose server is dead tells nothing
			return nil
		}
		if err := unix.Unmount(target, unix.MNT_DETACH); err != nil {
			return err
		}
	}
}

// replace makes target in a copy of the nearest directory above it that exists. The
// copy is made in a mount namespace of the calling thread's, so that it appears at once.
func (v view) replace(target string) error {
	dir := path.Dir(target)
	for ; dir != "/"; dir = path.Dir(dir) {
		if _, err := os.Stat(dir); err == nil {
			break
		}
	}
	if dir == "/" {
		return unix.EROFS
	}
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return err
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return err
	}
	if err := copyDir(dir); err != nil {
		return fmt.Errorf("cannot copy %s: %w", dir, err)
	}
	if err := os.MkdirAll(target, 0o755); err != nil {
		return err
	}
	tree, err := unix.OpenTree(unix.AT_FDCWD, dir, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE)
	if err != nil {
		return err
	}
	defer unix.Close(tree)
	if err := v.enter(); err != nil {
		return err
	}
	return unix.MoveMount(tree, "", unix.AT_FDCWD, dir, unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_SYMLINKS)
}

// copyDir mounts a tmpfs on dir in which all that was there is bound.
func copyDir(dir string) error {
	old, err := unix.OpenTree(unix.AT_FDCWD, dir, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE)
	if err != nil {
		return err
	}
	defer unix.Close(old)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	if err := unix.Mount("lx", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=755,size=1m"); err != nil {
		return err
	}
	below := filepath.Join(dir, ".lx-old")
	if err := os.Mkdir(below, 0o700); err != nil {
		return err
	}
	if err := unix.MoveMount(old, "", unix.AT_FDCWD, below, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return err
	}
	for _, e := range entries {
		from, to := filepath.Join(below, e.Name()), filepath.Join(dir, e.Name())
		switch {
		case e.Type()&os.ModeSymlink != 0:
			var link string
			if link, err = os.Readlink(from); err == nil {
				err = os.Symlink(link, to)
			}
			if err != nil {
				return err
			}
			continue
		case e.IsDir():
			err = os.Mkdir(to, 0o755)
		default:
			err = os.WriteFile(to, nil, 0o600)
		}
		if err != nil {
			return err
		}
		if err := unix.Mount(from, to, "", unix.MS_BIND|unix.MS_REC, ""); err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("cannot bind %s: %w", e.Name(), err)
		}
	}
	if err := unix.Unmount(below, unix.MNT_DETACH); err != nil {
		return err
	}
	return os.Remove(below)
}
