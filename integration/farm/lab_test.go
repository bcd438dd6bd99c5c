//go:build lab

package farm

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"strings"
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
	modem, keyboard := &Modem{Serial: "FARM2"}, &Keyboard{Serial: "FARM3", Reports: make(chan [8]byte)}
	if err := errors.Join(f.Plug("1-2", modem.Spec()), f.Plug("1-3", keyboard.Spec())); err != nil {
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
	// await is a loop that looks for the file that has the words, and sets $f.
	await := func(files, words string) string {
		return fmt.Sprintf(`for i in $(seq 100); do f=$(grep -l '%s' %s 2>/dev/null) && break; sleep 0.1; done; [ "$f" ] || { dmesg | tail -20; exit 1; }; `, words, files)
	}
	t.Run("Modem", func(t *testing.T) {
		out := lab.Sh(t, attach("1-2")+await("/sys/class/tty/ttyACM*/device/../product", "farm modem")+
			`tty=/dev/$(echo $f | cut -d/ -f5); stty -F $tty 115200 raw -echo || exit 1
exec 3<>$tty; echo 'through the modem' >&3; head -n 1 <&3; exec 3>&-; usbip detach -p 0 >/dev/null`)
		if !strings.Contains(out, "through the modem") {
			t.Errorf("the modem sends back %q", out)
		}
		if coding, _ := modem.Line(); binary.LittleEndian.Uint32(coding[:]) != 115200 {
			t.Errorf("the line coding is % x", coding)
		}
	})
	t.Run("Keyboard", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go func() {
			for {
				select {
				case keyboard.Reports <- [8]byte{2, 0, 0x0b}: // H
				case <-ctx.Done():
					return
				}
			}
		}()
		out := lab.Sh(t, attach("1-3")+await("/sys/class/hidraw/*/device/uevent", "farm keyboard")+
			`head -c 8 /dev/$(echo $f | cut -d/ -f5) | od -An -tx1; usbip detach -p 0 >/dev/null`)
		if !strings.Contains(out, "02 00 0b 00 00 00 00 00") {
			t.Errorf("the kernel reads the report %q", out)
		}
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
