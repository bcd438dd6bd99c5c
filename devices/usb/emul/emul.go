// Package emul makes USB devices in Go. A device is its descriptors, a function for
// control requests, and one that runs while it is configured and moves data through
// pipes, as a gadget's driver does.
package emul

import (
	"context"
	"encoding/binary"
	"fmt"
	"sync"
	"syscall"
	"time"
	"unicode/utf16"

	"github.com/lxbridge/lx/devices/usb"
)

// Spec says what a device is. It is not changed after New.
type Spec struct {
	Speed          usb.Speed
	Device         []byte   // device descriptor
	Configurations [][]byte // with all that follows each
	BOS            []byte
	Strings        map[uint8]string // in English, by index

	// Control answers what is not answered by the descriptors: class and vendor
	// requests, and standard ones that are none of SET_CONFIGURATION,
	// SET_INTERFACE, GET_STATUS and the like. data is what came, or room for what
	// goes back. An error stalls. One request at a time; ctx ends with the request's
	// cancel. nil stalls all.
	Control func(ctx context.Context, d *Device, setup usb.Setup, data []byte) (int, error)
	// Run runs on a goroutine of its own from the time a configuration is set until ctx
	// ends: the device is configured anew, reset or gone. It must then return.
	Run func(ctx context.Context, d *Device)
	// ISO answers a packet of an isochronous endpoint: it fills p, or takes it,
	// and tells how many bytes. nil: packets are empty.
	ISO func(d *Device, ep usb.Address, p []byte) int
}

// Device is an emulated device; it is a usb.Device.
type Device struct {
	spec    Spec
	desc    usb.DeviceDescriptor
	configs []usb.Configuration

	control *controlQueue
	gone    chan struct{}
	work    sync.WaitGroup // goroutines of the device

	unplug sync.Once
	config sync.Mutex // held while the configuration changes

	mu     sync.Mutex // guards what follows
	closed bool
	active *usb.Configuration // nil: unconfigured
	alts   map[uint8]uint8
	pipes  map[usb.Address]*Pipe
	end    func() // stops Run and waits for it
}

var _ usb.Device = (*Device)(nil)

// New plugs a device in. It lives until Close or Unplug.
func New(spec Spec) (*Device, error) {
	d := &Device{spec: spec, gone: make(chan struct{}), pipes: map[usb.Address]*Pipe{}, end: func() {}}
	var err error
	if d.desc, err = usb.ParseDevice(spec.Device); err != nil {
		return nil, err
	}
	if int(d.desc.NumConfigurations) != len(spec.Configurations) {
		return nil, fmt.Errorf("cannot make a device: %d configurations told, %d given", d.desc.NumConfigurations, len(spec.Configurations))
	}
	for _, raw := range spec.Configurations {
		c, err := usb.ParseConfiguration(raw)
		if err != nil {
			return nil, err
		}
		d.configs = append(d.configs, c)
	}
	d.control = newControlQueue(d)
	d.work.Go(d.control.run)
	return d, nil
}

// Speed implements usb.Device.
func (d *Device) Speed() usb.Speed { return d.spec.Speed }

// Gone implements usb.Device.
func (d *Device) Gone() <-chan struct{} { return d.gone }

// Close implements usb.Device. It must not be called by the device's own functions.
func (d *Device) Close() error {
	d.Unplug()
	d.config.Lock()
	_ = d.configure(nil) // ENODEV, for it is unplugged
	d.config.Unlock()
	d.work.Wait()
	return nil
}

// Unplug takes the device away, as one does that comes back as another. The device's
// own functions may call it.
func (d *Device) Unplug() {
	d.unplug.Do(func() {
		d.mu.Lock()
		d.closed = true
		close(d.gone)
		pipes := d.pipes
		d.pipes = map[usb.Address]*Pipe{}
		d.mu.Unlock()
		d.control.end(true)
		for _, p := range pipes {
			p.close()
		}
	})
}

// Submit implements usb.Device.
func (d *Device) Submit(u *usb.URB) error {
	if u.Kind == usb.Control {
		if u.Endpoint.Number() != 0 {
			return syscall.ENOENT
		}
		return d.control.submit(u)
	}
	d.mu.Lock()
	p, closed := d.pipes[u.Endpoint], d.closed
	d.mu.Unlock()
	switch {
	case closed:
		return syscall.ENODEV
	case p == nil:
		return syscall.ENOENT
	}
	return p.submit(u)
}

// Cancel implements usb.Device.
func (d *Device) Cancel(u *usb.URB) {
	if u.Kind == usb.Control {
		d.control.cancelURB(u)
		return
	}
	if p := d.pipe(u.Endpoint); p != nil {
		p.cancel(u)
	}
}

// SetConfiguration implements usb.Device.
func (d *Device) SetConfiguration(_ context.Context, value uint8) error {
	d.config.Lock()
	defer d.config.Unlock()
	if value == 0 {
		return d.configure(nil)
	}
	for i := range d.configs {
		if d.configs[i].Value == value {
			return d.configure(&d.configs[i])
		}
	}
	return syscall.EINVAL
}

// configure ends what runs and starts c. d.config is held.
func (d *Device) configure(c *usb.Configuration) error {
	d.mu.Lock()
	old, end := d.pipes, d.end
	d.active, d.alts, d.pipes, d.end = nil, map[uint8]uint8{}, map[usb.Address]*Pipe{}, func() {}
	d.mu.Unlock()
	for _, p := range old {
		p.close()
	}
	end()

	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return syscall.ENODEV
	}
	if d.active = c; c == nil {
		return nil
	}
	for i := range c.Interfaces {
		d.openPipes(&c.Interfaces[i].Alternates[0])
	}
	if d.spec.Run == nil {
		return nil
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		d.spec.Run(ctx, d)
	}()
	d.end = func() { cancel(); <-done }
	d.work.Go(func() {
		select {
		case <-d.gone:
			cancel()
		case <-ctx.Done():
		}
	})
	return nil
}

// openPipes makes the pipes of a setting. d.mu is held.
func (d *Device) openPipes(a *usb.Alternate) {
	for _, e := range a.Endpoints {
		if e.Kind != usb.Control {
			d.pipes[e.Address] = newPipe(d, e)
		}
	}
}

// SetInterface implements usb.Device.
func (d *Device) SetInterface(_ context.Context, iface, alt uint8) error {
	d.config.Lock()
	defer d.config.Unlock()
	d.mu.Lock()
	if d.closed {
		d.mu.Unlock()
		return syscall.ENODEV
	}
	var i *usb.Interface
	if d.active != nil {
		i = d.active.Interface(iface)
	}
	if i == nil || i.Alternate(alt) == nil {
		d.mu.Unlock()
		return syscall.EINVAL
	}
	var old []*Pipe
	if a := i.Alternate(d.alts[iface]); a != nil {
		for _, e := range a.Endpoints {
			if p := d.pipes[e.Address]; p != nil {
				old = append(old, p)
				delete(d.pipes, e.Address)
			}
		}
	}
	d.alts[iface] = alt
	d.openPipes(i.Alternate(alt))
	d.mu.Unlock()
	for _, p := range old {
		p.close()
	}
	return nil
}

// ClearHalt implements usb.Device.
func (d *Device) ClearHalt(_ context.Context, ep usb.Address) error {
	if ep.Number() == 0 {
		return nil
	}
	p := d.pipe(ep)
	if p == nil {
		return syscall.ENOENT
	}
	p.clearHalt()
	return nil
}

// Reset implements usb.Device.
func (d *Device) Reset(context.Context) error {
	d.config.Lock()
	defer d.config.Unlock()
	d.mu.Lock()
	c := d.active
	d.mu.Unlock()
	d.control.end(false)
	return d.configure(c)
}

// Pipe is the pipe of an endpoint in the present setting; where there is none, a closed one.
func (d *Device) Pipe(ep usb.Address) *Pipe {
	if p := d.pipe(ep); p != nil {
		return p
	}
	p := newPipe(d, usb.Endpoint{Address: ep})
	p.close()
	return p
}

// pipe is Pipe, but nil where there is none.
func (d *Device) pipe(ep usb.Address) *Pipe {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.pipes[ep]
}

// answer does a control request: standard ones here, others by the Spec.
func (d *Device) answer(ctx context.Context, s usb.Setup, data []byte) (int, error) {
	if s.RequestType&usb.TypeMask == usb.TypeStandard {
		if n, err, ok := d.standard(ctx, s, data); ok {
			return n, err
		}
	}
	if d.spec.Control == nil {
		return 0, syscall.EPIPE
	}
	return d.spec.Control(ctx, d, s, data)
}

// standard answers the requests that every device knows; ok is false for others.
func (d *Device) standard(ctx context.Context, s usb.Setup, data []byte) (n int, err error, ok bool) {
	d.mu.Lock()
	active, alt := d.active, d.alts[uint8(s.Index)]
	d.mu.Unlock()
	switch {
	case s.Request == usb.ReqGetDescriptor && s.RequestType == usb.DirIn:
		b := d.descriptor(uint8(s.Value>>8), uint8(s.Value))
		if b == nil {
			return 0, syscall.EPIPE, true
		}
		return copy(data, b), nil, true
	case s.Request == usb.ReqGetConfiguration && len(data) > 0:
		data[0] = 0
		if active != nil {
			data[0] = active.Value
		}
		return 1, nil, true
	case s.Request == usb.ReqSetConfiguration:
		return 0, stall(d.SetConfiguration(ctx, uint8(s.Value))), true
	case s.Request == usb.ReqGetInterface && len(data) > 0:
		if active == nil || active.Interface(uint8(s.Index)) == nil {
			return 0, syscall.EPIPE, true
		}
		data[0] = alt
		return 1, nil, true
	case s.Request == usb.ReqSetInterface:
		return 0, stall(d.SetInterface(ctx, uint8(s.Index), uint8(s.Value))), true
	case s.Request == usb.ReqGetStatus && len(data) >= 2:
		data[0], data[1] = 0, 0
		if s.RequestType&usb.RecipientMask == usb.ToEndpoint {
			if p := d.pipe(usb.Address(s.Index)); p != nil && p.halted() {
				data[0] = 1
			}
		}
		return 2, nil, true
	case s.RequestType == usb.ToEndpoint && s.Value == usb.FeatureEndpointHalt && s.Request == usb.ReqClearFeature:
		return 0, stall(d.ClearHalt(ctx, usb.Address(s.Index))), true
	case s.RequestType == usb.ToEndpoint && s.Value == usb.FeatureEndpointHalt && s.Request == usb.ReqSetFeature:
		if p := d.pipe(usb.Address(s.Index)); p != nil {
			p.Halt()
			return 0, nil, true
		}
		return 0, syscall.EPIPE, true
	}
	return 0, nil, false
}

// stall is how a device says no.
func stall(err error) error {
	if err != nil {
		return syscall.EPIPE
	}
	return nil
}

func (d *Device) descriptor(kind, index uint8) []byte {
	switch kind {
	case usb.DescDevice:
		return d.spec.Device
	case usb.DescConfiguration:
		if int(index) < len(d.spec.Configurations) {
			return d.spec.Configurations[index]
		}
	case usb.DescBOS:
		return d.spec.BOS
	case usb.DescString:
		if index == 0 && len(d.spec.Strings) > 0 {
			return []byte{4, usb.DescString, 0x09, 0x04}
		}
		if s, ok := d.spec.Strings[index]; ok {
			return encodeString(s)
		}
	}
	return nil
}

// encodeString is a string descriptor; what does not fit is cut off.
func encodeString(s string) []byte {
	u := utf16.Encode([]rune(s))
	u = u[:min(len(u), 126)]
	b := []byte{uint8(2 + 2*len(u)), usb.DescString}
	for _, c := range u {
		b = binary.LittleEndian.AppendUint16(b, c)
	}
	return b
}

// period is the time between two packets of an isochronous endpoint.
func (d *Device) period(e usb.Endpoint) time.Duration {
	frame := 125 * time.Microsecond
	if d.spec.Speed < usb.SpeedHigh {
		frame = time.Millisecond
	}
	return frame << (min(max(e.Interval, 1), 16) - 1)
}
