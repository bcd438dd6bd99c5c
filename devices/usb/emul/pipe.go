package emul

import (
	"context"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/lxbridge/lx/devices/usb"
)

// Pipe is the device's side of an endpoint. Of a bulk or interrupt one it pairs the
// host's transfers with the device's, packet by packet, as a bus does: a transfer
// ends when it is full, or with a packet that is not.
type Pipe struct {
	dev  *Device
	ep   usb.Endpoint
	quit chan struct{} // closed with the pipe

	mu     sync.Mutex // guards what follows
	host   []*transfer
	device []*transfer
	halt   chan struct{} // closed when the halt ends; nil: none
	closed bool
	next   time.Time // isochronous: when the next packet is due that has no URB yet
	paced  bool      // isochronous: pace runs
}

// transfer is a URB, or one Read or Write of the device.
type transfer struct {
	data   []byte
	actual int
	zero   bool // an empty packet is to follow, where the last one is full
	status syscall.Errno
	urb    *usb.URB
	due    time.Time     // isochronous: when the last packet has passed
	done   chan struct{} // of the device's
}

// finish tells who waits for t.
func (t *transfer) finish() {
	if t.urb == nil {
		close(t.done)
		return
	}
	t.urb.Actual, t.urb.Status = t.actual, t.status
	t.urb.Complete(t.urb)
}

func newPipe(d *Device, e usb.Endpoint) *Pipe {
	return &Pipe{dev: d, ep: e, quit: make(chan struct{})}
}

// Read takes one transfer of the host's, at most len(b) bytes: it returns when b is
// full or a short packet came. EPIPE: the pipe is halted; ESHUTDOWN: closed;
// EOVERFLOW: a packet did not fit.
func (p *Pipe) Read(ctx context.Context, b []byte) (int, error) {
	return p.do(ctx, &transfer{data: b, done: make(chan struct{})})
}

// Write sends b to the host as one transfer and returns when the host has it. Where
// zero is set, a last packet that is full is followed by an empty one.
func (p *Pipe) Write(ctx context.Context, b []byte, zero bool) (int, error) {
	return p.do(ctx, &transfer{data: b, zero: zero, done: make(chan struct{})})
}

func (p *Pipe) do(ctx context.Context, t *transfer) (int, error) {
	if status := p.add(&p.device, t); status != 0 {
		return 0, status
	}
	select {
	case <-t.done:
	case <-ctx.Done():
		if p.take(&p.device, func(o *transfer) bool { return o == t }) != nil {
			return t.actual, context.Cause(ctx)
		}
		<-t.done
	}
	if t.status != 0 {
		return t.actual, t.status
	}
	return t.actual, nil
}

// add queues t and moves what can be moved.
func (p *Pipe) add(queue *[]*transfer, t *transfer) syscall.Errno {
	p.mu.Lock()
	switch {
	case p.closed:
		p.mu.Unlock()
		return syscall.ESHUTDOWN
	case p.halt != nil:
		p.mu.Unlock()
		return syscall.EPIPE
	}
	*queue = append(*queue, t)
	done := p.pump()
	p.mu.Unlock()
	for _, t := range done {
		t.finish()
	}
	return 0
}

// take takes a transfer out of a queue; nil: it is not there any more.
func (p *Pipe) take(queue *[]*transfer, is func(*transfer) bool) *transfer {
	p.mu.Lock()
	defer p.mu.Unlock()
	i := slices.IndexFunc(*queue, is)
	if i < 0 {
		return nil
	}
	t := (*queue)[i]
	*queue = slices.Delete(*queue, i, i+1)
	return t
}

// pump answers the transfers that are done. p.mu is held.
func (p *Pipe) pump() (done []*transfer) {
	from, to := &p.host, &p.device
	if p.ep.Address.In() {
		from, to = to, from
	}
	for len(*from) > 0 && len(*to) > 0 {
		f, t := (*from)[0], (*to)[0]
		sent, received := move(f, t, max(1, p.ep.MaxPacket()))
		if sent {
			*from, done = (*from)[1:], append(done, f)
		}
		if received {
			*to, done = (*to)[1:], append(done, t)
		}
	}
	return done
}

// move sends packets of at most size bytes and says which side is done.
func move(from, to *transfer, size int) (sent, received bool) {
	left, room := len(from.data)-from.actual, len(to.data)-to.actual
	n := min(left, room)
	if n < left {
		n -= n % size // only the last packet is short
	}
	if n == 0 && left > 0 { // the next packet is larger than what is waited for
		to.status = syscall.EOVERFLOW
		return true, true
	}
	copy(to.data[to.actual:], from.data[from.actual:from.actual+n])
	from.actual += n
	to.actual += n
	switch {
	case n < left:
		return false, n == room
	case n%size != 0 || n == 0:
		if u := to.urb; u != nil && u.Flags&usb.ShortNotOK != 0 && n < room {
			to.status = syscall.EREMOTEIO
		}
		return true, true
	case from.zero:
		from.zero = false
		return false, n == room
	}
	return true, n == room
}

func (p *Pipe) submit(u *usb.URB) error {
	if u.Kind != p.ep.Kind {
		return syscall.EINVAL
	}
	t := &transfer{urb: u, data: u.Buffer, zero: u.Flags&usb.ZeroPacket != 0 && !u.In()}
	if u.Kind == usb.Isochronous {
		return p.schedule(t)
	}
	switch status := p.add(&p.host, t); status {
	case 0:
	case syscall.EPIPE:
		t.status = status
		t.finish()
	default:
		return syscall.ENODEV
	}
	return nil
}

func (p *Pipe) cancel(u *usb.URB) {
	if t := p.take(&p.host, func(t *transfer) bool { return t.urb == u }); t != nil {
		t.status = syscall.ECONNRESET
		t.finish()
	}
}

// Cleared waits until the pipe is not halted; ESHUTDOWN: closed.
func (p *Pipe) Cleared(ctx context.Context) error {
	p.mu.Lock()
	halt := p.halt
	p.mu.Unlock()
	if halt == nil {
		return nil
	}
	select {
	case <-halt:
		return nil
	case <-p.quit:
		return syscall.ESHUTDOWN
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Halt stalls the endpoint until the host clears that; the device's transfers end too.
func (p *Pipe) Halt() { p.end(syscall.EPIPE) }

func (p *Pipe) close() { p.end(syscall.ESHUTDOWN) }

func (p *Pipe) halted() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.halt != nil
}

func (p *Pipe) clearHalt() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.halt != nil {
		close(p.halt)
		p.halt = nil
	}
}

// end ends all that waits, and what will come.
func (p *Pipe) end(status syscall.Errno) {
	p.mu.Lock()
	if status == syscall.EPIPE {
		if p.halt == nil {
			p.halt = make(chan struct{})
		}
	} else if !p.closed {
		p.closed = true
		close(p.quit)
	}
	all := append(p.host, p.device...)
	p.host, p.device = nil, nil
	p.mu.Unlock()
	for _, t := range all {
		t.status = status
		t.finish()
	}
}

// schedule queues an isochronous URB: its packets are due one period after another.
func (p *Pipe) schedule(t *transfer) error {
	for _, k := range t.urb.Packets {
		if k.Offset < 0 || k.Length < 0 || k.Offset > len(t.data)-k.Length {
			return syscall.EINVAL
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return syscall.ENODEV
	}
	if now := time.Now(); p.next.Before(now) {
		p.next = now
	}
	p.next = p.next.Add(time.Duration(len(t.urb.Packets)) * p.dev.period(p.ep))
	t.due = p.next
	p.host = append(p.host, t)
	if !p.paced {
		p.paced = true
		p.dev.work.Go(p.pace)
	}
	return nil
}

// pace does isochronous URBs, each when its time has come, until there is none.
func (p *Pipe) pace() {
	for {
		p.mu.Lock()
		if len(p.host) == 0 {
			p.paced = false
			p.mu.Unlock()
			return
		}
		t := p.host[0]
		p.mu.Unlock()
		select {
		case <-time.After(time.Until(t.due)):
		case <-p.quit:
		}
		if p.take(&p.host, func(o *transfer) bool { return o == t }) == nil {
			continue
		}
		t.urb.ErrorCount = 0
		for i := range t.urb.Packets {
			k := &t.urb.Packets[i]
			k.Actual, k.Status = 0, 0
			if iso := p.dev.spec.ISO; iso != nil {
				k.Actual = min(max(iso(p.dev, p.ep.Address, t.data[k.Offset:k.Offset+k.Length]), 0), k.Length)
			}
			t.actual += k.Actual
		}
		t.finish()
	}
}
