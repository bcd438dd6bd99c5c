package usbip

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"slices"
)

// Version is 1.1.1.
const Version = 0x0111

// A request's code; its reply's is the same without the top bit.
const (
	opReply   = 0x7fff
	opDevlist = 0x8005
	opImport  = 0x8003
)

const (
	busIDSize  = 32
	deviceSize = 312
	maxDevices = 1024 // in one list
)

// OpStatus is how a server answers a request before an import; not StatusOK, it is an error.
type OpStatus uint32

const (
	StatusOK          OpStatus = 0
	StatusFailed      OpStatus = 1
	StatusBusy        OpStatus = 2
	StatusDeviceError OpStatus = 3
	StatusNoDevice    OpStatus = 4
	StatusUnexpected  OpStatus = 5
)

func (s OpStatus) Error() string {
	switch s {
	case StatusOK:
		return "success"
	case StatusFailed:
		return "the server refused the request"
	case StatusBusy:
		return "the device is in use, or is not exported"
	case StatusDeviceError:
		return "the server reports an error of the device"
	case StatusNoDevice:
		return "the server has no such device"
	case StatusUnexpected:
		return "the server did not expect the request"
	}
	return fmt.Sprintf("the server answers with status %d", uint32(s))
}

// DeviceInfo is what a server tells of a device before it is imported.
type DeviceInfo struct {
	Path                      string // in the server's own notation
	BusID                     string
	Bus, Number               uint32
	Speed                     uint32 // the kernel's enum usb_device_speed
	Vendor, Product, Release  uint16
	Class, SubClass, Protocol uint8
	Configuration             uint8 // 0: not configured
	Configurations            uint8
	InterfaceCount            uint8
	Interfaces                []InterfaceInfo // in lists only; usbip-host leaves them out where the device is not configured
}

// deviceID is how messages name the device.
func (d *DeviceInfo) deviceID() uint32 { return d.Bus<<16 | d.Number&0xffff }

// InterfaceInfo is an interface's class.
type InterfaceInfo struct{ Class, SubClass, Protocol uint8 }

func (d *DeviceInfo) append(b []byte) []byte {
	be := binary.BigEndian
	b = appendString(b, d.Path, 256)
	b = appendString(b, d.BusID, busIDSize)
	b = be.AppendUint32(b, d.Bus)
	b = be.AppendUint32(b, d.Number)
	b = be.AppendUint32(b, d.Speed)
	b = be.AppendUint16(b, d.Vendor)
	b = be.AppendUint16(b, d.Product)
	b = be.AppendUint16(b, d.Release)
	return append(b, d.Class, d.SubClass, d.Protocol, d.Configuration, d.Configurations, d.InterfaceCount)
}

func (d *DeviceInfo) parse(b *[deviceSize]byte) {
	be := binary.BigEndian
	n := b[288:]
	*d = DeviceInfo{
		Path: cString(b[:256]), BusID: cString(b[256:288]),
		Bus: be.Uint32(n), Number: be.Uint32(n[4:]), Speed: be.Uint32(n[8:]),
		Vendor: be.Uint16(n[12:]), Product: be.Uint16(n[14:]), Release: be.Uint16(n[16:]),
		Class: n[18], SubClass: n[19], Protocol: n[20], Configuration: n[21], Configurations: n[22], InterfaceCount: n[23],
	}
}

// appendString appends s and zeros up to size bytes, at least one.
func appendString(b []byte, s string, size int) []byte {
	s = s[:min(len(s), size-1)]
	b = append(b, s...)
	return append(b, make([]byte, size-len(s))...)
}

// cString is b up to its first zero, as far as it is printable ASCII: it is
// shown to people and becomes part of names.
func cString(b []byte) string {
	b, _, _ = bytes.Cut(b, []byte{0})
	if i := slices.IndexFunc(b, func(c byte) bool { return c < ' ' || c > '~' }); i >= 0 {
		b = b[:i]
	}
	return string(b)
}

func appendOp(b []byte, code uint16, status OpStatus) []byte {
	b = binary.BigEndian.AppendUint16(b, Version)
	b = binary.BigEndian.AppendUint16(b, code)
	return binary.BigEndian.AppendUint32(b, uint32(status))
}

// readReply reads the head of the reply to a request.
func readReply(r io.Reader, request uint16) error {
	var b [8]byte
	if _, err := io.ReadFull(r, b[:]); err != nil {
		return fmt.Errorf("cannot read the server's answer: %w", err)
	}
	version, code := binary.BigEndian.Uint16(b[:]), binary.BigEndian.Uint16(b[2:])
	if code != request&opReply {
		return fmt.Errorf("%w: version %#x, code %#x", errProtocol, version, code)
	}
	// A server of another version says so by its status.
	if s := OpStatus(binary.BigEndian.Uint32(b[4:])); s != StatusOK {
		return s
	}
	if version != Version {
		return fmt.Errorf("the server speaks version %#x of USB/IP, not %#x", version, Version)
	}
	return nil
}

// RequestList asks for the devices that a server exports. The connection is
// of no use afterwards.
func RequestList(rw io.ReadWriter) ([]DeviceInfo, error) {
	if _, err := rw.Write(appendOp(nil, opDevlist, StatusOK)); err != nil {
		return nil, fmt.Errorf("cannot ask for the list of devices: %w", err)
	}
	if err := readReply(rw, opDevlist); err != nil {
		return nil, err
	}
	var b [deviceSize]byte
	if _, err := io.ReadFull(rw, b[:4]); err != nil {
		return nil, fmt.Errorf("cannot read the list of devices: %w", err)
	}
	n := binary.BigEndian.Uint32(b[:])
	if n > maxDevices {
		return nil, fmt.Errorf("%w: a list of %d devices", errProtocol, n)
	}
	var list []DeviceInfo
	for range n {
		var d DeviceInfo
		if _, err := io.ReadFull(rw, b[:]); err != nil {
			return nil, fmt.Errorf("cannot read the list of devices: %w", err)
		}
		d.parse(&b)
		for range d.InterfaceCount {
			if _, err := io.ReadFull(rw, b[:4]); err != nil {
				return nil, fmt.Errorf("cannot read the list of devices: %w", err)
			}
			d.Interfaces = append(d.Interfaces, InterfaceInfo{b[0], b[1], b[2]})
		}
		list = append(list, d)
	}
	return list, nil
}

// RequestImport asks for a device. From then on the connection is for Headers.
func RequestImport(rw io.ReadWriter, busID string) (DeviceInfo, error) {
	if busID == "" || len(busID) >= busIDSize {
		return DeviceInfo{}, fmt.Errorf("%q is no bus id: expected 1 to %d characters, such as 1-1.2", busID, busIDSize-1)
	}
	if _, err := rw.Write(appendString(appendOp(nil, opImport, StatusOK), busID, busIDSize)); err != nil {
		return DeviceInfo{}, fmt.Errorf("cannot ask for the device: %w", err)
	}
	if err := readReply(rw, opImport); err != nil {
		return DeviceInfo{}, err
	}
	var b [deviceSize]byte
	if _, err := io.ReadFull(rw, b[:]); err != nil {
		return DeviceInfo{}, fmt.Errorf("cannot read the server's answer: %w", err)
	}
	var d DeviceInfo
	d.parse(&b)
	if d.BusID != busID {
		return DeviceInfo{}, fmt.Errorf("%w: asked for %s, it gives %q", errProtocol, busID, d.BusID)
	}
	return d, nil
}

// request is what a client asks for before an import.
type request struct {
	code  uint16
	busID string // opImport
}

func readRequest(r io.Reader) (request, error) {
	var b [8 + busIDSize]byte
	if _, err := io.ReadFull(r, b[:8]); err != nil {
		return request{}, err
	}
	version, code := binary.BigEndian.Uint16(b[:]), binary.BigEndian.Uint16(b[2:])
	if version != Version {
		return request{}, fmt.Errorf("%w: version %#x", errProtocol, version)
	}
	switch code {
	case opDevlist:
		return request{code: code}, nil
	case opImport:
		if _, err := io.ReadFull(r, b[8:]); err != nil {
			return request{}, err
		}
		return request{code: code, busID: cString(b[8:])}, nil
	}
	return request{}, fmt.Errorf("%w: request %#x", errProtocol, code)
}

func appendList(b []byte, devices []DeviceInfo) []byte {
	b = appendOp(b, opDevlist&opReply, StatusOK)
	b = binary.BigEndian.AppendUint32(b, uint32(len(devices)))
	for _, d := range devices {
		d.InterfaceCount = uint8(len(d.Interfaces))
		b = d.append(b)
		for _, i := range d.Interfaces {
			b = append(b, i.Class, i.SubClass, i.Protocol, 0)
		}
	}
	return b
}

func appendImport(b []byte, status OpStatus, d *DeviceInfo) []byte {
	b = appendOp(b, opImport&opReply, status)
	if status == StatusOK {
		b = d.append(b)
	}
	return b
}
