package integration

import (
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/lxbridge/lx/integration/smbtest"
)

// TestMountErrors: mount(8) says why in its own words, exits with 32, and the
// errno is the one that the kernel's cifs gives.
func TestMountErrors(t *testing.T) {
	w := newWorld(t)
	s := w.share(smbtest.Options{})
	s.put("hello", "hello\n")
	hold := w.hold()
	dir, file := w.mkdir("mnt"), w.write("home/file", "")
	refused := freePort(t)
	wrong := w.write("wrong", "username=lx\npassword=not this\n")
	none := w.write("none", "username=lx\n")
	source := s.source("data", "")
	silent := silentServer(t)

	// mount.cifs asks for a password where systemd can.
	const skip = "-"
	type ways struct{ helper, classic, fresh string } // what each must say
	all := func(text string) ways { return ways{text, text, text} }
	for name, c := range map[string]struct {
		source, target, options string
		says                    ways
		errno                   int // as mount.cifs shows it; 0: mount.cifs finds out by itself
		limit                   time.Duration
	}{
		"wrong password":   {source, dir, fmt.Sprintf("port=%d,credentials=%s", s.Port, wrong), ways{"Permission denied", "password is wrong", "password is wrong"}, 13, 5 * time.Second},
		"no password":      {source, dir, fmt.Sprintf("port=%d,credentials=%s", s.Port, none), ways{skip, "no password", "no password"}, 0, 5 * time.Second},
		"unknown share":    {s.source("nothing", ""), dir, s.options(), ways{"No such file or directory", "nothing", "nothing"}, 2, 5 * time.Second},
		"unknown path":     {s.source("data", "no/such/path"), dir, s.options(), ways{"No such file or directory", "no/such/path", "no/such/path"}, 2, 5 * time.Second},
		"path of a file":   {s.source("data", "hello"), dir, s.options(), ways{"", "ot a directory", "ot a directory"}, 0, 5 * time.Second},
		"refused port":     {source, dir, fmt.Sprintf("port=%d,credentials=%s", refused, s.credentials), ways{"error(111)", "refuses connections", "refuses connections"}, 111, 5 * time.Second},
		"silent server":    {source, dir, fmt.Sprintf("port=%d,credentials=%s,echo_interval=1,soft", silent, s.credentials), ways{"error(112)", "does not answer", "does not answer"}, 112, 5 * time.Second},
		"unresolvable":     {"//no-such-host.invalid/data", dir, s.options(), all("resolve"), 0, 20 * time.Second},
		"unknown option":   {source, dir, s.options("frobnicate=yes"), ways{"Invalid argument", "frobnicate", "frobnicate"}, 22, 5 * time.Second},
		"bad value":        {source, dir, s.options("echo_interval=never"), ways{"Invalid argument", "echo_interval", "echo_interval"}, 22, 5 * time.Second},
		"refused option":   {source, dir, s.options("sec=krb5"), ways{"", "erberos", "erberos"}, 0, 5 * time.Second},
		"target missing":   {source, w.path("nowhere"), s.options(), ways{"No such file", "mount point does not exist", "mount point does not exist"}, 0, 5 * time.Second},
		"target is a file": {source, file, s.options(), ways{"ot a directory", "ot a directory", ""}, 0, 5 * time.Second},
		"no source":        {"nas", dir, s.options(), ways{"", "//server/share", "//server/share"}, 0, 5 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			for mount, says := range map[string]string{"mount": c.says.helper, "mount -i": c.says.classic, newMount(t) + " -i": c.says.fresh} {
				if says == skip {
					continue
				}
				r := w.in(t).sh(fmt.Sprintf("%s -t cifs '%s' %s -o %s </dev/null", mount, c.source, c.target, c.options))
				if r.code != 32 && !(mount == "mount" && c.errno == 0 && r.code != 0) || r.took > c.limit || !strings.Contains(r.err, says) || r.err == "" {
					t.Errorf("%s: want exit code 32 within %v and %q: %v", mount, c.limit, says, r)
				}
				if mount == "mount" && c.errno != 0 && !strings.Contains(r.err, fmt.Sprintf("error(%d)", c.errno)) {
					t.Errorf("%s: want errno %d: %v", mount, c.errno, r)
				}
				if strings.Contains(r.err+r.out, s.Password) {
					t.Errorf("%s shows the password: %v", mount, r)
				}
			}
		})
	}
	// With the new API the kernel itself puts a mount in its place, on anything.
	for mount, says := range map[string]string{"mount": "error(16)", "mount -i": "mounted there already"} {
		command := strings.Replace(s.command(dir), "mount", mount, 1)
		w.must(command)
		if r := w.sh(command); r.code != 32 || !strings.Contains(r.err, says) {
			t.Errorf("%s on a busy target: want exit code 32 and %q: %v", mount, says, r)
		}
		w.must(command + ",file_mode=0640; umount " + dir + " " + dir)
	}
	same(t, "mounts", w.mounted(), 0)
	if strings.Contains(w.log(), s.Password) || strings.Contains(w.log(), "not this") {
		t.Error("the log shows a password")
	}
	hold.in.Close()
}

// silentServer accepts connections and says nothing.
func silentServer(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		var all []net.Conn
		for {
			c, err := l.Accept()
			if err != nil {
				break
			}
			all = append(all, c)
		}
		for _, c := range all {
			c.Close()
		}
	}()
	t.Cleanup(func() {
		l.Close()
		<-done
	})
	return l.Addr().(*net.TCPAddr).Port
}

// TestUnprivileged: who may not mount natively may not mount by lx.
func TestUnprivileged(t *testing.T) {
	w := newWorld(t)
	s := w.share(smbtest.Options{})
	mnt := s.mount()
	dir := w.mkdir("mnt")
	commands := map[string]string{
		"mount(2)": strings.Replace(s.command(dir), "mount", "mount -i", 1),
		"new API":  strings.Replace(s.command(dir), "mount", newMount(t)+" -i", 1),
		"bare":     strings.Replace(s.command(dir), "mount", "env "+helper("mount"), 1),
		"umount":   "umount " + mnt, "umount -f": "umount -f " + mnt, "umount -l": "umount -l " + mnt,
		"remount": "mount -o remount,ro " + mnt, "remount, new API": newMount(t) + " -o remount,ro " + mnt,
	}
	for name, c := range commands {
		for who, prefix := range map[string]string{
			"no capabilities": "setpriv --bounding-set=-all --inh-caps=-all --ambient-caps=-all sh -c",
			"nested user":     "unshare -U -r setpriv --no-new-privs sh -c",
		} {
			r := w.sh(prefix + " \"" + c + "\"")
			if r.code == 0 || r.took > 5*time.Second || r.err == "" {
				t.Errorf("%s, %s: %v", name, who, r)
			}
		}
		if runAs.uid == 0 {
			continue
		}
		if r := w.lx("--as-user", "sh", "-c", c); r.code == 0 || r.took > 5*time.Second || r.err == "" {
			t.Errorf("%s as the user: %v", name, r)
		}
	}
	same(t, "mounts", w.mounted(), 1)
	w.must("touch " + mnt + "/still-writable")
	// In namespaces of one's own one may.
	w.must("unshare -m sh -ec '" + s.command(dir) + "; touch " + dir + "/x'")
	r := w.sh("unshare -U -r -m sh -c '" + strings.Replace(s.command(dir), "mount", "mount -i", 1) + "; cat " + dir + "/x && ls " + dir + "'")
	t.Logf("in a user namespace made inside: %v", r)
}

// TestLaterTypes: file systems that lx will serve one day say so.
func TestLaterTypes(t *testing.T) {
	w := newWorld(t)
	dir := w.mkdir("mnt")
	hold := w.hold()
	for _, c := range []string{"-t sshfs me@127.0.0.1:/x", "-t fuse.sshfs me@127.0.0.1:/x"} {
		for _, mount := range []string{"mount -i", newMount(t) + " -i"} {
			if strings.Contains(c, "fuse.sshfs") && mount != "mount -i" {
				continue // arrives as type fuse: the kernel refuses it
			}
			r := w.sh(mount + " " + c + " " + dir)
			if r.code != 32 || !strings.Contains(r.err, "not supported yet") {
				t.Errorf("%s %s: %v", mount, c, r)
			}
		}
	}
	// What the kernel serves goes on to the kernel.
	w.must("mount -t tmpfs none " + dir + "; umount " + dir + "; " + newMount(t) + " -t tmpfs none " + dir + "; umount " + dir)
	hold.in.Close()
}
