package usb

import (
	"encoding/binary"
	"fmt"
)

// Types of descriptors.
const (
	DescDevice        = 1
	DescConfiguration = 2
	DescString        = 3
	DescInterface     = 4
	DescEndpoint      = 5
	DescQualifier     = 6
	DescAssociation   = 11
	DescBOS           = 15
	DescCompanion     = 48
)

// Bounds on what a device may describe, as the kernel has them (drivers/usb/core/config.c).
const (
	maxConfigurations = 8
	maxInterfaces     = 32
	maxAlternates     = 128
	maxEndpoints      = 30

	deviceSize    = 18
	configSize    = 9
	interfaceSize = 9
	endpointSize  = 7
)

// DeviceDescriptor is a device's first descriptor (USB 2.0, table 9-8).
type DeviceDescriptor struct {
	USB                        uint16 // BCD
	Class, SubClass, Protocol  uint8
	MaxPacket0                 uint8
	Vendor, Product, Release   uint16
	IManufacturer, IProduct    uint8
	ISerial, NumConfigurations uint8
	Raw                        []byte // as it came
}

// Configuration is a configuration with its interfaces.
type Configuration struct {
	Value, Attributes, MaxPower uint8 // MaxPower as it is: in 2 or 8 mA
	IConfiguration              uint8
	Interfaces                  []Interface // ascending by number
	// Raw is what ReadConfiguration answers, with wTotalLength and bNumInterfaces
	// made to tell what is there.
	Raw []byte
}

// Interface is an interface with its alternate settings, as they came.
type Interface struct {
	Number     uint8
	Alternates []Alternate
}

// Alternate is one setting of an interface.
type Alternate struct {
	Interface, Alternate      uint8
	Class, SubClass, Protocol uint8
	IInterface                uint8
	Endpoints                 []Endpoint
}

// Endpoint is what a setting says of an endpoint.
type Endpoint struct {
	Address       Address
	Kind          Kind
	Attributes    uint8
	MaxPacketSize uint16 // wMaxPacketSize as it is
	Interval      uint8
	Burst         uint8 // bMaxBurst
	MaxStreams    int
}

// MaxPacket is the size of a packet in bytes.
func (e Endpoint) MaxPacket() int { return int(e.MaxPacketSize & 0x7ff) }

// ParseDevice reads a device descriptor.
func ParseDevice(b []byte) (DeviceDescriptor, error) {
	if len(b) < deviceSize || b[0] < deviceSize || b[1] != DescDevice {
		return DeviceDescriptor{}, fmt.Errorf("cannot read a device descriptor: malformed, %d bytes", len(b))
	}
	le := binary.LittleEndian
	d := DeviceDescriptor{
		USB: le.Uint16(b[2:]), Class: b[4], SubClass: b[5], Protocol: b[6], MaxPacket0: b[7],
		Vendor: le.Uint16(b[8:]), Product: le.Uint16(b[10:]), Release: le.Uint16(b[12:]),
		IManufacturer: b[14], IProduct: b[15], ISerial: b[16], NumConfigurations: b[17],
		Raw: append([]byte(nil), b[:deviceSize]...),
	}
	if d.NumConfigurations > maxConfigurations {
		return d, fmt.Errorf("cannot read a device descriptor: %d configurations, expected at most %d", d.NumConfigurations, maxConfigurations)
	}
	return d, nil
}

// ParseConfiguration reads a configuration descriptor and those that follow it.
// As the kernel does it ends at the first whose length cannot be, and leaves out
// endpoints that cannot be; what exceeds the bounds, and interfaces or settings
// that come twice, are refused.
func ParseConfiguration(b []byte) (Configuration, error) {
	fail := func(format string, args ...any) (Configuration, error) {
		return Configuration{}, fmt.Errorf("cannot read a configuration descriptor: "+format, args...)
	}
	if len(b) < configSize || b[0] < configSize || int(b[0]) > len(b) || b[1] != DescConfiguration {
		return fail("malformed, %d bytes", len(b))
	}
	b = b[:min(len(b), int(binary.LittleEndian.Uint16(b[2:])))]
	if len(b) < configSize || len(b) < int(b[0]) {
		return fail("wTotalLength is %d", len(b))
	}
	c := Configuration{Value: b[5], IConfiguration: b[6], Attributes: b[7], MaxPower: b[8]}
	alternates := 0
	var alt *Alternate
	var ep *Endpoint
	end := int(b[0])
	for len(b)-end >= 2 {
		d := b[end:]
		n := int(d[0])
		if n < 2 || n > len(d) {
			break
		}
		d, end = d[:n], end+n
		switch d[1] {
		case DescDevice, DescConfiguration:
			return fail("it holds a descriptor of type %d", d[1])
		case DescInterface:
			if n < interfaceSize {
				return fail("an interface of %d bytes", n)
			}
			if alternates++; alternates > maxAlternates {
				return fail("more than %d settings", maxAlternates)
			}
			a := Alternate{Interface: d[2], Alternate: d[3], Class: d[5], SubClass: d[6], Protocol: d[7], IInterface: d[8]}
			var err error
			if alt, err = c.add(a); err != nil {
				return fail("%w", err)
			}
			ep = nil
		case DescEndpoint:
			ep = nil
			if alt == nil || n < endpointSize || d[2]&0x70 != 0 || d[2]&0x0f == 0 || alt.Endpoint(Address(d[2])) != nil {
				continue
			}
			if len(alt.Endpoints) == maxEndpoints {
				return fail("more than %d endpoints", maxEndpoints)
			}
			alt.Endpoints = append(alt.Endpoints, Endpoint{
				Address: Address(d[2]), Attributes: d[3], Kind: Kind(d[3] & 3),
				MaxPacketSize: binary.LittleEndian.Uint16(d[4:]), Interval: d[6],
			})
			ep = &alt.Endpoints[len(alt.Endpoints)-1]
		case DescCompanion:
			if ep != nil && n >= 6 {
				ep.Burst = min(d[2], 15)
				if streams := d[3] & 0x1f; ep.Kind == Bulk && streams > 0 {
					ep.MaxStreams = 1 << min(streams, 16)
				}
			}
			ep = nil
		}
	}
	c.Raw = append([]byte(nil), b[:end]...)
	binary.LittleEndian.PutUint16(c.Raw[2:], uint16(end))
	c.Raw[4] = uint8(len(c.Interfaces))
	return c, nil
}

// add takes a setting to its interface.
func (c *Configuration) add(a Alternate) (*Alternate, error) {
	at := len(c.Interfaces)
	for i := range c.Interfaces {
		if c.Interfaces[i].Number >= a.Interface {
			at = i
			break
		}
	}
	if at == len(c.Interfaces) || c.Interfaces[at].Number != a.Interface {
		if len(c.Interfaces) == maxInterfaces || a.Interface >= maxInterfaces {
			return nil, fmt.Errorf("interface %d: at most %d can be", a.Interface, maxInterfaces)
		}
		c.Interfaces = append(c.Interfaces, Interface{})
		copy(c.Interfaces[at+1:], c.Interfaces[at:])
		c.Interfaces[at] = Interface{Number: a.Interface}
	}
	i := &c.Interfaces[at]
	if i.Alternate(a.Alternate) != nil {
		return nil, fmt.Errorf("setting %d of interface %d comes twice", a.Alternate, a.Interface)
	}
	i.Alternates = append(i.Alternates, a)
	return &i.Alternates[len(i.Alternates)-1], nil
}

// Interface finds an interface by its number; nil: there is none.
func (c *Configuration) Interface(number uint8) *Interface {
	for i := range c.Interfaces {
		if c.Interfaces[i].Number == number {
			return &c.Interfaces[i]
		}
	}
	return nil
}

// Alternate finds a setting by its number; nil: there is none.
func (i *Interface) Alternate(number uint8) *Alternate {
	for n := range i.Alternates {
		if i.Alternates[n].Alternate == number {
			return &i.Alternates[n]
		}
	}
	return nil
}

// Endpoint finds an endpoint by its address; nil: there is none.
func (a *Alternate) Endpoint(addr Address) *Endpoint {
	for n := range a.Endpoints {
		if a.Endpoints[n].Address == addr {
			return &a.Endpoints[n]
		}
	}
	return nil
}
