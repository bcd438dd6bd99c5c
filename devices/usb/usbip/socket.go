package usbip

import (
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// smallMessage is what may be written by who has it, where a goroutine more
// would cost more than the write.
const smallMessage = 32 << 10

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
