package local

import (
	"encoding/binary"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/lxbridge/lx/devices/usb"
)

// The ioctls of usbfs, with sizes and directions as the kernel has them.
const (
	iow = 1 << 30
	ior = 2 << 30
	own = 'U' << 8

	ioSetInterface     = ior | 8<<16 | own | 4
	ioSetConfiguration = ior | 4<<16 | own | 5
	ioSubmit           = ior | urbSize<<16 | own | 10
	ioDiscard          = own | 11
	ioReapNow          = iow | 8<<16 | own | 13
	ioRelease          = ior | 4<<16 | own | 16
	ioCommand          = ior | iow | 16<<16 | own | 18
	ioReset            = own | 20
	ioClearHalt        = ior | 4<<16 | own | 21
	ioConnect          = own | 23
	ioDisconnectClaim  = ior | 264<<16 | own | 27
	ioGetSpeed         = own | 31
)

type setInterface struct{ iface, alt uint32 }

type command struct {
	iface, code int32
	data        uintptr
}

type disconnectClaim struct {
	iface, flags uint32
	driver       [256]byte
}

// struct usbdevfs_urb, and the descriptors of isochronous packets behind it.
const (
	urbSize    = 56
	packetSize = 12

	urbType    = 0
	urbAddress = 1
	urbStatus  = 4
	urbFlags   = 8
	urbBuffer  = 16
	urbLength  = 24
	urbActual  = 28
	urbFrame   = 32
	urbPackets = 36
	urbErrors  = 40

	typeISO       = 0
	typeInterrupt = 1
	typeControl   = 2
	typeBulk      = 3

	flagShortNotOK = 0x01
	flagISOASAP    = 0x02
	flagZeroPacket = 0x40
)

var ne = binary.NativeEndian

// transfer is a URB in the kernel's hands. The kernel writes to its memory, which
// neither moves nor goes before it is reaped.
type transfer struct {
	urb    *usb.URB
	mem    []byte // struct usbdevfs_urb
	buffer []byte // the URB's, or, of control and isochronous URBs, a copy in usbfs's form
	pin    runtime.Pinner
	ends   bool // by the Device: ESHUTDOWN, not ECONNRESET
}

func (t *transfer) address() uintptr { return uintptr(unsafe.Pointer(unsafe.SliceData(t.mem))) }

func newTransfer(u *usb.URB) *transfer {
	words := make([]uint64, (urbSize+packetSize*len(u.Packets)+7)/8) // aligned
	t := &transfer{urb: u, mem: unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(words))), 8*len(words)), buffer: u.Buffer}
	t.mem[urbAddress] = uint8(u.Endpoint)
	var flags uint32
	if u.Flags&usb.ShortNotOK != 0 && u.In() {
		flags |= flagShortNotOK
	}
	if u.Flags&usb.ZeroPacket != 0 && !u.In() {
		flags |= flagZeroPacket
	}
	switch u.Kind {
	case usb.Control:
		t.mem[urbType] = typeControl
		setup := u.Setup.Bytes()
		t.buffer = append(setup[:], u.Buffer...)
	case usb.Bulk:
		t.mem[urbType] = typeBulk
		ne.PutUint32(t.mem[urbPackets:], uint32(u.Stream))
	case usb.Interrupt:
		t.mem[urbType] = typeInterrupt
	case usb.Isochronous:
		t.mem[urbType] = typeISO
		if u.Flags&usb.ISOASAP != 0 {
			flags |= flagISOASAP
		}
		ne.PutUint32(t.mem[urbFrame:], uint32(u.StartFrame))
		ne.PutUint32(t.mem[urbPackets:], uint32(len(u.Packets)))
		t.buffer = nil
		for i, p := range u.Packets { // one behind the other
			ne.PutUint32(t.mem[urbSize+packetSize*i:], uint32(p.Length))
			t.buffer = append(t.buffer, u.Buffer[p.Offset:p.Offset+p.Length]...)
		}
	}
	ne.PutUint32(t.mem[urbFlags:], flags)
	ne.PutUint32(t.mem[urbLength:], uint32(len(t.buffer)))
	t.pin.Pin(unsafe.SliceData(t.mem))
	if len(t.buffer) > 0 {
		p := unsafe.SliceData(t.buffer)
		t.pin.Pin(p)
		ne.PutUint64(t.mem[urbBuffer:], uint64(uintptr(unsafe.Pointer(p))))
	}
	return t
}

// finish sets the URB's result from what the kernel wrote, or, where lost, none.
func (t *transfer) finish(lost bool) {
	u := t.urb
	t.pin.Unpin()
	u.Held, u.Actual, u.ErrorCount = nil, 0, 0
	if lost {
		u.Status = syscall.ESHUTDOWN
		return
	}
	u.Status = syscall.Errno(-int32(ne.Uint32(t.mem[urbStatus:])))
	if u.Status == syscall.ENOENT || u.Status == syscall.ECONNRESET {
		u.Status = syscall.ECONNRESET
		if t.ends {
			u.Status = syscall.ESHUTDOWN
		}
	}
	u.Actual = min(int(ne.Uint32(t.mem[urbActual:])), len(u.Buffer))
	switch u.Kind {
	case usb.Control:
		if u.In() {
			copy(u.Buffer, t.buffer[8:8+u.Actual])
		}
	case usb.Isochronous:
		u.StartFrame, u.ErrorCount = int(int32(ne.Uint32(t.mem[urbFrame:]))), int(ne.Uint32(t.mem[urbErrors:]))
		at := 0
		u.Actual = 0
		for i := range u.Packets {
			p := &u.Packets[i]
			d := t.mem[urbSize+packetSize*i:]
			p.Actual, p.Status = min(int(ne.Uint32(d[4:])), p.Length), syscall.Errno(-int32(ne.Uint32(d[8:])))
			if u.In() {
				copy(u.Buffer[p.Offset:], t.buffer[at:at+p.Actual])
			}
			at += p.Length
			u.Actual += p.Actual
		}
	}
}

// Submit implements usb.Device.
func (d *Device) Submit(u *usb.URB) error {
	if u.Kind == usb.Control && int(u.Setup.Length) != len(u.Buffer) {
		return syscall.EINVAL
	}
	for _, p := range u.Packets {
		if p.Offset < 0 || p.Length < 0 || p.Offset > len(u.Buffer)-p.Length {
			return syscall.EINVAL
		}
	}
	t := newTransfer(u)
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.lost {
		t.pin.Unpin()
		return syscall.ENODEV
	}
	u.Held = t
	d.pending[t.address()] = t
	if _, err := d.ioctl(ioSubmit, unsafe.Pointer(unsafe.SliceData(t.mem))); err != nil {
		delete(d.pending, t.address())
		t.pin.Unpin()
		u.Held = nil
		return err
	}
	return nil
}

// Cancel implements usb.Device.
func (d *Device) Cancel(u *usb.URB) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if t, _ := u.Held.(*transfer); t != nil && t.urb == u && d.pending[t.address()] == t {
		d.discard(t)
	}
}

// discard ends a transfer, unless it has ended; it is reaped either way.
func (d *Device) discard(t *transfer) {
	_, _ = d.ioctl(ioDiscard, unsafe.Pointer(unsafe.SliceData(t.mem))) // EINVAL: it has ended
}

// end ends the URBs that match, with ESHUTDOWN.
func (d *Device) end(match func(*usb.URB) bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, t := range d.pending {
		if match(t.urb) {
			t.ends = true
			d.discard(t)
		}
	}
}

// reap completes URBs until Close, or until the device is gone.
func (d *Device) reap() {
	defer close(d.done)
	fds := []unix.PollFd{{Fd: int32(d.file.Fd()), Events: unix.POLLOUT}, {Fd: int32(d.stop), Events: unix.POLLIN}}
	for {
		if _, err := unix.Poll(fds, -1); err != nil && err != unix.EINTR {
			d.vanish()
			break
		}
		err := d.reapAll()
		if fds[0].Revents&(unix.POLLERR|unix.POLLHUP|unix.POLLNVAL) != 0 || err == syscall.ENODEV {
			d.vanish()
			break
		}
		if fds[1].Revents != 0 {
			break
		}
	}
	_ = d.reapAll() // what it does not answer ends here
	d.mu.Lock()
	left := d.pending
	d.pending = map[uintptr]*transfer{}
	d.mu.Unlock()
	for _, t := range left {
		t.finish(true)
		t.urb.Complete(t.urb)
	}
}

// reapAll completes what is done.
func (d *Device) reapAll() error {
	for {
		var p uintptr
		if _, err := d.ioctl(ioReapNow, unsafe.Pointer(&p)); err != nil {
			return err
		}
		d.mu.Lock()
		t := d.pending[p]
		delete(d.pending, p)
		d.mu.Unlock()
		if t != nil {
			t.finish(false)
			t.urb.Complete(t.urb)
		}
	}
}
