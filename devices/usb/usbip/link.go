package usbip

import (
	"fmt"
	"net"
	"sync"
	"syscall"
	"time"

	"github.com/lxbridge/lx/devices/usb"
)

const (
	// cancelTime is how long a server may take to answer a cancellation before
	// the URB is completed without it.
	cancelTime = 500 * time.Millisecond
	// maxForgotten bounds the cancelled URBs that the server still owes answers for.
	maxForgotten = 4096
	// earlyWindow bounds the bytes that are completed and not answered for.
	earlyWindow = 4 << 20
	// readSize: smaller payloads are read together with their headers; larger
	// ones come straight from the socket into the URB's buffer.
	readSize = 32 << 10
	// keptScratch is the largest buffer that the writer keeps.
	keptScratch = 1 << 20
)

// link is one connection after an import: a writer, a reader, and the URBs
// between them.
type link struct {
	conn    socket
	device  uint32 // the server's id
	options *Options
	profile Profile
	speed   usb.Speed
	ended   func(error)   // called at the end, when all URBs are complete
	done    chan struct{} // closed after ended has returned

	mu        sync.Mutex
	wake      sync.Cond // of the writer: queue or err changed
	err       error     // why it ends; nil: it lives
	seq       uint32
	idle      bool              // the writer waits
	rest      []byte            // of a message that was begun, to be sent first
	queue     []*entry          // to be sent, in order
	pending   map[uint32]*entry // queued, or sent and not answered
	forgotten int               // of pending: cancelled and complete
	earlySize int
	free      []*entry
	endpoints [32]endpoint // by index
}

// endpoint is what the configuration in force has at an address.
type endpoint struct {
	usb.Endpoint
	exists  bool
	late    int           // sent URBs that complete by their answers though others complete early
	failure syscall.Errno // of a URB that had completed early; the next one tells
	stalled bool          // reported
}

func index(a usb.Address) int {
	if a.In() {
		return 16 + int(a.Number())
	}
	return int(a.Number())
}

// entry is a message that the server answers: a submission or a cancellation.
type entry struct {
	header Header
	urb    *usb.URB // nil: a cancellation; or complete, and the answer is dropped
	at     usb.Address
	begun  time.Time

	sent      bool
	receiving bool          // the reader is at the URB's buffer
	cause     syscall.Errno // why it is cancelled; 0: it is not
	abandoned bool          // cancelled, and cancelTime has passed
	early     int           // its share of earlySize
	late      bool          // counted in endpoint.late
}

func newLink(conn net.Conn, device uint32, d *Device) *link {
	l := &link{conn: newSocket(conn), device: device, options: &d.options, profile: d.profile, speed: d.Speed(), ended: d.ended,
		done: make(chan struct{}), pending: map[uint32]*entry{}}
	l.wake.L = &l.mu
	l.setEndpoints(nil)
	go l.run()
	return l
}

// setEndpoints takes over which endpoints there are, beside endpoint 0.
func (l *link) setEndpoints(list []usb.Endpoint) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range l.endpoints {
		l.endpoints[i] = endpoint{late: l.endpoints[i].late} // their answers come still
	}
	for _, e := range append(list, usb.Endpoint{Address: 0}, usb.Endpoint{Address: usb.DirIn}) {
		at := &l.endpoints[index(e.Address)]
		at.Endpoint, at.exists = e, true
	}
}

// run owns the goroutines.
func (l *link) run() {
	defer close(l.done)
	var group sync.WaitGroup
	read := make(chan struct{})
	group.Go(l.write)
	group.Go(func() { l.watch(read) })
	l.fail(l.read())
	close(read)
	group.Wait()

	// Nobody else has entries now.
	var done []*usb.URB
	l.mu.Lock()
	for seq, e := range l.pending {
		if e.urb != nil {
			done = append(done, l.detach(e, syscall.ESHUTDOWN, e.urb.Actual))
		}
		delete(l.pending, seq)
	}
	err := l.err
	l.mu.Unlock()
	complete(done)
	l.ended(err)
}

// fail ends the link and does not wait for it.
func (l *link) fail(err error) {
	l.mu.Lock()
	if l.err == nil {
		l.err = err
	}
	l.wake.Signal()
	l.mu.Unlock()
	l.conn.Close()
}

func complete(done []*usb.URB) {
	for _, u := range done {
		u.Complete(u)
	}
}

// detach takes the URB from its entry and sets the result. Its Complete is to
// be called when mu is not held.
func (l *link) detach(e *entry, status syscall.Errno, actual int) *usb.URB {
	u := e.urb
	e.urb = nil
	if e.late {
		e.late = false
		l.endpoints[index(e.at)].late--
	}
	if e.cause != 0 && (status == syscall.ENOENT || status == syscall.ECONNRESET) {
		status = e.cause
	}
	u.Held, u.Status, u.Actual = nil, status, actual
	return u
}

func (l *link) enqueue(h Header) *entry {
	if l.seq++; l.seq == 0 {
		l.seq = 1
	}
	var e *entry
	if n := len(l.free); n > 0 {
		e, l.free = l.free[n-1], l.free[:n-1]
	} else {
		e = &entry{}
	}
	h.Seq, h.Device = l.seq, l.device
	*e = entry{header: h, begun: time.Now()}
	l.pending[h.Seq] = e
	l.queue = append(l.queue, e)
	return e
}

// flush sees that what was queued is sent: by the writer, many messages at
// once, or, where the line is quiet and somebody waits, here.
func (l *link) flush() {
	if !l.idle || len(l.queue) != 1 || len(l.pending) > 2 || len(l.rest) > 0 || l.conn.raw == nil {
		l.wake.Signal()
		return
	}
	e := l.queue[0]
	if e.cause != 0 || e.header.Length > smallMessage || l.options.EarlyBulkOut {
		l.wake.Signal()
		return
	}
	message := appendSubmission(l.rest[:0], e)
	n := l.conn.tryWrite(message)
	if n == 0 {
		l.wake.Signal()
		return
	}
	e.sent = true
	l.queue = l.queue[:0]
	l.rest = message[:copy(message, message[n:])]
	if len(l.rest) > 0 {
		l.wake.Signal()
	}
}

// drop ends an entry; nobody refers to it but, by its Seq, timers.
func (l *link) drop(e *entry) {
	delete(l.pending, e.header.Seq)
	e.header.Seq = 0
	if len(l.free) < 256 {
		l.free = append(l.free, e)
	}
}

// submit queues u, whose form is checked.
func (l *link) submit(u *usb.URB) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if u.Flags&usb.ZeroPacket != 0 && !u.In() && !l.profile.ZeroPackets {
		at := &l.endpoints[index(u.Endpoint)]
		if size := at.MaxPacket(); u.Kind == usb.Bulk && len(u.Buffer) > 0 && size > 0 && len(u.Buffer)%size == 0 {
			return l.submitWithZero(u)
		}
	}
	err := l.enqueueURB(u)
	l.flush()
	return err
}

func (l *link) enqueueURB(u *usb.URB) error {
	h := Header{Command: CmdSubmit, In: u.In(), Length: uint32(len(u.Buffer))}
	address := u.Endpoint
	if u.Kind == usb.Control {
		h.Setup = u.Setup.Bytes()
		address = usb.Address(u.Endpoint.Number())
		if h.In {
			address |= usb.DirIn
		}
	}
	h.Endpoint = address.Number()
	if h.In {
		h.Flags |= FlagDirIn
		if u.Flags&usb.ShortNotOK != 0 {
			h.Flags |= FlagShortNotOK
		}
	} else if u.Flags&usb.ZeroPacket != 0 && l.profile.ZeroPackets {
		h.Flags |= FlagZeroPacket
	}
	if u.Kind == usb.Isochronous {
		// Packets travel without gaps: usbipd-win wants it, Linux takes it.
		h.Length = 0
		for _, p := range u.Packets {
			h.Length += uint32(p.Length)
		}
		h.Packets, h.StartFrame = uint32(len(u.Packets)), uint32(u.StartFrame)
		if u.Flags&usb.ISOASAP != 0 {
			h.Flags |= FlagISOASAP
		}
	}
	if l.err != nil {
		return syscall.ENODEV
	}
	at := &l.endpoints[index(address)]
	if !at.exists {
		return syscall.ENOENT
	}
	h.Interval = uint32(u.Interval)
	if h.Interval == 0 {
		h.Interval = at.interval(l.speed)
	}
	u.Status, u.Actual, u.ErrorCount = 0, 0, 0
	e := l.enqueue(h)
	e.urb, e.at = u, address
	u.Held = e
	if at.failure != 0 {
		e.cause, at.failure = at.failure, 0
	}
	return nil
}

// withZero is a URB whose data is followed by an empty transfer.
type withZero struct {
	data, zero usb.URB
	left       int // of both, not complete
}

// submitWithZero queues u's data and an empty transfer behind it; both are u.
func (l *link) submitWithZero(u *usb.URB) error {
	w := &withZero{left: 2}
	done := func(*usb.URB) {
		l.mu.Lock()
		if w.left--; w.left > 0 {
			l.mu.Unlock()
			return
		}
		u.Held, u.Actual, u.Status = nil, w.data.Actual, w.data.Status
		if u.Status == 0 {
			u.Status = w.zero.Status
		}
		l.mu.Unlock()
		u.Complete(u)
	}
	w.data = usb.URB{Kind: u.Kind, Endpoint: u.Endpoint, Buffer: u.Buffer, Complete: done}
	w.zero = usb.URB{Kind: u.Kind, Endpoint: u.Endpoint, Complete: done}
	if err := l.enqueueURB(&w.data); err != nil {
		return err
	}
	u.Held = w
	err := l.enqueueURB(&w.zero) // as the first one
	l.flush()
	return err
}

// interval is what usb_submit_urb computes (USB 2.0, 9.6.6): microframes, or
// frames at low and full speed.
func (e *endpoint) interval(s usb.Speed) uint32 {
	switch {
	case e.Kind != usb.Interrupt && e.Kind != usb.Isochronous:
		return 0
	case e.Kind == usb.Interrupt && s <= usb.SpeedFull:
		return uint32(max(e.Interval, 1))
	}
	return 1 << (min(max(e.Interval, 1), 16) - 1)
}

// cancelURB cancels u if it is here.
func (l *link) cancelURB(u *usb.URB) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch h := u.Held.(type) {
	case *entry:
		if h.urb == u {
			l.cancel(h, syscall.ECONNRESET)
		}
	case *withZero:
		for _, part := range []*usb.URB{&h.data, &h.zero} {
			if e, _ := part.Held.(*entry); e != nil {
				l.cancel(e, syscall.ECONNRESET)
			}
		}
	}
}

// cancelAll ends URBs of the endpoints that match, with ESHUTDOWN.
func (l *link) cancelAll(match func(usb.Address) bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var victims []*entry
	for _, e := range l.pending {
		if e.urb != nil && match(e.at) {
			victims = append(victims, e)
		}
	}
	for _, e := range victims {
		l.cancel(e, syscall.ESHUTDOWN)
	}
}

// cancel asks the server to end a submission. What has not been sent the
// writer completes.
func (l *link) cancel(e *entry, cause syscall.Errno) {
	if e.cause != 0 || l.err != nil {
		return
	}
	e.cause = cause
	if e.sent {
		l.enqueue(Header{Command: CmdUnlink, In: e.header.In, Endpoint: e.header.Endpoint, Victim: e.header.Seq})
	}
	l.wake.Signal()
	wait := cancelTime
	if !l.profile.CancelsOne {
		wait = 0
	}
	seq := e.header.Seq
	time.AfterFunc(wait, func() { l.abandon(e, seq) })
}

// abandon completes a cancelled URB without the server. A reader that is at
// its buffer is interrupted, and lets it go.
func (l *link) abandon(e *entry, seq uint32) {
	l.mu.Lock()
	if e.header.Seq != seq || e.urb == nil || l.err != nil {
		l.mu.Unlock()
		return
	}
	if e.receiving {
		e.abandoned = true
		_ = l.conn.SetReadDeadline(time.Now()) // fails when closed: then the URB ends anyway
		l.mu.Unlock()
		return
	}
	u := l.forget(e, 0)
	l.mu.Unlock()
	u.Complete(u)
}

// forget completes a URB whose answer may still come.
func (l *link) forget(e *entry, actual int) *usb.URB {
	l.forgotten++
	if l.forgotten > maxForgotten && l.err == nil {
		l.err = fmt.Errorf("%w: it answers for none of %d cancelled transfers", errProtocol, maxForgotten)
		_ = l.conn.SetReadDeadline(time.Now()) // for the reader to see it
	}
	return l.detach(e, e.cause, actual)
}

// write sends what is queued, many at once, until the link ends.
func (l *link) write() {
	var batch []*entry
	var scratch []byte
	var done []*usb.URB
	for {
		l.mu.Lock()
		l.idle = true
		for len(l.queue) == 0 && len(l.rest) == 0 && l.err == nil {
			l.wake.Wait()
		}
		l.idle = false
		if l.err != nil {
			l.mu.Unlock()
			return
		}
		batch, l.queue = l.queue, batch[:0]
		scratch, done = append(scratch[:0], l.rest...), done[:0]
		l.rest = l.rest[:0]
		sent := 0
		for _, e := range batch {
			if len(scratch) >= keptScratch {
				break
			}
			sent++
			switch {
			case e.header.Command == CmdUnlink:
			case e.urb == nil: // abandoned
				l.forgotten--
				l.drop(e)
				continue
			case e.cause != 0:
				done = append(done, l.detach(e, e.cause, 0))
				l.drop(e)
				continue
			}
			e.sent = true
			scratch = appendSubmission(scratch, e)
			if u := l.endEarly(e); u != nil {
				done = append(done, u)
			}
		}
		if sent < len(batch) {
			l.queue = append(l.queue, batch[sent:]...)
		}
		clear(batch)
		l.mu.Unlock()
		complete(done)
		clear(done)
		if len(scratch) > 0 {
			if _, err := l.conn.Write(scratch); err != nil {
				l.fail(fmt.Errorf("cannot send to the server: %w", err))
				return
			}
		}
		if cap(scratch) > 2*keptScratch {
			scratch = nil
		}
	}
}

func appendSubmission(b []byte, e *entry) []byte {
	var h [HeaderSize]byte
	e.header.Put(&h)
	b = append(b, h[:]...)
	u := e.urb
	switch {
	case u == nil || u.Kind != usb.Isochronous:
		if u != nil && !e.header.In {
			b = append(b, u.Buffer...)
		}
		return b
	case !e.header.In:
		for _, p := range u.Packets {
			b = append(b, u.Buffer[p.Offset:p.Offset+p.Length]...)
		}
	}
	var offset uint32
	for _, p := range u.Packets {
		var d [IsoPacketSize]byte
		(&IsoPacket{Offset: offset, Length: uint32(p.Length)}).Put(d[:])
		b = append(b, d[:]...)
		offset += uint32(p.Length)
	}
	return b
}

// endEarly answers e's URB where it may complete now that its data is on its
// way: order is kept, and the window bounds what may fail afterwards.
func (l *link) endEarly(e *entry) *usb.URB {
	if !l.options.EarlyBulkOut || e.urb == nil || e.header.In || e.urb.Kind != usb.Bulk {
		return nil
	}
	at := &l.endpoints[index(e.at)]
	size := len(e.urb.Buffer) + HeaderSize
	if at.late > 0 || l.earlySize+size > earlyWindow {
		e.late = true
		at.late++
		return nil
	}
	e.early = size
	l.earlySize += size
	return l.detach(e, 0, len(e.urb.Buffer))
}

// watch reports endpoints whose OUT or control transfers are not answered, once
// until one is.
func (l *link) watch(end <-chan struct{}) {
	if l.options.Stalled == nil {
		return
	}
	tick := time.NewTicker(stallTime / 4)
	defer tick.Stop()
	for {
		select {
		case <-end:
			return
		case now := <-tick.C:
			for _, a := range l.stalls(now) {
				l.options.Stalled(a, stallTime)
			}
		}
	}
}

func (l *link) stalls(now time.Time) (stalled []usb.Address) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, e := range l.pending {
		at := &l.endpoints[index(e.at)]
		if e.urb != nil && (!e.header.In || e.urb.Kind == usb.Control) && !at.stalled && now.Sub(e.begun) >= stallTime {
			at.stalled = true
			stalled = append(stalled, e.at)
		}
	}
	return stalled
}
