package seccomp_test

import (
	"context"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lxbridge/lx/core/feature"
	"github.com/lxbridge/lx/core/seccomp"
	"github.com/lxbridge/lx/core/seccomp/seccomptest"
)

var (
	background = context.Background()
	discard    = slog.New(slog.DiscardHandler)
	mounts     = seccomp.Options{Features: []string{seccomp.FeatureMount}}
	mountsIDs  = seccomp.Options{Features: []string{seccomp.FeatureMount, seccomp.FeatureIDs}}
)

// serve runs a listener for the guest until the test's end and answers what
// Serve said.
func serve(t testing.TB, g *seccomptest.Guest, h seccomp.Handlers) <-chan error {
	t.Helper()
	l, err := seccomp.NewListener(g.Listener, h, nil, seccomptest.Log(t))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended, result := make(chan struct{}), make(chan error, 1)
	go func() {
		result <- l.Serve(ctx)
		close(ended)
	}()
	t.Cleanup(func() {
		cancel()
		<-ended
	})
	return result
}

func expectExit(t *testing.T, g *seccomptest.Guest, want int) {
	t.Helper()
	if got := g.Wait(t); got != want {
		t.Errorf("the guest exits with %d, want %d", got, want)
	}
}

func reply(errno syscall.Errno) seccomp.Handler {
	return seccomp.Handler{Inline: func(*seccomp.Trap) (seccomp.Reply, bool) {
		return seccomp.Reply{Errno: errno}, true
	}}
}

func TestInline(t *testing.T) {
	g := seccomptest.Start(t, mounts, "mount", "//host/share")
	ended := serve(t, g, seccomp.Handlers{"mount": reply(unix.EACCES)})
	g.Run(t)
	expectExit(t, g, int(unix.EACCES))
	if err := <-ended; err != nil {
		t.Errorf("the last guest's end gives %v", err)
	}
}

func TestServe(t *testing.T) {
	g := seccomptest.Start(t, mounts, "mount", "//host/share")
	serve(t, g, seccomp.Handlers{"mount": {
		Inline: func(tr *seccomp.Trap) (seccomp.Reply, bool) { return seccomp.Reply{}, false },
		Serve: func(ctx context.Context, tr *seccomp.Trap) seccomp.Reply {
			source, err := tr.ReadString(tr.Args[0], 4096)
			if err != nil || source != "//host/share" {
				t.Errorf("source is %q, %v", source, err)
			}
			if err := tr.Valid(); err != nil {
				t.Errorf("not valid: %v", err)
			}
			if err := tr.Commit(); err != nil {
				t.Errorf("cannot commit: %v", err)
			}
			return seccomp.Reply{Errno: unix.ENODEV}
		}}})
	g.Run(t)
	expectExit(t, g, int(unix.ENODEV))
}

func TestUnknownRowsContinue(t *testing.T) {
	g := seccomptest.Start(t, mountsIDs, "mount", "//host/share")
	serve(t, g, nil)
	g.Run(t)
	if code := g.Wait(t); code == 0 || code == 99 || code == int(unix.ENOSYS) {
		t.Errorf("an unhandled mount gives %v", syscall.Errno(code))
	}
}

func TestHandlersAreChecked(t *testing.T) {
	for _, name := range []string{"mnt", "io_uring_setup", "x32"} {
		if _, err := seccomp.NewListener(0, seccomp.Handlers{name: {}}, nil, discard); err == nil {
			t.Errorf("a handler for %q was accepted", name)
		}
	}
}

// untilDone is a handler that waits for its context and says why it ended.
func untilDone(causes chan<- error) seccomp.Handler {
	return seccomp.Handler{Serve: func(ctx context.Context, tr *seccomp.Trap) seccomp.Reply {
		<-ctx.Done()
		causes <- context.Cause(ctx)
		return seccomp.Reply{Errno: unix.EIO}
	}}
}

// signalled is h with a signal for the caller once it is received.
func signalled(t *testing.T, g *seccomptest.Guest, h seccomp.Handler) seccomp.Handler {
	return seccomp.Handler{Serve: func(ctx context.Context, tr *seccomp.Trap) seccomp.Reply {
		if err := unix.Kill(g.Process.Pid, unix.SIGUSR1); err != nil {
			t.Error(err)
		}
		return h.Serve(ctx, tr)
	}}
}

func TestInterrupt(t *testing.T) {
	g := seccomptest.Start(t, mounts, "wait")
	causes := make(chan error, 1)
	serve(t, g, seccomp.Handlers{"mount": signalled(t, g, untilDone(causes))})
	g.Run(t)
	expectExit(t, g, int(unix.EINTR))
	expectInterrupt(t, <-causes)
}

// expectInterrupt takes ErrCallerGone too where the kernel itself takes the call back.
func expectInterrupt(t *testing.T, cause error) {
	t.Helper()
	want := seccomp.ErrInterrupted
	if feature.Missing(feature.WaitKillable) {
		want = seccomp.ErrCallerGone
	}
	if cause != want {
		t.Errorf("the handler was told %v, want %v", cause, want)
	}
}

func TestRestart(t *testing.T) {
	g := seccomptest.Start(t, mounts, "wait", "restart")
	causes := make(chan error, 1)
	var calls atomic.Int32
	first := signalled(t, g, untilDone(causes))
	serve(t, g, seccomp.Handlers{"mount": {Serve: func(ctx context.Context, tr *seccomp.Trap) seccomp.Reply {
		if calls.Add(1) == 1 {
			return first.Serve(ctx, tr)
		}
		return seccomp.Reply{Errno: unix.ENODEV}
	}}})
	g.Run(t)
	expectExit(t, g, int(unix.ENODEV))
	expectInterrupt(t, <-causes)
	if n := calls.Load(); n != 2 {
		t.Errorf("%d calls, want 2", n)
	}
}

// TestInterruptOfADeafHandler answers for a handler that does not look at its context.
func TestInterruptOfADeafHandler(t *testing.T) {
	g := seccomptest.Start(t, mounts, "wait")
	release, valid := make(chan struct{}), make(chan error, 1)
	serve(t, g, seccomp.Handlers{"mount": signalled(t, g, seccomp.Handler{Serve: func(ctx context.Context, tr *seccomp.Trap) seccomp.Reply {
		<-release
		valid <- tr.Commit()
		return seccomp.Reply{}
	}})})
	g.Run(t)
	expectExit(t, g, int(unix.EINTR))
	close(release)
	if err := <-valid; err == nil {
		t.Error("a handler that was answered for may still commit")
	}
}

// TestCommitKeepsTheAnswer: a signal after Commit changes nothing.
func TestCommitKeepsTheAnswer(t *testing.T) {
	if feature.Missing(feature.WaitKillable) {
		return // there the kernel takes the call back whatever the broker did
	}
	g := seccomptest.Start(t, mounts, "wait")
	done := make(chan error, 1)
	serve(t, g, seccomp.Handlers{"mount": {Serve: func(ctx context.Context, tr *seccomp.Trap) seccomp.Reply {
		done <- tr.Commit()
		unix.Kill(g.Process.Pid, unix.SIGUSR1)
		select {
		case <-ctx.Done():
			t.Errorf("interrupted after Commit: %v", context.Cause(ctx))
		case <-time.After(80 * time.Millisecond):
		}
		return seccomp.Reply{Errno: unix.ENODEV}
	}}})
	g.Run(t)
	if err := <-done; err != nil {
		t.Error(err)
	}
	expectExit(t, g, int(unix.ENODEV))
}

// TestSignalOfTheProcess goes to the main thread: another thread's call must
// neither end nor see errno 512.
func TestSignalOfTheProcess(t *testing.T) {
	g := seccomptest.Start(t, mounts, "two")
	running := make(chan struct{}, 2)
	bothRun, mainDone := make(chan struct{}), make(chan struct{})
	serve(t, g, seccomp.Handlers{"mount": {Serve: func(ctx context.Context, tr *seccomp.Trap) seccomp.Reply {
		running <- struct{}{}
		if tr.TID == g.Process.Pid {
			<-bothRun
			if err := unix.Kill(g.Process.Pid, unix.SIGUSR1); err != nil {
				t.Error(err)
			}
			<-ctx.Done()
			close(mainDone)
			return seccomp.Reply{Errno: unix.EINTR}
		}
		<-mainDone
		select {
		case <-ctx.Done():
			t.Errorf("the other thread's call was ended: %v", context.Cause(ctx))
		case <-time.After(60 * time.Millisecond):
		}
		return seccomp.Reply{Errno: unix.ENXIO}
	}}})
	g.Run(t)
	<-running
	<-running
	close(bothRun)
	expectExit(t, g, int(unix.EINTR)*16+int(unix.ENXIO))
}

func TestSignalOfTheThread(t *testing.T) {
	g := seccomptest.Start(t, mounts, "wait")
	causes, running := make(chan error, 1), make(chan int, 1)
	h := untilDone(causes)
	serve(t, g, seccomp.Handlers{"mount": {Serve: func(ctx context.Context, tr *seccomp.Trap) seccomp.Reply {
		running <- tr.TID
		return h.Serve(ctx, tr)
	}}})
	g.Run(t)
	tid := <-running
	if err := unix.Tgkill(g.Process.Pid, tid, unix.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	expectExit(t, g, int(unix.EINTR))
	expectInterrupt(t, <-causes)
}

func TestCallerKilled(t *testing.T) {
	g := seccomptest.Start(t, mounts, "wait")
	causes, running := make(chan error, 1), make(chan struct{})
	h := untilDone(causes)
	serve(t, g, seccomp.Handlers{"mount": {Serve: func(ctx context.Context, tr *seccomp.Trap) seccomp.Reply {
		close(running)
		r := h.Serve(ctx, tr)
		if err := tr.Valid(); err != seccomp.ErrCallerGone {
			t.Errorf("after the caller's death the call is: %v", err)
		}
		return r
	}}})
	g.Run(t)
	<-running
	if err := g.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if cause := <-causes; cause != seccomp.ErrCallerGone {
		t.Errorf("the handler was told %v", cause)
	}
	g.Wait(t)
}

func TestAddFD(t *testing.T) {
	g := seccomptest.Start(t, mounts, "fsopen")
	serve(t, g, seccomp.Handlers{"fsopen": {Serve: func(ctx context.Context, tr *seccomp.Trap) seccomp.Reply {
		r, w, err := os.Pipe()
		if err != nil {
			t.Error(err)
			return seccomp.Reply{Errno: unix.EIO}
		}
		defer r.Close()
		w.WriteString("hello")
		w.Close()
		fd, err := tr.AddFDSend(int(r.Fd()), true)
		if err != nil {
			t.Error(err)
		}
		t.Logf("the guest got descriptor %d", fd)
		return seccomp.Reply{Errno: unix.EIO} // too late to matter
	}}})
	g.Run(t)
	expectExit(t, g, 0)
}

// TestLateReceiver: an Inline handler that does not come back stops nobody else's calls.
func TestLateReceiver(t *testing.T) {
	fifo := filepath.Join(t.TempDir(), "go")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	g := seccomptest.Start(t, mounts, "neighbour", fifo)
	slow, release := make(chan struct{}), make(chan struct{})
	serve(t, g, seccomp.Handlers{
		"umount2": {Inline: func(*seccomp.Trap) (seccomp.Reply, bool) {
			close(slow)
			<-release
			return seccomp.Reply{}, true
		}},
		"mount": reply(unix.ENODEV),
	})
	t.Cleanup(func() { close(release) })
	g.Run(t)
	<-slow
	begin := time.Now()
	if err := os.WriteFile(fifo, []byte("go"), 0); err != nil {
		t.Fatal(err)
	}
	// The guest cannot end while a thread of it hangs: it is killed by its
	// own exit, which a trapped call does not hold up.
	expectExit(t, g, int(unix.ENODEV))
	t.Logf("answered and exited after %v", time.Since(begin))
}

func TestManyCallers(t *testing.T) {
	g := seccomptest.Start(t, mounts, "fork", "20")
	serve(t, g, seccomp.Handlers{"mount": {
		Inline: func(tr *seccomp.Trap) (seccomp.Reply, bool) {
			return seccomp.Reply{Errno: unix.ENODEV}, tr.ID%2 == 0
		},
		Serve: func(context.Context, *seccomp.Trap) seccomp.Reply {
			return seccomp.Reply{Errno: unix.ENODEV}
		}}})
	g.Run(t)
	expectExit(t, g, 0)
}

func TestServeEndsWithContext(t *testing.T) {
	g := seccomptest.Start(t, mounts, "wait")
	l, err := seccomp.NewListener(g.Listener, nil, nil, seccomptest.Log(t))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := l.Serve(ctx); err != nil {
		t.Error(err)
	}
}

func hangingHandlers(mode string, hang func()) seccomp.Handlers {
	if mode == "inline" {
		return seccomp.Handlers{"mount": {Inline: func(*seccomp.Trap) (seccomp.Reply, bool) {
			hang()
			return seccomp.Reply{}, true
		}}}
	}
	return seccomp.Handlers{"mount": {Serve: func(context.Context, *seccomp.Trap) seccomp.Reply {
		hang()
		return seccomp.Reply{}
	}}}
}

// TestOrphans: the broker dies with a call in hand; another process answers it.
func TestOrphans(t *testing.T) {
	for _, mode := range []string{"inline", "serve"} {
		t.Run(mode, func(t *testing.T) {
			g := seccomptest.Start(t, mounts, "mount", "//host/share")
			fd, err := seccomp.NewInflight()
			if err != nil {
				t.Fatal(err)
			}
			defer unix.Close(fd)
			broker := startBroker(t, mode, g.Listener, fd, func() { g.Run(t) })
			if err := broker.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			broker.Wait()
			page, err := seccomp.OpenInflight(fd)
			if err != nil {
				t.Fatal(err)
			}
			defer page.Close()
			if n, err := page.AnswerOrphans(g.Listener); n != 1 || err != nil {
				t.Errorf("%d orphans answered, %v", n, err)
			}
			if ids := page.Orphans(); len(ids) != 0 {
				t.Errorf("orphans left: %#x", ids)
			}
			// The next broker serves what comes then (umount2).
			serve(t, g, nil)
			expectExit(t, g, int(unix.EINTR))
		})
	}
}

func TestOpenInflightRefusesOthers(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "f"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := seccomp.OpenInflight(int(f.Fd())); err == nil {
		t.Error("an empty file was mapped")
	}
}

func TestNested(t *testing.T) {
	g := seccomptest.Start(t, mounts, "nested")
	serve(t, g, nil)
	g.Run(t)
	expectExit(t, g, 0)
}

func TestInstallNeedsPrivilege(t *testing.T) {
	if _, err := seccomp.Install(nil); err == nil {
		t.Error("an empty filter was installed")
	}
}

// TestI386 traps what a 32-bit program does.
func TestI386(t *testing.T) {
	run := func(t *testing.T, program []byte, h seccomp.Handlers) int {
		file := filepath.Join(t.TempDir(), "program")
		if err := os.WriteFile(file, program, 0o755); err != nil {
			t.Fatal(err)
		}
		g := seccomptest.Start(t, mountsIDs, "exec", file)
		serve(t, g, h)
		g.Run(t)
		return g.Wait(t)
	}
	t.Run("mount", func(t *testing.T) {
		h := seccomp.Handlers{"mount": {Serve: func(ctx context.Context, tr *seccomp.Trap) seccomp.Reply {
			source, err := tr.ReadString(tr.Args[0], 4096)
			if tr.Arch != seccomp.I386 || source != "//h/s" || err != nil {
				t.Errorf("%s: source %q, %v", tr.Arch, source, err)
			}
			return seccomp.Reply{Errno: unix.ENODEV}
		}}}
		if got := run(t, seccomptest.I386(21, "//h/s", "/mnt", "cifs", 0, 0), h); got != int(unix.ENODEV) {
			t.Errorf("exit code %d", got)
		}
	})
	t.Run("chown16", func(t *testing.T) {
		h := seccomp.Handlers{"chown": {Inline: func(tr *seccomp.Trap) (seccomp.Reply, bool) {
			if tr.Args[1] != 7 || tr.Args[2] != 0xffffffff {
				t.Errorf("ids %#x, %#x", tr.Args[1], tr.Args[2])
			}
			return seccomp.Reply{}, true
		}}}
		if got := run(t, seccomptest.I386(182, "/nowhere", 7, 0xffff), h); got != 0 {
			t.Errorf("exit code %d", got)
		}
	})
	t.Run("io_uring_setup", func(t *testing.T) {
		if got := run(t, seccomptest.I386(425, 1, 0), nil); got != int(unix.ENOSYS) {
			t.Errorf("exit code %d", got)
		}
	})
}

// TestFallbacks runs the tests above without the features that have fallbacks.
func TestFallbacks(t *testing.T) {
	if os.Getenv(feature.Env) != "" {
		return
	}
	for _, missing := range []feature.Name{feature.WaitKillable, feature.SyncWakeup} {
		t.Run(string(missing), func(t *testing.T) {
			cmd := exec.Command("/proc/self/exe", "-test.run", "^Test(Inline|Serve|Interrupt|Restart|InterruptOfADeafHandler|SignalOfTheProcess|SignalOfTheThread|CallerKilled|AddFD|LateReceiver|ManyCallers|Orphans|I386)$")
			cmd.Env = append(os.Environ(), feature.Env+"="+string(missing))
			out, err := cmd.CombinedOutput()
			if err != nil {
				t.Errorf("without %s: %v\n%s", missing, err, out)
			}
			if strings.Contains(string(out), "no tests to run") {
				t.Error("no tests ran")
			}
		})
	}
}

func served(context.Context, *seccomp.Trap) seccomp.Reply { return seccomp.Reply{Errno: unix.EINVAL} }
