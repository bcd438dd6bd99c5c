package integration

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lxbridge/lx/integration/smbtest"
)

// TestSecretsStaySecret: a password shows nowhere, inside or outside.
func TestSecretsStaySecret(t *testing.T) {
	w := newWorld(t)
	w.env = append(w.env, "GOTRACEBACK=crash")
	const secret = "Z9secret8word7"
	s := w.share(smbtest.Options{Password: secret})
	s.put("hello", "hello\n")
	// lx may dump core, if it were to.
	begin := w.command(context.Background(), "cat")
	begin.Path, begin.Args = "/bin/sh", []string{"sh", "-c", "ulimit -c unlimited; exec " + lxPath + " sh -c 'echo up; cat'"}
	in, err := begin.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	hold := w.startCommand(begin)
	hold.says("up")
	a, b, c := w.mkdir("a"), w.mkdir("b"), w.mkdir("c")
	plain := fmt.Sprintf("port=%d,username=%s,password=%s", s.Port, s.User, secret)
	w.must(fmt.Sprintf("mount -i -t cifs %s %s -o %s", s.source("data", ""), a, plain))
	w.must(fmt.Sprintf("%s -i -t cifs %s %s -o %s", newMount(t), s.source("data", ""), b, plain))
	w.must(s.command(c))
	for _, o := range []string{plain + "wrong", plain + ",frobnicate", plain + ",port=no"} {
		if r := w.sh(fmt.Sprintf("mount -i -t cifs %s %s -o %s", s.source("data", ""), a, o)); strings.Contains(r.err, secret) {
			t.Errorf("an error shows it: %v", r)
		}
	}
	if r := w.sh(newMount(t) + " -o remount,ro,password=" + secret + " " + b); strings.Contains(r.err, secret) {
		t.Errorf("an error shows it: %v", r)
	}
	outputs := map[string]string{
		"mount tables":         w.must("cat /proc/self/mountinfo /proc/mounts; mount; findmnt; cat /etc/mtab"),
		"lx mounts":            w.lx("mounts").out,
		"lx mounts --json":     w.lx("mounts", "--json").out,
		"arguments inside":     w.must("cat /proc/[0-9]*/cmdline | tr '\\0' ' '"),
		"environments inside":  w.must("cat /proc/[0-9]*/environ 2>/dev/null | tr '\\0' ' ' || true"),
		"mount's own data":     w.must("ls -laR /run/mount 2>/dev/null; cat /run/mount/utab 2>/dev/null || true"),
		"extended attributes":  w.must("getfattr -d -m - " + a + " 2>/dev/null || true"),
		"lx mounts after fail": w.lx("mounts").out,
	}
	for _, p := range tree(t, w.keeper()) {
		environ, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", p.pid))
		if err != nil && os.Geteuid() == 0 && p.alive() {
			t.Fatal(err)
		}
		outputs[fmt.Sprintf("process %d outside", p.pid)] = cmdline(p.pid) + string(environ)
	}
	// What a broker says when it breaks down, with everything that Go can say.
	old := w.broker()
	if err := unix.Kill(old, unix.SIGQUIT); err != nil {
		t.Fatal(err)
	}
	w.restarted(old)
	w.must("true")
	outputs["lx log"] = w.lx("log").out
	if strings.Contains(outputs["lx log"], "core dumped") {
		t.Error("the broker dumped core")
	}
	if !strings.Contains(outputs["lx log"], "goroutine") {
		t.Errorf("the broker did not break down as it should for this test:\n%s", tail(w.log(), 20))
	}
	err = filepath.Walk(w.path("state"), func(path string, st os.FileInfo, err error) error {
		if err == nil && st.Mode().IsRegular() {
			if st.Mode().Perm()&0o077 != 0 {
				t.Errorf("%s is open to others: %v", path, st.Mode())
			}
			b, rerr := os.ReadFile(path)
			outputs[path], err = string(b), rerr
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	for name, text := range outputs {
		if strings.Contains(text, secret) {
			t.Errorf("%s: the password shows", name)
		}
	}
	in.Close()
	hold.wait(bound)
}

// TestBrokerIsOutOfReach: what guest root can try against keeper, broker and
// init leads nowhere.
func TestBrokerIsOutOfReach(t *testing.T) {
	w := newWorld(t)
	s := w.share(smbtest.Options{})
	s.put("hello", "hello\n")
	dir := s.mount()
	keeper, broker := w.keeper(), w.broker()
	probe := fmt.Sprintf("%s %d %d %s", helper("probe"), keeper, broker, w.path("run/lx"))
	for name, script := range map[string]string{
		"as it is":         probe,
		"without /proc":    "umount /proc; " + probe,
		"all unmounted":    "umount -l /proc; umount -l /proc; " + probe,
		"proc mounted":     "mkdir -p ~/proc; mount -t proc proc ~/proc && cd ~/proc; " + probe,
		"bound":            "mkdir -p ~/b; mount --rbind / ~/b; umount -l ~/b/proc; umount -l ~/b" + w.path("run/lx") + "; " + probe + " ~/b",
		"bound, one level": "mkdir -p ~/c; mount --bind / ~/c; mount --bind " + w.path("run") + " ~/c/mnt; " + probe + " ~/c",
		"nested":           "exec unshare -U -r -m -p -f --mount-proc sh -c '" + probe + "'",
	} {
		r := w.sh("exec unshare -m sh -c \"" + strings.ReplaceAll(script, `"`, `\"`) + "\" 2>&1")
		if r.code != 0 || !strings.Contains(r.out, "nothing within reach") {
			t.Errorf("%s: %v", name, r)
		}
	}
	// The same without a mount namespace of one's own; nothing of it remains.
	r := w.sh(probe)
	if r.code != 0 {
		t.Error(r)
	}
	same(t, "keeper", w.keeper(), keeper)
	same(t, "broker", w.broker(), broker)
	same(t, "the mount", w.must("cat "+dir+"/hello"), "hello")
}

// TestProgramCannotBeChanged: what runs as init, and as every later session,
// is no file that guests can write (CVE-2019-5736).
func TestProgramCannotBeChanged(t *testing.T) {
	w := newWorld(t)
	before, err := os.ReadFile(lxPath)
	if err != nil {
		t.Fatal(err)
	}
	r := w.sh(helper("overwrite") + " /proc/1/exe")
	if r.code != 0 {
		t.Errorf("writing to init's program: %v", r)
	}
	after, err := os.ReadFile(lxPath)
	if err != nil {
		t.Fatal(err)
	}
	if string(before) != string(after) {
		t.Error("the program on the disk has changed")
	}
	w.must("true")
}

// TestKeeperTakesNothingFromInit: guest root may take init over and say what
// it wants to the keeper; the host does not suffer, and lx goes on.
func TestKeeperTakesNothingFromInit(t *testing.T) {
	w := newWorld(t)
	hold := w.hold()
	r := w.sh(helper("impersonate"))
	if r.code != 0 && !strings.Contains(r.err, "environment ended") {
		t.Error(r)
	}
	if log := w.log(); strings.Contains(log, "panic") || strings.Contains(log, "goroutine ") {
		t.Errorf("the keeper broke down:\n%s", tail(log, 40))
	}
	hold.in.Close()
	hold.wait(bound)
	w.must("true")
}

// TestCredentialsOfOthers: the broker reads files as the caller does.
func TestCredentialsOfOthers(t *testing.T) {
	w := newWorld(t)
	s := w.share(smbtest.Options{})
	dir := w.mkdir("mnt")
	try := func(file string) result {
		t.Helper()
		return w.within(20*time.Second, "sh", "-c", fmt.Sprintf("mount -i -t cifs %s %s -o port=%d,credentials=%s", s.source("data", ""), dir, s.Port, file))
	}
	hold := w.hold()
	for name, file := range map[string]string{"a directory": w.dir, "a device": "/dev/zero", "missing": "/no/such/file", "too large": lxPath} {
		if r := try(file); r.code != 32 || r.took > 3*time.Second || !strings.Contains(r.err, "credentials") {
			t.Errorf("%s: %v", name, r)
		}
	}
	w.must("mkfifo fifo")
	if r := try(w.path("home/fifo")); r.code != 32 || r.took > 3*time.Second {
		t.Errorf("a fifo: %v", r)
	}
	if runAs.uid != 0 {
		w.must("ln -s /etc/shadow link")
		for _, file := range []string{"/etc/shadow", w.path("home/link")} {
			if r := try(file); r.code != 32 || !strings.Contains(r.err, "ermission denied") || strings.Contains(r.err, "root:") {
				t.Errorf("a file that only root may read: %v", r)
			}
		}
		if os.Geteuid() == 0 {
			own := filepath.Join(s.Dir, "for-root")
			if err := os.WriteFile(own, []byte("username="+s.User+"\npassword="+s.Password+"\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			if r := try(own); r.code != 32 || !strings.Contains(r.err, "ermission denied") {
				t.Errorf("a file that only root may read: %v", r)
			}
		}
	}
	// A file that only the guest sees.
	w.must("mount -t tmpfs none /mnt; cp " + s.credentials + " /mnt/inside; mount -i -t cifs " + fmt.Sprintf("%s %s -o port=%d,credentials=/mnt/inside", s.source("data", ""), dir, s.Port) + "; umount " + dir + " /mnt")
	// In another root it is the file there.
	if r := w.sh("mkdir -p root/bin; unshare -m sh -ec 'mount --rbind / root; mount -t tmpfs none root/tmp; mkdir -p root" + dir + "; chroot root mount -i -t cifs " + s.source("data", "") + " " + dir + " -o " + s.options() + "'"); r.code == 0 || !strings.Contains(r.err, "credentials") {
		t.Errorf("a file outside of the caller's root was read: %v", r)
	}
	hold.in.Close()
}

// TestNoNetwork: a mount reaches what its caller reaches.
func TestNoNetwork(t *testing.T) {
	w := newWorld(t)
	s := w.share(smbtest.Options{})
	dir := w.mkdir("mnt")
	for name, mount := range mounts(t) {
		r := w.sh("exec unshare -n sh -c '" + strings.Replace(s.command(dir), "mount", mount, 1) + "'")
		if r.code == 0 || r.took > 5*time.Second || r.err == "" {
			t.Errorf("%s: %v", name, r)
		}
		if mount == "mount -i" && !strings.Contains(r.err, "unreachable") {
			t.Errorf("%s says no reason: %v", name, r)
		}
	}
	if c := connections(t, s.Port); len(c) > 0 {
		t.Errorf("connections: %v", c)
	}
	// With the network of another namespace the server there is reached.
	w.must("unshare -n sh -ec 'ip link set lo up 2>/dev/null; ! " + s.command(dir) + " 2>/dev/null'")
}

// TestNothingIsInjected: each value travels alone.
func TestNothingIsInjected(t *testing.T) {
	w := newWorld(t)
	s := w.share(smbtest.Options{}) // its password has blanks, a comma and =
	s.put("hello", "hello\n")
	dir := w.mkdir("mnt")
	mount := func(options ...string) result {
		t.Helper()
		all := append([]string{"source=" + s.source("data", ""), fmt.Sprintf("port=%d", s.Port)}, options...)
		for i := range all {
			all[i] = "'" + all[i] + "'"
		}
		return w.sh(helper("fsconfig") + " " + dir + " " + strings.Join(all, " ") + " && findmnt -nr -o OPTIONS --mountpoint " + dir + " && touch " + dir + "/x && umount " + dir)
	}
	hold := w.hold()
	r := mount("username="+s.User, "password="+s.Password)
	if r.code != 0 || !strings.HasPrefix(r.out, "rw,") {
		t.Errorf("a password with commas: %v", r)
	}
	for name, options := range map[string][]string{
		"user":        {"username=" + s.User + ",ro\nro", "password=" + s.Password},
		"password":    {"username=" + s.User, "password=" + s.Password + ",guest\nguest"},
		"domain":      {"username=nobody", "password=x", "domain=D,username=" + s.User + ",password=" + s.Password},
		"credentials": {"credentials=" + s.credentials + ",ro"},
		"source":      {"source=//127.0.0.1/data,ro\nfd=0", "username=" + s.User, "password=" + s.Password},
		"name":        {"ro,username=" + s.User, "password=" + s.Password},
		"escape":      {"username=" + s.User, "password=x\npassword=" + s.Password},
	} {
		if r := mount(options...); r.code == 0 {
			t.Errorf("%s: a value was taken apart: %v", name, r)
		}
	}
	same(t, "mounts", w.mounted(), 0)
	hold.in.Close()
}

// TestHungMemory: a string or an address in memory that nobody delivers freezes
// no other process's calls.
func TestHungMemory(t *testing.T) {
	w := newWorld(t)
	s := w.share(smbtest.Options{})
	s.put("hello", "hello\n")
	for i := range 8 {
		s.put(fmt.Sprintf("hung%d", i), strings.Repeat("x", 8192))
	}
	dir := s.mount("hard")
	w.must("stat " + dir + "/hung*")
	var waits []*running
	for i, call := range []string{"mount", "mount", "fsopen", "fsconfig", "umount", "bind", "fspick", "bind"} {
		p := w.startOpen("sh", "-c", helper("hang")+fmt.Sprintf(" %s %s/hung%d", call, dir, i))
		p.says("mapped")
		waits = append(waits, p)
	}
	if err := s.Pause(); err != nil {
		t.Fatal(err)
	}
	for _, p := range waits {
		if _, err := p.in.WriteString("go\n"); err != nil {
			t.Fatal(err)
		}
		p.says("calling")
	}
	r := w.within(30*time.Second, "sh", "-c", helper("latency")+" 200")
	if r.code != 0 {
		t.Errorf("others' calls: %v", r)
	}
	t.Logf("others' calls: %s", r.out)
	if err := s.Resume(); err != nil {
		t.Fatal(err)
	}
	for _, p := range waits {
		p.wait(30 * time.Second)
	}
}
