package hub

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/lxbridge/lx/cmd/internal/api"
	"github.com/lxbridge/lx/cmd/internal/command"
	"github.com/lxbridge/lx/devices/usb"
	"github.com/lxbridge/lx/devices/usb/host"
	"github.com/lxbridge/lx/devices/usb/remote"
	"github.com/lxbridge/lx/devices/usb/secure"
	"github.com/lxbridge/lx/devices/usb/usbip"
)

// How soon, and how seldom, a device that has gone is looked for.
const (
	firstRetry = 100 * time.Millisecond
	maxRetry   = 2 * time.Second
)

// attachment is a place whose device is to be there: whenever it goes it is looked for.
type attachment struct {
	address string
	options usbip.Options
	dial    usbip.Dialer
	busID   string
	cancel  context.CancelFunc
	done    chan struct{} // closed when it has ended

	mu     sync.Mutex // guards what follows
	dev    *host.Device
	remote *usbip.Device // the same
	port   int
	times  int
	since  time.Time
	err    error
}

// parseAddress reads a device's address.
func parseAddress(text string) (remote.Address, error) {
	a, err := remote.Parse(text)
	if err == nil && a.BusID == "" {
		err = fmt.Errorf("the address %s names no device: expected /BUSID behind the host", a)
	}
	if err != nil {
		return a, command.WithHint(err, "lxdev list HOST  tells what is there")
	}
	return a, nil
}

// attach makes an attachment, whose device must be there.
func (h *hub) attach(ctx context.Context, o api.AttachOptions) (*attachment, error) {
	parsed, err := parseAddress(o.Address)
	if err != nil {
		return nil, err
	}
	dial, err := parsed.Dialer(h.keys)
	if err != nil {
		return nil, err
	}
	address := parsed.String()
	life, cancel := context.WithCancel(h.life)
	options := usbip.Options{EarlyBulkOut: o.EarlyOut, Stalled: func(ep usb.Address, d time.Duration) {
		h.log.Warn("the device takes nothing", "device", address, "endpoint", fmt.Sprintf("%#02x", uint8(ep)), "for", d)
	}}
	a := &attachment{address: address, options: options, dial: dial, busID: parsed.BusID, cancel: cancel, done: make(chan struct{})}
	h.mu.Lock()
	if h.life.Err() != nil {
		h.mu.Unlock()
		cancel()
		return nil, errors.New("cannot attach a device: the device hub ends; try again")
	}
	if slices.ContainsFunc(h.attachments, func(b *attachment) bool { return b.address == address }) {
		h.mu.Unlock()
		cancel()
		return nil, command.WithHint(fmt.Errorf("%s is attached already", address), "lxdev status")
	}
	h.attachments = append(h.attachments, a)
	if h.idle != nil {
		h.idle.Stop()
		h.idle = nil
	}
	h.mu.Unlock()
	if err := a.connect(ctx, h.host); err != nil {
		cancel()
		close(a.done)
		h.remove(a)
		return nil, err
	}
	h.log.Info("attached", "device", a.address)
	h.wg.Go(func() {
		defer close(a.done)
		a.keep(life, h)
	})
	return a, nil
}

// keys is what this user pairs with.
func (h *hub) keys() (*secure.Store, error) { return secure.OpenStore(h.dirs.Keys()) }

// connect brings the device, to the port that it had before if that is free.
func (a *attachment) connect(ctx context.Context, h *host.Host) error {
	dev, err := usbip.Attach(ctx, a.dial, a.busID, a.options)
	var d *host.Device
	if err == nil {
		d, err = h.Attach(ctx, dev, a.port)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.err = err
	if err != nil {
		return err
	}
	a.dev, a.remote, a.port, a.since = d, dev, d.Port, time.Now()
	a.times++
	return nil
}

// keep looks for the device whenever it has gone, until ctx ends.
func (a *attachment) keep(ctx context.Context, h *hub) {
	for {
		select {
		case <-a.dev.Gone():
			err := fmt.Errorf("the device has gone: %w", a.remote.Err())
			a.lose(err)
			h.log.Warn("gone", "device", a.address, "err", err)
		case <-ctx.Done():
			if err := a.dev.Detach(); err != nil {
				h.log.Warn("detach", "device", a.address, "err", err)
			}
			return
		}
		delay := firstRetry
		for {
			select {
			case <-time.After(delay):
			case <-ctx.Done():
				return
			}
			if a.connect(ctx, h.host) == nil {
				h.log.Info("back", "device", a.address)
				break
			}
			delay = min(2*delay, maxRetry)
		}
	}
}

func (a *attachment) lose(err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.err, a.since = err, time.Now()
}

// remove forgets an attachment that has ended.
func (h *hub) remove(a *attachment) {
	h.mu.Lock()
	h.attachments = slices.DeleteFunc(h.attachments, func(b *attachment) bool { return b == a })
	h.mu.Unlock()
	h.rest()
}

// detach ends the attachment of an address, or of the device of that name.
func (h *hub) detach(what string) error {
	address, err := parseAddress(what)
	h.mu.Lock()
	var found *attachment
	for _, a := range h.attachments {
		if err == nil && a.address == address.String() || a.tell().Name == what {
			found = a
		}
	}
	h.mu.Unlock()
	if found == nil {
		return command.WithHint(fmt.Errorf("nothing is attached as %s", what), "lxdev status")
	}
	found.cancel()
	<-found.done
	h.remove(found)
	h.log.Info("detached", "device", found.address)
	return nil
}

// tell is the attachment for clients.
func (a *attachment) tell() api.Device {
	a.mu.Lock()
	defer a.mu.Unlock()
	d := api.Device{Address: a.address, State: api.DeviceAway, Since: a.since, Times: a.times}
	if a.err != nil {
		d.Error = a.err.Error()
	}
	if a.err != nil || a.dev == nil {
		return d
	}
	desc := a.dev.Description
	d.State, d.Name, d.Bus, d.Number, d.Speed = api.DeviceAttached, a.dev.Name(), a.dev.Bus, a.dev.Number, a.dev.Speed().String()
	d.Vendor, d.Product = fmt.Sprintf("%04x", desc.Device.Vendor), fmt.Sprintf("%04x", desc.Device.Product)
	d.Manufacturer, d.ProductName, d.Serial = desc.Strings[desc.Device.IManufacturer], desc.Strings[desc.Device.IProduct], desc.Strings[desc.Device.ISerial]
	return d
}
