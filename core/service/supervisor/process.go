package supervisor

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/lxbridge/lx/core/service"
)

// newMark is an INVOCATION_ID (systemd.exec(5)).
func newMark() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // it never fails
	return hex.EncodeToString(b[:])
}

// members are the live processes of this run: those that have its mark in
// their environment, those of its sessions, and children of these. The
// sessions of all that are found are its own from then on, for the mark may be
// written over.
func (v *svc) members() []int {
	list, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	all := map[int]process{}
	var found []int
	for _, e := range list {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		p, ok := stat(pid)
		if !ok {
			continue
		}
		all[pid] = p
		if pid == v.main || v.sessions[p.session] || v.marked(pid) {
			found = append(found, pid)
		}
	}
	for again := true; again; {
		again = false
		for pid, p := range all {
			if slices.Contains(found, p.parent) && !slices.Contains(found, pid) {
				found = append(found, pid)
				again = true
			}
		}
	}
	for _, pid := range found {
		if s := all[pid].session; s > 1 {
			v.sessions[s] = true
		}
	}
	slices.Sort(found)
	return found
}

// process is what /proc/PID/stat says.
type process struct {
	parent, session int
	began           uint64 // in clock ticks since boot
}

// stat reads what /proc says of a process; false for zombies and who is gone.
func stat(pid int) (p process, ok bool) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return p, false
	}
	f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	if len(f) < 20 || f[0] == "Z" || f[0] == "X" {
		return p, false
	}
	var perr, serr, berr error
	p.parent, perr = strconv.Atoi(f[1])
	p.session, serr = strconv.Atoi(f[3])
	p.began, berr = strconv.ParseUint(f[19], 10, 64)
	return p, perr == nil && serr == nil && berr == nil
}

// ticksNow is the time since boot in the kernel's ticks, as starttime has it
// (proc_pid_stat(5)); USER_HZ is 100 on all architectures that Go knows.
func ticksNow() uint64 {
	var ts unix.Timespec
	if unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts) != nil {
		return 0
	}
	return uint64(ts.Sec)*100 + uint64(ts.Nsec)/10_000_000
}

func (v *svc) marked(pid int) bool {
	if v.mark == "" {
		return false
	}
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/environ")
	return err == nil && bytes.Contains(b, []byte("INVOCATION_ID="+v.mark+"\x00"))
}

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
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return fmt.Errorf("cannot make the notify socket: %w", err)
	}
	err = os.Chmod(path, 0o600)
	if err == nil && o.Creds != nil {
		err = os.Chown(path, o.UID, o.GID)
	}
	if raw, rerr := c.SyscallConn(); err == nil {
		err = rerr
		if err == nil {
			cerr := raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PASSCRED, 1) })
			err = errors.Join(err, cerr)
		}
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

// openSockets makes the unit's sockets, unless they are open from before.
func (v *svc) openSockets() error {
	if len(v.sockets) > 0 {
		return nil
	}
	for _, so := range v.m.Unit.Sockets {
		f, err := openSocket(v.s.ctx, so)
		if err != nil {
			v.closeSockets()
			return fmt.Errorf("socket %q: %w", so.Listen, err)
		}
		v.sockets = append(v.sockets, f)
	}
	return nil
}

func openSocket(ctx context.Context, so service.Socket) (*os.File, error) {
	network, address, err := so.Address()
	if err != nil {
		return nil, err
	}
	var lc net.ListenConfig
	var c interface {
		File() (*os.File, error)
		Close() error
	}
	switch network {
	case "udp":
		p, err := lc.ListenPacket(ctx, network, address)
		if err != nil {
			return nil, err
		}
		c = p.(*net.UDPConn)
	case "unix":
		if st, err := os.Lstat(address); err == nil && st.Mode()&os.ModeSocket != 0 {
			if err := os.Remove(address); err != nil { // of a dead one
				return nil, err
			}
		}
		l, err := net.ListenUnix(network, &net.UnixAddr{Name: address, Net: network})
		if err != nil {
			return nil, err
		}
		l.SetUnlinkOnClose(false)
		mode, err := service.Octal(so.Mode, 0o666)
		if err == nil {
			err = os.Chmod(address, os.FileMode(mode))
		}
		if err != nil {
			return nil, errors.Join(err, l.Close())
		}
		c = l
	default:
		l, err := lc.Listen(ctx, network, address)
		if err != nil {
			return nil, err
		}
		c = l.(*net.TCPListener)
	}
	f, err := c.File()
	return f, errors.Join(err, c.Close())
}

func (v *svc) closeSockets() {
	for _, f := range v.sockets {
		f.Close()
	}
	v.sockets = nil
}

// listen opens the sockets of a unit that is started on demand and starts it
// with the first client.
func (s *Supervisor) listen(v *svc) {
	if err := v.openSockets(); err != nil {
		v.fail(service.CannotStart, err.Error())
		return
	}
	// The supervisor's end or a disarm is told through the pipe.
	r, w, err := os.Pipe()
	if err != nil {
		v.fail(service.CannotStart, err.Error())
		return
	}
	fds := []unix.PollFd{{Fd: int32(r.Fd()), Events: unix.POLLIN}}
	for i, f := range v.sockets {
		if v.m.Unit.Sockets[i].OnDemand {
			fds = append(fds, unix.PollFd{Fd: int32(f.Fd()), Events: unix.POLLIN})
		}
	}
	ctx, cancel := context.WithCancel(s.ctx)
	v.unlisten = cancel
	stop := context.AfterFunc(ctx, func() { w.Close() })
	s.wg.Go(func() {
		defer r.Close()
		defer stop()
		for {
			_, err := unix.Poll(fds, -1)
			if errors.Is(err, unix.EINTR) {
				continue
			}
			if err != nil || fds[0].Revents != 0 {
				return
			}
			break
		}
		s.post(func() {
			if ctx.Err() == nil && stopped(&v.m) {
				cancel()
				v.handle(service.Event{Kind: service.Start})
			}
		})
	})
}
