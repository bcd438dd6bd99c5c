package portbroker

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"runtime"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/lxbridge/lx/core/config"
	"github.com/lxbridge/lx/core/env"
	"github.com/lxbridge/lx/core/seccomp/seccomptest"
	"github.com/lxbridge/lx/netns"
)

const reservedPort = testPort + 400

// TestPast: the owner enters beside its reservation, whoever it is and whatever
// it asks for; nobody else does, before, meanwhile and after.
func TestPast(t *testing.T) {
	for _, protocol := range []netns.Protocol{netns.TCP, netns.UDP} {
		for _, addr := range []string{"0.0.0.0", "127.0.0.1", "::", "::1", ":: v6only"} {
			for _, other := range []bool{false, true} {
				if other && !otherUsers() {
					continue
				}
				t.Run(fmt.Sprint(protocol, addr, other), func(t *testing.T) {
					fd, _, err := Reserve(Place{protocol.String(), reservedPort})
					if err != nil {
						t.Fatal(err)
					}
					defer unix.Close(fd)
					s := spec{addr: addr, other: other}
					intrude := func(when string) {
						t.Helper()
						for _, options := range []spec{{addr: addr}, {addr: "::", reuseAddr: true}, {addr: "127.0.0.1", reuseAddr: true, reusePort: true}} {
							x := open(t, options, protocol)
							defer x.close()
							if errno := x.bind(t, options, options.request(protocol, reservedPort)); errno != unix.EADDRINUSE {
								t.Errorf("%s, %+v: %v", when, options, errno)
							}
						}
					}
					intrude("reserved")
					x := open(t, s, protocol)
					enter := func(f func() syscall.Errno) {
						t.Helper()
						if errno := past(fd, x.fd, f); errno != 0 {
							t.Fatal(errno)
						}
					}
					enter(func() syscall.Errno { return x.bind(t, s, s.request(protocol, reservedPort)) })
					if v, err := unix.GetsockoptInt(x.fd, unix.SOL_SOCKET, unix.SO_REUSEADDR); err != nil || v != 0 {
						t.Errorf("the owner's SO_REUSEADDR: %d, %v", v, err)
					}
					intrude("bound")
					if protocol == netns.TCP {
						enter(x.listen)
						intrude("listening")
					}
					x.close()
					intrude("left")
				})
			}
		}
	}
}

// TestReservedPackets: what comes for the owner reaches it, not the reservation.
func TestReservedPackets(t *testing.T) {
	fd, _, err := Reserve(Place{"udp", reservedPort})
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	for _, addr := range []string{"127.0.0.1", "0.0.0.0", "::"} {
		s := spec{addr: addr}
		x := open(t, s, netns.UDP)
		if errno := past(fd, x.fd, func() syscall.Errno { return x.bind(t, s, s.request(netns.UDP, reservedPort)) }); errno != 0 {
			t.Fatal(errno)
		}
		c, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		err = unix.Sendto(c, []byte("hello"), 0, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}, Port: int(reservedPort)})
		b := make([]byte, 10)
		n, _, rerr := unix.Recvfrom(x.fd, b, unix.MSG_DONTWAIT)
		if err != nil || rerr != nil || string(b[:n]) != "hello" {
			t.Errorf("%s: %q, %v, %v", addr, b[:n], err, rerr)
		}
		unix.Close(c)
		x.close()
	}
}

// linkPair are both ends of a link.
func linkPair(t *testing.T) (*env.Link, *env.Link) {
	t.Helper()
	a, file, err := env.NewLink()
	if err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Dup(int(file.Fd()))
	file.Close()
	if err != nil {
		t.Fatal(err)
	}
	b, err := env.OpenLink(fd)
	if err != nil {
		t.Fatal(err)
	}
	return a, b
}

// TestShut: what a broker that was killed in the midst of past left open is shut
// once the next one is there.
func TestShut(t *testing.T) {
	h := NewHeld()
	defer h.Close()
	place := Place{"tcp", reservedPort + 3}
	h.Want(map[Place]Reservation{place: {Place: place, Environment: "debian"}})
	fd := h.held[place].fd
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
		t.Fatal(err)
	}
	ours, theirs := linkPair(t)
	defer ours.Close()
	defer theirs.Close()
	if err := sendReservations(theirs, nil); err != nil {
		t.Fatal(err)
	}
	if err := h.Join(ours, "debian"); err != nil {
		t.Fatal(err)
	}
	if v, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR); err != nil || v != 0 {
		t.Errorf("SO_REUSEADDR: %d, %v", v, err)
	}
}

// TestShare: a daemon gives reservations to a broker, which gives them to the
// next daemon.
func TestShare(t *testing.T) {
	b, err := New("debian", env.Dirs{State: t.TempDir()}, seccomptest.Log(t))
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	daemon := func() (*env.Link, chan error) {
		ours, l := linkPair(t)
		ended := make(chan error, 1)
		go func() {
			ended <- b.Share(l)
			l.Close()
		}()
		return ours, ended
	}
	h := NewHeld()
	want := map[Place]Reservation{}
	for _, p := range []string{"tcp", "udp"} {
		place := Place{p, reservedPort + 1}
		want[place] = Reservation{Place: place, Environment: "debian", Why: "the shop"}
	}
	h.Want(want)
	first, ended := daemon()
	if err := h.Join(first, "debian"); err != nil {
		t.Fatal(err)
	}
	if err := h.Give(first, "debian"); err != nil {
		t.Fatal(err)
	}
	<-b.reserved.known
	first.Close()
	if err := <-ended; !errors.Is(err, io.EOF) {
		t.Error(err)
	}
	h.Close()

	again := NewHeld()
	defer again.Close()
	for p, r := range again.Want(want) {
		if r.Socket != 0 || r.Missing == "" {
			t.Errorf("%v was free between two daemons: %+v", p, r)
		}
	}
	second, ended := daemon()
	if err := again.Join(second, "debian"); err != nil {
		t.Fatal(err)
	}
	for p, r := range again.Want(want) {
		if r.Socket == 0 || r.Missing != "" {
			t.Errorf("%v is not held by the next daemon: %+v", p, r)
		}
	}
	// It names to the broker who holds what the kernel hides from that.
	held := spec{addr: "127.0.0.1"}
	x := open(t, held, netns.TCP)
	if errno := x.bind(t, held, held.request(netns.TCP, reservedPort+2)); errno != 0 {
		t.Fatal(errno)
	}
	cookie, err := unix.GetsockoptUint64(x.fd, unix.SOL_SOCKET, unix.SO_COOKIE)
	if err != nil {
		t.Fatal(err)
	}
	if err := again.Give(second, "debian"); err != nil {
		t.Fatal(err)
	}
	reader := netns.NewReader()
	defer reader.Close()
	answering := make(chan error, 1)
	go func() { answering <- Answer(second, reader) }()
	hidden := []Holder{{Entry: netns.Entry{Hidden: true, Socket: netns.Socket{Cookie: cookie}}}, {Entry: netns.Entry{Hidden: true, Socket: netns.Socket{Cookie: 1}}}}
	for b.link.Load() == nil { // it is there once the broker has told what it has
		runtime.Gosched()
	}
	b.nameByDaemon(hidden, Place{"tcp", reservedPort + 2})
	if o := hidden[0].Owner(); hidden[0].Hidden || o == nil || o.PID != os.Getpid() || !hidden[1].Hidden {
		t.Errorf("%+v", hidden)
	}
	// Released: the port is free at once.
	again.Want(nil)
	if err := again.Give(second, "debian"); err != nil {
		t.Fatal(err)
	}
	second.Close()
	<-ended
	<-answering
	s := spec{addr: "0.0.0.0"}
	if errno := open(t, s, netns.TCP).bind(t, s, s.request(netns.TCP, reservedPort+1)); errno != 0 {
		t.Errorf("a port that was released: %v", errno)
	}
}

func addrOf(t *testing.T, text string) netip.AddrPort {
	t.Helper()
	a, err := netip.ParseAddrPort(text)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func TestPlaces(t *testing.T) {
	p := policyOf(config.PortRule{Ports: ports("80-81"), Policy: config.PortReserve}, config.PortRule{Ports: ports("udp/81"), Policy: config.PortShare})
	places := p.Places()
	if len(places) != 3 || places[Place{"udp", 81}].Policy != "" || places[Place{"tcp", 81}].Policy != config.PortReserve {
		t.Errorf("%+v", places)
	}
}

// TestHoldersOfOthers: who holds what the kernel hides is known from lx's state.
func TestHoldersOfOthers(t *testing.T) {
	d := env.Dirs{State: t.TempDir()}
	write := func(path, text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(d.Ports("debian"), `{"pid":1,"command":"old","local":"0.0.0.0:80","socket":77,"error":"EINVAL"}
{"pid":7,"environment":"debian","command":"nginx","local":"0.0.0.0:80","socket":7}
{"pid":8,"environment":"debian","command":"node","local":"0.0.0.0:81","socket":8,"why":"x"}
{"pid":9,"environment":"debian","command":"half","local":"0.0.0.0:82","socket":9`)
	write(d.Reservations(), `[{"protocol":"tcp","port":83,"environment":"arch","why":"the shop","socket":10}]`)
	s := &netns.Snapshot{Namespaces: []netns.Namespace{{Inode: 1}}}
	for i, port := range []string{"80", "81", "82", "83"} {
		e := netns.Entry{Hidden: true, Socket: netns.Socket{Namespace: 1, Cookie: uint64(7 + i), Protocol: netns.TCP, State: netns.Listen}}
		e.Local = addrOf(t, "0.0.0.0:"+port)
		s.Entries = append(s.Entries, e)
	}
	s.Entries = append(s.Entries, netns.Entry{Hidden: true, Socket: netns.Socket{Namespace: 1, Cookie: 77, Local: addrOf(t, "0.0.0.0:80")}})
	all := Holders(s, d)
	if o := all[0].Owner(); all[0].Hidden || o == nil || o.Command != "nginx" || o.Environment != "debian" {
		t.Errorf("%+v", all[0])
	}
	if o := all[1].Owner(); o == nil || o.PID != 8 {
		t.Errorf("%+v", all[1])
	}
	if !all[2].Hidden || !all[4].Hidden || all[4].Owner() != nil {
		t.Errorf("%+v, %+v", all[2], all[4])
	}
	v := Decide(testHost, all[3:4], Request{Protocol: netns.TCP, Addr: addrOf(t, "0.0.0.0:83").Addr(), Port: 83, Privileged: true})
	if v.Kind != Reserved || v.Why != "port 83 is reserved for environment arch: the shop" {
		t.Errorf("%+v", v)
	}
	write(d.Reservations(), "{")
	if all := Holders(s, d); len(all) != 5 || all[3].ReservedFor != "" {
		t.Errorf("%+v", all)
	}
}
