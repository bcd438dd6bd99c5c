package farm

import (
	"context"
	"errors"
	"sync"
	"syscall"

	"github.com/lxbridge/lx/devices/usb"
	"github.com/lxbridge/lx/devices/usb/emul"
)

// Modem is a serial port of the communications class (CDC 1.2, PSTN 1.2: ACM) that sends
// back what it gets.
type Modem struct {
	Serial string

	mu     sync.Mutex
	coding [7]byte // SET_LINE_CODING
	lines  uint16  // SET_CONTROL_LINE_STATE
}

// Line is the line coding and the state of DTR and RTS, as the host has set them.
func (m *Modem) Line() (coding [7]byte, lines uint16) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.coding, m.lines
}

// Spec is the device.
func (m *Modem) Spec() emul.Spec {
	m.coding = [7]byte{0x80, 0x25, 0, 0, 0, 0, 8} // 9600 8N1
	return emul.Spec{
		Speed:  usb.SpeedHigh,
		Device: deviceDescriptor(0x1d6b, 0x0137, 2, 0, 0),
		Configurations: [][]byte{configDescriptor(2,
			interfaceDescriptor(0, 1, 2, 2, 1),
			[]byte{5, 0x24, 0, 0x10, 1, 5, 0x24, 1, 0, 1, 4, 0x24, 2, 2, 5, 0x24, 6, 0, 1}, // header, call management, ACM, union
			endpointDescriptor(0x82, usb.Interrupt, 10, 9),
			interfaceDescriptor(1, 2, 0x0a, 0, 0),
			endpointDescriptor(0x81, usb.Bulk, 512, 0), endpointDescriptor(0x01, usb.Bulk, 512, 0))},
		Strings: names("lx", "farm modem", m.Serial),
		Control: m.control,
		Run:     echo,
	}
}

func (m *Modem) control(_ context.Context, _ *emul.Device, q usb.Setup, data []byte) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case q.RequestType == usb.TypeClass|usb.ToInterface && q.Request == 0x20 && len(data) == len(m.coding): // SET_LINE_CODING
		copy(m.coding[:], data)
		return 0, nil
	case q.RequestType == usb.DirIn|usb.TypeClass|usb.ToInterface && q.Request == 0x21: // GET_LINE_CODING
		return copy(data, m.coding[:]), nil
	case q.RequestType == usb.TypeClass|usb.ToInterface && q.Request == 0x22: // SET_CONTROL_LINE_STATE
		m.lines = q.Value
		return 0, nil
	}
	return 0, syscall.EPIPE
}

// echo sends back what comes at 0x01.
func echo(ctx context.Context, d *emul.Device) {
	in, out := d.Pipe(0x81), d.Pipe(0x01)
	b := make([]byte, 16<<10)
	for {
		n, err := out.Read(ctx, b[:512])
		switch {
		case errors.Is(err, syscall.EPIPE) && out.Cleared(ctx) == nil:
			continue
		case err != nil:
			return
		case n == 0:
			continue
		}
		if _, err := in.Write(ctx, b[:n], true); err != nil && !errors.Is(err, syscall.EPIPE) {
			return
		}
	}
}

// Keyboard is one of the boot protocol (HID 1.11, appendix B).
type Keyboard struct {
	Serial string
	// Reports are sent one after another, each of 8 bytes.
	Reports chan [8]byte

	mu   sync.Mutex
	leds byte
}

// keyboardReport is the descriptor of appendix B.1.
var keyboardReport = []byte{
	0x05, 0x01, 0x09, 0x06, 0xa1, 0x01, 0x05, 0x07, 0x19, 0xe0, 0x29, 0xe7, 0x15, 0x00, 0x25, 0x01,
	0x75, 0x01, 0x95, 0x08, 0x81, 0x02, 0x95, 0x01, 0x75, 0x08, 0x81, 0x01, 0x95, 0x05, 0x75, 0x01,
	0x05, 0x08, 0x19, 0x01, 0x29, 0x05, 0x91, 0x02, 0x95, 0x01, 0x75, 0x03, 0x91, 0x01, 0x95, 0x06,
	0x75, 0x08, 0x15, 0x00, 0x25, 0x65, 0x05, 0x07, 0x19, 0x00, 0x29, 0x65, 0x81, 0x00, 0xc0,
}

// LEDs is what the host has lit.
func (k *Keyboard) LEDs() byte {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.leds
}

// Spec is the device.
func (k *Keyboard) Spec() emul.Spec {
	hid := []byte{9, 0x21, 0x11, 1, 0, 1, 0x22, byte(len(keyboardReport)), 0}
	return emul.Spec{
		Speed:  usb.SpeedFull,
		Device: deviceDescriptor(0x1d6b, 0x0138, 0, 0, 0),
		Configurations: [][]byte{configDescriptor(1,
			interfaceDescriptor(0, 1, 3, 1, 1), hid, endpointDescriptor(0x81, usb.Interrupt, 8, 10))},
		Strings: names("lx", "farm keyboard", k.Serial),
		Control: func(_ context.Context, _ *emul.Device, q usb.Setup, data []byte) (int, error) {
			switch {
			case q.RequestType == usb.DirIn|usb.ToInterface && q.Request == usb.ReqGetDescriptor && q.Value == 0x2200:
				return copy(data, keyboardReport), nil
			case q.RequestType == usb.TypeClass|usb.ToInterface && q.Request == 9 && len(data) == 1: // SET_REPORT
				k.mu.Lock()
				k.leds = data[0]
				k.mu.Unlock()
				return 0, nil
			case q.RequestType == usb.TypeClass|usb.ToInterface && (q.Request == 10 || q.Request == 11): // SET_IDLE, SET_PROTOCOL
				return 0, nil
			}
			return 0, syscall.EPIPE
		},
		Run: func(ctx context.Context, d *emul.Device) {
			for {
				select {
				case <-ctx.Done():
					return
				case r := <-k.Reports:
					if _, err := d.Pipe(0x81).Write(ctx, r[:], false); err != nil {
						return
					}
				}
			}
		},
	}
}
