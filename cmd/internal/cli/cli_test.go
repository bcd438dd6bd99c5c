package cli

import (
	"bytes"
	"errors"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/lxbridge/lx/cmd/internal/command"
	"github.com/lxbridge/lx/core/env"
	"github.com/lxbridge/lx/core/store"
	"github.com/lxbridge/lx/mount"
)

func TestMain(m *testing.M) {
	if os.Args[0] == env.RoleProbe {
		os.Exit(Probe())
	}
	testscript.Main(m, map[string]func(){
		"lx": func() { os.Exit(Main(os.Args[1:])) },
	})
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(e *testscript.Env) error {
			e.Setenv("HOME", e.WorkDir)
			e.Setenv("LX_RUNTIME_DIR", e.WorkDir+"/run")
			return nil
		},
	})
}

// TestTerminalText: it may come in pieces.
func TestTerminalText(t *testing.T) {
	const in, want = "grün\tund\n\x1b[2J\u009b€\xff.", "grün\tund\n\uFFFD[2J\uFFFD€\uFFFD."
	for size := 1; size <= len(in); size++ {
		var b bytes.Buffer
		w := &terminalText{w: &b}
		for rest := []byte(in); len(rest) > 0; rest = rest[min(size, len(rest)):] {
			if _, err := w.Write(rest[:min(size, len(rest))]); err != nil {
				t.Fatal(err)
			}
		}
		if b.String() != want {
			t.Errorf("in pieces of %d: %q, want %q", size, b.String(), want)
		}
	}
}

func TestStatus(t *testing.T) {
	var code command.ExitCode
	if status(syscall.WaitStatus(0)) != nil {
		t.Error("success is an error")
	}
	if err := status(syscall.WaitStatus(7 << 8)); !errors.As(err, &code) || code != 7 {
		t.Errorf("exit 7: %v", err)
	}
	if err := status(syscall.WaitStatus(syscall.SIGTERM)); !errors.As(err, &code) || code != 128+15 {
		t.Errorf("SIGTERM: %v", err)
	}
}

func TestCheckName(t *testing.T) {
	for name, ok := range map[string]bool{
		"daemon": false, "host": true, "host-2": true, "a.b_c": true,
		"": false, "../x": false, "a/b": false, ".hidden": false, "-d": false, strings.Repeat("x", 65): false,
	} {
		if err := store.CheckName(name); (err == nil) != ok {
			t.Errorf("%q: %v", name, err)
		}
	}
}

func TestPrintMounts(t *testing.T) {
	var b bytes.Buffer
	if err := printMounts(&b, []mount.Info{{Source: "//nas/my \"photos\"\x1b", Target: "/mnt", Type: "cifs", State: mount.Connected, Note: "no wings", BytesRead: 1536}}); err != nil {
		t.Fatal(err)
	}
	if got := b.String(); !strings.Contains(got, `//nas/my "photos"\x1b`) || !strings.Contains(got, "connected, no wings ") || !strings.Contains(got, "1.5K") {
		t.Errorf("printed %q", got)
	}
}

func TestSize(t *testing.T) {
	for n, want := range map[uint64]string{0: "0", 1023: "1023", 1024: "1.0K", 1 << 20: "1.0M", 1<<20 - 1: "1.0M", 1 << 63: "8.0E"} {
		if got := size(n); got != want {
			t.Errorf("%d: %s, want %s", n, got, want)
		}
	}
}

// TestNotRunning: the hint is about the environment that was named.
func TestNotRunning(t *testing.T) {
	for name, want := range map[string]string{"": "`lx true` starts", "debian": "`lx -d debian true` starts"} {
		var b bytes.Buffer
		command.Report(&b, "lx", (&services{env: name}).notRunning(env.ErrNotRunning))
		if !strings.Contains(b.String(), want) {
			t.Errorf("%q: %q", name, b.String())
		}
	}
	if err := errors.New("other"); (&services{}).notRunning(err) != err {
		t.Error("another error is changed")
	}
}
