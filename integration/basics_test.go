package integration

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestExitCodes(t *testing.T) {
	w := newWorld(t)
	notExecutable := w.write("file", "no program")
	for _, c := range []struct {
		args []string
		code int
	}{
		{[]string{"true"}, 0},
		{[]string{"false"}, 1},
		{[]string{"sh", "-c", "exit 7"}, 7},
		{[]string{"--", "sh", "-c", "exit 8"}, 8},
		{[]string{"run", "sh", "-c", "exit 9"}, 9},
		{[]string{"sh", "-c", "kill -TERM $$"}, 128 + 15},
		{[]string{"sh", "-c", "kill -KILL $$"}, 128 + 9},
		{[]string{"no-such-program"}, 127},
		{[]string{"/no/such/program"}, 127},
		{[]string{notExecutable}, 126},
		{[]string{"/"}, 126},
		{[]string{"--no-such-flag"}, 2},
		{[]string{"-d", "../x", "true"}, 2},
		{[]string{"run"}, 2},
		{[]string{"stop", "one", "two"}, 2},
	} {
		if r := w.lx(c.args...); r.code != c.code {
			t.Errorf("lx %q: want %d, got %v", c.args, c.code, r)
		} else if c.code >= 125 && c.code <= 127 && !strings.Contains(r.err, "lx: ") {
			t.Errorf("lx %q says no reason: %v", c.args, r)
		}
	}
	w.env = append(w.env, "XDG_STATE_HOME=/dev/null")
	if r := w.lx("true"); r.code != 125 || !strings.Contains(r.err, "/dev/null") {
		t.Errorf("without a place for its state: want 125 and the place, got %v", r)
	}
	w.env = w.env[:len(w.env)-1]
}

func TestStandardDescriptors(t *testing.T) {
	w := newWorld(t)
	in := bytes.Repeat([]byte("0123456789abcde\x00"), 1<<16)
	cmd := w.command(context.Background(), "sh", "-c", "cat; echo to the side >&2")
	cmd.Stdin = bytes.NewReader(in)
	r := w.startCommand(cmd).wait(bound)
	if r.out != string(in) || r.err != "to the side\n" || r.code != 0 {
		t.Errorf("%d of %d bytes came back, stderr %q, code %d", len(r.out), len(in), r.err, r.code)
	}
	if out := w.must("pwd; umask; echo $LX_ENVIRONMENT"); out != w.path("home")+"\n0022\nhost" && out != w.path("home")+"\n0077\nhost" {
		t.Errorf("working directory, umask and environment: %q", out)
	}
}

func TestSignalsPassOn(t *testing.T) {
	w := newWorld(t)
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGUSR1} {
		p := w.start("bash", "-c", fmt.Sprintf("trap 'exit 40' %d; echo ready; sleep 1000 >/dev/null 2>&1 & wait", int(sig)))
		p.says("ready")
		if err := p.cmd.Process.Signal(sig); err != nil {
			t.Fatal(err)
		}
		if r := p.wait(5 * time.Second); r.code != 40 {
			t.Errorf("%v: %v", sig, r)
		}
	}
	// A session ends with its client.
	p := w.start("bash", "-c", "echo pid-$$; sleep 1000")
	p.says("pid-")
	pid := strings.TrimSpace(strings.TrimPrefix(p.out.String(), "pid-"))
	hold := w.hold()
	if err := p.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	p.wait(5 * time.Second)
	eventually(t, 5*time.Second, func() error {
		if r := w.sh("kill -0 " + pid); r.code == 0 {
			return fmt.Errorf("the session of a killed client lives on")
		}
		return nil
	})
	hold.in.Close()
	hold.wait(5 * time.Second)
}

func TestRootInside(t *testing.T) {
	w := newWorld(t)
	if out := w.must("id -u; id -g; id -un; echo ~; echo $HOME"); out != "0\n0\nroot\n"+w.path("home")+"\n"+w.path("home") && runAs.uid != 0 {
		t.Errorf("as root inside: %q", out)
	}
	r := w.lx("--as-user", "sh", "-c", "id -u; id -g; touch mine && stat -c %u mine; mount -t tmpfs x /mnt 2>/dev/null && echo mounts")
	want := fmt.Sprintf("%d\n%d\n%d\n", runAs.uid, runAs.gid, runAs.uid)
	if runAs.uid != 0 && r.out != want {
		t.Errorf("as user: want %q, got %v", want, r)
	}
	st, err := os.Stat(w.path("home/mine"))
	if err != nil {
		t.Fatal(err)
	}
	if uid := int(st.Sys().(*syscall.Stat_t).Uid); uid != runAs.uid {
		t.Errorf("a file made inside belongs to %d outside", uid)
	}
}

func TestJoin(t *testing.T) {
	w := newWorld(t)
	dir := w.mkdir("shared")
	first := w.startOpen("sh", "-ec", "mount -t tmpfs none "+dir+"; echo content > "+dir+"/file; echo mounted; cat")
	first.says("mounted")
	if out := w.must("cat " + dir + "/file; echo $LX_ENVIRONMENT; readlink /proc/self/ns/mnt"); !strings.HasPrefix(out, "content\nhost\n") {
		t.Errorf("a second console sees %q", out)
	}
	r := w.lx("--new", "sh", "-c", "ls "+dir+"; echo $LX_ENVIRONMENT")
	if r.code != 0 || r.out != "host-2\n" {
		t.Errorf("another environment: %v", r)
	}
	if names, err := os.ReadDir(dir); err != nil || len(names) > 0 {
		t.Errorf("the host sees a mount of the environment: %v, %v", names, err)
	}
	if r := w.lx("--io-uring", "true"); r.code != 2 || !strings.Contains(r.err, "--io-uring") {
		t.Errorf("a start option with a running environment: %v", r)
	}
	first.in.Close()
	first.wait(5 * time.Second)
}

func TestStop(t *testing.T) {
	w := newWorld(t)
	p := w.start("sh", "-c", "echo ready; exec sleep 1000")
	p.says("ready")
	keeper := tree(t, w.keeper())
	if r := w.lx("stop"); r.code != 0 {
		t.Fatal(r)
	}
	if r := p.wait(5 * time.Second); r.code != 128+15 {
		t.Errorf("a stopped session: %v", r)
	}
	w.nothingLeft(keeper)
	if r := w.lx("stop"); r.code != 0 {
		t.Errorf("nothing to stop: %v", r)
	}
	// What does not follow SIGTERM is killed.
	p = w.start("sh", "-c", "trap '' TERM; echo ready; while :; do sleep 1000; done")
	p.says("ready")
	if r := w.within(20*time.Second, "stop"); r.code != 0 {
		t.Error(r)
	}
	p.wait(5 * time.Second)
}

func TestManyAtOnceStartOne(t *testing.T) {
	w := newWorld(t)
	var all []*running
	for range 10 {
		all = append(all, w.startOpen("sh", "-c", "readlink /proc/self/ns/pid; cat"))
	}
	for _, p := range all {
		p.says("pid:[")
	}
	for _, p := range all {
		p.in.Close()
		if r := p.wait(bound); r.code != 0 || r.out != all[0].out.String() {
			t.Errorf("not one environment: %q, %v", all[0].out.String(), r)
		}
	}
	for range 3 {
		var all []*running
		for range 10 {
			all = append(all, w.start("true"))
		}
		for _, p := range all {
			if r := p.wait(bound); r.code != 0 {
				t.Error(r)
			}
		}
	}
}

func TestEndsWithLastProcess(t *testing.T) {
	w := newWorld(t)
	ended := func() error {
		if s := w.sockets(); len(s) > 0 {
			return fmt.Errorf("the environment runs on: %v", s)
		}
		return nil
	}
	w.must("true")
	eventually(t, 5*time.Second, ended)

	w.must("setsid sleep 1000 </dev/null >/dev/null 2>&1 &")
	ns := w.must("readlink /proc/self/ns/pid")
	if out := w.must("readlink /proc/self/ns/pid; pgrep -x sleep | wc -l"); out != ns+"\n1" {
		t.Errorf("a daemon does not keep the environment: %q, then %q", ns, out)
	}
	w.must("pkill -x sleep")
	eventually(t, 5*time.Second, ended)
}

// TestSingleID: where only root exists inside, installers and archivers work
// as if the other owners existed.
func TestSingleID(t *testing.T) {
	w := newWorld(t)
	hold := w.startOpen("--map", "single", "sh", "-c", "echo up; cat")
	hold.says("up")
	single := func(script string) result {
		t.Helper()
		return w.lx("bash", "-ec", script)
	}
	for name, c := range map[string]struct{ script, want string }{
		"chown":     {"touch a; chown 12:34 a; chown daemon a; chgrp daemon a; stat -c %u:%g a", "0:0\n"},
		"lchown":    {"ln -s x l; chown -h 12:34 l; stat -c %u:%g l", "0:0\n"},
		"fchown":    {"mkdir -p d/e; chown -R 5:6 d; stat -c %u:%g d/e", "0:0\n"},
		"install":   {"echo x > i; install -o daemon -g daemon -m 4755 i j; stat -c '%a %u' j", "4755 0\n"},
		"mknod":     {"mknod n c 1 3; mknod -m 600 b b 8 0; test -e n -a -e b", ""},
		"fifo":      {"mkfifo f; test -p f", ""},
		"setgroups": {"setpriv --clear-groups --reuid 0 --regid 0 id -u", "0\n"},
		"setuid":    {"setpriv --reuid 77 --regid 77 --clear-groups id -u", "0\n"},
		"tar": {`mkdir t; echo one > t/one; tar cf t.tar --owner=nobody:65534 --group=tty:5 t; rm -r t
			tar xpf t.tar --same-owner; cat t/one; stat -c %u:%g t/one`, "one\n0:0\n"},
		"cp -a":     {"mkdir c; echo y > c/y; chmod 640 c/y; cp -a c c2; stat -c '%a %u' c2/y", "640 0\n"},
		"refusal":   {"chown 1:1 missing 2>&1 || echo refused", "chown: cannot access 'missing': No such file or directory\nrefused\n"},
		"inner ids": {"unshare --map-user=7 setpriv --reuid 77 id -u", "7\n"},
		"inner":     {"unshare -U chown 5:5 a 2>/dev/null || echo 'the kernel knows other maps'", "the kernel knows other maps\n"},
	} {
		if name == "inner" {
			c.script = "touch a; " + c.script
		}
		if r := single("rm -rf w; mkdir w; cd w; " + c.script); r.code != 0 || r.out != c.want {
			t.Errorf("%s: want %q, got %v", name, c.want, r)
		}
	}
	if _, err := os.Stat("/usr/bin/sudo"); err == nil {
		if r := single("sudo -n id -u; ! sudo -n -u nobody true"); r.code != 0 || r.out != "0\n" {
			t.Errorf("sudo: %v", r)
		}
	}
}

// TestOwnersOfUserFiles: ssh and git refuse files that belong to somebody else.
func TestOwnersOfUserFiles(t *testing.T) {
	w := newWorld(t)
	if err := os.Chmod(w.mkdir("home/.ssh"), 0o700); err != nil {
		t.Fatal(err)
	}
	w.write("home/.ssh/config", "Host alias\n\tHostName real.example\n")
	hold := w.startOpen("--map", "single", "sh", "-c", "echo up; cat")
	hold.says("up")
	if out := w.must("ssh -G alias | grep ^hostname"); out != "hostname real.example" {
		t.Errorf("ssh: %q", out)
	}
	w.must(`git init -q repo && cd repo && git config user.name me && git config user.email me@example.org &&
		echo x > x && git add x && git commit -qm first && git status --porcelain && git log --oneline | wc -l`)
	r := w.lx("--as-user", "git", "-C", "repo", "log", "--format=%s")
	if r.code != 0 || r.out != "first\n" {
		t.Errorf("git as the user: %v", r)
	}
}

func TestNested(t *testing.T) {
	w := newWorld(t)
	r := w.sh("cp " + lxPath + " own; ./own sh -c 'id -u; exit 9'; echo $?; ./own ./own sh -c 'exit 8'; echo $?")
	if r.out != "0\n9\n8\n" || r.code != 0 {
		t.Error(r)
	}
}

// TestRuntimeDirectoryOpenToOthers: another place is found, and that one is checked.
func TestRuntimeDirectoryOpenToOthers(t *testing.T) {
	w := newWorld(t)
	if err := os.Chmod(w.path("run"), 0o755); err != nil {
		t.Fatal(err)
	}
	w.env = append(w.env, "TMPDIR="+w.mkdir("tmp"))
	if r := w.lx("true"); r.code != 0 {
		t.Error(r)
	}
	dir := filepath.Join(w.path("tmp"), "lx-"+strconv.Itoa(runAs.uid))
	st, err := os.Stat(dir)
	if err != nil {
		t.Fatal(err)
	}
	if st.Mode().Perm() != 0o700 {
		t.Errorf("%s has mode %v", dir, st.Mode())
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if r := w.lx("true"); r.code != 125 || !strings.Contains(r.err, "open to others") {
		t.Errorf("an own directory open to others: %v", r)
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if r := w.lx("stop"); r.code != 0 {
		t.Error(r)
	}
}
