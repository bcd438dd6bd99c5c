package farm

import (
	"context"
	"encoding/binary"
	"errors"
	"sync"
	"syscall"
	"time"

	"github.com/lxbridge/lx/devices/usb"
	"github.com/lxbridge/lx/devices/usb/emul"
)

// BootROM is a BCM2711 that boots over USB, as rpiboot serves it: it takes its boot code,
// comes back, and asks for files.
type BootROM struct {
	// Files are asked for, in order.
	Files []string
	// Replug is called with what the device becomes: the file client, then, when
	// the host has been told that all is done, nothing any more (nil).
	Replug func(*emul.Spec)

	mu   sync.Mutex
	code []byte
	got  map[string][]byte
}

// Code is the boot code that was taken.
func (b *BootROM) Code() []byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.code
}

// File is what the host served; ok is false where it had none.
func (b *BootROM) File(name string) (data []byte, ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	data, ok = b.got[name]
	return data, ok
}

// Spec is the device after power-up.
func (b *BootROM) Spec() emul.Spec {
	b.got = map[string][]byte{}
	return b.spec(0, b.loadCode)
}

// romTime is how long the device stays after its last answer.
const romTime = 50 * time.Millisecond

// spec is a stage, which hosts tell by the index of the serial number.
func (b *BootROM) spec(iSerial uint8, stage func(context.Context, *romStage)) emul.Spec {
	s := &romStage{announced: make(chan int), messages: make(chan []byte)}
	config := configDescriptor(1, interfaceDescriptor(0, 2, 0xff, 0, 0),
		endpointDescriptor(0x01, usb.Bulk, 512, 0), endpointDescriptor(0x82, usb.Bulk, 512, 0))
	config[2] = 55 // as the ROM has it, though 32 bytes come
	device := deviceDescriptor(0x0a5c, 0x2711, 0, 0, 0)
	device[16] = iSerial
	return emul.Spec{
		Speed: usb.SpeedHigh, Device: device, Configurations: [][]byte{config},
		Strings: map[uint8]string{1: "Broadcom", 2: "BCM2711 Boot", 4: "farm"},
		Control: s.control,
		Run: func(ctx context.Context, d *emul.Device) {
			s.out = d.Pipe(0x01)
			stage(ctx, s)
		},
	}
}

// romStage is the transport: the host announces what it writes, and reads on
// endpoint 0.
type romStage struct {
	announced chan int
	messages  chan []byte
	out       *emul.Pipe
}

func (s *romStage) control(ctx context.Context, _ *emul.Device, q usb.Setup, data []byte) (int, error) {
	size := int(q.Index)<<16 | int(q.Value)
	switch {
	case q.RequestType == usb.TypeVendor && q.Request == 0:
		select {
		case s.announced <- size:
			return 0, nil
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	case q.RequestType == usb.DirIn|usb.TypeVendor && q.Request == 0:
		select {
		case m := <-s.messages:
			return copy(data, m[:min(len(m), size)]), nil
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
	return 0, syscall.EPIPE
}

// receive is what the host writes next.
func (s *romStage) receive(ctx context.Context) ([]byte, error) {
	var b []byte
	select {
	case n := <-s.announced:
		b = make([]byte, min(n, 64<<20))
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	for at := 0; at < len(b); {
		n, err := s.out.Read(ctx, b[at:])
		if err != nil {
			return nil, err
		}
		at += n
	}
	return b, nil
}

func (b *BootROM) loadCode(ctx context.Context, s *romStage) {
	head, err := s.receive(ctx)
	if err != nil {
		return
	}
	code, err := s.receive(ctx)
	if err != nil {
		return
	}
	status := make([]byte, 4)
	good := len(head) == 24 && int(binary.LittleEndian.Uint32(head)) == len(code)
	if !good {
		status[0] = 1
	}
	select {
	case s.messages <- status:
	case <-ctx.Done():
		return
	}
	if !good {
		return
	}
	b.mu.Lock()
	b.code = code
	b.mu.Unlock()
	next := b.spec(4, b.askFiles)
	time.AfterFunc(romTime, func() { b.Replug(&next) })
}

// The file client's commands.
const (
	romFileSize = 0
	romReadFile = 1
	romDone     = 2
)

func (b *BootROM) askFiles(ctx context.Context, s *romStage) {
	ask := func(command uint32, name string) ([]byte, error) {
		m := make([]byte, 260)
		binary.LittleEndian.PutUint32(m, command)
		copy(m[4:], name)
		select {
		case s.messages <- m:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		if command == romDone {
			return nil, nil
		}
		return s.receive(ctx)
	}
	for _, name := range b.Files {
		size, err := ask(romFileSize, name)
		if err != nil {
			return
		}
		if len(size) != 4 {
			continue // the host has none
		}
		data, err := ask(romReadFile, name)
		if err != nil || len(data) != int(binary.LittleEndian.Uint32(size)) {
			return
		}
		b.mu.Lock()
		b.got[name] = data
		b.mu.Unlock()
	}
	if _, err := ask(romDone, ""); err == nil {
		time.AfterFunc(romTime, func() { b.Replug(nil) })
	}
}

// DFU is a device in DFU mode (Device Firmware Upgrade 1.1) that may be written and read.
type DFU struct {
	Serial string

	mu       sync.Mutex
	firmware []byte
	incoming []byte
	state    byte
	status   byte
}

// Firmware is what the device has.
func (f *DFU) Firmware() []byte {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.firmware
}

const dfuBlock = 4096

// The states of appendix A.1 and the requests of table 3.2.
const (
	dfuIdle         = 2
	dfuDownloadSync = 3
	dfuDownloadBusy = 4
	dfuDownloadIdle = 5
	dfuManifestSync = 6
	dfuManifest     = 7
	dfuUploadIdle   = 9
	dfuError        = 10

	dfuDownload    = 1
	dfuUpload      = 2
	dfuGetStatus   = 3
	dfuClearStatus = 4
	dfuGetState    = 5
	dfuAbort       = 6

	dfuErrStalled = 15
)

// Spec is the device.
func (f *DFU) Spec() emul.Spec {
	f.state = dfuIdle
	function := []byte{9, 0x21, 0x07, 0xff, 0, dfuBlock & 0xff, dfuBlock >> 8, 0x10, 1} // down, up, manifestation tolerant
	strings := names("lx", "farm DFU", f.Serial)
	strings[4] = "flash"
	iface := interfaceDescriptor(0, 0, 0xfe, 1, 2)
	iface[8] = 4
	return emul.Spec{
		Speed: usb.SpeedFull, Device: deviceDescriptor(0x1d6b, 0x0139, 0, 0, 0),
		Configurations: [][]byte{configDescriptor(1, iface, function)},
		Strings:        strings,
		Control:        f.control,
	}
}

func (f *DFU) control(_ context.Context, _ *emul.Device, q usb.Setup, data []byte) (int, error) {
	if q.RequestType&^usb.DirIn != usb.TypeClass|usb.ToInterface {
		return 0, syscall.EPIPE
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	n, err := f.request(q, data)
	if errors.Is(err, syscall.EPIPE) {
		f.state, f.status = dfuError, dfuErrStalled
	}
	return n, err
}

func (f *DFU) request(q usb.Setup, data []byte) (int, error) {
	switch {
	case q.Request == dfuDownload && len(data) > 0 && len(data) <= dfuBlock && (f.state == dfuIdle || f.state == dfuDownloadIdle):
		if f.state == dfuIdle {
			f.incoming = nil
		}
		f.incoming = append(f.incoming, data...)
		f.state = dfuDownloadSync
		return 0, nil
	case q.Request == dfuDownload && len(data) == 0 && f.state == dfuDownloadIdle:
		f.state = dfuManifestSync
		return 0, nil
	case q.Request == dfuUpload && (f.state == dfuIdle || f.state == dfuUploadIdle):
		if len(data) > dfuBlock {
			return 0, syscall.EPIPE
		}
		at := min(int(q.Value)*len(data), len(f.firmware))
		n := copy(data, f.firmware[at:])
		f.state = dfuUploadIdle
		if n < len(data) {
			f.state = dfuIdle
		}
		return n, nil
	case q.Request == dfuGetStatus:
		poll := byte(0)
		switch f.state { // what the device does meanwhile takes one poll
		case dfuDownloadSync:
			f.state, poll = dfuDownloadBusy, 1
		case dfuDownloadBusy:
			f.state = dfuDownloadIdle
		case dfuManifestSync:
			f.state, poll = dfuManifest, 5
		case dfuManifest:
			f.firmware, f.incoming, f.state = f.incoming, nil, dfuIdle
		}
		return copy(data, []byte{f.status, poll, 0, 0, f.state, 0}), nil
	case q.Request == dfuClearStatus && f.state == dfuError:
		f.state, f.status = dfuIdle, 0
		return 0, nil
	case q.Request == dfuGetState:
		return copy(data, []byte{f.state}), nil
	case q.Request == dfuAbort:
		f.state = dfuIdle
		return 0, nil
	}
	return 0, syscall.EPIPE
}
