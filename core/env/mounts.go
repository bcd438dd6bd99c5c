package env

import (
	_ "embed"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/lxbridge/lx/core/ns"
)

//go:embed sudo.sh
var sudoScript string

// setupMounts prepares the mount namespace of the host environment: the host's
// files, with a /proc of the own pid namespace. Where root inside is an
// ordinary user outside, root's home and shell are the user's, so that ssh and
// git find what is theirs, and sudo, whose owner is not mapped, is one that
// needs no rights.
func setupMounts(cfg InitConfig) error {
	if err := mountProc(); err != nil {
		return err
	}
	if cfg.Map.Kind == ns.Root {
		return nil
	}
	if err := mountTable(); err != nil {
		return err
	}
	passwd, err := os.ReadFile("/etc/passwd")
	if err != nil {
		return fmt.Errorf("cannot prepare /etc/passwd: %w", err)
	}
	return overlayFiles([]overlay{
		{"/etc/passwd", rootIsUser(string(passwd), cfg.Home, cfg.Shell), 0o644},
		{"/usr/bin/sudo", sudoScript, 0o755},
	})
}

// mountTable gives the environment a place of its own for what libmount keeps
// of mounts beside /proc/mounts (utab), which on the host is the real root's.
func mountTable() error {
	const dir = "/run/mount"
	if _, err := os.Stat(dir); err != nil {
		return nil
	}
	if err := unix.Mount("lx", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=755"); err != nil {
		return fmt.Errorf("cannot prepare %s: %w", dir, err)
	}
	return nil
}

func mountProc() error {
	err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "")
	if err != nil {
		return fmt.Errorf("cannot mount /proc of the environment (is the host's /proc partly hidden?): %w", err)
	}
	return nil
}

// overlay is a file shown in place of one of the host's.
type overlay struct {
	path, text string
	mode       os.FileMode
}

// overlayFiles binds read-only files over those of the host that exist. The
// files live on a tmpfs that has no name once they are bound.
func overlayFiles(files []overlay) (err error) {
	const scratch = "/tmp"
	if err := unix.Mount("lx", scratch, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=755"); err != nil {
		return fmt.Errorf("cannot prepare the environment's own files: %w", err)
	}
	defer func() {
		if uerr := unix.Unmount(scratch, unix.MNT_DETACH); uerr != nil {
			err = errors.Join(err, fmt.Errorf("cannot finish the environment's own files: %w", uerr))
		}
	}()
	for _, f := range files {
		if _, err := os.Stat(f.path); err != nil {
			continue
		}
		own := filepath.Join(scratch, filepath.Base(f.path))
		if err := os.WriteFile(own, []byte(f.text), f.mode); err != nil {
			return fmt.Errorf("cannot prepare %s: %w", f.path, err)
		}
		if err := unix.Mount(own, f.path, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("cannot bind %s: %w", f.path, err)
		}
		if err := unix.Mount("", f.path, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV, ""); err != nil {
			return fmt.Errorf("cannot bind %s read-only: %w", f.path, err)
		}
	}
	return nil
}

// rootIsUser is passwd(5) text in which root has the user's home and shell.
func rootIsUser(passwd, home, shell string) string {
	lines := strings.Split(passwd, "\n")
	for i, l := range lines {
		f := strings.Split(l, ":")
		if len(f) == 7 && f[2] == "0" {
			f[5], f[6] = home, shell
			lines[i] = strings.Join(f, ":")
		}
	}
	return strings.Join(lines, "\n")
}
