package integration

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lxbridge/lx/core/feature"
)

// bound is how long a command may take that says nothing else.
const bound = 60 * time.Second

// world is a place of its own for one test's environments: home, runtime
// directory and state. At the end of the test they are stopped, and nothing
// of them may be left.
type world struct {
	t   testing.TB
	dir string // of the user who runs lx
	env []string
	// program is the lx that is run; empty: lxPath.
	program string
	// group is the control group that lx is started in; nil: the caller's.
	group *os.File
	// enter runs a function where lx is to be started; nil: here.
	enter func(func() error) error
}

func newWorld(t testing.TB) *world {
	t.Helper()
	dir, err := os.MkdirTemp("", "lxw")
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, dir: dir}
	w.env = []string{
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8", "TERM=xterm", "SHELL=/bin/bash",
		"USER=" + runAs.name, "LOGNAME=" + runAs.name,
		"HOME=" + w.path("home"), "XDG_RUNTIME_DIR=" + w.path("run"), "XDG_STATE_HOME=" + w.path("state"),
		feature.Env + "=" + os.Getenv(feature.Env),
	}
	for _, d := range []string{"home", "run", "state"} {
		if err := os.Mkdir(w.path(d), 0o700); err != nil {
			t.Fatal(err)
		}
		w.give(w.path(d))
	}
	w.give(dir)
	t.Cleanup(w.finish)
	return w
}

// in is the world for a subtest.
func (w *world) in(t testing.TB) *world {
	sub := *w
	sub.t = t
	return &sub
}

// path is a name in the world's directory.
func (w *world) path(name string) string { return filepath.Join(w.dir, name) }

// give makes path the property of the user who runs lx.
func (w *world) give(path string) {
	w.t.Helper()
	if os.Geteuid() != 0 {
		return
	}
	if err := os.Chown(path, runAs.uid, runAs.gid); err != nil {
		w.t.Fatal(err)
	}
}

// mkdir makes a directory of the user's.
func (w *world) mkdir(name string) string {
	w.t.Helper()
	if err := os.Mkdir(w.path(name), 0o755); err != nil {
		w.t.Fatal(err)
	}
	w.give(w.path(name))
	return w.path(name)
}

// write makes a file of the user's, which only the user can read.
func (w *world) write(name, text string) string {
	w.t.Helper()
	if err := os.WriteFile(w.path(name), []byte(text), 0o600); err != nil {
		w.t.Fatal(err)
	}
	w.give(w.path(name))
	return w.path(name)
}

// command is lx with args, not yet started.
func (w *world) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, cmp.Or(w.program, lxPath), args...)
	cmd.Env = append([]string(nil), w.env...)
	cmd.Dir = w.path("home")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: runAs.credential}
	if w.group != nil {
		cmd.SysProcAttr.UseCgroupFD, cmd.SysProcAttr.CgroupFD = true, int(w.group.Fd())
	}
	return cmd
}

// result is how a command ended.
type result struct {
	out, err string
	code     int
	took     time.Duration
}

func (r result) String() string {
	return fmt.Sprintf("exit code %d after %v\nstdout: %s\nstderr: %s", r.code, r.took.Round(time.Millisecond), r.out, r.err)
}

// lx runs lx with args to its end.
func (w *world) lx(args ...string) result {
	w.t.Helper()
	return w.within(bound, args...)
}

// within is lx with an own bound, whose passing fails the test.
func (w *world) within(d time.Duration, args ...string) result {
	w.t.Helper()
	return w.start(args...).wait(d)
}

// sh runs a script inside.
func (w *world) sh(script string) result {
	w.t.Helper()
	return w.lx("sh", "-c", script)
}

// must runs a script inside, which has to succeed, and answers what it wrote
// without the last newline.
func (w *world) must(script string) string {
	w.t.Helper()
	return w.mustWithin(bound, script)
}

func (w *world) mustWithin(d time.Duration, script string) string {
	w.t.Helper()
	r := w.within(d, "sh", "-ec", script)
	if r.code != 0 {
		w.t.Fatalf("%s\n%v", script, r)
	}
	return strings.TrimSuffix(r.out, "\n")
}

// running is a started lx.
type running struct {
	t        testing.TB
	args     []string
	cmd      *exec.Cmd
	in       *os.File
	out, err buffer
	began    time.Time
	ended    chan struct{}
	failure  error
}

// buffer can be read while it is written.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// start runs lx with args; its input is empty.
func (w *world) start(args ...string) *running {
	w.t.Helper()
	return w.startCommand(w.command(context.Background(), args...))
}

// startOpen is start with an input that stays open: see running.in.
func (w *world) startOpen(args ...string) *running {
	w.t.Helper()
	r, in, err := os.Pipe()
	if err != nil {
		w.t.Fatal(err)
	}
	defer r.Close()
	cmd := w.command(context.Background(), args...)
	cmd.Stdin = r
	p := w.startCommand(cmd)
	p.in = in
	w.t.Cleanup(func() { in.Close() })
	return p
}

// hold is a session that keeps the environment, which runs when it returns; it
// echoes what it reads and ends with its input.
func (w *world) hold() *running {
	w.t.Helper()
	p := w.startOpen("sh", "-c", "echo up; exec cat")
	p.says("up")
	return p
}

func (w *world) startCommand(cmd *exec.Cmd) *running {
	w.t.Helper()
	p := &running{t: w.t, args: cmd.Args[1:], cmd: cmd, began: time.Now(), ended: make(chan struct{})}
	out, outEnded := w.pipe(&p.out)
	defer out.Close()
	errs, errsEnded := w.pipe(&p.err)
	defer errs.Close()
	cmd.Stdout, cmd.Stderr = out, errs
	begin := cmd.Start
	if w.enter != nil {
		begin = func() error { return w.enter(cmd.Start) }
	}
	if err := begin(); err != nil {
		w.t.Fatal(err)
	}
	go func() {
		defer close(p.ended)
		p.failure = cmd.Wait()
		// A background process may keep them open.
		late := time.After(2 * time.Second)
		for _, ended := range []<-chan struct{}{outEnded, errsEnded} {
			select {
			case <-ended:
			case <-late:
			}
		}
	}()
	w.t.Cleanup(func() {
		select {
		case <-p.ended:
		default:
			_ = cmd.Process.Kill() // an error means that it has just ended
			<-p.ended
		}
	})
	return p
}

// pipe is one of the user's, who may open it anew, and whose output goes to b.
func (w *world) pipe(b *buffer) (in *os.File, ended <-chan struct{}) {
	w.t.Helper()
	r, in, err := os.Pipe()
	if err != nil {
		w.t.Fatal(err)
	}
	if os.Geteuid() == 0 {
		if err := in.Chown(runAs.uid, runAs.gid); err != nil {
			w.t.Fatal(err)
		}
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = io.Copy(b, r) // it ends with the last writer or with the test
	}()
	w.t.Cleanup(func() {
		r.Close()
		<-done
	})
	return in, done
}

// wait waits for the end; d counts from now.
func (p *running) wait(d time.Duration) result {
	p.t.Helper()
	select {
	case <-p.ended:
	case <-time.After(d):
		p.t.Fatalf("lx %q has not ended after %v\nstdout: %s\nstderr: %s", p.args, d, p.out.String(), p.err.String())
	}
	r := result{out: p.out.String(), err: p.err.String(), took: time.Since(p.began), code: p.cmd.ProcessState.ExitCode()}
	var ee *exec.ExitError
	if p.failure != nil && !errors.As(p.failure, &ee) {
		p.t.Fatalf("lx %q: %v", p.args, p.failure)
	}
	return r
}

// says waits until the output has text.
func (p *running) says(text string) {
	p.t.Helper()
	eventually(p.t, bound, func() error {
		if !strings.Contains(p.out.String(), text) {
			select {
			case <-p.ended:
				p.t.Fatalf("lx %q ended and did not say %q\nstdout: %s\nstderr: %s", p.args, text, p.out.String(), p.err.String())
			default:
			}
			return fmt.Errorf("lx %q does not say %q\nstdout: %s\nstderr: %s", p.args, text, p.out.String(), p.err.String())
		}
		return nil
	})
}

// eventually calls f until it gives nil.
func eventually(t testing.TB, d time.Duration, f func() error) {
	t.Helper()
	deadline := time.After(d)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		err := f()
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("after %v: %v", d, err)
		}
	}
}

// log is what keeper and broker of the environment "host" wrote.
func (w *world) log() string {
	b, err := os.ReadFile(w.path("state/lx/host.log"))
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// sockets are the control sockets of the world's running environments.
func (w *world) sockets() []string {
	found, err := filepath.Glob(w.path("run/lx/*.sock"))
	if err != nil {
		w.t.Fatal(err)
	}
	return slices.DeleteFunc(found, func(s string) bool { return filepath.Base(s) == "daemon.sock" })
}

// imported are the environments in the world's store.
func (w *world) imported() []string {
	found, err := filepath.Glob(w.path("home/.local/share/lx/environments/*"))
	if err != nil {
		w.t.Fatal(err)
	}
	for i := range found {
		found[i] = filepath.Base(found[i])
	}
	return slices.DeleteFunc(found, func(n string) bool { return n == "host" })
}

// keeper is the process that listens on the control socket of "host".
func (w *world) keeper() int {
	w.t.Helper()
	pid, err := listener(w.path("run/lx/host.sock"))
	if err != nil {
		w.t.Fatal(err)
	}
	return pid
}

// broker is the process that answers the traps of "host"; it may just be
// restarted.
func (w *world) broker() int {
	w.t.Helper()
	return w.child("lx-broker")
}

// first is the first process of "host".
func (w *world) first() int {
	w.t.Helper()
	return w.child("lx-init")
}

func (w *world) child(role string) int {
	w.t.Helper()
	keeper, pid := w.keeper(), 0
	eventually(w.t, 5*time.Second, func() error {
		for _, p := range processes(w.t) {
			if p.parent == keeper && p.state != 'Z' && strings.HasPrefix(cmdline(p.pid), role) {
				pid = p.pid
				return nil
			}
		}
		return fmt.Errorf("keeper %d has no %s\n%s", keeper, role, w.log())
	})
	return pid
}

// listener is the process that called listen(2) on a unix socket.
func listener(path string) (int, error) {
	c, err := net.Dial("unix", path)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	raw, err := c.(*net.UnixConn).SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *unix.Ucred
	cerr := raw.Control(func(fd uintptr) { cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	if err := errors.Join(err, cerr); err != nil {
		return 0, err
	}
	return int(cred.Pid), nil
}

// finish stops the world's environments and looks for what they left.
func (w *world) finish() {
	w.t.Helper()
	var left []process
	for _, s := range w.sockets() {
		name := strings.TrimSuffix(filepath.Base(s), ".sock")
		if keeper, err := listener(s); err == nil {
			left = append(left, tree(w.t, keeper)...)
		}
		if r := w.within(30*time.Second, "stop", name); r.code != 0 {
			w.t.Errorf("lx stop %s: %v", name, r)
		}
	}
	if _, err := os.Stat(w.path("state/lx/daemon.pid")); err == nil {
		for _, name := range w.imported() {
			if r := w.within(30*time.Second, "remove", "--force", name); r.code != 0 {
				w.t.Errorf("lx remove %s: %v", name, r)
			}
		}
		if r := w.within(30*time.Second, "shutdown"); r.code != 0 {
			w.t.Errorf("lx shutdown: %v", r)
		}
	}
	left = append(left, w.inhabitants()...)
	w.nothingLeft(left)
	if w.t.Failed() {
		w.t.Logf("lx log:\n%s", tail(w.log(), 60))
		if b, err := os.ReadFile(w.path("state/lx/daemon.log")); err == nil {
			w.t.Logf("lx daemon logs:\n%s", tail(string(b), 60))
		}
		for _, p := range left {
			if p.alive() {
				_ = unix.Kill(p.pid, unix.SIGKILL) // it may have ended meanwhile
			}
		}
	}
	if err := os.RemoveAll(w.dir); err != nil {
		w.t.Error(err)
	}
}

// nothingLeft fails the test if a process of them, or a mount on the host, stays.
func (w *world) nothingLeft(them []process) {
	w.t.Helper()
	deadline := time.After(10 * time.Second)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		var alive []string
		for _, p := range them {
			if p.alive() {
				alive = append(alive, fmt.Sprintf("%d %q (%c)", p.pid, cmdline(p.pid), p.state))
			}
		}
		if len(alive) == 0 {
			break
		}
		select {
		case <-tick.C:
			continue
		case <-deadline:
			w.t.Errorf("processes are left:\n%s", strings.Join(alive, "\n"))
		}
		break
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		w.t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, w.dir) {
			w.t.Errorf("a mount is left on the host: %s", line)
		}
	}
}

// inhabitants are processes whose environment names the world's runtime directory.
func (w *world) inhabitants() []process {
	var found []process
	for _, p := range processes(w.t) {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", p.pid))
		if err == nil && bytes.Contains(b, []byte("XDG_RUNTIME_DIR="+w.path("run")+"\x00")) {
			found = append(found, p)
		}
	}
	return found
}

func tail(s string, lines int) string {
	all := strings.SplitAfter(s, "\n")
	return strings.Join(all[max(0, len(all)-lines):], "")
}
