package portbroker

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lxbridge/lx/core/env"
	"github.com/lxbridge/lx/core/seccomp"
	"github.com/lxbridge/lx/core/seccomp/seccomptest"
)

// guestAnswers are what a guest's calls returned.
type guestAnswers map[string]string

var programs = map[string]seccomptest.Program{"binds": guestBinds, "policies": guestPolicies, "many": guestMany, "time": guestTime, "i386": guestI386}

func say(out string, v any) int {
	b, err := json.Marshal(v)
	if err == nil {
		err = os.WriteFile(out, b, 0o600)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func text(err error) string {
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return unix.ErrnoName(errno)
	}
	return fmt.Sprint(err)
}

// guestBinds does calls of every kind; args: OUT DIR.
func guestBinds(args []string) int {
	a := guestAnswers{}
	sock := func(family, kind, proto int) int {
		fd, err := unix.Socket(family, kind, proto)
		if err != nil {
			panic(err)
		}
		return fd
	}
	in4 := func(port int) unix.Sockaddr { return &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}, Port: port} }
	tcp4 := func() int { return sock(unix.AF_INET, unix.SOCK_STREAM, 0) }

	// Free, listening, and asked for at once.
	fd := tcp4()
	a["free"] = text(unix.Bind(fd, in4(0)))
	name, err := unix.Getsockname(fd)
	if err != nil {
		panic(err)
	}
	a["port"] = strconv.Itoa(int(addrPort(name).Port()))
	a["listen"] = text(unix.Listen(fd, 5))
	a["again"] = text(unix.Bind(fd, in4(0)))
	a["own conflict"] = text(unix.Bind(tcp4(), in4(int(addrPort(name).Port()))))
	// The test's own.
	a["held"] = text(unix.Bind(tcp4(), in4(int(testPort+200))))
	a["held v6"] = text(unix.Bind(sock(unix.AF_INET6, unix.SOCK_STREAM, unix.IPPROTO_MPTCP), &unix.SockaddrInet6{Port: int(testPort + 200)}))
	a["udp"] = text(unix.Bind(sock(unix.AF_INET, unix.SOCK_DGRAM, 0), in4(int(testPort+200))))
	a["low"] = text(unix.Bind(tcp4(), in4(80)))
	a["foreign"] = text(unix.Bind(tcp4(), &unix.SockaddrInet4{Addr: [4]byte{10, 9, 9, 9}, Port: 8080}))
	a["autobind"] = text(unix.Listen(tcp4(), 1))

	// Malformed: the kernel's own errors.
	raw := func(fd int, p uintptr, size int) string {
		_, _, errno := unix.RawSyscall(unix.SYS_BIND, uintptr(fd), p, uintptr(size))
		return unix.ErrnoName(errno)
	}
	a["no fd"] = text(unix.Listen(999, 1))
	a["no socket"] = text(unix.Listen(0, 1))
	a["bad memory"] = raw(tcp4(), 8, 16)
	a["negative"] = raw(tcp4(), 0, -1)
	a["too long"] = raw(tcp4(), 8, 129)
	a["udp listen"] = text(unix.Listen(sock(unix.AF_INET, unix.SOCK_DGRAM, 0), 1))

	// Other domains are the kernel's.
	u := sock(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	a["unix"] = text(unix.Bind(u, &unix.SockaddrUnix{Name: filepath.Join(args[1], "sock")}))
	a["unix listen"] = text(unix.Listen(u, 1))
	c := sock(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	a["unix connect"] = text(unix.Connect(c, &unix.SockaddrUnix{Name: filepath.Join(args[1], "sock")}))
	cred, err := unix.GetsockoptUcred(c, unix.SOL_SOCKET, unix.SO_PEERCRED)
	a["peer"] = fmt.Sprint(err == nil && int(cred.Pid) == os.Getpid())
	n := sock(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_ROUTE)
	a["netlink"] = text(unix.Bind(n, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}))
	name, err = unix.Getsockname(n)
	a["netlink id"] = fmt.Sprint(err == nil && int(name.(*unix.SockaddrNetlink).Pid) == os.Getpid())
	return say(args[0], a)
}

// guestMany binds from several threads at once; args: OUT COUNT.
func guestMany(args []string) int {
	count, err := strconv.Atoi(args[1])
	if err != nil {
		return 2
	}
	var wg sync.WaitGroup
	failed := make(chan error, 50)
	for range 50 {
		wg.Go(func() {
			for range count / 50 {
				fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
				if err == nil {
					err = errors.Join(unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}), unix.Close(fd))
				}
				if err != nil {
					failed <- err
					return
				}
			}
		})
	}
	wg.Wait()
	close(failed)
	return say(args[0], fmt.Sprint(<-failed))
}

// guestTime measures a bind, in µs; args: OUT COUNT.
func guestTime(args []string) int {
	count, err := strconv.Atoi(args[1])
	if err != nil {
		return 2
	}
	return say(args[0], timeBinds(count))
}

// timeBinds is the least mean of a bind in µs over many bursts.
func timeBinds(count int) float64 {
	const burst = 20
	best := time.Hour
	for range max(1, count/burst) {
		var fds [burst]int
		for i := range fds {
			fds[i], _ = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		}
		start := time.Now()
		for _, fd := range fds {
			if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
				panic(err)
			}
		}
		best = min(best, time.Since(start))
		for _, fd := range fds {
			unix.Close(fd)
		}
	}
	return float64(best.Nanoseconds()) / burst / 1000
}

// i386Socket is the descriptor that guestI386 leaves a socket at.
const i386Socket = 100

// guestI386 becomes a 32-bit program that has a socket; args: OUT PROGRAM.
func guestI386(args []string) int {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	if err == nil {
		err = unix.Dup3(fd, i386Socket, 0)
	}
	if err == nil {
		err = errors.Join(os.WriteFile(args[0], []byte("null"), 0o600), unix.Exec(args[1], args[1:], nil))
	}
	fmt.Fprintln(os.Stderr, err)
	return 125
}

// TestI386 binds and listens by both of i386's ways.
func TestI386(t *testing.T) {
	if runtime.GOARCH != "amd64" {
		t.Log("only amd64 runs programs for i386")
		return
	}
	// The program's one string starts here: the image, the headers, its code.
	at := func(args int) uint32 { return 0x10000 + 52 + 32 + uint32(5*(1+args)+13) }
	words := func(w ...uint32) (b []byte) {
		for _, n := range w {
			b = binary.LittleEndian.AppendUint32(b, n)
		}
		return b
	}
	sockaddr := string([]byte{unix.AF_INET, 0, 0, 0, 127, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0})
	for name, c := range map[string]struct {
		elf  []byte
		call string
	}{
		"bind":              {seccomptest.I386(361, i386Socket, sockaddr, 16), "bind"},
		"listen":            {seccomptest.I386(363, i386Socket, 5), "listen"},
		"socketcall bind":   {seccomptest.I386(102, 2, string(words(i386Socket, at(2)+12, 16))+sockaddr), "bind"},
		"socketcall listen": {seccomptest.I386(102, 4, string(words(i386Socket, 5))), "listen"},
	} {
		path := filepath.Join(t.TempDir(), "program")
		if err := os.WriteFile(path, c.elf, 0o755); err != nil {
			t.Fatal(err)
		}
		var said any
		records := runGuest(t, &said, "i386", path)
		if len(records) != 1 || records[0].Call != c.call || records[0].Error != "" || records[0].Local.Port() == 0 {
			t.Errorf("%s: %+v", name, records)
		}
	}
}

// runGuest runs a program whose traps a Broker answers, and reads what it said.
func runGuest(t testing.TB, said any, program string, args ...string) []Record {
	t.Helper()
	return runUnder(t, nil, seccomptest.Log(t), said, program, args...)
}

// runUnder is runGuest under a policy.
func runUnder(t testing.TB, p Policy, log *slog.Logger, said any, program string, args ...string) []Record {
	t.Helper()
	dir := t.TempDir()
	dirs := env.Dirs{State: dir}
	b, err := New("debian", dirs, log)
	if err != nil {
		t.Fatal(err)
	}
	b.SetPolicy(p)
	out := filepath.Join(dir, "out")
	g := seccomptest.Start(t, seccomp.Options{Features: []string{seccomp.FeaturePorts}}, program, append([]string{out}, args...)...)
	l, err := seccomp.NewListener(g.Listener, b.Handlers(), nil, seccomptest.Log(t))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- l.Serve(ctx) }()
	g.Run(t)
	code := g.Wait(t)
	cancel()
	if err := errors.Join(<-ended, b.Close()); err != nil {
		t.Fatal(err)
	}
	if code != 0 {
		t.Fatalf("the guest exits with %d", code)
	}
	data, err := os.ReadFile(out)
	if err == nil {
		err = json.Unmarshal(data, said)
	}
	var all []Record
	err = errors.Join(err, ReadLedger(dirs.Ports("debian"), func(r Record) { all = append(all, r) }))
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// TestTraps compares what a guest sees with what Linux shows without us, and
// reads the ledger.
func TestTraps(t *testing.T) {
	s := spec{addr: v4}
	held, r := open(t, s, tcp), s.request(tcp, testPort+200)
	if errno := held.bind(t, s, r); errno != 0 {
		t.Fatal(errno)
	}
	if errno := held.listen(); errno != 0 {
		t.Fatal(errno)
	}
	a := guestAnswers{}
	records := runGuest(t, &a, "binds", t.TempDir())
	port := a["port"]
	delete(a, "port")
	want := guestAnswers{"free": "<nil>", "listen": "<nil>", "again": "EINVAL", "own conflict": "EADDRINUSE", "held": "EADDRINUSE", "held v6": "EADDRINUSE",
		"udp": "<nil>", "low": "EACCES", "foreign": "EADDRNOTAVAIL", "autobind": "<nil>", "no fd": "EBADF", "no socket": "ENOTSOCK",
		"bad memory": "EFAULT", "negative": "EINVAL", "too long": "EINVAL", "udp listen": "ENOTSUP", "unix": "<nil>", "unix listen": "<nil>",
		"unix connect": "<nil>", "peer": "true", "netlink": "<nil>", "netlink id": "true"}
	for name, text := range want {
		if a[name] != text {
			t.Errorf("%s: %s, want %s", name, a[name], text)
		}
	}
	find := func(call, wanted, errname string) *Record {
		for i := range records {
			if r := &records[i]; r.Call == call && r.Wanted.String() == wanted && r.Error == errname {
				return r
			}
		}
		t.Errorf("no %s of %s with %q in the ledger: %+v", call, wanted, errname, records)
		return &Record{}
	}
	if r := find("bind", "127.0.0.1:0", ""); r.Local.String() != "127.0.0.1:"+port || r.Environment != "debian" || r.Protocol != "tcp" {
		t.Errorf("%+v", r)
	}
	find("listen", "127.0.0.1:"+port, "")
	name := fmt.Sprintf("(%d)", os.Getpid())
	heldPort := strconv.Itoa(int(testPort + 200))
	if r := find("bind", "127.0.0.1:"+heldPort, "EADDRINUSE"); !strings.Contains(r.Why, name) || !strings.Contains(r.Why, "port "+heldPort+" is held by") || r.Command == "" {
		t.Errorf("%+v", r)
	}
	if r := find("bind", "[::]:"+heldPort, "EADDRINUSE"); r.Protocol != "mptcp" || !strings.Contains(r.Why, name) {
		t.Errorf("%+v", r)
	}
	if r := find("bind", "10.9.9.9:8080", "EADDRNOTAVAIL"); !strings.Contains(r.Why, "no address of this host") {
		t.Errorf("%+v", r)
	}
	find("bind", "127.0.0.1:"+heldPort, "") // UDP's
}

// TestManyBinds: ledger and kernel agree when many threads bind at once.
func TestManyBinds(t *testing.T) {
	const count = 3000
	var said string
	records := runGuest(t, &said, "many", strconv.Itoa(count))
	if said != "<nil>" {
		t.Error(said)
	}
	if len(records) != count {
		t.Errorf("%d records of %d binds", len(records), count)
	}
	for _, r := range records {
		if r.Error != "" || r.Local.Port() == 0 {
			t.Fatalf("%+v", r)
		}
	}
}

// BenchmarkBind is a bind through the broker; over-µs is what it costs more
// than a native one (target: 25).
func BenchmarkBind(b *testing.B) {
	var us float64
	runGuest(b, &us, "time", strconv.Itoa(max(b.N, 2000)))
	native := timeBinds(max(b.N, 2000))
	b.ReportMetric(us, "µs/bind")
	b.ReportMetric(native, "native-µs")
	b.ReportMetric(us-native, "over-µs")
}

func TestLedgerIsBounded(t *testing.T) {
	dirs := env.Dirs{State: t.TempDir()}
	path := dirs.Ports("e")
	l, err := openLedger(dirs, "e", seccomptest.Log(t), nil)
	if err != nil {
		t.Fatal(err)
	}
	const count = 3 * ledgerQueue
	for i := range count {
		for len(l.records) == cap(l.records) { // the writer keeps up
			runtime.Gosched()
		}
		l.add(Record{PID: i, Command: strings.Repeat("x", 200), Call: "bind"})
	}
	if err := l.close(); err != nil {
		t.Fatal(err)
	}
	first, last, n := -1, -1, 0
	if err := ReadLedger(path, func(r Record) {
		if first < 0 {
			first = r.PID
		}
		last = r.PID
		n++
	}); err != nil {
		t.Fatal(err)
	}
	if last != count-1 || first == 0 || n != last-first+1 {
		t.Errorf("records %d to %d, %d of them", first, last, n)
	}
	for _, name := range []string{path, path + ".1"} {
		if st, err := os.Stat(name); err != nil || st.Size() > ledgerLimit || st.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v %v", name, st, err)
		}
	}
	// A line that was written half is left out.
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(f, `{"pid":`)
	f.Close()
	again := 0
	if err := ReadLedger(path, func(Record) { again++ }); err != nil || again != n {
		t.Errorf("%d records, %v", again, err)
	}
}

func FuzzSockaddr(f *testing.F) {
	f.Add([]byte{2, 0, 0, 80, 127, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0})
	f.Add(append([]byte{10, 0, 31, 144}, make([]byte, 24)...))
	f.Add([]byte{2})
	f.Fuzz(func(t *testing.T, b []byte) {
		a, ok := parseSockaddr(b)
		if ok != a.IsValid() {
			t.Errorf("%v %v", a, ok)
		}
		if !ok || len(b) > maxSockaddr {
			return
		}
		// The kernel reads the same, where it takes it at all.
		family, r := unix.AF_INET, Request{Addr: a.Addr()}
		if !r.Addr.Is4() {
			family = unix.AF_INET6
		}
		fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		if bind(fd, bytes.Clone(b)) != 0 {
			return
		}
		name, err := unix.Getsockname(fd)
		if err != nil {
			t.Fatal(err)
		}
		if got := addrPort(name); got.Addr() != a.Addr() || a.Port() != 0 && got.Port() != a.Port() {
			t.Errorf("the kernel has %s, we %s", got, a)
		}
	})
}

func FuzzLedger(f *testing.F) {
	f.Add([]byte(`{"at":"2026-01-02T03:04:05Z","environment":"e","pid":1,"call":"bind","wanted":"1.2.3.4:5","local":""}` + "\n{"))
	f.Fuzz(func(t *testing.T, b []byte) {
		path := filepath.Join(t.TempDir(), "l")
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		_ = ReadLedger(path, func(r Record) {
			if r.Wanted.IsValid() && r.Wanted == (netip.AddrPort{}) {
				t.Error("valid and zero")
			}
		})
	})
}
