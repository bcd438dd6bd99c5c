package netns

import (
	"net"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseCounters(t *testing.T) {
	got, err := parseCounterPairs("Ip: Forwarding InReceives\nIp: 2 77\nTcp: MaxConn ActiveOpens\nTcp: -1 5\n")
	if d := cmp.Diff([]Counter{{"IpForwarding", 2}, {"IpInReceives", 77}, {"TcpMaxConn", -1}, {"TcpActiveOpens", 5}}, got); d != "" || err != nil {
		t.Error(d, err)
	}
	for _, text := range []string{"Ip: A\nIp: 1 2\n", "Ip: A\nTcp: 1\n", "Ip: A\nIp: x\n", "\n\n"} {
		if got, err := parseCounterPairs(text); err == nil {
			t.Errorf("%q: %v", text, got)
		}
	}
	if got, err := parseCounterLines("Ip6InReceives   \t12\n"); err != nil || len(got) != 1 || got[0] != (Counter{"Ip6InReceives", 12}) {
		t.Errorf("%v, %v", got, err)
	}
	if _, err := parseCounterLines("Ip6InReceives\n"); err == nil {
		t.Error("a line without a number")
	}
}

// TestCounters: a connection is counted.
func TestCounters(t *testing.T) {
	opens := func() int64 {
		t.Helper()
		all, err := Counters()
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range all {
			if c.Name == "TcpActiveOpens" {
				return c.Value
			}
		}
		t.Fatal("no TcpActiveOpens")
		return 0
	}
	before := opens()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	if after := opens(); after <= before {
		t.Errorf("%d opens, then %d", before, after)
	}
}

func FuzzCounters(f *testing.F) {
	f.Add("Ip: A B\nIp: 1 -2\nIp6X 3\n")
	f.Fuzz(func(t *testing.T, text string) {
		for _, parse := range []func(string) ([]Counter, error){parseCounterPairs, parseCounterLines} {
			if all, err := parse(text); err != nil && all != nil {
				t.Errorf("%v beside %v", all, err)
			}
		}
	})
}
