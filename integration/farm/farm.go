// Package farm is a lab of emulated USB devices behind USB/IP, each true to its
// protocol, for tests and benchmarks. A farm has one of two faces: Linux's usbipd
// or usbipd-win.
package farm

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"syscall"

	"github.com/lxbridge/lx/devices/usb"
	"github.com/lxbridge/lx/devices/usb/emul"
	"github.com/lxbridge/lx/devices/usb/usbip"
)

// Face is whose server a farm resembles.
type Face int

const (
	// Linux leaves devices unconfigured when a client has gone.
	Linux Face = iota
	// Windows, usbipd-win, drops the flag that asks for an empty packet, and
	// cancels nothing but all transfers of an endpoint.
	Windows
)

// Farm has devices at ports, named as bus ids: "1-2".
type Farm struct {
	face Face

	mu    sync.Mutex
	ports map[string]*port
	order []string
	next  uint32
}

type port struct {
	info usbip.DeviceInfo
	dev  *emul.Device
	used bool
}

// New makes a farm without devices.
func New(face Face) *Farm { return &Farm{face: face, ports: map[string]*port{}, next: 2} }

// Plug puts a device into a port, in place of what was there.
func (f *Farm) Plug(busID string, spec emul.Spec) error {
	dev, err := emul.New(spec)
	if err != nil {
		return err
	}
	desc, err := usb.ParseDevice(spec.Device)
	if err != nil {
		return err
	}
	config, err := usb.ParseConfiguration(spec.Configurations[0])
	if err != nil {
		return err
	}
	if err := dev.SetConfiguration(context.Background(), config.Value); err != nil { // as the server's own kernel does
		return err
	}
	f.Unplug(busID)
	f.mu.Lock()
	defer f.mu.Unlock()
	info := usbip.DeviceInfo{
		Path: "/sys/devices/platform/farm/usb1/" + busID, BusID: busID, Bus: 1, Number: f.next, Speed: uint32(spec.Speed),
		Vendor: desc.Vendor, Product: desc.Product, Release: desc.Release,
		Class: desc.Class, SubClass: desc.SubClass, Protocol: desc.Protocol,
		Configuration: config.Value, Configurations: desc.NumConfigurations,
	}
	if f.face == Windows {
		info.Path = fmt.Sprintf(`USB\VID_%04X&PID_%04X\%s`, desc.Vendor, desc.Product, busID)
	}
	for _, i := range config.Interfaces {
		a := i.Alternates[0]
		info.Interfaces = append(info.Interfaces, usbip.InterfaceInfo{Class: a.Class, SubClass: a.SubClass, Protocol: a.Protocol})
	}
	info.InterfaceCount = uint8(len(info.Interfaces))
	f.next++
	if f.ports[busID] == nil {
		f.order = append(f.order, busID)
	}
	f.ports[busID] = &port{info: info, dev: dev}
	return nil
}

// Unplug empties a port. A device's own functions may call it.
func (f *Farm) Unplug(busID string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if p := f.ports[busID]; p != nil && p.dev != nil {
		p.dev.Unplug()
		p.dev = nil
	}
}

// Close unplugs all.
func (f *Farm) Close() {
	f.mu.Lock()
	devices := []*emul.Device{}
	for _, p := range f.ports {
		if p.dev != nil {
			devices = append(devices, p.dev)
			p.dev = nil
		}
	}
	f.mu.Unlock()
	for _, d := range devices {
		d.Close()
	}
}

// Serve exports the devices until ctx ends.
func (f *Farm) Serve(ctx context.Context, l net.Listener) error {
	return (&usbip.Server{Exports: f, Log: slog.New(slog.DiscardHandler)}).Serve(ctx, l)
}

// List implements usbip.Exports.
func (f *Farm) List(net.Addr) (list []usbip.DeviceInfo) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, id := range f.order {
		if p := f.ports[id]; p.dev != nil {
			list = append(list, p.info)
		}
	}
	return list
}

// Open implements usbip.Exports.
func (f *Farm) Open(_ context.Context, _ net.Addr, busID string) (usbip.DeviceInfo, usb.Device, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	p := f.ports[busID]
	switch {
	case p == nil || p.dev == nil:
		return usbip.DeviceInfo{}, nil, usbip.StatusNoDevice
	case p.used:
		return usbip.DeviceInfo{}, nil, usbip.StatusBusy
	}
	p.used = true
	l := &lease{Device: p.dev, farm: f, port: p}
	if f.face == Windows {
		return p.info, &windows{lease: l, pending: map[usb.Address]map[*usb.URB]*held{}}, nil
	}
	return p.info, l, nil
}

// lease is a device in a client's hands.
type lease struct {
	usb.Device
	farm *Farm
	port *port
}

// Close leaves the device in its port.
func (l *lease) Close() error {
	value := uint8(0)
	if l.farm.face == Windows {
		value = l.port.info.Configuration
	}
	err := l.SetConfiguration(context.Background(), value)
	l.farm.mu.Lock()
	defer l.farm.mu.Unlock()
	l.port.used = false
	if l.farm.face == Linux { // no longer told
		l.port.info.Configuration, l.port.info.Interfaces, l.port.info.InterfaceCount = 0, nil, 0
	}
	if errors.Is(err, syscall.ENODEV) {
		return nil
	}
	return err
}

// windows makes a device behave as behind VBoxUSB, usbipd-win's driver.
type windows struct {
	*lease
	mu      sync.Mutex
	pending map[usb.Address]map[*usb.URB]*held
}

type held struct {
	complete func(*usb.URB)
	cancel   bool
}

// Submit implements usb.Device.
func (w *windows) Submit(u *usb.URB) error {
	u.Flags &^= usb.ZeroPacket
	h := &held{complete: u.Complete}
	w.mu.Lock()
	if w.pending[u.Endpoint] == nil {
		w.pending[u.Endpoint] = map[*usb.URB]*held{}
	}
	w.pending[u.Endpoint][u] = h
	w.mu.Unlock()
	u.Complete = func(u *usb.URB) {
		w.forget(u)
		u.Complete = h.complete
		u.Complete(u)
	}
	err := w.lease.Submit(u)
	if err != nil {
		w.forget(u)
		u.Complete = h.complete
	}
	return err
}

func (w *windows) forget(u *usb.URB) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.pending[u.Endpoint], u)
}

// Cancel implements usb.Device: the endpoint's transfers end when the last of
// them is to be cancelled.
func (w *windows) Cancel(u *usb.URB) {
	w.mu.Lock()
	all := w.pending[u.Endpoint]
	if h := all[u]; h != nil {
		h.cancel = true
	}
	var victims []*usb.URB
	for u, h := range all {
		if !h.cancel {
			w.mu.Unlock()
			return
		}
		victims = append(victims, u)
	}
	w.mu.Unlock()
	for _, u := range victims {
		w.lease.Cancel(u)
	}
}

// deviceDescriptor is one with manufacturer, product and serial as strings 1 to 3.
func deviceDescriptor(vendor, product uint16, class, subClass, protocol uint8) []byte {
	b := []byte{18, usb.DescDevice, 0, 2, class, subClass, protocol, 64}
	b = binary.LittleEndian.AppendUint16(b, vendor)
	b = binary.LittleEndian.AppendUint16(b, product)
	return append(b, 0, 1, 1, 2, 3, 1)
}

func names(manufacturer, product, serial string) map[uint8]string {
	return map[uint8]string{1: manufacturer, 2: product, 3: serial}
}

// configDescriptor is configuration 1 of what its interfaces are made of.
func configDescriptor(interfaces int, parts ...[]byte) []byte {
	b := []byte{9, usb.DescConfiguration, 0, 0, uint8(interfaces), 1, 0, 0x80, 250}
	for _, p := range parts {
		b = append(b, p...)
	}
	binary.LittleEndian.PutUint16(b[2:], uint16(len(b)))
	return b
}

func interfaceDescriptor(number, endpoints, class, subClass, protocol uint8) []byte {
	return []byte{9, usb.DescInterface, number, 0, endpoints, class, subClass, protocol, 0}
}

func endpointDescriptor(a usb.Address, k usb.Kind, size uint16, interval uint8) []byte {
	return []byte{7, usb.DescEndpoint, uint8(a), uint8(k), uint8(size), uint8(size >> 8), interval}
}
