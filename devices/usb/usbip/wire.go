// Package usbip speaks USB/IP 1.1.1 over a stream, as client and as server
// (Linux, Documentation/usb/usbip_protocol.rst; include/uapi/linux/usbip.h).
package usbip

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// DefaultPort is usbipd's.
const DefaultPort = 3240

// What one message may ask for. Peers are not trusted: nothing is allocated
// before its size has been held against these.
const (
	MaxTransfer   = 16 << 20 // bytes in one URB: what usbfs allows in all
	MaxIsoPackets = 1024     // the kernel's USBIP_MAX_ISO_PACKETS
)

// HeaderSize is the size of every message after an import, without payload;
// IsoPacketSize that of a packet descriptor behind the payload.
const (
	HeaderSize    = 48
	IsoPacketSize = 16
)

// Command says what a message after an import is.
type Command uint32

const (
	CmdSubmit Command = 1
	CmdUnlink Command = 2
	RetSubmit Command = 3
	RetUnlink Command = 4
)

// Flags of a submission: the kernel's URB_*, which the protocol took over.
const (
	FlagShortNotOK = 0x0001
	FlagISOASAP    = 0x0002
	FlagZeroPacket = 0x0040
	FlagDirIn      = 0x0200
)

// errProtocol marks what a peer says against the protocol: the connection
// cannot be followed any further.
var errProtocol = errors.New("the peer does not speak USB/IP")

// Header is any message after an import. Which fields count is told by Command.
type Header struct {
	Command  Command
	Seq      uint32
	Device   uint32 // bus << 16 | number; zero in replies
	In       bool   // false in replies, whichever the direction was
	Endpoint uint8  // without direction; zero in replies

	Flags      uint32  // CmdSubmit
	Length     uint32  // CmdSubmit: of the buffer; RetSubmit: bytes transferred
	StartFrame uint32  // CmdSubmit, RetSubmit: isochronous
	Packets    uint32  // CmdSubmit, RetSubmit: isochronous; else zero
	Interval   uint32  // CmdSubmit; RetSubmit: the packets that failed
	Setup      [8]byte // CmdSubmit: control, as on the bus

	Status int32  // RetSubmit, RetUnlink: 0 or a negative errno of Linux
	Victim uint32 // CmdUnlink: the submission's Seq
}

// Put writes h to b.
func (h *Header) Put(b *[HeaderSize]byte) {
	be := binary.BigEndian
	*b = [HeaderSize]byte{}
	be.PutUint32(b[0:], uint32(h.Command))
	be.PutUint32(b[4:], h.Seq)
	be.PutUint32(b[8:], h.Device)
	if h.In {
		b[15] = 1
	}
	b[19] = h.Endpoint
	switch h.Command {
	case CmdSubmit:
		be.PutUint32(b[20:], h.Flags)
		be.PutUint32(b[24:], h.Length)
		be.PutUint32(b[28:], h.StartFrame)
		be.PutUint32(b[32:], h.Packets)
		be.PutUint32(b[36:], h.Interval)
		copy(b[40:], h.Setup[:])
	case RetSubmit:
		be.PutUint32(b[20:], uint32(h.Status))
		be.PutUint32(b[24:], h.Length)
		be.PutUint32(b[28:], h.StartFrame)
		be.PutUint32(b[32:], h.Packets)
		be.PutUint32(b[36:], h.Interval)
	case CmdUnlink:
		be.PutUint32(b[20:], h.Victim)
	case RetUnlink:
		be.PutUint32(b[20:], uint32(h.Status))
	}
}

// Parse reads b, whose numbers are then within bounds: Endpoint at most 15,
// Length at most MaxTransfer, Packets at most MaxIsoPackets, Status not
// positive.
func (h *Header) Parse(b *[HeaderSize]byte) error {
	be := binary.BigEndian
	*h = Header{Command: Command(be.Uint32(b[0:])), Seq: be.Uint32(b[4:]), Device: be.Uint32(b[8:])}
	direction, endpoint := be.Uint32(b[12:]), be.Uint32(b[16:])
	if direction > 1 || endpoint > 15 {
		return fmt.Errorf("%w: endpoint %d, direction %d", errProtocol, endpoint, direction)
	}
	h.In, h.Endpoint = direction == 1, uint8(endpoint)
	switch h.Command {
	case CmdSubmit:
		h.Flags = be.Uint32(b[20:])
		copy(h.Setup[:], b[40:])
	case RetSubmit:
		h.Status = int32(be.Uint32(b[20:]))
	case CmdUnlink:
		h.Victim = be.Uint32(b[20:])
		return nil
	case RetUnlink:
		h.Status = int32(be.Uint32(b[20:]))
		return h.checkStatus()
	default:
		return fmt.Errorf("%w: command %#x", errProtocol, uint32(h.Command))
	}
	h.Length, h.StartFrame = be.Uint32(b[24:]), be.Uint32(b[28:])
	h.Packets, h.Interval = be.Uint32(b[32:]), be.Uint32(b[36:])
	if h.Packets == 1<<32-1 { // what the specification wants where there are none; Linux says 0
		h.Packets = 0
	}
	if h.Length > MaxTransfer {
		return fmt.Errorf("%w: %d bytes in one transfer, %d are allowed", errProtocol, h.Length, MaxTransfer)
	}
	if h.Packets > MaxIsoPackets {
		return fmt.Errorf("%w: %d isochronous packets, %d are allowed", errProtocol, h.Packets, MaxIsoPackets)
	}
	return h.checkStatus()
}

func (h *Header) checkStatus() error {
	if h.Status > 0 || h.Status < -4095 {
		return fmt.Errorf("%w: status %d", errProtocol, h.Status)
	}
	return nil
}

// IsoPacket is a packet of an isochronous transfer, as on the wire. Offset and
// Length place it in the buffer; a reply's payload has the ActualLengths
// without gaps.
type IsoPacket struct {
	Offset, Length, ActualLength uint32
	Status                       int32
}

// Put writes p to the first IsoPacketSize bytes of b.
func (p *IsoPacket) Put(b []byte) {
	be := binary.BigEndian
	be.PutUint32(b[0:], p.Offset)
	be.PutUint32(b[4:], p.Length)
	be.PutUint32(b[8:], p.ActualLength)
	be.PutUint32(b[12:], uint32(p.Status))
}

// Parse reads the first IsoPacketSize bytes of b. The packet then lies in a
// buffer of size bytes.
func (p *IsoPacket) Parse(b []byte, size uint32) error {
	be := binary.BigEndian
	*p = IsoPacket{be.Uint32(b[0:]), be.Uint32(b[4:]), be.Uint32(b[8:]), int32(be.Uint32(b[12:]))}
	if p.Offset > size || p.Length > size-p.Offset || p.ActualLength > p.Length || p.Status > 0 || p.Status < -4095 {
		return fmt.Errorf("%w: isochronous packet of %d/%d bytes at %d, status %d, in a buffer of %d",
			errProtocol, p.ActualLength, p.Length, p.Offset, p.Status, size)
	}
	return nil
}
