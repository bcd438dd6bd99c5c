package usbip

import (
	"context"
	"io"
	"log/slog"
	"net"
	"sync"
	"testing"

	"github.com/lxbridge/lx/devices/usb"
	"github.com/lxbridge/lx/devices/usb/emul"
	"github.com/lxbridge/lx/devices/usb/usbtest"
)

func wire(h Header, payload ...byte) []byte {
	var b [HeaderSize]byte
	h.Put(&b)
	return append(b[:], payload...)
}

// FuzzServer has a client say anything after an import: the server ends, with
// all that the device was given back.
func FuzzServer(f *testing.F) {
	info := testInfo("/lx/1-1")
	id := info.deviceID()
	configure := wire(Header{Command: CmdSubmit, Seq: 1, Device: id, Setup: [8]byte{0, usb.ReqSetConfiguration, 1}})
	out := wire(Header{Command: CmdSubmit, Seq: 2, Device: id, Endpoint: 1, Length: 3, Flags: FlagZeroPacket}, 1, 2, 3)
	in := wire(Header{Command: CmdSubmit, Seq: 3, Device: id, In: true, Endpoint: 2, Length: 512})
	unlink := wire(Header{Command: CmdUnlink, Seq: 4, Device: id, Victim: 3})
	alt := wire(Header{Command: CmdSubmit, Seq: 5, Device: id, Setup: [8]byte{1, usb.ReqSetInterface, 1, 0, 1}})
	var packet [IsoPacketSize]byte
	(&IsoPacket{Length: 192}).Put(packet[:])
	iso := wire(Header{Command: CmdSubmit, Seq: 6, Device: id, In: true, Endpoint: 4, Length: 192, Packets: 1, Interval: 1}, packet[:]...)
	f.Add(configure)
	f.Add(append(append(append([]byte{}, configure...), out...), in...))
	f.Add(append(append(append([]byte{}, configure...), in...), unlink...))
	f.Add(append(append(append([]byte{}, configure...), alt...), iso...))
	f.Fuzz(func(t *testing.T, p []byte) {
		end, err := emul.New(usbtest.Gadget())
		if err != nil {
			t.Fatal(err)
		}
		ours, theirs := net.Pipe()
		var group sync.WaitGroup
		group.Go(func() {
			s := &Server{Exports: &exports{info: info, dev: end}, Log: slog.New(slog.DiscardHandler)}
			s.ServeConn(context.Background(), theirs)
		})
		if _, err := RequestImport(ours, "1-1"); err != nil {
			t.Fatal(err)
		}
		group.Go(func() { io.Copy(io.Discard, ours) })
		ours.Write(p)
		ours.Close()
		group.Wait()
		end.Close()
	})
}

// FuzzClient has a server say anything to a client with transfers outstanding: each
// completes once.
func FuzzClient(f *testing.F) {
	f.Add(wire(Header{Command: RetSubmit, Seq: 1, Length: 100}, make([]byte, 100)...))
	f.Add(wire(Header{Command: RetSubmit, Seq: 2, Length: 3}))
	f.Add(wire(Header{Command: RetSubmit, Seq: 1, Status: -32}))
	var packet [IsoPacketSize]byte
	(&IsoPacket{Length: 64, ActualLength: 10}).Put(packet[:])
	f.Add(append(wire(Header{Command: RetSubmit, Seq: 3, Length: 20, Packets: 2}, make([]byte, 20)...), append(packet[:], packet[:]...)...))
	f.Fuzz(func(t *testing.T, p []byte) {
		ours, theirs := net.Pipe()
		d := &Device{profile: profileLinux, gone: make(chan struct{})}
		l := newLink(ours, 1, d)
		l.setEndpoints([]usb.Endpoint{
			{Address: 0x81, Kind: usb.Bulk, MaxPacketSize: 512}, {Address: 0x01, Kind: usb.Bulk, MaxPacketSize: 512},
			{Address: 0x82, Kind: usb.Isochronous, MaxPacketSize: 64, Interval: 1},
		})
		var group sync.WaitGroup
		for _, u := range []*usb.URB{
			{Kind: usb.Bulk, Endpoint: 0x81, Buffer: make([]byte, 100)},
			{Kind: usb.Bulk, Endpoint: 0x01, Buffer: make([]byte, 3)},
			{Kind: usb.Isochronous, Endpoint: 0x82, Buffer: make([]byte, 200), Packets: []usb.Packet{{Offset: 5, Length: 64}, {Offset: 100, Length: 64}}},
		} {
			group.Add(1)
			u.Complete = func(u *usb.URB) {
				if u.Actual < 0 || u.Actual > len(u.Buffer) {
					t.Errorf("%d bytes in a buffer of %d", u.Actual, len(u.Buffer))
				}
				group.Done()
			}
			if err := l.submit(u); err != nil {
				t.Fatal(err)
			}
		}
		sent := make([]byte, 3*HeaderSize+3+2*IsoPacketSize)
		if _, err := io.ReadFull(theirs, sent); err != nil {
			t.Fatal(err)
		}
		go io.Copy(io.Discard, theirs) // ends with it
		theirs.Write(p)
		theirs.Close()
		<-l.done
		group.Wait()
	})
}
