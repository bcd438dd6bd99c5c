//go:build lab

package export

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/lxbridge/lx/devices/usb"
	"github.com/lxbridge/lx/integration/labtest"
)

// insideVar says to a test binary that it runs in the lab.
const insideVar = "LX_INSIDE_LAB"

// TestLab runs TestInside in a kernel that has USB devices and a usbfs of its own.
func TestLab(t *testing.T) {
	t.Setenv("APPEND", "lab.bind=0")
	lab, _ := labtest.Boot(t)
	dir := t.TempDir()
	build := exec.CommandContext(t.Context(), "go", "test", "-c", "-tags", "lab", "-o", filepath.Join(dir, "inside"), ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	t.Log(lab.Sh(t, fmt.Sprintf(`mkdir -p /tmp/host && mount -t hostfs -o %s none /tmp/host && %s=1 /tmp/host/inside -test.v -test.run '^TestInside$'`, dir, insideVar)))
}

// TestInside is a part of TestLab.
func TestInside(t *testing.T) {
	if os.Getenv(insideVar) == "" {
		return // TestLab runs it
	}
	open := func(rule string) usb.Device {
		t.Helper()
		r, err := ParseRule(rule)
		if err != nil {
			t.Fatal(err)
		}
		l := &Local{Sys: os.DirFS("/sys/bus/usb/devices"), Nodes: "/dev/bus/usb", Rules: []Rule{r}}
		list := l.List(nil)
		if len(list) != 1 {
			t.Fatalf("%s allows %+v", rule, list)
		}
		info, d, err := l.Open(t.Context(), &net.TCPAddr{}, list[0].BusID)
		if err != nil {
			t.Fatal(err)
		}
		if info.Configuration != 1 || d.Speed() != usb.SpeedHigh {
			t.Errorf("configuration %d, speed %v", info.Configuration, d.Speed())
		}
		return d
	}
	sourceSink(t, open("vidpid=0525:a4a0"))

	// usb-storage lets go of the disk, and has it again afterwards.
	disks := func() int {
		names, _ := filepath.Glob("/sys/block/sd*")
		return len(names)
	}
	await := func(want int) {
		t.Helper()
		for range 100 {
			if disks() == want {
				return
			}
			time.Sleep(100 * time.Millisecond) // the kernel scans disks in its own time
		}
		t.Errorf("there are %d disks, expected %d", disks(), want)
	}
	await(1)
	d := open("serial=LAB-UMS-1")
	await(0)
	lun := make([]byte, 1)
	if n, err := usb.ControlTransfer(t.Context(), d, usb.DirIn|usb.TypeClass|usb.ToInterface, 0xfe, 0, 0, lun); err != nil || n != 1 || lun[0] != 0 {
		t.Errorf("GET MAX LUN: % x, %v", lun[:n], err)
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
	await(1)
}

// sourceSink moves data both ways, 8 transfers deep, cancels, resets, and moves
// isochronous packets.
func sourceSink(t *testing.T, d usb.Device) {
	defer func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	}()
	desc, err := usb.Describe(t.Context(), d)
	if err != nil {
		t.Fatal(err)
	}
	endpoint := func(alt uint8, kind usb.Kind, in bool) usb.Endpoint {
		t.Helper()
		for _, e := range desc.Configurations[0].Interface(0).Alternate(alt).Endpoints {
			if e.Kind == kind && e.Address.In() == in {
				return e
			}
		}
		t.Fatalf("there is no such endpoint: %v", kind)
		return usb.Endpoint{}
	}
	const size = 64 << 10
	for _, in := range []bool{true, false} {
		ep := endpoint(0, usb.Bulk, in)
		places := make(chan struct{}, 8)
		var group sync.WaitGroup
		for range 64 {
			places <- struct{}{}
			group.Add(1)
			u := &usb.URB{Kind: usb.Bulk, Endpoint: ep.Address, Buffer: make([]byte, size), Complete: func(u *usb.URB) {
				if u.Status != 0 || u.Actual != size {
					t.Errorf("endpoint %#x: %d bytes, %v", u.Endpoint, u.Actual, u.Status)
				}
				<-places
				group.Done()
			}}
			if err := d.Submit(u); err != nil {
				t.Fatal(err)
			}
		}
		group.Wait()
	}
	done := make(chan struct{})
	u := &usb.URB{Kind: usb.Bulk, Endpoint: endpoint(0, usb.Bulk, true).Address, Buffer: make([]byte, 1<<20), Complete: func(*usb.URB) { close(done) }}
	if err := d.Submit(u); err != nil {
		t.Fatal(err)
	}
	d.Cancel(u)
	<-done
	if u.Status != 0 && u.Status != syscall.ECONNRESET {
		t.Errorf("cancelled with %v", u.Status)
	}
	if err := errors.Join(d.Reset(t.Context()), d.SetConfiguration(t.Context(), 1), d.SetInterface(t.Context(), 0, 1)); err != nil {
		t.Fatal(err)
	}
	ep := endpoint(1, usb.Isochronous, true)
	iso := &usb.URB{Kind: usb.Isochronous, Endpoint: ep.Address, Flags: usb.ISOASAP, Buffer: make([]byte, 8*ep.MaxPacket())}
	for i := range 8 {
		iso.Packets = append(iso.Packets, usb.Packet{Offset: i * ep.MaxPacket(), Length: ep.MaxPacket()})
	}
	if err := usb.Do(t.Context(), d, iso); err != nil || iso.Actual != len(iso.Buffer) || iso.ErrorCount != 0 {
		t.Errorf("isochronous: %d bytes, %d errors, %v", iso.Actual, iso.ErrorCount, err)
	}
}
