// Package usbtest has the suite that every usb.Device passes, and the emulated device
// that it is run on.
package usbtest

import (
	"context"
	"encoding/binary"
	"syscall"

	"github.com/lxbridge/lx/devices/usb"
	"github.com/lxbridge/lx/devices/usb/emul"
)

// The gadget's endpoints. Those of isochronous kind are in setting 1 of interface 1.
const (
	LoopOut = usb.Address(0x01) // comes back at LoopIn, transfer by transfer
	LoopIn  = usb.Address(0x81)
	Sink    = usb.Address(0x02) // takes everything
	Source  = usb.Address(0x82) // gives whole packets of bytes that count up, without end
	Event   = usb.Address(0x83) // interrupt: what ReqEvent brought
	IsoOut  = usb.Address(0x04)
	IsoIn   = usb.Address(0x84) // full packets
)

// The gadget's vendor requests.
const (
	ReqStore  = 1 // OUT: keep the data
	ReqLoad   = 2 // IN: what was kept
	ReqHang   = 3 // IN: answers when it is cancelled
	ReqHalt   = 4 // wValue: the endpoint to halt
	ReqUnplug = 5
	ReqEvent  = 6 // OUT: the data comes at Event
)

// maxLoop is the longest transfer that comes back.
const maxLoop = 1 << 20

// Names of the gadget.
const (
	Manufacturer = "lx"
	Product      = "test gadget"
	Serial       = "0001\u00df"
)

// Gadget is the device that the suite expects at the other end.
func Gadget() emul.Spec {
	g := &gadget{events: make(chan []byte, 16)}
	return emul.Spec{
		Speed:          usb.SpeedHigh,
		Device:         []byte{18, 1, 0, 2, 0xff, 0, 0, 64, 0x50, 0x1d, 0x01, 0x60, 0x34, 0x12, 1, 2, 3, 1},
		Configurations: [][]byte{configuration()},
		Strings:        map[uint8]string{1: Manufacturer, 2: Product, 3: Serial, 4: "data"},
		Control:        g.control,
		Run:            g.run,
		ISO: func(_ *emul.Device, ep usb.Address, p []byte) int {
			for i := range p {
				if ep.In() {
					p[i] = byte(i)
				}
			}
			return len(p)
		},
	}
}

func configuration() []byte {
	endpoint := func(a usb.Address, k usb.Kind, size uint16, interval uint8) []byte {
		return append(binary.LittleEndian.AppendUint16([]byte{7, usb.DescEndpoint, uint8(a), uint8(k)}, size), interval)
	}
	b := []byte{9, usb.DescConfiguration, 0, 0, 2, 1, 0, 0x80, 50}
	b = append(b, 9, usb.DescInterface, 0, 0, 5, 0xff, 0, 0, 4)
	for _, a := range []usb.Address{LoopOut, LoopIn, Sink, Source} {
		b = append(b, endpoint(a, usb.Bulk, 512, 0)...)
	}
	b = append(b, endpoint(Event, usb.Interrupt, 64, 4)...)
	b = append(b, 9, usb.DescInterface, 1, 0, 0, 0xff, 1, 0, 0)
	b = append(b, 9, usb.DescInterface, 1, 1, 2, 0xff, 1, 0, 0)
	b = append(b, endpoint(IsoOut, usb.Isochronous, 192, 1)...)
	b = append(b, endpoint(IsoIn, usb.Isochronous, 192, 1)...)
	binary.LittleEndian.PutUint16(b[2:], uint16(len(b)))
	return b
}

type gadget struct {
	kept   []byte
	events chan []byte
}

func (g *gadget) control(ctx context.Context, d *emul.Device, s usb.Setup, data []byte) (int, error) {
	switch s.Request {
	case ReqStore:
		g.kept = append([]byte(nil), data...)
		return len(data), nil
	case ReqLoad:
		return copy(data, g.kept), nil
	case ReqHang:
		<-ctx.Done()
		return 0, ctx.Err()
	case ReqHalt:
		d.Pipe(usb.Address(s.Value)).Halt()
		return 0, nil
	case ReqUnplug:
		d.Unplug()
		return 0, nil
	case ReqEvent:
		select {
		case g.events <- append([]byte(nil), data...):
			return len(data), nil
		default:
		}
	}
	return 0, syscall.EPIPE
}

// run moves data until the device is configured anew.
func (g *gadget) run(ctx context.Context, d *emul.Device) {
	done := make(chan struct{})
	loops := []func(context.Context, *emul.Device){g.loop, sink, source, g.event}
	for _, f := range loops {
		go func() {
			defer func() { done <- struct{}{} }()
			f(ctx, d)
		}()
	}
	for range loops {
		<-done
	}
}

func (g *gadget) loop(ctx context.Context, d *emul.Device) {
	out, in := d.Pipe(LoopOut), d.Pipe(LoopIn)
	b := make([]byte, maxLoop)
	for {
		n, err := out.Read(ctx, b)
		if err == nil {
			_, err = in.Write(ctx, b[:n], n < maxLoop)
		}
		if !again(ctx, err, out, in) {
			return
		}
	}
}

func sink(ctx context.Context, d *emul.Device) {
	p := d.Pipe(Sink)
	b := make([]byte, 1<<16)
	for {
		if _, err := p.Read(ctx, b); !again(ctx, err, p) {
			return
		}
	}
}

func source(ctx context.Context, d *emul.Device) {
	p := d.Pipe(Source)
	b := make([]byte, 1<<16)
	for i := range b {
		b[i] = byte(i)
	}
	for {
		if _, err := p.Write(ctx, b, false); !again(ctx, err, p) {
			return
		}
	}
}

func (g *gadget) event(ctx context.Context, d *emul.Device) {
	p := d.Pipe(Event)
	for {
		select {
		case b := <-g.events:
			if _, err := p.Write(ctx, b, false); !again(ctx, err, p) {
				return
			}
		case <-ctx.Done():
			return
		}
	}
}

// again says whether to go on after err, when the host has cleared a halt.
func again(ctx context.Context, err error, pipes ...*emul.Pipe) bool {
	if err == nil {
		return true
	}
	if err != syscall.EPIPE {
		return false
	}
	for _, p := range pipes {
		if p.Cleared(ctx) != nil {
			return false
		}
	}
	return true
}
