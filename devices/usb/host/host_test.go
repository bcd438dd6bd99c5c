package host

import (
	"errors"
	"slices"
	"sync"
	"syscall"
	"testing"

	"github.com/lxbridge/lx/devices/usb/emul"
	"github.com/lxbridge/lx/devices/usb/usbtest"
)

func newHost(t *testing.T) *Host {
	t.Helper()
	h, err := New(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	})
	return h
}

func plug(t *testing.T, h *Host, port int) (*emul.Device, *Device) {
	t.Helper()
	e, err := emul.New(usbtest.Gadget())
	if err != nil {
		t.Fatal(err)
	}
	d, err := h.Attach(t.Context(), e, port)
	if err != nil {
		t.Fatal(err)
	}
	return e, d
}

// events is what a watcher has seen.
type events struct {
	mu   sync.Mutex
	seen []string
	more chan struct{}
}

func (e *events) see(d *Device, a Action) {
	e.mu.Lock()
	e.seen = append(e.seen, string(a)+" "+d.Name())
	e.mu.Unlock()
	e.more <- struct{}{}
}

func TestPlaces(t *testing.T) {
	h := newHost(t)
	ev := &events{more: make(chan struct{}, 100)}
	defer h.Watch(ev.see)()
	first, a := plug(t, h, 0)
	_, b := plug(t, h, 0)
	if a.Name() != "200-1" || b.Name() != "200-2" || a.Number != 2 || b.Number != 3 {
		t.Errorf("%s is number %d, %s is %d", a.Name(), a.Number, b.Name(), b.Number)
	}
	<-ev.more
	<-ev.more
	first.Unplug()
	<-ev.more
	if h.Find(a.Bus, a.Number) != nil {
		t.Error("a device that is gone is found")
	}
	// The port is free again, the number is not given so soon.
	if _, c := plug(t, h, 1); c.Name() != "200-1" || c.Number != 4 {
		t.Errorf("%s is number %d", c.Name(), c.Number)
	}
	if _, d := plug(t, h, 2); d.Name() != "200-3" {
		t.Errorf("where one is: %s", d.Name())
	}
	ev.mu.Lock()
	defer ev.mu.Unlock()
	if want := []string{"add 200-1", "add 200-2", "remove 200-1", "add 200-1", "add 200-3"}; !slices.Equal(ev.seen, want) {
		t.Errorf("told %q, expected %q", ev.seen, want)
	}
}

func TestFull(t *testing.T) {
	h := newHost(t)
	for range Ports { // the last one, then from the first
		plug(t, h, Ports)
	}
	e, err := emul.New(usbtest.Gadget())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := h.Attach(t.Context(), e, 0); err == nil {
		t.Error("a port more than there are")
	}
	<-e.Gone() // what is refused is closed
}

// owner counts what was taken from it.
type owner struct{ lost []uint8 }

func (o *owner) Released(i uint8) { o.lost = append(o.lost, i) }

func TestOwners(t *testing.T) {
	h := newHost(t)
	_, d := plug(t, h, 0)
	a, b := &owner{}, &owner{}
	for _, tt := range []struct {
		what string
		got  error
		want error
	}{
		{"claim", d.Claim(a, 0), nil},
		{"another's", d.Claim(b, 0), syscall.EBUSY},
		{"no interface", d.Claim(b, 5), syscall.ENOENT},
		{"configuration while claimed", d.SetConfiguration(t.Context(), 1), syscall.EBUSY},
		{"no setting", d.SetInterface(t.Context(), 1, 9), syscall.EINVAL},
		{"setting", d.SetInterface(t.Context(), 1, 1), nil},
	} {
		if !errors.Is(tt.got, tt.want) {
			t.Errorf("%s: %v, expected %v", tt.what, tt.got, tt.want)
		}
	}
	if _, iface, ok := d.Endpoint(usbtest.IsoIn); !ok || iface != 1 {
		t.Error("the setting's endpoint is not found")
	}
	if d.Release(b, 0) || !d.Claimed(b) || d.Claimed(a) {
		t.Error("another's claim was given back")
	}
	if err := d.Reset(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, _, ok := d.Endpoint(usbtest.IsoIn); ok || !slices.Equal(a.lost, []uint8{0}) || d.OwnerOf(0) != nil {
		t.Errorf("after a reset: %v lost", a.lost)
	}
	if err := d.SetConfiguration(t.Context(), 0); err != nil || d.Setting(0) != nil {
		t.Errorf("unconfigured: %v", err)
	}
	if err := d.Claim(a, 0); !errors.Is(err, syscall.ENOENT) {
		t.Errorf("a claim of an unconfigured device: %v", err)
	}
}
