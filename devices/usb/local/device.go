// Package local reaches this machine's USB devices by usbfs, where its nodes may be
// opened (linux/usbdevice_fs.h).
package local

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/lxbridge/lx/devices/usb"
)

// Device is a node of usbfs that is open. The kernel's drivers have let go of it
// until Close.
type Device struct {
	file  *os.File
	speed usb.Speed
	was   uint8 // the configuration that it was found in
	stop  int   // eventfd that ends the reaper
	once  sync.Once
	gone  chan struct{}
	done  chan struct{} // the reaper has ended

	op       sync.Mutex   // held while the configuration changes
	settings usb.Settings // guarded by op

	mu      sync.Mutex            // guards what follows
	pending map[uintptr]*transfer // by the address that the kernel knows
	lost    bool
}

var _ usb.Device = (*Device)(nil)

// Open opens a node, such as /dev/bus/usb/001/004, in the configuration that it is
// in, and takes all its interfaces.
func Open(ctx context.Context, path string) (*Device, error) {
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	stop, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("cannot watch %s: %w", path, err)
	}
	d := &Device{file: os.NewFile(uintptr(fd), path), stop: stop, gone: make(chan struct{}), done: make(chan struct{}),
		pending: map[uintptr]*transfer{}}
	go d.reap()
	if err := d.begin(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("cannot open %s: %w", path, err), d.Close())
	}
	return d, nil
}

func (d *Device) begin(ctx context.Context) error {
	if n, err := d.ioctl(ioGetSpeed, nil); err == nil {
		d.speed = usb.Speed(n)
	}
	desc, err := usb.Describe(ctx, d)
	if err != nil {
		return err
	}
	d.settings.Configurations = desc.Configurations
	b := make([]byte, 1)
	if _, err := usb.ControlTransfer(ctx, d, usb.DirIn, usb.ReqGetConfiguration, 0, 0, b); err != nil {
		return fmt.Errorf("cannot ask for its configuration: %w", err)
	}
	d.was = b[0]
	d.settings.Configure(d.settings.Configuration(d.was))
	return d.claim()
}

// ioctl does one that does not wait for the device to do something else.
func (d *Device) ioctl(request uint, p unsafe.Pointer) (int, error) {
	for {
		n, _, errno := unix.Syscall(unix.SYS_IOCTL, d.file.Fd(), uintptr(request), uintptr(p))
		if errno == 0 {
			return int(n), nil
		}
		if errno != syscall.EINTR {
			return 0, errno
		}
	}
}

// claim takes the interfaces of the configuration, from drivers too.
func (d *Device) claim() error {
	if d.settings.Active == nil {
		return nil
	}
	for _, i := range d.settings.Active.Interfaces {
		c := disconnectClaim{iface: uint32(i.Number)}
		if _, err := d.ioctl(ioDisconnectClaim, unsafe.Pointer(&c)); err != nil {
			return fmt.Errorf("cannot take interface %d: %w", i.Number, err)
		}
	}
	return nil
}

// release gives the interfaces back, to nobody.
func (d *Device) release() {
	if d.settings.Active == nil {
		return
	}
	for _, i := range d.settings.Active.Interfaces {
		n := uint32(i.Number)
		_, _ = d.ioctl(ioRelease, unsafe.Pointer(&n)) // one that is not ours any more is let go
	}
}

// Speed implements usb.Device.
func (d *Device) Speed() usb.Speed { return d.speed }

// Configuration is the value of the one that the device is in; 0: none.
func (d *Device) Configuration() uint8 {
	d.op.Lock()
	defer d.op.Unlock()
	if d.settings.Active == nil {
		return 0
	}
	return d.settings.Active.Value
}

// Gone implements usb.Device.
func (d *Device) Gone() <-chan struct{} { return d.gone }

// Close implements usb.Device. The device is left as it was found, and the kernel's
// drivers have it again.
func (d *Device) Close() (err error) {
	d.once.Do(func() { err = d.close() })
	return err
}

func (d *Device) close() error {
	d.op.Lock()
	defer d.op.Unlock()
	d.vanish()
	d.end(func(*usb.URB) bool { return true })
	_, err := unix.Write(d.stop, []byte{1, 0, 0, 0, 0, 0, 0, 0})
	if err != nil {
		return fmt.Errorf("cannot end %s: %w", d.file.Name(), err)
	}
	<-d.done
	d.release()
	if d.was != 0 && d.settings.Active != d.settings.Configuration(d.was) {
		n := uint32(d.was)
		if _, err := d.ioctl(ioSetConfiguration, unsafe.Pointer(&n)); err == nil {
			d.settings.Configure(d.settings.Configuration(d.was))
		}
	}
	if d.settings.Active != nil {
		for _, i := range d.settings.Active.Interfaces {
			c := command{iface: int32(i.Number), code: ioConnect}
			_, _ = d.ioctl(ioCommand, unsafe.Pointer(&c)) // no driver may want it
		}
	}
	return errors.Join(d.file.Close(), unix.Close(d.stop))
}

// vanish says that the device is gone, once.
func (d *Device) vanish() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.lost {
		d.lost = true
		close(d.gone)
	}
}

// SetConfiguration implements usb.Device.
func (d *Device) SetConfiguration(_ context.Context, value uint8) error {
	d.op.Lock()
	defer d.op.Unlock()
	c := d.settings.Configuration(value)
	if c == nil && value != 0 {
		return syscall.EINVAL
	}
	d.end(func(u *usb.URB) bool { return u.Endpoint.Number() != 0 })
	d.release()
	n := uint32(value)
	if _, err := d.ioctl(ioSetConfiguration, unsafe.Pointer(&n)); err != nil {
		return errors.Join(err, d.claim())
	}
	d.settings.Configure(c)
	return d.claim()
}

// SetInterface implements usb.Device.
func (d *Device) SetInterface(_ context.Context, iface, alt uint8) error {
	d.op.Lock()
	defer d.op.Unlock()
	if d.settings.Alternate(iface, alt) == nil {
		return syscall.EINVAL
	}
	if now := d.settings.Current(iface); now != nil {
		d.end(func(u *usb.URB) bool { return u.Endpoint.Number() != 0 && now.Endpoint(u.Endpoint) != nil })
	}
	s := setInterface{uint32(iface), uint32(alt)}
	if _, err := d.ioctl(ioSetInterface, unsafe.Pointer(&s)); err != nil {
		return err
	}
	d.settings.Set(iface, alt)
	return nil
}

// ClearHalt implements usb.Device.
func (d *Device) ClearHalt(_ context.Context, ep usb.Address) error {
	n := uint32(ep)
	_, err := d.ioctl(ioClearHalt, unsafe.Pointer(&n))
	return err
}

// Reset implements usb.Device.
func (d *Device) Reset(context.Context) error {
	d.op.Lock()
	defer d.op.Unlock()
	d.end(func(*usb.URB) bool { return true })
	if _, err := d.ioctl(ioReset, nil); err != nil {
		if errors.Is(err, syscall.ENODEV) {
			d.vanish()
		}
		return err
	}
	if d.settings.Active == nil {
		return nil
	}
	for _, i := range d.settings.Active.Interfaces {
		if now := d.settings.Current(i.Number); now != nil && now.Alternate != 0 { // the kernel has set it again
			s := setInterface{uint32(i.Number), 0}
			if _, err := d.ioctl(ioSetInterface, unsafe.Pointer(&s)); err != nil {
				return err
			}
		}
	}
	d.settings.Configure(d.settings.Active)
	return nil
}
