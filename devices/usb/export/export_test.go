package export

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/lxbridge/lx/devices/usb"
	"github.com/lxbridge/lx/devices/usb/usbip"
)

// sysfs is one as Linux has it: a root hub, a phone, a keyboard and a hub.
func sysfs() fstest.MapFS {
	sys := fstest.MapFS{}
	device := func(name string, attributes map[string]string) {
		for k, v := range attributes {
			sys[name+"/"+k] = &fstest.MapFile{Data: []byte(v + "\n")}
		}
	}
	common := func(vendor, product, class, number string) map[string]string {
		return map[string]string{"busnum": "1", "devnum": number, "speed": "480", "idVendor": vendor, "idProduct": product, "bcdDevice": "0100",
			"bDeviceClass": class, "bDeviceSubClass": "00", "bDeviceProtocol": "00", "bNumConfigurations": "1", "bConfigurationValue": "1"}
	}
	device("usb1", common("1d6b", "0002", "09", "1"))
	phone := common("18d1", "4ee7", "00", "2")
	phone["serial"], phone["product"], phone["manufacturer"] = "ABC", "Pixel", "Google"
	device("1-1", phone)
	device("1-1:1.0", map[string]string{"bInterfaceClass": "ff", "bInterfaceSubClass": "42", "bInterfaceProtocol": "01"})
	keyboard := common("046d", "c31c", "00", "3")
	keyboard["speed"], keyboard["bConfigurationValue"] = "1.5", ""
	device("1-2", keyboard)
	device("1-2:1.0", map[string]string{"bInterfaceClass": "03", "bInterfaceSubClass": "01", "bInterfaceProtocol": "01"})
	device("1-3", common("05e3", "0608", "09", "4"))
	device("1-4", map[string]string{"busnum": "1"}) // going
	return sys
}

func TestScan(t *testing.T) {
	list, err := Scan(sysfs())
	if err != nil || len(list) != 3 {
		t.Fatalf("%+v, %v", list, err)
	}
	if got := list[0].String(); got != "1-1  18d1:4ee7  Google  Pixel  ABC" {
		t.Errorf("the phone is %q", got)
	}
	if d := list[0]; d.Speed != 3 || d.Bus != 1 || d.Number != 2 || d.Configuration != 1 || len(d.Interfaces) != 1 || d.Interfaces[0].SubClass != 0x42 {
		t.Errorf("%+v", d)
	}
	if d := list[1]; d.Speed != 1 || d.Configuration != 0 {
		t.Errorf("%+v", d)
	}
	if list, err := Scan(fstest.MapFS{}); err != nil || len(list) != 0 {
		t.Errorf("without USB: %+v, %v", list, err)
	}
}

func TestRules(t *testing.T) {
	for rule, want := range map[string][]string{
		"any":                     {"1-1"}, // neither input devices nor hubs
		"vidpid=18d1:4ee7":        {"1-1"},
		"vidpid=18d1:*":           {"1-1"},
		"vidpid=18D1:4ee8":        nil,
		"serial=ABC":              {"1-1"},
		"serial=AB":               nil,
		"path=1-1":                {"1-1"},
		"path=1-2":                nil, // named by its place alone
		"vidpid=046d:*":           nil,
		"vidpid=046d:c31c":        {"1-2"},
		"vidpid=05e3:0608":        {"1-3"},
		"path=1-1,serial=ABC":     {"1-1"},
		"path=1-2,serial=ABC":     nil,
		"vidpid=18d1:4ee7,path=2": nil,
	} {
		r, err := ParseRule(rule)
		if err != nil {
			t.Error(err)
			continue
		}
		l := &Local{Sys: sysfs(), Nodes: t.TempDir(), Rules: []Rule{r}}
		var got []string
		for _, d := range l.List(nil) {
			got = append(got, d.BusID)
		}
		if len(got) != len(want) || len(got) > 0 && got[0] != want[0] {
			t.Errorf("%s allows %v, expected %v", rule, got, want)
		}
		for _, id := range []string{"1-1", "1-2", "1-3", "usb1", "../1-1"} {
			_, _, err := l.Open(t.Context(), nil, id)
			if allowed := len(want) > 0 && want[0] == id; errors.Is(err, usbip.StatusNoDevice) == allowed || err == nil {
				t.Errorf("%s: opening %s: %v", rule, id, err)
			}
		}
	}
	for _, rule := range []string{"", "vidpid", "vidpid=", "vidpid=18d1", "vidpid=x:y", "vidpid=18d1:4ee7,vidpid=18d1:4ee8", "class=3", "serial=A,", "any,path=1"} {
		if r, err := ParseRule(rule); err == nil {
			t.Errorf("%q is read as %+v", rule, r)
		}
	}
}

// TestUnconfigured: what a device would be in a configuration that it is not in counts.
func TestUnconfigured(t *testing.T) {
	sys := sysfs()
	for name := range sys {
		if strings.HasPrefix(name, "1-2:") {
			delete(sys, name)
		}
	}
	vendor := []byte{9, usb.DescConfiguration, 18, 0, 1, 1, 0, 0x80, 50, 9, usb.DescInterface, 0, 0, 0, 0xff, 0, 0, 0}
	keyboard := []byte{9, usb.DescConfiguration, 18, 0, 1, 2, 0, 0x80, 50, 9, usb.DescInterface, 0, 0, 0, classHID, 1, 1, 0}
	sys["1-2/descriptors"] = &fstest.MapFile{Data: slices.Concat(make([]byte, 18), vendor, keyboard)}
	l := &Local{Sys: sys, Rules: []Rule{Any}}
	for _, d := range l.List(nil) {
		if d.BusID == "1-2" {
			t.Error("a device is given that can be a keyboard")
		}
	}
}
