package supervisor

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lxbridge/lx/core/service"
	"github.com/lxbridge/lx/core/service/journal"
	"github.com/lxbridge/lx/core/service/runner"
)

// helperVar makes the test binary a program of a service.
const helperVar = "SUPERVISOR_HELPER"

func TestMain(m *testing.M) {
	if os.Args[0] == runner.Role {
		os.Exit(runner.Main())
	}
	switch os.Getenv(helperVar) {
	case "notify":
		os.Exit(helpNotify(os.Getenv("NOTIFY_SOCKET"), "STATUS=warm\nREADY=1\n"))
	case "syslog":
		os.Exit(helpNotify(os.Args[1], "<86>Nov 26 02:02:12 sshd[7]: accepted\n"))
	case "answer":
		os.Exit(helpAnswer())
	}
	// Orphans of forking services are to become children, as they do in an init.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

func helpNotify(socket, text string) int {
	c, err := net.Dial("unixgram", socket)
	if err == nil {
		_, err = c.Write([]byte(text))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	select {} // until a signal
}

// helpAnswer answers one client of the first socket passed on.
func helpAnswer() int {
	if os.Getenv("LISTEN_PID") != strconv.Itoa(os.Getpid()) || os.Getenv("LISTEN_FDS") != "1" {
		fmt.Println("no sockets", os.Environ())
		return 1
	}
	l, err := net.FileListener(os.NewFile(3, "socket"))
	if err != nil {
		fmt.Println(err)
		return 1
	}
	c, err := l.Accept()
	if err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Fprint(c, "answered")
	c.Close()
	return 0
}

// box is a supervisor of a test's own.
type box struct {
	t      *testing.T
	dir    string
	s      *Supervisor
	wanted chan bool
	ended  chan struct{}
	cancel context.CancelFunc
	fixed  map[string][]service.Unit
}

func newBox(t *testing.T) *box {
	t.Helper()
	b := &box{t: t, dir: t.TempDir()}
	for _, d := range []string{"units/enabled", "state", "r"} {
		if err := os.MkdirAll(filepath.Join(b.dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return b
}

// run starts the supervisor; its services are gone at the test's end.
func (b *box) run() {
	b.t.Helper()
	exe, err := os.Executable()
	if err != nil {
		b.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	b.cancel, b.ended, b.wanted = cancel, make(chan struct{}), make(chan bool, 100)
	// One of this run's own: what reaps for it may outlive b.s.
	var s *Supervisor
	wait := func(pid int) <-chan syscall.WaitStatus {
		end := make(chan syscall.WaitStatus, 1)
		go func() {
			var ws syscall.WaitStatus
			for {
				_, err := syscall.Wait4(pid, &ws, 0, nil)
				if errors.Is(err, syscall.EINTR) {
					continue
				}
				break
			}
			end <- ws
			s.Reaped()
		}()
		return end
	}
	s = New(Config{
		Units: filepath.Join(b.dir, "units"), Logs: filepath.Join(b.dir, "logs"), State: filepath.Join(b.dir, "state"), Run: filepath.Join(b.dir, "r"),
		Syslog: filepath.Join(b.dir, "r", "log"), Crontabs: filepath.Join(b.dir, "root"), Fixed: b.fixed,
		Env: []string{"PATH=/usr/local/bin:/usr/bin:/bin"}, Exe: exe,
		Fork: func(path string, argv []string, attr *syscall.ProcAttr) (int, <-chan syscall.WaitStatus, error) {
			pid, err := syscall.ForkExec(path, argv, attr)
			if err != nil {
				return 0, nil, err
			}
			return pid, wait(pid), nil
		},
		Adopted: func(pid int) (<-chan syscall.WaitStatus, bool) { return wait(pid), true },
		Owner: func(user, _ string) (Owner, error) {
			if user != "" && user != "root" {
				return Owner{}, fmt.Errorf("user %q does not exist here", user)
			}
			return Owner{Name: "root", Home: "/", Shell: "/bin/sh"}, nil
		},
		Wanted: func(w bool) { b.wanted <- w },
	})
	b.s = s
	ended := b.ended
	go func() {
		s.Run(ctx)
		close(ended)
	}()
	b.t.Cleanup(b.stop)
}

func (b *box) stop() {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	b.s.Shutdown(ctx)
	b.cancel()
	<-b.ended
}

// unit writes a unit file; a leading "+" of the name enables it.
func (b *box) unit(name, text string) {
	b.t.Helper()
	name, enabled := strings.CutPrefix(name, "+")
	if err := os.WriteFile(filepath.Join(b.dir, "units", name+".toml"), []byte(text), 0o644); err != nil {
		b.t.Fatal(err)
	}
	if enabled {
		if err := os.Symlink("../"+name+".toml", filepath.Join(b.dir, "units/enabled", name)); err != nil {
			b.t.Fatal(err)
		}
	}
}

// ask speaks with the supervisor as a client does.
func (b *box) ask(r Request) (units []Status, err error) {
	b.t.Helper()
	ours, theirs := net.Pipe()
	defer ours.Close()
	go func() {
		defer theirs.Close()
		_ = b.s.Serve(context.Background(), theirs)
	}()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	err = Call(ctx, ours, r, func(a Answer) error {
		units = append(units, a.Units...)
		return nil
	})
	return units, err
}

func (b *box) do(verb string, names ...string) error {
	b.t.Helper()
	_, err := b.ask(Request{Verb: verb, Names: names, Now: true})
	return err
}

func (b *box) must(verb string, names ...string) {
	b.t.Helper()
	if err := b.do(verb, names...); err != nil {
		b.t.Fatalf("%s %v: %v\n%s", verb, names, err, b.logs(names[0]))
	}
}

func (b *box) status(name string) Status {
	b.t.Helper()
	us, err := b.ask(Request{Verb: Show, Names: []string{name}})
	if err != nil || len(us) != 1 {
		b.t.Fatalf("status of %s: %v, %v", name, us, err)
	}
	return us[0]
}

// until waits for a state of the service.
func (b *box) until(name string, is func(Status) bool) Status {
	b.t.Helper()
	deadline := time.After(15 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		st := b.status(name)
		if is(st) {
			return st
		}
		select {
		case <-tick.C:
		case <-deadline:
			b.t.Fatalf("%s stays %+v\n%s", name, st, b.logs(name))
		}
	}
}

func (b *box) logs(name string) string {
	var lines []string
	_ = journal.New(filepath.Join(b.dir, "logs", name+".log")).Read(context.Background(), journal.Query{}, func(e journal.Entry) error {
		lines = append(lines, e.Stream+" "+e.Text)
		return nil
	})
	return strings.Join(lines, "\n")
}

func in(s service.State) func(Status) bool { return func(st Status) bool { return st.State == s } }

func TestLife(t *testing.T) {
	b := newBox(t)
	b.unit("web", "command = [\"sh\", \"-c\", \"echo hello; echo oops >&2; exec sleep 1000\"]\nenv = {A = \"b\"}\nrestart-delay = \"50ms\"")
	b.run()
	if <-b.wanted {
		t.Error("a service that nobody started is wanted")
	}
	b.must(Start, "web")
	if !<-b.wanted {
		t.Error("a running service is not wanted")
	}
	st := b.status("web")
	if st.State != service.Active || st.PID == 0 || st.Processes != 1 || st.Enabled {
		t.Errorf("%+v", st)
	}
	if err := unix.Kill(st.PID, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	again := b.until("web", func(s Status) bool { return s.State == service.Active && s.PID != st.PID })
	if again.Restarts != 1 || again.Why != "killed by SIGKILL" {
		t.Errorf("%+v", again)
	}
	b.must(Stop, "web")
	if st := b.status("web"); st.State != service.Inactive || st.Why != "stopped" || st.PID != 0 {
		t.Errorf("stopped: %+v", st)
	}
	if <-b.wanted {
		t.Error("a stopped service is wanted")
	}
	if log := b.logs("web"); !strings.Contains(log, "stdout hello") || !strings.Contains(log, "stderr oops") || !strings.Contains(log, "lx starts again in 50ms") {
		t.Error(log)
	}
	if err := b.do(Start, "absent"); err == nil || !errors.As(err, new(MissingError)) {
		t.Errorf("an absent service: %v", err)
	}
	b.must(Remove, "web")
	if names, err := os.ReadDir(filepath.Join(b.dir, "logs")); err != nil || len(names) != 0 {
		t.Errorf("logs of a removed service: %v, %v", names, err)
	}
}

func TestFailures(t *testing.T) {
	b := newBox(t)
	b.unit("absent", "command = [\"/no/such/program\"]\nrestart = \"no\"")
	b.unit("crash", "command = [\"false\"]\nrestart-delay = \"1ms\"\nstart-limit = 3")
	b.unit("broken", "command = [\"x\"]\nrestrat = \"no\"")
	b.unit("user", "command = [\"true\"]\nuser = \"nobody\"\nrestart = \"no\"")
	b.unit("before", "command = [\"true\"]\nrestart = \"no\"\nstart-before = [[\"-\", \"false\"], [\"sh\", \"-c\", \"exit 9\"]]")
	// The very first line of all logs is one of start-before, which tells why.
	b.unit("port", "command = [\"true\"]\nrestart = \"no\"\nstart-before = [[\"sh\", \"-c\", \"echo 'bind() to 0.0.0.0:0 failed: Permission denied, port 1' >&2; exit 1\"]]")
	b.unit("condition", "command = [\"true\"]\nrestart = \"no\"\ncondition-paths = [\"!/\"]")
	b.unit("slow", "command = [\"sleep\", \"1000\"]\nrestart = \"no\"\nstart-timeout = \"100ms\"\n[ready]\ncommand = [\"false\"]")
	b.unit("a", "command = [\"true\"]\nafter = [\"b\"]")
	b.unit("b", "command = [\"true\"]\nrequires = [\"a\"]\nafter = [\"a\"]")
	b.unit("need", "command = [\"true\"]\nrequires = [\"absent\"]")
	b.unit("+neither", "command = [\"true\"]\nrequires = [\"nowhere\"]")
	b.run()
	if err := b.do(Start, "port"); err == nil || !strings.Contains(err.Error(), "port 1 is for the host's root") {
		t.Errorf("a port that is not for all: %v", err)
	}
	for name, want := range map[string]string{
		"absent":    "cannot run /no/such/program",
		"broken":    `line 2: unknown key "restrat"`,
		"user":      `user "nobody" does not exist here`,
		"before":    "sh -c exit 9: exited with code 9",
		"condition": `condition-paths: "!/" does not hold`,
		"slow":      "not ready within 100ms",
		"need":      "requires absent, which is not up: cannot run",
	} {
		if err := b.do(Start, name); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", name, err, want)
		}
	}
	if _, err := b.ask(Request{Verb: Start, Names: []string{"a", "b"}}); err == nil || !strings.Contains(err.Error(), "circular dependency: a waits for b waits for a") {
		t.Errorf("a cycle: %v", err)
	}
	if st := b.status("neither"); st.State != service.Failed || !strings.Contains(st.Why, `"nowhere", which does not exist`) {
		t.Errorf("enabled without what it requires: %+v", st)
	}
	_ = b.do(Start, "crash") // up or not: it ends at once
	if st := b.until("crash", in(service.Failed)); st.Result != service.StartLimit || !strings.Contains(st.Why, "started 3 times") {
		t.Errorf("crashing: %+v", st)
	}
	if st := b.status("broken"); st.Broken == "" {
		t.Errorf("a broken unit: %+v", st)
	}
}

func TestOrder(t *testing.T) {
	b := newBox(t)
	trace := filepath.Join(b.dir, "trace")
	unit := func(name, more string) {
		b.unit("+"+name, fmt.Sprintf("command = [\"sh\", \"-c\", \"echo +%s >>%s; trap 'echo -%s >>%s; exit 0' TERM; touch %s.up; while :; do sleep 0.01; done\"]\n%s\n[ready]\ncommand = [\"test\", \"-e\", \"%s.up\"]\n",
			name, trace, name, trace, filepath.Join(b.dir, name), more, filepath.Join(b.dir, name)))
	}
	unit("web", "requires = [\"db\"]\nafter = [\"cache\"]")
	unit("cache", "after = [\"db\"]")
	unit("db", "")
	b.run()
	for _, n := range []string{"db", "cache", "web"} {
		b.until(n, in(service.Active))
	}
	read := func() string {
		text, err := os.ReadFile(trace)
		if err != nil {
			t.Fatal(err)
		}
		return strings.Join(strings.Fields(string(text)), " ")
	}
	if got := read(); got != "+db +cache +web" {
		t.Errorf("started as %q", got)
	}
	b.stop()
	if got := read(); got != "+db +cache +web -web -cache -db" {
		t.Errorf("stopped as %q", got)
	}
	b.run() // as after a reboot
	b.until("web", in(service.Active))
	b.must(Stop, "db")
	if st := b.status("web"); st.State != service.Inactive {
		t.Errorf("web without db: %+v", st)
	}
	if st := b.status("cache"); st.State != service.Active {
		t.Errorf("cache, which only comes after db: %+v", st)
	}
}

// TestFixed: units of the configuration are tried in their order, before others;
// one that waits to be tried again does not keep the environment.
func TestFixed(t *testing.T) {
	b := newBox(t)
	said := filepath.Join(b.dir, "said")
	fixed := func(n int, code string) service.Unit {
		return service.Unit{Name: fmt.Sprintf("mount@%d", n), Type: service.Oneshot, RemainAfterExit: true, Restart: service.RestartOnFailure, KillMode: service.KillGroup,
			Command:      service.Command{"sh", "-c", fmt.Sprintf("echo %d >>%s; exit %s", n, said, code)},
			RestartDelay: service.Duration(time.Hour), RestartDelayMax: service.Duration(time.Hour),
			StartTimeout: service.Duration(service.DefaultStartTimeout), StopTimeout: service.Duration(service.DefaultStopTimeout)}
	}
	b.fixed = map[string][]service.Unit{"one": {fixed(10, "0"), fixed(1, "0")}, "another": {fixed(2, "1")}}
	b.unit("after", fmt.Sprintf("type = \"oneshot\"\ncommand = [\"sh\", \"-c\", \"echo after >>%s\"]\n", said))
	if err := os.Symlink("../after.toml", filepath.Join(b.dir, "units", "enabled", "after")); err != nil {
		t.Fatal(err)
	}
	b.run()
	select {
	case <-b.s.Begun():
	case <-time.After(20 * time.Second):
		t.Fatal("not begun")
	}
	text, err := os.ReadFile(said)
	if got := strings.Fields(string(text)); err != nil || len(got) < 3 || strings.Join(got[:3], " ") != "1 2 10" {
		t.Errorf("%q, %v", text, err)
	}
	b.until("after", func(st Status) bool { return st.State == service.Inactive && st.Result == service.Success })
	if st := b.status("mount@2"); st.State != service.Waiting {
		t.Errorf("%+v", st)
	}
	for wanted := true; wanted; {
		select {
		case wanted = <-b.wanted:
		case <-time.After(20 * time.Second):
			t.Fatal("what waits keeps the environment")
		}
	}
}

// TestEndlessAnswer: who asks is not filled up by an environment that answers without an end.
func TestEndlessAnswer(t *testing.T) {
	here, there := net.Pipe()
	defer here.Close()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		defer there.Close()
		if _, err := bufio.NewReader(there).ReadString('\n'); err != nil {
			t.Error(err)
		}
		_, err := there.Write([]byte(`{"error":"`))
		for piece := bytes.Repeat([]byte("x"), 1<<20); err == nil; {
			_, err = there.Write(piece)
		}
	}()
	err := Call(t.Context(), here, Request{Verb: List}, func(a Answer) error { return fmt.Errorf("taken: %d bytes", len(a.Error)) })
	if err == nil || !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Error(err)
	}
	here.Close()
	<-ended
}

// TestHostileFiles: what is no regular file is not read, and holds nobody up.
func TestHostileFiles(t *testing.T) {
	b := newBox(t)
	fifo := filepath.Join(b.dir, "fifo")
	if err := errors.Join(unix.Mkfifo(fifo, 0o600), os.Symlink(fifo, filepath.Join(b.dir, "units", "bad.toml"))); err != nil {
		t.Fatal(err)
	}
	b.unit("env", fmt.Sprintf("command = [\"true\"]\nenv-files = [%q]\n", fifo))
	b.run()
	if st := b.status("bad"); !strings.Contains(st.Broken, "no regular file") {
		t.Errorf("%+v", st)
	}
	if err := b.do(Start, "env"); err == nil || !strings.Contains(err.Error(), "no regular file") {
		t.Error(err)
	}
}

func TestNotify(t *testing.T) {
	b := newBox(t)
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	b.unit("good", fmt.Sprintf("type = \"notify\"\ncommand = [%q]\nenv = {%s = \"notify\"}", exe, helperVar))
	b.unit("mute", "type = \"notify\"\ncommand = [\"sleep\", \"1000\"]\nstart-timeout = \"2s\"\nrestart = \"no\"")
	b.run()
	b.must(Start, "good")
	if st := b.status("good"); st.State != service.Active || st.Says != "warm" {
		t.Errorf("%+v", st)
	}
	// Who is none of the service's cannot speak for it.
	failed := make(chan error, 1)
	go func() { failed <- b.do(Start, "mute") }()
	b.until("mute", in(service.Starting))
	c, err := net.Dial("unixgram", filepath.Join(b.dir, "r/notify/mute"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write([]byte("READY=1")); err != nil {
		t.Fatal(err)
	}
	if err := <-failed; err == nil || !strings.Contains(err.Error(), "not ready within 2s") {
		t.Errorf("an impostor: %v", err)
	}
	if log := b.logs("mute"); !strings.Contains(log, "none of the service's") {
		t.Error(log)
	}
}

func TestForking(t *testing.T) {
	b := newBox(t)
	pidFile := filepath.Join(b.dir, "pid")
	b.unit("f", fmt.Sprintf("type = \"forking\"\npid-file = %q\nrestart-delay = \"10ms\"\ncommand = [\"sh\", \"-c\", \"setsid sleep 1000 & echo $! >%s\"]", pidFile, pidFile))
	b.unit("liar", fmt.Sprintf("type = \"forking\"\nrestart = \"no\"\npid-file = %q\ncommand = [\"sh\", \"-c\", \"echo %d >%s.l\"]", pidFile+".l", os.Getpid(), pidFile))
	b.run()
	b.must(Start, "f")
	st := b.status("f")
	if text, err := os.ReadFile(pidFile); err != nil || strings.TrimSpace(string(text)) != strconv.Itoa(st.PID) {
		t.Errorf("main process %d, the file says %s, %v", st.PID, text, err)
	}
	if err := unix.Kill(st.PID, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	again := b.until("f", func(s Status) bool { return s.State == service.Active && s.PID != st.PID })
	b.must(Stop, "f")
	if err := unix.Kill(again.PID, 0); !errors.Is(err, unix.ESRCH) {
		t.Errorf("the main process lives on: %v", err)
	}
	if err := b.do(Start, "liar"); err == nil || !strings.Contains(err.Error(), "none of the service's") {
		t.Errorf("a pid file that names a stranger: %v", err)
	}
}

func TestKill(t *testing.T) {
	b := newBox(t)
	b.unit("stubborn", "stop-timeout = \"100ms\"\ncommand = [\"sh\", \"-c\", \"trap '' TERM; sleep 1000 & while :; do sleep 0.01; done\"]")
	b.unit("session", "kill-mode = \"process\"\nrestart = \"no\"\ncommand = [\"sh\", \"-c\", \"setsid sleep 1001 & echo $! >"+b.dir+"/child; wait\"]")
	b.run()
	b.must(Start, "stubborn")
	b.until("stubborn", func(s Status) bool { return s.Processes > 1 })
	b.must(Stop, "stubborn")
	if st := b.status("stubborn"); !strings.Contains(st.Why, "did not end within 100ms") || st.Processes != 0 {
		t.Errorf("%+v", st)
	}
	b.must(Start, "session")
	pid := 0
	b.until("session", func(s Status) bool {
		text, err := os.ReadFile(b.dir + "/child")
		if err == nil {
			pid, err = strconv.Atoi(strings.TrimSpace(string(text)))
		}
		return err == nil && s.Processes > 1
	})
	b.must(Stop, "session")
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		t.Errorf("kill-mode = process ended others too: %v", err)
	}
}

func TestSockets(t *testing.T) {
	b := newBox(t)
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(b.dir, "r/s")
	b.unit("+d", fmt.Sprintf("command = [%q]\nrestart = \"no\"\nenv = {%s = \"answer\"}\n[[socket]]\nlisten = %q\non-demand = true", exe, helperVar, path))
	b.run()
	if st := b.until("d", func(s Status) bool { return s.Listening }); st.State != service.Inactive {
		t.Errorf("before a client: %+v", st)
	}
	for range 3 { // the socket outlives the service
		c, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		got := make([]byte, 8)
		if _, err := c.Read(got); err != nil || string(got) != "answered" {
			t.Fatalf("%q, %v\n%s", got, err, b.logs("d"))
		}
		c.Close()
	}
	b.must(Disable, "d")
	if c, err := net.Dial("unix", path); err == nil {
		c.Close()
		t.Error("a disabled service listens")
	}
}

func TestHealthAndLimits(t *testing.T) {
	b := newBox(t)
	said := filepath.Join(b.dir, "said") // it is well until it has said all
	b.unit("h", fmt.Sprintf("command = [\"sh\", \"-c\", \"ulimit -n; umask; pwd; >%s; exec sleep 1000\"]\nrestart-delay = \"1h\"\ndir = \"/usr\"\numask = \"077\"\n[limits]\nfiles = 77\n[health]\ncommand = [\"test\", \"!\", \"-e\", %q]\ninterval = \"10ms\"\nretries = 2", said, said))
	b.run()
	b.must(Start, "h")
	st := b.until("h", in(service.Waiting))
	if st.Result != service.Unhealthy || !strings.Contains(st.Why, "2 health checks in a row failed: exited with code 1") {
		t.Errorf("%+v", st)
	}
	b.until("h", func(Status) bool { return strings.Contains(b.logs("h"), "stdout 77\nstdout 0077\nstdout /usr") })
}

// TestSyslog: what a service tells syslog(3) is in its log, and nobody else's.
func TestSyslog(t *testing.T) {
	b := newBox(t)
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(b.dir, "r", "log")
	// A descendant, as a daemon's workers are.
	b.unit("s", fmt.Sprintf("command = [\"sh\", \"-c\", '\"$0\" \"$1\"; true', %q, %q]\nenv = {%s = \"syslog\"}", exe, path, helperVar))
	b.run()
	b.must(Start, "s")
	b.until("s", func(Status) bool { return strings.Contains(b.logs("s"), "stderr sshd[7]: accepted") })
	c, err := net.Dial("unixgram", path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for _, text := range []string{"<13>none of it", strings.Repeat("x", 3*maxSyslog)} {
		if _, err := c.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	b.must(Stop, "s") // the messages before it have been heard
	if log := b.logs("s"); strings.Contains(log, "none of it") || strings.Contains(log, "xxx") {
		t.Error(log)
	}
	for text, want := range map[string]string{"<13>Nov  6 02:02:12 a: b\x00": "a: b", "plain": "plain", "<13>one\ntwo\n": "one|two", "": ""} {
		if got := strings.Join(syslogLines(text), "|"); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}

func TestReloadAndExpand(t *testing.T) {
	b := newBox(t)
	env := filepath.Join(b.dir, "env")
	if err := os.WriteFile(env, []byte("WORDS=\"a b\"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	b.unit("r", fmt.Sprintf("expand = true\nenv-files = [%q, \"-/no/such\"]\ncommand = [\"sh\", \"-c\", 'trap \"echo reloaded\" HUP; echo \"$$#:$$1:$$2\"; while :; do sleep 0.01; done', \"sh\", \"$WORDS\"]\nreload = [[\"kill\", \"-HUP\", \"$MAINPID\"]]", env))
	b.run()
	b.must(Start, "r")
	deadline := time.After(10 * time.Second)
	for !strings.Contains(b.logs("r"), "stdout 2:a:b") {
		select {
		case <-deadline:
			t.Fatal(b.logs("r"))
		case <-time.After(5 * time.Millisecond):
		}
	}
	b.must(Reload, "r")
	for !strings.Contains(b.logs("r"), "stdout reloaded") {
		select {
		case <-deadline:
			t.Fatal(b.logs("r"))
		case <-time.After(5 * time.Millisecond):
		}
	}
}

func TestTimers(t *testing.T) {
	b := newBox(t)
	b.unit("+often", "command = [\"echo\", \"tick\"]\nevery = \"1s\"")
	b.unit("+missed", "command = [\"echo\", \"caught up\"]\nschedule = \"0 0 * * *\"")
	b.unit("+later", "command = [\"echo\", \"no\"]\nschedule = \"0 0 1 1 *\"")
	old := timerState{Since: time.Now().Add(-99 * time.Hour), Last: time.Now().Add(-49 * time.Hour)}
	if err := os.WriteFile(filepath.Join(b.dir, "state/missed.json"), fmt.Appendf(nil, `{"since":%q,"last":%q}`, old.Since.Format(time.RFC3339), old.Last.Format(time.RFC3339)), 0o600); err != nil {
		t.Fatal(err)
	}
	b.run()
	st := b.until("missed", func(s Status) bool { return s.Timer.Result == service.Success })
	if st.Timer.Next == nil || time.Until(*st.Timer.Next) > 25*time.Hour || !st.Timer.Next.After(time.Now()) {
		t.Errorf("after catching up: %+v", st.Timer)
	}
	if n := strings.Count(b.logs("missed"), "stdout caught up"); n != 1 {
		t.Errorf("caught up %d times", n)
	}
	b.until("often", func(Status) bool { return strings.Count(b.logs("often"), "stdout tick") >= 2 })
	if st := b.status("later"); st.Timer.Last != nil || st.State != service.Inactive {
		t.Errorf("%+v", st)
	}
	if !<-b.wanted {
		t.Error("timers are not wanted")
	}
	b.must(Disable, "often")
	if st := b.status("often"); st.Timer.Next != nil || st.Enabled {
		t.Errorf("disabled: %+v", st)
	}
	b.must(Start, "later")
	if st := b.status("later"); st.Timer.Last == nil || st.Timer.Result != service.Success {
		t.Errorf("run by hand: %+v", st.Timer)
	}
}

func TestAddImport(t *testing.T) {
	b := newBox(t)
	b.run()
	if _, err := b.ask(Request{Verb: Add, Names: []string{"x"}, Unit: "command = [\"sleep\", \"1000\"]"}); err != nil {
		t.Fatal(err)
	}
	if _, err := b.ask(Request{Verb: Add, Names: []string{"x"}, Unit: "command = [\"true\"]"}); err == nil || !strings.Contains(err.Error(), "--force") {
		t.Errorf("a name in use: %v", err)
	}
	if _, err := b.ask(Request{Verb: Add, Names: []string{"y"}, Unit: "x = 1"}); err == nil || !strings.Contains(err.Error(), "line 1") {
		t.Errorf("a bad unit: %v", err)
	}
	b.must(Enable, "x")
	b.until("x", in(service.Active))
	src := filepath.Join(b.dir, "i.service")
	if err := os.WriteFile(src, []byte("[Service]\nExecStart=/bin/sleep 1000\nUser=nobody\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := b.ask(Request{Verb: Import, Names: []string{src}}); err != nil {
		t.Fatal(err)
	}
	if err := b.do(Enable, "i"); err == nil || !strings.Contains(err.Error(), "nobody") {
		t.Errorf("a user that does not exist: %v", err)
	}
	list, err := b.ask(Request{Verb: List})
	if err != nil || len(list) != 2 || !list[1].Enabled {
		t.Errorf("%+v, %v", list, err)
	}
	for verb, want := range map[string]string{"dance": "does not know", Logs: "one name"} {
		if _, err := b.ask(Request{Verb: verb}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", verb, err)
		}
	}
	if err := b.do(Start, "../x"); err == nil || !strings.Contains(err.Error(), "service name") {
		t.Errorf("a name that is a path: %v", err)
	}
}

// TestCrontabs: entries are units; a changed file is noticed.
func TestCrontabs(t *testing.T) {
	b := newBox(t)
	for _, d := range []string{"root/etc/cron.d", "root/var/spool/cron/crontabs"} {
		if err := os.MkdirAll(filepath.Join(b.dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	write := func(name, text string) {
		t.Helper()
		path := filepath.Join(b.dir, "root", name)
		if err := os.WriteFile(path+"~", []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path+"~", path); err != nil {
			t.Fatal(err)
		}
	}
	write("etc/crontab", "X=y\n@reboot root echo booted $X; cat%in\\%put\n0 0 1 1 * root true\n99 * * * * root false\n")
	write("etc/cron.d/pkg", "* * * * * nobody true\n")
	write("etc/cron.d/pkg.dpkg-old", "* * * * * root true\n")
	b.run()
	b.until("cron@system.crontab:2", func(s Status) bool { return s.Timer.Result == service.Success })
	if log := b.logs("cron@system.crontab:2"); !strings.Contains(log, "stdout booted y\nstdout in%put") {
		t.Error(log)
	}
	if err := b.do(Start, "cron@system.pkg:1"); err == nil || !strings.Contains(err.Error(), "nobody") {
		t.Errorf("a user that does not exist: %v", err)
	}
	if <-b.wanted {
		t.Error("a distribution's own crontab keeps its environment")
	}
	write("var/spool/cron/crontabs/root", "* * * * * echo of a user\n")
	deadline := time.After(10 * time.Second)
	for {
		units, err := b.ask(Request{Verb: List})
		if err != nil {
			t.Fatal(err)
		}
		if len(units) == 4 && units[3].Name == "cron@user.root:1" && units[3].Timer.Next != nil {
			break
		}
		select {
		case <-deadline:
			t.Fatalf("%+v", units)
		case <-time.After(5 * time.Millisecond):
		}
	}
	b.must(Start, "cron@user.root:1")
	if err := b.do(Remove, "cron@user.root:1"); err == nil || !strings.Contains(err.Error(), "change "+b.dir) {
		t.Errorf("removing an entry: %v", err)
	}
	if err := os.Remove(filepath.Join(b.dir, "root/var/spool/cron/crontabs/root")); err != nil {
		t.Fatal(err)
	}
	for {
		if units, err := b.ask(Request{Verb: List}); err == nil && len(units) == 3 {
			break
		}
		select {
		case <-deadline:
			t.Fatal("a removed crontab goes on")
		case <-time.After(5 * time.Millisecond):
		}
	}
}

func TestExplainPort(t *testing.T) {
	for text, want := range map[string]string{
		"nginx: [emerg] bind() to 0.0.0.0:80 failed (13: Permission denied)":                 "port 80",
		"error: Bind to port 22 on 0.0.0.0 failed: Permission denied.":                       "port 22",
		"server_bind\nPermissionError: [Errno 13] Permission denied":                         "port 443",
		"could not bind IPv4 address \"0.0.0.0\": Permission denied\nHINT: port 80 is taken": "port 443",
		"listen tcp :8080: bind: permission denied":                                          "port 443",
		"cannot open /etc/shadow: Permission denied":                                         "",
		"bind: address already in use: 80":                                                   "",
	} {
		got := explainPort(strings.Split(text, "\n"), []string{"x", "--addr=:443"}, 1024)
		if !strings.HasPrefix(got, want) || want == "" && got != "" {
			t.Errorf("%q: %q", text, got)
		}
	}
}
