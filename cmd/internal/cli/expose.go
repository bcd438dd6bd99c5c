package cli

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/lxbridge/lx/cmd/internal/command"
	"github.com/lxbridge/lx/core/env"
)

// expose mounts what is at target in the environment on the host's directory,
// by fusermount3(1), which may mount for ordinary users.
func expose(ctx context.Context, d env.Dirs, name, target, dir string) error {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	helper, err := exec.LookPath("fusermount3")
	if err != nil {
		return command.WithHint(fmt.Errorf("cannot expose a mount: %w", err), "fusermount3 comes with the package fuse3")
	}
	fd, err := fusermount(ctx, helper, dir, target)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := env.Expose(ctx, d, name, target, fd); err != nil {
		out, uerr := exec.Command(helper, "-u", "-z", "--", dir).CombinedOutput()
		if uerr != nil {
			uerr = fmt.Errorf("cannot unmount %s again: %s", dir, strings.TrimSpace(string(out)))
		}
		return errors.Join(err, uerr)
	}
	return nil
}

// fusermount answers the /dev/fuse descriptor of a new mount on dir, which
// fusermount3 passes over the socket named by _FUSE_COMMFD (libfuse's protocol).
func fusermount(ctx context.Context, helper, dir, target string) (int, error) {
	p, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	ours, theirs := os.NewFile(uintptr(p[0]), "fusermount"), os.NewFile(uintptr(p[1]), "fusermount")
	defer ours.Close()
	defer theirs.Close()
	source := strings.NewReplacer(",", `\,`, `\`, `\\`).Replace("lx:" + target)
	cmd := exec.CommandContext(ctx, helper, "-o", "fsname="+source+",subtype=lx,default_permissions", "--", dir)
	cmd.Env = append(os.Environ(), "_FUSE_COMMFD=3")
	cmd.ExtraFiles = []*os.File{theirs}
	if out, err := cmd.CombinedOutput(); err != nil {
		return -1, fmt.Errorf("cannot mount on %s: %s", dir, strings.TrimSpace(string(out)))
	}
	c, err := net.FileConn(ours)
	if err != nil {
		return -1, err
	}
	defer c.Close()
	_, fds, err := env.ReceiveFDs(c.(*net.UnixConn), make([]byte, 1))
	if err != nil {
		return -1, fmt.Errorf("cannot mount on %s: %w", dir, err)
	}
	if len(fds) != 1 {
		return -1, fmt.Errorf("cannot mount on %s: fusermount3 sent %d descriptors", dir, len(fds))
	}
	return fds[0], nil
}
