package usbfs

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"sync/atomic"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/lxbridge/lx/core/fuse"
	"github.com/lxbridge/lx/core/fuse/fusetest"
	"github.com/lxbridge/lx/core/ns/nstest"
	"github.com/lxbridge/lx/devices/usb/emul"
	"github.com/lxbridge/lx/devices/usb/host"
	"github.com/lxbridge/lx/devices/usb/usbtest"
)

// The tests mount, so they run in a user and mount namespace of their own.
func TestMain(m *testing.M) {
	if !nstest.IsInside() {
		os.Exit(nstest.Main(unix.CLONE_NEWNS, 1))
	}
	os.Exit(m.Run())
}

// world is a mounted usbfs with the test gadget.
type world struct {
	t      testing.TB
	dir    string
	fs     *FS
	host   *host.Host
	gadget *emul.Device
	dev    *host.Device
}

func newWorld(t testing.TB) *world {
	t.Helper()
	h, err := host.New(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, dir: t.TempDir(), fs: New(h), host: h}
	if w.gadget, err = emul.New(usbtest.Gadget()); err != nil {
		t.Fatal(err)
	}
	if w.dev, err = h.Attach(t.Context(), w.gadget, 0); err != nil {
		t.Fatal(err)
	}
	s, err := fuse.New(w.fs, Config())
	if err != nil {
		t.Fatal(err)
	}
	w.fs.NotifyBy(func(kh uint64) { _ = s.NotifyPoll(kh) })
	dev, err := fuse.Mount(w.dir, fuse.MountConfig{Source: "usb", Subtype: "lx.usb", AllowOther: true}, 0)
	if err != nil {
		t.Fatal(err)
	}
	go s.Serve(context.Background(), dev)
	t.Cleanup(func() {
		if err := unix.Unmount(w.dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
		if err := s.Wait(); err != nil {
			t.Error(err)
		}
		w.fs.Close()
		if err := h.Close(); err != nil {
			t.Error(err)
		}
		if used := total.used.Load(); used != 0 {
			t.Errorf("%d bytes are counted when all is closed", used)
		}
	})
	return w
}

func (w *world) path() string {
	return fmt.Sprintf("%s/%03d/%03d", w.dir, w.dev.Bus, w.dev.Number)
}

// node is the open device as a program has it.
type node struct {
	*os.File
	t testing.TB
}

func (w *world) open(flags int) node {
	w.t.Helper()
	f, err := fusetest.OpenFile(w.path(), flags, 0)
	if err != nil {
		w.t.Fatal(err)
	}
	n := node{f, w.t}
	w.t.Cleanup(func() { n.Close() })
	return n
}

// number is an ioctl's as C has it; the direction does not matter.
func number(low, size uintptr) uintptr { return 2<<30 | size<<16 | 'U'<<8 | low }

func (n node) ioctl(low uintptr, p unsafe.Pointer, size uintptr) (int, syscall.Errno) {
	r, _, errno := unix.Syscall(unix.SYS_IOCTL, n.Fd(), number(low, size), uintptr(p))
	return int(r), errno
}

func (n node) number(low uintptr, v uint32) syscall.Errno {
	p := &v
	_, errno := n.ioctl(low, unsafe.Pointer(p), 4)
	runtime.KeepAlive(p)
	return errno
}

// transfer is struct usbdevfs_ctrltransfer, and _bulktransfer with other names.
type transfer struct {
	requestType, request uint8
	value, index, length uint16
	timeout              uint32
	data                 *byte
}

type bulkTransfer struct {
	ep, length, timeout uint32
	data                *byte
}

func (n node) control(requestType, request uint8, value uint16, b []byte) (int, syscall.Errno) {
	x := &transfer{requestType: requestType, request: request, value: value, length: uint16(len(b)), timeout: 5000, data: unsafe.SliceData(b)}
	return n.ioctl(ioControl, unsafe.Pointer(x), unsafe.Sizeof(*x))
}

func (n node) bulk(ep uint8, b []byte, ms uint32) (int, syscall.Errno) {
	x := &bulkTransfer{ep: uint32(ep), length: uint32(len(b)), timeout: ms, data: unsafe.SliceData(b)}
	return n.ioctl(ioBulk, unsafe.Pointer(x), unsafe.Sizeof(*x))
}

// urb is struct usbdevfs_urb.
type urb struct {
	kind, endpoint         uint8
	status                 int32
	flags                  uint32
	buffer                 *byte
	length, actual         int32
	frame, packets, errors int32
	signal                 uint32
	context                uintptr
	iso                    [8]struct{ length, actual, status uint32 }
}

// onHeap keeps submitted URBs off the stack, which moves.
var onHeap atomic.Pointer[urb]

func (n node) submit(u *urb, b []byte) syscall.Errno {
	onHeap.Store(u)
	u.buffer, u.length = unsafe.SliceData(b), int32(len(b))
	_, errno := n.ioctl(ioSubmitURB, unsafe.Pointer(u), 56)
	return errno
}

func (n node) reap(low uintptr) (*urb, syscall.Errno) {
	p := new(*urb)
	_, errno := n.ioctl(low, unsafe.Pointer(p), 8)
	return *p, errno
}

// reaped waits for a URB and checks its result.
func (n node) reaped(want *urb, status syscall.Errno, actual int) {
	n.t.Helper()
	u, errno := n.reap(ioReapURB)
	switch {
	case errno != 0:
		n.t.Fatalf("reap: %v", errno)
	case u != want:
		n.t.Fatal("another URB was reaped")
	case u.status != -int32(status) || int(u.actual) != actual:
		n.t.Errorf("URB: status %d, %d bytes; expected %d, %d", u.status, u.actual, -int32(status), actual)
	}
}
