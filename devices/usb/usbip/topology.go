package usbip

import "github.com/lxbridge/lx/devices/usb"

// topology is which endpoints a device has now.
type topology struct {
	desc   *usb.Description
	active *usb.Configuration // nil: unconfigured
	alts   map[uint8]uint8    // by interface; those that are not here are 0
}

func (t *topology) configuration(value uint8) *usb.Configuration {
	for i := range t.desc.Configurations {
		if c := &t.desc.Configurations[i]; c.Value == value && value != 0 {
			return c
		}
	}
	return nil
}

// configure takes a configuration's first settings; nil: none.
func (t *topology) configure(c *usb.Configuration) {
	t.active, t.alts = c, map[uint8]uint8{}
}

// alternate is a setting of the active configuration; nil: there is none.
func (t *topology) alternate(iface, alt uint8) *usb.Alternate {
	if t.active == nil {
		return nil
	}
	i := t.active.Interface(iface)
	if i == nil {
		return nil
	}
	return i.Alternate(alt)
}

// endpoints are those in use, without endpoint 0.
func (t *topology) endpoints() (list []usb.Endpoint) {
	if t.active == nil {
		return nil
	}
	for i := range t.active.Interfaces {
		number := t.active.Interfaces[i].Number
		if a := t.alternate(number, t.alts[number]); a != nil {
			list = append(list, a.Endpoints...)
		}
	}
	return list
}
