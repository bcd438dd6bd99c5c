package netcli

import (
	"fmt"
	"net/netip"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/lxbridge/lx/netns"
)

func TestTable(t *testing.T) {
	tb := &table{columns: []column{{title: "A"}, {title: "N", right: true}, {title: "LONG", flexible: true}}}
	tb.add(plainStyle, "x", "7", "a process with a long name")
	tb.add(yellow, "yy", "123", "evil\x1b]0;title\x07")
	want := []string{"A     N  LONG", "x     7  a process…", "yy  123  evil?]0;t…"}
	if d := cmp.Diff(want, tb.lines(19, false)); d != "" {
		t.Error(d)
	}
	if got := tb.lines(0, true)[2]; got != "\x1b[33myy  123  evil?]0;title?\x1b[0m" {
		t.Errorf("%q", got)
	}
}

func TestTogether(t *testing.T) {
	owner := func(pid int, uid uint32, command string) netns.Entry {
		return netns.Entry{Owners: []netns.Owner{{Process: &netns.Process{PID: pid, UID: uid, Command: command}}}}
	}
	hidden := func(uid uint32) netns.Entry {
		return netns.Entry{Hidden: true, Socket: netns.Socket{UID: uid, State: netns.Listen, Local: netip.MustParseAddrPort("0.0.0.0:1")}}
	}
	for i, c := range []struct {
		a, b netns.Entry
		want bool
	}{
		{owner(1, 0, "nginx"), owner(1, 0, "nginx"), true},
		{owner(1, 0, "nginx"), owner(2, 0, "nginx"), true}, // workers with SO_REUSEPORT
		{owner(1, 0, "nginx"), owner(2, 5, "nginx"), false},
		{owner(1, 0, "nginx"), owner(2, 0, "node"), false},
		{hidden(1), hidden(1), true},
		{hidden(1), hidden(2), false},
		{hidden(1), owner(2, 1, "node"), false},
	} {
		if got := together(&c.a, &c.b); got != c.want {
			t.Errorf("%d: %v", i, got)
		}
	}
}

// TestScreen looks at ports and top as a person does, in tmux.
func TestScreen(t *testing.T) {
	dir := t.TempDir()
	exe, err := filepath.EvalSymlinks("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"lxnet", "a-server-with-a-rather-long-name", "second"} {
		if out, err := exec.Command("cp", exe, filepath.Join(dir, name)).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	start := func(name, network, addr string) *exec.Cmd {
		t.Helper()
		cmd := exec.Command(filepath.Join(dir, name))
		cmd.Args = []string{"listen", network, addr}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		return cmd
	}
	end := func(cmd *exec.Cmd) {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
	first, second := start("a-server-with-a-rather-long-name", "tcp4", "0.0.0.0:9090"), start("second", "tcp6", "[::1]:9090")
	defer end(first)
	defer func() { end(second) }()
	for _, width := range []int{80, 200} {
		t.Run(fmt.Sprint(width), func(t *testing.T) {
			socket := filepath.Join(dir, fmt.Sprint(width))
			tmux := func(args ...string) string {
				t.Helper()
				out, err := exec.Command("tmux", append([]string{"-S", socket, "-f", "/dev/null"}, args...)...).CombinedOutput()
				if err != nil {
					t.Fatalf("tmux %v: %v: %s", args, err, out)
				}
				return string(out)
			}
			tmux("new-session", "-d", "-x", fmt.Sprint(width), "-y", "100", "env", "-u", "LC_ALL", "LANG=C.UTF-8", "sh")
			defer tmux("kill-server")
			shown := func(texts ...string) string {
				t.Helper()
				for end := time.Now().Add(20 * time.Second); ; {
					text := tmux("capture-pane", "-p")
					missing := ""
					for _, want := range texts {
						if !strings.Contains(text, want) {
							missing = want
						}
					}
					if missing == "" {
						return text
					}
					if time.Now().After(end) {
						t.Fatalf("%q is not on the screen:\n%s", missing, text)
					}
				}
			}
			run := "(exec -a lxnet " + filepath.Join(dir, "lxnet") + " "
			tmux("send-keys", "exec bash", "Enter")
			tmux("send-keys", "PS1=; clear; "+run+"ports --port 9090); echo end-$((1+1))", "Enter")
			text := shown("end-2", "LISTEN", "9090", "NETID")
			for line := range strings.Lines(text) {
				if n := utf8.RuneCountInString(strings.TrimRight(line, "\n")); n > width {
					t.Errorf("%d columns: %q", n, line)
				}
			}
			if queues := strings.Contains(text, "RECV-Q"); queues != (width == 200) {
				t.Errorf("queues shown: %v:\n%s", queues, text)
			}
			shadow, title := strings.Index(text, "localhost"), strings.Index(text, "NETID")
			if shadow < 0 || shadow > title {
				t.Errorf("what is shared does not come first:\n%s", text)
			}
			if !strings.Contains(tmux("capture-pane", "-p", "-e"), "\x1b[33m") {
				t.Error("what is shared has no colour")
			}

			tmux("send-keys", "clear; "+run+"top --port 9090); echo end-$((2+2))", "Enter")
			shown("lxnet top", "shared", "CHANGES", "9090")
			end(second)
			shown("- tcp [::1]:9090")
			second = start("second", "tcp6", "[::1]:9090")
			shown("+ tcp [::1]:9090")
			tmux("resize-window", "-x", fmt.Sprint(width-20), "-y", "15")
			shown("lxnet top", "CHANGES")
			tmux("send-keys", "q")
			shown("end-4")
		})
	}
}
