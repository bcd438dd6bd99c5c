package farm

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"github.com/lxbridge/lx/devices/usb"
	"github.com/lxbridge/lx/devices/usb/emul"
)

// androidSpec is a device with one interface of a bulk pair: 0x81 and 0x01.
func androidSpec(product uint16, protocol uint8, name, serial string) emul.Spec {
	return emul.Spec{
		Speed:  usb.SpeedHigh,
		Device: deviceDescriptor(0x18d1, product, 0, 0, 0),
		Configurations: [][]byte{configDescriptor(1,
			interfaceDescriptor(0, 2, 0xff, 0x42, protocol),
			endpointDescriptor(0x81, usb.Bulk, 512, 0), endpointDescriptor(0x01, usb.Bulk, 512, 0))},
		Strings: names("lx", name, serial),
	}
}

// Fastboot is a phone's boot loader.
type Fastboot struct {
	Serial string
	// Reboot is called when the host asks for it: the device has answered, and
	// waits to be unplugged. nil: it stays.
	Reboot func(target string)

	mu         sync.Mutex
	partitions map[string][]byte
	slot       string
}

// fastbootSizes are the partitions.
var fastbootSizes = map[string]int64{"boot_a": 128 << 20, "boot_b": 128 << 20, "system": 512 << 20, "userdata": 512 << 20}

const fastbootDownload = 256 << 20

// Partition is what was flashed.
func (f *Fastboot) Partition(name string) []byte {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.partitions[name]
}

// Spec is the device.
func (f *Fastboot) Spec() emul.Spec {
	f.partitions, f.slot = map[string][]byte{}, "a"
	s := androidSpec(0x4ee0, 3, "fastboot", f.Serial)
	s.Run = f.run
	return s
}

// run answers commands as the protocol's description has it (platform/system/core,
// fastboot/README.md).
func (f *Fastboot) run(ctx context.Context, d *emul.Device) {
	in, out := d.Pipe(0x81), d.Pipe(0x01)
	say := func(format string, a ...any) bool {
		b := fmt.Appendf(nil, format, a...)
		_, err := in.Write(ctx, b[:min(len(b), 64)], false)
		return err == nil
	}
	var download []byte
	for {
		var b [512]byte
		n, err := out.Read(ctx, b[:])
		if errors.Is(err, syscall.EPIPE) && out.Cleared(ctx) == nil {
			continue
		}
		if err != nil {
			return
		}
		command, argument, _ := strings.Cut(string(b[:n]), ":")
		ok := true
		switch {
		case n == 0:
		case n > 64:
			ok = say("FAILcommand too long")
		case command == "getvar" && argument == "all":
			vars := f.variables()
			for _, k := range slices.Sorted(maps.Keys(vars)) {
				ok = ok && say("INFO%s:%s", k, vars[k])
			}
			ok = ok && say("OKAY")
		case command == "getvar":
			if v, known := f.variables()[argument]; known {
				ok = say("OKAY%s", v)
			} else {
				ok = say("FAILunknown variable")
			}
		case command == "download":
			size, err := strconv.ParseUint(argument, 16, 32)
			if err != nil || len(argument) != 8 || size > fastbootDownload {
				ok = say("FAILdata too large")
				break
			}
			if ok = say("DATA%08x", size); !ok {
				break
			}
			download = make([]byte, size)
			for at := 0; at < len(download); {
				n, err := out.Read(ctx, download[at:])
				if err != nil {
					return
				}
				at += n
			}
			ok = say("OKAY")
		case command == "flash" || command == "erase":
			ok = say("%s", f.change(command, argument, download))
		case command == "set_active" && (argument == "a" || argument == "b"):
			f.mu.Lock()
			f.slot = argument
			f.mu.Unlock()
			ok = say("OKAY")
		case strings.HasPrefix(command, "reboot") || command == "continue":
			if ok = say("OKAY"); ok && f.Reboot != nil {
				f.Reboot(command)
			}
		default:
			ok = say("FAILunknown command")
		}
		if !ok {
			return
		}
	}
}

func (f *Fastboot) variables() map[string]string {
	f.mu.Lock()
	defer f.mu.Unlock()
	vars := map[string]string{
		"version": "0.4", "product": "lxfarm", "serialno": f.Serial, "max-download-size": fmt.Sprintf("0x%x", fastbootDownload),
		"is-userspace": "no", "secure": "no", "unlocked": "yes", "slot-count": "2", "current-slot": f.slot,
	}
	for name, size := range fastbootSizes {
		base, slot, _ := strings.Cut(name, "_")
		vars["has-slot:"+base] = map[bool]string{true: "yes", false: "no"}[slot != ""]
		vars["partition-type:"+name] = "raw"
		vars["partition-size:"+name] = fmt.Sprintf("0x%x", size)
	}
	return vars
}

// change flashes or erases a partition and answers the reply.
func (f *Fastboot) change(command, name string, image []byte) string {
	size, known := fastbootSizes[name]
	switch {
	case !known:
		return "FAILno such partition"
	case command == "flash" && image == nil:
		return "FAILno image downloaded"
	case int64(len(image)) > size:
		return "FAILimage too large"
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.partitions, name)
	if command == "flash" {
		f.partitions[name] = image
	}
	return "OKAY"
}

// ADB is a phone with adbd, which trusts everybody.
type ADB struct {
	Serial string
	// Shell runs a command and answers what it prints.
	Shell func(command string) []byte

	mu    sync.Mutex
	files map[string][]byte
}

// File is what was pushed.
func (a *ADB) File(name string) []byte {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.files[name]
}

// Spec is the device.
func (a *ADB) Spec() emul.Spec {
	a.files = map[string][]byte{}
	s := androidSpec(0x4ee7, 1, "adb", a.Serial)
	s.Run = a.run
	return s
}

const (
	adbVersion = 0x01000001 // no checksums
	adbPayload = 1 << 20
)

// adbMessage is one of the protocol's (platform/packages/modules/adb, protocol.txt).
type adbMessage struct {
	command    string
	arg0, arg1 uint32
	payload    []byte
}

// adbd is one configured life of the device.
type adbd struct {
	*ADB
	ctx     context.Context
	in, out *emul.Pipe
	streams map[uint32]*adbStream // by our id
	next    uint32
}

// adbStream is a service that the host has opened.
type adbStream struct {
	id, peer uint32
	sync     bool
	input    []byte // of sync, not handled yet
	name     string // the file that is sent
	data     []byte
	queue    [][]byte // for the host, each after an OKAY
	ends     bool     // after the queue
	ready    bool     // the host takes the next
}

func (a *ADB) run(ctx context.Context, d *emul.Device) {
	s := &adbd{ADB: a, ctx: ctx, in: d.Pipe(0x81), out: d.Pipe(0x01), streams: map[uint32]*adbStream{}}
	for {
		m, err := s.receive()
		if errors.Is(err, syscall.EPIPE) && s.out.Cleared(ctx) == nil {
			continue
		}
		if err != nil || s.handle(m) != nil {
			return
		}
	}
}

func (s *adbd) receive() (*adbMessage, error) {
	var h [24]byte
	n := 0
	for n == 0 { // what is left of a transfer of whole packets
		var err error
		if n, err = s.out.Read(s.ctx, h[:]); err != nil {
			return nil, err
		}
	}
	le := binary.LittleEndian
	size := le.Uint32(h[12:])
	if n != len(h) || le.Uint32(h[20:]) != ^le.Uint32(h[0:]) || size > adbPayload {
		return nil, errors.New("malformed message")
	}
	m := &adbMessage{string(h[:4]), le.Uint32(h[4:]), le.Uint32(h[8:]), make([]byte, size)}
	for at := 0; at < len(m.payload); {
		n, err := s.out.Read(s.ctx, m.payload[at:])
		if err != nil {
			return nil, err
		}
		at += n
	}
	return m, nil
}

func (s *adbd) send(command string, arg0, arg1 uint32, payload []byte) error {
	le := binary.LittleEndian
	b := make([]byte, 24)
	copy(b, command)
	le.PutUint32(b[4:], arg0)
	le.PutUint32(b[8:], arg1)
	le.PutUint32(b[12:], uint32(len(payload)))
	le.PutUint32(b[20:], ^le.Uint32(b))
	if _, err := s.in.Write(s.ctx, b, false); err != nil || len(payload) == 0 {
		return err
	}
	_, err := s.in.Write(s.ctx, payload, true)
	return err
}

func (s *adbd) handle(m *adbMessage) error {
	switch m.command {
	case "CNXN":
		clear(s.streams)
		return s.send("CNXN", adbVersion, adbPayload, []byte("device::ro.product.name=lxfarm;ro.product.model=farm;ro.product.device=farm;features=cmd"))
	case "OPEN":
		s.next++
		t := &adbStream{id: s.next, peer: m.arg0, ready: true}
		service := strings.TrimRight(string(m.payload), "\x00")
		switch command, is := strings.CutPrefix(service, "shell:"); {
		case is && s.Shell != nil:
			for out := s.Shell(command); len(out) > 0; {
				n := min(len(out), 64<<10)
				t.queue = append(t.queue, out[:n])
				out = out[n:]
			}
			t.ends = true
		case service == "sync:":
			t.sync = true
		default:
			return s.send("CLSE", 0, m.arg0, nil)
		}
		s.streams[t.id] = t
		if err := s.send("OKAY", t.id, t.peer, nil); err != nil {
			return err
		}
		return s.flow(t)
	}
	t := s.streams[m.arg1]
	if t == nil {
		return nil
	}
	switch m.command {
	case "OKAY":
		t.ready = true
		return s.flow(t)
	case "WRTE":
		if err := s.send("OKAY", t.id, t.peer, nil); err != nil {
			return err
		}
		t.input = append(t.input, m.payload...)
		for t.sync && s.syncStep(t) {
		}
		return s.flow(t)
	case "CLSE":
		delete(s.streams, t.id)
		return s.send("CLSE", t.id, t.peer, nil)
	}
	return nil
}

// flow sends what the stream has, one message at a time.
func (s *adbd) flow(t *adbStream) error {
	switch {
	case !t.ready:
	case len(t.queue) > 0:
		b := t.queue[0]
		t.queue, t.ready = t.queue[1:], false
		return s.send("WRTE", t.id, t.peer, b)
	case t.ends:
		t.ends = false
		return s.send("CLSE", t.id, t.peer, nil)
	}
	return nil
}

// syncStep handles one request of the sync service (SYNC.TXT), if it is whole.
func (s *adbd) syncStep(t *adbStream) bool {
	if len(t.input) < 8 {
		return false
	}
	id, n := string(t.input[:4]), binary.LittleEndian.Uint32(t.input[4:])
	body := t.input[8:]
	if id != "DONE" {
		if n > adbPayload || len(body) < int(n) {
			return false
		}
		body = body[:n]
	} else {
		body = nil
	}
	word := func(id string, words ...uint32) {
		b := []byte(id)
		for _, w := range words {
			b = binary.LittleEndian.AppendUint32(b, w)
		}
		t.queue = append(t.queue, b)
	}
	switch id {
	case "STAT":
		s.mu.Lock()
		data, known := s.files[string(body)]
		s.mu.Unlock()
		if known {
			word("STAT", 0o100644, uint32(len(data)), 0)
		} else {
			word("STAT", 0, 0, 0)
		}
	case "SEND":
		t.name, _, _ = strings.Cut(string(body), ",")
		t.data = nil
	case "DATA":
		t.data = append(t.data, body...)
	case "DONE":
		s.mu.Lock()
		s.files[t.name] = t.data
		s.mu.Unlock()
		t.data = nil
		word("OKAY", 0)
	case "QUIT":
		t.ends = true
	}
	t.input = slices.Delete(t.input, 0, 8+len(body))
	return true
}
