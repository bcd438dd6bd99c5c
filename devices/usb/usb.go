// Package usb is the model of USB devices: descriptors, transfers, and the
// contract (Device) that every way to reach one fulfils. Numbers and errnos are
// those of Linux (linux/usb/ch9.h, Documentation/driver-api/usb/error-codes).
package usb

import "encoding/binary"

// Speed is a device's speed (enum usb_device_speed, the numbers of USB/IP too).
type Speed uint8

// The speeds.
const (
	SpeedUnknown Speed = iota
	SpeedLow
	SpeedFull
	SpeedHigh
	SpeedWireless
	SpeedSuper
	SpeedSuperPlus
)

// String is the speed in Mbit/s, as sysfs tells it.
func (s Speed) String() string {
	switch s {
	case SpeedLow:
		return "1.5"
	case SpeedFull:
		return "12"
	case SpeedHigh, SpeedWireless:
		return "480"
	case SpeedSuper:
		return "5000"
	case SpeedSuperPlus:
		return "10000"
	}
	return "unknown"
}

// Address is an endpoint's number with DirIn for its direction (bEndpointAddress).
type Address uint8

// DirIn is the direction to the host, in addresses and request types.
const DirIn = 0x80

// In says whether the endpoint sends to the host.
func (a Address) In() bool { return a&DirIn != 0 }

// Number is the address without direction.
func (a Address) Number() uint8 { return uint8(a) & 0x0f }

// Kind is one of the four kinds of transfer (bmAttributes & 3).
type Kind uint8

// The kinds.
const (
	Control Kind = iota
	Isochronous
	Bulk
	Interrupt
)

func (k Kind) String() string {
	return [...]string{"control", "isochronous", "bulk", "interrupt"}[k&3]
}

// Standard requests (USB 2.0, table 9-4) and what their bmRequestType is made of.
const (
	ReqGetStatus        = 0
	ReqClearFeature     = 1
	ReqSetFeature       = 3
	ReqSetAddress       = 5
	ReqGetDescriptor    = 6
	ReqSetDescriptor    = 7
	ReqGetConfiguration = 8
	ReqSetConfiguration = 9
	ReqGetInterface     = 10
	ReqSetInterface     = 11

	TypeMask      = 0x60
	TypeStandard  = 0x00
	TypeClass     = 0x20
	TypeVendor    = 0x40
	RecipientMask = 0x1f
	ToDevice      = 0
	ToInterface   = 1
	ToEndpoint    = 2
	ToOther       = 3

	FeatureEndpointHalt = 0
)

// Setup is the first packet of a control transfer.
type Setup struct {
	RequestType, Request uint8
	Value, Index, Length uint16
}

// In says whether the data stage goes to the host.
func (s Setup) In() bool { return s.RequestType&DirIn != 0 }

// ParseSetup reads a setup packet as it is on the wire.
func ParseSetup(b [8]byte) Setup {
	le := binary.LittleEndian
	return Setup{b[0], b[1], le.Uint16(b[2:]), le.Uint16(b[4:]), le.Uint16(b[6:])}
}

// Bytes is the setup packet as it is on the wire.
func (s Setup) Bytes() (b [8]byte) {
	le := binary.LittleEndian
	b[0], b[1] = s.RequestType, s.Request
	le.PutUint16(b[2:], s.Value)
	le.PutUint16(b[4:], s.Index)
	le.PutUint16(b[6:], s.Length)
	return b
}
