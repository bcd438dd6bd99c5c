package host

import (
	"context"
	"syscall"

	"github.com/lxbridge/lx/devices/usb"
	"github.com/lxbridge/lx/devices/usb/emul"
)

// Class requests of hubs (USB 2.0, table 11-15).
const (
	hubDescriptor      = 0x29
	superHubDescriptor = 0x2a
	hubPower           = 0x100 // of wPortStatus
)

// newRootHub makes the hub that a bus begins with.
func newRootHub(speed usb.Speed) (*emul.Device, error) {
	spec := emul.Spec{
		Speed:          speed,
		Device:         []byte{18, usb.DescDevice, 0x00, 0x02, 9, 0, 1, 64, 0x6b, 0x1d, 0x02, 0x00, 0x00, 0x01, 3, 2, 1, 1},
		Configurations: [][]byte{{9, 2, 25, 0, 1, 1, 0, 0xe0, 0, 9, 4, 0, 0, 1, 9, 0, 0, 0, 7, 5, 0x81, 3, 4, 0, 12}},
		Strings:        map[uint8]string{1: "lx", 2: "lx host controller", 3: "lx"},
		Control:        hubControl,
	}
	if speed >= usb.SpeedSuper {
		spec.Device = []byte{18, usb.DescDevice, 0x00, 0x03, 9, 0, 3, 9, 0x6b, 0x1d, 0x03, 0x00, 0x00, 0x01, 3, 2, 1, 1}
		spec.Configurations = [][]byte{{9, 2, 31, 0, 1, 1, 0, 0xe0, 0, 9, 4, 0, 0, 1, 9, 0, 0, 0, 7, 5, 0x81, 3, 4, 0, 12, 6, 48, 0, 0, 4, 0}}
		// USB 2 extension without link power management, and what every super-speed hub tells.
		spec.BOS = []byte{5, usb.DescBOS, 22, 0, 2, 7, 16, 2, 0, 0, 0, 0, 10, 16, 3, 0, 8, 0, 3, 0, 0, 0}
	}
	return emul.New(spec)
}

// hubControl answers what lsusb asks: the hub's descriptor, and ports that have power.
func hubControl(_ context.Context, d *emul.Device, s usb.Setup, data []byte) (int, error) {
	if s.RequestType&usb.TypeMask != usb.TypeClass || !s.In() {
		return 0, syscall.EPIPE
	}
	switch {
	case s.Request == usb.ReqGetDescriptor && d.Speed() >= usb.SpeedSuper && s.Value>>8 == superHubDescriptor:
		return copy(data, []byte{12, superHubDescriptor, 15, 0x09, 0, 0, 0, 0, 0, 0, 0, 0}), nil
	case s.Request == usb.ReqGetDescriptor && d.Speed() < usb.SpeedSuper && s.Value>>8 == hubDescriptor:
		return copy(data, []byte{11, hubDescriptor, 15, 0x09, 0, 0, 0, 0, 0, 0xff, 0xff}), nil
	case s.Request == usb.ReqGetStatus && s.RequestType&usb.RecipientMask == usb.ToOther:
		return copy(data, []byte{hubPower & 0xff, hubPower >> 8, 0, 0}), nil
	case s.Request == usb.ReqGetStatus:
		return copy(data, []byte{0, 0, 0, 0}), nil
	}
	return 0, syscall.EPIPE
}
