package export

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Rule says which devices it is about: those that have all that it names.
type Rule struct {
	Vendor, Product int // -1: any
	Serial          string
	Path            string // bus id: which port of which hub
}

// Any is about all devices.
var Any = Rule{Vendor: -1, Product: -1}

// ParseRule reads key=value,… of vidpid, serial and path; "any" is about all devices.
func ParseRule(text string) (Rule, error) {
	r := Any
	if text == "any" {
		return r, nil
	}
	bad := func(what string) (Rule, error) {
		return Rule{}, fmt.Errorf("cannot read the rule %q: %s; expected vidpid=VVVV:PPPP, serial=TEXT or path=1-1.2, joined by commas, or any", text, what)
	}
	seen := map[string]bool{}
	for part := range strings.SplitSeq(text, ",") {
		key, value, _ := strings.Cut(part, "=")
		if value == "" || seen[key] {
			return bad(fmt.Sprintf("%q says nothing, or twice", part))
		}
		seen[key] = true
		switch key {
		case "vidpid":
			vendor, product, _ := strings.Cut(value, ":")
			var err error
			if r.Vendor, err = hex16(vendor); err != nil {
				return bad(fmt.Sprintf("%q is no vendor", vendor))
			}
			if product != "*" {
				if r.Product, err = hex16(product); err != nil {
					return bad(fmt.Sprintf("%q is no product, nor *", product))
				}
			}
		case "serial":
			r.Serial = value
		case "path":
			r.Path = value
		default:
			return bad(fmt.Sprintf("there is no %q", key))
		}
	}
	return r, nil
}

func hex16(s string) (int, error) {
	n, err := strconv.ParseUint(s, 16, 16)
	return int(n), err
}

// The classes that a rule must name a device for: keys are typed and cards unlocked
// there, and a hub is what others hang from.
const (
	classHID       = 0x03
	classHub       = 0x09
	classSmartCard = 0x0b
)

// Allows says whether a device is meant. Input devices, hubs and smart cards
// must be named by their product or serial number, not by their place.
func (r Rule) Allows(d Device) bool {
	named := r.Product >= 0 || r.Serial != ""
	return (named || !d.delicate()) &&
		(r.Vendor < 0 || r.Vendor == int(d.Vendor)) && (r.Product < 0 || r.Product == int(d.DeviceInfo.Product)) &&
		(r.Serial == "" || r.Serial == d.Serial) && (r.Path == "" || r.Path == d.BusID)
}

func (d Device) delicate() bool {
	classes := append([]uint8{d.Class}, d.classes...)
	for _, i := range d.Interfaces {
		classes = append(classes, i.Class)
	}
	return slices.ContainsFunc(classes, func(c uint8) bool { return c == classHID || c == classHub || c == classSmartCard })
}
