package portbroker

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/lxbridge/lx/netns"
)

const (
	v4, v4other, v4any         = "127.0.0.1", "127.0.0.2", "0.0.0.0"
	v6, v6other, v6any         = "::1", "fd00::1", "::"
	v6only                     = ":: v6only"
	mapped, mappedOther        = "::ffff:127.0.0.1", "::ffff:127.0.0.2"
	mappedAny                  = "::ffff:0.0.0.0"
	inUse                      = unix.EADDRINUSE
	tcp                        = netns.TCP
	udp                        = netns.UDP
	udplite                    = netns.UDPLite
	testPort            uint16 = 40001
)

// agree makes the sockets of the rows one after the other, and fails where
// the kernel and Decide differ, or either from want, which is of the last.
func agree(t *testing.T, title string, p netns.Protocol, rows []spec, want syscall.Errno) {
	t.Helper()
	var existing []Holder
	var all []*sock
	defer func() {
		for _, x := range all {
			x.close()
		}
	}()
	for i, s := range rows {
		x, r := open(t, s, p), s.request(p, testPort)
		all = append(all, x)
		v := Decide(testHost, existing, r)
		errno := x.bind(t, s, r)
		if errno == 0 && s.listen && p == tcp {
			r.Listen = true
			v = Decide(testHost, existing, r)
			errno = x.listen()
		}
		if errno != v.Errno {
			t.Errorf("%s, %s, socket %d %+v: the kernel says %v, the verdict is %s (%v, %s)", title, p, i, s, errno, v.Kind, v.Errno, v.Why)
		}
		if i == len(rows)-1 {
			if errno != want {
				t.Errorf("%s, %s: %v, want %v", title, p, errno, want)
			}
			if v.Kind == Conflict && (len(v.Holders) == 0 || v.Why == "") {
				t.Errorf("%s, %s: a conflict without a holder: %+v", title, p, v)
			}
		} else if errno != 0 {
			t.Errorf("%s, %s: socket %d: %v", title, p, i, errno)
		} else {
			existing = Insert(existing, x.holder)
		}
	}
}

// TestOverlap is step 2 of the rules: which addresses meet, in both orders,
// for each protocol.
func TestOverlap(t *testing.T) {
	rows := []struct {
		a    string
		b    []string
		meet bool
	}{
		{v4any, []string{v4, v4other, v4any, mapped, mappedAny}, true},
		{v4, []string{v4}, true},
		{v4, []string{v4other, mappedOther}, false},
		{v6any, []string{v4, v4any, v6, v6other, v6any, v6only, mapped, mappedAny}, true},
		{v6only, []string{v4, v4any, mapped, mappedAny}, false},
		{v6only, []string{v6, v6other, v6only}, true},
		{v6, []string{v4, v4any, mapped, v6other, mappedAny}, false},
		{v6, []string{v6}, true},
		{mapped, []string{v4, v4any, mapped, mappedAny}, true},
		{mapped, []string{v4other, mappedOther, v6}, false},
		{mappedAny, []string{v4, mapped, mappedAny, mappedOther}, true},
	}
	for _, p := range []netns.Protocol{tcp, udp, udplite} {
		for _, row := range rows {
			for _, b := range row.b {
				want := syscall.Errno(0)
				if row.meet {
					want = inUse
				}
				for _, listen := range []bool{false, true} {
					agree(t, row.a+" then "+b, p, []spec{{addr: row.a, listen: listen}, {addr: b}}, want)
					agree(t, b+" then "+row.a, p, []spec{{addr: b, listen: listen}, {addr: row.a}}, want)
				}
			}
		}
	}
}

func TestDevices(t *testing.T) {
	for _, p := range []netns.Protocol{tcp, udp} {
		for _, addr := range []string{v4any, v6any} {
			for _, c := range []struct {
				a, b string
				want syscall.Errno
			}{{"", "lo", inUse}, {"lo", "", inUse}, {"lo", "lo", inUse}, {"lo", "other", 0}} {
				agree(t, "devices "+c.a+", "+c.b, p, []spec{{addr: addr, device: c.a}, {addr: addr, device: c.b}}, c.want)
			}
		}
	}
}

// TestWaivers is step 3: every pair of options, on every pair of addresses
// that meet, listening and not, of one user and of two.
func TestWaivers(t *testing.T) {
	users := []bool{false}
	if otherUsers() {
		users = append(users, true)
	}
	for _, p := range []netns.Protocol{tcp, udp} {
		for _, pair := range [][2]string{{v4, v4}, {v4any, v4}, {v6any, v4}, {v6, v6}, {v6any, v6any}, {v6only, v6}, {mapped, v4any}} {
			for i := range 128 {
				a := spec{addr: pair[0], reuseAddr: i&1 != 0, reusePort: i&2 != 0, listen: i&16 != 0}
				b := spec{addr: pair[1], reuseAddr: i&4 != 0, reusePort: i&8 != 0, listen: i&32 != 0}
				if i&64 != 0 {
					a, b = b, a
				}
				for _, b.other = range users {
					bothAddr, bothPort := a.reuseAddr && b.reuseAddr, a.reusePort && b.reusePort && !b.other
					want := inUse
					switch {
					case p == tcp && bothAddr && !a.listen, p == udp && bothAddr, bothPort:
						want = 0
					}
					agree(t, fmt.Sprintf("%+v then %+v", a, b), p, []spec{a, b}, want)
				}
			}
		}
	}
}

// TestSecondListen: the second of two bound sockets may listen only first.
func TestSecondListen(t *testing.T) {
	for _, addr := range []string{v4, v4any, v6, v6any} {
		a, b := spec{addr: addr, reuseAddr: true}, spec{addr: addr, reuseAddr: true}
		x, y := open(t, a, tcp), open(t, b, tcp)
		r := a.request(tcp, testPort)
		if x.bind(t, a, r) != 0 || y.bind(t, b, r) != 0 || x.listen() != 0 {
			t.Fatal("cannot set up")
		}
		r.Listen = true
		v, errno := Decide(testHost, []Holder{x.holder}, r), y.listen()
		if errno != inUse || v.Errno != inUse {
			t.Errorf("%s: the second listen: %v, verdict %v", addr, errno, v.Errno)
		}
		x.close()
		y.close()
	}
}

// TestErrorOrder: which error comes first.
func TestErrorOrder(t *testing.T) {
	far := map[bool]string{false: "10.9.9.9", true: "fd00::99"}
	for _, p := range []netns.Protocol{tcp, udp} {
		for _, six := range []bool{false, true} {
			near := map[bool]string{false: v4, true: v6}[six]
			for _, c := range []struct {
				title string
				rows  []spec
				want  syscall.Errno
			}{
				{"not local", []spec{{addr: far[six]}}, unix.EADDRNOTAVAIL},
				{"freebind", []spec{{addr: far[six], freebind: true}}, 0},
				{"low port", []spec{{addr: near, port: 80, unprivileged: true}}, unix.EACCES},
				{"low port, privileged", []spec{{addr: near, port: 80}}, 0},
				{"low port, taken", []spec{{addr: near, port: 80}, {addr: near, port: 80, unprivileged: true}}, unix.EACCES},
				{"not local, taken by the wildcard", []spec{{addr: map[bool]string{false: v4any, true: v6any}[six]}, {addr: far[six]}}, unix.EADDRNOTAVAIL},
				{"low port, not local", []spec{{addr: far[six], port: 80, unprivileged: true}}, map[bool]syscall.Errno{false: unix.EADDRNOTAVAIL, true: unix.EACCES}[six]},
			} {
				agree(t, c.title, p, c.rows, c.want)
			}
			// A socket that is bound.
			for _, again := range []spec{{addr: near}, {addr: far[six]}, {addr: near, port: 80, unprivileged: true}} {
				x, r := open(t, spec{addr: near}, p), spec{addr: near}.request(p, testPort)
				if errno := x.bind(t, spec{}, r); errno != 0 {
					t.Fatal(errno)
				}
				r2 := again.request(p, testPort)
				r2.Bound = true
				v := Decide(testHost, []Holder{x.holder}, r2)
				if errno := x.bind(t, again, r2); errno != v.Errno || errno == 0 {
					t.Errorf("%s, bound, then %+v: %v, verdict %v", p, again, errno, v.Errno)
				}
				x.close()
			}
		}
	}
}

// TestOptionsLive: options count as they are now, with the exception that the
// kernel remembers SO_REUSEPORT where all sockets of the port had it.
func TestOptionsLive(t *testing.T) {
	for _, c := range []struct {
		title           string
		a               spec
		option          int
		value           int
		b               spec
		kernelRemembers bool
	}{
		{"SO_REUSEADDR cleared", spec{addr: v4, reuseAddr: true}, unix.SO_REUSEADDR, 0, spec{addr: v4, reuseAddr: true}, false},
		{"SO_REUSEADDR set", spec{addr: v4}, unix.SO_REUSEADDR, 1, spec{addr: v4, reuseAddr: true}, false},
		{"SO_REUSEPORT set", spec{addr: v4}, unix.SO_REUSEPORT, 1, spec{addr: v4, reusePort: true}, false},
		{"SO_REUSEPORT cleared", spec{addr: v4, reusePort: true}, unix.SO_REUSEPORT, 0, spec{addr: v4, reusePort: true}, true},
	} {
		x := open(t, c.a, tcp)
		if errno := x.bind(t, c.a, c.a.request(tcp, testPort)); errno != 0 {
			t.Fatal(errno)
		}
		if err := unix.SetsockoptInt(x.fd, unix.SOL_SOCKET, c.option, c.value); err != nil {
			t.Fatal(err)
		}
		if c.option == unix.SO_REUSEADDR {
			x.holder.ReuseAddr = OptionOf(c.value == 1)
		} else {
			x.holder.ReusePort = OptionOf(c.value == 1)
		}
		y, r := open(t, c.b, tcp), c.b.request(tcp, testPort)
		host := testHost
		host.Bucket = &Bucket{}
		host.Bucket.Bound(c.a.request(tcp, testPort))
		v, errno := Decide(host, []Holder{x.holder}, r), y.bind(t, c.b, r)
		if v.Errno != errno {
			t.Errorf("%s: %v, verdict %v by the bucket", c.title, errno, v.Errno)
		}
		v = Decide(testHost, []Holder{x.holder}, r)
		if (v.Errno == errno) == c.kernelRemembers {
			t.Errorf("%s: %v, verdict %v", c.title, errno, v.Errno)
		}
		x.close()
		y.close()
	}
}

// TestConnections is step 4: what is left of a listener, and clients.
func TestConnections(t *testing.T) {
	for i, reuse := range []bool{false, true} {
		testPort := testPort + 10 + uint16(i) // TIME-WAIT stays for a minute
		s := spec{addr: v4, reuseAddr: reuse}
		l, r := open(t, s, tcp), s.request(tcp, testPort)
		if l.bind(t, s, r) != 0 || l.listen() != 0 {
			t.Fatal("cannot set up")
		}
		client := open(t, spec{addr: v4, reuseAddr: reuse}, tcp)
		if err := unix.Connect(client.fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}, Port: int(testPort)}); err != nil {
			t.Fatal(err)
		}
		child, _, err := unix.Accept(l.fd)
		if err != nil {
			t.Fatal(err)
		}
		l.close()
		for _, step := range []string{"ESTABLISHED", "FIN-WAIT-2", "TIME-WAIT"} {
			switch step {
			case "FIN-WAIT-2":
				unix.Close(child)
			case "TIME-WAIT":
				client.close()
			}
			existing := live(t, tcp, testPort, OptionOf(reuse))
			for _, again := range []bool{false, true} {
				for _, addr := range []string{v4, v4any, v6any, v4other, v6} {
					b := spec{addr: addr, reuseAddr: again}
					x, r := open(t, b, tcp), b.request(tcp, testPort)
					v, errno := Decide(testHost, existing, r), x.bind(t, b, r)
					want := inUse
					if again && reuse || addr == v4other || addr == v6 {
						want = 0
					}
					if errno != v.Errno || errno != want {
						t.Errorf("%s, SO_REUSEADDR %v then %v on %s: %v, verdict %v (%s), want %v; holders %+v", step, reuse, again, addr, errno, v.Errno, v.Why, want, existing)
					}
					x.close()
				}
			}
		}
	}
}

// live asks the kernel who is on a port; options are as told.
func live(t *testing.T, p netns.Protocol, port uint16, reuseAddr Option) []Holder {
	t.Helper()
	r := netns.NewReader()
	defer r.Close()
	s, err := r.Read(netns.Query{Protocols: []netns.Protocol{p}, Connected: true, Low: port})
	if err != nil {
		t.Fatal(err)
	}
	var all []Holder
	for _, e := range s.Entries {
		if e.Namespace == s.Namespaces[0].Inode {
			all = append(all, Holder{Entry: e, ReuseAddr: reuseAddr, ReusePort: Off})
		}
	}
	if len(all) == 0 {
		t.Fatalf("nobody is on port %d", port)
	}
	return all
}

// TestClient: a client's port is held on its own address.
func TestClient(t *testing.T) {
	for _, reuse := range []bool{false, true} {
		s := spec{addr: v4}
		l := open(t, s, tcp)
		if l.bind(t, s, s.request(tcp, testPort)) != 0 || l.listen() != 0 {
			t.Fatal("cannot set up")
		}
		c := open(t, spec{addr: v4, reuseAddr: reuse}, tcp)
		if err := unix.Connect(c.fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}, Port: int(testPort)}); err != nil {
			t.Fatal(err)
		}
		name, err := unix.Getsockname(c.fd)
		if err != nil {
			t.Fatal(err)
		}
		port := uint16(name.(*unix.SockaddrInet4).Port)
		for _, again := range []bool{false, true} {
			for addr, meets := range map[string]bool{v4: true, v4any: true, v6any: true, v4other: false} {
				b := spec{addr: addr, reuseAddr: again}
				x, r := open(t, b, tcp), b.request(tcp, port)
				v, errno := Decide(testHost, live(t, tcp, port, OptionOf(reuse)), r), x.bind(t, b, r)
				want := syscall.Errno(0)
				if meets && !(reuse && again) {
					want = inUse
				}
				if errno != v.Errno || errno != want {
					t.Errorf("client on %d, SO_REUSEADDR %v, then %v on %s: %v, verdict %v, want %v", port, reuse, again, addr, errno, v.Errno, want)
				}
				x.close()
			}
		}
		linger(t, c)
		c.close()
		l.close()
	}
}

// linger makes close reset the connection, which leaves nothing behind.
func linger(t testing.TB, x *sock) {
	t.Helper()
	if err := unix.SetsockoptLinger(x.fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}); err != nil {
		t.Fatal(err)
	}
}

func TestMulticast(t *testing.T) {
	for _, c := range []struct {
		b    string
		want syscall.Errno
	}{{"224.0.0.99", inUse}, {v4any, inUse}, {"224.0.0.98", 0}, {v4, 0}} {
		agree(t, "multicast", udp, []spec{{addr: "224.0.0.99"}, {addr: c.b}}, c.want)
	}
}

// TestSpaces: protocols that share no ports do not meet.
func TestSpaces(t *testing.T) {
	h := Holder{Entry: netns.Entry{Socket: netns.Socket{Protocol: netns.MPTCP, State: netns.Listen, Local: netip.MustParseAddrPort("0.0.0.0:80")}}}
	for p, want := range map[netns.Protocol]syscall.Errno{tcp: inUse, netns.MPTCP: inUse, udp: 0, udplite: 0} {
		if v := Decide(Host{}, []Holder{h}, Request{Protocol: p, Addr: netip.MustParseAddr(v4), Port: 80}); v.Errno != want {
			t.Errorf("%s: %v, want %v", p, v.Errno, want)
		}
	}
}

// TestReservations: only the environment that it is for takes one.
func TestReservations(t *testing.T) {
	h := Holder{ReservedFor: "debian", Why: "its web server", ReuseAddr: Off, ReusePort: Off,
		Entry: netns.Entry{Socket: netns.Socket{Protocol: tcp, State: netns.Bound, Local: netip.MustParseAddrPort("0.0.0.0:8080")}}}
	r := Request{Protocol: tcp, Addr: netip.MustParseAddr(v4), Port: 8080}
	if v := Decide(Host{}, []Holder{h}, r); v.Kind != Reserved || v.Errno != inUse || !strings.Contains(v.Why, "debian: its web server") {
		t.Errorf("%+v", v)
	}
	r.Environment = "debian"
	if v := Decide(Host{}, []Holder{h}, r); v.Kind != OK {
		t.Errorf("%+v", v)
	}
}

func TestUncertain(t *testing.T) {
	h := Holder{Entry: netns.Entry{Socket: netns.Socket{Protocol: tcp, State: netns.Bound, Local: netip.MustParseAddrPort("0.0.0.0:8080")}}}
	r := Request{Protocol: tcp, Addr: netip.MustParseAddr(v4), Port: 8080, ReuseAddr: true}
	if v := Decide(Host{}, []Holder{h}, r); v.Kind != Conflict || !v.Uncertain || v.Hint == "" {
		t.Errorf("%+v", v)
	}
	h.State = netns.Listen // which SO_REUSEADDR does not help against
	if v := Decide(Host{}, []Holder{h}, r); v.Kind != Conflict || v.Uncertain {
		t.Errorf("%+v", v)
	}
}

// TestConflictNamesTheListener: not what is left of its connections.
func TestConflictNamesTheListener(t *testing.T) {
	hold := func(state netns.State, inode uint32) Holder {
		return Holder{ReuseAddr: Off, ReusePort: Off, Entry: netns.Entry{Hidden: inode != 0, Socket: netns.Socket{Protocol: tcp, State: state, Inode: inode, Local: netip.MustParseAddrPort("127.0.0.1:80")}}}
	}
	all := []Holder{hold(netns.TimeWait, 0), hold(netns.Established, 7), hold(netns.Listen, 8)}
	v := Decide(Host{}, all, Request{Protocol: tcp, Addr: netip.MustParseAddr(v4), Port: 80})
	if len(v.Holders) != 3 || v.Holders[0].State != netns.Listen || strings.Contains(v.Why, "TIME-WAIT") || v.Uncertain {
		t.Errorf("%+v", v)
	}
}

func TestShadows(t *testing.T) {
	hold := func(p netns.Protocol, local string, v6only bool) Holder {
		s := netns.Listen
		if p != tcp {
			s = netns.Close
		}
		return Holder{ReuseAddr: On, ReusePort: On, Entry: netns.Entry{Hidden: true, Socket: netns.Socket{Protocol: p, State: s, Local: netip.MustParseAddrPort(local), V6Only: v6only}}}
	}
	for _, c := range []struct {
		h    Holder
		addr string
		want string
	}{
		{hold(tcp, "0.0.0.0:80", false), v6, "resolver"},
		{hold(tcp, "[::1]:80", true), v4, "resolver"},
		{hold(tcp, "0.0.0.0:80", false), v4, "to 127.0.0.1:80 go to that one"},
		{hold(tcp, "127.0.0.1:80", false), v4any, "to 127.0.0.1:80 go to that one"},
		{hold(tcp, "127.0.0.1:80", false), v4, "spreads"},
		{hold(udp, "127.0.0.1:80", false), v4, "bound later receives"},
		{hold(tcp, "[::]:80", false), v4any, "to 0.0.0.0:80 go to that one"},
		{hold(tcp, "127.0.0.1:80", false), v4other, ""},
	} {
		r := Request{Protocol: c.h.Protocol, Addr: netip.MustParseAddr(c.addr), Port: 80, ReusePort: true}
		v := Decide(Host{}, []Holder{c.h}, r)
		if (v.Kind == Shadow) != (c.want != "") || !strings.Contains(v.Why, c.want) || v.Errno != 0 {
			t.Errorf("%s then %s: %s, %q, want %q", c.h.LocalString(), c.addr, v.Kind, v.Why, c.want)
		}
	}
}

// TestPreference is step 6 on the live kernel: the narrower socket receives.
func TestPreference(t *testing.T) {
	wide, narrow := spec{addr: v4any, reusePort: true}, spec{addr: v4, reusePort: true}
	for _, order := range [][]spec{{wide, narrow}, {narrow, wide}, {{addr: v6any, reusePort: true}, wide}} {
		var all []*sock
		for _, s := range order {
			x := open(t, s, tcp)
			if errno := x.bind(t, s, s.request(tcp, testPort)); errno != 0 {
				t.Fatal(errno)
			}
			if errno := x.listen(); errno != 0 {
				t.Fatal(errno)
			}
			all = append(all, x)
		}
		c := open(t, spec{addr: v4}, tcp)
		linger(t, c)
		if err := unix.Connect(c.fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}, Port: int(testPort)}); err != nil {
			t.Fatal(err)
		}
		polls := []unix.PollFd{{Fd: int32(all[0].fd), Events: unix.POLLIN}, {Fd: int32(all[1].fd), Events: unix.POLLIN}}
		if _, err := unix.Poll(polls, 5000); err != nil {
			t.Fatal(err)
		}
		got := slices.IndexFunc(polls, func(p unix.PollFd) bool { return p.Revents != 0 })
		want := 0
		if reach(netip.MustParseAddr(order[1].addr)) < reach(netip.MustParseAddr(order[0].addr)) {
			want = 1
		}
		if got != want {
			t.Errorf("%s then %s: socket %d received", order[0].addr, order[1].addr, got)
		}
		c.close()
		all[0].close()
		all[1].close()
	}
}

// TestHistories plays random histories of socket calls and compares every
// answer of the kernel with the verdict.
func TestHistories(t *testing.T) {
	addrs := []string{v4, v4other, v4any, v6, v6other, v6any, v6only, mapped, mappedAny}
	devices := []string{"", "", "", "", "lo", "other"}
	seed := rand.Uint64()
	rnd := rand.New(rand.NewPCG(seed, 1))
	coin := func() bool { return rnd.IntN(2) == 0 }
	const firstPort = testPort + 100
	calls, conflicts := 0, 0
	for history := range 10000 {
		p := []netns.Protocol{tcp, tcp, udp, udplite}[rnd.IntN(4)]
		var bound []*sock // oldest first
		var buckets [2]Bucket
		var log []string
		for range 2 + rnd.IntN(5) {
			s := spec{addr: addrs[rnd.IntN(len(addrs))], reuseAddr: coin(), reusePort: coin(), device: devices[rnd.IntN(len(devices))],
				other: otherUsers() && rnd.IntN(8) == 0, listen: coin(), port: firstPort + uint16(rnd.IntN(2))}
			existing := func(but *sock) []Holder {
				var all []Holder
				for _, b := range bound {
					if b != but {
						all = append(all, b.holder)
					}
				}
				return all
			}
			compare := func(call string, errno syscall.Errno, v Verdict) bool {
				calls++
				log = append(log, fmt.Sprintf("%s %+v: %v", call, s, errno))
				if errno == inUse {
					conflicts++
				}
				if errno != v.Errno {
					t.Errorf("seed %d, history %d, %s: the kernel says %v, the verdict %v (%s):\n%s", seed, history, p, errno, v.Errno, v.Why, strings.Join(log, "\n"))
				}
				return errno == 0
			}
			x, r := open(t, s, p), s.request(p, 0)
			host := testHost
			host.Bucket = &buckets[s.port-firstPort]
			if !slices.ContainsFunc(bound, func(b *sock) bool { return b.holder.Local.Port() == s.port }) {
				*host.Bucket = Bucket{}
			}
			if compare("bind", x.bind(t, s, r), Decide(host, existing(nil), r)) {
				host.Bucket.Bound(r)
				if r.ReusePort && x.six { // as Insert
					bound = append(bound, x)
				} else {
					bound = slices.Insert(bound, 0, x)
				}
				if p == tcp && s.listen {
					r.Listen = true
					if compare("listen", x.listen(), Decide(host, existing(x), r)) {
						host.Bucket.Bound(r)
					}
				}
			} else {
				x.close()
			}
			// Options of a bound socket change, and sockets end.
			if len(bound) > 0 && rnd.IntN(4) == 0 {
				b := bound[rnd.IntN(len(bound))]
				on, option := rnd.IntN(2), []int{unix.SO_REUSEADDR, unix.SO_REUSEPORT}[rnd.IntN(2)]
				if err := unix.SetsockoptInt(b.fd, unix.SOL_SOCKET, option, on); err != nil {
					t.Fatal(err)
				}
				if option == unix.SO_REUSEADDR {
					b.holder.ReuseAddr = OptionOf(on == 1)
				} else {
					b.holder.ReusePort = OptionOf(on == 1)
				}
				log = append(log, fmt.Sprintf("option %d = %d on %s", option, on, b.holder.LocalString()))
			}
			if len(bound) > 0 && rnd.IntN(4) == 0 {
				i := rnd.IntN(len(bound))
				log = append(log, "close "+bound[i].holder.LocalString())
				bound[i].close()
				bound = slices.Delete(bound, i, i+1)
			}
		}
		for _, b := range bound {
			b.close()
		}
		if t.Failed() {
			return
		}
	}
	t.Logf("seed %d: %d calls, %d of them in use", seed, calls, conflicts)
	if conflicts < calls/10 {
		t.Errorf("only %d of %d calls met anybody", conflicts, calls)
	}
}

func TestParseEndpoint(t *testing.T) {
	for text, want := range map[string]string{
		"80": "tcp [::]:80", "udp/53": "udp [::]:53", "127.0.0.1:8080": "tcp 127.0.0.1:8080", "[::1]:8080": "tcp [::1]:8080",
		"::1:8080": "tcp [::1]:8080", "localhost:80": "tcp 127.0.0.1:80", "tcp/*:80": "tcp [::]:80", "udplite/0.0.0.0:9": "udplite 0.0.0.0:9",
	} {
		p, a, n, err := ParseEndpoint(text)
		if got := fmt.Sprint(p, " ", netip.AddrPortFrom(a, n)); err != nil || got != want {
			t.Errorf("%q: %q, %v, want %q", text, got, err, want)
		}
	}
	for _, bad := range []string{"", "x", "70000", "-1", "host:80", "1.2.3:80", "80/tcp", "tcp/"} {
		if _, _, _, err := ParseEndpoint(bad); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}
