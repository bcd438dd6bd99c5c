package netns

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

// Numbers of linux/sock_diag.h, linux/inet_diag.h and linux/vm_sockets_diag.h.
const (
	sockDiagByFamily = 20 // of destroy events too

	attrSKV6Only = 11
	attrCgroupID = 21
	reqBytecode  = 1
	reqProtocol  = 3
	bcSourceGE   = 2
	bcSourceLE   = 3
	inetMsgSize  = 72
	inetReqSize  = 56
	vsockMsgSize = 32
	nlHeader     = unix.NLMSG_HDRLEN
)

var native = binary.NativeEndian

// request describes one dump.
type request struct {
	family   uint8
	protocol Protocol
	states   uint32 // bits 1<<State
	low      uint16 // local ports, inclusive; 0 and 65535: all
	high     uint16
}

// encode makes the netlink message of a dump.
func (r request) encode(seq uint32) []byte {
	b := make([]byte, nlHeader, 128)
	native.PutUint16(b[4:], sockDiagByFamily)
	native.PutUint16(b[6:], unix.NLM_F_REQUEST|unix.NLM_F_DUMP)
	native.PutUint32(b[8:], seq)
	if r.family == unix.AF_VSOCK {
		b = append(b, unix.AF_VSOCK, 0, 0, 0)
		b = native.AppendUint32(b, r.states)
		b = append(b, make([]byte, 16)...) // ino, show, cookie
		native.PutUint32(b, uint32(len(b)))
		return b
	}
	at := len(b)
	b = append(b, make([]byte, inetReqSize)...)
	b[at] = r.family
	b[at+1] = uint8(r.protocol.Space()) // MPTCP's own number needs the attribute
	native.PutUint32(b[at+4:], r.states)
	if r.protocol > 255 {
		b = appendAttr(b, reqProtocol, native.AppendUint32(nil, uint32(r.protocol)))
	}
	if r.low > 0 || r.high < 65535 {
		b = appendAttr(b, reqBytecode, portFilter(r.low, r.high))
	}
	native.PutUint32(b, uint32(len(b)))
	return b
}

func appendAttr(b []byte, kind uint16, value []byte) []byte {
	b = native.AppendUint16(b, uint16(4+len(value)))
	b = native.AppendUint16(b, kind)
	b = append(b, value...)
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	return b
}

// portFilter is a program for the kernel's filter: local port from low to high.
// An operation is a code, the offset to go on at where it holds, and the one
// where not; its operand stands in an operation of its own after it. To end
// exactly behind the last accepts, further on refuses.
func portFilter(low, high uint16) []byte {
	op := func(b []byte, code, yes uint8, no uint16) []byte {
		return native.AppendUint16(append(b, code, yes), no)
	}
	b := op(nil, bcSourceGE, 8, 8+8+4)
	b = op(b, 0, 0, low) // the operand
	b = op(b, bcSourceLE, 8, 8+4)
	return op(b, 0, 0, high)
}

// header is a netlink message's.
type header struct {
	kind, flags uint16
	seq         uint32
}

var errMalformed = errors.New("malformed netlink message")

// eachMessage calls f for the messages in b, which may be one of several
// datagrams of an answer.
func eachMessage(b []byte, f func(h header, body []byte) error) error {
	for len(b) >= nlHeader {
		size := int(native.Uint32(b))
		if size < nlHeader || size > len(b) {
			return errMalformed
		}
		h := header{kind: native.Uint16(b[4:]), flags: native.Uint16(b[6:]), seq: native.Uint32(b[8:])}
		if err := f(h, b[nlHeader:size]); err != nil {
			return err
		}
		b = b[min((size+3)&^3, len(b)):]
	}
	if len(b) > 0 {
		return errMalformed
	}
	return nil
}

// failure is the error of an NLMSG_ERROR or NLMSG_DONE body; nil for success.
func failure(body []byte) error {
	if len(body) < 4 {
		return nil
	}
	if errno := int32(native.Uint32(body)); errno < 0 {
		return unix.Errno(-errno)
	}
	return nil
}

// decodeInet reads struct inet_diag_msg and its attributes.
func decodeInet(body []byte, p Protocol) (Socket, error) {
	if len(body) < inetMsgSize {
		return Socket{}, fmt.Errorf("%w: %d bytes of inet_diag_msg", errMalformed, len(body))
	}
	s := Socket{Protocol: p, Family: body[0], State: State(body[1])}
	sport, dport := binary.BigEndian.Uint16(body[4:]), binary.BigEndian.Uint16(body[6:])
	s.Local = netip.AddrPortFrom(address(s.Family, body[8:24]), sport)
	s.Remote = netip.AddrPortFrom(address(s.Family, body[24:40]), dport)
	s.Device = native.Uint32(body[40:])
	s.Cookie = uint64(native.Uint32(body[44:])) | uint64(native.Uint32(body[48:]))<<32
	s.RecvQ, s.SendQ = native.Uint32(body[56:]), native.Uint32(body[60:])
	s.UID, s.Inode = native.Uint32(body[64:]), native.Uint32(body[68:])
	for b := body[inetMsgSize:]; len(b) >= 4; {
		size := int(native.Uint16(b))
		if size < 4 || size > len(b) {
			return Socket{}, fmt.Errorf("%w: attribute of %d bytes", errMalformed, size)
		}
		value := b[4:size]
		switch native.Uint16(b[2:]) {
		case attrSKV6Only:
			s.V6Only = len(value) > 0 && value[0] != 0
		case attrCgroupID:
			if len(value) >= 8 {
				s.Cgroup = native.Uint64(value)
			}
		}
		b = b[min((size+3)&^3, len(b)):]
	}
	return s, nil
}

func address(family uint8, b []byte) netip.Addr {
	if family == unix.AF_INET {
		return netip.AddrFrom4([4]byte(b[:4]))
	}
	return netip.AddrFrom16([16]byte(b[:16]))
}

// decodeVSock reads struct vsock_diag_msg.
func decodeVSock(body []byte) (Socket, error) {
	if len(body) < vsockMsgSize {
		return Socket{}, fmt.Errorf("%w: %d bytes of vsock_diag_msg", errMalformed, len(body))
	}
	u := func(at int) uint32 { return native.Uint32(body[at:]) }
	// Family, type, state, shutdown, then CID and port of both ends, inode, cookie.
	return Socket{Protocol: VSock, Family: unix.AF_VSOCK, State: State(body[2]),
		VSock: &VSockAddr{CID: u(4), Port: u(8), RemoteCID: u(12), RemotePort: u(16)},
		Inode: u(20), Cookie: uint64(u(24)) | uint64(u(28))<<32}, nil
}
