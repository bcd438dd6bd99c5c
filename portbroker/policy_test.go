package portbroker

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/lxbridge/lx/core/config"
	"github.com/lxbridge/lx/core/seccomp/seccomptest"
	"github.com/lxbridge/lx/netns"
)

// Ports of TestPolicies, of which the test holds the first of each ten.
const (
	deniedPort = testPort + 300
	waitPort   = testPort + 310
	remapPort  = testPort + 320
	fullPort   = testPort + 330 // remapped to where the guest itself is
	toPort     = testPort + 340 // remapped by to=
	passPort   = 8350           // remapped, with the next place denied
)

func ports(text string) config.PortRange {
	r, err := config.ParsePorts(text)
	if err != nil {
		panic(err)
	}
	return r
}

// policyOf orders rules.
func policyOf(rules ...config.PortRule) Policy { return config.MergePorts(rules, nil) }

func at(port uint16) config.PortRange { return ports(fmt.Sprint(port)) }

// guestPolicies asks for ports under a policy; args: OUT.
func guestPolicies(args []string) int {
	a := guestAnswers{}
	ask := func(name string, family, kind int, addr string, port uint16) {
		fd, err := unix.Socket(family, kind, 0)
		if err != nil {
			panic(err)
		}
		var sa unix.Sockaddr = &unix.SockaddrInet6{Port: int(port)}
		if family == unix.AF_INET {
			sa = &unix.SockaddrInet4{Addr: netip.MustParseAddr(addr).As4(), Port: int(port)}
		}
		if err := unix.Bind(fd, sa); err != nil {
			a[name] = text(err)
			return
		}
		if kind == unix.SOCK_STREAM {
			if err := unix.Listen(fd, 1); err != nil {
				a[name] = "listen: " + text(err)
				return
			}
		}
		local, err := unix.Getsockname(fd)
		if err != nil {
			panic(err)
		}
		a[name] = addrPort(local).String()
	}
	const tcp, udp = unix.SOCK_STREAM, unix.SOCK_DGRAM
	ask("denied", unix.AF_INET, tcp, "0.0.0.0", deniedPort+1)
	ask("denied, but not for udp", unix.AF_INET, udp, "0.0.0.0", deniedPort+1)
	ask("the kernel's choice", unix.AF_INET6, udp, "", 0)
	ask("waits", unix.AF_INET, tcp, "0.0.0.0", waitPort)
	ask("waits not", unix.AF_INET, tcp, "0.0.0.0", waitPort+1)
	ask("remapped", unix.AF_INET, tcp, "0.0.0.0", remapPort)
	ask("its own", unix.AF_INET, tcp, "0.0.0.0", remapPort)
	ask("remapped v6", unix.AF_INET6, udp, "", remapPort)
	ask("remapped loopback", unix.AF_INET, tcp, "127.0.0.1", fullPort)
	ask("free", unix.AF_INET, tcp, "0.0.0.0", remapPort+1)
	ask("its own again", unix.AF_INET, tcp, "0.0.0.0", remapPort+1)
	ask("privileged", unix.AF_INET, tcp, "0.0.0.0", 80)
	ask("privileged v6", unix.AF_INET6, tcp, "", 81)
	ask("to", unix.AF_INET, tcp, "0.0.0.0", toPort)
	ask("past what is denied", unix.AF_INET, udp, "0.0.0.0", passPort)
	ask("to is taken", unix.AF_INET, udp, "0.0.0.0", toPort)
	return say(args[0], a)
}

// onSaid is a log that calls f with what is said to a guest.
type onSaid struct {
	slog.Handler
	f func(string)
}

func (o onSaid) Handle(ctx context.Context, r slog.Record) error {
	r.Attrs(func(a slog.Attr) bool {
		if a.Key == "said" {
			o.f(a.Value.String())
		}
		return true
	})
	return o.Handler.Handle(ctx, r)
}

// TestPolicies: each policy against a holder outside, and against the guest's own.
func TestPolicies(t *testing.T) {
	t.Setenv(netns.EnvironmentVar, "debian") // the guest's
	hold := func(addr string, p netns.Protocol, port uint16) *sock {
		t.Helper()
		s := spec{addr: addr}
		x := open(t, s, p)
		if errno := x.bind(t, s, s.request(p, port)); errno != 0 {
			t.Fatal(errno)
		}
		if p == netns.TCP {
			if errno := x.listen(); errno != 0 {
				t.Fatal(errno)
			}
		}
		return x
	}
	waited := hold("0.0.0.0", netns.TCP, waitPort)
	hold("0.0.0.0", netns.TCP, remapPort)
	hold("::", netns.UDP, remapPort)
	hold("127.0.0.1", netns.TCP, fullPort)
	hold("0.0.0.0", netns.TCP, toPort)
	hold("0.0.0.0", netns.UDP, toPort)
	hold("0.0.0.0", netns.UDP, toPort+5)
	hold("0.0.0.0", netns.UDP, passPort)
	policy := policyOf(
		config.PortRule{Ports: ports(fmt.Sprintf("tcp/%d-%d", deniedPort, deniedPort+9)), Policy: config.PortDeny, Why: "ask anna"},
		config.PortRule{Ports: ports(fmt.Sprintf("%d-%d", waitPort, waitPort+9)), Policy: config.PortWait},
		config.PortRule{Ports: ports(fmt.Sprintf("%d-%d", remapPort, remapPort+9)), Policy: config.PortRemap},
		config.PortRule{Ports: at(fullPort), Policy: config.PortRemap},
		config.PortRule{Ports: ports("80-81"), Policy: config.PortRemap},
		config.PortRule{Ports: at(passPort), Policy: config.PortRemap},
		config.PortRule{Ports: at(passPort + takenStep), Policy: config.PortDeny},
		config.PortRule{Ports: at(toPort), Policy: config.PortRemap, To: toPort + 5},
	)
	var said []string
	log := slog.New(onSaid{seccomptest.Log(t).Handler(), func(text string) {
		said = append(said, text)
		if strings.HasPrefix(text, "Waits") {
			waited.close()
		}
	}})
	a := guestAnswers{}
	records := runUnder(t, policy, log, &a, "policies")
	v4 := func(port uint16) string { return fmt.Sprintf("0.0.0.0:%d", port) }
	want := guestAnswers{
		"denied": "EACCES", "denied, but not for udp": v4(deniedPort + 1), "waits": v4(waitPort), "waits not": v4(waitPort + 1),
		"remapped": v4(remapPort + takenStep), "its own": "EADDRINUSE", "remapped v6": fmt.Sprintf("[::]:%d", remapPort+takenStep),
		"remapped loopback": fmt.Sprintf("%s:%d", OwnLoopback("debian"), fullPort),
		"free":              v4(remapPort + 1), "its own again": "EADDRINUSE", "privileged": v4(8080), "privileged v6": "[::]:8081",
		"to": v4(toPort + 5), "to is taken": "EADDRINUSE", "past what is denied": v4(passPort + 2*takenStep),
	}
	if a["the kernel's choice"] == "" || strings.HasPrefix(a["the kernel's choice"], "E") {
		t.Errorf("the kernel's choice: %s", a["the kernel's choice"])
	}
	for name, text := range want {
		if a[name] != text {
			t.Errorf("%s: %s, want %s", name, a[name], text)
		}
	}
	me := fmt.Sprintf("(%d) on the host", os.Getpid())
	for _, want := range []string{
		fmt.Sprintf("Waits for port %d, which is held by ", waitPort),
		fmt.Sprintf("Port %d is held by ", remapPort), me + fmt.Sprintf("; debian's is at :%d", remapPort+takenStep),
		"Port 80 is privileged; debian's is at :8080", fmt.Sprintf("debian's is at %s:%d", OwnLoopback("debian"), fullPort),
	} {
		if !strings.Contains(strings.Join(said, "\n"), want) {
			t.Errorf("not said: %q of %q", want, said)
		}
	}
	find := func(wanted, policy string) Record {
		for _, r := range records {
			if r.Call == "bind" && r.Wanted.String() == wanted && r.Policy == policy && r.Protocol == "tcp" {
				return r
			}
		}
		t.Errorf("no bind to %s by the policy %s in the ledger", wanted, policy)
		return Record{}
	}
	if r := find(v4(deniedPort+1), "deny"); r.Error != "EACCES" || r.Why != "ask anna" {
		t.Errorf("%+v", r)
	}
	if r := find(v4(remapPort), "remap"); !r.Moved() || r.Local.String() != v4(remapPort+takenStep) || !strings.Contains(r.Why, me) {
		t.Errorf("%+v", r)
	}
	if r := find(v4(remapPort+1), "remap"); r.Moved() {
		t.Errorf("%+v", r)
	}
}

func TestRules(t *testing.T) {
	path := filepath.Join(t.TempDir(), "rules")
	if rules, err := ReadRules(path); rules != nil || err != nil {
		t.Errorf("no file: %v, %v", rules, err)
	}
	add := func(r config.PortRule) error {
		return ChangeRules(path, func(rules []config.PortRule) ([]config.PortRule, error) { return append(rules, r), nil })
	}
	if err := add(config.PortRule{Ports: at(80), Policy: config.PortDeny}); err != nil {
		t.Fatal(err)
	}
	if err := add(config.PortRule{Ports: at(80), Policy: config.PortWait}); err == nil {
		t.Error("two rules for a port")
	}
	rules, err := ReadRules(path)
	if err != nil || len(rules) != 1 || rules[0].Policy != config.PortDeny {
		t.Errorf("%+v, %v", rules, err)
	}
	if p := Policy(rules); p.Rule(netns.MPTCP, 80).Policy != config.PortDeny || p.Rule(netns.UDP, 81).Policy != config.PortShare {
		t.Errorf("%+v", p)
	}
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", st, err)
	}
}

func FuzzRules(f *testing.F) {
	f.Add([]byte(`[{"port":"tcp/80-90","policy":"remap","to":8080,"why":"x"},{"port":"","policy":"deny"}]`))
	f.Add([]byte(`[{"port":80}]`))
	f.Fuzz(func(t *testing.T, b []byte) {
		path := filepath.Join(t.TempDir(), "rules")
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		rules, err := ReadRules(path)
		if err != nil {
			return
		}
		p := Policy(config.MergePorts(rules, nil))
		c := &call{want: netip.MustParseAddrPort("127.0.0.1:80"), rule: p.Rule(netns.TCP, 80)}
		for _, place := range (&Broker{env: "e"}).places(c, unix.EADDRINUSE) {
			if !place.IsValid() {
				t.Errorf("%q leads to %v", b, place)
			}
		}
		if again, err := json.Marshal(rules); err != nil {
			t.Errorf("%s: %v", again, err)
		}
	})
}
