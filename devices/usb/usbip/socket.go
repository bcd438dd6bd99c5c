package usbip

import (
	"errors"
	"net"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// smallMessage is what may be written by who has it, where a goroutine more
// would cost more than the write.
const smallMessage = 32 << 10

// peerTime is how long a peer may be silent, with data on the way or without,
// before it counts as lost.
const peerTime = 20 * time.Second

// watchPeer makes a TCP connection notice that its peer has vanished.
func watchPeer(conn net.Conn) error {
	c, ok := conn.(*net.TCPConn)
	if !ok {
		return nil
	}
	err := c.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true, Idle: peerTime / 4, Interval: peerTime / 4, Count: 3})
	raw, e := c.SyscallConn()
	if err = errors.Join(err, e); err != nil {
		return err
	}
	e = raw.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(peerTime.Milliseconds()))
	})
	return errors.Join(err, e)
}

// socket is a connection that can be written to without waiting, where it is a
// bare one.
type socket struct {
	net.Conn
	raw syscall.RawConn // nil: it cannot
}

func newSocket(conn net.Conn) socket {
	s := socket{Conn: conn}
	if c, ok := conn.(syscall.Conn); ok {
		s.raw, _ = c.SyscallConn() // else nil, which is right
	}
	return s
}

// tryWrite writes what the socket takes at once. What is wrong with it is for the
// next Write to tell.
func (s socket) tryWrite(b []byte) int {
	if s.raw == nil {
		return 0
	}
	n := 0
	_ = s.raw.Write(func(fd uintptr) bool { // fails on a closed one
		n, _ = unix.SendmsgN(int(fd), b, nil, nil, unix.MSG_NOSIGNAL|unix.MSG_DONTWAIT)
		return true
	})
	return max(n, 0)
}
