// Package export gives this machine's devices to clients of USB/IP, as far as rules
// allow it.
package export

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/lxbridge/lx/devices/usb"
	"github.com/lxbridge/lx/devices/usb/local"
	"github.com/lxbridge/lx/devices/usb/usbip"
)

// Device is a device of this machine, as sysfs tells of it.
type Device struct {
	usbip.DeviceInfo
	Manufacturer, Name, Serial string
	classes                    []uint8 // of all its configurations and settings
}

// String is the device for people.
func (d Device) String() string {
	text := fmt.Sprintf("%s  %04x:%04x", d.BusID, d.Vendor, d.Product)
	for _, s := range []string{d.Manufacturer, d.Name, d.Serial} {
		if s != "" {
			text += "  " + s
		}
	}
	return text
}

// Scan reads the devices from sysfs's bus/usb/devices, without root hubs. One that goes
// meanwhile is left out.
func Scan(sys fs.FS) ([]Device, error) {
	entries, err := fs.ReadDir(sys, ".")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil // a machine without USB
	}
	if err != nil {
		return nil, fmt.Errorf("cannot look for USB devices: %w", err)
	}
	var list []Device
	for _, e := range entries {
		name := e.Name()
		if strings.HasPrefix(name, "usb") || strings.Contains(name, ":") {
			continue
		}
		if d, ok := scan(sys, name); ok {
			list = append(list, d)
		}
	}
	for _, e := range entries {
		device, _, is := strings.Cut(e.Name(), ":")
		i := slices.IndexFunc(list, func(d Device) bool { return d.BusID == device })
		if !is || i < 0 {
			continue
		}
		a := attributes{sys: sys, dir: e.Name()}
		list[i].Interfaces = append(list[i].Interfaces, usbip.InterfaceInfo{
			Class: uint8(a.number("bInterfaceClass", 16, 8)), SubClass: uint8(a.number("bInterfaceSubClass", 16, 8)), Protocol: uint8(a.number("bInterfaceProtocol", 16, 8))})
	}
	for i := range list {
		list[i].InterfaceCount = uint8(len(list[i].Interfaces))
	}
	return list, nil
}

func scan(sys fs.FS, name string) (Device, bool) {
	a := attributes{sys: sys, dir: name}
	d := Device{DeviceInfo: usbip.DeviceInfo{
		Path: usbip.PathPrefix + name, BusID: name,
		Bus: uint32(a.number("busnum", 10, 16)), Number: uint32(a.number("devnum", 10, 16)),
		Speed:  uint32(a.speed()),
		Vendor: uint16(a.number("idVendor", 16, 16)), Product: uint16(a.number("idProduct", 16, 16)), Release: uint16(a.number("bcdDevice", 16, 16)),
		Class: uint8(a.number("bDeviceClass", 16, 8)), SubClass: uint8(a.number("bDeviceSubClass", 16, 8)), Protocol: uint8(a.number("bDeviceProtocol", 16, 8)),
		Configurations: uint8(a.number("bNumConfigurations", 10, 8)),
	}}
	ok := !a.failed
	d.Configuration = uint8(a.number("bConfigurationValue", 10, 8)) // empty where there is none
	d.classes = a.classes()
	d.Manufacturer, d.Name, d.Serial = a.text("manufacturer"), a.text("product"), a.text("serial")
	return d, ok
}

// attributes are the files of a device in sysfs.
type attributes struct {
	sys    fs.FS
	dir    string
	failed bool
}

func (a *attributes) text(name string) string {
	b, err := fs.ReadFile(a.sys, path.Join(a.dir, name))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

// classes are those of all interfaces, also where the device is not configured so: a
// client may do that. A device whose descriptors cannot be read is not given anyway.
func (a *attributes) classes() (classes []uint8) {
	b, err := fs.ReadFile(a.sys, path.Join(a.dir, "descriptors"))
	if err != nil {
		return nil
	}
	const device, head = 18, 9
	for b = b[min(device, len(b)):]; len(b) >= head; {
		n := min(max(head, int(binary.LittleEndian.Uint16(b[2:]))), len(b))
		c, err := usb.ParseConfiguration(b[:n])
		if err != nil {
			return classes
		}
		for _, i := range c.Interfaces {
			for _, s := range i.Alternates {
				classes = append(classes, s.Class)
			}
		}
		b = b[n:]
	}
	return classes
}

func (a *attributes) number(name string, base, bits int) uint64 {
	n, err := strconv.ParseUint(a.text(name), base, bits)
	if err != nil {
		a.failed = true
	}
	return n
}

func (a *attributes) speed() usb.Speed {
	text := a.text("speed")
	for s := usb.SpeedLow; s <= usb.SpeedSuperPlus; s++ {
		if s.String() == text && s != usb.SpeedWireless {
			return s
		}
	}
	if n, err := strconv.ParseUint(text, 10, 32); err == nil && n > 10000 {
		return usb.SpeedSuperPlus
	}
	return usb.SpeedUnknown
}

// Local are this machine's devices that rules allow.
type Local struct {
	Sys   fs.FS  // sysfs's bus/usb/devices
	Nodes string // /dev/bus/usb
	Rules []Rule

	mu   sync.Mutex
	used map[string]bool // by bus id
}

var _ usbip.Exports = (*Local)(nil)

func (l *Local) allowed() ([]Device, error) {
	list, err := Scan(l.Sys)
	return slices.DeleteFunc(list, func(d Device) bool {
		return !slices.ContainsFunc(l.Rules, func(r Rule) bool { return r.Allows(d) })
	}), err
}

// List implements usbip.Exports.
func (l *Local) List(net.Addr) (infos []usbip.DeviceInfo) {
	list, err := l.allowed()
	if err != nil {
		return nil
	}
	for _, d := range list {
		infos = append(infos, d.DeviceInfo)
	}
	return infos
}

// Open implements usbip.Exports. What is not allowed is told as what is not there.
func (l *Local) Open(ctx context.Context, _ net.Addr, busID string) (usbip.DeviceInfo, usb.Device, error) {
	list, err := l.allowed()
	if err != nil {
		return usbip.DeviceInfo{}, nil, err
	}
	i := slices.IndexFunc(list, func(d Device) bool { return d.BusID == busID })
	if i < 0 {
		return usbip.DeviceInfo{}, nil, usbip.StatusNoDevice
	}
	l.mu.Lock()
	busy := l.used[busID]
	if l.used == nil {
		l.used = map[string]bool{}
	}
	l.used[busID] = true
	l.mu.Unlock()
	if busy {
		return usbip.DeviceInfo{}, nil, usbip.StatusBusy
	}
	info := list[i].DeviceInfo
	dev, err := local.Open(ctx, fmt.Sprintf("%s/%03d/%03d", l.Nodes, info.Bus, info.Number))
	if err != nil {
		l.free(busID)
		if errors.Is(err, fs.ErrPermission) {
			err = fmt.Errorf("%w: a rule of udev, such as TAG+=\"uaccess\", or a group must give this user the device", err)
		}
		return usbip.DeviceInfo{}, nil, err
	}
	info.Configuration = dev.Configuration()
	return info, &lease{dev, func() { l.free(busID) }}, nil
}

func (l *Local) free(busID string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.used, busID)
}

// lease is a device in a client's hands.
type lease struct {
	usb.Device
	free func()
}

// Close implements usb.Device.
func (l *lease) Close() error {
	defer l.free()
	return l.Device.Close()
}
