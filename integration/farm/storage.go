package farm

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"sync"
	"syscall"

	"github.com/lxbridge/lx/devices/usb"
	"github.com/lxbridge/lx/devices/usb/emul"
)

const sectorSize = 512

// medium is what a disk stores on.
type medium interface {
	io.ReaderAt
	io.WriterAt
	Size() int64
}

// Memory is a medium in memory.
type Memory struct {
	mu   sync.RWMutex
	data []byte
}

// NewMemory makes a medium of whole sectors.
func NewMemory(size int64) *Memory { return &Memory{data: make([]byte, size/sectorSize*sectorSize)} }

// Size implements medium.
func (m *Memory) Size() int64 { return int64(len(m.data)) }

// ReadAt implements io.ReaderAt.
func (m *Memory) ReadAt(p []byte, off int64) (int, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if off < 0 || off > int64(len(m.data))-int64(len(p)) {
		return 0, io.EOF
	}
	return copy(p, m.data[off:]), nil
}

// WriteAt implements io.WriterAt.
func (m *Memory) WriteAt(p []byte, off int64) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if off < 0 || off > int64(len(m.data))-int64(len(p)) {
		return 0, io.ErrShortWrite
	}
	return copy(m.data[off:], p), nil
}

// Disk is a memory stick.
func Disk(m medium, serial string) emul.Spec {
	d := &storage{medium: m, in: 0x81, out: 0x02, vendor: "lx", product: "farm disk"}
	return emul.Spec{
		Speed:  usb.SpeedHigh,
		Device: deviceDescriptor(0x1d6b, 0x0104, 0, 0, 0),
		Configurations: [][]byte{configDescriptor(1,
			interfaceDescriptor(0, 2, 8, 6, 0x50),
			endpointDescriptor(d.in, usb.Bulk, 512, 0), endpointDescriptor(d.out, usb.Bulk, 512, 0))},
		Strings: names("lx", "farm disk", serial),
		Control: d.control,
		Run:     d.run,
	}
}

// storage is the function of a disk: the bulk-only transport (USB mass storage
// class, revision 1.0) with the SCSI commands that hosts send (SPC-4, SBC-3).
type storage struct {
	medium
	in, out         usb.Address
	vendor, product string // of INQUIRY: at most 8 and 16 characters

	sense [3]byte // key, code, qualifier of the last command that failed
}

var (
	senseCommand  = [3]byte{5, 0x20, 0} // invalid command
	senseRange    = [3]byte{5, 0x21, 0} // block out of range
	senseField    = [3]byte{5, 0x24, 0} // invalid field
	senseHardware = [3]byte{4, 0x44, 0}
)

// control answers the class's requests.
func (s *storage) control(_ context.Context, d *emul.Device, q usb.Setup, data []byte) (int, error) {
	switch {
	case q.RequestType == usb.DirIn|usb.TypeClass|usb.ToInterface && q.Request == 0xfe && len(data) > 0: // GET MAX LUN
		data[0] = 0
		return 1, nil
	case q.RequestType == usb.TypeClass|usb.ToInterface && q.Request == 0xff: // BULK-ONLY RESET
		return 0, nil
	}
	return 0, syscall.EPIPE
}

// run takes commands until the device is configured anew.
func (s *storage) run(ctx context.Context, d *emul.Device) {
	in, out := d.Pipe(s.in), d.Pipe(s.out)
	for ctx.Err() == nil {
		var cbw [64]byte
		n, err := out.Read(ctx, cbw[:])
		if errors.Is(err, syscall.EPIPE) {
			err = out.Cleared(ctx)
			n = 0
		}
		if err != nil && !errors.Is(err, syscall.EOVERFLOW) {
			return
		}
		if n == 0 && err == nil {
			continue
		}
		size := cbw[14]
		if err != nil || n != 31 || string(cbw[:4]) != "USBC" || cbw[13] != 0 || size == 0 || size > 16 {
			in.Halt() // 6.6.1: until the reset recovery
			out.Halt()
			if out.Cleared(ctx) != nil {
				return
			}
			continue
		}
		if !s.command(ctx, in, out, &cbw) {
			return
		}
	}
}

// command does one command with its data and status; false: the device leaves.
func (s *storage) command(ctx context.Context, in, out *emul.Pipe, cbw *[64]byte) bool {
	want := int(binary.LittleEndian.Uint32(cbw[8:]))
	toHost := cbw[12]&0x80 != 0
	cdb := cbw[15:31]
	var status byte
	moved := 0
	if want == 0 || toHost {
		data, sense := s.read(cdb)
		if sense != ([3]byte{}) {
			s.sense, status = sense, 1
		}
		if len(data) > want {
			data = data[:want]
			if want == 0 {
				status = 2 // the device would have sent
			}
		}
		moved = len(data)
		if moved > 0 {
			if _, err := in.Write(ctx, data, false); err != nil && !errors.Is(err, syscall.EPIPE) {
				return false
			}
		}
		if moved < want && moved%512 == 0 { // nothing else ends the host's transfer (6.7.2)
			in.Halt()
			if in.Cleared(ctx) != nil {
				return false
			}
		}
	} else {
		data := make([]byte, min(want, 0xffff*sectorSize))
		for moved < want {
			n, err := out.Read(ctx, data[moved:])
			if err != nil {
				return false
			}
			if moved += n; n == 0 || moved == len(data) {
				break
			}
		}
		if sense := s.write(cdb, data[:moved]); sense != ([3]byte{}) {
			s.sense, status = sense, 1
		}
	}
	csw := make([]byte, 13)
	copy(csw, "USBS")
	copy(csw[4:], cbw[4:8])
	binary.LittleEndian.PutUint32(csw[8:], uint32(want-moved))
	csw[12] = status
	_, err := in.Write(ctx, csw, false)
	return err == nil
}

// extent is where a READ(10) or WRITE(10) goes.
func (s *storage) extent(cdb []byte) (at, size int64, ok bool) {
	at = int64(binary.BigEndian.Uint32(cdb[2:])) * sectorSize
	size = int64(binary.BigEndian.Uint16(cdb[7:])) * sectorSize
	return at, size, at+size <= s.Size()
}

// read does a command that sends data to the host, or none.
func (s *storage) read(cdb []byte) (data []byte, sense [3]byte) {
	switch cdb[0] {
	case 0x00, 0x1b, 0x1e, 0x35: // TEST UNIT READY, START STOP, PREVENT REMOVAL, SYNCHRONIZE CACHE
		return nil, sense
	case 0x03: // REQUEST SENSE
		b := make([]byte, 18)
		b[0], b[2], b[7], b[12], b[13] = 0x70, s.sense[0], 10, s.sense[1], s.sense[2]
		s.sense = [3]byte{}
		return b[:min(len(b), int(cdb[4]))], sense
	case 0x12: // INQUIRY
		if cdb[1] != 0 {
			return nil, senseField // no vital product data
		}
		b := make([]byte, 36)
		b[1], b[2], b[3], b[4] = 0x80, 4, 2, 31
		copy(b[8:], "                            ")
		copy(b[8:16], s.vendor)
		copy(b[16:32], s.product)
		copy(b[32:], "1   ")
		return b[:min(len(b), int(cdb[4]))], sense
	case 0x1a: // MODE SENSE(6): nothing to tell
		return []byte{3, 0, 0, 0}[:min(4, int(cdb[4]))], sense
	case 0x23: // READ FORMAT CAPACITIES
		b := make([]byte, 12)
		b[3] = 8
		binary.BigEndian.PutUint32(b[4:], uint32(s.Size()/sectorSize))
		binary.BigEndian.PutUint32(b[8:], 2<<24|sectorSize)
		return b, sense
	case 0x25: // READ CAPACITY(10)
		b := make([]byte, 8)
		binary.BigEndian.PutUint32(b, uint32(s.Size()/sectorSize-1))
		binary.BigEndian.PutUint32(b[4:], sectorSize)
		return b, sense
	case 0x28: // READ(10)
		at, size, ok := s.extent(cdb)
		if !ok {
			return nil, senseRange
		}
		b := make([]byte, size)
		if _, err := s.ReadAt(b, at); err != nil {
			return nil, senseHardware
		}
		return b, sense
	}
	return nil, senseCommand
}

// write does a command that takes data of the host's.
func (s *storage) write(cdb, data []byte) (sense [3]byte) {
	if cdb[0] != 0x2a { // WRITE(10)
		return senseCommand
	}
	at, size, ok := s.extent(cdb)
	if !ok || size != int64(len(data)) {
		return senseRange
	}
	if _, err := s.WriteAt(data, at); err != nil {
		return senseHardware
	}
	return sense
}
