package usbfs

import (
	"encoding/binary"
	"syscall"

	"github.com/lxbridge/lx/devices/usb"
)

// The low bytes of usbfs's ioctls (linux/usbdevice_fs.h). Their directions are mostly
// declared backwards, so only these count.
const (
	ioControl         = 0
	ioBulk            = 2
	ioResetEP         = 3
	ioSetInterface    = 4
	ioSetConfig       = 5
	ioGetDriver       = 8
	ioSubmitURB       = 10
	ioDiscardURB      = 11
	ioReapURB         = 12
	ioReapURBNDelay   = 13
	ioClaim           = 15
	ioRelease         = 16
	ioConnectInfo     = 17
	ioIoctl           = 18
	ioReset           = 20
	ioClearHalt       = 21
	ioDisconnect      = 22 // by ioIoctl
	ioConnect         = 23 // by ioIoctl
	ioCapabilities    = 26
	ioDisconnectClaim = 27
	ioAllocStreams    = 28
	ioFreeStreams     = 29
	ioDropPrivileges  = 30
	ioGetSpeed        = 31
	ioConnInfoEx      = 32
	ioForbidSuspend   = 33
	ioAllowSuspend    = 34
	ioWaitForResume   = 35
)

// Capabilities. Without MMAP libusb allocates memory itself, without
// BULK_CONTINUATION it takes SCATTER_GATHER, which is no bound on a URB's size here.
const capabilities = 1 | // ZERO_PACKET
	4 | // NO_PACKET_SIZE_LIM
	8 | // BULK_SCATTER_GATHER
	16 | // REAP_AFTER_DISCONNECT
	64 | // DROP_PRIVILEGES
	128 // CONNINFO_EX

// Flags of a submitted URB.
const (
	urbShortNotOK  = 0x01
	urbISOASAP     = 0x02
	urbNoFSBR      = 0x20
	urbZeroPacket  = 0x40
	urbNoInterrupt = 0x80

	urbKnown = urbShortNotOK | urbISOASAP | urbNoFSBR | urbZeroPacket | urbNoInterrupt
)

// Types of a submitted URB.
const (
	typeISO       = 0
	typeInterrupt = 1
	typeControl   = 2
	typeBulk      = 3
)

const (
	maxPackets    = 128 // of an isochronous URB
	maxPacketSize = 98304
	maxControl    = 4096 // bytes of a synchronous control transfer
	driverName    = "usbfs"
	driverSize    = 256

	claimIfDriver     = 1 // of DISCONNECT_CLAIM
	claimExceptDriver = 2
)

// layout is how the caller's C lays structures out.
type layout struct {
	pointer int // bytes

	urb struct{ buffer, length, actual, frame, packets, errors, context, size int }
	// of struct usbdevfs_ctrltransfer and _bulktransfer, which have the same tail
	transferData, transferSize int
	ioctlSize                  int
}

var (
	layout64 = layout{pointer: 8, transferData: 16, transferSize: 24, ioctlSize: 16}
	layout32 = layout{pointer: 4, transferData: 12, transferSize: 16, ioctlSize: 12}
)

func init() {
	layout64.urb.buffer, layout64.urb.length, layout64.urb.context, layout64.urb.size = 16, 24, 48, 56
	layout32.urb.buffer, layout32.urb.length, layout32.urb.context, layout32.urb.size = 12, 16, 40, 44
	for _, l := range []*layout{&layout64, &layout32} {
		at := l.urb.length
		l.urb.actual, l.urb.frame, l.urb.packets, l.urb.errors = at+4, at+8, at+12, at+16
	}
}

// packetSize is struct usbdevfs_iso_packet_desc: length, actual_length, status.
const packetSize = 12

var ne = binary.NativeEndian

// ptr reads a pointer of the caller's.
func (l *layout) ptr(b []byte) uint64 {
	if l.pointer == 4 {
		return uint64(ne.Uint32(b))
	}
	return ne.Uint64(b)
}

// putPtr is a pointer as the caller has it.
func (l *layout) putPtr(p uint64) []byte {
	if l.pointer == 4 {
		return ne.AppendUint32(nil, uint32(p))
	}
	return ne.AppendUint64(nil, p)
}

// submission is struct usbdevfs_urb as it was given.
type submission struct {
	kind, endpoint  uint8
	flags           uint32
	buffer, context uint64
	length          int
	frame           int32
	packets         int // or the stream
}

func (l *layout) submission(b []byte) submission {
	return submission{
		kind: b[0], endpoint: b[1], flags: ne.Uint32(b[8:]),
		buffer: l.ptr(b[l.urb.buffer:]), context: l.ptr(b[l.urb.context:]),
		length: int(int32(ne.Uint32(b[l.urb.length:]))), frame: int32(ne.Uint32(b[l.urb.frame:])),
		packets: int(int32(ne.Uint32(b[l.urb.packets:]))),
	}
}

// check answers EINVAL for what cannot be.
func (s submission) check() syscall.Errno {
	if s.flags&^urbKnown != 0 || s.length < 0 || s.length > 0 && s.buffer == 0 || s.kind > typeBulk {
		return syscall.EINVAL
	}
	return 0
}

func (s submission) urbFlags() (f usb.Flags) {
	for bit, flag := range map[uint32]usb.Flags{urbShortNotOK: usb.ShortNotOK, urbZeroPacket: usb.ZeroPacket, urbISOASAP: usb.ISOASAP} {
		if s.flags&bit != 0 {
			f |= flag
		}
	}
	return f
}
