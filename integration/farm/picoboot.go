package farm

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"sync"
	"syscall"
	"time"

	"github.com/lxbridge/lx/devices/usb"
	"github.com/lxbridge/lx/devices/usb/emul"
)

const (
	picoFlash     = 0x10000000
	picoFlashSize = 2 << 20
	picoRAM       = 0x20000000
	picoRAMSize   = 264 << 10
	picoROMSize   = 16 << 10
)

// PICOBOOT's endpoints (RP2040 datasheet, 2.8.5).
const (
	picoOut = usb.Address(0x03)
	picoIn  = usb.Address(0x84)
)

// Its status codes.
const (
	picoOK            = 0
	picoUnknown       = 1
	picoArguments     = 2
	picoLength        = 3
	picoAddress       = 4
	picoAlignment     = 5
	picoRebooting     = 7
	picoUnknownFailed = 8
)

// Pico is an RP2040 in BOOTSEL mode: a volume that takes UF2 files, and PICOBOOT.
type Pico struct {
	Serial string // 12 hexadecimal digits
	// Reboot is called when the chip leaves BOOTSEL mode; nil: it only says so.
	Reboot func()

	mu        sync.Mutex
	flash     []byte
	ram       []byte
	written   map[uint32]bool // blocks of the UF2 file that comes
	status    [16]byte
	rebooting bool
}

// Flash is a copy of the flash memory.
func (p *Pico) Flash() []byte {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]byte(nil), p.flash...)
}

func mustHex(s string) []byte {
	b, err := hex.DecodeString(s)
	if err != nil {
		panic(err)
	}
	return b
}

// Spec is the device, with the descriptors of the B1 boot ROM.
func (p *Pico) Spec() emul.Spec {
	p.flash, p.ram, p.written = make([]byte, picoFlashSize), make([]byte, picoRAMSize), map[uint32]bool{}
	for i := range p.flash {
		p.flash[i] = 0xff
	}
	disk := &storage{medium: picoVolume{p}, in: 0x81, out: 0x02, vendor: "RPI", product: "RP2"}
	return emul.Spec{
		Speed:  usb.SpeedFull,
		Device: mustHex("12011001000000408a2e0300000101020301"),
		Configurations: [][]byte{mustHex("0902370002010080fa" + "0904000002080650000705810240000007050202400000" +
			"0904010002ff00000007050302400000" + "07058402400000")},
		Strings: names("Raspberry Pi", "RP2 Boot", p.Serial),
		Control: func(ctx context.Context, d *emul.Device, q usb.Setup, data []byte) (int, error) {
			switch {
			case q.RequestType == usb.TypeVendor|usb.ToInterface && q.Request == 0x41: // INTERFACE_RESET
				p.mu.Lock()
				p.status = [16]byte{}
				p.mu.Unlock()
				return 0, errors.Join(d.ClearHalt(ctx, picoOut), d.ClearHalt(ctx, picoIn))
			case q.RequestType == usb.DirIn|usb.TypeVendor|usb.ToInterface && q.Request == 0x42: // GET_COMMAND_STATUS
				p.mu.Lock()
				defer p.mu.Unlock()
				return copy(data, p.status[:]), nil
			}
			return disk.control(ctx, d, q, data)
		},
		Run: func(ctx context.Context, d *emul.Device) {
			var group sync.WaitGroup
			defer group.Wait()
			group.Go(func() { disk.run(ctx, d) })
			p.run(ctx, d)
		},
	}
}

// run answers PICOBOOT's commands.
func (p *Pico) run(ctx context.Context, d *emul.Device) {
	in, out := d.Pipe(picoIn), d.Pipe(picoOut)
	for {
		var b [64]byte
		n, err := out.Read(ctx, b[:32])
		switch {
		case errors.Is(err, syscall.EPIPE) && out.Cleared(ctx) == nil:
			continue
		case err != nil:
			return
		case n == 0: // the acknowledgement of what was read
			continue
		}
		le := binary.LittleEndian
		id, args, size := b[8], b[16:32], le.Uint32(b[12:])
		var code uint32 = picoUnknown
		var reply []byte
		if n == 32 && le.Uint32(b[:]) == 0x431fd10b {
			code, reply = p.check(id, b[9], size, args)
		}
		p.setStatus(b[4:8], code, id)
		if code == picoOK && id&0x80 == 0 {
			data := make([]byte, size)
			for at := 0; at < len(data); {
				n, err := out.Read(ctx, data[at:])
				if err != nil {
					return
				}
				at += n
			}
			code = p.execute(id, args, data)
			p.setStatus(b[4:8], code, id)
		}
		if code != picoOK {
			in.Halt()
			out.Halt()
			if out.Cleared(ctx) != nil || in.Cleared(ctx) != nil {
				return
			}
			continue
		}
		// Data of the device's, or an empty packet that acknowledges the host's.
		if _, err := in.Write(ctx, reply, false); err != nil {
			return
		}
		if id == 0x02 {
			p.leave(time.Duration(le.Uint32(args[8:])) * time.Millisecond)
		}
	}
}

func (p *Pico) setStatus(token []byte, code uint32, id byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	copy(p.status[:], token)
	binary.LittleEndian.PutUint32(p.status[4:], code)
	p.status[8] = id
}

// leave ends BOOTSEL mode, once, after a time.
func (p *Pico) leave(after time.Duration) {
	p.mu.Lock()
	first := !p.rebooting
	p.rebooting = true
	p.mu.Unlock()
	if first && p.Reboot != nil {
		time.AfterFunc(min(after, 10*time.Second), p.Reboot)
	}
}

// picoArgs are the sizes of the commands' arguments.
var picoArgs = map[byte]byte{0x01: 1, 0x02: 12, 0x03: 8, 0x84: 8, 0x05: 8, 0x06: 0, 0x07: 0, 0x08: 4, 0x09: 4}

// check judges a command and answers what it reads.
func (p *Pico) check(id, argSize byte, size uint32, args []byte) (code uint32, reply []byte) {
	want, known := picoArgs[id]
	addr, length := binary.LittleEndian.Uint32(args), binary.LittleEndian.Uint32(args[4:])
	p.mu.Lock()
	defer p.mu.Unlock()
	inFlash := addr >= picoFlash && uint64(addr)+uint64(length) <= picoFlash+picoFlashSize
	switch {
	case !known:
		return picoUnknown, nil
	case argSize != want:
		return picoArguments, nil
	case p.rebooting:
		return picoRebooting, nil
	case id != 0x84 && id != 0x05:
		if size != 0 {
			return picoLength, nil
		}
		if id == 0x03 && !inFlash {
			return picoAddress, nil
		}
		if id == 0x03 && (addr|length)%4096 != 0 {
			return picoAlignment, nil
		}
		return picoOK, nil
	case size != length:
		return picoLength, nil
	case inFlash && id == 0x05 && addr%256 != 0:
		return picoAlignment, nil
	}
	place := p.place(addr, length)
	if place == nil && (id == 0x05 || uint64(addr)+uint64(length) > picoROMSize) {
		return picoAddress, nil
	}
	if id == 0x05 {
		return picoOK, nil
	}
	reply = make([]byte, length) // the ROM is all zeros here
	copy(reply, place)
	return picoOK, reply
}

// place is memory; nil: not flash and not RAM. p.mu is held.
func (p *Pico) place(addr, length uint32) []byte {
	for base, memory := range map[uint32][]byte{picoFlash: p.flash, picoRAM: p.ram} {
		if end := uint64(addr) + uint64(length); addr >= base && end <= uint64(base)+uint64(len(memory)) {
			return memory[addr-base : end-uint64(base)]
		}
	}
	return nil
}

// execute does a command that check has passed.
func (p *Pico) execute(id byte, args, data []byte) uint32 {
	addr, length := binary.LittleEndian.Uint32(args), binary.LittleEndian.Uint32(args[4:])
	p.mu.Lock()
	defer p.mu.Unlock()
	switch id {
	case 0x03:
		for i, place := 0, p.place(addr, length); i < len(place); i++ {
			place[i] = 0xff
		}
	case 0x05:
		place := p.place(addr, length)
		if addr < picoRAM { // flash: bits are only taken away
			for i, b := range data {
				place[i] &= b
			}
			return picoOK
		}
		copy(place, data)
	case 0x08:
		return picoUnknownFailed // there is no processor here
	}
	return picoOK
}

// picoVolume is the FAT16 volume of BOOTSEL mode: what is read is made up, and of
// what is written only UF2 blocks count.
type picoVolume struct{ *Pico }

const (
	picoSectors    = 128 << 20 / sectorSize
	picoPerCluster = 8
	picoPerFAT     = 129
	picoRoot       = 1 + 1 + 2*picoPerFAT // sectors, from the volume's start at 1
	picoData       = picoRoot + 512*32/sectorSize
)

var picoFiles = []struct{ name, text string }{
	{"INDEX   HTM", "<html><head><meta http-equiv=\"refresh\" content=\"0;URL='https://raspberrypi.com/device/RP2?version=E0C9125B0D9B'\"/></head><body>Redirecting</body></html>\n"},
	{"INFO_UF2TXT", "UF2 Bootloader v3.0\nModel: Raspberry Pi RP2\nBoard-ID: RPI-RP2\n"},
}

// Size implements medium.
func (v picoVolume) Size() int64 { return picoSectors * sectorSize }

// ReadAt implements io.ReaderAt for whole sectors.
func (v picoVolume) ReadAt(b []byte, off int64) (int, error) {
	if off%sectorSize != 0 || len(b)%sectorSize != 0 || off+int64(len(b)) > v.Size() {
		return 0, io.EOF
	}
	for i := 0; i < len(b); i += sectorSize {
		v.sector(b[i:i+sectorSize], off/sectorSize+int64(i)/sectorSize)
	}
	return len(b), nil
}

// sector makes up a sector.
func (v picoVolume) sector(b []byte, n int64) {
	clear(b)
	le := binary.LittleEndian
	switch {
	case n == 0: // one partition, FAT16 by blocks
		e := b[446:]
		e[4] = 0x0e
		le.PutUint32(e[8:], 1)
		le.PutUint32(e[12:], picoSectors-1)
		le.PutUint16(b[510:], 0xaa55)
	case n == 1:
		copy(b, "\xeb\x3c\x90MSWIN4.1")
		le.PutUint16(b[11:], sectorSize)
		b[13] = picoPerCluster
		le.PutUint16(b[14:], 1) // reserved
		b[16] = 2               // FATs
		le.PutUint16(b[17:], 512)
		b[21] = 0xf8
		le.PutUint16(b[22:], picoPerFAT)
		le.PutUint16(b[24:], 1)
		le.PutUint16(b[26:], 1)
		le.PutUint32(b[28:], 1)
		le.PutUint32(b[32:], picoSectors-1)
		b[36], b[38] = 0x80, 0x29
		copy(b[43:], "RPI-RP2    FAT16   ")
		le.PutUint16(b[510:], 0xaa55)
	case n == 2 || n == 2+picoPerFAT: // each file is one cluster
		for i, e := range []uint16{0xfff8, 0xffff, 0xffff, 0xffff} {
			le.PutUint16(b[2*i:], e)
		}
	case n == picoRoot:
		copy(b, "RPI-RP2    \x08")
		for i, f := range picoFiles {
			e := b[32*(i+1):]
			copy(e, f.name)
			e[11] = 1 // read-only
			le.PutUint16(e[26:], uint16(2+i))
			le.PutUint32(e[28:], uint32(len(f.text)))
		}
	case n >= picoData && n < picoData+int64(len(picoFiles))*picoPerCluster && (n-picoData)%picoPerCluster == 0:
		copy(b, picoFiles[(n-picoData)/picoPerCluster].text)
	}
}

// WriteAt implements io.WriterAt for whole sectors.
func (v picoVolume) WriteAt(b []byte, off int64) (int, error) {
	if off%sectorSize != 0 || len(b)%sectorSize != 0 {
		return 0, fmt.Errorf("not whole sectors")
	}
	for i := 0; i < len(b); i += sectorSize {
		v.block(b[i : i+sectorSize])
	}
	return len(b), nil
}

// block takes a block of UF2 (github.com/microsoft/uf2), if it is one for this chip.
func (v picoVolume) block(b []byte) {
	le := binary.LittleEndian
	flags, addr, size := le.Uint32(b[8:]), le.Uint32(b[12:]), le.Uint32(b[16:])
	if le.Uint32(b) != 0x0a324655 || le.Uint32(b[4:]) != 0x9e5d5157 || le.Uint32(b[508:]) != 0x0ab16f30 ||
		flags&1 != 0 || flags&0x2000 == 0 || le.Uint32(b[28:]) != 0xe48bff56 || size != 256 {
		return
	}
	v.mu.Lock()
	place := v.place(addr, size)
	copy(place, b[32:])
	if place != nil {
		v.written[le.Uint32(b[20:])] = true
	}
	done := len(v.written) > 0 && uint32(len(v.written)) == le.Uint32(b[24:])
	v.mu.Unlock()
	if done {
		v.leave(time.Second)
	}
}
