package integration

import (
	"archive/tar"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// delegatedGroup is a control group of version 2 that is the user's, until the
// test's end. Worlds are made after it, for what they leave is in it.
func delegatedGroup(t testing.TB) *os.File {
	t.Helper()
	root := "/sys/fs/cgroup"
	var st unix.Statfs_t
	if err := unix.Statfs(root, &st); err != nil || st.Type != unix.CGROUP2_SUPER_MAGIC {
		root = filepath.Join(root, "unified")
	}
	dir, err := os.MkdirTemp(root, "test-lx-")
	if err != nil {
		t.Fatalf("cannot make a control group of version 2: %v", err)
	}
	t.Cleanup(func() {
		var dirs []string
		err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
			if err == nil && e.IsDir() {
				dirs = append(dirs, path)
			}
			return err
		})
		for i := len(dirs) - 1; i >= 0; i-- {
			err = errors.Join(err, unix.Rmdir(dirs[i]))
		}
		if err != nil {
			t.Errorf("control groups are left: %v", err)
		}
	})
	for _, file := range []string{".", "cgroup.procs", "cgroup.subtree_control", "cgroup.threads"} {
		if err := os.Chown(filepath.Join(dir, file), runAs.uid, runAs.gid); err != nil {
			t.Fatal(err)
		}
	}
	f, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// configure writes the user's config.toml.
func (w *world) configure(text string) {
	w.t.Helper()
	for _, d := range []string{"home/.config", "home/.config/lx"} {
		if _, err := os.Stat(w.path(d)); err != nil {
			w.mkdir(d)
		}
	}
	w.write("home/.config/lx/config.toml", text)
}

// TestOwnInit: an environment's own init is its first process, whatever becomes of
// lx's, and its shutdown and reboot are the environment's. BusyBox's needs no more
// than OpenRC's.
func TestOwnInit(t *testing.T) {
	w := newWorld(t)
	w.ok("import", "small", w.rootTar())
	w.configure("[environment.small]\ninit = \"openrc\"\n")
	w.refused("the environment has no /sbin/init", "-d", "small", "true")
	w.ok("remove", "small")
	w.ok("import", "small", w.rootTar(tar.Header{Name: "sbin/", Typeflag: tar.TypeDir, Mode: 0o755},
		tar.Header{Name: "sbin/init", Typeflag: tar.TypeSymlink, Linkname: "../bin/busybox"},
		tar.Header{Name: "sbin/poweroff", Typeflag: tar.TypeSymlink, Linkname: "../bin/busybox"}))
	w.configure("")
	port := freePort(t)
	w.ok("-d", "small", "sh", "-c", fmt.Sprintf(`printf '::sysinit:/bin/sh -c "echo boot >>/root/log"\n::respawn:/bin/httpd -f -p 127.0.0.1:%d -h /root\n::shutdown:/bin/sh -c "echo down >>/root/log"\n' >/etc/inittab`, port))
	w.ok("stop", "small")
	w.configure("[environment.small]\ninit = \"systemd\"\n")
	if runAs.uid == 0 { // whose all control groups are
		w.refused("/sbin/init is /bin/busybox", "-d", "small", "true")
	} else {
		w.refused("is not delegated to the user", "-d", "small", "true")
	}
	w.configure("[environment.small]\ninit = \"openrc\"\n")
	same(t, "the first process", w.ok("-d", "small", "sh", "-c", "readlink /proc/1/exe; cat /proc/1/comm"), "/bin/busybox\ninit")
	serves := func(want string) func() error {
		return func() error {
			text, err := get(fmt.Sprintf("http://127.0.0.1:%d/log", port))
			if err == nil && text != want {
				err = fmt.Errorf("it serves %q", text)
			}
			return err
		}
	}
	eventually(t, bound, serves("boot\n"))
	w.ok("-d", "small", "mount", "-t", "tmpfs", "none", "/mnt")
	w.ok("-d", "small", "reboot")
	eventually(t, bound, serves("boot\ndown\nboot\n"))
	eventually(t, bound, func() error {
		if r := w.lx("-d", "small", "grep", "-c", " /mnt ", "/proc/mounts"); r.out != "0\n" {
			return fmt.Errorf("after a reboot: %v", r)
		}
		return nil
	})
	// All processes are gone, as after the host's reboot.
	for _, name := range []string{"daemon", "small"} {
		pid, err := listener(w.path("run/lx/" + name + ".sock"))
		if err == nil {
			err = unix.Kill(pid, unix.SIGKILL)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	w.ok("daemon", "start")
	eventually(t, bound, serves("boot\ndown\nboot\nboot\n"))
	w.ok("-d", "small", "poweroff")
	eventually(t, bound, func() error {
		if s := w.sockets(); len(s) > 0 {
			return fmt.Errorf("an environment that is switched off stays: %v", s)
		}
		return nil
	})
	w.ok("-d", "small", "true")
	w.ok("stop", "small")
	w.configure("")
	same(t, "what it went through", strings.ReplaceAll(w.ok("-d", "small", "cat", "/root/log"), "\n", " "), "boot down boot boot down boot down")
}

// systemd: the distribution's own init boots, here with one id, starts what is
// enabled, and goes down in order.
func (w *world) systemd(name string) {
	w.t.Helper()
	unit := `[Service]
ExecStart=/bin/sh -c "echo up >>/root/log; exec sleep 100000"
ExecStopPost=/bin/sh -c "echo down >>/root/log"
[Install]
WantedBy=multi-user.target
`
	w.ok("-d", name, "sh", "-ec", "cd /etc/systemd/system; printf %s '"+unit+"' >web.service; ln -s ../web.service multi-user.target.wants/")
	w.ok("stop", name)
	w.configure("[environment." + name + "]\ninit = \"systemd\"\n")
	same(w.t, "the first process", w.ok("-d", name, "cat", "/proc/1/comm"), "systemd")
	same(w.t, "the system", w.ok("-d", name, "systemctl", "is-system-running"), "running")
	same(w.t, "what is enabled", w.ok("-d", name, "systemctl", "is-active", "web"), "active")
	same(w.t, "its control group", w.ok("-d", name, "systemctl", "show", "-P", "ControlGroup", "web"), "/system.slice/web.service")
	w.ok("stop", name)
	w.configure("")
	same(w.t, "what it went through", w.ok("-d", name, "cat", "/root/log"), "up\ndown")
}
