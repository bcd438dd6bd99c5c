package supervisor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/lxbridge/lx/core/service"
)

func (v *svc) notifyPath() string { return filepath.Join(v.s.cfg.Run, "notify", v.name) }

// listenNotify makes the run's socket for sd_notify(3) and hears it until ctx ends.
func (v *svc) listenNotify(ctx context.Context, o Owner) error {
	path := v.notifyPath()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("cannot make the notify socket: %w", err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("cannot make the notify socket: %w", err)
	}
	c, err := listenCredentials(path)
	if err != nil {
		return fmt.Errorf("cannot make the notify socket: %w", err)
	}
	err = os.Chmod(path, 0o600)
	if err == nil && o.Creds != nil {
		err = os.Chown(path, o.UID, o.GID)
	}
	if err != nil {
		c.Close()
		return fmt.Errorf("cannot make the notify socket: %w", err)
	}
	mark := v.mark
	v.s.wg.Go(func() {
		defer c.Close()
		defer context.AfterFunc(ctx, func() { c.Close() })()
		b, oob := make([]byte, 4096), make([]byte, unix.CmsgSpace(unix.SizeofUcred))
		for {
			n, oobn, _, _, err := c.ReadMsgUnix(b, oob)
			if err != nil {
				return
			}
			pid, ok := sender(oob[:oobn])
			text := string(b[:n])
			v.s.post(func() {
				if v.mark == mark {
					v.notified(pid, ok, text)
				}
			})
		}
	})
	return nil
}

// sender is the process that the kernel says a message is from.
func sender(oob []byte) (int, bool) {
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return 0, false
	}
	for _, m := range msgs {
		if cred, err := unix.ParseUnixCredentials(&m); err == nil {
			return int(cred.Pid), true
		}
	}
	return 0, false
}

// notified takes a message of sd_notify(3), if it is from a process of the service.
func (v *svc) notified(pid int, known bool, text string) {
	if !known || pid != v.main && !slices.Contains(v.members(), pid) {
		v.note("a message from process %d, which is none of the service's, was ignored", pid)
		return
	}
	for line := range strings.Lines(text) {
		key, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "=")
		switch key {
		case "READY":
			if value == "1" && v.m.State == service.Starting {
				v.awaitReady(v.run)
			}
		case "STATUS":
			v.status = value
		case "MAINPID":
			n, err := strconv.Atoi(value)
			if err != nil || n == v.main || !slices.Contains(v.members(), n) {
				continue
			}
			if exit, ok := v.s.cfg.Adopted(n); ok {
				v.follow(n, exit)
			}
		}
	}
}
