package supervisor

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"

	"golang.org/x/sys/unix"

	"github.com/lxbridge/lx/core/service"
)

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
