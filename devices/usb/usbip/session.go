package usbip

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"syscall"
	"time"

	"github.com/lxbridge/lx/devices/usb"
)

const (
	// maxBuffered bounds the memory of one client's transfers.
	maxBuffered = 64 << 20
	// maxOutstanding bounds their number.
	maxOutstanding = 16384
	// goneTime is how long a client may take to take the last answers of a
	// device that is gone.
	goneTime = time.Second
	// packetCost is what an isochronous packet takes beside its bytes.
	packetCost = 64
	// keptBuffer is the largest buffer that is kept for the next transfer.
	keptBuffer = 512 << 10
)

// session is a device in a client's hands. Its reader alone changes the settings.
type session struct {
	conn socket
	dev  usb.Device
	id   uint32

	settings usb.Settings
	exists   [32]bool     // by index
	kinds    [32]usb.Kind // of what exists

	mu       sync.Mutex         // guards what follows
	wake     sync.Cond          // done or pending have changed, or ended
	pending  map[uint32]*answer // by Seq: in the device's hands
	done     []*answer          // to be sent
	idle     bool               // the writer waits
	rest     []byte             // of an answer that was begun, to be sent first
	pieces   net.Buffers        // scratch of send
	buffered int                // what both cost
	ended    bool               // the client is gone: nothing is sent any more
	gone     bool               // the device is: what it has done is sent still
	free     []*answer
}

// answer is what the client is told: of a submission, until then in the device's
// hands, or of a cancellation alone.
type answer struct {
	header  Header
	urb     usb.URB
	in      bool
	unlink  uint32 // Seq of the cancellation to answer as well; 0: none
	wire    [2 * HeaderSize]byte
	packets []byte // isochronous descriptors of the reply
	cost    int    // its share of buffered
}

// export serves the device until the client or the device leaves; it tells which.
func export(ctx context.Context, conn net.Conn, r *bufio.Reader, info DeviceInfo, dev usb.Device) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s := &session{conn: newSocket(conn), dev: dev, id: info.deviceID(), pending: map[uint32]*answer{}}
	s.wake.L = &s.mu
	desc, err := usb.Describe(ctx, dev)
	if err != nil {
		return err
	}
	s.settings.Configurations = desc.Configurations
	s.settings.Configure(s.settings.Configuration(info.Configuration))
	s.setEndpoints()

	var group sync.WaitGroup
	group.Go(s.write)
	group.Go(func() {
		select {
		case <-dev.Gone():
			s.mu.Lock()
			s.gone = true
			s.wake.Broadcast()
			s.mu.Unlock()
			_ = conn.SetWriteDeadline(time.Now().Add(goneTime)) // fails on a closed one
		case <-ctx.Done():
		}
	})
	err = s.read(ctx, r)
	conn.Close()
	s.drain()
	cancel()
	group.Wait()
	switch {
	case s.gone:
		return errors.New("the device is gone")
	case errors.Is(err, io.EOF), errors.Is(err, net.ErrClosed):
		return errors.New("the client closed the connection")
	}
	return err
}

// drain takes back what the device has.
func (s *session) drain() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = true
	s.wake.Broadcast()
	var victims []*answer
	for _, a := range s.pending {
		victims = append(victims, a)
	}
	s.mu.Unlock()
	for _, a := range victims {
		s.dev.Cancel(&a.urb)
	}
	s.mu.Lock()
	for len(s.pending) > 0 {
		s.wake.Wait()
	}
}

func (s *session) setEndpoints() {
	s.exists = [32]bool{}
	s.exists[index(0)], s.exists[index(usb.DirIn)] = true, true
	for _, e := range s.settings.Endpoints() {
		s.exists[index(e.Address)], s.kinds[index(e.Address)] = true, e.Kind
	}
}

// read takes the client's messages until it breaks off.
func (s *session) read(ctx context.Context, r *bufio.Reader) error {
	var b [HeaderSize]byte
	var h Header
	for {
		if _, err := io.ReadFull(r, b[:]); err != nil {
			return err
		}
		err := h.Parse(&b)
		switch {
		case err != nil:
		case h.Device != s.id:
			err = fmt.Errorf("%w: it means device %#x, this is %#x", errProtocol, h.Device, s.id)
		case h.Command == CmdSubmit:
			err = s.submit(ctx, &h, r)
		case h.Command == CmdUnlink:
			err = s.unlink(&h)
		default:
			err = fmt.Errorf("%w: it sends command %d", errProtocol, h.Command)
		}
		if err != nil {
			return err
		}
	}
}

// admit makes an answer with a buffer of size bytes and room for packets, unless the
// client has too much outstanding.
func (s *session) admit(seq uint32, size, packets int) (*answer, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.gone {
		return nil, syscall.ENODEV
	}
	cost := size + packets*packetCost
	if s.buffered+cost > maxBuffered || len(s.pending)+len(s.done) >= maxOutstanding {
		return nil, fmt.Errorf("%w: it has over %d MiB or %d transfers outstanding", errProtocol, maxBuffered>>20, maxOutstanding)
	}
	if s.pending[seq] != nil {
		return nil, fmt.Errorf("%w: it uses number %d for two transfers", errProtocol, seq)
	}
	var a *answer
	if n := len(s.free); n > 0 {
		a, s.free = s.free[n-1], s.free[:n-1]
	} else {
		a = &answer{}
		a.urb.Complete = func(*usb.URB) { s.complete(a) }
	}
	if cap(a.urb.Buffer) < size {
		a.urb.Buffer = make([]byte, size)
	}
	s.buffered += cost
	a.urb = usb.URB{Buffer: a.urb.Buffer[:size], Packets: a.urb.Packets[:0], Complete: a.urb.Complete}
	a.unlink, a.cost = 0, cost
	return a, nil
}

// submit reads the rest of a submission and hands it to the device.
func (s *session) submit(ctx context.Context, h *Header, r *bufio.Reader) error {
	a, err := s.admit(h.Seq, int(h.Length), int(h.Packets))
	if err != nil {
		return err
	}
	a.header = Header{Command: RetSubmit, Seq: h.Seq, StartFrame: h.StartFrame, Packets: h.Packets}
	a.in = h.In
	u := &a.urb
	if !h.In {
		if _, err := io.ReadFull(r, u.Buffer); err != nil {
			return err
		}
	}
	for i := range h.Packets {
		var b [IsoPacketSize]byte
		var p IsoPacket
		if _, err := io.ReadFull(r, b[:]); err != nil {
			return err
		}
		if err := p.Parse(b[:], h.Length); err != nil {
			return err
		}
		if n := len(u.Packets); i > 0 && int(p.Offset) < u.Packets[n-1].Offset+u.Packets[n-1].Length {
			return fmt.Errorf("%w: isochronous packets overlap", errProtocol)
		}
		u.Packets = append(u.Packets, usb.Packet{Offset: int(p.Offset), Length: int(p.Length)})
	}
	address := usb.Address(h.Endpoint)
	if h.In {
		address |= usb.DirIn
		if h.Flags&FlagShortNotOK != 0 {
			u.Flags |= usb.ShortNotOK
		}
	} else if h.Flags&FlagZeroPacket != 0 {
		u.Flags |= usb.ZeroPacket
	}
	if h.Flags&FlagISOASAP != 0 {
		u.Flags |= usb.ISOASAP
	}
	u.Endpoint, u.Interval, u.StartFrame = address, int(min(h.Interval, 1<<16)), int(h.StartFrame)
	u.Setup = usb.ParseSetup(h.Setup)

	s.mu.Lock()
	s.pending[h.Seq] = a
	s.mu.Unlock()
	if status := s.hand(ctx, u); status != 0 {
		u.Status, u.Actual = status, 0
		u.Complete(u)
	}
	return nil
}

// hand gives a URB to the device; it completes by itself unless the status is
// not 0. What changes the device's state is done by its methods, at once.
func (s *session) hand(ctx context.Context, u *usb.URB) syscall.Errno {
	at := index(u.Endpoint)
	if !s.exists[at] {
		return syscall.ENOENT
	}
	u.Kind = s.kinds[at]
	if (u.Kind == usb.Isochronous) != (len(u.Packets) > 0) {
		return syscall.EINVAL
	}
	if u.Kind == usb.Control {
		in := u.Endpoint.In()
		u.Endpoint &^= usb.DirIn
		if int(u.Setup.Length) != len(u.Buffer) || len(u.Buffer) > 0 && in != u.In() {
			return syscall.EINVAL
		}
		if done, err := s.standard(ctx, u.Setup); done {
			if err == nil {
				u.Status, u.Actual = 0, 0
				u.Complete(u)
			}
			return errnoOf(err)
		}
	}
	return errnoOf(s.dev.Submit(u))
}

// errnoOf is err as a status: what has none is a stall.
func errnoOf(err error) syscall.Errno {
	status := syscall.Errno(0)
	if err != nil && !errors.As(err, &status) {
		status = syscall.EPIPE
	}
	return status
}

// standard does the requests that change a device's state for its host as well.
func (s *session) standard(ctx context.Context, q usb.Setup) (done bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	switch {
	case q.RequestType == usb.ToDevice && q.Request == usb.ReqSetAddress:
		return true, syscall.EPIPE // its address is not the client's
	case q.RequestType == usb.ToDevice && q.Request == usb.ReqSetConfiguration:
		value := uint8(q.Value)
		if err = s.dev.SetConfiguration(ctx, value); err == nil {
			s.settings.Configure(s.settings.Configuration(value))
		}
	case q.RequestType == usb.ToInterface && q.Request == usb.ReqSetInterface:
		iface, alt := uint8(q.Index), uint8(q.Value)
		if err = s.dev.SetInterface(ctx, iface, alt); err == nil {
			s.settings.Set(iface, alt)
		}
	case q.RequestType == usb.ToEndpoint && q.Request == usb.ReqClearFeature && q.Value == usb.FeatureEndpointHalt:
		return true, s.dev.ClearHalt(ctx, usb.Address(q.Index))
	case q.RequestType == toPort && q.Request == usb.ReqSetFeature && q.Value == featurePortReset:
		if err = s.dev.Reset(ctx); err == nil {
			s.settings.Configure(s.settings.Active)
		}
	default:
		return false, nil
	}
	s.setEndpoints()
	if errors.Is(err, syscall.EINVAL) {
		err = syscall.EPIPE // as the device itself would say
	}
	return true, err
}

// complete takes a transfer from the device.
func (s *session) complete(a *answer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.pending, a.header.Seq)
	if !s.send(a) {
		s.done = append(s.done, a)
	}
	s.wake.Broadcast()
}

// send sends an answer from here, where the line is quiet and it is small.
func (s *session) send(a *answer) bool {
	if !s.idle || s.ended || len(s.done) > 0 || len(s.rest) > 0 || len(s.pending) > 2 || len(a.urb.Buffer) > smallMessage || s.conn.raw == nil {
		return false
	}
	message := s.rest[:0]
	s.pieces = a.append(s.pieces[:0])
	for _, b := range s.pieces {
		message = append(message, b...)
	}
	n := s.conn.tryWrite(message)
	if n == 0 {
		return false
	}
	s.rest = message[:copy(message, message[n:])]
	s.recycle(a)
	return true
}

// unlink cancels a submission. Who is not there any more has been answered for.
func (s *session) unlink(h *Header) error {
	s.mu.Lock()
	a := s.pending[h.Victim]
	switch {
	case len(s.done) >= maxOutstanding:
		s.mu.Unlock()
		return fmt.Errorf("%w: it does not read its answers", errProtocol)
	case a != nil && a.unlink == 0:
		a.unlink = h.Seq
	default:
		s.done = append(s.done, &answer{header: Header{Command: RetUnlink, Seq: h.Seq}})
		s.wake.Broadcast()
		a = nil
	}
	s.mu.Unlock()
	if a != nil {
		s.dev.Cancel(&a.urb)
	}
	return nil
}

// write sends answers, many at once, until the client is gone.
func (s *session) write() {
	var batch []*answer
	var store net.Buffers
	for {
		s.mu.Lock()
		for _, a := range batch {
			s.recycle(a)
		}
		s.idle = true
		for len(s.done) == 0 && len(s.rest) == 0 && !s.ended && (!s.gone || len(s.pending) > 0) {
			s.wake.Wait()
		}
		s.idle = false
		if s.ended || len(s.done) == 0 && len(s.rest) == 0 {
			s.mu.Unlock()
			s.conn.Close()
			return
		}
		batch, s.done = s.done, batch[:0]
		bufs := store[:0]
		if len(s.rest) > 0 {
			bufs = append(bufs, bytes.Clone(s.rest))
			s.rest = s.rest[:0]
		}
		s.mu.Unlock()
		for _, a := range batch {
			bufs = a.append(bufs)
		}
		store = bufs
		if _, err := bufs.WriteTo(s.conn); err != nil {
			s.conn.Close() // which ends the reader, and so the session
			batch = nil
		}
	}
}

// recycle keeps an answer that has been sent for the next transfer.
func (s *session) recycle(a *answer) {
	s.buffered -= a.cost
	if a.header.Command == RetSubmit && len(s.free) < 64 && cap(a.urb.Buffer) <= keptBuffer {
		s.free = append(s.free, a)
	}
}

// append appends what is sent for a. A cancelled transfer is answered by its
// cancellation alone, unless it has moved something.
func (a *answer) append(bufs net.Buffers) net.Buffers {
	first, second := (*[HeaderSize]byte)(a.wire[:]), (*[HeaderSize]byte)(a.wire[HeaderSize:])
	if a.header.Command == RetUnlink {
		a.header.Put(first)
		return append(bufs, first[:])
	}
	u := &a.urb
	if a.unlink != 0 && u.Status == syscall.ECONNRESET && u.Actual == 0 {
		(&Header{Command: RetUnlink, Seq: a.unlink, Status: -int32(u.Status)}).Put(first)
		return append(bufs, first[:])
	}
	h := &a.header
	h.Status, h.Length, h.Interval = -int32(u.Status), uint32(u.Actual), uint32(u.ErrorCount)
	a.packets = a.packets[:0]
	data := u.Buffer[:u.Actual]
	if u.Kind == usb.Isochronous {
		h.StartFrame = uint32(u.StartFrame)
		total := 0
		for _, p := range u.Packets {
			if a.in { // without gaps: never behind its place
				copy(u.Buffer[total:], u.Buffer[p.Offset:p.Offset+p.Actual])
			}
			total += p.Actual
			n := len(a.packets)
			a.packets = append(a.packets, make([]byte, IsoPacketSize)...)
			(&IsoPacket{uint32(p.Offset), uint32(p.Length), uint32(p.Actual), -int32(p.Status)}).Put(a.packets[n:])
		}
		data, h.Length = u.Buffer[:total], uint32(total)
	}
	h.Put(first)
	bufs = append(bufs, first[:])
	if a.in && len(data) > 0 {
		bufs = append(bufs, data)
	}
	if len(a.packets) > 0 {
		bufs = append(bufs, a.packets)
	}
	if a.unlink != 0 {
		(&Header{Command: RetUnlink, Seq: a.unlink}).Put(second)
		bufs = append(bufs, second[:])
	}
	return bufs
}
