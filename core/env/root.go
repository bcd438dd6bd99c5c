package env

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/lxbridge/lx/core/ns"
)

// hostDevices are the nodes of the host that an environment with files of its
// own has in its /dev.
var hostDevices = []string{"null", "zero", "full", "random", "urandom", "tty", "fuse"}

// enterRoot makes the environment's own files the root: with a /proc of its
// pid namespace, a /dev of named nodes, the host's /sys read-only, an empty
// /run, and what is kept in step with the host. Nothing else of the host stays
// within reach.
func enterRoot(cfg InitConfig) error {
	// What is the host's is taken now, by descriptors; names are looked up
	// only when the new root is the root, so that no link of it leads out.
	host := map[string]int{}
	defer func() {
		for _, fd := range host {
			unix.Close(fd)
		}
	}()
	take := func(name, from string, flags uint) error {
		fd, err := unix.OpenTree(unix.AT_FDCWD, from, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|flags)
		if err != nil {
			return fmt.Errorf("cannot take %s from the host: %w", from, err)
		}
		host[name] = fd
		return nil
	}
	for _, d := range hostDevices {
		if _, err := os.Stat("/dev/" + d); err != nil {
			continue // fuse may be missing: `lx doctor` tells
		}
		if err := take("/dev/"+d, "/dev/"+d, 0); err != nil {
			return err
		}
	}
	if err := take("/sys", "/sys", unix.AT_RECURSIVE); err != nil {
		return err
	}
	if err := take(".", ".", unix.AT_RECURSIVE); err != nil {
		return err
	}
	ro := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC}
	if err := unix.MountSetattr(host["/sys"], "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, &ro); err != nil {
		return fmt.Errorf("cannot make the host's /sys read-only: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("cannot leave the host's mount propagation: %w", err)
	}
	// pivot_root(".", "."): the old root lies on top of the new (pivot_root(2)).
	if err := unix.MoveMount(host["."], "", unix.AT_FDCWD, "/tmp", unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("cannot mount the root file system: %w", err)
	}
	if err := unix.Chdir("/tmp"); err != nil {
		return fmt.Errorf("cannot enter the root: %w", err)
	}
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("cannot make the root file system the root: %w", err)
	}
	if err := populate(host); err != nil {
		return err
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("cannot let go of the host's files: %w", err)
	}
	if err := unix.Chdir("/"); err != nil {
		return fmt.Errorf("cannot enter the root: %w", err)
	}
	if cfg.Map.Kind == ns.Single {
		if err := noSandbox(); err != nil {
			return err
		}
	}
	if err := unix.Sethostname([]byte(cfg.Hostname)); err != nil {
		return fmt.Errorf("cannot set the host name: %w", err)
	}
	return nil
}

// noSandbox tells apt to download as root: it verifies that it became another
// user, of whom there is none.
func noSandbox() error {
	const dir = "/etc/apt/apt.conf.d"
	if st, err := os.Stat(dir); err != nil || !st.IsDir() {
		return nil
	}
	const text = "// Written by lx: this environment has the one user root.\nAPT::Sandbox::User \"root\";\n"
	// Made anew: what was there may be a FIFO that nobody reads.
	err := os.Remove(dir + "/99lx")
	if errors.Is(err, os.ErrNotExist) {
		err = nil
	}
	if err == nil {
		err = os.WriteFile(dir+"/99lx", []byte(text), 0o644)
	}
	if err != nil {
		return fmt.Errorf("cannot tell apt that there is one user: %w", err)
	}
	return nil
}

// populate mounts what programs expect below the root. The host's /proc is
// still there, without which the kernel allows no new one.
func populate(host map[string]int) error {
	const plain = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	for _, m := range []struct {
		at, kind string
		flags    uintptr
		data     string
	}{
		{"/proc", "proc", plain, ""},
		{"/dev", "tmpfs", unix.MS_NOSUID, "mode=755"},
		{"/dev/pts", "devpts", unix.MS_NOSUID | unix.MS_NOEXEC, "newinstance,ptmxmode=0666,mode=620"},
		{"/dev/shm", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=1777"},
		{"/dev/mqueue", "mqueue", plain, ""},
		{"/run", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=755"},
	} {
		if err := directory(m.at); err != nil {
			return err
		}
		if err := unix.Mount(m.kind, m.at, m.kind, m.flags, m.data); err != nil {
			return fmt.Errorf("cannot mount %s: %w", m.at, err)
		}
	}
	if err := directory("/sys"); err != nil {
		return err
	}
	// Locks and the like are where distributions expect them.
	for dir, mode := range map[string]uint32{"/run/lock": 0o1777, "/run/user": 0o755, "/run/mount": 0o755} {
		if err := errors.Join(os.Mkdir(dir, 0o755), unix.Chmod(dir, mode)); err != nil {
			return fmt.Errorf("cannot prepare /run: %w", err)
		}
	}
	for link, to := range map[string]string{"ptmx": "pts/ptmx", "fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2", "core": "/proc/kcore"} {
		if err := os.Symlink(to, "/dev/"+link); err != nil {
			return fmt.Errorf("cannot prepare /dev: %w", err)
		}
	}
	for at, fd := range host {
		if at == "." {
			continue
		}
		if strings.HasPrefix(at, "/dev/") {
			if err := os.WriteFile(at, nil, 0o666); err != nil {
				return fmt.Errorf("cannot prepare %s: %w", at, err)
			}
		}
		if err := unix.MoveMount(fd, "", unix.AT_FDCWD, at, unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_SYMLINKS); err != nil {
			return fmt.Errorf("cannot mount %s: %w", at, err)
		}
	}
	return nil
}

// directory makes at, unless it is a directory already.
func directory(at string) error {
	st, err := os.Lstat(at)
	switch {
	case errors.Is(err, os.ErrNotExist):
		err = os.Mkdir(at, 0o755)
	case err == nil && !st.IsDir():
		err = errors.New("it is no directory")
	}
	if err != nil {
		return fmt.Errorf("cannot use %s of the root file system: %w", at, err)
	}
	return nil
}
