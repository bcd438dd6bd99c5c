// Package host is the core of a USB host: it gives devices numbers and places, keeps
// their configuration, and settles which open file has which interface.
package host

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/lxbridge/lx/devices/usb"
)

// Our buses: one of USB 2 and one of USB 3, far from the numbers of the machine's own.
const (
	HighSpeedBus  = 200
	SuperSpeedBus = 201

	Ports     = 15 // of each bus
	maxNumber = 127
)

// Action is what happened to a device.
type Action string

// The actions, as uevents name them.
const (
	Added   Action = "add"
	Changed Action = "change"
	Removed Action = "remove"
)

// Host has the devices of its buses. The zero value is not ready; see New.
type Host struct {
	mu       sync.Mutex // guards what follows
	devices  []*Device  // ascending by bus and number
	last     map[int]int
	watchers map[*func(*Device, Action)]struct{}
	closed   bool
	wg       sync.WaitGroup
}

// New makes a host with its root hubs.
func New(ctx context.Context) (*Host, error) {
	h := &Host{last: map[int]int{}, watchers: map[*func(*Device, Action)]struct{}{}}
	for _, speed := range []usb.Speed{usb.SpeedHigh, usb.SpeedSuper} {
		hub, err := newRootHub(speed)
		if err != nil {
			return nil, err
		}
		if _, err := h.attach(ctx, hub, 0); err != nil {
			return nil, errors.Join(err, hub.Close(), h.Close())
		}
	}
	return h, nil
}

// setupTime is how long a device may take to be described and configured.
const setupTime = 30 * time.Second

// Attach plugs a device in and gives it a configuration, unless it has one: at the first
// free port from the given one on. The host closes it when it is detached, or gone, and
// where Attach fails.
func (h *Host) Attach(ctx context.Context, dev usb.Device, port int) (*Device, error) {
	d, err := h.attach(ctx, dev, max(port, 1))
	if err != nil {
		return nil, errors.Join(err, dev.Close())
	}
	return d, nil
}

func (h *Host) attach(ctx context.Context, dev usb.Device, port int) (*Device, error) {
	ctx, cancel := context.WithTimeout(ctx, setupTime)
	defer cancel()
	desc, err := usb.Describe(ctx, dev)
	if err != nil {
		return nil, err
	}
	d := &Device{Device: dev, Description: desc, Bus: HighSpeedBus, host: h, alts: map[uint8]uint8{}, owners: map[uint8]Owner{}}
	if desc.Speed >= usb.SpeedSuper {
		d.Bus = SuperSpeedBus
	}
	if err := d.begin(ctx); err != nil {
		return nil, err
	}
	h.mu.Lock()
	if h.closed {
		h.mu.Unlock()
		return nil, errors.New("cannot attach a device: the host ends")
	}
	if err := h.place(d, port); err != nil {
		h.mu.Unlock()
		return nil, err
	}
	h.devices = append(h.devices, d)
	slices.SortFunc(h.devices, func(a, b *Device) int { return (a.Bus-b.Bus)<<8 + a.Number - b.Number })
	h.wg.Add(1)
	h.mu.Unlock()
	h.tell(d, Added)
	go func() {
		defer h.wg.Done()
		d.follow()
	}()
	return d, nil
}

// place finds a number and a port, from the port first and around. h.mu is held.
func (h *Host) place(d *Device, first int) error {
	numbers, ports := map[int]bool{}, map[int]bool{}
	for _, o := range h.devices {
		if o.Bus == d.Bus {
			numbers[o.Number], ports[o.Port] = true, true
		}
	}
	// Numbers are not given again soon, as the kernel does it.
	for i := range maxNumber {
		if n := (h.last[d.Bus]+i)%maxNumber + 1; !numbers[n] {
			d.Number = n
			break
		}
	}
	d.Port = first
	for range Ports {
		if !ports[d.Port] {
			break
		}
		d.Port = d.Port%Ports + 1
	}
	if d.Number == 0 || ports[d.Port] {
		return fmt.Errorf("cannot attach a device: bus %d is full", d.Bus)
	}
	h.last[d.Bus] = d.Number
	return nil
}

// Devices are all devices, root hubs too, ascending by bus and number.
func (h *Host) Devices() []*Device {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.devices)
}

// Find finds a device by its numbers; nil: there is none.
func (h *Host) Find(bus, number int) *Device {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, d := range h.devices {
		if d.Bus == bus && d.Number == number {
			return d
		}
	}
	return nil
}

// Watch has f called after each action, one at a time for a device, until stop is
// called. f must not wait.
func (h *Host) Watch(f func(*Device, Action)) (stop func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	key := &f
	h.watchers[key] = struct{}{}
	return func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		delete(h.watchers, key)
	}
}

func (h *Host) tell(d *Device, a Action) {
	h.mu.Lock()
	var fs []func(*Device, Action)
	for f := range h.watchers {
		fs = append(fs, *f)
	}
	h.mu.Unlock()
	for _, f := range fs {
		f(d, a)
	}
}

// Close detaches all devices and waits until they are closed.
func (h *Host) Close() error {
	h.mu.Lock()
	h.closed = true
	devices := slices.Clone(h.devices)
	h.mu.Unlock()
	var errs []error
	for _, d := range devices {
		errs = append(errs, d.Detach())
	}
	h.wg.Wait()
	return errors.Join(errs...)
}

// Owner is an open file that may have interfaces.
type Owner interface {
	// Released tells that an interface was taken away: the owner's URBs on its
	// endpoints have to end.
	Released(iface uint8)
}

// Device is a device at its place.
type Device struct {
	usb.Device
	*usb.Description
	Bus, Number int
	Port        int // 0: the root hub

	host   *Host
	change sync.Mutex // held while the configuration changes

	mu     sync.Mutex // guards what follows
	config *usb.Configuration
	alts   map[uint8]uint8
	owners map[uint8]Owner
}

// Name is the device's name in sysfs.
func (d *Device) Name() string {
	if d.Port == 0 {
		return fmt.Sprintf("usb%d", d.Bus)
	}
	return fmt.Sprintf("%d-%d", d.Bus, d.Port)
}

// Speed is the speed at which the device is attached.
func (d *Device) Speed() usb.Speed { return d.Description.Speed }

// begin gives the device a configuration unless it has one.
func (d *Device) begin(ctx context.Context) error {
	if len(d.Configurations) == 0 {
		return nil
	}
	b := make([]byte, 1)
	if n, err := usb.ControlTransfer(ctx, d.Device, usb.DirIn, usb.ReqGetConfiguration, 0, 0, b); err == nil && n == 1 {
		if d.config = d.Configuration(b[0]); d.config != nil {
			return nil
		}
	}
	// As the kernel chooses: the first that begins with a class of its own is rather not meant.
	first := &d.Configurations[0]
	for i := range d.Configurations {
		c := &d.Configurations[i]
		if len(c.Interfaces) > 0 && c.Interfaces[0].Alternates[0].Class != 0xff {
			first = c
			break
		}
	}
	if err := d.Device.SetConfiguration(ctx, first.Value); err != nil {
		return fmt.Errorf("cannot configure the device: %w", err)
	}
	d.config = first
	return nil
}

// follow sees the device off.
func (d *Device) follow() {
	<-d.Gone()
	h := d.host
	h.mu.Lock()
	h.devices = slices.DeleteFunc(h.devices, func(o *Device) bool { return o == d })
	h.mu.Unlock()
	h.tell(d, Removed)
	_ = d.Device.Close() // Detach tells of the error
}

// Detach unplugs the device.
func (d *Device) Detach() error { return d.Device.Close() }

// Active is the configuration that is set; nil: none.
func (d *Device) Active() *usb.Configuration {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.config
}

// Setting is the present setting of an interface; nil: there is none.
func (d *Device) Setting(iface uint8) *usb.Alternate {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.setting(iface)
}

// setting needs mu.
func (d *Device) setting(iface uint8) *usb.Alternate {
	if d.config == nil {
		return nil
	}
	i := d.config.Interface(iface)
	if i == nil {
		return nil
	}
	if a := i.Alternate(d.alts[iface]); a != nil {
		return a
	}
	return &i.Alternates[0]
}

// Endpoint finds an endpoint in the present settings.
func (d *Device) Endpoint(addr usb.Address) (e usb.Endpoint, iface uint8, ok bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.config == nil {
		return e, 0, false
	}
	for _, i := range d.config.Interfaces {
		if p := d.setting(i.Number).Endpoint(addr); p != nil {
			return *p, i.Number, true
		}
	}
	return e, 0, false
}

// Claim gives an interface to o. ENOENT: there is none; EBUSY: it is another's.
func (d *Device) Claim(o Owner, iface uint8) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.config == nil || d.config.Interface(iface) == nil {
		return syscall.ENOENT
	}
	if have := d.owners[iface]; have != nil && have != o {
		return syscall.EBUSY
	}
	d.owners[iface] = o
	return nil
}

// OwnerOf is who has an interface; nil: nobody.
func (d *Device) OwnerOf(iface uint8) Owner {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.owners[iface]
}

// Release takes an interface from o, or from whoever has it where o is nil, and
// reports whether it was so.
func (d *Device) Release(o Owner, iface uint8) bool {
	d.mu.Lock()
	have := d.owners[iface]
	if have == nil || o != nil && have != o {
		d.mu.Unlock()
		return false
	}
	delete(d.owners, iface)
	d.mu.Unlock()
	have.Released(iface)
	return true
}

// Claimed says whether anybody has an interface other than o's.
func (d *Device) Claimed(o Owner) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, have := range d.owners {
		if have != o {
			return true
		}
	}
	return false
}

// SetConfiguration sets a configuration; the same once more resets its settings.
// EBUSY: an interface is claimed.
func (d *Device) SetConfiguration(ctx context.Context, value uint8) error {
	d.change.Lock()
	defer d.change.Unlock()
	if d.Claimed(nil) {
		return syscall.EBUSY
	}
	c := d.Configuration(value)
	if c == nil && value != 0 {
		return syscall.EINVAL
	}
	if err := d.Device.SetConfiguration(ctx, value); err != nil {
		return err
	}
	d.mu.Lock()
	d.config, d.alts = c, map[uint8]uint8{}
	d.mu.Unlock()
	d.host.tell(d, Changed)
	return nil
}

// SetInterface takes a setting of an interface.
func (d *Device) SetInterface(ctx context.Context, iface, alt uint8) error {
	d.change.Lock()
	defer d.change.Unlock()
	c := d.Active()
	if c == nil || c.Interface(iface) == nil || c.Interface(iface).Alternate(alt) == nil {
		return syscall.EINVAL
	}
	if err := d.Device.SetInterface(ctx, iface, alt); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.alts[iface] = alt
	return nil
}

// Reset resets the device. All interfaces are taken from their owners, as the kernel
// does it where the driver is usbfs.
func (d *Device) Reset(ctx context.Context) error {
	d.change.Lock()
	defer d.change.Unlock()
	d.mu.Lock()
	owners := d.owners
	d.owners = map[uint8]Owner{}
	d.mu.Unlock()
	for i, o := range owners {
		o.Released(i)
	}
	if err := d.Device.Reset(ctx); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.alts = map[uint8]uint8{}
	return nil
}
