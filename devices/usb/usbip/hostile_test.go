package usbip

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/lxbridge/lx/devices/usb"
	"github.com/lxbridge/lx/devices/usb/emul"
	"github.com/lxbridge/lx/devices/usb/usbtest"
)

// puppet is a server that answers control requests, as the gadget would, and leaves
// all others to the test.
type puppet struct {
	conn net.Conn
	got  chan Header // not of control requests
}

// attachPuppet attaches to a puppet that says its path.
func attachPuppet(t *testing.T, path string, o Options) (*Device, *puppet) {
	t.Helper()
	gadget := usbtest.Gadget()
	ours, theirs := net.Pipe()
	p := &puppet{theirs, make(chan Header, 100)}
	go func() {
		defer close(p.got)
		if _, err := readRequest(theirs); err != nil {
			return
		}
		info := testInfo(path)
		theirs.Write(appendImport(nil, StatusOK, &info))
		var b [HeaderSize]byte
		for {
			var h Header
			if _, err := io.ReadFull(theirs, b[:]); err != nil || h.Parse(&b) != nil {
				return
			}
			if h.Command == CmdSubmit && !h.In {
				if _, err := io.CopyN(io.Discard, theirs, int64(h.Length)); err != nil {
					return
				}
			}
			if h.Command != CmdSubmit || h.Endpoint != 0 {
				p.got <- h
				continue
			}
			var data []byte
			switch setup := usb.ParseSetup(h.Setup); setup.Value >> 8 {
			case usb.DescDevice:
				data = gadget.Device
			case usb.DescConfiguration:
				data = gadget.Configurations[0]
			}
			data = data[:min(len(data), int(h.Length))]
			if h.In {
				p.send(Header{Command: RetSubmit, Seq: h.Seq, Length: uint32(len(data))}, data)
			} else {
				p.send(Header{Command: RetSubmit, Seq: h.Seq, Length: h.Length}, nil)
			}
		}
	}()
	d, err := Attach(t.Context(), func(context.Context) (net.Conn, error) { return ours, nil }, "1-1", o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close(); theirs.Close() })
	return d, p
}

func (p *puppet) send(h Header, payload []byte) {
	var b [HeaderSize]byte
	h.Put(&b)
	p.conn.Write(append(b[:], payload...))
}

// watched submits a URB and hands it back, complete, on a channel.
func watched(t *testing.T, d usb.Device, u *usb.URB) chan *usb.URB {
	t.Helper()
	done := make(chan *usb.URB, 2)
	u.Complete = func(u *usb.URB) { done <- u }
	if err := d.Submit(u); err != nil {
		t.Fatal(err)
	}
	return done
}

func bulk(a usb.Address, size int) *usb.URB {
	return &usb.URB{Kind: usb.Bulk, Endpoint: a, Buffer: make([]byte, size)}
}

// TestHostileServer has servers say what they must not: the device is gone
// then, the URB ends, and nothing else happens.
func TestHostileServer(t *testing.T) {
	for name, say := range map[string]func(p *puppet, h Header){
		"too long":          func(p *puppet, h Header) { p.send(Header{Command: RetSubmit, Seq: h.Seq, Length: h.Length + 1}, nil) },
		"huge":              func(p *puppet, h Header) { p.send(Header{Command: RetSubmit, Seq: h.Seq, Length: 1 << 31}, nil) },
		"unknown":           func(p *puppet, h Header) { p.send(Header{Command: RetSubmit, Seq: h.Seq + 1000}, nil) },
		"a command":         func(p *puppet, h Header) { p.send(Header{Command: CmdSubmit, Seq: h.Seq}, nil) },
		"no command":        func(p *puppet, h Header) { p.conn.Write(make([]byte, HeaderSize)) },
		"not cancelled":     func(p *puppet, h Header) { p.send(Header{Command: RetUnlink, Seq: h.Seq}, nil) },
		"positive status":   func(p *puppet, h Header) { p.send(Header{Command: RetSubmit, Seq: h.Seq, Status: 5}, nil) },
		"cut in the header": func(p *puppet, h Header) { p.conn.Write(make([]byte, 5)); p.conn.Close() },
		"cut in the payload": func(p *puppet, h Header) {
			p.send(Header{Command: RetSubmit, Seq: h.Seq, Length: 100}, make([]byte, 50))
			p.conn.Close()
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d, p := attachPuppet(t, "/sys/x", Options{})
			done := watched(t, d, bulk(usbtest.Source, 512))
			go say(p, <-p.got)
			u := <-done
			<-d.Gone()
			if u.Status != syscall.ESHUTDOWN || d.Err() == nil {
				t.Errorf("the URB ends with %v, the device with %v", u.Status, d.Err())
			}
			if err := d.Submit(bulk(usbtest.Source, 1)); !errors.Is(err, syscall.ENODEV) {
				t.Errorf("a gone device says %v", err)
			}
		})
	}
}

// TestServerStaysSilent: a cancelled URB ends in time though the server answers
// neither, and late answers do no harm.
func TestServerStaysSilent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, p := attachPuppet(t, "/sys/x", Options{})
		u := bulk(usbtest.Source, 512)
		done := watched(t, d, u)
		submit := <-p.got
		begun := time.Now()
		d.Cancel(u)
		unlink := <-p.got
		if unlink.Command != CmdUnlink || unlink.Victim != submit.Seq {
			t.Fatalf("sent %+v", unlink)
		}
		if u := <-done; u.Status != syscall.ECONNRESET || time.Since(begun) != cancelTime {
			t.Errorf("%v after %v", u.Status, time.Since(begun))
		}
		p.send(Header{Command: RetSubmit, Seq: submit.Seq, Length: 512}, make([]byte, 512))
		p.send(Header{Command: RetUnlink, Seq: unlink.Seq}, nil)
		next := watched(t, d, bulk(usbtest.Source, 512))
		p.send(Header{Command: RetSubmit, Seq: (<-p.got).Seq, Length: 512}, make([]byte, 512))
		if u := <-next; u.Status != 0 || u.Actual != 512 {
			t.Errorf("afterwards: %v, %d bytes", u.Status, u.Actual)
		}
	})
}

// TestCancelWithinPayload: the server breaks off in the middle of the data; the
// URB's buffer is let go, and what comes later is not written to it.
func TestCancelWithinPayload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, p := attachPuppet(t, "/sys/x", Options{})
		u := bulk(usbtest.Source, 100_000)
		done := watched(t, d, u)
		submit := <-p.got
		p.send(Header{Command: RetSubmit, Seq: submit.Seq, Length: 100_000}, make([]byte, 40_000))
		synctest.Wait()
		d.Cancel(u)
		unlink := <-p.got
		if u := <-done; u.Status != syscall.ECONNRESET || u.Actual != 40_000 {
			t.Fatalf("%v, %d bytes", u.Status, u.Actual)
		}
		late := make([]byte, 60_000)
		for i := range late {
			late[i] = 0xff
		}
		p.conn.Write(late)
		p.send(Header{Command: RetUnlink, Seq: unlink.Seq}, nil)
		next := watched(t, d, bulk(usbtest.Sink, 512))
		p.send(Header{Command: RetSubmit, Seq: (<-p.got).Seq, Length: 512}, nil)
		if u := <-next; u.Status != 0 {
			t.Errorf("afterwards: %v", u.Status)
		}
		for i, b := range u.Buffer {
			if b != 0 {
				t.Fatalf("byte %d was written after the URB was complete", i)
			}
		}
	})
}

// TestZeroPacket: for a server that does not send empty packets by itself they
// are transfers of their own; for others a flag.
func TestZeroPacket(t *testing.T) {
	for path, want := range map[string][]uint32{`USB\VID`: {1024, 0}, "/sys/x": {1024}} {
		d, p := attachPuppet(t, path, Options{})
		u := bulk(usbtest.Sink, 1024)
		u.Flags = usb.ZeroPacket
		done := watched(t, d, u)
		for i, n := range want {
			select {
			case <-done:
				t.Fatalf("%s: complete before it is done", path)
			default:
			}
			h := <-p.got
			if h.Length != n || (h.Flags&FlagZeroPacket != 0) != (len(want) == 1) {
				t.Errorf("%s: transfer %d is %+v", path, i, h)
			}
			p.send(Header{Command: RetSubmit, Seq: h.Seq, Length: n}, nil)
		}
		if u := <-done; u.Status != 0 || u.Actual != 1024 {
			t.Errorf("%s: %v, %d bytes", path, u.Status, u.Actual)
		}
	}
}

// TestEarlyBulkOut: transfers complete before they are answered, within the window; a
// failure is told by the next one, and a transfer in the other direction waits.
func TestEarlyBulkOut(t *testing.T) {
	d, p := attachPuppet(t, "/sys/x", Options{EarlyBulkOut: true})
	const size = 1 << 20
	var sent []Header
	for range earlyWindow/size - 1 {
		if u := <-watched(t, d, bulk(usbtest.Sink, size)); u.Status != 0 || u.Actual != size {
			t.Fatalf("%v, %d bytes", u.Status, u.Actual)
		}
		sent = append(sent, <-p.got)
	}
	over := watched(t, d, bulk(usbtest.Sink, size))
	behind := watched(t, d, bulk(usbtest.Sink, 1))
	sent = append(sent, <-p.got, <-p.got)
	if len(over) != 0 || len(behind) != 0 {
		t.Error("beyond the window a transfer completes early, or out of order")
	}
	for i, h := range sent {
		h := Header{Command: RetSubmit, Seq: h.Seq, Length: h.Length}
		if i == 1 {
			h.Status, h.Length = -int32(syscall.EPIPE), 0
		}
		p.send(h, nil)
	}
	if a, b := <-over, <-behind; a.Status != 0 || b.Status != 0 {
		t.Errorf("%v, %v", a.Status, b.Status)
	}
	if u := <-watched(t, d, bulk(usbtest.Sink, 1)); u.Status != syscall.EPIPE {
		t.Errorf("after a failure: %v", u.Status)
	}
	if u := <-watched(t, d, bulk(usbtest.Sink, 1)); u.Status != 0 {
		t.Errorf("it is told twice: %v", u.Status)
	}
}

// TestStall: who takes nothing is named, once.
func TestStall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		named := make(chan usb.Address, 10)
		d, p := attachPuppet(t, "/sys/x", Options{Stalled: func(a usb.Address, _ time.Duration) { named <- a }})
		watched(t, d, bulk(usbtest.Source, 512)) // may wait for ever
		done := watched(t, d, bulk(usbtest.Sink, 512))
		<-p.got
		h := <-p.got
		time.Sleep(4 * stallTime)
		if len(named) != 1 || <-named != usbtest.Sink {
			t.Errorf("named %d endpoints", len(named))
		}
		p.send(Header{Command: RetSubmit, Seq: h.Seq, Length: 512}, nil)
		<-done
	})
}

// TestHostileClient has clients say what they must not: they are cut off, and
// the device is free again.
func TestHostileClient(t *testing.T) {
	end, err := emul.New(usbtest.Gadget())
	if err != nil {
		t.Fatal(err)
	}
	defer end.Close()
	info := testInfo("/lx/1-1")
	dial := serve(t, &exports{info: info, dev: end})
	id := info.deviceID()
	in := func(seq uint32, size uint32) []byte {
		return wire(Header{Command: CmdSubmit, Seq: seq, Device: id, In: true, Endpoint: 1, Length: size})
	}
	configure := wire(Header{Command: CmdSubmit, Seq: 1, Device: id, Setup: [8]byte{0, 9, 1}})
	overlap := make([]byte, 2*IsoPacketSize)
	binary.BigEndian.PutUint32(overlap[4:], 10)
	binary.BigEndian.PutUint32(overlap[16:], 5)
	binary.BigEndian.PutUint32(overlap[20:], 5)
	many := append([]byte(nil), configure...)
	for i := range uint32(5) {
		many = append(many, in(2+i, MaxTransfer)...)
	}
	for name, say := range map[string][]byte{
		"another device":   wire(Header{Command: CmdSubmit, Seq: 1, Device: id + 1, In: true}),
		"an answer":        wire(Header{Command: RetSubmit, Seq: 1, Device: id}),
		"no command":       make([]byte, HeaderSize),
		"huge":             in(1, MaxTransfer+1),
		"too much":         many,
		"twice one number": append(append(append([]byte(nil), configure...), in(2, 5)...), in(2, 5)...),
		"packets overlap":  wire(Header{Command: CmdSubmit, Seq: 1, Device: id, In: true, Endpoint: 4, Length: 10, Packets: 2}, overlap...),
		"packets outside":  wire(Header{Command: CmdSubmit, Seq: 1, Device: id, In: true, Endpoint: 4, Length: 9, Packets: 1}, overlap...),
	} {
		conn, err := dial(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := RequestImport(conn, "1-1"); err != nil {
			t.Fatal(err)
		}
		go conn.Write(say)
		conn.SetReadDeadline(time.Now().Add(10 * time.Second))
		if _, err := io.Copy(io.Discard, conn); isTimeout(err) {
			t.Errorf("%s: not cut off", name)
		}
		conn.Close()
	}
	d, err := Attach(t.Context(), dial, "1-1", Options{})
	if err != nil {
		t.Fatal("afterwards: ", err)
	}
	defer d.Close()
	// What is only wrong of one transfer is that transfer's failure.
	u := &usb.URB{Kind: usb.Control, Setup: usb.Setup{Request: usb.ReqSetAddress, Value: 7}}
	if err := usb.Do(t.Context(), d, u); !errors.Is(err, syscall.EPIPE) {
		t.Errorf("SET_ADDRESS: %v", err)
	}
}

// TestPacketsCount: transfers of many packets count though they have no bytes.
func TestPacketsCount(t *testing.T) {
	s := &session{pending: map[uint32]*answer{}}
	var last *answer
	for seq := uint32(1); ; seq++ {
		a, err := s.admit(seq, 0, MaxIsoPackets)
		if err != nil {
			break
		}
		if last = a; s.buffered > maxBuffered || seq > maxOutstanding {
			t.Fatalf("%d transfers of %d packets are let in", seq, MaxIsoPackets)
		}
	}
	s.recycle(last)
	if _, err := s.admit(0, 0, MaxIsoPackets); err != nil {
		t.Errorf("what has been sent counts still: %v", err)
	}
}

// TestPacketsThatNeverCame: packets of an answer that contradicts itself have no data,
// for whoever had the buffer before has left his there.
func TestPacketsThatNeverCame(t *testing.T) {
	d, p := attachPuppet(t, "/sys/x", Options{})
	if err := d.SetInterface(t.Context(), 1, 1); err != nil {
		t.Fatal(err)
	}
	u := &usb.URB{Kind: usb.Isochronous, Endpoint: usbtest.IsoIn, Buffer: make([]byte, 16), Packets: []usb.Packet{{Length: 8}, {Offset: 8, Length: 8}}}
	done := watched(t, d, u)
	h := <-p.got
	descriptors := make([]byte, 2*IsoPacketSize)
	(&IsoPacket{Length: 8, ActualLength: 8}).Put(descriptors)
	(&IsoPacket{Offset: 8, Length: 8}).Put(descriptors[IsoPacketSize:])
	go p.send(Header{Command: RetSubmit, Seq: h.Seq, Packets: 2}, descriptors)
	<-done
	if u.Status != syscall.ESHUTDOWN || u.Packets[0].Actual != 0 {
		t.Errorf("the URB ends with %v and %d bytes in its first packet", u.Status, u.Packets[0].Actual)
	}
}

func isTimeout(err error) bool {
	var e net.Error
	return errors.As(err, &e) && e.Timeout()
}

// TestLostInTheMiddle: a client that vanishes with transfers pending leaves the device free.
func TestLostInTheMiddle(t *testing.T) {
	end, err := emul.New(usbtest.Gadget())
	if err != nil {
		t.Fatal(err)
	}
	defer end.Close()
	dial := serve(t, &exports{info: testInfo("/lx/1-1"), dev: end})
	for range 20 {
		d, err := Attach(t.Context(), dial, "1-1", Options{})
		if err != nil {
			t.Fatal(err)
		}
		var group sync.WaitGroup
		for range 50 {
			for _, a := range []usb.Address{usbtest.LoopIn, usbtest.Source, usbtest.Sink} {
				u := bulk(a, 4096)
				group.Add(1)
				u.Complete = func(*usb.URB) { group.Done() }
				if err := d.Submit(u); err != nil {
					t.Fatal(err)
				}
			}
		}
		d.Close()
		group.Wait()
	}
}

// TestNeverAnswered: who answers for no cancellation at all is given up, before its
// debts fill the memory.
func TestNeverAnswered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, p := attachPuppet(t, `USB\VID`, Options{})
		go func() {
			for range p.got { // takes everything, says nothing
			}
		}()
		for range maxForgotten + 1 {
			u := bulk(usbtest.Source, 512)
			u.Complete = func(*usb.URB) {}
			if d.Submit(u) != nil {
				break
			}
			synctest.Wait()
			d.Cancel(u)
			synctest.Wait()
		}
		<-d.Gone()
		if !errors.Is(d.Err(), errProtocol) {
			t.Error(d.Err())
		}
	})
}
