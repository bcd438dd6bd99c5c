// Package fusetest plays the kernel's side of a FUSE connection for unit and
// fuzz tests: a SOCK_SEQPACKET socket in place of /dev/fuse.
package fusetest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

const (
	opInit        = 26
	inHeaderSize  = 40
	outHeaderSize = 16
)

var order = binary.NativeEndian

// Reply is a server's answer.
type Reply struct {
	Unique uint64
	Errno  syscall.Errno
	Body   []byte
}

// Notification is what a server sends without being asked.
type Notification struct {
	Code int32
	Body []byte
}

// Kernel is the other end of a connection. Its methods may be called concurrently.
type Kernel struct {
	Notifications chan Notification // as they come; at most 100 wait

	fd     int
	closed chan struct{} // the receiving goroutine has ended

	mu      sync.Mutex
	last    uint64
	waiting map[uint64]chan Reply
}

// New makes a connection. The caller gives fd to a Server, which closes it.
func New() (k *Kernel, fd int, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, -1, os.NewSyscallError("socketpair", err)
	}
	k = &Kernel{
		Notifications: make(chan Notification, 100),
		fd:            fds[0], closed: make(chan struct{}),
		waiting: make(map[uint64]chan Reply),
	}
	go k.receive()
	return k, fds[1], nil
}

// Close ends the connection, as an unmount does, and waits for the Server to
// have closed its end. What was not answered fails.
func (k *Kernel) Close() error {
	err := k.Disconnect()
	<-k.closed
	return errors.Join(err, unix.Close(k.fd))
}

// Disconnect ends the connection without waiting for the Server.
func (k *Kernel) Disconnect() error {
	return os.NewSyscallError("shutdown", unix.Shutdown(k.fd, unix.SHUT_WR))
}

// Message is a request as the kernel writes it.
func Message(op uint32, unique, node uint64, body []byte) []byte {
	b := make([]byte, inHeaderSize, inHeaderSize+len(body))
	order.PutUint32(b, uint32(inHeaderSize+len(body)))
	order.PutUint32(b[4:], op)
	order.PutUint64(b[8:], unique)
	order.PutUint64(b[16:], node)
	order.PutUint32(b[24:], 1000)
	order.PutUint32(b[28:], 1000)
	order.PutUint32(b[32:], 4242)
	return append(b, body...)
}

// Init negotiates protocol 7.minor with all flags offered.
func (k *Kernel) Init(minor uint32) (Reply, error) {
	body := make([]byte, 64)
	order.PutUint32(body, 7)
	order.PutUint32(body[4:], minor)
	order.PutUint32(body[8:], 128<<10)
	order.PutUint32(body[12:], ^uint32(0))
	order.PutUint32(body[16:], ^uint32(0))
	return k.Call(opInit, 0, body)
}

// Unique is a number for a new request.
func (k *Kernel) Unique() uint64 {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.last += 2
	return k.last
}

// Send sends msg as it is.
func (k *Kernel) Send(msg []byte) error {
	if _, err := unix.Write(k.fd, msg); err != nil {
		return fmt.Errorf("cannot send to the server: %w", err)
	}
	return nil
}

// Start sends a request; its answer arrives in the channel, which is closed
// where the connection ends first.
func (k *Kernel) Start(op uint32, unique, node uint64, body []byte) (<-chan Reply, error) {
	c := make(chan Reply, 1)
	k.mu.Lock()
	if k.waiting == nil {
		k.mu.Unlock()
		return nil, errors.New("cannot send to the server: it has gone")
	}
	k.waiting[unique] = c
	k.mu.Unlock()
	return c, k.Send(Message(op, unique, node, body))
}

// Call sends a request and waits for the answer.
func (k *Kernel) Call(op uint32, node uint64, body []byte) (Reply, error) {
	c, err := k.Start(op, k.Unique(), node, body)
	if err != nil {
		return Reply{}, err
	}
	r, ok := <-c
	if !ok {
		return Reply{}, errors.New("the server ended without an answer")
	}
	return r, nil
}

func (k *Kernel) receive() {
	defer close(k.closed)
	buf := make([]byte, 2<<20)
	for {
		n, err := unix.Read(k.fd, buf)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || n < outHeaderSize {
			break
		}
		code, unique := int32(order.Uint32(buf[4:])), order.Uint64(buf[8:])
		body := append([]byte(nil), buf[outHeaderSize:n]...)
		switch {
		case unique != 0:
			k.mu.Lock()
			if c := k.waiting[unique]; c != nil {
				c <- Reply{unique, syscall.Errno(-code), body}
				delete(k.waiting, unique)
			}
			k.mu.Unlock()
		default:
			k.Notifications <- Notification{code, body}
		}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, c := range k.waiting {
		close(c)
	}
	k.waiting = nil
}
