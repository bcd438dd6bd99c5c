package usbtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/lxbridge/lx/devices/usb"
	"github.com/lxbridge/lx/devices/usb/emul"
)

// patience bounds what should be done at once.
const patience = 10 * time.Second

// Run tests a back-end. attach answers the Device that leads to the emulated one; both
// are closed by the suite.
func Run(t *testing.T, attach func(t *testing.T, d *emul.Device) usb.Device) {
	for name, test := range map[string]func(*testing.T, usb.Device){
		"Describe":      testDescribe,
		"Control":       testControl,
		"ControlStall":  testControlStall,
		"Loopback":      testLoopback,
		"Deep":          testDeep,
		"Short":         testShort,
		"Interrupt":     testInterrupt,
		"Halt":          testHalt,
		"Cancel":        testCancel,
		"CancelControl": testCancelControl,
		"Interface":     testInterface,
		"Configuration": testConfiguration,
		"Reset":         testReset,
		"Isochronous":   testIsochronous,
		"Refused":       testRefused,
		"Unplug":        testUnplug,
		"Close":         testClose,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			end, err := emul.New(Gadget())
			if err != nil {
				t.Fatal(err)
			}
			d := attach(t, end)
			defer func() {
				if err := errors.Join(d.Close(), end.Close()); err != nil {
					t.Error(err)
				}
			}()
			if err := d.SetConfiguration(soon(t), 1); err != nil {
				t.Fatal("SetConfiguration: ", err)
			}
			test(t, d)
		})
	}
}

func soon(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeoutCause(context.Background(), patience, errors.New("it takes too long"))
	t.Cleanup(cancel)
	return ctx
}

// job is a URB in flight.
type job struct {
	*usb.URB
	done  chan struct{}
	times atomic.Int32 // completions
}

func start(t *testing.T, d usb.Device, u *usb.URB) *job {
	t.Helper()
	j := &job{URB: u, done: make(chan struct{})}
	u.Complete = func(*usb.URB) {
		if j.times.Add(1) == 1 {
			close(j.done)
		}
	}
	if err := d.Submit(u); err != nil {
		t.Fatalf("Submit to %#x: %v", u.Endpoint, err)
	}
	return j
}

func (j *job) wait(t *testing.T, status syscall.Errno, actual int) {
	t.Helper()
	select {
	case <-j.done:
	case <-soon(t).Done():
		t.Fatalf("a URB to %#x does not complete", j.Endpoint)
	}
	if n := j.times.Load(); n != 1 {
		t.Errorf("completed %d times", n)
	}
	if j.Status != status || j.Actual != actual {
		t.Errorf("URB to %#x: %d bytes, %v; expected %d, %v", j.Endpoint, j.Actual, j.Status, actual, status)
	}
}

func bulk(ep usb.Address, b []byte) *usb.URB {
	return &usb.URB{Kind: usb.Bulk, Endpoint: ep, Buffer: b}
}

func vendor(t *testing.T, d usb.Device, request uint8, value uint16, data []byte) {
	t.Helper()
	if _, err := usb.ControlTransfer(soon(t), d, usb.TypeVendor, request, value, 0, data); err != nil {
		t.Fatalf("vendor request %d: %v", request, err)
	}
}

func pattern(n, seed int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i*7 + i>>8 + seed)
	}
	return b
}

func testDescribe(t *testing.T, d usb.Device) {
	desc, err := usb.Describe(soon(t), d)
	if err != nil {
		t.Fatal(err)
	}
	g := Gadget()
	if !bytes.Equal(desc.Raw(), append(g.Device, g.Configurations[0]...)) || desc.Speed != g.Speed {
		t.Errorf("described as % x at %v", desc.Raw(), desc.Speed)
	}
	for i, want := range map[uint8]string{1: Manufacturer, 2: Product, 3: Serial, 4: "data"} {
		if desc.Strings[i] != want {
			t.Errorf("string %d is %q, expected %q", i, desc.Strings[i], want)
		}
	}
}

func testControl(t *testing.T, d usb.Device) {
	for _, n := range []int{0, 1, 63, 64, 65, 4096, 65535} {
		want := pattern(n, n)
		vendor(t, d, ReqStore, 0, want)
		got := make([]byte, min(n+10, 65535))
		m, err := usb.ControlTransfer(soon(t), d, usb.DirIn|usb.TypeVendor, ReqLoad, 0, 0, got)
		if err != nil || !bytes.Equal(got[:m], want) {
			t.Errorf("of %d bytes %d came back: %v", n, m, err)
		}
	}
	b := make([]byte, 1)
	if n, err := usb.ControlTransfer(soon(t), d, usb.DirIn, usb.ReqGetConfiguration, 0, 0, b); err != nil || n != 1 || b[0] != 1 {
		t.Errorf("GET_CONFIGURATION: %d, %v", b[0], err)
	}
}

func testControlStall(t *testing.T, d usb.Device) {
	if _, err := usb.ControlTransfer(soon(t), d, usb.DirIn|usb.TypeVendor, 99, 0, 0, make([]byte, 4)); !errors.Is(err, syscall.EPIPE) {
		t.Errorf("an unknown request: %v, expected EPIPE", err)
	}
	vendor(t, d, ReqStore, 0, []byte("after a stall"))
}

func testLoopback(t *testing.T, d usb.Device) {
	for _, n := range []int{1, 511, 512, 513, 4096, 16384, 262144, maxLoop} {
		want, got := pattern(n, n), make([]byte, maxLoop)
		out := bulk(LoopOut, want)
		out.Flags = usb.ZeroPacket
		in := start(t, d, bulk(LoopIn, got))
		start(t, d, out).wait(t, 0, n)
		in.wait(t, 0, n)
		if !bytes.Equal(got[:in.Actual], want) {
			t.Errorf("%d bytes came back wrong", n)
		}
	}
}

func testDeep(t *testing.T, d usb.Device) {
	const depth, size = 64, 16384
	var jobs []*job
	var order atomic.Int32
	for range depth {
		jobs = append(jobs, start(t, d, bulk(Source, make([]byte, size))))
	}
	for i := range depth {
		u := bulk(Sink, pattern(size, i))
		done := make(chan struct{})
		j := &job{URB: u, done: done}
		u.Complete = func(*usb.URB) {
			if at := order.Add(1) - 1; int(at) != i {
				t.Errorf("URB %d completed as number %d", i, at)
			}
			j.times.Add(1)
			close(done)
		}
		if err := d.Submit(u); err != nil {
			t.Fatal(err)
		}
		jobs = append(jobs, j)
	}
	for i, j := range jobs {
		j.wait(t, 0, size)
		if j.In() {
			for k, b := range j.Buffer {
				if b != byte(k) {
					t.Fatalf("URB %d has %#x at %d", i, b, k)
				}
			}
		}
	}
}

func testShort(t *testing.T, d usb.Device) {
	in := bulk(LoopIn, make([]byte, 1024))
	in.Flags = usb.ShortNotOK
	j := start(t, d, in)
	start(t, d, bulk(LoopOut, pattern(100, 0))).wait(t, 0, 100)
	j.wait(t, syscall.EREMOTEIO, 100)

	j = start(t, d, bulk(LoopIn, make([]byte, 100)))
	start(t, d, bulk(LoopOut, pattern(200, 0))).wait(t, 0, 200)
	<-j.done
	if j.Status != syscall.EOVERFLOW {
		t.Errorf("a packet larger than its buffer: %v, expected EOVERFLOW", j.Status)
	}
}

func testInterrupt(t *testing.T, d usb.Device) {
	j := start(t, d, &usb.URB{Kind: usb.Interrupt, Endpoint: Event, Buffer: make([]byte, 64)})
	vendor(t, d, ReqEvent, 0, []byte("event"))
	j.wait(t, 0, 5)
	if string(j.Buffer[:5]) != "event" {
		t.Errorf("%q came", j.Buffer[:5])
	}
}

func testHalt(t *testing.T, d usb.Device) {
	waiting := start(t, d, bulk(LoopIn, make([]byte, 512)))
	vendor(t, d, ReqHalt, uint16(LoopIn), nil)
	waiting.wait(t, syscall.EPIPE, 0)
	start(t, d, bulk(LoopIn, make([]byte, 512))).wait(t, syscall.EPIPE, 0)
	if err := d.ClearHalt(soon(t), LoopIn); err != nil {
		t.Fatal(err)
	}
	j := start(t, d, bulk(LoopIn, make([]byte, 512)))
	start(t, d, bulk(LoopOut, pattern(9, 0))).wait(t, 0, 9)
	j.wait(t, 0, 9)
}

func testCancel(t *testing.T, d usb.Device) {
	var jobs []*job
	for range 3 {
		jobs = append(jobs, start(t, d, bulk(LoopIn, make([]byte, 512))))
	}
	d.Cancel(jobs[1].URB)
	jobs[1].wait(t, syscall.ECONNRESET, 0)
	d.Cancel(jobs[1].URB)
	d.Cancel(bulk(LoopIn, nil))
	for _, n := range []int{10, 20} {
		start(t, d, bulk(LoopOut, pattern(n, n))).wait(t, 0, n)
	}
	jobs[0].wait(t, 0, 10)
	jobs[2].wait(t, 0, 20)
	jobs[1].wait(t, syscall.ECONNRESET, 0)

	ctx, cancel := context.WithCancelCause(context.Background())
	why := errors.New("enough")
	cancel(why)
	if err := usb.Do(ctx, d, bulk(LoopIn, make([]byte, 512))); !errors.Is(err, why) {
		t.Errorf("Do without end: %v", err)
	}
}

func testCancelControl(t *testing.T, d usb.Device) {
	hang := start(t, d, &usb.URB{Kind: usb.Control, Setup: usb.Setup{RequestType: usb.DirIn | usb.TypeVendor, Request: ReqHang, Length: 8}, Buffer: make([]byte, 8)})
	d.Cancel(hang.URB)
	hang.wait(t, syscall.ECONNRESET, 0)
	vendor(t, d, ReqStore, 0, []byte("after a cancel"))
}

func testInterface(t *testing.T, d usb.Device) {
	if err := d.SetInterface(soon(t), 1, 1); err != nil {
		t.Fatal(err)
	}
	if err := d.SetInterface(soon(t), 1, 7); !errors.Is(err, syscall.EINVAL) {
		t.Errorf("a setting that is not there: %v, expected EINVAL", err)
	}
	// The other interface is not touched, its own URBs end.
	other := start(t, d, bulk(LoopIn, make([]byte, 512)))
	if err := d.SetInterface(soon(t), 1, 0); err != nil {
		t.Fatal(err)
	}
	start(t, d, bulk(LoopOut, pattern(3, 0))).wait(t, 0, 3)
	other.wait(t, 0, 3)
	own := start(t, d, bulk(LoopIn, make([]byte, 512)))
	if err := d.SetInterface(soon(t), 0, 0); err != nil {
		t.Fatal(err)
	}
	own.wait(t, syscall.ESHUTDOWN, 0)
}

func testConfiguration(t *testing.T, d usb.Device) {
	if err := d.SetConfiguration(soon(t), 9); !errors.Is(err, syscall.EINVAL) {
		t.Errorf("a configuration that is not there: %v, expected EINVAL", err)
	}
	j := start(t, d, bulk(LoopIn, make([]byte, 512)))
	if err := d.SetConfiguration(soon(t), 0); err != nil {
		t.Fatal(err)
	}
	j.wait(t, syscall.ESHUTDOWN, 0)
	if err := usb.Do(soon(t), d, bulk(LoopIn, make([]byte, 512))); err == nil {
		t.Error("a transfer of an unconfigured device was done")
	}
	b := []byte{7}
	if _, err := usb.ControlTransfer(soon(t), d, usb.DirIn, usb.ReqGetConfiguration, 0, 0, b); err != nil || b[0] != 0 {
		t.Errorf("GET_CONFIGURATION: %d, %v", b[0], err)
	}
}

func testReset(t *testing.T, d usb.Device) {
	j := start(t, d, bulk(LoopIn, make([]byte, 512)))
	if err := d.Reset(soon(t)); err != nil {
		t.Fatal(err)
	}
	j.wait(t, syscall.ESHUTDOWN, 0)
	j = start(t, d, bulk(LoopIn, make([]byte, 512)))
	start(t, d, bulk(LoopOut, pattern(3, 0))).wait(t, 0, 3)
	j.wait(t, 0, 3)
}

func testIsochronous(t *testing.T, d usb.Device) {
	if err := d.SetInterface(soon(t), 1, 1); err != nil {
		t.Fatal(err)
	}
	iso := func(ep usb.Address) *usb.URB {
		u := &usb.URB{Kind: usb.Isochronous, Endpoint: ep, Buffer: pattern(8*192, 0), Flags: usb.ISOASAP}
		for i := range 8 {
			u.Packets = append(u.Packets, usb.Packet{Offset: i * 192, Length: 100 + i})
		}
		return u
	}
	var jobs []*job
	for range 4 {
		jobs = append(jobs, start(t, d, iso(IsoIn)), start(t, d, iso(IsoOut)))
	}
	for _, j := range jobs {
		<-j.done
		if j.Status != 0 || j.ErrorCount != 0 {
			t.Errorf("status %v, %d errors", j.Status, j.ErrorCount)
		}
		for i, p := range j.Packets {
			if p.Status != 0 || p.Actual != p.Length {
				t.Errorf("packet %d: %d of %d bytes, %v", i, p.Actual, p.Length, p.Status)
			}
			if b := j.Buffer[p.Offset:]; j.In() && (b[1] != 1 || b[99] != 99) {
				t.Errorf("packet %d has the wrong bytes", i)
			}
		}
	}
}

func testRefused(t *testing.T, d usb.Device) {
	if err := usb.Do(soon(t), d, bulk(0x85, make([]byte, 512))); err == nil {
		t.Error("an endpoint that is not there took a transfer")
	}
	if err := d.ClearHalt(soon(t), 0x85); err == nil {
		t.Error("a halt of no endpoint was cleared")
	}
}

func testUnplug(t *testing.T, d usb.Device) {
	j := start(t, d, bulk(LoopIn, make([]byte, 512)))
	// Its own answer may be lost with the device.
	_, err := usb.ControlTransfer(soon(t), d, usb.TypeVendor, ReqUnplug, 0, 0, nil)
	if err != nil && !errors.Is(err, syscall.ESHUTDOWN) {
		t.Error(err)
	}
	j.wait(t, syscall.ESHUTDOWN, 0)
	select {
	case <-d.Gone():
	case <-soon(t).Done():
		t.Fatal("the device is unplugged, and not gone")
	}
	if err := d.Submit(bulk(LoopIn, make([]byte, 512))); !errors.Is(err, syscall.ENODEV) {
		t.Errorf("Submit to a device that is gone: %v, expected ENODEV", err)
	}
	if err := d.SetConfiguration(soon(t), 1); !errors.Is(err, syscall.ENODEV) {
		t.Errorf("SetConfiguration of a device that is gone: %v, expected ENODEV", err)
	}
}

func testClose(t *testing.T, d usb.Device) {
	var jobs []*job
	for i := range 20 {
		jobs = append(jobs, start(t, d, bulk([]usb.Address{LoopIn, Sink, Source}[i%3], make([]byte, 512))))
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	for i, j := range jobs {
		if n := j.times.Load(); n != 1 {
			t.Errorf("URB %d was completed %d times when Close had returned", i, n)
		}
	}
	<-d.Gone()
	if err := d.Close(); err != nil {
		t.Error(fmt.Errorf("the second Close: %w", err))
	}
}
