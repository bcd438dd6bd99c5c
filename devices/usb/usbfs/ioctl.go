package usbfs

import (
	"context"
	"errors"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lxbridge/lx/devices/usb"
)

// call is one ioctl(2). Its caller waits, so its memory is there; to touch that may
// take for ever, so nothing is locked meanwhile.
type call struct {
	*file
	ctx    context.Context
	tid    int
	arg    uint64
	size   int    // that the caller's number tells
	in     []byte // what the kernel has read at arg
	layout *layout
}

func (c *call) do(number uint32) (int32, syscall.Errno) {
	if !c.writable {
		return 0, syscall.EPERM
	}
	switch number { // what goes on without the device
	case ioReapURB:
		return 0, c.reap(true)
	case ioReapURBNDelay:
		return 0, c.reap(false)
	}
	if c.gone() {
		return 0, syscall.ENODEV
	}
	switch number {
	case ioControl:
		return c.control()
	case ioBulk:
		return c.bulk()
	case ioSubmitURB:
		return 0, c.submit()
	case ioDiscardURB:
		return 0, c.discard(c.arg)
	case ioClaim, ioRelease, ioSetConfig, ioClearHalt, ioResetEP, ioDropPrivileges:
		var b [4]byte
		if errno := c.read(b[:]); errno != 0 {
			return 0, errno
		}
		return 0, c.number(number, ne.Uint32(b[:]))
	case ioSetInterface:
		return 0, c.setInterface()
	case ioReset:
		return 0, c.reset()
	case ioGetDriver:
		return 0, c.getDriver()
	case ioDisconnectClaim:
		return 0, c.disconnectClaim()
	case ioIoctl:
		return 0, c.driver()
	case ioConnectInfo:
		b := ne.AppendUint32(nil, uint32(c.dev.Number))
		slow := byte(0)
		if c.dev.Speed() == usb.SpeedLow {
			slow = 1
		}
		return 0, c.write(append(b, slow, 0, 0, 0))
	case ioConnInfoEx:
		return 0, c.connInfo()
	case ioCapabilities:
		return 0, c.write(ne.AppendUint32(nil, capabilities))
	case ioGetSpeed:
		return int32(c.dev.Speed()), 0
	case ioAllocStreams, ioFreeStreams:
		return c.streams(number == ioAllocStreams)
	case ioForbidSuspend, ioAllowSuspend, ioWaitForResume:
		return 0, 0 // our devices are always awake
	}
	return 0, syscall.ENOTTY
}

// read fills b from arg.
func (c *call) read(b []byte) syscall.Errno {
	if len(c.in) >= len(b) {
		copy(b, c.in)
		return 0
	}
	return c.readMemory(c.arg, b)
}

func (c *call) write(b []byte) syscall.Errno { return c.writeMemory(c.arg, b) }

// readMemory fills b from the caller's memory.
func (c *call) readMemory(addr uint64, b []byte) syscall.Errno {
	if errno := c.fs.touch(c.ctx); errno != 0 {
		return errno
	}
	defer c.fs.touched()
	return readMemory(c.tid, addr, b)
}

func (c *call) writeMemory(addr uint64, b []byte) syscall.Errno {
	var s scatter
	s.add(addr, b)
	return c.scatter(&s)
}

// scatter writes s to the caller's memory.
func (c *call) scatter(s *scatter) syscall.Errno {
	if errno := c.fs.touch(c.ctx); errno != 0 {
		return errno
	}
	defer c.fs.touched()
	return s.write(c.tid)
}

// number does the ioctls that take one number.
func (c *call) number(ioctl, n uint32) syscall.Errno {
	switch ioctl {
	case ioClaim:
		return c.claim(n)
	case ioRelease:
		if n >= maxInterfaces || !c.dev.Release(c.file, uint8(n)) {
			return syscall.EINVAL
		}
		return 0
	case ioSetConfig:
		if c.restricted() {
			return syscall.EACCES
		}
		if int32(n) == -1 {
			n = 0
		}
		if n > 0xff {
			return syscall.EINVAL
		}
		return errnoOf(c.dev.SetConfiguration(c.ctx, uint8(n)))
	case ioDropPrivileges:
		c.mu.Lock()
		defer c.mu.Unlock()
		if !c.dropped {
			c.dropped, c.allowed = true, ^uint32(0)
		}
		c.allowed &= n
		return 0
	}
	// ClearHalt, ResetEP
	if _, _, errno := c.endpoint(uint8(n)); errno != 0 {
		return errno
	}
	return errnoOf(c.dev.ClearHalt(c.ctx, usb.Address(n)))
}

// restricted says that the file has given its rights up.
func (c *call) restricted() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.dropped
}

func (c *call) setInterface() syscall.Errno {
	var b [8]byte
	if errno := c.read(b[:]); errno != 0 {
		return errno
	}
	iface, alt := ne.Uint32(b[:]), ne.Uint32(b[4:])
	if errno := c.claim(iface); errno != 0 {
		return errno
	}
	if alt > 0xff {
		return syscall.EINVAL
	}
	return errnoOf(c.dev.SetInterface(c.ctx, uint8(iface), uint8(alt)))
}

func (c *call) reset() syscall.Errno {
	if c.restricted() && c.dev.Claimed(c.file) {
		return syscall.EACCES
	}
	return errnoOf(c.dev.Reset(c.ctx))
}

func (c *call) getDriver() syscall.Errno {
	var b [4]byte
	if errno := c.read(b[:]); errno != 0 {
		return errno
	}
	n := ne.Uint32(b[:])
	if n >= maxInterfaces || c.dev.OwnerOf(uint8(n)) == nil {
		return syscall.ENODATA
	}
	name := make([]byte, driverSize)
	copy(name, driverName)
	return c.writeMemory(c.arg+4, name)
}

func (c *call) disconnectClaim() syscall.Errno {
	var b [8 + driverSize]byte
	if errno := c.read(b[:]); errno != 0 {
		return errno
	}
	n, flags, name := ne.Uint32(b[:]), ne.Uint32(b[4:]), unix.ByteSliceToString(b[8:])
	if n >= maxInterfaces || c.dev.Setting(uint8(n)) == nil {
		return syscall.EINVAL
	}
	if c.restricted() {
		return syscall.EACCES
	}
	if owner := c.dev.OwnerOf(uint8(n)); owner != nil && owner != c.file {
		ours := name == driverName
		if flags&claimIfDriver != 0 && !ours || flags&claimExceptDriver != 0 && ours {
			return syscall.EBUSY
		}
		c.dev.Release(nil, uint8(n))
	}
	return c.claim(n)
}

// driver does what is asked of an interface's driver: to let go, or to come. There is
// none but usbfs.
func (c *call) driver() syscall.Errno {
	b := make([]byte, c.layout.ioctlSize)
	if errno := c.read(b); errno != 0 {
		return errno
	}
	n, code := ne.Uint32(b), ne.Uint32(b[4:])
	if c.restricted() {
		return syscall.EACCES
	}
	if n >= maxInterfaces || c.dev.Setting(uint8(n)) == nil {
		return syscall.EINVAL
	}
	switch code & 0xff {
	case ioDisconnect:
		if !c.dev.Release(nil, uint8(n)) {
			return syscall.ENODATA
		}
		return 0
	case ioConnect:
		if c.dev.OwnerOf(uint8(n)) != nil {
			return syscall.EBUSY
		}
		return 0
	}
	return syscall.ENOTTY
}

// connInfo answers struct usbdevfs_conninfo_ex, as much as the caller has room for.
func (c *call) connInfo() syscall.Errno {
	b := ne.AppendUint32(nil, 24)
	b = ne.AppendUint32(b, uint32(c.dev.Bus))
	b = ne.AppendUint32(b, uint32(c.dev.Number))
	b = ne.AppendUint32(b, uint32(c.dev.Speed()))
	ports := [8]byte{}
	if c.dev.Port != 0 {
		ports[0], ports[1] = 1, byte(c.dev.Port)
	}
	b = append(b, ports[:]...)
	return c.write(b[:min(len(b), c.size)])
}

// maxStreams is what xHCI can at most.
const maxStreams = 65536

func (c *call) streams(alloc bool) (int32, syscall.Errno) {
	var head [8]byte
	if errno := c.readMemory(c.arg, head[:]); errno != 0 {
		return 0, errno
	}
	n, count := ne.Uint32(head[:]), ne.Uint32(head[4:])
	if count < 1 || count > 30 || alloc && (n < 2 || n > maxStreams) {
		return 0, syscall.EINVAL
	}
	raw := make([]byte, count)
	if errno := c.readMemory(c.arg+8, raw); errno != 0 {
		return 0, errno
	}
	var eps []usb.Address
	iface := -1
	for _, b := range raw {
		_, i, errno := c.endpoint(b)
		if errno != 0 {
			return 0, errno
		}
		if iface >= 0 && i != iface {
			return 0, syscall.EINVAL
		}
		iface, eps = i, append(eps, usb.Address(b))
	}
	s, ok := c.dev.Device.(usb.Streamer)
	if !ok {
		return 0, syscall.EINVAL
	}
	if !alloc {
		return 0, errnoOf(s.FreeStreams(c.ctx, eps))
	}
	got, err := s.AllocStreams(c.ctx, eps, int(n))
	return int32(got), errnoOf(err)
}

// control is a control transfer that is waited for.
func (c *call) control() (int32, syscall.Errno) {
	b := make([]byte, c.layout.transferSize)
	if errno := c.read(b); errno != 0 {
		return 0, errno
	}
	s := usb.Setup{RequestType: b[0], Request: b[1], Value: ne.Uint16(b[2:]), Index: ne.Uint16(b[4:]), Length: ne.Uint16(b[6:])}
	if errno := c.recipient(s); errno != 0 {
		return 0, errno
	}
	if s.Length > maxControl {
		return 0, syscall.EINVAL
	}
	return c.transfer(&usb.URB{Kind: usb.Control, Setup: s}, int(s.Length), ne.Uint32(b[8:]), c.layout.ptr(b[c.layout.transferData:]))
}

// bulk is a bulk or interrupt transfer that is waited for.
func (c *call) bulk() (int32, syscall.Errno) {
	b := make([]byte, c.layout.transferSize)
	if errno := c.read(b); errno != 0 {
		return 0, errno
	}
	e, _, errno := c.endpoint(uint8(ne.Uint32(b)))
	if errno != 0 {
		return 0, errno
	}
	if e.Kind != usb.Bulk && e.Kind != usb.Interrupt {
		return 0, syscall.EINVAL
	}
	n := ne.Uint32(b[4:])
	if n > fileBudget {
		return 0, syscall.ENOMEM
	}
	return c.transfer(&usb.URB{Kind: e.Kind, Endpoint: e.Address}, int(n), ne.Uint32(b[8:]), c.layout.ptr(b[c.layout.transferData:]))
}

// transfer does u with n bytes at data, in ms milliseconds; 0: for ever.
func (c *call) transfer(u *usb.URB, n int, ms uint32, data uint64) (int32, syscall.Errno) {
	if errno := c.take(n + urbCost); errno != 0 {
		return 0, errno
	}
	defer c.give(n + urbCost)
	memory := buffer(n)
	defer free(memory)
	u.Buffer = *memory
	if !u.In() {
		if errno := c.readMemory(data, u.Buffer); errno != 0 {
			return 0, errno
		}
	}
	ctx := c.ctx
	if ms != 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, time.Duration(ms)*time.Millisecond, syscall.ETIMEDOUT)
		defer cancel()
	}
	err := usb.Do(ctx, c.dev, u)
	switch {
	case errors.Is(err, context.Canceled):
		return 0, syscall.EINTR
	case err != nil:
		return 0, errnoOf(err)
	case u.In():
		return int32(u.Actual), c.writeMemory(data, u.Buffer[:u.Actual])
	}
	return int32(u.Actual), 0
}

// submit begins a URB.
func (c *call) submit() syscall.Errno {
	b := make([]byte, c.layout.urb.size)
	if errno := c.readMemory(c.arg, b); errno != 0 {
		return errno
	}
	s := c.layout.submission(b)
	if errno := s.check(); errno != 0 {
		return errno
	}
	a := &async{file: c.file, addr: c.arg, data: s.buffer, layout: c.layout, iface: -1}
	a.Flags, a.StartFrame = s.urbFlags(), int(s.frame)
	size := s.length
	if s.kind != typeControl || s.endpoint&^usb.DirIn != 0 {
		e, iface, errno := c.endpoint(s.endpoint)
		if errno != 0 {
			return errno
		}
		a.Kind, a.Endpoint, a.iface = e.Kind, e.Address, iface
		if !fits(s.kind, e.Kind) {
			return syscall.EINVAL
		}
	}
	switch a.Kind {
	case usb.Control:
		var errno syscall.Errno
		if size, errno = c.setup(a, s); errno != 0 {
			return errno
		}
	case usb.Bulk:
		a.Stream = uint16(s.packets)
	case usb.Isochronous:
		var errno syscall.Errno
		if size, errno = c.packets(a, s); errno != 0 {
			return errno
		}
	}
	a.cost = size + urbCost
	if errno := c.take(a.cost); errno != 0 {
		return errno
	}
	a.memory = buffer(size)
	a.Buffer = *a.memory
	errno := syscall.Errno(0)
	if !a.In() {
		errno = c.readMemory(a.data, a.Buffer)
	}
	if errno == 0 {
		errno = c.begin(a)
	}
	if errno != 0 {
		a.end()
	}
	return errno
}

// fits says whether a URB of that type may go to an endpoint of that kind: the kernel
// lets bulk URBs be interrupt transfers.
func fits(kind uint8, e usb.Kind) bool {
	switch kind {
	case typeISO:
		return e == usb.Isochronous
	case typeInterrupt:
		return e == usb.Interrupt
	case typeControl:
		return e == usb.Control
	}
	return e == usb.Bulk || e == usb.Interrupt
}

// setup takes the request from the head of a control URB's buffer.
func (c *call) setup(a *async, s submission) (int, syscall.Errno) {
	var raw [8]byte
	if s.length < len(raw) {
		return 0, syscall.EINVAL
	}
	if errno := c.readMemory(s.buffer, raw[:]); errno != 0 {
		return 0, errno
	}
	a.Setup = usb.ParseSetup(raw)
	if s.length < len(raw)+int(a.Setup.Length) {
		return 0, syscall.EINVAL
	}
	a.data += uint64(len(raw))
	return int(a.Setup.Length), c.recipient(a.Setup)
}

// packets takes the packets that follow the URB.
func (c *call) packets(a *async, s submission) (size int, errno syscall.Errno) {
	if s.packets < 1 || s.packets > maxPackets {
		return 0, syscall.EINVAL
	}
	a.packets = make([]byte, s.packets*packetSize)
	if errno := c.readMemory(c.arg+uint64(c.layout.urb.size), a.packets); errno != 0 {
		return 0, errno
	}
	for b := a.packets; len(b) > 0; b = b[packetSize:] {
		n := ne.Uint32(b)
		if n > maxPacketSize {
			return 0, syscall.EINVAL
		}
		a.Packets = append(a.Packets, usb.Packet{Offset: size, Length: int(n)})
		size += int(n)
	}
	return size, 0
}

// reap tells the caller of a URB that is finished: its data, its result, its address.
func (c *call) reap(wait bool) syscall.Errno {
	a, errno := c.next(c.ctx, wait)
	if errno != 0 {
		return errno
	}
	var s scatter
	if a.In() {
		if a.Kind == usb.Isochronous {
			for _, p := range a.Packets {
				s.add(a.data+uint64(p.Offset), a.Buffer[p.Offset:p.Offset+p.Actual])
			}
		} else {
			s.add(a.data, a.Buffer[:a.Actual])
		}
	}
	l := a.layout
	s.add(a.addr+4, ne.AppendUint32(nil, statusOf(a.Status)))
	s.add(a.addr+uint64(l.urb.actual), ne.AppendUint32(nil, uint32(a.Actual)))
	s.add(a.addr+uint64(l.urb.errors), ne.AppendUint32(nil, uint32(a.ErrorCount)))
	for i, p := range a.Packets {
		ne.PutUint32(a.packets[i*packetSize+4:], uint32(p.Actual))
		ne.PutUint32(a.packets[i*packetSize+8:], statusOf(p.Status))
	}
	s.add(a.addr+uint64(l.urb.size), a.packets)
	s.add(c.arg, c.layout.putPtr(a.addr))
	if errno = c.scatter(&s); errno == syscall.EINTR { // nothing was told
		c.back(a)
		return errno
	}
	a.end()
	return errno
}

// statusOf is how a URB tells an errno. What was cancelled was so by us, which
// the kernel tells as ENOENT.
func statusOf(e syscall.Errno) uint32 {
	if e == syscall.ECONNRESET {
		e = syscall.ENOENT
	}
	return uint32(-int32(e))
}
