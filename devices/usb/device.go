package usb

import (
	"context"
	"syscall"
)

// Flags change how a URB is done.
type Flags uint8

// The flags.
const (
	ShortNotOK Flags = 1 << iota // an IN transfer that ends early fails with EREMOTEIO
	ZeroPacket                   // an OUT transfer of whole packets is ended by an empty one
	ISOASAP                      // StartFrame is the back-end's to choose
)

// Packet is one packet of an isochronous URB.
type Packet struct {
	Offset, Length int // of Buffer
	Actual         int
	Status         syscall.Errno
}

// URB is one transfer. From Submit until Complete is called it, its Buffer and its
// Packets belong to the back-end; before and after, to the submitter, who may use
// it again.
type URB struct {
	Kind     Kind
	Endpoint Address // for Control 0, or the number of another control endpoint
	Flags    Flags
	Setup    Setup  // of Control: says the direction; Length is len(Buffer)
	Buffer   []byte // what is sent, or room for what is received
	Stream   uint16 // of bulk endpoints with streams; 0: none

	Packets    []Packet // of Isochronous, inside Buffer, ascending and apart
	StartFrame int
	Interval   int // of Interrupt and Isochronous: microframes or frames; 0: the descriptor's

	// Complete is called exactly once for a URB that was submitted, when the
	// result is set, on any goroutine. It must not wait; it may submit.
	Complete func(*URB)

	// The result. Status is 0; EPIPE (stalled), ECONNRESET (cancelled), ESHUTDOWN
	// (the device is gone, was reset or configured anew), EREMOTEIO, EOVERFLOW
	// (the device sent more than there was room for), EPROTO, EILSEQ, ETIME.
	Status     syscall.Errno
	Actual     int // bytes moved, also where Status is not 0
	ErrorCount int // of Packets with a Status

	// Held is for the back-end, while it has the URB.
	Held any
}

// In says whether the URB's data goes to the host.
func (u *URB) In() bool {
	if u.Kind == Control {
		return u.Setup.In()
	}
	return u.Endpoint.In()
}

// Device is a USB device as its host controller reaches it. All methods may be
// called concurrently. Errors are or wrap a syscall.Errno.
//
// A Device is one plugging-in: once gone it stays gone, and what comes back at its
// place is another Device.
type Device interface {
	Speed() Speed

	// Submit begins a transfer and does not wait for it. An error (ENODEV:
	// gone; ENOENT: no such endpoint; EINVAL) means that it was not begun:
	// Complete is not called. What only the other side knows is the URB's Status. URBs of one endpoint are done, and completed, in
	// the order of their submission, except that cancelled ones may be overtaken
	// and streams are independent. Standard control requests go to the device as
	// they are: who wants a configuration set uses the method.
	Submit(u *URB) error

	// Cancel asks that a submitted URB end, and does not wait: it completes with
	// ECONNRESET and what was moved so far, or as if not cancelled, within a
	// second even where the other side does not answer. A URB that is not
	// submitted is left alone.
	Cancel(u *URB)

	// SetConfiguration ends all URBs but those of endpoint 0 (ESHUTDOWN) and sets
	// the configuration of that value; 0 leaves the device unconfigured. EINVAL:
	// there is none.
	SetConfiguration(ctx context.Context, value uint8) error
	// SetInterface ends the URBs of the interface's endpoints and takes an
	// alternate setting. EINVAL: there is none.
	SetInterface(ctx context.Context, iface, alt uint8) error
	// ClearHalt ends an endpoint's halt and resets its data toggle.
	ClearHalt(ctx context.Context, ep Address) error
	// Reset ends all URBs (ESHUTDOWN) and resets the device, which keeps its
	// configuration, with the first alternate settings. ENODEV: it came back as
	// another, so this one is gone.
	Reset(ctx context.Context) error

	// Gone is closed when the device is: unplugged, its server lost, or closed. All
	// URBs complete with ESHUTDOWN, soon if not before.
	Gone() <-chan struct{}
	// Close lets the device go. All URBs have completed when it returns.
	Close() error
}

// Streamer is a Device whose bulk endpoints can have streams (USB 3).
type Streamer interface {
	// AllocStreams gives the endpoints up to n streams each, numbered from 1, and
	// answers how many.
	AllocStreams(ctx context.Context, eps []Address, n int) (int, error)
	FreeStreams(ctx context.Context, eps []Address) error
}

// Do submits u and waits until it is complete. When ctx ends first, u is cancelled
// and, unless it was done all the same, the cause returned. It uses u.Complete.
func Do(ctx context.Context, d Device, u *URB) error {
	done := make(chan struct{})
	u.Complete = func(*URB) { close(done) }
	if err := d.Submit(u); err != nil {
		return err
	}
	select {
	case <-done:
	case <-ctx.Done():
		d.Cancel(u)
		<-done
		if u.Status == syscall.ECONNRESET {
			return context.Cause(ctx)
		}
	}
	if u.Status != 0 {
		return u.Status
	}
	return nil
}

// ControlTransfer does one control transfer of len(data) bytes and answers how
// many were moved.
func ControlTransfer(ctx context.Context, d Device, requestType, request uint8, value, index uint16, data []byte) (int, error) {
	if len(data) > 0xffff {
		return 0, syscall.EINVAL
	}
	u := &URB{Kind: Control, Buffer: data, Setup: Setup{requestType, request, value, index, uint16(len(data))}}
	err := Do(ctx, d, u)
	return u.Actual, err
}
