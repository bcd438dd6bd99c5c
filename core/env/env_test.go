package env

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

func TestRootIsUser(t *testing.T) {
	const in = "root:x:0:0:root:/root:/bin/bash\ntoor:x:0:0::/:/bin/sh\nme:x:1000:1000::/home/me:/bin/zsh\n"
	const want = "root:x:0:0:root:/home/me:/bin/zsh\ntoor:x:0:0::/home/me:/bin/zsh\nme:x:1000:1000::/home/me:/bin/zsh\n"
	if d := cmp.Diff(want, rootIsUser(in, "/home/me", "/bin/zsh")); d != "" {
		t.Error(d)
	}
}

func TestUserDirs(t *testing.T) {
	private, open := t.TempDir(), t.TempDir()
	for dir, mode := range map[string]os.FileMode{private: 0o700, open: 0o755} {
		if err := os.Chmod(dir, mode); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("XDG_STATE_HOME", t.TempDir())
	t.Setenv(RuntimeVar, "")
	t.Setenv("TMPDIR", t.TempDir())
	t.Setenv("XDG_RUNTIME_DIR", private)
	d, err := UserDirs()
	if err != nil || d.Runtime != filepath.Join(private, "lx") {
		t.Errorf("with a private XDG_RUNTIME_DIR: %v, %v", d, err)
	}
	t.Setenv("XDG_RUNTIME_DIR", open)
	d, err = UserDirs()
	if err != nil || filepath.Dir(d.Runtime) != os.TempDir() {
		t.Errorf("with an XDG_RUNTIME_DIR open to others: %v, %v", d, err)
	}
	if err := os.Chmod(d.Runtime, 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := UserDirs(); err == nil || !strings.Contains(err.Error(), "open to others") {
		t.Errorf("an own directory open to others passed: %v", err)
	}
}

// A daemon's environment may be empty, and its user unknown.
func TestUserDirsWithoutHome(t *testing.T) {
	for _, v := range []string{"XDG_STATE_HOME", "XDG_RUNTIME_DIR", "HOME"} {
		t.Setenv(v, "")
	}
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv(RuntimeVar, dir)
	if u, err := user.LookupId(strconv.Itoa(os.Getuid())); err != nil || homeDir(os.Getuid()) != u.HomeDir {
		t.Errorf("home is %q, want that of %v, %v", homeDir(os.Getuid()), u, err)
	}
	if home := homeDir(1<<31 - 2); home != "" {
		t.Errorf("an unknown user's home is %q", home)
	}
	d, err := dirsOf(1<<31-2, dir)
	if err != nil || d.State != filepath.Join(dir, "state", "lx") {
		t.Errorf("an unknown user's state: %v, %v", d, err)
	}
}

// private are directories of the test's user alone.
func private(t testing.TB) Dirs {
	t.Helper()
	d := Dirs{Runtime: t.TempDir(), State: t.TempDir()}
	if err := errors.Join(os.Chmod(d.Runtime, 0o700), os.Chmod(d.State, 0o700)); err != nil {
		t.Fatal(err)
	}
	return d
}

// TestForeignSocket: where a socket was said to be, somebody else may have made
// one, in a directory of theirs. It gets no client.
func TestForeignSocket(t *testing.T) {
	d := private(t)
	theirs := Dirs{Runtime: t.TempDir(), State: d.State}
	if err := errors.Join(os.Chmod(theirs.Runtime, 0o755), theirs.Announce("e")); err != nil {
		t.Fatal(err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: theirs.Socket("e")})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if c, err := Dial(t.Context(), d, "e", ToNobody); err == nil || !strings.Contains(err.Error(), "open to others") {
		t.Errorf("%v, %v", c, err)
	}
	if err := l.SetDeadline(time.Now()); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Accept(); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a client came: %v", err)
	}
	// In a directory of the user's own it is found.
	if err := errors.Join(os.Chmod(theirs.Runtime, 0o700), l.SetDeadline(time.Time{})); err != nil {
		t.Fatal(err)
	}
	c, err := Dial(t.Context(), d, "e", ToNobody)
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	// Nor is the runtime directory itself made again where it is another's.
	if err := os.Chmod(d.Runtime, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := d.MakeRuntime(); err == nil {
		t.Error("a directory that is open to others was taken")
	}
}

// TestLockStart: one at a time, and who waits can be called off.
func TestLockStart(t *testing.T) {
	d := private(t)
	unlock, err := LockStart(t.Context(), d, "e")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	waited := make(chan error, 1)
	go func() {
		_, err := LockStart(ctx, d, "e")
		waited <- err
	}()
	cancel()
	if err := <-waited; !errors.Is(err, context.Canceled) {
		t.Errorf("who was called off got %v", err)
	}
	unlock()
	if unlock, err = LockStart(t.Context(), d, "e"); err != nil {
		t.Fatal(err)
	}
	unlock()
}

// TestSignalAtStart: a signal that ends the client's own context belongs to
// the session, even one that comes before the session is known to run.
func TestSignalAtStart(t *testing.T) {
	d := private(t)
	l, err := net.Listen("unix", d.Socket("e"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM)
	defer stop()
	got := make(chan error, 1)
	go func() { // the keeper, then init
		got <- func() error {
			conn, err := l.Accept()
			if err != nil {
				return err
			}
			defer conn.Close()
			c := conn.(*net.UnixConn)
			if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
				return err
			}
			_, files, err := readSpec(c)
			if err != nil {
				return err
			}
			defer closeAll(files)
			if err := unix.Kill(os.Getpid(), unix.SIGTERM); err != nil {
				return err
			}
			<-ctx.Done()
			if err := answer(c, event{PID: 7}); err != nil {
				return err
			}
			var cmd command
			if err := json.NewDecoder(c).Decode(&cmd); err != nil {
				return err
			}
			if cmd.Signal != unix.SIGTERM {
				return fmt.Errorf("the session got %v", cmd.Signal)
			}
			return answer(c, event{Exited: true, Status: 40 << 8})
		}()
	}()
	ws, err := runPlain(ctx, d, "e", Spec{Argv: []string{"true"}})
	if err != nil || ws.ExitStatus() != 40 {
		t.Errorf("the session ended with %v, %v", ws, err)
	}
	if err := <-got; err != nil {
		t.Error(err)
	}
}

// TestFstab: what of an fstab an environment mounts by itself.
func TestFstab(t *testing.T) {
	path := filepath.Join(t.TempDir(), "fstab")
	if got, err := fstabTargets(path); got != nil || err != nil {
		t.Errorf("without one: %q, %v", got, err)
	}
	const text = `# //nas/x /x cifs ro 0 0
UUID=1 / ext4 defaults 0 1
//nas/a\040b /a\040b cifs credentials=/c 0 0
nas:/srv	/srv	nfs4	ro,noauto	0 0
nas:/home	/home	nfs4
tmpfs /tmp tmpfs
broken
proc /proc proc`
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := fstabTargets(path)
	if d := cmp.Diff([]string{"/a b", "/home"}, got); d != "" || err != nil {
		t.Error(d, err)
	}
}

// TestAccounts: lines may be long, and those that are none are passed over.
func TestAccounts(t *testing.T) {
	members := strings.Repeat("somebody,", 20000) + "anna"
	groups := "root:x:0:\nbroken\nall:x:100:" + members + "\nlast:x:101:anna"
	if d := cmp.Diff([]uint32{100, 101}, parseGroups([]byte(groups), "anna")); d != "" {
		t.Error(d)
	}
	passwd := "long:x:1:1:" + strings.Repeat("x", 100000) + ":/:/bin/sh\nanna:x:1000:100::/home/anna:\n"
	if a, ok := parsePasswd([]byte(passwd), "anna"); !ok || a.UID != 1000 || a.Home != "/home/anna" || a.Shell != "/bin/sh" {
		t.Errorf("%+v, %v", a, ok)
	}
}

func TestLookPath(t *testing.T) {
	dir := t.TempDir()
	for name, mode := range map[string]os.FileMode{"runs": 0o755, "plain": 0o644} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, mode); err != nil {
			t.Fatal(err)
		}
	}
	env := []string{"PATH=/nonexistent:" + dir}
	for name, want := range map[string]error{"runs": nil, "plain": unix.EACCES, "absent": exec.ErrNotFound, "./any": nil} {
		if _, err := lookPath(name, "/", env); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", name, err, want)
		}
	}
	if p, err := lookPath("runs", dir, []string{"PATH=."}); err != nil || p != filepath.Join(dir, "runs") {
		t.Errorf("relative PATH: %q, %v", p, err)
	}
}

func pair(t testing.TB, kind int) (a, b *net.UnixConn) {
	t.Helper()
	p, err := unix.Socketpair(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var cs [2]*net.UnixConn
	for i, fd := range p {
		f := os.NewFile(uintptr(fd), "pair")
		c, err := net.FileConn(f)
		f.Close()
		if err != nil {
			t.Fatal(err)
		}
		cs[i] = c.(*net.UnixConn)
		t.Cleanup(func() { c.Close() })
	}
	return cs[0], cs[1]
}

func TestSpecCrosses(t *testing.T) {
	a, b := pair(t, unix.SOCK_STREAM)
	want := Spec{Argv: []string{"ls", "-l\n", ""}, Env: []string{"A=b"}, Dir: "/", Umask: 0o77, Terminal: true, UID: 3, GID: 4}
	sent := make(chan error, 1)
	go func() { sent <- writeSpec(a, want, [3]int{0, 1, 2}) }()
	got, files, err := readSpec(b)
	if err != nil {
		t.Fatal(err)
	}
	defer closeAll(files)
	if err := <-sent; err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, got); d != "" || len(files) != 3 {
		t.Errorf("%d files, %s", len(files), d)
	}
}

// FuzzReadSpec: whatever a client sends, init answers an error or a Spec.
func FuzzReadSpec(f *testing.F) {
	f.Add([]byte("\x00\x00\x00\x10{\"Argv\":[\"true\"]}"))
	f.Add([]byte("\xff\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, data []byte) {
		a, b := pair(t, unix.SOCK_STREAM)
		go func() {
			sendFDs(a, append(bytes.Clone(data), 0), 0, 1, 2)
			a.Close()
		}()
		s, files, err := readSpec(b)
		if err == nil {
			if len(s.Argv) == 0 {
				t.Error("a session without a command passed")
			}
			closeAll(files)
		}
	})
}

func TestLink(t *testing.T) {
	l, theirs, err := NewLink()
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	defer theirs.Close()
	fd, err := unix.Dup(int(theirs.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	other, err := OpenLink(fd)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Send(BrokerHold, "key\x00blob", 0, 1); err != nil {
		t.Fatal(err)
	}
	m, err := other.Receive()
	if err != nil {
		t.Fatal(err)
	}
	defer m.Discard()
	if m.Letter != BrokerHold || m.Text != "key\x00blob" || len(m.FDs) != 2 {
		t.Errorf("got %q %q with %d descriptors", m.Letter, m.Text, len(m.FDs))
	}
	if err := l.Send(LinkStop, strings.Repeat("x", maxPacket+1)); err == nil {
		t.Error("an oversized packet passed")
	}
}

// TestLinkUnread: who does not read its link holds nobody up.
func TestLinkUnread(t *testing.T) {
	l, theirs, err := NewLink()
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	defer theirs.Close()
	l.patience = 20 * time.Millisecond
	for range 100_000 {
		if err = l.Send(LinkConn, strings.Repeat("x", 1000)); err != nil {
			break
		}
	}
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a full link: %v", err)
	}
}

func TestSudoScript(t *testing.T) {
	script := filepath.Join(t.TempDir(), "sudo")
	if err := os.WriteFile(script, []byte(strings.ReplaceAll(sudoScript, `"$(id -u)"`, "0")), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args []string
		out  string
		ok   bool
	}{
		{[]string{"echo", "a", "b c"}, "a b c\n", true},
		{[]string{"-n", "-E", "--", "echo", "-n", "x"}, "x", true},
		{[]string{"-u", "root", "X=1", "sh", "-c", "echo $X $SUDO_USER"}, "1 root\n", true},
		{[]string{"--user=#0", "true"}, "", true},
		{[]string{"-u", "nobody", "true"}, "", false},
		{[]string{"-v"}, "", true},
		{[]string{}, "", false},
		{[]string{"false"}, "", false},
	} {
		out, err := exec.Command(script, c.args...).Output()
		if string(out) != c.out || (err == nil) != c.ok {
			t.Errorf("sudo %q: %q, %v", c.args, out, err)
		}
	}
}
