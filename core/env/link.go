package env

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// The keeper speaks with its two children over a Link each. A packet is a
// letter, then text, with descriptors beside it.
const (
	// To init and broker.
	LinkConn = 'C' // a client's connection; the byte that said whom it wants
	LinkStop = 'X' // init: end all processes; broker: write out and end

	// To the broker, which sends it back: all that it had to say before has
	// then been heard.
	LinkEcho = 'P'

	// From init.
	InitListener = 'L' // the seccomp listener
	InitNested   = 'N' // no listener: an outer lx serves the traps
	InitFailed   = 'E' // the reason
	InitIdle     = 'I' // no process is left; the number of connections served
	InitWanted   = 'W' // "1": services have to live on; "0": none has

	// To the broker: what it needs to go on where its predecessor died, then
	// BrokerGo.
	BrokerListener = 'L' // the seccomp listener and the page of ids in flight
	BrokerOrphan   = 'O' // a mount of the predecessor: as BrokerHold
	BrokerGo       = 'G' // with init's process id

	// From the broker.
	BrokerHold = 'H' // keep this descriptor: key, NUL, blob
	BrokerDrop = 'D' // close it again: key
	BrokerLost = 'E' // while stopping: what was lost
)

// maxPacket is the largest text of a packet, in bytes.
const maxPacket = 32 << 10

// Link is one end of a keeper's SEQPACKET socket pair.
type Link struct {
	c        *net.UnixConn
	patience time.Duration
}

// Message is one packet. FDs belong to the receiver.
type Message struct {
	Letter byte
	Text   string
	FDs    []int
}

// NewLink makes a pair: an end to use and one to hand to a child.
func NewLink() (*Link, *os.File, error) {
	p, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot make a socket pair: %w", err)
	}
	l, err := OpenLink(p[0])
	if err != nil {
		unix.Close(p[1])
		return nil, nil, err
	}
	return l, os.NewFile(uintptr(p[1]), "link"), nil
}

// OpenLink takes over fd, an end of a pair.
func OpenLink(fd int) (*Link, error) {
	f := os.NewFile(uintptr(fd), "link")
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		return nil, fmt.Errorf("cannot use the keeper's socket: %w", err)
	}
	uc, ok := c.(*net.UnixConn)
	if !ok {
		c.Close()
		return nil, errors.New("cannot use the keeper's socket: not a unix socket")
	}
	return &Link{uc, patience}, nil
}

// patience is how long the other side may leave a full link unread: a guest
// that has taken init over must not hold the keeper up.
const patience = 5 * time.Second

// Send writes one packet. The descriptors stay the caller's.
func (l *Link) Send(letter byte, text string, fds ...int) error {
	if len(text) > maxPacket {
		return fmt.Errorf("cannot send %d bytes in a packet", len(text))
	}
	if err := l.c.SetWriteDeadline(time.Now().Add(l.patience)); err != nil {
		return fmt.Errorf("cannot pass a message: %w", err)
	}
	return sendFDs(l.c, append([]byte{letter}, text...), fds...)
}

// Receive reads one packet; io.EOF when the other side is gone.
func (l *Link) Receive() (Message, error) {
	b := make([]byte, 1+maxPacket)
	n, fds, err := ReceiveFDs(l.c, b)
	if err != nil {
		return Message{}, err
	}
	if n == 0 {
		return Message{}, io.EOF
	}
	return Message{Letter: b[0], Text: string(b[1:n]), FDs: fds}, nil
}

// Close ends the link.
func (l *Link) Close() error { return l.c.Close() }

// Conn is the connection that the message brought.
func (m Message) Conn() (*net.UnixConn, error) {
	if len(m.FDs) != 1 {
		m.Discard()
		return nil, fmt.Errorf("cannot take a connection: %d descriptors came", len(m.FDs))
	}
	f := os.NewFile(uintptr(m.FDs[0]), "client")
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		return nil, fmt.Errorf("cannot take a connection: %w", err)
	}
	uc, ok := c.(*net.UnixConn)
	if !ok {
		c.Close()
		return nil, errors.New("cannot take a connection: not a unix socket")
	}
	return uc, nil
}

// Discard closes the message's descriptors.
func (m Message) Discard() {
	for _, fd := range m.FDs {
		unix.Close(fd)
	}
}

// sendFDs writes b with descriptors attached to its first byte.
func sendFDs(c *net.UnixConn, b []byte, fds ...int) error {
	var oob []byte
	if len(fds) > 0 {
		oob = unix.UnixRights(fds...)
	}
	if _, _, err := c.WriteMsgUnix(b, oob, nil); err != nil {
		return fmt.Errorf("cannot pass a message: %w", err)
	}
	return nil
}

// ReceiveFDs reads once and takes the descriptors that came with it, which
// the caller closes. They are close-on-exec.
func ReceiveFDs(c *net.UnixConn, b []byte) (n int, fds []int, err error) {
	oob := make([]byte, unix.CmsgSpace(8*4))
	n, oobn, flags, _, err := c.ReadMsgUnix(b, oob)
	if err != nil {
		return n, nil, err
	}
	msgs, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil {
		return n, nil, fmt.Errorf("cannot read control message: %w", err)
	}
	for _, m := range msgs {
		got, err := unix.ParseUnixRights(&m)
		if err != nil {
			return n, fds, fmt.Errorf("cannot read control message: %w", err)
		}
		fds = append(fds, got...)
	}
	if flags&unix.MSG_CTRUNC != 0 {
		Message{FDs: fds}.Discard()
		return n, nil, errors.New("cannot receive descriptors: too many")
	}
	return n, fds, nil
}
