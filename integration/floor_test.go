package integration

import (
	"encoding/json"
	"fmt"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/lxbridge/lx/core/feature"
	"github.com/lxbridge/lx/integration/smbtest"
)

// lacks says whether lx is told to do without n.
func (w *world) lacks(n feature.Name) bool {
	missing := ""
	for _, e := range w.env {
		if v, ok := strings.CutPrefix(e, feature.Env+"="); ok {
			missing = v
		}
	}
	return strings.Contains(","+missing+",", ","+string(n)+",")
}

// TestWithoutEachFeature: lx does without every feature that its kernel floor
// does not promise, one at a time: it mounts in all ways, survives its broker
// and stops.
func TestWithoutEachFeature(t *testing.T) {
	server := smbtest.New(t, smbtest.Options{})
	for _, missing := range feature.All {
		t.Run(string(missing), func(t *testing.T) {
			w := newWorld(t)
			w.env = append(w.env, feature.Env+"="+string(missing))
			s := &share{Server: server, w: w, credentials: w.write("credentials", "username="+server.User+"\npassword="+server.Password+"\n")}
			s.put("hello", "hello\n")
			dir := w.mkdir("mnt")
			hold := w.hold()
			for name, mount := range mounts(t) {
				w.must(strings.Replace(s.command(dir), "mount", mount, 1) + "; echo '" + name + "' > " + dir + "/written; cat " + dir + "/hello; mount -o remount,ro " + dir + "; umount " + dir)
				same(t, name, s.get("written"), name+"\n")
			}
			w.must(s.command(dir))
			old := w.broker()
			kill(t, old)
			w.restarted(old)
			s.dead(dir)
			if r := w.lx("doctor"); r.code != 0 {
				t.Errorf("lx doctor: %v", r)
			}
			hold.in.Close()
			hold.wait(5 * time.Second)
		})
	}
	w := newWorld(t)
	w.env = append(w.env, feature.Env+"=no-such-feature")
	if r := w.lx("true"); r.code != 2 || !strings.Contains(r.err, "no-such-feature") {
		t.Errorf("a misspelt feature: %v", r)
	}
}

// TestDoctor: where the tests run lx can run; where it cannot, that is told,
// with the line that mends it.
func TestDoctor(t *testing.T) {
	w := newWorld(t)
	r := w.lx("doctor", "--json")
	var list []struct{ Name, Status, Detail string }
	if err := json.Unmarshal([]byte(r.out), &list); err != nil || r.code != 0 || len(list) < 8 {
		t.Fatalf("%v: %v", err, r)
	}
	for _, f := range list {
		if f.Status == "fail" || f.Name == "" || f.Detail == "" {
			t.Errorf("%+v", f)
		}
	}
	forbidden := func(script string) result {
		cmd := w.command(t.Context())
		cmd.Path, cmd.Args = "/usr/bin/unshare", []string{"unshare", "-U", "-r", "sh", "-c", "echo 0 > /proc/sys/user/max_user_namespaces; exec " + lxPath + " " + script}
		return w.startCommand(cmd).wait(bound)
	}
	if r := forbidden("doctor"); r.code != 1 || !strings.Contains(r.out, "user namespaces") || !strings.Contains(r.out, "mend: sudo sysctl -w user.max_user_namespaces=") {
		t.Errorf("without user namespaces: %v", r)
	}
	if r := forbidden("doctor --quiet"); r.code != 1 || strings.Contains(r.out, "ok") {
		t.Errorf("quietly: %v", r)
	}
	if r := forbidden("true"); r.code != 125 || !strings.Contains(r.err, "lx doctor") {
		t.Errorf("starting there: %v", r)
	}
}

// TestPrivileged: without user namespaces guests are the real root, and mounts
// work as elsewhere. It is refused to others.
func TestPrivileged(t *testing.T) {
	w := newWorld(t)
	if runAs.uid != 0 {
		if r := w.lx("--privileged", "true"); r.code != 2 || !strings.Contains(r.err, "for root") {
			t.Errorf("an ordinary user: %v", r)
		}
		return
	}
	s := w.share(smbtest.Options{})
	s.put("hello", "hello\n")
	dir := w.mkdir("mnt")
	first := w.startOpen("--privileged", "sh", "-c", "readlink /proc/self/ns/user; echo up; cat")
	first.says("up")
	own, err := exec.Command("readlink", "/proc/self/ns/user").Output()
	if err != nil || !strings.HasPrefix(first.out.String(), string(own)) {
		t.Errorf("its user namespace is %q, the host's %q, %v", first.out.String(), own, err)
	}
	for name, mount := range mounts(t) {
		cmd := strings.Replace(s.command(dir), "mount", mount, 1)
		same(t, name, w.must(cmd+"; cat "+dir+"/hello; mount -o remount,ro "+dir+"; ! touch "+dir+"/x 2>/dev/null; umount "+dir), "hello")
	}
	w.must(s.command(dir) + "; umount -f " + dir + "; mknod ~/null c 1 3; echo x > ~/null; chown 1234 ~/null; test $(stat -c %u ~/null) = 1234")
	old := w.broker()
	kill(t, old)
	w.restarted(old)
	w.must(s.command(dir) + "; cat " + dir + "/hello; umount " + dir)
	first.in.Close()
	first.wait(5 * time.Second)
}

// TestExpose: the host sees a mount through fusermount3, until either side
// unmounts it.
func TestExpose(t *testing.T) {
	w := newWorld(t)
	s := w.share(smbtest.Options{})
	s.put("hello", "hello\n")
	dir, host := s.mount(), w.mkdir("host")
	outside := func(script string) (string, error) {
		cmd := exec.Command("sh", "-c", script)
		cmd.Env, cmd.Dir = w.env, w.path("home")
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: runAs.credential}
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	if r := w.lx("mounts", "--expose", host, "/no/such/mount"); r.code != 1 || !strings.Contains(r.err, "/no/such/mount") {
		t.Errorf("what is not mounted: %v", r)
	}
	for _, end := range []string{"fusermount3 -u " + host, ""} {
		if r := w.lx("mounts", "--expose", host, dir); r.code != 0 {
			t.Fatal(r)
		}
		out, err := outside("cat " + host + "/hello; echo from the host > " + host + "/new; stat -c %u " + host + "/hello")
		want := fmt.Sprintf("hello\n%d\n", runAs.uid)
		if err != nil || out != want {
			t.Errorf("seen from the host: %q, %v; want %q", out, err, want)
		}
		if end != "" {
			if out, err := outside(end); err != nil {
				t.Errorf("%s: %s %v", end, out, err)
			}
			same(t, "inside, afterwards", w.must("cat "+dir+"/hello "+dir+"/new"), "hello\nfrom the host")
			continue
		}
		w.must("umount " + dir)
		if out, err := outside("cat " + host + "/hello"); err == nil {
			t.Errorf("after the unmount inside: %q", out)
		}
		if out, err := outside("fusermount3 -u " + host); err != nil {
			t.Errorf("unmounting: %s %v", out, err)
		}
	}
}
