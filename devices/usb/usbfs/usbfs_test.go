package usbfs

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/lxbridge/lx/core/fuse"
	"github.com/lxbridge/lx/devices/usb"
	"github.com/lxbridge/lx/devices/usb/emul"
	"github.com/lxbridge/lx/devices/usb/usbtest"
)

func expect(t *testing.T, what string, got, want syscall.Errno) {
	t.Helper()
	if got != want {
		t.Errorf("%s: %v, expected %v", what, error(got), error(want))
	}
}

func TestTree(t *testing.T) {
	w := newWorld(t)
	names, err := filepath.Glob(w.dir + "/*/*")
	if err != nil {
		t.Fatal(err)
	}
	for i := range names {
		names[i], _ = filepath.Rel(w.dir, names[i])
	}
	if want := []string{"200/001", "200/002", "201/001"}; !slices.Equal(names, want) {
		t.Errorf("there is %v, expected %v", names, want)
	}
	n := w.open(os.O_RDONLY)
	raw, err := io.ReadAll(n)
	if err != nil || !bytes.Equal(raw, w.dev.Raw()) {
		t.Errorf("the node reads % x, %v", raw, err)
	}
	expect(t, "an ioctl of a file open for reading", n.number(ioClaim, 0), syscall.EPERM)
	w.gadget.Unplug()
	<-w.dev.Gone()
	for range 1000 { // the host is told on a goroutine
		if _, err = os.Stat(w.path()); err != nil {
			break
		}
		runtime.Gosched()
	}
	if !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the node of a device that is gone: %v", err)
	}
	if _, err := n.ReadAt(raw, 0); !errors.Is(err, syscall.ENODEV) {
		t.Errorf("reading a device that is gone: %v", err)
	}
}

// TestListing: a device that comes is listed where a listing was had before.
func TestListing(t *testing.T) {
	w := newWorld(t)
	list := func() int {
		t.Helper()
		names, err := os.ReadDir(w.dir + "/200")
		if err != nil {
			t.Fatal(err)
		}
		return len(names)
	}
	before := list()
	second, err := emul.New(usbtest.Gadget())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.host.Attach(t.Context(), second, 0); err != nil {
		t.Fatal(err)
	}
	if after := list(); after != before+1 {
		t.Errorf("%d devices are listed, then %d", before, after)
	}
}

func TestTransfers(t *testing.T) {
	n := newWorld(t).open(os.O_RDWR)
	want := []byte("kept by the device")
	if m, errno := n.control(usb.TypeVendor, usbtest.ReqStore, 0, want); m != len(want) || errno != 0 {
		t.Errorf("OUT: %d, %v", m, errno)
	}
	got := make([]byte, 100)
	if m, errno := n.control(usb.DirIn|usb.TypeVendor, usbtest.ReqLoad, 0, got); errno != 0 || !bytes.Equal(got[:m], want) {
		t.Errorf("IN: %q, %v", got[:m], errno)
	}
	_, errno := n.control(usb.DirIn|usb.TypeVendor, 99, 0, got)
	expect(t, "an unknown request", errno, syscall.EPIPE)
	_, errno = n.control(usb.DirIn, usb.ReqGetDescriptor, 0x100, make([]byte, 4097))
	expect(t, "more than a page", errno, syscall.EINVAL)

	_, errno = n.bulk(0x8a, got, 100)
	expect(t, "no such endpoint", errno, syscall.ENOENT)
	_, errno = n.bulk(uint8(usbtest.LoopIn), got, 20)
	expect(t, "nothing comes", errno, syscall.ETIMEDOUT)
	if m, errno := n.bulk(uint8(usbtest.LoopOut), want, 5000); m != len(want) || errno != 0 {
		t.Errorf("bulk OUT: %d, %v", m, errno)
	}
	clear(got)
	if m, errno := n.bulk(uint8(usbtest.LoopIn), got, 5000); errno != 0 || !bytes.Equal(got[:m], want) {
		t.Errorf("bulk IN: %q, %v", got[:m], errno)
	}
	_, errno = n.control(usb.TypeVendor, usbtest.ReqHalt, uint16(usbtest.LoopIn), nil)
	expect(t, "halt", errno, 0)
	_, errno = n.bulk(uint8(usbtest.LoopIn), got, 5000)
	expect(t, "a halted endpoint", errno, syscall.EPIPE)
	expect(t, "CLEAR_HALT", n.number(ioClearHalt, uint32(usbtest.LoopIn)), 0)
	_, errno = n.bulk(uint8(usbtest.LoopIn), got, 1)
	expect(t, "after CLEAR_HALT", errno, syscall.ETIMEDOUT)
	_, errno = unixIoctl(n, 2<<30|'V'<<8|1)
	expect(t, "another's ioctl", errno, syscall.ENOTTY)
	if speed, errno := n.ioctl(ioGetSpeed, nil, 0); speed != int(usb.SpeedHigh) || errno != 0 {
		t.Errorf("GET_SPEED: %d, %v", speed, errno)
	}
	caps := new(uint32)
	if _, errno := n.ioctl(ioCapabilities, unsafe.Pointer(caps), 4); errno != 0 || *caps != capabilities {
		t.Errorf("GET_CAPABILITIES: %#x, %v", *caps, errno)
	}
	if _, errno := n.ioctl(ioCapabilities, nil, 4); errno != syscall.EFAULT {
		t.Errorf("an address that is not there: %v", errno)
	}
}

func unixIoctl(n node, number uintptr) (int, syscall.Errno) {
	r, _, errno := unix.Syscall(unix.SYS_IOCTL, n.Fd(), number, 0)
	return int(r), errno
}

func TestDeepAndInOrder(t *testing.T) {
	n := newWorld(t).open(os.O_RDWR)
	const depth, size = 64, 16384
	in, out := make([]urb, depth), make([]urb, depth)
	buffers := make([][]byte, depth)
	for i := range in {
		buffers[i] = make([]byte, size)
		in[i] = urb{kind: typeBulk, endpoint: uint8(usbtest.Source), context: uintptr(i)}
		expect(t, "submit", n.submit(&in[i], buffers[i]), 0)
		out[i] = urb{kind: typeBulk, endpoint: uint8(usbtest.Sink)}
		expect(t, "submit", n.submit(&out[i], make([]byte, size)), 0)
	}
	next := map[uint8]int{}
	for range 2 * depth {
		u, errno := n.reap(ioReapURB)
		if errno != 0 {
			t.Fatal(errno)
		}
		i := next[u.endpoint]
		next[u.endpoint]++
		if u.status != 0 || u.actual != size || u != &in[i] && u != &out[i] {
			t.Fatalf("URB %d of %#x: status %d, %d bytes", i, u.endpoint, u.status, u.actual)
		}
	}
	for _, b := range buffers {
		for k := range b {
			if b[k] != byte(k) {
				t.Fatalf("%#x at %d", b[k], k)
			}
		}
	}
	_, errno := n.reap(ioReapURBNDelay)
	expect(t, "nothing to reap", errno, syscall.EAGAIN)
}

func TestPoll(t *testing.T) {
	w := newWorld(t)
	n := w.open(os.O_RDWR)
	ep, err := unix.EpollCreate1(0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(ep)
	// Not unix.EpollCtl, during which the collector cannot stop the thread (fusetest.OpenFile).
	_, _, errno := unix.Syscall6(unix.SYS_EPOLL_CTL, uintptr(ep), unix.EPOLL_CTL_ADD, n.Fd(), uintptr(unsafe.Pointer(&unix.EpollEvent{Events: unix.EPOLLOUT})), 0, 0)
	expect(t, "EPOLL_CTL_ADD", errno, 0)
	wait := func(ms int) uint32 {
		var e [1]unix.EpollEvent
		for {
			m, err := unix.EpollWait(ep, e[:], ms)
			if err == unix.EINTR {
				continue
			}
			if err != nil {
				t.Fatal(err)
			}
			if m == 0 {
				return 0
			}
			return e[0].Events
		}
	}
	u := &urb{kind: typeBulk, endpoint: uint8(usbtest.LoopIn)}
	expect(t, "submit", n.submit(u, make([]byte, 512)), 0)
	if e := wait(0); e != 0 {
		t.Errorf("nothing is finished: %#x", e)
	}
	if _, errno := n.bulk(uint8(usbtest.LoopOut), []byte("x"), 5000); errno != 0 {
		t.Fatal(errno)
	}
	if e := wait(5000); e != unix.EPOLLOUT {
		t.Errorf("a URB is finished: %#x", e)
	}
	n.reaped(u, 0, 1)
	expect(t, "submit", n.submit(u, make([]byte, 512)), 0)
	w.gadget.Unplug()
	for want := uint32(unix.EPOLLOUT | unix.EPOLLHUP | unix.EPOLLERR); ; {
		if e := wait(5000); e == want {
			break
		} else if e == 0 {
			t.Fatal("the device's end is not told")
		}
	}
	n.reaped(u, syscall.ESHUTDOWN, 0)
	_, errno = n.reap(ioReapURB)
	expect(t, "reaping what is gone", errno, syscall.ENODEV)
	expect(t, "submitting to what is gone", n.submit(u, nil), syscall.ENODEV)
}

func TestDiscard(t *testing.T) {
	n := newWorld(t).open(os.O_RDWR)
	a, b := &urb{kind: typeBulk, endpoint: uint8(usbtest.LoopIn)}, &urb{kind: typeBulk, endpoint: uint8(usbtest.LoopIn)}
	expect(t, "submit", n.submit(a, make([]byte, 512)), 0)
	expect(t, "submit", n.submit(b, make([]byte, 512)), 0)
	_, errno := n.ioctl(ioDiscardURB, unsafe.Pointer(a), 0)
	expect(t, "discard", errno, 0)
	_, errno = n.ioctl(ioDiscardURB, unsafe.Pointer(a), 0)
	expect(t, "discard once more", errno, syscall.EINVAL)
	n.reaped(a, syscall.ENOENT, 0)
	if _, errno := n.bulk(uint8(usbtest.LoopOut), []byte("hello"), 5000); errno != 0 {
		t.Fatal(errno)
	}
	n.reaped(b, 0, 5)
}

func TestIsochronousAndInterrupt(t *testing.T) {
	n := newWorld(t).open(os.O_RDWR)
	setting := &[2]uint32{1, 1}
	_, errno := n.ioctl(ioSetInterface, unsafe.Pointer(setting), 8)
	expect(t, "SETINTERFACE", errno, 0)
	buf := make([]byte, 8*192)
	u := &urb{kind: typeISO, endpoint: uint8(usbtest.IsoIn), flags: urbISOASAP, packets: 8}
	for i := range u.iso {
		u.iso[i].length = uint32(100 + i)
	}
	expect(t, "submit", n.submit(u, buf), 0)
	n.reaped(u, 0, 8*100+28)
	for i, at := 0, 0; i < 8; i++ {
		if p := u.iso[i]; p.status != 0 || p.actual != p.length || buf[at+99] != 99 {
			t.Errorf("packet %d: %+v", i, p)
		}
		at += 100 + i
	}
	u.packets = 129
	expect(t, "129 packets", n.submit(u, buf), syscall.EINVAL)

	v := &urb{kind: typeInterrupt, endpoint: uint8(usbtest.Event)}
	expect(t, "submit", n.submit(v, make([]byte, 64)), 0)
	_, errno = n.control(usb.TypeVendor, usbtest.ReqEvent, 0, []byte("event"))
	expect(t, "event", errno, 0)
	n.reaped(v, 0, 5)

	c := &urb{kind: typeControl}
	raw := make([]byte, 8+18)
	setup := usb.Setup{RequestType: usb.DirIn, Request: usb.ReqGetDescriptor, Value: 0x100, Length: 18}.Bytes()
	copy(raw, setup[:])
	expect(t, "submit", n.submit(c, raw), 0)
	n.reaped(c, 0, 18)
	if raw[8] != 18 {
		t.Errorf("% x", raw)
	}
	expect(t, "a control URB without room", n.submit(c, raw[:20]), syscall.EINVAL)
}

func TestClaims(t *testing.T) {
	w := newWorld(t)
	a, b := w.open(os.O_RDWR), w.open(os.O_RDWR)
	driver := &struct {
		n    uint32
		name [256]byte
	}{}
	_, errno := a.ioctl(ioGetDriver, unsafe.Pointer(driver), 260)
	expect(t, "GETDRIVER of a free one", errno, syscall.ENODATA)
	expect(t, "claim", a.number(ioClaim, 0), 0)
	expect(t, "claim again", a.number(ioClaim, 0), 0)
	expect(t, "another's claim", b.number(ioClaim, 0), syscall.EBUSY)
	expect(t, "no such interface", b.number(ioClaim, 9), syscall.ENOENT)
	expect(t, "no interface at all", b.number(ioClaim, 99), syscall.EINVAL)
	expect(t, "the other interface", b.number(ioClaim, 1), 0)
	_, errno = b.ioctl(ioGetDriver, unsafe.Pointer(driver), 260)
	if name := unix.ByteSliceToString(driver.name[:]); errno != 0 || name != "usbfs" {
		t.Errorf("GETDRIVER: %q, %v", name, errno)
	}
	_, errno = b.bulk(uint8(usbtest.LoopOut), []byte("x"), 100)
	expect(t, "a transfer on another's interface", errno, syscall.EBUSY)
	expect(t, "another's release", b.number(ioRelease, 0), syscall.EINVAL)
	expect(t, "SETCONFIGURATION while claimed", a.number(ioSetConfig, 1), syscall.EBUSY)

	except := &struct {
		n, flags uint32
		name     [256]byte
	}{flags: claimExceptDriver}
	copy(except.name[:], "usbfs")
	_, errno = b.ioctl(ioDisconnectClaim, unsafe.Pointer(except), 264)
	expect(t, "DISCONNECT_CLAIM except usbfs", errno, syscall.EBUSY)
	u := &urb{kind: typeBulk, endpoint: uint8(usbtest.LoopIn)}
	expect(t, "submit", a.submit(u, make([]byte, 512)), 0)
	except.flags = 0
	_, errno = b.ioctl(ioDisconnectClaim, unsafe.Pointer(except), 264)
	expect(t, "DISCONNECT_CLAIM", errno, 0)
	a.reaped(u, syscall.ENOENT, 0)
	expect(t, "what was taken away", a.number(ioClaim, 0), syscall.EBUSY)
	b.Close()
	for a.number(ioClaim, 0) == syscall.EBUSY { // RELEASE comes after close(2)
		runtime.Gosched()
	}

	expect(t, "reset", a.number(ioReset, 0), 0)
	expect(t, "reset takes claims", a.number(ioRelease, 0), syscall.EINVAL)
	expect(t, "SETCONFIGURATION", a.number(ioSetConfig, 1), 0)
	expect(t, "DROP_PRIVILEGES", a.number(ioDropPrivileges, 1), 0)
	expect(t, "what was kept", a.number(ioClaim, 0), 0)
	expect(t, "what was given up", a.number(ioClaim, 1), syscall.EACCES)
	expect(t, "SETCONFIGURATION without rights", a.number(ioSetConfig, 1), syscall.EACCES)
}

func TestMemoryLimit(t *testing.T) {
	n := newWorld(t).open(os.O_RDWR)
	var urbs []*urb
	for range 17 {
		u := &urb{kind: typeBulk, endpoint: uint8(usbtest.LoopIn)}
		errno := n.submit(u, make([]byte, 1<<20))
		if errno != 0 {
			expect(t, "too much", errno, syscall.ENOMEM)
			break
		}
		urbs = append(urbs, u)
	}
	if len(urbs) != 15 { // and their own cost
		t.Errorf("%d MiB were taken, expected 15", len(urbs))
	}
	_, errno := n.bulk(uint8(usbtest.LoopIn), make([]byte, 1<<30), 100)
	expect(t, "a GiB", errno, syscall.ENOMEM)
}

// A blocked reap ends by a signal that is caught, as adb needs it.
func TestInterrupt(t *testing.T) {
	n := newWorld(t).open(os.O_RDWR)
	caught := make(chan os.Signal, 100)
	signal.Notify(caught, unix.SIGUSR1)
	defer signal.Stop(caught)
	tid, ended := make(chan int), make(chan syscall.Errno)
	go func() {
		runtime.LockOSThread()
		tid <- unix.Gettid()
		_, errno := n.reap(ioReapURB)
		ended <- errno
	}()
	id := <-tid
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case errno := <-ended:
			expect(t, "an interrupted reap", errno, syscall.EINTR)
			return
		case <-tick.C: // it may not wait yet
			if err := unix.Tgkill(unix.Getpid(), id, unix.SIGUSR1); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// TestCompat calls as a 32-bit program does.
func TestCompat(t *testing.T) {
	w := newWorld(t)
	low, err := unix.MmapPtr(-1, 0, nil, 1<<16, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_32BIT)
	if err != nil {
		t.Fatal(err)
	}
	mem := unsafe.Slice((*byte)(low), 1<<16)
	base := uint32(uintptr(low))
	open, errno := w.fs.Open(t.Context(), nodeOf(w.dev.Bus, w.dev.Number), unix.O_RDWR)
	expect(t, "open", errno, 0)
	defer w.fs.Release(0, open.FH, 0, 0)
	_, _, errno = w.fs.Ioctl(fuse.WithCaller(t.Context(), fuse.Caller{}), 0, open.FH, uint32(number(ioCapabilities, 4)), uint64(base), 0, nil, 0)
	expect(t, "a caller without a process id, which would be ourselves", errno, syscall.EPERM)
	ctx := fuse.WithCaller(t.Context(), fuse.Caller{PID: uint32(unix.Getpid())})
	call := func(what string, low uintptr, size uintptr, at uint32) {
		t.Helper()
		_, _, errno := w.fs.Ioctl(ctx, 0, open.FH, uint32(number(low, size)), uint64(at), fuse.FUSE_IOCTL_COMPAT|fuse.FUSE_IOCTL_32BIT, nil, 0)
		expect(t, what, errno, 0)
	}
	// A control transfer: data at 12.
	copy(mem, []byte{usb.DirIn, usb.ReqGetDescriptor, 0, usb.DescDevice, 0, 0, 18, 0})
	ne.PutUint32(mem[8:], 1000)
	ne.PutUint32(mem[12:], base+0x100)
	call("CONTROL", ioControl, 16, base)
	if !bytes.Equal(mem[0x100:0x100+18], w.dev.Description.Device.Raw) {
		t.Errorf("% x", mem[0x100:0x100+18])
	}
	// A URB of 44 bytes: buffer at 12, length at 16, actual at 20.
	u := mem[0x200:]
	u[0], u[1] = typeBulk, uint8(usbtest.Source)
	ne.PutUint32(u[12:], base+0x1000)
	ne.PutUint32(u[16:], 1024)
	call("SUBMITURB", ioSubmitURB, 44, base+0x200)
	mem[0x304] = 0xee
	call("REAPURB", ioReapURB, 4, base+0x300)
	if got := ne.Uint32(mem[0x300:]); got != base+0x200 || mem[0x304] != 0xee {
		t.Errorf("reaped %#x", got)
	}
	if status, actual := ne.Uint32(u[4:]), ne.Uint32(u[20:]); status != 0 || actual != 1024 || mem[0x1000+77] != 77 {
		t.Errorf("status %d, %d bytes", status, actual)
	}
}
