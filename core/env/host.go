package env

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Host says what an environment with files of its own sees of the host's, below
// /host. Nothing unless the user says so.
type Host string

const (
	HostHome Host = "home" // the user's home directory
	HostRO   Host = "ro"   // all that the user can read
	HostRW   Host = "rw"   // and change
)

// never are directories that no environment sees, whatever the user says.
var never = []string{"/proc", "/sys", "/dev", "/run", "/var/run"}

// usersOwn are directories of the host's /sys with files of the user's, by which a
// guest, whose root is the user, could end processes and mounts outside: control
// groups, FUSE connections, pinned BPF objects.
var usersOwn = []string{"/sys/fs/cgroup", "/sys/fs/fuse/connections", "/sys/fs/bpf"}

// HideUsersOwn covers them. It has to be called in the keeper's namespaces, from
// which guests inherit the covers, locked.
func HideUsersOwn() error {
	for _, dir := range usersOwn {
		err := unix.Mount("lx", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC|unix.MS_RDONLY, "mode=755,size=4k")
		if err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("cannot hide %s from guests: %w", dir, err)
		}
	}
	return nil
}

// Mount shows the host below /host of the root file system at place, without
// never and the directories hidden, which are lx's own. The masks are made in
// the keeper's user namespace, so that guests cannot lift them.
func (h Host) Mount(place, home string, hidden []string) error {
	from := "/"
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV}
	switch h {
	case "":
		return nil
	case HostHome:
		from = home
	case HostRO:
		attr.Attr_set |= unix.MOUNT_ATTR_RDONLY
	case HostRW:
	default:
		return fmt.Errorf("cannot show the host as %q: want %q, %q or %q", h, HostHome, HostRO, HostRW)
	}
	from, err := filepath.EvalSymlinks(from)
	if err != nil {
		return fmt.Errorf("cannot show the host inside: %w", err)
	}
	root, err := unix.Open(place, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("cannot open the root file system: %w", err)
	}
	defer unix.Close(root)
	if err := unix.Mkdirat(root, "host", 0o755); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("cannot make /host inside: %w", err)
	}
	at, err := unix.Openat(root, "host", unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("cannot use /host inside: %w", err)
	}
	defer unix.Close(at)
	tree, err := unix.OpenTree(unix.AT_FDCWD, from, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE)
	if err != nil {
		return fmt.Errorf("cannot show the host inside: %w", err)
	}
	defer unix.Close(tree)
	if err := unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, &attr); err != nil {
		return fmt.Errorf("cannot show the host inside: %w", err)
	}
	if err := unix.MoveMount(tree, "", at, "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH); err != nil {
		return fmt.Errorf("cannot show the host inside: %w", err)
	}
	for _, dir := range append(hidden, never...) {
		if err := mask(place, from, dir); err != nil {
			return fmt.Errorf("cannot hide %s inside: %w", dir, err)
		}
	}
	return nil
}

// mask covers what /host shows of the host's directory dir, if it is below from.
func mask(place, from, dir string) error {
	real, err := filepath.EvalSymlinks(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	rest, ok := strings.CutPrefix(real, strings.TrimSuffix(from, "/")+"/")
	if !ok {
		return nil
	}
	at := filepath.Join(place, "host", rest)
	return unix.Mount("lx", at, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC|unix.MS_RDONLY, "mode=0,size=4k")
}
