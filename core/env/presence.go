package env

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Runtime directories vanish at logout, with the sockets in them, while what
// listens there goes on; and not every login has the same. So each listener
// leaves its process id and the place of its socket in the state directory,
// and makes its socket again when it gets WakeSignal.

// WakeSignal asks a keeper or the daemon to make its socket again.
const WakeSignal = unix.SIGHUP

// wakeLimit is how long a process may take to make its socket again.
const wakeLimit = 2 * time.Second

const pidSuffix = ".pid"

func (d Dirs) pidFile(name string) string { return filepath.Join(d.State, name+pidSuffix) }

// Announce says that this process listens on the socket of name.
func (d Dirs) Announce(name string) error {
	pid := os.Getpid()
	began, err := startTime(pid)
	if err == nil {
		err = os.WriteFile(d.pidFile(name), fmt.Appendf(nil, "%d %s %s\n", pid, began, d.Socket(name)), 0o600)
	}
	if err != nil {
		return fmt.Errorf("cannot leave a trace of %s: %w", name, err)
	}
	return nil
}

// Withdraw takes the announcement back: the process ends as it should. After
// a crash it stays.
func (d Dirs) Withdraw(name string) error {
	if err := os.Remove(d.pidFile(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("cannot remove the trace of %s: %w", name, err)
	}
	return nil
}

// Process is the process that listens for name. announced is true too where
// it has crashed; then pid is 0.
func (d Dirs) Process(name string) (pid int, announced bool) {
	pid, _, announced = d.listener(name)
	return pid, announced
}

// listener is Process with the place of the socket.
func (d Dirs) listener(name string) (pid int, socket string, announced bool) {
	b, err := os.ReadFile(d.pidFile(name))
	if err != nil {
		return 0, "", false
	}
	f := strings.SplitN(strings.TrimSuffix(string(b), "\n"), " ", 3)
	if len(f) != 3 {
		return 0, "", true
	}
	pid, err = strconv.Atoi(f[0])
	if err != nil || pid <= 1 {
		return 0, "", true
	}
	if began, err := startTime(pid); err != nil || began != f[1] {
		return 0, "", true // the number is another process's, or nobody's
	}
	return pid, f[2], true
}

// Names are the environments that a keeper has been announced for.
func (d Dirs) Names() ([]string, error) {
	names, err := os.ReadDir(d.State)
	if err != nil {
		return nil, fmt.Errorf("cannot list running environments: %w", err)
	}
	var out []string
	for _, n := range names {
		if name, ok := strings.CutSuffix(n.Name(), pidSuffix); ok && name != DaemonName && name != HubName {
			out = append(out, name)
		}
	}
	return out, nil
}

var bootID = sync.OnceValues(func() (string, error) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(b)), err
})

// startTime is when a process began, in ticks since boot (proc_pid_stat(5)), and
// which boot: with its id it names the process for ever.
func startTime(pid int) (string, error) {
	boot, err := bootID()
	if err != nil {
		return "", err
	}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return "", err
	}
	f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	const starttime = 22 - 3 // fields are counted from 1, and the first two are cut off
	if len(f) <= starttime {
		return "", errors.New("cannot read when a process began")
	}
	return f[starttime] + "@" + boot, nil
}

// Ended waits until the process pid, that listened for name, is gone.
func (d Dirs) Ended(ctx context.Context, name string, pid int) error {
	if pid == 0 {
		return nil
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot wait for the end of %s: %w", name, err)
	}
	defer unix.Close(fd)
	// A pidfd can be polled, but os.File takes none: a pipe tells of ctx.
	r, w, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("cannot wait for the end of %s: %w", name, err)
	}
	defer r.Close()
	defer w.Close()
	defer context.AfterFunc(ctx, func() { w.Close() })()
	for {
		_, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}, {Fd: int32(r.Fd()), Events: unix.POLLIN}}, -1)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return fmt.Errorf("cannot wait for the end of %s: %w", name, err)
		default:
			return ctx.Err()
		}
	}
}

// DaemonName is whose socket, log and process the daemon's are. No environment
// can have it.
const DaemonName = "daemon"

// HubName is DaemonName for the device hub.
const HubName = "hub"

// dialPrivate connects to a socket in a directory of the user's alone: the place
// of one that has vanished, as below /tmp, may be another user's now.
func dialPrivate(ctx context.Context, socket string) (net.Conn, error) {
	if err := checkPrivate(filepath.Dir(socket), os.Getuid()); err != nil {
		return nil, err
	}
	var nd net.Dialer
	return nd.DialContext(ctx, "unix", socket)
}

// dialSocket connects to the socket of name, which its process makes again if
// it is gone.
func dialSocket(ctx context.Context, d Dirs, name string) (*net.UnixConn, error) {
	absent := func(err error) bool { return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ECONNREFUSED) }
	socket := d.Socket(name)
	c, err := dialPrivate(ctx, socket)
	if absent(err) {
		if _, other, _ := d.listener(name); other != "" && other != socket {
			socket = other
			c, err = dialPrivate(ctx, socket)
		}
	}
	if pid, _ := d.Process(name); absent(err) && pid != 0 && pid != os.Getpid() {
		if errors.Is(err, unix.ENOENT) {
			// If it has just ended, that is seen below.
			_ = unix.Kill(pid, WakeSignal)
		}
		limit := time.After(wakeLimit)
		tick := time.NewTicker(2 * time.Millisecond)
		defer tick.Stop()
		for now := pid; absent(err) && now == pid; now, _ = d.Process(name) {
			select {
			case <-tick.C:
				c, err = dialPrivate(ctx, socket)
				continue
			case <-ctx.Done():
			case <-limit:
			}
			break
		}
	}
	switch {
	case absent(err):
		return nil, ErrNotRunning
	case err != nil:
		return nil, err
	}
	return c.(*net.UnixConn), nil
}

// Follow calls changed whenever a listener may have been announced, until ctx ends.
func (d Dirs) Follow(ctx context.Context, changed func()) error {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return fmt.Errorf("cannot follow environments: %w", err)
	}
	events := os.NewFile(uintptr(fd), "inotify")
	defer events.Close()
	defer context.AfterFunc(ctx, func() { events.Close() })()
	if _, err := unix.InotifyAddWatch(fd, d.State, unix.IN_CLOSE_WRITE); err != nil {
		return fmt.Errorf("cannot follow environments: %w", err)
	}
	buf := make([]byte, 16<<10)
	for {
		n, err := events.Read(buf)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("cannot follow environments: %w", err)
		}
		if bytes.Contains(buf[:n], []byte(pidSuffix+"\x00")) {
			changed()
		}
	}
}

// DialHub connects to the user's device hub.
func DialHub(ctx context.Context, d Dirs) (*net.UnixConn, error) {
	c, err := dialSocket(ctx, d, HubName)
	if err != nil {
		return nil, fmt.Errorf("cannot reach the device hub: %w", err)
	}
	return c, nil
}

// DialDaemon connects to the user's daemon.
func DialDaemon(ctx context.Context, d Dirs) (*net.UnixConn, error) {
	c, err := dialSocket(ctx, d, DaemonName)
	if err != nil {
		return nil, fmt.Errorf("cannot reach the daemon: %w", err)
	}
	return c, nil
}
