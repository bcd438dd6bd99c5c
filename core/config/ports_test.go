package config

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestPortRules(t *testing.T) {
	f, err := Parse([]byte(`
[[environment.debian.port]]
policy = "remap"
[[environment.debian.port]]
port = "tcp/8080-8089"
policy = "remap"
to = 18080
[[environment.debian.port]]
port = 8080 # or a text
policy = "reserve"
why = "the shop"
`))
	if err != nil {
		t.Fatal(err)
	}
	ours := []PortRule{{Ports: PortRange{"tcp", 8080, 8080}, Policy: PortWait}, {Policy: PortShare}}
	want := []PortRule{
		{Ports: PortRange{"tcp", 8080, 8080}, Policy: PortWait},
		{Ports: PortRange{"", 8080, 8080}, Policy: PortReserve, Why: "the shop"},
		{Ports: PortRange{"tcp", 8080, 8089}, Policy: PortRemap, To: 18080},
		{Policy: PortShare},
	}
	if d := cmp.Diff(want, MergePorts(ours, f.Environments["debian"].Ports)); d != "" {
		t.Error(d)
	}
}

func TestPortRulesRefused(t *testing.T) {
	for text, want := range map[string]string{
		`policy = "no"`:                                    `policy "no": want`,
		`policy = "reserve"`:                               "cannot reserve more than",
		"policy = \"deny\"\nto = 5":                        "is for the policy",
		"policy = \"remap\"\nto = 5":                       "is for the policy",
		"port = \"1-9\"\npolicy = \"remap\"\nto = 65530":   "beyond port 65535",
		"port = \"9-1\"\npolicy = \"deny\"":                "are no ports",
		"port = \"sctp/1\"\npolicy = \"deny\"":             "are no ports",
		"port = \"0\"\npolicy = \"deny\"":                  "are no ports",
		"port = \"1\"\npolicy = \"deny\"\nwhy = \"a\\nb\"": "one line",
		"policy = \"deny\"\nprot = 1":                      "unknown key",
	} {
		if _, err := Parse([]byte("[[environment.x.port]]\n" + text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
	if _, err := Parse([]byte("[[environment.x.port]]\npolicy = \"deny\"\n[[environment.x.port]]\npolicy = \"wait\"")); err == nil || !strings.Contains(err.Error(), "two rules") {
		t.Error(err)
	}
	if _, err := ParseSettings([]byte("[[port]]\npolicy = \"share\"")); err == nil || !strings.Contains(err.Error(), "port is not for an environment to say") {
		t.Error(err)
	}
}

func FuzzPorts(f *testing.F) {
	for _, s := range []string{"", "80", "tcp/80-90", "udp/", "-", "tcp/0", "65535-65535", "tcp/tcp/1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		r, err := ParsePorts(text)
		if err != nil {
			return
		}
		again, err := ParsePorts(r.String())
		if err != nil || again != r {
			t.Errorf("%q reads as %+v, written %q: %+v, %v", text, r, r.String(), again, err)
		}
		if r.Low > r.High || r.Low == 0 && r.High != 0 || r.Size() < 1 || r.Low != 0 && !r.Contains("tcp", r.High) && r.Protocol != "udp" {
			t.Errorf("%q: %+v", text, r)
		}
	})
}
