package local

import (
	"context"
	"fmt"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/lxbridge/lx/core/fuse"
	"github.com/lxbridge/lx/core/ns/nstest"
	"github.com/lxbridge/lx/devices/usb"
	"github.com/lxbridge/lx/devices/usb/emul"
	"github.com/lxbridge/lx/devices/usb/host"
	"github.com/lxbridge/lx/devices/usb/usbfs"
	"github.com/lxbridge/lx/devices/usb/usbtest"
)

// The tests mount a usbfs of ours, so they run in a user and mount namespace of
// their own.
func TestMain(m *testing.M) {
	if !nstest.IsInside() {
		os.Exit(nstest.Main(unix.CLONE_NEWNS, 1))
	}
	os.Exit(m.Run())
}

func TestContract(t *testing.T) {
	usbtest.Run(t, func(t *testing.T, gadget *emul.Device) usb.Device {
		h, err := host.New(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		fs := usbfs.New(h)
		dev, err := h.Attach(t.Context(), gadget, 0)
		if err != nil {
			t.Fatal(err)
		}
		s, err := fuse.New(fs, usbfs.Config())
		if err != nil {
			t.Fatal(err)
		}
		fs.NotifyBy(func(kh uint64) { _ = s.NotifyPoll(kh) })
		dir := t.TempDir()
		conn, err := fuse.Mount(dir, fuse.MountConfig{Source: "usb", Subtype: "lx.usb", AllowOther: true}, 0)
		if err != nil {
			t.Fatal(err)
		}
		go s.Serve(context.Background(), conn)
		t.Cleanup(func() {
			if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
				t.Error(err)
			}
			if err := s.Wait(); err != nil {
				t.Error(err)
			}
			fs.Close()
			h.Close()
		})
		d, err := Open(t.Context(), fmt.Sprintf("%s/%03d/%03d", dir, dev.Bus, dev.Number))
		if err != nil {
			t.Fatal(err)
		}
		return d
	})
}
