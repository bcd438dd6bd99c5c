package integration

import (
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lxbridge/lx/core/feature"
	"github.com/lxbridge/lx/integration/smbtest"
)

// kill ends a process of lx as the kernel would for want of memory.
func kill(t testing.TB, pid int) {
	t.Helper()
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
}

// restarted waits for a broker other than old and answers how long it took.
func (w *world) restarted(old int) time.Duration {
	w.t.Helper()
	began := time.Now()
	eventually(w.t, 5*time.Second, func() error {
		if now := w.broker(); now == old {
			return fmt.Errorf("broker %d is still the one", now)
		}
		return nil
	})
	return time.Since(began)
}

// growing waits until the server has n bytes of a file.
func (s *share) growing(name string, n int64) {
	s.w.t.Helper()
	eventually(s.w.t, 20*time.Second, func() error {
		st, err := os.Stat(filepath.Join(s.Path("data"), name))
		if err == nil && st.Size() < n {
			err = fmt.Errorf("%s has %d bytes", name, st.Size())
		}
		return err
	})
}

// dead checks a mount whose broker is gone: EIO at once, then unmounted and
// mounted again. Where nobody can take its connection over it is ended, and
// lx knows no more of it.
func (s *share) dead(dir string) {
	w := s.w
	w.t.Helper()
	says, listed := "Input/output error", true
	if w.lacks(feature.FuseResend) {
		says, listed = "endpoint is not connected", false
	}
	for _, c := range []string{"ls " + dir, "cat " + dir + "/hello", "touch " + dir + "/new", "stat " + dir + "/hello", "df " + dir, "sync -f " + dir} {
		r := w.sh("timeout -s KILL 10 " + c)
		if r.code == 0 || r.code == 137 || r.took > 2*time.Second || !strings.Contains(r.err, says) {
			w.t.Errorf("%s on the mount of a dead broker: %v", c, r)
		}
	}
	if out := w.lx("mounts").out; strings.Contains(out, "failed") != listed {
		w.t.Errorf("lx mounts: %s", out)
	}
	w.must("umount " + dir)
	w.must(s.command(dir) + "; cat " + dir + "/hello; umount " + dir)
}

func TestBrokerKilledDuringCopy(t *testing.T) {
	w := newWorld(t)
	s := w.share(smbtest.Options{})
	s.put("hello", "hello\n")
	dir := s.mount()
	other := w.hold()
	copying := w.start("sh", "-c", "cat /dev/zero > "+dir+"/big; echo code $?")
	s.growing("big", 8<<20)
	old := w.broker()
	kill(t, old)
	if took := w.restarted(old); took > time.Second {
		t.Errorf("a new broker after %v", took)
	}
	if r := copying.wait(5 * time.Second); r.out != "code 1\n" || !strings.Contains(r.err, "Input/output error") && !strings.Contains(r.err, "not connected") && !strings.Contains(r.err, "abort") {
		t.Errorf("the copy: %v", r)
	}
	if _, err := other.in.WriteString("still here\n"); err != nil {
		t.Fatal(err)
	}
	other.says("still here")
	s.dead(dir)
	other.in.Close()
	same(t, "the other guest", other.wait(5*time.Second).code, 0)
}

func TestBrokerKilledDuringMount(t *testing.T) {
	w := newWorld(t)
	s := w.share(smbtest.Options{})
	s.put("hello", "hello\n")
	dir := s.mount()
	hold := w.hold()
	target := w.mkdir("target")
	for name, mount := range mounts(t) {
		if err := s.Pause(); err != nil {
			t.Fatal(err)
		}
		mounting := w.start("sh", "-c", strings.Replace(s.command(target), "mount", mount, 1))
		old := w.broker()
		eventually(t, 10*time.Second, func() error {
			if n := len(connections(t, s.Port)); n < 2 {
				return fmt.Errorf("%d connections", n)
			}
			return nil
		})
		kill(t, old)
		if took := w.restarted(old); took > time.Second {
			t.Errorf("%s: a new broker after %v", name, took)
		}
		if r := mounting.wait(5 * time.Second); r.code == 0 || !strings.Contains(strings.ToLower(r.err), "interrupted") {
			t.Errorf("%s: the mount in flight: %v", name, r)
		}
		if err := s.Resume(); err != nil {
			t.Fatal(err)
		}
		s.dead(dir)
		w.must(s.command(dir))
	}
	hold.in.Close()
}

// connections are the established ones to a port of the loopback, by local port.
func connections(t testing.TB, port int) []string {
	t.Helper()
	b, err := os.ReadFile("/proc/net/tcp")
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) > 3 && f[2] == fmt.Sprintf("0100007F:%04X", port) && f[3] == "01" {
			found = append(found, f[1])
		}
	}
	return found
}

func TestBrokerKilledWithLock(t *testing.T) {
	w := newWorld(t)
	s := w.share(smbtest.Options{})
	s.put("hello", "hello\n")
	dir := s.mount()
	hold := w.hold()
	holder := w.startOpen("sh", "-c", "exec 9>"+dir+"/lock; flock 9; echo held; read x; echo x >&9 || echo lost; flock -u 9; exec 9>&-; echo over")
	holder.says("held")
	waiting := w.start("sh", "-c", "exec 8>"+dir+"/lock; echo waits; flock 8; echo code $?")
	waiting.says("waits")
	old := w.broker()
	kill(t, old)
	w.restarted(old)
	if r := waiting.wait(5 * time.Second); strings.Contains(r.out, "code 0") {
		t.Errorf("who waits for a lock that is gone: %v", r)
	}
	if _, err := holder.in.WriteString("\n"); err != nil {
		t.Fatal(err)
	}
	if r := holder.wait(5 * time.Second); !strings.HasPrefix(r.out, "held\nlost\n") || !strings.HasSuffix(r.out, "over\n") {
		t.Errorf("who held the lock: %v", r)
	}
	s.dead(dir)
	w.must(s.command(dir) + "; flock -n " + dir + "/lock true")
	hold.in.Close()
}

// TestBrokerKilledAgainAndAgain: every time there is another.
func TestBrokerKilledAgainAndAgain(t *testing.T) {
	w := newWorld(t)
	s := w.share(smbtest.Options{})
	dir := w.mkdir("mnt")
	hold := w.hold()
	for range 4 {
		old := w.broker()
		kill(t, old)
		w.must(s.command(dir) + "; touch " + dir + "/x; umount " + dir)
	}
	hold.in.Close()
	hold.wait(5 * time.Second)
}

func TestKeeperKilled(t *testing.T) {
	w := newWorld(t)
	s := w.share(smbtest.Options{})
	dir := s.mount()
	p := w.start("sh", "-c", "exec 9>"+dir+"/lock; flock 9; echo held; cat /dev/zero > "+dir+"/big")
	p.says("held")
	s.growing("big", 4<<20)
	daemon := w.must("setsid sleep 1000 </dev/null >/dev/null 2>&1 & echo started")
	same(t, "daemon", daemon, "started")
	all := tree(t, w.keeper())
	kill(t, w.keeper())
	if r := p.wait(10 * time.Second); r.code == 0 {
		t.Errorf("a session whose environment was killed: %v", r)
	}
	w.nothingLeft(all)
	eventually(t, 10*time.Second, func() error {
		if c := connections(t, s.Port); len(c) > 0 {
			return fmt.Errorf("connections are left: %v", c)
		}
		return nil
	})
	// The next environment starts as if nothing had been.
	w.must(s.command(dir) + "; flock -n " + dir + "/lock true; umount " + dir)
}

// TestInitKilled: guests cannot kill it, who may, ends the environment.
func TestInitKilled(t *testing.T) {
	w := newWorld(t)
	s := w.share(smbtest.Options{})
	s.mount()
	p := w.start("sleep", "1000")
	w.must("kill -9 1; kill -TERM 1; kill -STOP 1")
	all := tree(t, w.keeper())
	kill(t, w.first())
	if r := p.wait(10 * time.Second); r.code == 0 {
		t.Error(r)
	}
	w.nothingLeft(all)
}

// TestServerKilled: a copy ends in bounded time, and what it calls good is good.
func TestServerKilled(t *testing.T) {
	w := newWorld(t)
	s := w.share(smbtest.Options{})
	s.put("hello", "hello\n")
	dir := s.mount("echo_interval=1", "soft")
	w.must("head -c 256M /dev/urandom > ~/random")
	copying := w.start("sh", "-c", "cp ~/random "+dir+"/copy && sync "+dir+"/copy; echo code $?")
	s.growing("copy", 1<<20)
	if err := s.Kill(); err != nil {
		t.Fatal(err)
	}
	r := copying.wait(60 * time.Second)
	if err := s.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	want := strings.Fields(w.must("sha256sum ~/random"))[0]
	good := fmt.Sprintf("%x", sha256.Sum256([]byte(s.get("copy")))) == want
	if strings.Contains(r.out, "code 0") != good || !strings.Contains(r.out, "code ") {
		t.Errorf("the file is good: %v; the copy says %v", good, r)
	}
	// The server is back, and so is the mount.
	eventually(t, 30*time.Second, func() error {
		if r := w.sh("cat " + dir + "/hello"); r.out != "hello\n" {
			return fmt.Errorf("after the server came back: %v", r)
		}
		return nil
	})
	// A copy that spans a short absence is whole, or has failed.
	copying = w.start("sh", "-c", "cp ~/random "+dir+"/second && sync "+dir+"/second; echo code $?")
	s.growing("second", 1<<20)
	if err := s.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := s.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	r = copying.wait(60 * time.Second)
	good = fmt.Sprintf("%x", sha256.Sum256([]byte(s.get("second")))) == want
	if strings.Contains(r.out, "code 0") && !good || !strings.Contains(r.out, "code ") {
		t.Errorf("the file is good: %v; the copy says %v", good, r)
	}
	w.must("umount " + dir)
}

// TestSilentServer: calls end in the time that the options allow, and umount
// works in every form.
func TestSilentServer(t *testing.T) {
	w := newWorld(t)
	s := w.share(smbtest.Options{})
	s.put("hello", "hello\n")
	for _, name := range []string{"one", "two", "three"} {
		s.put(name, strings.Repeat("x", 1<<20))
	}
	soft, lazy, force := s.mount("echo_interval=1", "soft", "actimeo=0"), s.mount("hard"), s.mount("hard")
	w.must("cat " + soft + "/hello " + lazy + "/hello " + force + "/hello")
	if err := s.Pause(); err != nil {
		t.Fatal(err)
	}
	waits := []*running{w.start("cat", lazy+"/one"), w.start("cat", force+"/one")}
	r := w.sh("timeout -s KILL 40 cat " + soft + "/two | wc -c; ls " + soft + "/nothing")
	if r.out == "1048576\n" || !strings.Contains(r.err, "cat: ") && !strings.Contains(r.err, "rror") || r.took > 45*time.Second {
		t.Errorf("reading from a silent server: %v", r)
	}
	t.Logf("a soft call ended after %v", r.took)
	r = w.sh("timeout -s KILL 20 umount -l " + lazy)
	if r.code != 0 || r.took > 3*time.Second {
		t.Errorf("umount -l: %v", r)
	}
	for name, umount := range map[string]string{"2.38": "umount -f -l ", "2.41": strings.Replace(newMount(t), "mount-2.41", "umount-2.41", 1) + " -f "} {
		dir := force
		if name == "2.41" {
			dir = soft
		}
		if r := w.sh("timeout -s KILL 20 " + umount + dir); r.code != 0 || r.took > 5*time.Second {
			t.Errorf("umount -f: %v", r)
		}
	}
	if r := waits[1].wait(5 * time.Second); r.code == 0 {
		t.Errorf("who waited on a mount that was forced away: %v", r)
	}
	if err := s.Resume(); err != nil {
		t.Fatal(err)
	}
	if r := waits[0].wait(20 * time.Second); r.code != 0 || len(r.out) != 1<<20 {
		t.Errorf("who waited on a detached mount: code %d, %d bytes", r.code, len(r.out))
	}
	same(t, "mounts", w.mounted(), 0)
}

// TestInterrupt: SIGINT ends any waiting call, whatever the caller does with
// signals.
func TestInterrupt(t *testing.T) {
	w := newWorld(t)
	s := w.share(smbtest.Options{})
	s.put("hello", "hello\n")
	for i := range 20 {
		s.put(fmt.Sprintf("f%d", i), strings.Repeat("x", 1<<20))
	}
	dir, target := s.mount("hard"), w.mkdir("target")
	w.must("ls -l " + dir)
	if err := s.Pause(); err != nil {
		t.Fatal(err)
	}
	n := 0
	file := func() string { n++; return fmt.Sprintf("%s/f%d", dir, n-1) }
	for name, c := range map[string]struct {
		script string
		code   int
	}{
		"timeout, read":    {"timeout -s INT -k 20 1 cat " + file(), 124},
		"timeout, write":   {"timeout -s INT -k 20 1 cp /bin/true " + file(), 124},
		"timeout, create":  {"timeout -s INT -k 20 1 touch " + dir + "/new", 124},
		"timeout, readdir": {"timeout -s INT -k 20 1 ls " + dir, 124},
		"timeout, mount":   {"timeout -s INT -k 20 1 " + s.command(target), 124},
		"timeout, new API": {"timeout -s INT -k 20 1 " + strings.Replace(s.command(target), "mount", newMount(t)+" -i", 1), 124},
		"go, read":         {"timeout -s INT -k 20 --preserve-status 1 env " + helper("read") + " " + file(), 7},
		"go, mount":        {"timeout -s INT -k 20 --preserve-status 1 env " + strings.Replace(s.command(target), "mount", helper("mount"), 1), 7},
		"node, pool":       {"timeout -s INT -k 20 --preserve-status 1 node -e \"require('fs').readFile('" + file() + "', () => process.exit(8))\"", 130},
		"node, default":    {"timeout -s INT -k 20 --preserve-status 1 node -e \"require('fs').readFileSync('" + file() + "')\"", 130},
	} {
		r := w.within(40*time.Second, "sh", "-c", c.script)
		if r.took > 4*time.Second || r.code != c.code {
			t.Errorf("%s: want code %d: %v", name, c.code, r)
		}
	}
	// A terminal's Ctrl-C.
	x := w.terminal(t, "sh", "-c", "echo up; cat "+file()+"; echo ended-$?")
	x.expect("up")
	x.typed("\x03")
	select {
	case <-x.ended:
	case <-time.After(5 * time.Second):
		t.Error("Ctrl-C does not end cat")
	}
	if err := s.Resume(); err != nil {
		t.Fatal(err)
	}
	eventually(t, 20*time.Second, func() error {
		if r := w.sh("cat " + dir + "/hello"); r.out != "hello\n" {
			return fmt.Errorf("afterwards: %v", r)
		}
		return nil
	})
}

// TestStopWithoutServer: lx stop does not wait for a server that is gone.
func TestStopWithoutServer(t *testing.T) {
	w := newWorld(t)
	s := w.share(smbtest.Options{})
	s.put("hello", "hello\n")
	dir := s.mount("echo_interval=1", "soft")
	p := w.start("sh", "-c", "cat /dev/zero > "+dir+"/big")
	s.growing("big", 1<<20)
	if err := s.Pause(); err != nil {
		t.Fatal(err)
	}
	r := w.within(40*time.Second, "stop")
	t.Logf("lx stop: %v", r)
	if r.code != 0 && !strings.Contains(r.err, s.source("data", "")) {
		t.Errorf("lx stop names no mount: %v", r)
	}
	if r := p.wait(5 * time.Second); r.code == 0 {
		t.Error(r)
	}
	if err := s.Resume(); err != nil {
		t.Fatal(err)
	}
}

// TestClientStopped: a client that is stopped (SIGSTOP) holds nobody up.
func TestClientStopped(t *testing.T) {
	w := newWorld(t)
	p := w.start("sh", "-c", "echo up; exec sleep 1000")
	p.says("up")
	if err := p.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	w.must("true")
	if r := w.within(20*time.Second, "stop"); r.code != 0 {
		t.Error(r)
	}
	if err := p.cmd.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	p.wait(5 * time.Second)
}
