package integration

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lxbridge/lx/integration/smbtest"
)

// TestImportedIsConfined: root of an imported environment tries to reach the host.
func TestImportedIsConfined(t *testing.T) {
	w := newWorld(t)
	w.ok("import", "small", w.rootTar())
	w.ok("import", "other", w.path("root.tar"))
	hold := w.startOpen("-d", "other", "sh", "-c", "echo up; exec cat")
	hold.says("up")
	secret := w.write("home/secret", "the host's\n")
	// A directory that the shell has open stays the shell's.
	dir, err := os.Open(w.path("home"))
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	first := w.command(context.Background(), "-d", "small", "sh", "-c", "ls -l /proc/self/fd /proc/1/fd; cat /proc/self/fd/9/secret /proc/1/fd/9/secret; echo up; exec cat")
	first.Path, first.Args = "/bin/sh", []string{"sh", "-c", `exec "$0" "$@" 9<` + w.path("home"), lxPath, "-d", "small", "sh", "-c",
		"ls -l /proc/self/fd /proc/1/fd; cat /proc/self/fd/9/secret /proc/1/fd/9/secret; echo up; exec cat"}
	first.Env = append(first.Env, "SECRET_OF_THE_HOST=x")
	in, err := first.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	session := w.startCommand(first)
	session.says("up")
	if out := session.out.String(); strings.Contains(out, w.dir) || strings.Contains(out, "the host's") {
		t.Errorf("open files of the host came in:\n%s", out)
	}
	for name, script := range map[string]string{
		"a file of the user":        "cat " + secret + " /proc/1/root" + secret + " /proc/1/cwd" + secret,
		"variables of the shell":    "tr '\\0' '\\n' </proc/1/environ | grep SECRET_OF_THE_HOST",
		"the runtime directory":     "ls " + w.path("run/lx"),
		"sockets":                   "find / -xdev -type s | grep . ; ls /run/user/* /run/dbus /tmp/.X11-unix",
		"the other's processes":     "ps | grep -v grep | grep other",
		"the other's files":         "find / -xdev -name other | grep .",
		"keeper and broker":         "ps | grep -v grep | grep -E 'lx-(keeper|broker|daemon)'",
		"disks":                     "ls /dev | grep -E '^(sd|vd|nvme|mem|kmem|kvm|loop)'",
		"a disk made here":          "mknod /tmp/disk b 254 0 && head -c 512 /tmp/disk | grep .",
		"kernel settings":           "echo '|/bin/sh' >/proc/sys/kernel/core_pattern",
		"sysrq":                     "echo h >/proc/sysrq-trigger",
		"sysfs":                     "mount -o remount,rw /sys && touch /sys/x; mount -t sysfs none /mnt && echo x >/mnt/power/state",
		"control groups":            "for d in /sys/fs/cgroup /sys/fs/fuse/connections; do mount -o remount,bind,rw $d; umount $d; umount -l $d; mount --rbind /sys /mnt; umount -l /mnt/${d#/sys}; find $d /mnt/${d#/sys} -mindepth 1; done | grep .",
		"the host's root":           "umount -l / ; ls /home /work" + w.dir,
		"below a mount":             "umount /etc/hosts && echo; umount -l /proc; umount -l /dev; ls /proc/1/root" + w.dir,
		"a parent namespace":        "nsenter -t 1 -m ls " + w.dir,
		"the host through a chroot": "mkdir -p /c; chroot /c /bin/sh -c true; cd /..; ls home" + w.dir,
		"kernel memory":             "head -c 1 /proc/kcore",
		"the kernel's log":          "dmesg | grep .",
		"a module":                  "insmod /bin/busybox",
		"the host's name":           "hostname taken; false",
	} {
		if r := w.lx("-d", "small", "unshare", "-m", "sh", "-c", script); r.code == 0 || strings.Contains(r.out, "the host's") {
			t.Errorf("%s: %v", name, r)
		}
	}
	if name, err := os.Hostname(); err != nil || name == "taken" {
		t.Errorf("the host's name: %s, %v", name, err)
	}
	same(t, "own name", w.ok("-d", "other", "hostname"), "other")
	in.Close()
	session.wait(bound)
	hold.in.Close()
	hold.wait(bound)
}

// TestAsRootOtherUsers: the daemon and the environments are the user's alone.
func TestAsRootOtherUsers(t *testing.T) {
	needRoot(t, "be two users")
	w := newWorld(t)
	w.ok("import", "small", w.rootTar())
	hold := w.startOpen("-d", "small", "sh", "-c", "echo up; exec cat")
	hold.says("up")
	as := func(uid, socket string) string {
		t.Helper()
		cmd := exec.Command("setpriv", "--reuid", uid, "--regid", uid, "--clear-groups", helperPath, socket)
		cmd.Env = append(os.Environ(), helperVar+"=speak")
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		return strings.TrimSpace(string(out))
	}
	// Even where directories and sockets are open to all, who listens refuses.
	for _, path := range []string{"", "run", "run/lx", "run/lx/daemon.sock", "run/lx/small.sock"} {
		if err := os.Chmod(w.path(path), 0o777); err != nil {
			t.Fatal(err)
		}
	}
	for _, socket := range []string{"daemon.sock", "small.sock"} {
		same(t, socket, as("65534", w.path("run/lx/"+socket)), "nothing")
	}
	if got := as(fmt.Sprint(runAs.uid), w.path("run/lx/daemon.sock")); !strings.Contains(got, "200 OK") {
		t.Errorf("the user is told %q", got)
	}
	for _, path := range []string{"run/lx", "run", ""} {
		if err := os.Chmod(w.path(path), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	hold.in.Close()
	hold.wait(bound)
}

// TestMountsInside: network file systems in an imported environment, by hand
// and of its own fstab at the start.
func TestMountsInside(t *testing.T) {
	w := newWorld(t)
	s := w.share(smbtest.Options{})
	s.put("hello", "hello\n")
	w.ok("import", "small", w.rootTar())
	w.ok("copy", s.credentials, "small:/root/credentials")
	options := fmt.Sprintf("port=%d,credentials=/root/credentials", s.Port)
	same(t, "by hand", w.ok("-d", "small", "sh", "-c", fmt.Sprintf("mount -t cifs %s /mnt -o %s && cat /mnt/hello && umount /mnt", s.source(smbtest.Data, ""), options)), "hello")
	w.ok("-d", "small", "sh", "-c", fmt.Sprintf("echo '%s /mnt cifs %s 0 0' >/etc/fstab", s.source(smbtest.Data, ""), options))
	w.ok("stop", "small")
	same(t, "of fstab", w.ok("-d", "small", "cat", "/mnt/hello"), "hello")
	if out := w.ok("mounts", "-d", "small"); !strings.Contains(out, "/mnt") {
		t.Errorf("lx mounts: %s", out)
	}
	w.ok("stop", "small")
	// A server that is not there keeps nobody out for long.
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	if r := w.within(40*time.Second, "-d", "small", "echo", "up"); r.code != 0 {
		t.Error(r)
	}
}

// TestWanted: what is wanted runs after a reboot, and after a crash.
func TestWanted(t *testing.T) {
	w := newWorld(t)
	w.ok("import", "small", w.rootTar())
	record := w.path("home/.local/share/lx/environments/small/record.json")
	b, err := os.ReadFile(record)
	if err != nil {
		t.Fatal(err)
	}
	w.ok("daemon", "stop")
	if err := os.WriteFile(record, []byte(strings.Replace(string(b), "{", `{ "wanted": true,`, 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	keeper := func(not int) (pid int) {
		t.Helper()
		eventually(t, bound, func() error {
			if pid, err = listener(w.path("run/lx/small.sock")); err == nil && pid == not {
				err = fmt.Errorf("the keeper is still %d", pid)
			}
			return err
		})
		return pid
	}
	w.ok("daemon", "start")
	first := keeper(0)
	// It stays while somebody is in it.
	hold := w.startOpen("-d", "small", "sh", "-c", "echo up; exec cat")
	hold.says("up")
	if err := unix.Kill(first, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	hold.wait(bound)
	second := keeper(first)
	// A reboot: all processes are gone, the runtime directory too.
	hold = w.startOpen("-d", "small", "sh", "-c", "echo up; exec cat")
	hold.says("up")
	daemon, err := listener(w.path("run/lx/daemon.sock"))
	if err != nil {
		t.Fatal(err)
	}
	for _, pid := range []int{daemon, second} {
		if err := unix.Kill(pid, unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	hold.wait(bound)
	if err := os.RemoveAll(w.path("run/lx")); err != nil {
		t.Fatal(err)
	}
	w.ok("daemon", "start")
	keeper(second)
}

// TestUserManager: where systemd runs for the user, the daemon is started by it
// and starts the environments, which a logout would end else. A script plays
// systemd-run.
func TestUserManager(t *testing.T) {
	w := newWorld(t)
	w.mkdir("run/systemd")
	l, err := net.Listen("unix", w.path("run/systemd/private"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	w.mkdir("bin")
	script := w.write("bin/systemd-run", `#!/bin/sh
echo "$@" >>"$HOME/asked"
while [ "$1" != -- ]; do
	case $1 in --setenv=*) export "${1#--setenv=}" ;; esac
	shift
done
shift
setsid "$@" >/dev/null 2>&1 </dev/null &
until [ -S "$LX_RUNTIME_DIR/daemon.sock" ]; do sleep 0.02; done
`)
	if err := os.Chmod(script, 0o755); err != nil {
		t.Fatal(err)
	}
	w.env = append(w.env, "PATH="+w.path("bin")+":/usr/sbin:/usr/bin:/sbin:/bin")
	same(t, "a command", w.ok("echo", "hello"), "hello")
	asked, err := os.ReadFile(w.path("home/asked"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"--user", "--property=KillMode=process", "--property=Type=notify", "--setenv=" + "LX_RUNTIME_DIR=" + w.path("run/lx"), "daemon start --foreground"} {
		if !strings.Contains(string(asked), want) {
			t.Errorf("systemd-run was not asked for %q: %s", want, asked)
		}
	}
	hold := w.startOpen("sh", "-c", "echo up; exec cat")
	hold.says("up")
	daemon, err := listener(w.path("run/lx/daemon.sock"))
	if err != nil {
		t.Fatal(err)
	}
	keeper, ok := readProcess(w.keeper())
	if !ok || keeper.parent != daemon {
		t.Errorf("the keeper's parent is %d, the daemon is %d", keeper.parent, daemon)
	}
	hold.in.Close()
	hold.wait(bound)
}

// TestManyAtOnce: twenty environments of one archive start together.
func TestManyAtOnce(t *testing.T) {
	w := newWorld(t)
	const n = 20
	w.ok("import", "e0", w.rootTar())
	if err := os.Mkdir(w.path("unpacked"), 0o755); err != nil {
		t.Fatal(err)
	}
	w.give(w.path("unpacked"))
	var wg sync.WaitGroup
	for i := 1; i < n; i++ {
		wg.Go(func() { w.ok("import", fmt.Sprint("e", i), w.path("root.tar")) })
	}
	wg.Wait()
	var holds []*running
	for i := range n {
		holds = append(holds, w.startOpen("-d", fmt.Sprint("e", i), "sh", "-c", "echo up $(hostname); exec cat"))
	}
	for i, h := range holds {
		h.says(fmt.Sprintf("up e%d", i))
	}
	if out := w.ok("list"); strings.Count(out, "running") != n {
		t.Errorf("list: %s", out)
	}
	for _, h := range holds {
		h.in.Close()
		h.wait(bound)
	}
	left, err := filepath.Glob(w.path("home/.local/share/lx/tmp/*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

// TestHostFiles: an environment sees of the host what the user says, and never
// /proc, /sys, /dev, /run and lx's own.
func TestHostFiles(t *testing.T) {
	w := newWorld(t)
	w.ok("import", "small", w.rootTar())
	w.write("home/secret", "the host's\n")
	for _, d := range []string{"home/.config", "home/.config/lx"} {
		w.mkdir(d)
	}
	readable := w.mkdir("open")
	if err := errors.Join(os.WriteFile(filepath.Join(readable, "file"), []byte("open\n"), 0o644), os.Chmod(w.dir, 0o755)); err != nil {
		t.Fatal(err)
	}
	for host, seen := range map[string]map[string]bool{
		"":     {"ls -A /host | grep .": false},
		"home": {"cat /host/secret": runAs.uid != 0, "touch /host/new": runAs.uid != 0, "ls /host/usr": false},
		"ro":   {"cat /host" + readable + "/file": true, "touch /host" + readable + "/new": false, "mount -o remount,rw /host": false},
		"rw":   {"cat /host" + readable + "/file": true, "touch /host" + readable + "/new": runAs.uid != 0},
	} {
		w.write("home/.config/lx/config.toml", map[bool]string{true: "", false: "[environment.small]\nhost = \"" + host + "\"\n"}[host == ""])
		for script, want := range seen {
			if r := w.lx("-d", "small", "sh", "-c", script); (r.code == 0) != want {
				t.Errorf("host = %q: %s: %v", host, script, r)
			}
		}
		for _, dir := range []string{"/proc", "/sys", "/dev", "/run", w.path("run/lx"), w.path("state/lx"), w.path("home/.local/share/lx"), w.path("home/.config/lx")} {
			at := "/host" + dir
			if host == "home" {
				at = "/host" + strings.TrimPrefix(dir, w.path("home"))
			}
			if r := w.lx("-d", "small", "sh", "-c", "umount "+at+" 2>/dev/null; ls -A "+at+" 2>/dev/null | grep ."); r.code == 0 {
				t.Errorf("host = %q: %s shows: %s", host, dir, r.out)
			}
		}
		w.ok("stop", "small")
	}
	w.write("home/.config/lx/config.toml", "[environment.small]\nhost = \"all\"\n")
	w.refused(`"home"`, "-d", "small", "true")
}
