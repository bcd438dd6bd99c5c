package integration

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"
)

// terminal is lx as it runs on somebody's terminal.
type terminal struct {
	t      *testing.T
	cmd    *exec.Cmd
	master *os.File
	out    buffer
	seen   int // of out, what expect has passed
	ended  chan error
}

func (w *world) terminal(t *testing.T, args ...string) *terminal {
	t.Helper()
	cmd := w.command(context.Background(), args...)
	master, err := pty.StartWithSize(cmd, &pty.Winsize{Rows: 33, Cols: 77})
	if err != nil {
		t.Fatal(err)
	}
	x := &terminal{t: t, cmd: cmd, master: master, ended: make(chan error, 1)}
	go func() {
		_, _ = io.Copy(&x.out, master) // EIO when the last one hangs up
		x.ended <- cmd.Wait()
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may have ended
		master.Close()
	})
	return x
}

func (x *terminal) typed(text string) {
	x.t.Helper()
	if _, err := x.master.WriteString(text); err != nil {
		x.t.Fatal(err)
	}
}

// expect waits until what has come since the last expect has text.
func (x *terminal) expect(text string) {
	x.t.Helper()
	eventually(x.t, 15*time.Second, func() error {
		all := x.out.String()
		i := strings.Index(all[x.seen:], text)
		if i < 0 {
			return io.ErrUnexpectedEOF
		}
		x.seen += i + len(text)
		return nil
	})
}

func (x *terminal) settings() unix.Termios {
	x.t.Helper()
	s, err := unix.IoctlGetTermios(int(x.master.Fd()), unix.TCGETS)
	if err != nil {
		x.t.Fatal(err)
	}
	return *s
}

func TestTerminal(t *testing.T) {
	w := newWorld(t)
	x := w.terminal(t)
	defer func() {
		if t.Failed() {
			t.Logf("terminal: %q", x.out.String())
		}
	}()
	// What is typed is echoed: the marks differ from what is typed.
	x.typed("PS1=; echo begin-$((1+1))\n")
	x.expect("begin-2")
	x.typed("shopt -q login_shell && echo login-$((1+1)); tty; stty size\n")
	x.expect("login-2")
	x.expect("/dev/pts/")
	x.expect("33 77")
	if err := pty.Setsize(x.master, &pty.Winsize{Rows: 44, Cols: 99}); err != nil {
		t.Fatal(err)
	}
	x.typed("until stty size | grep -q '44 99'; do sleep 0.02; done; echo size-$((2+2))\n")
	x.expect("size-4")
	x.typed("bash -c 'echo up-$((2+3)); exec sleep 1000'\n")
	x.expect("up-5")
	x.typed("\x03")
	x.expect("^C")
	x.typed("echo code-$?-$((1+1))\n")
	x.expect("code-130-2")
	x.typed("bash -c 'echo up-$((3+3)); exec sleep 1000'\n")
	x.expect("up-6")
	x.typed("\x1a")
	x.expect("Stopped")
	x.expect("exec sleep 1000'")
	x.typed("bg; fg\n")
	x.expect("exec sleep 1000' &")
	x.expect("exec sleep 1000'")
	x.typed("\x03")
	x.expect("^C")
	x.typed("echo done-$((5+5))\n")
	x.expect("done-10")
	x.typed("echo >&2 error-$((6+6)); exit 5\n")
	x.expect("error-12")
	select {
	case <-x.ended:
	case <-time.After(15 * time.Second):
		t.Fatal("the session has not ended")
	}
	if code := x.cmd.ProcessState.ExitCode(); code != 5 {
		t.Errorf("exit code %d", code)
	}
}

// TestTerminalIsRestored: the terminal is as before, whatever the session did.
func TestTerminalIsRestored(t *testing.T) {
	w := newWorld(t)
	x := w.terminal(t, "sh", "-c", "stty raw -echo; echo raw; read x; exit 3")
	// The slave is held open, so that its settings outlive lx.
	slave, err := os.OpenFile(ptsName(t, x.master), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer slave.Close()
	x.expect("raw")
	if s := x.settings(); s.Lflag&unix.ECHO != 0 {
		t.Error("lx does not take the terminal over")
	}
	x.typed("\n")
	eventually(t, 15*time.Second, func() error {
		if _, ok := readProcess(x.cmd.Process.Pid); ok && x.settings().Lflag&unix.ECHO == 0 {
			return io.ErrNoProgress
		}
		return nil
	})
	if s := x.settings(); s.Lflag&(unix.ECHO|unix.ICANON|unix.ISIG) != unix.ECHO|unix.ICANON|unix.ISIG {
		t.Errorf("the terminal was left with local modes %#x", s.Lflag)
	}
}

func ptsName(t *testing.T, master *os.File) string {
	t.Helper()
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("/dev/pts/%d", n)
}
