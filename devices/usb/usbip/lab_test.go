//go:build lab

package usbip

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/lxbridge/lx/devices/usb"
	"github.com/lxbridge/lx/integration/labtest"
)

// gadgets of the lab, by product.
const (
	labDisk   = 0xa4a5
	labACM    = 0xa4a7
	labZero   = 0xa4a0
	labHID    = 0xa4ac
	labVendor = 0x0525
)

// TestLab runs the client against a kernel's usbip-host, whose devices are the
// kernel's own gadgets.
func TestLab(t *testing.T) {
	lab, addrs := labtest.Boot(t, DefaultPort, 3241)
	host, vudc := TCP(addrs[0]), TCP(addrs[1])

	t.Run("MassStorage", func(t *testing.T) { labMassStorage(t, labAttach(t, host, labDisk)) })
	t.Run("Echo", func(t *testing.T) { labEcho(t, labAttach(t, host, labACM)) })
	t.Run("HID", func(t *testing.T) { labReports(t, lab, labAttach(t, host, labHID)) })
	t.Run("SourceSink", func(t *testing.T) { labSourceSink(t, labAttach(t, host, labZero)) })
	t.Run("Isochronous", func(t *testing.T) { labIsochronous(t, labAttach(t, host, labZero)) })
	t.Run("Reset", func(t *testing.T) { labReset(t, labAttach(t, host, labDisk)) })
	t.Run("ADB", func(t *testing.T) { labADB(t, lab, labAttachBy(t, host, 0x18d1, 0x4ee7)) })
	t.Run("VUDC", func(t *testing.T) {
		d := labAttach(t, vudc, labZero)
		if d.Profile().Name != "usbip-vudc" {
			t.Errorf("taken for %s: %q", d.Profile().Name, d.Info().Path)
		}
		labSourceSink(t, d)
	})
}

func labAttach(t *testing.T, dial Dialer, product uint16) *Device {
	t.Helper()
	return labAttachBy(t, dial, labVendor, product)
}

func labAttachBy(t *testing.T, dial Dialer, vendor, product uint16) *Device {
	t.Helper()
	list, err := List(t.Context(), dial)
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range list {
		if i.Vendor == vendor && i.Product == product {
			d, err := Attach(t.Context(), dial, i.BusID, Options{Stalled: func(a usb.Address, d time.Duration) {
				t.Errorf("endpoint %#x takes nothing for %v", a, d)
			}})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { d.Close() })
			return d
		}
	}
	t.Fatalf("the lab has no device %04x", product)
	return nil
}

// endpoint finds one in use.
func labEndpoint(t *testing.T, d *Device, kind usb.Kind, in bool) usb.Endpoint {
	t.Helper()
	for _, e := range d.settings.Endpoints() {
		if e.Kind == kind && e.Address.In() == in {
			return e
		}
	}
	t.Fatalf("the device has no such endpoint: %v, in %v", kind, in)
	return usb.Endpoint{}
}

func do(t *testing.T, d usb.Device, u *usb.URB) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := usb.Do(ctx, d, u); err != nil {
		t.Fatalf("endpoint %#x, %d bytes: %v", u.Endpoint, len(u.Buffer), err)
	}
}

// disk speaks the bulk-only transport (USB mass storage class, 1.0).
type disk struct {
	usb.Device
	in, out usb.Address
	tag     uint32
}

func (d *disk) command(t *testing.T, in int, cdb ...byte) []byte {
	t.Helper()
	d.tag++
	cbw := make([]byte, 31)
	copy(cbw, "USBC")
	binary.LittleEndian.PutUint32(cbw[4:], d.tag)
	binary.LittleEndian.PutUint32(cbw[8:], uint32(in))
	cbw[12], cbw[14] = 0x80, byte(len(cdb))
	copy(cbw[15:], cdb)
	do(t, d, &usb.URB{Kind: usb.Bulk, Endpoint: d.out, Buffer: cbw})
	data := &usb.URB{Kind: usb.Bulk, Endpoint: d.in, Buffer: make([]byte, in)}
	if in > 0 {
		do(t, d, data)
	}
	csw := &usb.URB{Kind: usb.Bulk, Endpoint: d.in, Buffer: make([]byte, 13)}
	do(t, d, csw)
	if csw.Actual != 13 || string(csw.Buffer[:4]) != "USBS" || binary.LittleEndian.Uint32(csw.Buffer[4:]) != d.tag || csw.Buffer[12] > 1 {
		t.Fatalf("status of % x: % x", cdb, csw.Buffer[:csw.Actual])
	}
	return data.Buffer[:data.Actual]
}

func labMassStorage(t *testing.T, dev *Device) {
	d := &disk{Device: dev, in: labEndpoint(t, dev, usb.Bulk, true).Address, out: labEndpoint(t, dev, usb.Bulk, false).Address}
	d.command(t, 0, 0, 0, 0, 0, 0, 0)
	d.command(t, 18, 0x03, 0, 0, 0, 18, 0) // the first unit attention
	size := d.command(t, 8, 0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0)
	last := binary.BigEndian.Uint32(size)
	if last < 1000 || binary.BigEndian.Uint32(size[4:]) != 512 {
		t.Fatalf("capacity % x", size)
	}
	const at = 256 // sectors
	for lba := uint32(0); lba+at <= last+1; lba += at {
		cdb := binary.BigEndian.AppendUint32([]byte{0x28, 0}, lba)
		b := d.command(t, at*512, append(cdb, 0, at>>8, at&0xff, 0)...)
		if len(b) != at*512 {
			t.Fatalf("%d bytes of sectors at %d", len(b), lba)
		}
		for i := range uint32(at) {
			if want := fmt.Sprintf("%08d lab sector", lba+i); !bytes.HasPrefix(b[i*512:], []byte(want)) {
				t.Fatalf("sector %d is %q", lba+i, b[i*512:i*512+20])
			}
		}
	}
}

func labEcho(t *testing.T, d *Device) {
	in, out := labEndpoint(t, d, usb.Bulk, true), labEndpoint(t, d, usb.Bulk, false)
	if _, err := usb.ControlTransfer(t.Context(), d, usb.TypeClass|usb.ToInterface, 0x22, 3, 0, nil); err != nil { // SET_CONTROL_LINE_STATE
		t.Fatal(err)
	}
	for i := range 10 {
		want := []byte(fmt.Sprintf("hello %d\n", i))
		do(t, d, &usb.URB{Kind: usb.Bulk, Endpoint: out.Address, Buffer: want})
		var got []byte
		for len(got) < len(want) {
			u := &usb.URB{Kind: usb.Bulk, Endpoint: in.Address, Buffer: make([]byte, 512)}
			do(t, d, u)
			got = append(got, u.Buffer[:u.Actual]...)
		}
		if !bytes.Equal(got, want) {
			t.Fatalf("%q came back as %q", want, got)
		}
	}
}

func labReports(t *testing.T, lab *labtest.Lab, d *Device) {
	in := labEndpoint(t, d, usb.Interrupt, true)
	for i := range 5 {
		u := &usb.URB{Kind: usb.Interrupt, Endpoint: in.Address, Buffer: make([]byte, 8)}
		done := make(chan error, 1)
		go func() {
			err := usb.Do(t.Context(), d, u)
			for err == nil && u.Actual == 0 { // dummy_hcd has an empty packet between two writes
				err = usb.Do(t.Context(), d, u)
			}
			done <- err
		}()
		lab.Sh(t, fmt.Sprintf(`printf '\0\0\%03o\0\0\0\0\0' > /dev/hidg0`, i+4))
		select {
		case err := <-done:
			if err != nil || u.Actual != 8 || u.Buffer[2] != byte(i+4) {
				t.Fatalf("report %d: % x, %v", i, u.Buffer[:u.Actual], err)
			}
		case <-time.After(10 * time.Second):
			t.Fatal("a report does not come")
		}
	}
}

// labSourceSink moves 8 MiB each way, 8 transfers deep, then cancels.
func labSourceSink(t *testing.T, d *Device) {
	const size, count, depth = 64 << 10, 128, 8
	for _, in := range []bool{true, false} {
		ep := labEndpoint(t, d, usb.Bulk, in)
		places := make(chan struct{}, depth)
		var group sync.WaitGroup
		for range count {
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
	in := labEndpoint(t, d, usb.Bulk, true)
	for range 20 {
		done := make(chan struct{})
		u := &usb.URB{Kind: usb.Bulk, Endpoint: in.Address, Buffer: make([]byte, 1<<20), Complete: func(*usb.URB) { close(done) }}
		if err := d.Submit(u); err != nil {
			t.Fatal(err)
		}
		d.Cancel(u)
		select {
		case <-done:
		case <-time.After(5 * time.Second):
			t.Fatal("a cancelled transfer does not end")
		}
		if u.Status != 0 && u.Status != syscall.ECONNRESET {
			t.Fatalf("cancelled with %v", u.Status)
		}
	}
}

func labIsochronous(t *testing.T, d *Device) {
	if err := d.SetInterface(t.Context(), 0, 1); err != nil {
		t.Fatal(err)
	}
	for _, in := range []bool{true, false} {
		ep := labEndpoint(t, d, usb.Isochronous, in)
		size := ep.MaxPacket()
		u := &usb.URB{Kind: usb.Isochronous, Endpoint: ep.Address, Flags: usb.ISOASAP, Buffer: make([]byte, 9*size)}
		for i := range 8 {
			u.Packets = append(u.Packets, usb.Packet{Offset: i * size, Length: size})
		}
		do(t, d, u)
		if u.Actual != 8*size || u.ErrorCount != 0 {
			t.Errorf("in %v: %d of %d bytes, %d errors, %+v", in, u.Actual, 8*size, u.ErrorCount, u.Packets)
		}
	}
}

func labReset(t *testing.T, d *Device) {
	for range 3 {
		if err := d.Reset(t.Context()); err != nil {
			t.Fatal(err)
		}
		labMassStorage(t, d)
	}
}

// adb speaks to Android's adbd (protocol.txt of platform/packages/modules/adb).
type adb struct {
	*testing.T
	dev     *Device
	in, out usb.Endpoint
}

func (a *adb) send(command string, arg0, arg1 uint32, payload []byte) {
	a.Helper()
	m := []byte(command)
	for _, w := range []uint32{arg0, arg1, uint32(len(payload)), 0, ^binary.LittleEndian.Uint32(m)} {
		m = binary.LittleEndian.AppendUint32(m, w)
	}
	do(a.T, a.dev, &usb.URB{Kind: usb.Bulk, Endpoint: a.out.Address, Buffer: m})
	if len(payload) > 0 {
		do(a.T, a.dev, &usb.URB{Kind: usb.Bulk, Endpoint: a.out.Address, Buffer: payload, Flags: usb.ZeroPacket})
	}
}

func (a *adb) receive() (command string, arg0 uint32, payload []byte) {
	a.Helper()
	head := &usb.URB{Kind: usb.Bulk, Endpoint: a.in.Address, Buffer: make([]byte, 24)}
	for head.Actual == 0 { // an empty packet ends whole ones
		do(a.T, a.dev, head)
	}
	if head.Actual != 24 {
		a.Fatalf("a header of %d bytes", head.Actual)
	}
	le := binary.LittleEndian
	for want := int(le.Uint32(head.Buffer[12:])); len(payload) < want; {
		u := &usb.URB{Kind: usb.Bulk, Endpoint: a.in.Address, Buffer: make([]byte, want-len(payload))}
		do(a.T, a.dev, u)
		payload = append(payload, u.Buffer[:u.Actual]...)
	}
	return string(head.Buffer[:4]), le.Uint32(head.Buffer[4:]), payload
}

// write sends to a stream and waits until adbd has taken it.
func (a *adb) write(local, remote uint32, b []byte) {
	a.Helper()
	a.send("WRTE", local, remote, b)
	if c, _, _ := a.receive(); c != "OKAY" {
		a.Fatalf("adbd answers a write with %s", c)
	}
}

// labADB runs a command in adbd's shell and pushes 100 MB, whose sum is then right.
func labADB(t *testing.T, lab *labtest.Lab, d *Device) {
	a := &adb{t, d, labEndpoint(t, d, usb.Bulk, true), labEndpoint(t, d, usb.Bulk, false)}
	const chunk = 64 << 10 // of the sync service
	a.send("CNXN", 0x01000001, 1<<20, []byte("host::features=cmd"))
	if c, _, banner := a.receive(); c != "CNXN" || !bytes.HasPrefix(banner, []byte("device:")) {
		t.Fatalf("adbd says %s %q", c, banner)
	}
	a.send("OPEN", 1, 0, []byte("shell:echo shell $((6*7))\x00"))
	var printed []byte
	for open := true; open; {
		switch c, id, payload := a.receive(); c {
		case "WRTE":
			printed = append(printed, payload...)
			a.send("OKAY", 1, id, nil)
		case "CLSE":
			a.send("CLSE", 1, id, nil)
			open = false
		}
	}
	if !bytes.Contains(printed, []byte("shell 42")) {
		t.Errorf("the shell prints %q", printed)
	}

	a.send("OPEN", 2, 0, []byte("sync:\x00"))
	c, id, _ := a.receive()
	for c == "CLSE" { // of the shell's stream
		c, id, _ = a.receive()
	}
	if c != "OKAY" {
		t.Fatalf("the sync service: %s", c)
	}
	request := func(name string, n int, body []byte) {
		t.Helper()
		a.write(2, id, append(binary.LittleEndian.AppendUint32([]byte(name), uint32(n)), body...))
	}
	name := "/tmp/pushed,33188"
	request("SEND", len(name), []byte(name))
	sum := sha256.New()
	random := rand.New(rand.NewPCG(1, 2))
	data := make([]byte, chunk)
	for sent := 0; sent < 100<<20; sent += chunk {
		for i := 0; i < len(data); i += 8 {
			binary.LittleEndian.PutUint64(data[i:], random.Uint64())
		}
		sum.Write(data)
		request("DATA", chunk, data)
	}
	request("DONE", 0, nil)
	if c, _, payload := a.receive(); c != "WRTE" || !bytes.HasPrefix(payload, []byte("OKAY")) {
		t.Fatalf("the push ends with %s %q", c, payload)
	}
	if got, want := lab.Sh(t, "sha256sum /tmp/pushed; rm /tmp/pushed"), fmt.Sprintf("%x", sum.Sum(nil)); !strings.HasPrefix(got, want) {
		t.Errorf("the file's sum is %s, expected %s", got, want)
	}
}
