package emul

import (
	"context"
	"errors"
	"slices"
	"sync"
	"syscall"

	"github.com/lxbridge/lx/devices/usb"
)

// controlQueue answers the URBs of endpoint 0 one after another.
type controlQueue struct {
	dev *Device

	mu     sync.Mutex // guards what follows
	wake   *sync.Cond
	queue  []*usb.URB
	now    *usb.URB           // being answered; nil when it was ended before
	cancel context.CancelFunc // of now
	closed bool
}

func newControlQueue(d *Device) *controlQueue {
	q := &controlQueue{dev: d}
	q.wake = sync.NewCond(&q.mu)
	return q
}

func (q *controlQueue) submit(u *usb.URB) error {
	if int(u.Setup.Length) != len(u.Buffer) {
		return syscall.EINVAL
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return syscall.ENODEV
	}
	u.Actual, u.Status = 0, 0
	q.queue = append(q.queue, u)
	q.wake.Signal()
	return nil
}

// run answers until close. What a Control function works on is the queue's own
// memory, so that a cancelled URB's buffer is free at once.
func (q *controlQueue) run() {
	for {
		q.mu.Lock()
		for len(q.queue) == 0 && !q.closed {
			q.wake.Wait()
		}
		if q.closed {
			q.mu.Unlock()
			return
		}
		u := q.queue[0]
		q.queue = q.queue[1:]
		ctx, cancel := context.WithCancel(context.Background())
		q.now, q.cancel = u, cancel
		data := make([]byte, len(u.Buffer))
		if !u.In() {
			copy(data, u.Buffer)
		}
		setup := u.Setup
		q.mu.Unlock()

		n, err := q.dev.answer(ctx, setup, data)
		cancel()

		q.mu.Lock()
		if q.now != u {
			q.mu.Unlock()
			continue
		}
		q.now = nil
		switch errno := syscall.Errno(0); {
		case errors.As(err, &errno):
			u.Status = errno
		case err != nil:
			u.Status = syscall.EPIPE
		case u.In():
			u.Actual = copy(u.Buffer, data[:min(max(n, 0), len(data))])
			if u.Actual < len(u.Buffer) && u.Flags&usb.ShortNotOK != 0 {
				u.Status = syscall.EREMOTEIO
			}
		default:
			u.Actual = len(data)
		}
		q.mu.Unlock()
		u.Complete(u)
	}
}

// cancelURB ends u, if it is not done yet; what answers it now goes on for nobody.
func (q *controlQueue) cancelURB(u *usb.URB) {
	q.mu.Lock()
	i := slices.Index(q.queue, u)
	switch {
	case q.now == u:
		q.now = nil
		q.cancel()
	case i >= 0:
		q.queue = slices.Delete(q.queue, i, i+1)
	default:
		q.mu.Unlock()
		return
	}
	q.mu.Unlock()
	u.Status = syscall.ECONNRESET
	u.Complete(u)
}

// end ends all URBs, and the queue where it closes.
func (q *controlQueue) end(closes bool) {
	q.mu.Lock()
	urbs := q.queue
	if q.now != nil {
		urbs = append([]*usb.URB{q.now}, urbs...)
		q.cancel()
	}
	q.queue, q.now = nil, nil
	q.closed = q.closed || closes
	q.wake.Signal()
	q.mu.Unlock()
	for _, u := range urbs {
		u.Status = syscall.ESHUTDOWN
		u.Complete(u)
	}
}
