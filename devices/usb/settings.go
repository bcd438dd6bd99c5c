package usb

// Settings is which of its configurations and alternate settings a device is in.
// Who has it guards it. The zero value has none.
type Settings struct {
	Configurations []Configuration
	Active         *Configuration  // nil: unconfigured
	alts           map[uint8]uint8 // by interface; those that are not here are 0
}

// Configuration is the one of that value; nil: there is none.
func (s *Settings) Configuration(value uint8) *Configuration {
	for i := range s.Configurations {
		if c := &s.Configurations[i]; c.Value == value && value != 0 {
			return c
		}
	}
	return nil
}

// Configure takes a configuration in its first settings; nil: none.
func (s *Settings) Configure(c *Configuration) {
	s.Active, s.alts = c, map[uint8]uint8{}
}

// Alternate is a setting of the active configuration; nil: there is none.
func (s *Settings) Alternate(iface, alt uint8) *Alternate {
	if s.Active == nil {
		return nil
	}
	i := s.Active.Interface(iface)
	if i == nil {
		return nil
	}
	return i.Alternate(alt)
}

// Current is the setting that an interface is in; nil: there is none.
func (s *Settings) Current(iface uint8) *Alternate { return s.Alternate(iface, s.alts[iface]) }

// Set takes an alternate setting.
func (s *Settings) Set(iface, alt uint8) {
	if s.Alternate(iface, alt) != nil {
		s.alts[iface] = alt
	}
}

// Endpoints are those in use, without endpoint 0.
func (s *Settings) Endpoints() (list []Endpoint) {
	if s.Active == nil {
		return nil
	}
	for i := range s.Active.Interfaces {
		if a := s.Current(s.Active.Interfaces[i].Number); a != nil {
			list = append(list, a.Endpoints...)
		}
	}
	return list
}
