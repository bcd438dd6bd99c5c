// Package owner is what the processes that serve a user, daemon and hub, have in
// common: how they are started, and their sockets, to which only the user's own
// processes, outside of environments, may speak.
package owner

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"

	"golang.org/x/sys/unix"

	"github.com/lxbridge/lx/core/env"
)

// Listen makes the socket of name, which is the daemon's or the hub's, in place of one
// that is there. It accepts only the user's own processes outside of environments.
func Listen(d env.Dirs, name string, log *slog.Logger) (net.Listener, error) {
	if err := d.MakeRuntime(); err != nil {
		return nil, fmt.Errorf("cannot make the socket of the %s: %w", name, err)
	}
	path := d.Socket(name)
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("cannot make the socket of the %s: %w", name, err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
	if err != nil {
		return nil, fmt.Errorf("cannot make the socket of the %s: %w", name, err)
	}
	l.SetUnlinkOnClose(false)
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("cannot make the socket of the %s: %w", name, err), l.Close())
	}
	return &owners{l, log}, nil
}

// owners accepts connections of the user's own processes outside of environments.
type owners struct {
	*net.UnixListener
	log *slog.Logger
}

func (o *owners) Accept() (net.Conn, error) {
	for {
		c, err := o.AcceptUnix()
		if err != nil {
			return nil, err
		}
		if err := admit(c); err != nil {
			if !errors.Is(err, os.ErrNotExist) { // one that asked only whether we are there
				o.log.Warn("client refused", "err", err)
			}
			c.Close()
			continue
		}
		return c, nil
	}
}

// admit refuses other users, and processes in other user namespaces: an
// environment's root is the user outside.
func admit(c *net.UnixConn) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var cred *unix.Ucred
	cerr := raw.Control(func(fd uintptr) { cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	if err := errors.Join(err, cerr); err != nil {
		return err
	}
	if int(cred.Uid) != os.Getuid() {
		return fmt.Errorf("user %d", cred.Uid)
	}
	return sameUsers(cred.Pid)
}

// sameUsers refuses a process in another user namespace.
func sameUsers(pid int32) error {
	var own, theirs unix.Stat_t
	if err := unix.Stat("/proc/self/ns/user", &own); err != nil {
		return err
	}
	err := unix.Stat(fmt.Sprintf("/proc/%d/ns/user", pid), &theirs)
	same := own.Ino == theirs.Ino && own.Dev == theirs.Dev
	if errors.Is(err, unix.EACCES) && os.Getuid() != 0 {
		// Another group (newgrp(1)) keeps us from looking; an ordinary user's
		// own namespaces have other maps than the host's.
		var mine, theirMap []byte
		if mine, err = os.ReadFile("/proc/self/uid_map"); err == nil {
			theirMap, err = os.ReadFile(fmt.Sprintf("/proc/%d/uid_map", pid))
		}
		same = bytes.Equal(mine, theirMap)
	}
	if err != nil {
		return fmt.Errorf("process %d: %w", pid, err)
	}
	if !same {
		return fmt.Errorf("process %d is in another user namespace", pid)
	}
	return nil
}
