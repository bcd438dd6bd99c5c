package usbip

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/lxbridge/lx/devices/usb"
)

const (
	// answerTime is how long a server may take to import a device, and a device
	// to do a standard request.
	answerTime = 10 * time.Second
	// stallTime is after how long without an answer an endpoint is reported.
	stallTime = 5 * time.Second
)

// Dialer connects to a server. It is called again when a reset needs the
// device to be imported anew.
type Dialer func(ctx context.Context) (net.Conn, error)

// TCP dials a server of plain USB/IP.
func TCP(address string) Dialer {
	return func(ctx context.Context) (net.Conn, error) {
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
		if err != nil {
			return nil, err
		}
		if err := watchPeer(conn); err != nil {
			conn.Close()
			return nil, fmt.Errorf("cannot watch over the connection: %w", err)
		}
		return conn, nil
	}
}

// Options of an attachment. The zero value is right.
type Options struct {
	// Profile is the server's; nil: by the path that it tells.
	Profile *Profile
	// EarlyBulkOut completes bulk OUT transfers as soon as the connection has
	// taken them, so that distance does not bound a program that sends one at a time.
	// One that fails afterwards is told by the endpoint's next transfer.
	EarlyBulkOut bool
	// Stalled is told an endpoint that takes nothing for stallTime, once until
	// it does; nil: nobody.
	Stalled func(usb.Address, time.Duration)
}

// Device is a server's device, imported.
type Device struct {
	dial    Dialer
	busID   string
	options Options
	info    DeviceInfo
	profile Profile
	link    atomic.Pointer[link]

	life   context.Context // ends with Close
	cancel context.CancelFunc
	gone   chan struct{}

	desc     *usb.Description
	op       sync.Mutex   // held while the configuration changes
	settings usb.Settings // guarded by op

	mu        sync.Mutex // guards what follows
	resetting bool       // the link's end is not the device's
	err       error      // why it is gone
}

var _ usb.Device = (*Device)(nil)

// List asks a server for its devices.
func List(ctx context.Context, dial Dialer) ([]DeviceInfo, error) {
	var list []DeviceInfo
	conn, err := converse(ctx, dial, func(c net.Conn) (err error) {
		list, err = RequestList(c)
		return err
	})
	if err == nil {
		conn.Close()
	}
	return list, err
}

// converse dials and talks as long as ctx and answerTime allow.
func converse(ctx context.Context, dial Dialer, talk func(net.Conn) error) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	conn, err := dial(ctx)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	err = talk(conn)
	if !stop() && err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		conn.Close()
		if ctx.Err() != nil {
			err = fmt.Errorf("the server does not answer: %w", context.Cause(ctx))
		}
		return nil, err
	}
	return conn, nil
}

// Attach imports a device, configured: as it was, or, where it was not, in its
// first configuration.
func Attach(ctx context.Context, dial Dialer, busID string, o Options) (*Device, error) {
	d := &Device{dial: dial, busID: busID, options: o, gone: make(chan struct{})}
	d.life, d.cancel = context.WithCancel(context.Background())
	if err := d.attach(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("cannot attach %s: %w", busID, err), d.Close())
	}
	return d, nil
}

func (d *Device) attach(ctx context.Context) error {
	if err := d.connect(ctx); err != nil {
		return err
	}
	var err error
	if d.desc, err = usb.Describe(ctx, d); err != nil {
		return err
	}
	d.settings.Configurations = d.desc.Configurations
	value := d.info.Configuration
	if d.settings.Configuration(value) == nil {
		if len(d.desc.Configurations) == 0 {
			return nil
		}
		value = d.desc.Configurations[0].Value
	}
	// Also where it is set: usbipd-win has no endpoints before.
	if err := d.SetConfiguration(ctx, value); err != nil {
		return fmt.Errorf("cannot set configuration %d: %w", value, err)
	}
	return nil
}

// connect imports the device over a new connection.
func (d *Device) connect(ctx context.Context) error {
	var info DeviceInfo
	conn, err := converse(ctx, d.dial, func(c net.Conn) (err error) {
		info, err = RequestImport(c, d.busID)
		return err
	})
	if err != nil {
		return err
	}
	d.info, d.profile = info, profileOf(info.Path)
	if d.options.Profile != nil {
		d.profile = *d.options.Profile
	}
	l := newLink(conn, info.deviceID(), d)
	d.link.Store(l)
	return nil
}

// ended is called when a link has ended, and its URBs are complete.
func (d *Device) ended(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.resetting {
		d.vanish(err)
	}
}

// vanish ends the device; mu is held.
func (d *Device) vanish(err error) {
	if d.err == nil {
		d.err = err
		close(d.gone)
	}
}

// Info is what the server told of the device.
func (d *Device) Info() DeviceInfo { return d.info }

// Profile is how the server is treated.
func (d *Device) Profile() Profile { return d.profile }

// Description is what the device says of itself.
func (d *Device) Description() *usb.Description { return d.desc }

// Err is why the device is gone; nil: it is not.
func (d *Device) Err() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.err
}

// Speed implements usb.Device.
func (d *Device) Speed() usb.Speed { return usb.Speed(min(d.info.Speed, uint32(usb.SpeedSuperPlus))) }

// Gone implements usb.Device.
func (d *Device) Gone() <-chan struct{} { return d.gone }

// Close implements usb.Device.
func (d *Device) Close() error {
	d.cancel()
	d.op.Lock()
	defer d.op.Unlock()
	if l := d.link.Load(); l != nil {
		l.fail(net.ErrClosed)
		<-l.done
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.vanish(net.ErrClosed)
	return nil
}

// Submit implements usb.Device.
func (d *Device) Submit(u *usb.URB) error {
	if err := check(u); err != nil {
		return err
	}
	return d.link.Load().submit(u)
}

// check finds what is wrong with a URB's form.
func check(u *usb.URB) error {
	switch {
	case len(u.Buffer) > MaxTransfer, u.Stream != 0,
		u.Kind == usb.Control && int(u.Setup.Length) != len(u.Buffer),
		(u.Kind == usb.Isochronous) != (len(u.Packets) > 0),
		len(u.Packets) > MaxIsoPackets:
		return syscall.EINVAL
	}
	end := 0
	for _, p := range u.Packets {
		if p.Offset < end || p.Length < 0 || p.Length > len(u.Buffer) || p.Offset > len(u.Buffer)-p.Length {
			return syscall.EINVAL
		}
		end = p.Offset + p.Length
	}
	return nil
}

// Cancel implements usb.Device.
func (d *Device) Cancel(u *usb.URB) { d.link.Load().cancelURB(u) }

// SetConfiguration implements usb.Device.
func (d *Device) SetConfiguration(ctx context.Context, value uint8) error {
	d.op.Lock()
	defer d.op.Unlock()
	c := d.settings.Configuration(value)
	if c == nil && value != 0 {
		return syscall.EINVAL
	}
	l := d.link.Load()
	l.cancelAll(func(a usb.Address) bool { return a.Number() != 0 })
	if err := d.request(ctx, usb.ToDevice, usb.ReqSetConfiguration, uint16(value), 0); err != nil {
		return err
	}
	d.settings.Configure(c)
	l.setEndpoints(d.settings.Endpoints())
	return nil
}

// request does a control request without data.
func (d *Device) request(ctx context.Context, requestType, request uint8, value, index uint16) error {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	_, err := usb.ControlTransfer(ctx, d, requestType, request, value, index, nil)
	return err
}

// SetInterface implements usb.Device.
func (d *Device) SetInterface(ctx context.Context, iface, alt uint8) error {
	d.op.Lock()
	defer d.op.Unlock()
	return d.setInterface(ctx, iface, alt)
}

func (d *Device) setInterface(ctx context.Context, iface, alt uint8) error {
	if d.settings.Alternate(iface, alt) == nil {
		return syscall.EINVAL
	}
	l := d.link.Load()
	if now := d.settings.Current(iface); now != nil {
		l.cancelAll(func(a usb.Address) bool { return now.Endpoint(a) != nil })
	}
	if err := d.request(ctx, usb.ToInterface, usb.ReqSetInterface, uint16(alt), uint16(iface)); err != nil {
		// A device of one setting may refuse to be asked for it (USB 2.0, 9.4.10).
		if len(d.settings.Active.Interface(iface).Alternates) > 1 || !errors.Is(err, syscall.EPIPE) {
			return err
		}
	}
	d.settings.Set(iface, alt)
	l.setEndpoints(d.settings.Endpoints())
	return nil
}

// ClearHalt implements usb.Device.
func (d *Device) ClearHalt(ctx context.Context, ep usb.Address) error {
	return d.request(ctx, usb.ToEndpoint, usb.ReqClearFeature, usb.FeatureEndpointHalt, uint16(ep))
}

// A hub's request that servers take as a reset of the device (USB 2.0, 11.24.2).
const (
	toPort           = usb.TypeClass | usb.ToOther
	featurePortReset = 4
)

// Reset implements usb.Device.
func (d *Device) Reset(ctx context.Context) error {
	d.op.Lock()
	defer d.op.Unlock()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(d.life, func() { cancel(); d.link.Load().fail(net.ErrClosed) })()
	var err error
	if d.profile.PortReset {
		err = d.resetPort(ctx)
	} else {
		err = d.importAgain(ctx)
	}
	if err != nil {
		d.mu.Lock()
		d.vanish(fmt.Errorf("cannot reset the device: %w", err))
		d.mu.Unlock()
		d.link.Load().fail(err)
		return fmt.Errorf("cannot reset the device: %w: %w", syscall.ENODEV, err)
	}
	return nil
}

func (d *Device) resetPort(ctx context.Context) error {
	l := d.link.Load()
	l.cancelAll(func(usb.Address) bool { return true })
	// Linux sends the request on to the device after the reset, which stalls it.
	if err := d.request(ctx, toPort, usb.ReqSetFeature, featurePortReset, 0); err != nil && !errors.Is(err, syscall.EPIPE) {
		return err
	}
	if err := d.same(ctx); err != nil || d.settings.Active == nil {
		return err
	}
	for _, i := range d.settings.Active.Interfaces {
		if a := d.settings.Current(i.Number); a != nil && a.Alternate != 0 {
			if err := d.setInterface(ctx, i.Number, 0); err != nil {
				return err
			}
		}
	}
	return nil
}

// importAgain ends the connection and begins another: what the server does
// in between is the reset.
func (d *Device) importAgain(ctx context.Context) error {
	d.mu.Lock()
	if d.err != nil {
		d.mu.Unlock()
		return d.err
	}
	d.resetting = true
	d.mu.Unlock()
	l := d.link.Load()
	l.fail(errors.New("the device is reset"))
	<-l.done
	err := d.connectWhenFree(ctx)
	d.mu.Lock()
	d.resetting = false
	d.mu.Unlock()
	if err != nil {
		return err
	}
	if err := d.same(ctx); err != nil || d.settings.Active == nil {
		return err
	}
	if err := d.request(ctx, usb.ToDevice, usb.ReqSetConfiguration, uint16(d.settings.Active.Value), 0); err != nil {
		return err
	}
	d.settings.Configure(d.settings.Active)
	d.link.Load().setEndpoints(d.settings.Endpoints())
	return nil
}

// connectWhenFree waits until the server has noticed that the device was let go.
func (d *Device) connectWhenFree(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	for {
		err := d.connect(ctx)
		if !errors.Is(err, StatusBusy) {
			return err
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			return err
		}
	}
}

// same makes sure that the device is the one it was.
func (d *Device) same(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	b := make([]byte, len(d.desc.Device.Raw))
	n, err := usb.ControlTransfer(ctx, d, usb.DirIn, usb.ReqGetDescriptor, usb.DescDevice<<8, 0, b)
	if err != nil {
		return err
	}
	if !bytes.Equal(b[:n], d.desc.Device.Raw) {
		return errors.New("it came back as another device")
	}
	return nil
}
