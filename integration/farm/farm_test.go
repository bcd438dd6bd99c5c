package farm

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/lxbridge/lx/devices/usb"
	"github.com/lxbridge/lx/devices/usb/emul"
	"github.com/lxbridge/lx/devices/usb/usbip"
)

// host is a client's end of a device of a farm.
type host struct {
	*testing.T
	*usbip.Device
	in, out usb.Address
}

// bench is a farm that is served, with one device in port 1-1.
type bench struct {
	*testing.T
	*Farm
	dial usbip.Dialer
}

// eachFace runs a test on a farm of either face.
func eachFace(t *testing.T, test func(b *bench)) {
	for name, face := range map[string]Face{"Linux": Linux, "Windows": Windows} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := New(face)
			t.Cleanup(f.Close)
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(context.Background())
			done := make(chan error, 1)
			go func() { done <- f.Serve(ctx, l) }()
			t.Cleanup(func() {
				cancel()
				if err := <-done; err != nil {
					t.Error(err)
				}
			})
			test(&bench{t, f, usbip.TCP(l.Addr().String())})
		})
	}
}

func (b *bench) plug(s emul.Spec) {
	b.Helper()
	if err := b.Plug("1-1", s); err != nil {
		b.Fatal(err)
	}
}

// attach waits until the port has a device.
func (b *bench) attach(in, out usb.Address) *host {
	b.Helper()
	ctx, cancel := context.WithTimeout(b.Context(), 10*time.Second)
	defer cancel()
	for {
		d, err := usbip.Attach(ctx, b.dial, "1-1", usbip.Options{})
		if err == nil {
			b.Cleanup(func() { d.Close() })
			return &host{b.T, d, in, out}
		}
		if ctx.Err() != nil || !errors.Is(err, usbip.StatusNoDevice) && !errors.Is(err, usbip.StatusBusy) && !errors.Is(err, syscall.ENODEV) {
			b.Fatal(err)
		}
	}
}

func (h *host) do(u *usb.URB) error {
	ctx, cancel := context.WithTimeout(h.Context(), 10*time.Second)
	defer cancel()
	return usb.Do(ctx, h, u)
}

func (h *host) send(b []byte) {
	h.Helper()
	if err := h.do(&usb.URB{Kind: usb.Bulk, Endpoint: h.out, Buffer: b}); err != nil {
		h.Fatalf("cannot send %d bytes: %v", len(b), err)
	}
}

func (h *host) receive(n int) []byte {
	h.Helper()
	u := &usb.URB{Kind: usb.Bulk, Endpoint: h.in, Buffer: make([]byte, n)}
	if err := h.do(u); err != nil {
		h.Fatalf("cannot receive %d bytes: %v", n, err)
	}
	return u.Buffer[:u.Actual]
}

func (h *host) control(requestType, request uint8, value, index uint16, data []byte) []byte {
	h.Helper()
	n, err := usb.ControlTransfer(h.Context(), h, requestType, request, value, index, data)
	if err != nil {
		h.Fatalf("request %#x %d: %v", requestType, request, err)
	}
	return data[:n]
}

func image(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i>>12 ^ i*31)
	}
	return b
}

// scsi does one command of a disk and answers data and status.
func (h *host) scsi(tag uint32, dataIn int, dataOut []byte, cdb ...byte) ([]byte, byte) {
	h.Helper()
	cbw := make([]byte, 31)
	copy(cbw, "USBC")
	binary.LittleEndian.PutUint32(cbw[4:], tag)
	binary.LittleEndian.PutUint32(cbw[8:], uint32(dataIn+len(dataOut)))
	if dataIn > 0 {
		cbw[12] = 0x80
	}
	cbw[14] = byte(len(cdb))
	copy(cbw[15:], cdb)
	h.send(cbw)
	var data []byte
	if len(dataOut) > 0 {
		h.send(dataOut)
	}
	if dataIn > 0 {
		u := &usb.URB{Kind: usb.Bulk, Endpoint: h.in, Buffer: make([]byte, dataIn)}
		if err := h.do(u); errors.Is(err, syscall.EPIPE) {
			if err := h.ClearHalt(h.Context(), h.in); err != nil {
				h.Fatal(err)
			}
		} else if err != nil {
			h.Fatal(err)
		}
		data = u.Buffer[:u.Actual]
	}
	csw := h.receive(13)
	if len(csw) != 13 || string(csw[:4]) != "USBS" || binary.LittleEndian.Uint32(csw[4:]) != tag {
		h.Fatalf("status % x", csw)
	}
	return data, csw[12]
}

func TestDisk(t *testing.T) {
	eachFace(t, func(b *bench) {
		m := NewMemory(8 << 20)
		b.plug(Disk(m, "D1"))
		h := b.attach(0x81, 0x02)
		if data, status := h.scsi(1, 36, nil, 0x12, 0, 0, 0, 36, 0); status != 0 || !bytes.Contains(data, []byte("farm disk")) {
			b.Errorf("INQUIRY: % x, %d", data, status)
		}
		want := image(128 << 10)
		if _, status := h.scsi(2, 0, want, 0x2a, 0, 0, 0, 0, 8, 0, 1, 0, 0); status != 0 {
			b.Errorf("WRITE: %d", status)
		}
		if data, status := h.scsi(3, len(want), nil, 0x28, 0, 0, 0, 0, 8, 0, 1, 0, 0); status != 0 || !bytes.Equal(data, want) {
			b.Errorf("READ: %d bytes, %d", len(data), status)
		}
		if data, status := h.scsi(4, 512, nil, 0x28, 0, 0xff, 0, 0, 0, 0, 0, 1, 0); status != 1 || len(data) != 0 {
			b.Errorf("READ beyond the end: %d bytes, %d", len(data), status)
		}
		if data, _ := h.scsi(5, 18, nil, 0x03, 0, 0, 0, 18, 0); len(data) != 18 || data[2] != 5 || data[12] != 0x21 {
			b.Errorf("sense % x", data)
		}
	})
}

func TestFastboot(t *testing.T) {
	eachFace(t, func(b *bench) {
		f := &Fastboot{Serial: "F1"}
		f.Reboot = func(string) { b.plug(Disk(NewMemory(1<<20), "after")) }
		b.plug(f.Spec())
		h := b.attach(0x81, 0x01)
		talk := func(command, want string) {
			h.Helper()
			h.send([]byte(command))
			if got := string(h.receive(64)); got != want {
				h.Errorf("%s: %q", command, got)
			}
		}
		talk("getvar:product", "OKAYlxfarm")
		talk("getvar:nonsense", "FAILunknown variable")
		talk("flash:boot_a", "FAILno image downloaded")
		want := image(1<<20 + 1024) // of whole packets
		talk(fmt.Sprintf("download:%08x", len(want)), fmt.Sprintf("DATA%08x", len(want)))
		for at := 0; at < len(want); at += 256 << 10 {
			h.send(want[at:min(at+256<<10, len(want))])
		}
		if got := string(h.receive(64)); got != "OKAY" {
			b.Errorf("download: %q", got)
		}
		talk("flash:boot_a", "OKAY")
		if !bytes.Equal(f.Partition("boot_a"), want) {
			b.Error("the image is not what was sent")
		}
		talk("reboot", "OKAY")
		<-h.Gone()
		h = b.attach(0x81, 0x02)
		if got := h.Description().Strings[3]; got != "after" {
			b.Errorf("afterwards there is %q", got)
		}
	})
}

func TestADB(t *testing.T) {
	eachFace(t, func(b *bench) {
		a := &ADB{Serial: "A1", Shell: func(c string) []byte { return bytes.Repeat([]byte(c), 20_000) }}
		b.plug(a.Spec())
		h := b.attach(0x81, 0x01)
		send := func(command string, arg0, arg1 uint32, payload []byte) {
			m := []byte(command)
			for _, w := range []uint32{arg0, arg1, uint32(len(payload)), 0, ^binary.LittleEndian.Uint32([]byte(command))} {
				m = binary.LittleEndian.AppendUint32(m, w)
			}
			h.send(m)
			if len(payload) > 0 {
				h.send(payload)
			}
		}
		receive := func() (command string, arg0 uint32, payload []byte) {
			m := h.receive(24)
			n := binary.LittleEndian.Uint32(m[12:])
			if n > 0 {
				payload = h.receive(int(n))
				if n%512 == 0 {
					h.receive(512) // the empty packet
				}
			}
			return string(m[:4]), binary.LittleEndian.Uint32(m[4:]), payload
		}
		send("CNXN", adbVersion, adbPayload, []byte("host::"))
		if c, version, banner := receive(); c != "CNXN" || version != adbVersion || !strings.HasPrefix(string(banner), "device::") {
			b.Fatalf("%s %#x %q", c, version, banner)
		}
		send("OPEN", 7, 0, []byte("shell:echo\x00"))
		var out []byte
		for {
			c, id, payload := receive()
			out = append(out, payload...)
			if c == "WRTE" {
				send("OKAY", 7, id, nil)
			}
			if c == "CLSE" {
				send("CLSE", 7, id, nil)
				receive()
				break
			}
		}
		if len(out) != 80_000 {
			b.Errorf("the shell printed %d bytes", len(out))
		}
		send("OPEN", 8, 0, []byte("sync:\x00"))
		_, id, _ := receive()
		want := image(200_000)
		request := func(command string, n int, body []byte) {
			send("WRTE", 8, id, append(binary.LittleEndian.AppendUint32([]byte(command), uint32(n)), body...))
			if c, _, _ := receive(); c != "OKAY" {
				b.Errorf("%s: %s", command, c)
			}
		}
		request("SEND", 12, []byte("/tmp/x,33188"))
		for at := 0; at < len(want); at += 64 << 10 {
			part := want[at:min(at+64<<10, len(want))]
			request("DATA", len(part), part)
		}
		request("DONE", 0, nil)
		if c, _, payload := receive(); c != "WRTE" || !bytes.HasPrefix(payload, []byte("OKAY")) {
			b.Errorf("push: %s %q", c, payload)
		}
		if !bytes.Equal(a.File("/tmp/x"), want) {
			b.Error("the file is not what was pushed")
		}
	})
}

func TestModem(t *testing.T) {
	eachFace(t, func(b *bench) {
		m := &Modem{Serial: "M1"}
		b.plug(m.Spec())
		h := b.attach(0x81, 0x01)
		h.control(usb.TypeClass|usb.ToInterface, 0x20, 0, 0, []byte{0, 0xc2, 1, 0, 0, 0, 8})
		h.control(usb.TypeClass|usb.ToInterface, 0x22, 3, 0, nil)
		if coding, lines := m.Line(); coding != [7]byte{0, 0xc2, 1, 0, 0, 0, 8} || lines != 3 {
			b.Errorf("% x, %d", coding, lines)
		}
		for _, want := range []string{"hello", strings.Repeat("x", 512)} {
			h.send([]byte(want))
			if got := string(h.receive(1024)); got != want {
				b.Errorf("%d bytes came back of %d", len(got), len(want))
			}
		}
	})
}

func TestKeyboard(t *testing.T) {
	eachFace(t, func(b *bench) {
		k := &Keyboard{Serial: "K1", Reports: make(chan [8]byte, 4)}
		b.plug(k.Spec())
		h := b.attach(0x81, 0)
		k.Reports <- [8]byte{2, 0, 4}
		u := &usb.URB{Kind: usb.Interrupt, Endpoint: 0x81, Buffer: make([]byte, 8)}
		if err := h.do(u); err != nil || u.Actual != 8 || u.Buffer[2] != 4 {
			b.Errorf("% x, %v", u.Buffer, err)
		}
		h.control(usb.TypeClass|usb.ToInterface, 9, 0x200, 0, []byte{5})
		if k.LEDs() != 5 {
			b.Error("the LEDs do not change")
		}
	})
}

func TestDFU(t *testing.T) {
	eachFace(t, func(b *bench) {
		f := &DFU{Serial: "U1"}
		b.plug(f.Spec())
		h := b.attach(0, 0)
		state := func(want byte) {
			h.Helper()
			if s := h.control(usb.DirIn|usb.TypeClass|usb.ToInterface, dfuGetStatus, 0, 0, make([]byte, 6)); s[4] != want || s[0] != 0 {
				h.Errorf("status % x, expected state %d", s, want)
			}
		}
		want := image(3*dfuBlock + 5)
		for i := 0; i*dfuBlock < len(want); i++ {
			h.control(usb.TypeClass|usb.ToInterface, dfuDownload, uint16(i), 0, want[i*dfuBlock:min((i+1)*dfuBlock, len(want))])
			state(dfuDownloadBusy)
			state(dfuDownloadIdle)
		}
		h.control(usb.TypeClass|usb.ToInterface, dfuDownload, 4, 0, nil)
		state(dfuManifest)
		state(dfuIdle)
		var got []byte
		for i := 0; ; i++ {
			part := h.control(usb.DirIn|usb.TypeClass|usb.ToInterface, dfuUpload, uint16(i), 0, make([]byte, dfuBlock))
			got = append(got, part...)
			if len(part) < dfuBlock {
				break
			}
		}
		if !bytes.Equal(got, want) || !bytes.Equal(f.Firmware(), want) {
			b.Errorf("%d bytes came back of %d", len(got), len(want))
		}
		if _, err := usb.ControlTransfer(b.Context(), h, usb.TypeClass|usb.ToInterface, dfuClearStatus, 0, 0, nil); !errors.Is(err, syscall.EPIPE) {
			b.Errorf("a request out of turn: %v", err)
		}
	})
}

func TestPico(t *testing.T) {
	eachFace(t, func(b *bench) {
		p := &Pico{Serial: "E0C9125B0D9B"}
		p.Reboot = func() { b.Unplug("1-1") }
		b.plug(p.Spec())
		h := b.attach(picoIn, picoOut)
		command := func(id, argSize byte, size int, args ...uint32) {
			c := binary.LittleEndian.AppendUint32(nil, 0x431fd10b)
			c = binary.LittleEndian.AppendUint32(c, 77)
			c = append(c, id, argSize, 0, 0)
			c = binary.LittleEndian.AppendUint32(c, uint32(size))
			for _, a := range args {
				c = binary.LittleEndian.AppendUint32(c, a)
			}
			h.send(append(c, make([]byte, 32-len(c))...))
		}
		status := func() (code uint32) {
			s := h.control(usb.DirIn|usb.TypeVendor|usb.ToInterface, 0x42, 0, 1, make([]byte, 16))
			if binary.LittleEndian.Uint32(s) != 77 {
				b.Errorf("status % x", s)
			}
			return binary.LittleEndian.Uint32(s[4:])
		}
		want := image(8192)
		command(0x03, 8, 0, picoFlash, 8192)
		h.receive(64)
		command(0x05, 8, len(want), picoFlash, uint32(len(want)))
		h.send(want)
		h.receive(64)
		command(0x84, 8, len(want), picoFlash, uint32(len(want)))
		got := h.receive(len(want))
		h.send(nil)
		if !bytes.Equal(got, want) || !bytes.Equal(p.Flash()[:len(want)], want) {
			b.Error("flash is not what was written")
		}
		command(0x03, 8, 0, picoFlash+256, 4096)
		u := &usb.URB{Kind: usb.Bulk, Endpoint: h.in, Buffer: make([]byte, 64)}
		if err := h.do(u); !errors.Is(err, syscall.EPIPE) || status() != picoAlignment {
			b.Errorf("an erase out of alignment: %v, %d", err, status())
		}
		h.control(usb.TypeVendor|usb.ToInterface, 0x41, 0, 1, nil)

		// The volume: its label, and a UF2 file of two blocks.
		m := &host{h.T, h.Device, 0x81, 0x02}
		if data, _ := m.scsi(1, 512, nil, 0x28, 0, 0, 0, 1, 4, 0, 0, 1, 0); len(data) != 512 || !bytes.HasPrefix(data, []byte("RPI-RP2")) {
			b.Errorf("the root directory begins with %q", data[:min(len(data), 11)])
		}
		file := make([]byte, 1024)
		for i := range 2 {
			k := file[512*i:]
			for at, w := range map[int]uint32{0: 0x0a324655, 4: 0x9e5d5157, 8: 0x2000, 12: picoFlash + 1<<20 + 256*uint32(i), 16: 256, 20: uint32(i), 24: 2, 28: 0xe48bff56, 508: 0x0ab16f30} {
				binary.LittleEndian.PutUint32(k[at:], w)
			}
			copy(k[32:288], want[256*i:])
		}
		if _, status := m.scsi(2, 0, file, 0x2a, 0, 0, 1, 0, 0, 0, 0, 2, 0); status != 0 {
			b.Errorf("a UF2 file: %d", status)
		}
		if !bytes.Equal(p.Flash()[1<<20:1<<20+512], want[:512]) {
			b.Error("the UF2 file is not in flash")
		}
		<-h.Gone()
	})
}

func TestBootROM(t *testing.T) {
	eachFace(t, func(b *bench) {
		done := make(chan struct{})
		r := &BootROM{Files: []string{"config.txt", "missing.elf", "start4.elf"}}
		r.Replug = func(s *emul.Spec) {
			if s != nil {
				b.plug(*s)
				return
			}
			close(done)
			b.Unplug("1-1")
		}
		b.plug(r.Spec())
		h := b.attach(0x82, 0x01)
		write := func(data []byte) {
			h.control(usb.TypeVendor, 0, uint16(len(data)), uint16(len(data)>>16), nil)
			if len(data) > 0 {
				h.send(data)
			}
		}
		read := func(n int) []byte {
			return h.control(usb.DirIn|usb.TypeVendor, 0, uint16(n), 0, make([]byte, n))
		}
		code := image(100_000)
		write(append(binary.LittleEndian.AppendUint32(nil, uint32(len(code))), make([]byte, 20)...))
		write(code)
		if status := read(4); !bytes.Equal(status, make([]byte, 4)) {
			b.Fatalf("status % x", status)
		}
		<-h.Gone()
		h = b.attach(0x82, 0x01)
		if h.Description().Device.ISerial != 4 || !bytes.Equal(r.Code(), code) {
			b.Fatal("it did not boot")
		}
		files := map[string][]byte{"config.txt": []byte("arm_64bit=1\n"), "start4.elf": image(300_000)}
		for {
			m := read(260)
			name := bytes.TrimRight(m[4:], "\x00")
			switch binary.LittleEndian.Uint32(m) {
			case romFileSize:
				if data, ok := files[string(name)]; ok {
					write(binary.LittleEndian.AppendUint32(nil, uint32(len(data))))
				} else {
					write(nil)
				}
				continue
			case romReadFile:
				write(files[string(name)])
				continue
			}
			break
		}
		<-done
		for name, want := range files {
			if got, ok := r.File(name); !ok || !bytes.Equal(got, want) {
				b.Errorf("%s: %d bytes", name, len(got))
			}
		}
		if _, ok := r.File("missing.elf"); ok {
			b.Error("a file that is not there was served")
		}
	})
}
