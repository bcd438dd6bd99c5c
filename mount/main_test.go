package mount

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/lxbridge/lx/core/ns/nstest"
	"github.com/lxbridge/lx/core/seccomp"
	"github.com/lxbridge/lx/core/seccomp/seccomptest"
	"github.com/lxbridge/lx/integration/smbtest"
)

const shareEnv = "LX_MOUNTTEST_SHARE"

// TestMain runs the tests as a broker would be: as root of a user namespace
// (U1) with a mount namespace. Guests are made in a namespace below it (U2).
func TestMain(m *testing.M) {
	if nstest.IsInside() {
		seccomptest.Main(m, map[string]seccomptest.Program{"sh": shell, "api": newAPI})
	}
	// A server cannot be started as root of a user namespace.
	share, err := smbtest.Start(context.Background(), smbtest.Options{})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := nstest.Main(unix.CLONE_NEWNS, 1, fmt.Sprintf("%s=%d,%s,%s", shareEnv, share.Port, share.User, share.Password))
	if err := share.Stop(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// login is how guests reach the share: its port, user and password.
func login(t *testing.T) (port, user, password string) {
	t.Helper()
	f := strings.SplitN(os.Getenv(shareEnv), ",", 3)
	if len(f) != 3 {
		t.Fatal("no share")
	}
	return f[0], f[1], f[2]
}

// shell is a guest: bash runs args[0] with output to args[1]. /mnt is empty,
// and nothing of the host's /run is in reach.
func shell(args []string) int {
	err := func() error {
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			return err
		}
		for _, dir := range []string{"/run", "/mnt"} {
			if err := unix.Mount("none", dir, "tmpfs", 0, ""); err != nil {
				return fmt.Errorf("tmpfs on %s: %w", dir, err)
			}
		}
		if err := os.MkdirAll("/run/mount", 0o755); err != nil {
			return err
		}
		out, err := os.OpenFile(args[1], os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
		if err != nil {
			return err
		}
		for _, fd := range []int{1, 2} {
			if err := unix.Dup2(int(out.Fd()), fd); err != nil {
				return err
			}
		}
		env := append(os.Environ(), "LC_ALL=C", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
		return unix.Exec("/bin/bash", []string{"bash", "-c", args[0]}, env)
	}()
	fmt.Fprintln(os.Stderr, "guest:", err)
	return 125
}

// keeper is a Holder that holds.
type keeper struct {
	mu   sync.Mutex
	held map[string]heldFD
}

type heldFD struct {
	fd   int
	blob []byte
}

func (k *keeper) Hold(key string, fd int, blob []byte) error {
	own, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if old, ok := k.held[key]; ok {
		unix.Close(old.fd)
	}
	k.held[key] = heldFD{own, blob}
	return nil
}

func (k *keeper) Drop(key string) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if old, ok := k.held[key]; ok {
		unix.Close(old.fd)
		delete(k.held, key)
	}
	return nil
}

func (k *keeper) all() map[string]heldFD {
	k.mu.Lock()
	defer k.mu.Unlock()
	return maps.Clone(k.held)
}

// world is a broker and what it needs.
type world struct {
	*Broker
	keeper *keeper
}

func newWorld(t *testing.T) *world {
	t.Helper()
	k := &keeper{held: map[string]heldFD{}}
	w := &world{New(Config{Holder: k, Log: seccomptest.Log(t)}), k}
	t.Cleanup(func() {
		if err := w.Drain(context.Background()); err != nil {
			t.Error(err)
		}
		if n := len(k.all()); n != 0 {
			t.Errorf("the keeper still holds %d", n)
		}
	})
	return w
}

// guestRun is a guest that runs a script.
type guestRun struct {
	*seccomptest.Guest
	out string
}

// start runs a script in a guest whose traps w answers.
func (w *world) start(t *testing.T, script string) *guestRun {
	t.Helper()
	out := filepath.Join(t.TempDir(), "out")
	return &guestRun{w.guest(t, "sh", script, out), out}
}

// guest starts a program whose traps w answers.
func (w *world) guest(t *testing.T, program string, args ...string) *seccomptest.Guest {
	t.Helper()
	g := seccomptest.Start(t, seccomp.Options{Features: []string{seccomp.FeatureMount}}, program, args...)
	l, err := seccomp.NewListener(g.Listener, w.Handlers(), nil, seccomptest.Log(t))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := l.Serve(ctx); err != nil {
			t.Error(err)
		}
	}()
	t.Cleanup(func() { cancel(); <-ended })
	g.Run(t)
	return g
}

func (g *guestRun) output(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile(g.out)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// run runs a script to its end and answers its output.
func (w *world) run(t *testing.T, script string) string {
	t.Helper()
	g := w.start(t, "set -o pipefail\n"+script)
	if code := g.Wait(t); code != 0 {
		t.Fatalf("exit code %d of %s\n%s", code, script, g.output(t))
	}
	return g.output(t)
}

// want fails unless text has all the parts.
func want(t *testing.T, text string, parts ...string) {
	t.Helper()
	for _, p := range parts {
		if !strings.Contains(text, p) {
			t.Errorf("no %q in:\n%s", p, text)
		}
	}
}
