//go:build lab

package farm

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"testing"

	"github.com/lxbridge/lx/integration/labtest"
)

// TestLab attaches a kernel's own client, vhci_hcd, to a farm, so that the kernel's
// drivers use the devices.
func TestLab(t *testing.T) {
	t.Setenv("APPEND", "lab.bind=0")
	lab, _ := labtest.Boot(t)
	disk := NewMemory(32 << 20)
	f := New(Linux)
	t.Cleanup(f.Close)
	if err := f.Plug("1-1", Disk(disk, "FARM1")); err != nil {
		t.Fatal(err)
	}
	port := labServe(t, f)
	attach := func(busID string) string {
		return fmt.Sprintf("usbip --tcp-port %d attach -r 10.0.2.2 -b %s || exit 1; ", port, busID)
	}

	t.Run("Disk", func(t *testing.T) {
		const find = `for i in $(seq 100); do d=$(grep -l 'farm disk' /sys/block/sd*/device/model 2>/dev/null) && break; sleep 0.1; done
d=/dev/$(echo $d | cut -d/ -f4); [ -b $d ] || { dmesg | tail -20; exit 1; }; mkdir -p /tmp/d; `
		const detach = "; umount /tmp/d; usbip detach -p 0"
		lab.Sh(t, attach("1-1")+find+`mke2fs -F $d >/dev/null && mount -t ext4 $d /tmp/d && cp /bin/busybox /tmp/d/copy && echo farm marker of lx > /tmp/d/marker`+detach)
		if !bytes.Contains(disk.data, []byte("farm marker of lx")) {
			t.Error("what was written is not on the disk")
		}
		lab.Sh(t, attach("1-1")+find+`mount -t ext4 -o ro $d /tmp/d && cmp /bin/busybox /tmp/d/copy && grep -q 'farm marker of lx' /tmp/d/marker || exit 1`+detach)
	})
}

// labServe is the port of loopback at which the guest, too, finds the farm.
func labServe(t *testing.T, f *Farm) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- f.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return l.Addr().(*net.TCPAddr).Port
}
