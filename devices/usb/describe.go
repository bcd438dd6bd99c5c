package usb

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"syscall"
	"time"
	"unicode/utf16"
)

// Description is all that a device says of itself.
type Description struct {
	Speed          Speed
	Device         DeviceDescriptor
	Configurations []Configuration
	Strings        map[uint8]string // those that a descriptor names
	BOS            []byte           // nil: none
}

// maxStrings bounds the strings that are read of a device.
const maxStrings = 64

// answerTime is how long a device may take for one descriptor.
const answerTime = 5 * time.Second

// Describe asks a device for its descriptors. It may be unconfigured.
func Describe(ctx context.Context, d Device) (*Description, error) {
	r := reader{ctx, d}
	raw, err := r.descriptor(DescDevice, 0, 0, deviceSize)
	if err != nil {
		return nil, fmt.Errorf("cannot read the device descriptor: %w", err)
	}
	desc := &Description{Speed: d.Speed(), Strings: map[uint8]string{}}
	if desc.Device, err = ParseDevice(raw); err != nil {
		return nil, err
	}
	for i := range desc.Device.NumConfigurations {
		c, err := r.configuration(i)
		if err != nil {
			return nil, fmt.Errorf("cannot read configuration %d: %w", i, err)
		}
		if desc.Configuration(c.Value) != nil {
			return nil, fmt.Errorf("cannot use the device: configuration %d comes twice", c.Value)
		}
		desc.Configurations = append(desc.Configurations, c)
	}
	if desc.Device.USB >= 0x0201 {
		desc.BOS = r.bos()
	}
	return desc, r.strings(desc)
}

// Configuration finds a configuration by its value; nil: there is none.
func (d *Description) Configuration(value uint8) *Configuration {
	for i := range d.Configurations {
		if d.Configurations[i].Value == value {
			return &d.Configurations[i]
		}
	}
	return nil
}

// Raw is the device descriptor and all configurations, as usbfs's read(2) and
// sysfs's descriptors give them.
func (d *Description) Raw() []byte {
	b := append([]byte(nil), d.Device.Raw...)
	for _, c := range d.Configurations {
		b = append(b, c.Raw...)
	}
	return b
}

// reader asks one device.
type reader struct {
	ctx context.Context
	dev Device
}

func (r reader) descriptor(kind, index uint8, lang uint16, size int) ([]byte, error) {
	ctx, cancel := context.WithTimeout(r.ctx, answerTime)
	defer cancel()
	b := make([]byte, size)
	n, err := ControlTransfer(ctx, r.dev, DirIn, ReqGetDescriptor, uint16(kind)<<8|uint16(index), lang, b)
	if err != nil {
		return nil, err
	}
	b = b[:n]
	if n < 2 || b[1] != kind {
		return nil, fmt.Errorf("malformed, %d bytes: %w", n, syscall.EPROTO)
	}
	return b, nil
}

func (r reader) configuration(i uint8) (Configuration, error) {
	head, err := r.descriptor(DescConfiguration, i, 0, configSize)
	if err != nil {
		return Configuration{}, err
	}
	if len(head) < configSize {
		return Configuration{}, fmt.Errorf("%d bytes came: %w", len(head), syscall.EPROTO)
	}
	size := max(configSize, int(binary.LittleEndian.Uint16(head[2:])))
	b, err := r.descriptor(DescConfiguration, i, 0, size)
	if err != nil {
		return Configuration{}, err
	}
	return ParseConfiguration(b)
}

// bos is the binary object store; a device that has none is none the worse.
func (r reader) bos() []byte {
	head, err := r.descriptor(DescBOS, 0, 0, 5)
	if err != nil || len(head) < 5 {
		return nil
	}
	b, err := r.descriptor(DescBOS, 0, 0, max(5, int(binary.LittleEndian.Uint16(head[2:]))))
	if err != nil {
		return nil
	}
	return b
}

// strings reads the strings that desc names, in the device's first language. One
// that cannot be read is left out, for devices name what they do not have.
func (r reader) strings(desc *Description) error {
	index := []uint8{desc.Device.IManufacturer, desc.Device.IProduct, desc.Device.ISerial}
	for _, c := range desc.Configurations {
		index = append(index, c.IConfiguration)
		for _, i := range c.Interfaces {
			for _, a := range i.Alternates {
				index = append(index, a.IInterface)
			}
		}
	}
	var lang uint16
	for _, i := range index {
		if _, known := desc.Strings[i]; i == 0 || known || len(desc.Strings) == maxStrings {
			continue
		}
		if lang == 0 {
			b, err := r.descriptor(DescString, 0, 0, 255)
			if err != nil || len(b) < 4 {
				return r.lost(err)
			}
			lang = binary.LittleEndian.Uint16(b[2:])
		}
		b, err := r.descriptor(DescString, i, lang, 255)
		if err := r.lost(err); err != nil {
			return err
		}
		desc.Strings[i] = decodeString(b)
	}
	return nil
}

// lost is err where it says that the device is gone, or nobody waits any more.
func (r reader) lost(err error) error {
	if err != nil && (errors.Is(err, syscall.ESHUTDOWN) || errors.Is(err, syscall.ENODEV) || r.ctx.Err() != nil) {
		return fmt.Errorf("cannot read the device's strings: %w", err)
	}
	return nil
}

// decodeString is the text of a string descriptor.
func decodeString(b []byte) string {
	if len(b) < 2 {
		return ""
	}
	b = b[2:min(len(b), max(2, int(b[0])))]
	u := make([]uint16, len(b)/2)
	for i := range u {
		u[i] = binary.LittleEndian.Uint16(b[2*i:])
	}
	return string(utf16.Decode(u))
}
