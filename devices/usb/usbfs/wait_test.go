package usbfs

import (
	"context"
	"syscall"
	"testing"
	"testing/synctest"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/lxbridge/lx/devices/usb/emul"
	"github.com/lxbridge/lx/devices/usb/host"
	"github.com/lxbridge/lx/devices/usb/usbtest"
)

// TestGoneWhileLooking: who begins to wait when all waiters have been told already
// learns all the same that the device is gone.
func TestGoneWhileLooking(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, err := host.New(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer h.Close()
		gadget, err := emul.New(usbtest.Gadget())
		if err != nil {
			t.Fatal(err)
		}
		d, err := h.Attach(t.Context(), gadget, 0)
		if err != nil {
			t.Fatal(err)
		}
		f := newFile(New(h), d, true)
		close(f.quit) // the teller has been here
		f.watch.Wait()
		reaped := make(chan syscall.Errno)
		go func() {
			_, errno := f.next(t.Context(), true)
			reaped <- errno
		}()
		synctest.Wait() // it waits
		gadget.Unplug()
		expect(t, "a reaper", <-reaped, syscall.ENODEV)
		if events := f.poll(1, true); events&unix.POLLHUP == 0 {
			t.Errorf("a poller is told %#x", events)
		}
	})
}

// TestHeldUp: environments' memory that nobody brings holds up so many threads of
// ours, and no more; who waits for one may be interrupted.
func TestHeldUp(t *testing.T) {
	gadget, err := emul.New(usbtest.Gadget())
	if err != nil {
		t.Fatal(err)
	}
	defer gadget.Close()
	fs := New(nil)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	from, to := byte(7), []byte{0}
	c := &call{ctx: ctx, file: &file{fs: fs, dev: &host.Device{Device: gadget}}, tid: unix.Gettid(), layout: &layout64}
	for range maxTouching {
		expect(t, "a thread", fs.touch(ctx), 0)
	}
	addr := uint64(uintptr(unsafe.Pointer(&from)))
	expect(t, "one more that reads", c.readMemory(addr, to), syscall.EINTR)
	expect(t, "one more that writes", c.writeMemory(addr, to), syscall.EINTR)
	c.change, c.finished = make(chan struct{}), []*async{{layout: &layout64}}
	expect(t, "one more that reaps", c.reap(false), syscall.EINTR)
	if len(c.finished) != 1 {
		t.Error("a URB that was not told of is lost")
	}
	fs.touched()
	for range 2 {
		expect(t, "after one has ended", c.readMemory(addr, to), 0)
	}
	if to[0] != from {
		t.Errorf("%d is read", to[0])
	}
}

// TestShares: no environment has all memory.
func TestShares(t *testing.T) {
	all := budget{limit: 100}
	a, b := budget{limit: 60, above: &all}, budget{limit: 60, above: &all}
	expect(t, "more than a share", a.take(61), syscall.ENOMEM)
	expect(t, "a share", a.take(60), 0)
	expect(t, "more than is left", b.take(50), syscall.ENOMEM)
	expect(t, "the rest", b.take(40), 0)
	a.give(60)
	b.give(40)
	if all.used.Load() != 0 || a.used.Load() != 0 || b.used.Load() != 0 {
		t.Error("what was given back counts still")
	}
}
