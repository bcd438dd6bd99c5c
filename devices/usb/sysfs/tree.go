package sysfs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/lxbridge/lx/devices/usb"
	"github.com/lxbridge/lx/devices/usb/host"
)

// The parts of the tree, by where they belong.
const (
	Controller     = "lx-hcd.0"
	ControllerPart = "devices/" + Controller // at /sys/devices/lx-hcd.0
	BusPart        = "bus/usb"               // at /sys/bus/usb, where the kernel has none
	DevicesPart    = BusPart + "/devices"    // at /sys/bus/usb/devices, where it has
)

// major is the number of USB device nodes.
const major = 189

// Minor is the number of a device's node.
func Minor(d *host.Device) int { return (d.Bus-1)*128 + d.Number - 1 }

// tree makes nodes.
type tree struct {
	host   *host.Host
	beside bool
}

func dir(name string, list func() []node) node { return node{name: name, list: list} }

func link(name, target string) node { return node{name: name, target: target} }

// file is an attribute of one line.
func file(name, format string, args ...any) node {
	return node{name: name, text: func() []byte { return fmt.Appendf(nil, format+"\n", args...) }}
}

func raw(name string, b []byte) node { return node{name: name, text: func() []byte { return b }} }

func of(nodes ...node) func() []node { return func() []node { return nodes } }

func (t tree) root() []node {
	return []node{
		dir("devices", of(dir(Controller, t.controller))),
		dir("bus", of(dir("usb", t.bus))),
	}
}

func (t tree) bus() []node {
	return []node{
		dir("devices", t.links),
		dir("drivers", of(dir("hub", of()), dir("usb", of()), dir("usbfs", of()))),
	}
}

// links name all devices and interfaces, the machine's own too.
func (t tree) links() []node {
	var nodes []node
	for _, d := range t.host.Devices() {
		at := "../../../devices/" + devicePath(d)
		nodes = append(nodes, link(d.Name(), at))
		for _, name := range interfaceNames(d) {
			nodes = append(nodes, link(name, at+"/"+name))
		}
	}
	const own = "/sys/bus/usb/devices"
	names, err := os.ReadDir(own)
	if !t.beside || err != nil {
		return nodes
	}
	for _, n := range names {
		if target, err := os.Readlink(own + "/" + n.Name()); err == nil {
			nodes = append(nodes, link(n.Name(), target))
		}
	}
	return nodes
}

// devicePath is a device's place below /sys/devices.
func devicePath(d *host.Device) string {
	path := fmt.Sprintf("%s/usb%d", Controller, d.Bus)
	if d.Port != 0 {
		path += "/" + d.Name()
	}
	return path
}

// DevPath is what uevents call a device.
func DevPath(d *host.Device) string { return "/devices/" + devicePath(d) }

func interfaceName(d *host.Device, c *usb.Configuration, i usb.Interface) string {
	name := d.Name()
	if d.Port == 0 {
		name = fmt.Sprintf("%d-0", d.Bus)
	}
	return fmt.Sprintf("%s:%d.%d", name, c.Value, i.Number)
}

func interfaceNames(d *host.Device) []string {
	var names []string
	if c := d.Active(); c != nil {
		for _, i := range c.Interfaces {
			names = append(names, interfaceName(d, c, i))
		}
	}
	return names
}

func (t tree) controller() []node {
	nodes := []node{file("uevent", "DRIVER=lx-hcd\nMODALIAS=platform:lx-hcd"), link("subsystem", "../../bus/platform"), link("driver", "../../bus/platform/drivers/lx-hcd")}
	for _, d := range t.host.Devices() {
		if d.Port == 0 {
			nodes = append(nodes, dir(d.Name(), func() []node { return t.device(d) }))
		}
	}
	return nodes
}

// device are a device's attributes (drivers/usb/core/sysfs.c) and what hangs off it.
func (t tree) device(d *host.Device) []node {
	desc := d.Description.Device
	up := strings.Repeat("../", strings.Count(devicePath(d), "/")+2)
	nodes := []node{
		link("subsystem", up+"bus/usb"), link("driver", up+"bus/usb/drivers/usb"),
		{name: "uevent", text: func() []byte { return []byte(strings.Join(Uevent(d), "\n") + "\n") }},
		raw("descriptors", d.Raw()),
		file("dev", "%d:%d", major, Minor(d)),
		file("busnum", "%d", d.Bus), file("devnum", "%d", d.Number), file("devpath", "%d", d.Port),
		file("speed", "%s", d.Speed()), file("version", "%2x.%02x", desc.USB>>8, desc.USB&0xff),
		file("idVendor", "%04x", desc.Vendor), file("idProduct", "%04x", desc.Product), file("bcdDevice", "%04x", desc.Release),
		file("bDeviceClass", "%02x", desc.Class), file("bDeviceSubClass", "%02x", desc.SubClass), file("bDeviceProtocol", "%02x", desc.Protocol),
		file("bMaxPacketSize0", "%d", desc.MaxPacket0), file("bNumConfigurations", "%d", desc.NumConfigurations),
		file("rx_lanes", "1"), file("tx_lanes", "1"), file("urbnum", "0"), file("quirks", "0x0"), file("avoid_reset_quirk", "0"),
		file("ltm_capable", "no"), file("authorized", "1"), file("removable", "%s", removable(d)), file("maxchild", "%d", maxChild(d)),
		dir("power", of(file("control", "on"), file("runtime_status", "active"), file("async", "enabled"), file("wakeup", "disabled"))),
		dir("ep_00", of(endpoint(d, usb.Endpoint{Kind: usb.Control, MaxPacketSize: uint16(desc.MaxPacket0)})...)),
		{
			name: "bConfigurationValue",
			text: func() []byte {
				if c := d.Active(); c != nil {
					return fmt.Appendf(nil, "%d\n", c.Value)
				}
				return nil
			},
			store: func(ctx context.Context, text string) syscall.Errno { return configure(ctx, d, text) },
		},
	}
	if d.BOS != nil {
		nodes = append(nodes, raw("bos_descriptors", d.BOS))
	}
	for name, i := range map[string]uint8{"manufacturer": desc.IManufacturer, "product": desc.IProduct, "serial": desc.ISerial} {
		nodes = appendString(nodes, d, name, i)
	}
	if c := d.Active(); c != nil {
		unit := 2
		if d.Speed() >= usb.SpeedSuper {
			unit = 8
		}
		nodes = append(nodes, file("bNumInterfaces", "%2d", len(c.Interfaces)), file("bmAttributes", "%2x", c.Attributes), file("bMaxPower", "%dmA", int(c.MaxPower)*unit))
		nodes = append(nodes, raw("configuration", stringLine(d, c.IConfiguration)))
		for _, i := range c.Interfaces {
			nodes = append(nodes, dir(interfaceName(d, c, i), func() []node { return iface(d, i.Number, up+"../") }))
		}
	} else {
		nodes = append(nodes, raw("bNumInterfaces", nil), raw("bmAttributes", nil), raw("bMaxPower", nil), raw("configuration", nil))
	}
	if d.Port == 0 {
		for _, o := range t.host.Devices() {
			if o.Bus == d.Bus && o.Port != 0 {
				nodes = append(nodes, dir(o.Name(), func() []node { return t.device(o) }))
			}
		}
	}
	slices.SortFunc(nodes, func(a, b node) int { return strings.Compare(a.name, b.name) })
	return nodes
}

func removable(d *host.Device) string {
	if d.Port == 0 {
		return "fixed"
	}
	return "removable"
}

func maxChild(d *host.Device) int {
	if d.Port == 0 {
		return host.Ports
	}
	return 0
}

// appendString adds the string of index i, if the device has it.
func appendString(nodes []node, d *host.Device, name string, i uint8) []node {
	if line := stringLine(d, i); line != nil {
		return append(nodes, raw(name, line))
	}
	return nodes
}

// stringLine is the string of index i as a line; nothing, if the device has it not.
func stringLine(d *host.Device, i uint8) []byte {
	if text, ok := d.Strings[i]; ok && i != 0 {
		return []byte(oneLine(text) + "\n")
	}
	return nil
}

// oneLine is text without control characters, for readers take it by lines.
func oneLine(text string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 {
			return '?'
		}
		return r
	}, text)
}

// configure sets what was written to bConfigurationValue.
func configure(ctx context.Context, d *host.Device, text string) syscall.Errno {
	value, err := strconv.ParseInt(text, 0, 16)
	if err != nil || value < -1 || value > 255 {
		return syscall.EINVAL
	}
	err = d.SetConfiguration(ctx, uint8(max(value, 0)))
	var errno syscall.Errno
	switch {
	case err == nil:
		return 0
	case errors.As(err, &errno):
		return errno
	}
	return syscall.EIO
}

// Uevent are a device's properties, as its uevent file and its events have them.
func Uevent(d *host.Device) []string {
	desc := d.Description.Device
	return []string{
		fmt.Sprintf("MAJOR=%d", major), fmt.Sprintf("MINOR=%d", Minor(d)),
		fmt.Sprintf("DEVNAME=bus/usb/%03d/%03d", d.Bus, d.Number), "DEVTYPE=usb_device", "DRIVER=usb",
		fmt.Sprintf("PRODUCT=%x/%x/%x", desc.Vendor, desc.Product, desc.Release),
		fmt.Sprintf("TYPE=%d/%d/%d", desc.Class, desc.SubClass, desc.Protocol),
		fmt.Sprintf("BUSNUM=%03d", d.Bus), fmt.Sprintf("DEVNUM=%03d", d.Number),
	}
}

// iface are an interface's attributes.
func iface(d *host.Device, number uint8, up string) []node {
	a := d.Setting(number)
	if a == nil {
		return nil
	}
	desc := d.Description.Device
	modalias := fmt.Sprintf("usb:v%04Xp%04Xd%04Xdc%02Xdsc%02Xdp%02Xic%02Xisc%02Xip%02Xin%02X", desc.Vendor, desc.Product, desc.Release,
		desc.Class, desc.SubClass, desc.Protocol, a.Class, a.SubClass, a.Protocol, number)
	nodes := []node{
		link("subsystem", up+"bus/usb"), file("modalias", "%s", modalias),
		file("authorized", "1"), file("supports_autosuspend", "1"),
		file("bAlternateSetting", "%2d", a.Alternate), file("bInterfaceNumber", "%02x", number), file("bNumEndpoints", "%02x", len(a.Endpoints)),
		file("bInterfaceClass", "%02x", a.Class), file("bInterfaceSubClass", "%02x", a.SubClass), file("bInterfaceProtocol", "%02x", a.Protocol),
	}
	nodes = appendString(nodes, d, "interface", a.IInterface)
	uevent := []string{"DEVTYPE=usb_interface"}
	if driver := driverOf(d, number); driver != "" {
		nodes = append(nodes, link("driver", up+"bus/usb/drivers/"+driver))
		uevent = append(uevent, "DRIVER="+driver)
	}
	uevent = append(uevent,
		fmt.Sprintf("PRODUCT=%x/%x/%x", desc.Vendor, desc.Product, desc.Release),
		fmt.Sprintf("TYPE=%d/%d/%d", desc.Class, desc.SubClass, desc.Protocol),
		fmt.Sprintf("INTERFACE=%d/%d/%d", a.Class, a.SubClass, a.Protocol), "MODALIAS="+modalias)
	nodes = append(nodes, file("uevent", "%s", strings.Join(uevent, "\n")))
	for _, e := range a.Endpoints {
		nodes = append(nodes, dir(fmt.Sprintf("ep_%02x", uint8(e.Address)), of(endpoint(d, e)...)))
	}
	slices.SortFunc(nodes, func(a, b node) int { return strings.Compare(a.name, b.name) })
	return nodes
}

// driverOf is who has an interface.
func driverOf(d *host.Device, number uint8) string {
	switch {
	case d.Port == 0:
		return "hub"
	case d.OwnerOf(number) != nil:
		return "usbfs"
	}
	return ""
}

// interval is how often an endpoint is asked, in µs (drivers/usb/core/endpoint.c).
func interval(d *host.Device, e usb.Endpoint) int {
	high := d.Speed() >= usb.SpeedHigh
	n := int(e.Interval)
	switch {
	case e.Kind == usb.Isochronous || e.Kind == usb.Interrupt && high:
		n = 1 << (min(max(n, 1), 16) - 1)
	case e.Kind == usb.Interrupt:
	case !high || e.Address.In():
		n = 0 // only of OUT endpoints, at high speed: how often they may say no
	}
	if high {
		return n * 125
	}
	return n * 1000
}

func endpoint(d *host.Device, e usb.Endpoint) []node {
	every := fmt.Sprintf("%dms", interval(d, e)/1000)
	if us := interval(d, e); us%1000 != 0 {
		every = fmt.Sprintf("%dus", us)
	}
	direction := "out"
	switch {
	case e.Kind == usb.Control:
		direction = "both"
	case e.Address.In():
		direction = "in"
	}
	return []node{
		file("bEndpointAddress", "%02x", uint8(e.Address)), file("bInterval", "%02x", e.Interval), file("bLength", "07"),
		file("bmAttributes", "%02x", e.Attributes), file("interval", "%s", every), file("direction", "%s", direction),
		file("type", "%s", [...]string{"Control", "Isoc", "Bulk", "Interrupt"}[e.Kind&3]), file("wMaxPacketSize", "%04x", e.MaxPacketSize),
	}
}
