package usb_test

import (
	"bytes"
	"encoding/hex"
	"strings"
	"testing"

	"github.com/lxbridge/lx/devices/usb"
	"github.com/lxbridge/lx/devices/usb/usbtest"
)

// rp2040 is the boot ROM's configuration.
const rp2040 = "0902370002010080fa 0904000002080650 00 07058102400000 07050202400000 0904010002ff000000 07050302400000 07058402400000"

func unhex(t testing.TB, s string) []byte {
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestParseConfiguration(t *testing.T) {
	c, err := usb.ParseConfiguration(unhex(t, rp2040))
	if err != nil {
		t.Fatal(err)
	}
	if len(c.Interfaces) != 2 || c.Value != 1 {
		t.Fatalf("%+v", c)
	}
	pico := c.Interface(1).Alternate(0)
	if pico.Class != 0xff || pico.Endpoint(3).Kind != usb.Bulk || pico.Endpoint(0x84).MaxPacket() != 64 {
		t.Errorf("%+v", pico)
	}
}

func TestParseConfigurationQuirks(t *testing.T) {
	for name, c := range map[string]struct{ raw, interfaces, err string }{
		"cut short": {raw: "0902370002010080fa 090400000008065000", interfaces: "0"},
		"length 0 in the middle": {raw: "0902370001010080fa 090400000008065000 0005 090401000008065000",
			interfaces: "0"},
		"number of interfaces is wrong": {raw: "09021b0009010080fa 090401000008065000 090400000008065000", interfaces: "01"},
		"endpoint 0":                    {raw: "0902190001010080fa 090400000108065000 07050002400000", interfaces: "0"},
		"interface 32":                  {raw: "09021b0001010080fa 092000000008065000 090420000008065000", err: "interface 32"},
		"twice":                         {raw: "09021b0001010080fa 090400000008065000 090400000008065000", err: "twice"},
		"total length":                  {raw: "0902080001010080fa 090400000008065000", err: "wTotalLength"},
		"a device inside":               {raw: "09021b0001010080fa 12010002ff000040501d016034120102030100", err: "type 1"},
		"nothing":                       {raw: "", err: "malformed"},
	} {
		conf, err := usb.ParseConfiguration(unhex(t, c.raw))
		if c.err != "" {
			if err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("%s: %v, expected %q", name, err, c.err)
			}
			continue
		}
		var got strings.Builder
		for _, i := range conf.Interfaces {
			got.WriteByte('0' + i.Number)
			for _, a := range i.Alternates {
				if len(a.Endpoints) != 0 {
					t.Errorf("%s: endpoints %+v", name, a.Endpoints)
				}
			}
		}
		if err != nil || got.String() != c.interfaces {
			t.Errorf("%s: interfaces %s, %v", name, got.String(), err)
		}
		if int(conf.Raw[2]) != len(conf.Raw) || int(conf.Raw[4]) != len(conf.Interfaces) {
			t.Errorf("%s: % x does not tell what is there", name, conf.Raw)
		}
	}
}

// What is let through says nothing that is not there, and reads the same again.
func FuzzParseConfiguration(f *testing.F) {
	f.Add(unhex(f, rp2040))
	f.Add(usbtest.Gadget().Configurations[0])
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := usb.ParseConfiguration(b)
		if err != nil {
			return
		}
		again, err := usb.ParseConfiguration(c.Raw)
		if err != nil || !bytes.Equal(again.Raw, c.Raw) || len(again.Interfaces) != len(c.Interfaces) {
			t.Fatalf("% x reads differently the second time: %v", c.Raw, err)
		}
		for n := 0; n < len(c.Raw); n += int(c.Raw[n]) {
			if c.Raw[n] < 2 || n+int(c.Raw[n]) > len(c.Raw) {
				t.Fatalf("% x: the descriptor at %d leads out", c.Raw, n)
			}
		}
	})
}
