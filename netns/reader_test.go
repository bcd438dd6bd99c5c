package netns

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// helperVar makes the test binary hold a port until its input ends.
const helperVar = "NETNS_TEST_HOLD"

func TestMain(m *testing.M) {
	if addr := os.Getenv(helperVar); addr != "" {
		l, err := net.Listen("tcp4", addr)
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println(l.Addr().(*net.TCPAddr).Port)
		_, _ = bufio.NewReader(os.Stdin).ReadByte()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// hold starts a process that listens, in namespaces of its own with flags.
func hold(t *testing.T, flags uintptr, env ...string) (pid int, port uint16) {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), append(env, helperVar+"=:0")...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: flags}
	if flags&unix.CLONE_NEWUSER != 0 {
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}}
	}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	})
	if _, err := fmt.Fscan(out, &port); err != nil {
		t.Fatalf("the holder did not listen: %v", err)
	}
	return cmd.Process.Pid, port
}

func socket(t *testing.T, family, kind, proto int, local string) netip.AddrPort {
	t.Helper()
	fd, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC, proto)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	a := netip.MustParseAddr(local)
	var sa unix.Sockaddr = &unix.SockaddrInet6{Addr: a.As16()}
	if a.Is4() {
		sa = &unix.SockaddrInet4{Addr: a.As4()}
	}
	if err := unix.Bind(fd, sa); err != nil {
		t.Fatal(err)
	}
	sa, err = unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	if in, ok := sa.(*unix.SockaddrInet4); ok {
		return netip.AddrPortFrom(a, uint16(in.Port))
	}
	return netip.AddrPortFrom(a, uint16(sa.(*unix.SockaddrInet6).Port))
}

func find(s *Snapshot, p Protocol, local netip.AddrPort) *Entry {
	i := slices.IndexFunc(s.Entries, func(e Entry) bool { return e.Protocol == p && e.Local == local })
	if i < 0 {
		return nil
	}
	return &s.Entries[i]
}

func TestReadOwnSockets(t *testing.T) {
	r := NewReader()
	defer r.Close()
	l, err := net.Listen("tcp", ":0") // MPTCP, dual stack
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	dual := netip.AddrPortFrom(netip.IPv6Unspecified(), uint16(l.Addr().(*net.TCPAddr).Port))
	for _, c := range []struct {
		local netip.AddrPort
		proto Protocol
		state State
		text  string
	}{
		{dual, MPTCP, Listen, fmt.Sprintf("*:%d", dual.Port())},
		{socket(t, unix.AF_INET, unix.SOCK_STREAM, 0, "127.0.0.1"), TCP, Bound, ""},
		{socket(t, unix.AF_INET6, unix.SOCK_STREAM, 0, "::1"), TCP, Bound, ""},
		{socket(t, unix.AF_INET, unix.SOCK_DGRAM, 0, "127.0.0.1"), UDP, Close, ""},
		{socket(t, unix.AF_INET6, unix.SOCK_DGRAM, 0, "::1"), UDP, Close, ""},
		{socket(t, unix.AF_INET, unix.SOCK_DGRAM, unix.IPPROTO_UDPLITE, "0.0.0.0"), UDPLite, Close, ""},
	} {
		s, err := r.Read(Query{Low: c.local.Port()})
		if err != nil {
			t.Fatal(err)
		}
		e := find(s, c.proto, c.local)
		if e == nil {
			t.Errorf("%s %s is not shown: %+v", c.proto, c.local, s.Entries)
			continue
		}
		if e.State != c.state || e.UID != uint32(os.Getuid()) || c.text != "" && e.LocalString() != c.text {
			t.Errorf("%s %s: %s, %+v", c.proto, c.local, e.LocalString(), e.Socket)
		}
		if o := e.Owner(); o == nil || o.PID != os.Getpid() || o.Command == "" || o.User == "" || o.Started.After(time.Now()) {
			t.Errorf("%s %s: owner %+v", c.proto, c.local, o)
		}
		for _, e := range s.Entries {
			if e.Local.Port() != c.local.Port() {
				t.Errorf("asked for port %d, told of %d", c.local.Port(), e.Local.Port())
			}
		}
	}
}

// TestReadOtherNamespace: root enters it; others read what anybody may.
func TestReadOtherNamespace(t *testing.T) {
	pid, port := hold(t, unix.CLONE_NEWUSER|unix.CLONE_NEWNET)
	r := NewReader()
	defer r.Close()
	s, err := r.Read(Query{Low: port})
	if err != nil {
		t.Fatal(err)
	}
	e := find(s, MPTCP, netip.AddrPortFrom(netip.IPv4Unspecified(), port))
	if e == nil { // /proc/PID/net tells nothing of MPTCP
		e = find(s, TCP, netip.AddrPortFrom(netip.IPv4Unspecified(), port))
	}
	if e == nil {
		t.Fatalf("port %d of process %d is not shown: %+v", port, pid, s)
	}
	if o := e.Owner(); o == nil || o.PID != pid {
		t.Errorf("owner %+v, want %d", o, pid)
	}
	if e.Namespace == s.Namespaces[0].Inode || e.Namespace == 0 {
		t.Errorf("in namespace %d, own is %d", e.Namespace, s.Namespaces[0].Inode)
	}
	i := slices.IndexFunc(s.Namespaces, func(n Namespace) bool { return n.Inode == e.Namespace })
	if partial := s.Namespaces[i].Partial; partial != (os.Geteuid() != 0) {
		t.Errorf("partial: %v", partial)
	} else if partial && !strings.Contains(strings.Join(s.Unseen, "\n"), "may not be entered") {
		t.Errorf("unseen: %q", s.Unseen)
	}
}

func TestEnvironment(t *testing.T) {
	_, port := hold(t, 0, EnvironmentVar+"=debian")
	r := NewReader()
	defer r.Close()
	s, err := r.Read(Query{Low: port})
	if err != nil {
		t.Fatal(err)
	}
	if len(s.Entries) != 1 || s.Entries[0].Owner() == nil || s.Entries[0].Owner().Environment != "debian" {
		t.Errorf("%+v", s.Entries)
	}
}

// TestOwnersAreFollowed: a reader that remembers notices a change of hands.
func TestOwnersAreFollowed(t *testing.T) {
	l, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	port := uint16(l.Addr().(*net.TCPAddr).Port)
	f, err := l.File()
	if err != nil {
		t.Fatal(err)
	}
	r := NewReader()
	defer r.Close()
	owners := func() []int {
		s, err := r.Read(Query{Low: port})
		if err != nil || len(s.Entries) != 1 {
			t.Fatalf("%v %+v", err, s)
		}
		var pids []int
		for _, o := range s.Entries[0].Owners {
			pids = append(pids, o.PID)
		}
		return pids
	}
	if got := owners(); !slices.Equal(got, []int{os.Getpid(), os.Getpid()}) {
		t.Errorf("owners %v", got)
	}
	cmd := exec.Command("sleep", "1000")
	cmd.ExtraFiles = []*os.File{f}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Wait() }()
	defer func() { _ = cmd.Process.Kill() }()
	l.Close()
	f.Close()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(5 * recheck); ; <-tick.C {
		got := owners()
		if slices.Equal(got, []int{cmd.Process.Pid}) {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("owners %v, want %d", got, cmd.Process.Pid)
		}
	}
}

func TestWatch(t *testing.T) {
	r := NewReader()
	defer r.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	var l net.Listener
	var port uint16
	var closed time.Time
	appeared, gone := false, time.Duration(0)
	stop := errors.New("seen")
	err := Watch(ctx, r, Query{Protocols: []Protocol{TCP}}, func(_ *Snapshot, events []Event) error {
		if l == nil {
			var err error
			if l, err = net.Listen("tcp4", "127.0.0.1:0"); err != nil {
				return err
			}
			port = uint16(l.Addr().(*net.TCPAddr).Port)
		}
		for _, e := range events {
			switch {
			case e.Local.Port() != port:
			case e.Gone:
				gone = e.At.Sub(closed)
				return stop
			default:
				appeared = true
				closed = time.Now()
				l.Close()
			}
		}
		return nil
	})
	if !errors.Is(err, stop) || !appeared {
		t.Fatalf("%v, appeared %v", err, appeared)
	}
	t.Logf("the end was seen after %s", gone)
	if gone > Interval {
		t.Errorf("the end was seen after %s: no event came", gone)
	}
}

func TestProgram(t *testing.T) {
	for _, c := range []struct {
		p    Process
		want string
	}{
		{Process{Command: "node", Args: []string{"/usr/bin/node", "x.js"}}, "node"},
		{Process{Command: "systemd-resolve", Args: []string{"/lib/systemd/systemd-resolved"}}, "systemd-resolved"},
		{Process{Command: "kworker/0:0"}, "kworker/0:0"},
		{Process{Command: "11", Args: []string{"lx-init"}}, "lx-init"},
	} {
		if got := c.p.Program(); got != c.want {
			t.Errorf("%q, want %q", got, c.want)
		}
	}
}
