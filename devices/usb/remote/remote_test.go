package remote

import "testing"

func TestParse(t *testing.T) {
	for text, want := range map[string]string{
		"lab":                        "usbip://lab:3240",
		"lab:99":                     "usbip://lab:99",
		"lab/1-1.2":                  "usbip://lab:3240/1-1.2",
		"::1":                        "usbip://[::1]:3240",
		"[::1]:99":                   "usbip://[::1]:99",
		"usbip://lab/1-1":            "usbip://lab:3240/1-1",
		"lx://lab/1-1":               "lx://lab:3242/1-1",
		"lx://[fe80::1]:7/1-1":       "lx://[fe80::1]:7/1-1",
		"ssh://lab/1-1":              "ssh://lab/1-1",
		"ssh://me@lab:2222/1-1":      "ssh://me@lab:2222/1-1",
		"ssh://[::1]/1-1":            "ssh://[::1]/1-1",
		"usbip://lab/usbip-vudc.0":   "usbip://lab:3240/usbip-vudc.0",
		"":                           "",
		"http://lab/1-1":             "",
		"usbip://me@lab/1-1":         "",
		"ssh://me:secret@lab/1-1":    "",
		"ssh://-oProxyCommand=x/1-1": "",
		"ssh://-l@lab/1-1":           "",
		"usbip://lab/1-1/2":          "",
		"usbip://lab:0/1-1":          "",
		"usbip://lab:x/1-1":          "",
		"usbip://lab/1-1?x":          "",
		"usbip://":                   "",
	} {
		a, err := Parse(text)
		if want == "" {
			if err == nil {
				t.Errorf("%q is read as %+v", text, a)
			}
			continue
		}
		if err != nil || a.String() != want {
			t.Errorf("%q is %s, %v; expected %s", text, a, err, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"lab/1-1", "ssh://me@lab:2222/1-1", "lx://[::1]:7/1-1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		a, err := Parse(s)
		if err != nil {
			return
		}
		if again, err := Parse(a.String()); err != nil || again != a {
			t.Fatalf("%q is %+v, and that %+v, %v", s, a, again, err)
		}
	})
}
