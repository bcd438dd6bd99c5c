package netns

import (
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// conn asks one network namespace, the one in which its socket was made. It
// is for one goroutine at a time.
type conn struct {
	f     *os.File
	buf   []byte
	seq   uint32
	found int // by the last look
}

// bufferSize takes the largest datagram that the kernel makes of an answer.
const bufferSize = 256 << 10

// dial opens a sock_diag(7) socket in the calling thread's network namespace.
func dial(groups uint32) (*conn, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_SOCK_DIAG)
	if err != nil {
		return nil, fmt.Errorf("cannot open sock_diag: %w", err)
	}
	// What is more than the default of the receive buffer would be lost in bursts of events.
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 1<<20); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("cannot open sock_diag: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: groups}); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("cannot open sock_diag: %w", err)
	}
	return newConn(fd), nil
}

// newConn takes over fd, non-blocking: a netlink socket, or a test's.
func newConn(fd int) *conn {
	return &conn{f: os.NewFile(uintptr(fd), "sock_diag"), buf: make([]byte, bufferSize)}
}

// close ends the connection; a reader of it gets os.ErrClosed. What was asked
// needs no end of its own, so that an error has nothing to tell.
func (c *conn) close() { _ = c.f.Close() }

// answerTime bounds how long the kernel may be silent within an answer.
const answerTime = 5 * time.Second

// dump calls f for what r finds. The kernel restarts no dump: one that was
// interrupted by changes tells what it saw.
func (c *conn) dump(r request, f func(Socket)) error {
	c.seq++
	if _, err := c.f.Write(r.encode(c.seq)); err != nil {
		return fmt.Errorf("cannot ask for %s sockets: %w", r.protocol, err)
	}
	if err := c.f.SetReadDeadline(time.Now().Add(answerTime)); err != nil {
		return err
	}
	for done := false; !done; {
		n, err := c.f.Read(c.buf)
		if err != nil {
			return fmt.Errorf("cannot read %s sockets: %w", r.protocol, err)
		}
		if n == 0 {
			return fmt.Errorf("cannot read %s sockets: %w", r.protocol, errMalformed)
		}
		err = eachMessage(c.buf[:n], func(h header, body []byte) error {
			switch {
			case h.seq != c.seq || done:
				return nil // of an earlier request
			case h.kind == unix.NLMSG_DONE:
				done = true
				return failure(body)
			case h.kind == unix.NLMSG_ERROR:
				done = true
				return failure(body)
			case h.kind != sockDiagByFamily:
				return nil
			}
			var s Socket
			var err error
			if r.family == unix.AF_VSOCK {
				s, err = decodeVSock(body)
			} else {
				s, err = decodeInet(body, r.protocol)
			}
			if err == nil {
				f(s)
			}
			return err
		})
		if err != nil {
			return fmt.Errorf("cannot read %s sockets: %w", r.protocol, err)
		}
	}
	return nil
}

// destroyed waits for destroy events and calls f for each; it ends when the
// connection is closed. overrun is called when some were lost.
func (c *conn) destroyed(f func(Socket), overrun func()) error {
	for {
		n, err := c.f.Read(c.buf)
		switch {
		case errors.Is(err, unix.ENOBUFS):
			overrun()
			continue
		case errors.Is(err, os.ErrClosed):
			return nil
		case err != nil:
			return fmt.Errorf("cannot read socket events: %w", err)
		}
		err = eachMessage(c.buf[:n], func(h header, body []byte) error {
			if h.kind != sockDiagByFamily {
				return nil
			}
			s, err := decodeInet(body, 0)
			if err == nil {
				f(s)
			}
			return err
		})
		if err != nil {
			return fmt.Errorf("cannot read socket events: %w", err)
		}
	}
}

// destroyGroups are SKNLGRP_INET{,6}_{TCP,UDP}_DESTROY, 1 to 4.
const destroyGroups = 0xf

// Query chooses sockets. The zero Query is every socket that Holds.
type Query struct {
	Protocols []Protocol // none: TCP, UDP, UDP-Lite, raw, SCTP, vsock; MPTCP comes with TCP
	Connected bool       // with those that are connected, closing or in TIME_WAIT
	Low, High uint16     // local ports, inclusive; 0, 0: all
}

// every is what the zero Query asks for.
var every = []Protocol{TCP, UDP, UDPLite, Raw, SCTP, VSock}

func (q Query) protocols() []Protocol {
	if len(q.Protocols) == 0 {
		return every
	}
	return q.Protocols
}

func (q Query) states(p Protocol) uint32 {
	if q.Connected {
		return 0xfff | 1<<Bound
	}
	holding := uint32(1 << Listen)
	switch p {
	case TCP:
		return holding | 1<<Bound
	default:
		return holding | 1<<Close
	}
}

func (q Query) ports() (low, high uint16) {
	if q.Low == 0 && q.High == 0 {
		return 0, 65535
	}
	return q.Low, max(q.Low, q.High)
}

// sockets lists what q chooses in the connection's namespace. missing are
// protocols that the kernel tells nothing of.
func (c *conn) sockets(q Query) (all []Socket, missing []Protocol, err error) {
	all = make([]Socket, 0, c.found+c.found/8)
	defer func() { c.found = len(all) }()
	low, high := q.ports()
	for _, p := range q.protocols() {
		families := []uint8{unix.AF_INET, unix.AF_INET6}
		if p == VSock {
			if low > 0 || high < 65535 {
				continue // its ports are others
			}
			families = []uint8{unix.AF_VSOCK}
		}
		for _, family := range families {
			r := request{family: family, protocol: p, states: q.states(p), low: low, high: high}
			err := c.dump(r, func(s Socket) {
				// The kernel shows bound sockets as closed ones.
				if s.State == Close && p.Space() == TCP {
					s.State = Bound
				}
				all = append(all, s)
			})
			if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EINVAL) { // no such module
				missing = append(missing, p)
				break
			}
			if err != nil {
				return nil, nil, err
			}
		}
	}
	return all, missing, c.markMPTCP(q, all)
}

// markMPTCP tells the TCP sockets that belong to MPTCP ones, by their inode.
func (c *conn) markMPTCP(q Query, all []Socket) error {
	inodes := map[uint32]bool{}
	low, high := q.ports()
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		err := c.dump(request{family: family, protocol: MPTCP, states: q.states(TCP) &^ (1 << Bound), low: low, high: high}, func(s Socket) { inodes[s.Inode] = s.Inode != 0 })
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EINVAL) {
			return nil // a kernel without
		}
		if err != nil {
			return err
		}
	}
	for i := range all {
		if all[i].Protocol == TCP && inodes[all[i].Inode] {
			all[i].Protocol = MPTCP
		}
	}
	return nil
}
