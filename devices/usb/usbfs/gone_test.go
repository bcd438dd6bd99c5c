package usbfs

import (
	"syscall"
	"testing"
	"testing/synctest"

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
