package guest

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/sys/unix"
)

const status = `Name:	Uid:	9
Umask:	0022
State:	S (sleeping)
Tgid:	42
Pid:	43
Uid:	1	2	3	4
Gid:	5	6	7	8
Groups:	10 20 
Threads:	3
SigPnd:	0000000000000200
ShdPnd:	0000000000002000
SigBlk:	0000000000002000
SigIgn:	0000000000001000
SigCgt:	0000000000000200
CapEff:	0000000000200000
`

func TestParseStatus(t *testing.T) {
	s, err := ParseStatus([]byte(status))
	if err != nil {
		t.Fatal(err)
	}
	if s.Name != "Uid:\t9" || s.TGID != 42 || s.FSUID != 4 || s.SGID != 7 || !slices.Equal(s.Groups, []uint32{10, 20}) ||
		s.Threads != 3 || s.Umask != 0o22 || s.Pending != 0x200 || s.CapEff != 1<<unix.CAP_SYS_ADMIN {
		t.Errorf("%+v", s)
	}
	if _, err := ParseStatus([]byte("Name:\tx\n")); err == nil {
		t.Error("a status without ids was accepted")
	}
}

func TestActs(t *testing.T) {
	bit := func(s unix.Signal) uint64 { return 1 << (s - 1) }
	s := Signals{Blocked: bit(unix.SIGUSR1), Ignored: bit(unix.SIGUSR2), Caught: bit(unix.SIGALRM) | bit(unix.SIGWINCH)}
	all := bit(unix.SIGUSR1) | bit(unix.SIGUSR2) | bit(unix.SIGALRM) | bit(unix.SIGWINCH) | bit(unix.SIGCHLD) | bit(unix.SIGQUIT) | bit(unix.SIGTSTP)
	if got, want := s.Acts(all), bit(unix.SIGALRM)|bit(unix.SIGWINCH)|bit(unix.SIGQUIT)|bit(unix.SIGTSTP); got != want {
		t.Errorf("acts on %#x, want %#x", got, want)
	}
}

func FuzzParseStatus(f *testing.F) {
	f.Add([]byte(status))
	own, err := os.ReadFile("/proc/self/status")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(own)
	f.Fuzz(func(t *testing.T, b []byte) {
		if s, err := ParseStatus(b); err != nil && s.TGID != 0 {
			t.Error("half a status with an error")
		}
	})
}

func addrs(s ...string) (ips []netip.Addr) {
	for _, a := range s {
		ips = append(ips, netip.MustParseAddr(a))
	}
	return ips
}

func TestParseHosts(t *testing.T) {
	text := "127.0.0.1 localhost\n#1.1.1.1 nas\n10.0.0.7\tnas.lan nas # here\nfe80::1 nas\nbad nas\n10.0.0.8 nas."
	if got := parseHosts(text, "NAS"); !slices.Equal(got, addrs("10.0.0.7", "fe80::1", "10.0.0.8")) {
		t.Error(got)
	}
}

func TestParseNSSwitch(t *testing.T) {
	for text, want := range map[string][]string{
		"":                                       nil,
		"passwd: files\nhosts: files dns\n":      {"files", "dns"},
		"hosts: dns [!UNAVAIL=return] files # x": {"dns", "files"},
		"hosts: mymachines resolve files":        {"dns", "files"},
		"hosts: files resolve dns":               {"files", "dns"},
	} {
		if got := parseNSSwitch(text); !slices.Equal(got, want) {
			t.Errorf("%q: %v, want %v", text, got, want)
		}
	}
}

func TestResolvConf(t *testing.T) {
	c := parseResolvConf("# x\nnameserver 10.0.0.1\nnameserver ::1\nsearch a.example b.example\noptions ndots:2 timeout:99 attempts:0 rotate\n")
	if len(c.servers) != 2 || c.servers[0].String() != "10.0.0.1:53" || c.ndots != 2 || c.timeout != 30*time.Second || c.attempts != 1 {
		t.Errorf("%+v", c)
	}
	for host, want := range map[string][]string{
		"h.":    {"h."},
		"h":     {"h.a.example.", "h.b.example.", "h."},
		"h.x":   {"h.x.a.example.", "h.x.b.example.", "h.x."},
		"h.x.y": {"h.x.y.", "h.x.y.a.example.", "h.x.y.b.example."},
	} {
		if got := c.names(host); !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", host, got, want)
		}
	}
	if c := parseResolvConf(""); c.servers[0].String() != "127.0.0.1:53" {
		t.Errorf("%+v", c)
	}
}

// zone answers queries as a name server with these names would.
func zone(t *testing.T, names map[string]string, truncate bool) exchange {
	return func(ctx context.Context, network string, server netip.AddrPort, query []byte) ([]byte, error) {
		var m dnsmessage.Message
		if err := m.Unpack(query); err != nil {
			t.Error(err)
			return nil, err
		}
		q := m.Questions[0]
		m.Response = true
		text, ok := names[q.Name.String()]
		switch {
		case !ok:
			m.RCode = dnsmessage.RCodeNameError
		case truncate && network == "udp":
			m.Truncated = true
		case q.Type == dnsmessage.TypeA:
			m.Answers = []dnsmessage.Resource{{Header: dnsmessage.ResourceHeader{Name: q.Name, Class: q.Class},
				Body: &dnsmessage.AResource{A: netip.MustParseAddr(text).As4()}}}
		}
		return m.Pack()
	}
}

func TestLookup(t *testing.T) {
	c := parseResolvConf("search lan\n")
	for _, truncate := range []bool{false, true} {
		do := zone(t, map[string]string{"nas.lan.": "10.0.0.7"}, truncate)
		if ips, err := c.lookup(t.Context(), "nas", do); !slices.Equal(ips, addrs("10.0.0.7")) || err != nil {
			t.Errorf("truncated %v: %v, %v", truncate, ips, err)
		}
		if ips, err := c.lookup(t.Context(), "nobody", do); len(ips) != 0 || err != nil {
			t.Errorf("no such name: %v, %v", ips, err)
		}
	}
	dead := errors.New("dead")
	_, err := c.lookup(t.Context(), "nas", func(context.Context, string, netip.AddrPort, []byte) ([]byte, error) { return nil, dead })
	if !errors.Is(err, dead) {
		t.Errorf("a dead server: %v", err)
	}
}

func TestValidName(t *testing.T) {
	for name, want := range map[string]bool{"nas": true, "nas.lan.": true, "": false, ".": false, "a..b": false,
		"a b": false, "a\nb": false, "a/b": false} {
		if validName(name) != want {
			t.Errorf("%q: %v", name, !want)
		}
	}
}

func FuzzResolverFiles(f *testing.F) {
	f.Add("nameserver 1.2.3.4\noptions ndots:3\n", "10.0.0.1 nas\n")
	f.Fuzz(func(t *testing.T, a, b string) {
		c := parseResolvConf(a)
		if len(c.servers) == 0 || c.attempts < 1 || c.timeout <= 0 {
			t.Errorf("%+v", c)
		}
		for _, n := range c.names("host") {
			if !validName(n) {
				t.Errorf("asks for %q", n)
			}
		}
		parseNSSwitch(a)
		parseHosts(b, "nas")
	})
}

func FuzzParseAnswer(f *testing.F) {
	query, q, err := newQuery("nas.lan.", dnsmessage.TypeA)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(query)
	f.Fuzz(func(t *testing.T, response []byte) {
		copy(response[:min(2, len(response))], query) // its id
		if _, _, err := parseAnswer(response, query, q); err == nil && len(response) < 12 {
			t.Error("a response without a header was accepted")
		}
	})
}
