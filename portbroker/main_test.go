package portbroker

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/lxbridge/lx/core/ns/nstest"
	"github.com/lxbridge/lx/core/seccomp/seccomptest"
	"github.com/lxbridge/lx/netns"
)

// otherUser is somebody else's id, where the map has it.
const otherUser = 1

// TestMain runs the tests as root of a user and a network namespace, so that
// every port is free and every call is the tests' own.
func TestMain(m *testing.M) {
	if !nstest.IsInside() {
		os.Exit(nstest.Main(unix.CLONE_NEWNET, 65536))
	}
	if err := setUp(); err != nil {
		fmt.Fprintln(os.Stderr, "portbroker:", err)
		os.Exit(1)
	}
	seccomptest.Main(m, programs) // a guest is inside as well
}

// setUp gives the namespace two loopback addresses of each family and two devices.
func setUp() error {
	if _, err := net.InterfaceByName("other"); err == nil {
		return nil // in a guest
	}
	for _, line := range []string{"link set lo up", "addr add fd00::1/128 dev lo nodad"} {
		if err := ip(line); err != nil {
			return err
		}
	}
	// Not every kernel has every type.
	var errs error
	for _, kind := range []string{"dummy", "bridge", "veth", "ifb"} {
		err := ip("link add other type " + kind)
		if err == nil {
			return ip("link set other up")
		}
		errs = errors.Join(errs, err)
	}
	return errs
}

func ip(line string) error {
	if out, err := exec.Command("ip", strings.Fields(line)...).CombinedOutput(); err != nil {
		return fmt.Errorf("ip %s: %w: %s", line, err, out)
	}
	return nil
}

// otherUsers says whether the tests can be a second user.
func otherUsers() bool {
	b, err := os.ReadFile("/proc/self/uid_map")
	return err == nil && strings.Fields(string(b))[2] != "1"
}

// testHost is what the namespace is for Decide.
var testHost = Host{UnprivilegedStart: 1024, Local: func(a netip.Addr, device uint32) bool {
	if device != 0 && device != deviceIndex("lo") {
		return false
	}
	return a.IsLoopback() || a == netip.MustParseAddr("fd00::1") || a.IsMulticast()
}}

// sock is a live socket and what is known of it.
type sock struct {
	fd     int
	proto  netns.Protocol
	holder Holder
	six    bool
}

// spec is how a test's socket is made and bound.
type spec struct {
	addr         string // "::" may end in " v6only"
	reuseAddr    bool
	reusePort    bool
	device       string
	other        bool // made by another user
	unprivileged bool
	freebind     bool
	port         uint16 // 0: the test's
	listen       bool
}

func (s spec) request(p netns.Protocol, port uint16) Request {
	addr, v6only := strings.CutSuffix(s.addr, " v6only")
	r := Request{Protocol: p, Addr: netip.MustParseAddr(addr), Port: port, ReuseAddr: s.reuseAddr, ReusePort: s.reusePort, V6Only: v6only,
		Device: deviceIndex(s.device), Privileged: !s.unprivileged, Freebind: s.freebind}
	if s.port != 0 {
		r.Port = s.port
	}
	if s.other {
		r.UID = otherUser
	}
	return r
}

// open makes the socket, not yet bound.
func open(t testing.TB, s spec, p netns.Protocol) *sock {
	t.Helper()
	r := s.request(p, 0)
	x := &sock{proto: p, six: !r.Addr.Is4(), fd: -1}
	family, kind := unix.AF_INET, unix.SOCK_STREAM
	if x.six {
		family = unix.AF_INET6
	}
	if p != netns.TCP {
		kind = unix.SOCK_DGRAM
	}
	as(t, s, func() error {
		var err error
		x.fd, err = unix.Socket(family, kind|unix.SOCK_CLOEXEC, int(p))
		return err
	})
	set := func(on bool, level, option int) {
		if on {
			if err := unix.SetsockoptInt(x.fd, level, option, 1); err != nil {
				t.Fatal(err)
			}
		}
	}
	set(s.reuseAddr, unix.SOL_SOCKET, unix.SO_REUSEADDR)
	set(s.reusePort, unix.SOL_SOCKET, unix.SO_REUSEPORT)
	set(r.V6Only, unix.SOL_IPV6, unix.IPV6_V6ONLY)
	set(s.freebind, unix.SOL_IP, unix.IP_FREEBIND)
	if s.device != "" {
		if err := unix.BindToDevice(x.fd, s.device); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(x.close)
	return x
}

func (x *sock) close() {
	if x.fd >= 0 {
		unix.Close(x.fd)
		x.fd = -1
	}
}

// bind does what r says and remembers what it made.
func (x *sock) bind(t testing.TB, s spec, r Request) syscall.Errno {
	t.Helper()
	var sa unix.Sockaddr = &unix.SockaddrInet6{Addr: r.Addr.As16(), Port: int(r.Port)}
	if r.Addr.Is4() {
		sa = &unix.SockaddrInet4{Addr: r.Addr.As4(), Port: int(r.Port)}
	}
	var errno syscall.Errno
	as(t, s, func() error {
		if err := unix.Bind(x.fd, sa); err != nil && !errors.As(err, &errno) {
			return err
		}
		return nil
	})
	if errno == 0 {
		x.holder = Holder{ReuseAddr: OptionOf(r.ReuseAddr), ReusePort: OptionOf(r.ReusePort), Entry: netns.Entry{Socket: netns.Socket{
			Protocol: r.Protocol, Local: netip.AddrPortFrom(r.Addr, r.Port), V6Only: r.V6Only, UID: r.UID, Device: r.Device, State: netns.Close}}}
		if r.Protocol == netns.TCP {
			x.holder.State = netns.Bound
		}
	}
	return errno
}

func (x *sock) listen() syscall.Errno {
	err := unix.Listen(x.fd, 8)
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return errno
	}
	x.holder.State = netns.Listen
	return 0
}

// as runs f on a thread that is the spec's user with the spec's rights.
func as(t testing.TB, s spec, f func() error) {
	t.Helper()
	if !s.other && !s.unprivileged {
		if err := f(); err != nil {
			t.Fatal(err)
		}
		return
	}
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // the thread ends with the goroutine
		done <- func() error {
			if s.other {
				if err := unix.Setfsuid(otherUser); err != nil {
					return err
				}
			}
			if s.unprivileged {
				none := [2]unix.CapUserData{}
				if err := unix.Capset(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, &none[0]); err != nil {
					return err
				}
			}
			return f()
		}()
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func deviceIndex(name string) uint32 {
	if name == "" {
		return 0
	}
	d, err := net.InterfaceByName(name)
	if err != nil {
		panic(err) // setUp made it
	}
	return uint32(d.Index)
}
