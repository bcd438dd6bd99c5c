// Package netnstest plays the kernel's sock_diag(7) for tests.
package netnstest

import (
	"encoding/binary"
	"errors"
	"io"
	"net/netip"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// Request is what the kernel is asked.
type Request struct {
	Seq      uint32
	Family   uint8
	Protocol uint8
	States   uint32
	Raw      []byte // the whole message
}

// Kernel answers each request with datagrams until the test ends. The fd is
// the client's end, non-blocking, and belongs to the caller.
func Kernel(t testing.TB, answer func(Request) [][]byte) (fd int) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	ours := os.NewFile(uintptr(fds[1]), "kernel")
	done := make(chan error, 1)
	go func() {
		b := make([]byte, 4096)
		for {
			n, err := ours.Read(b)
			if err != nil || n < 24 {
				done <- err
				return
			}
			raw := append([]byte{}, b[:n]...)
			r := Request{Seq: binary.NativeEndian.Uint32(raw[8:]), Family: raw[16], Protocol: raw[17], States: binary.NativeEndian.Uint32(raw[20:]), Raw: raw}
			for _, d := range answer(r) {
				if _, err := ours.Write(d); err != nil {
					done <- err
					return
				}
			}
		}
	}()
	t.Cleanup(func() {
		ours.Close()
		if err := <-done; err != nil && !errors.Is(err, os.ErrClosed) && !errors.Is(err, io.EOF) && !errors.Is(err, unix.EPIPE) && !errors.Is(err, unix.ECONNRESET) {
			t.Errorf("the kernel that the test plays: %v", err)
		}
	})
	return fds[0]
}

// Message is one netlink message of an answer to request seq.
func Message(kind, flags uint16, seq uint32, body []byte) []byte {
	b := binary.NativeEndian.AppendUint32(nil, uint32(16+len(body)))
	b = binary.NativeEndian.AppendUint16(b, kind)
	b = binary.NativeEndian.AppendUint16(b, flags)
	b = binary.NativeEndian.AppendUint32(b, seq)
	b = append(append(b, 0, 0, 0, 0), body...)
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	return b
}

// Done ends an answer.
func Done(seq uint32) []byte {
	return Message(unix.NLMSG_DONE, unix.NLM_F_MULTI, seq, make([]byte, 4))
}

// Failed ends an answer with an error.
func Failed(seq uint32, errno unix.Errno) []byte {
	return Message(unix.NLMSG_ERROR, 0, seq, binary.NativeEndian.AppendUint32(nil, uint32(-int32(errno))))
}

// Inet is the struct inet_diag_msg of a socket, with its attributes.
type Inet struct {
	State  uint8
	Local  netip.AddrPort
	UID    uint32
	Inode  uint32
	Cookie uint64
	Cgroup uint64
	V6Only bool
}

// Socket is a message that tells of one socket.
func Socket(seq uint32, s Inet) []byte {
	b := make([]byte, 72)
	b[0], b[1] = unix.AF_INET6, s.State
	if s.Local.Addr().Is4() {
		b[0] = unix.AF_INET
	}
	binary.BigEndian.PutUint16(b[4:], s.Local.Port())
	copy(b[8:24], s.Local.Addr().AsSlice())
	binary.NativeEndian.PutUint32(b[44:], uint32(s.Cookie))
	binary.NativeEndian.PutUint32(b[48:], uint32(s.Cookie>>32))
	binary.NativeEndian.PutUint32(b[64:], s.UID)
	binary.NativeEndian.PutUint32(b[68:], s.Inode)
	if s.V6Only {
		b = attribute(b, 11, []byte{1})
	}
	if s.Cgroup != 0 {
		b = attribute(b, 21, binary.NativeEndian.AppendUint64(nil, s.Cgroup))
	}
	return Message(20, unix.NLM_F_MULTI, seq, b)
}

func attribute(b []byte, kind uint16, value []byte) []byte {
	b = binary.NativeEndian.AppendUint16(b, uint16(4+len(value)))
	b = binary.NativeEndian.AppendUint16(b, kind)
	b = append(b, value...)
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	return b
}
