package integration

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// rootTar is an archive of a small root file system: BusyBox and the test
// binary, with an owner and a device that a single-id map cannot show.
func (w *world) rootTar(extra ...tar.Header) string {
	w.t.Helper()
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		w.t.Fatal(err)
	}
	applets, err := exec.Command(busybox, "--list").Output()
	if err != nil {
		w.t.Fatal(err)
	}
	var b bytes.Buffer
	tw := tar.NewWriter(&b)
	add := func(h tar.Header, body []byte) {
		h.Size = int64(len(body))
		if err := tw.WriteHeader(&h); err != nil {
			w.t.Fatal(err)
		}
		if _, err := tw.Write(body); err != nil {
			w.t.Fatal(err)
		}
	}
	for _, d := range []string{"bin", "etc", "root", "tmp", "var", "mnt", "dev", "proc", "sys", "run"} {
		add(tar.Header{Name: d + "/", Typeflag: tar.TypeDir, Mode: 0o755}, nil)
	}
	program, err := os.ReadFile(busybox)
	if err != nil {
		w.t.Fatal(err)
	}
	add(tar.Header{Name: "bin/busybox", Typeflag: tar.TypeReg, Mode: 0o755}, program)
	for a := range strings.FieldsSeq(string(applets)) {
		if a != "busybox" {
			add(tar.Header{Name: "bin/" + a, Typeflag: tar.TypeSymlink, Linkname: "busybox"}, nil)
		}
	}
	for name, text := range map[string]string{
		"etc/passwd":     "root:x:0:0:root:/root:/bin/sh\nweb:x:33:33::/var:/bin/sh\n",
		"etc/group":      "root:x:0:\nweb:x:33:\nextra:x:44:web\n",
		"etc/os-release": "ID=small\n",
	} {
		add(tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644}, []byte(text))
	}
	add(tar.Header{Name: "var/page", Typeflag: tar.TypeReg, Mode: 0o640, Uid: 33, Gid: 33}, []byte("page\n"))
	add(tar.Header{Name: "dev/odd", Typeflag: tar.TypeChar, Mode: 0o600, Devmajor: 10, Devminor: 200}, nil)
	for _, h := range extra {
		add(h, nil)
	}
	if err := tw.Close(); err != nil {
		w.t.Fatal(err)
	}
	return w.write("root.tar", b.String())
}

// ok runs lx with args, which has to succeed, and answers what it wrote.
func (w *world) ok(args ...string) string {
	w.t.Helper()
	r := w.lx(args...)
	if r.code != 0 {
		w.t.Fatalf("lx %q: %v", args, r)
	}
	return strings.TrimSuffix(r.out, "\n")
}

// refused runs lx with args, which has to fail and to say so.
func (w *world) refused(says string, args ...string) {
	w.t.Helper()
	if r := w.lx(args...); r.code == 0 || !strings.Contains(r.err, says) {
		w.t.Errorf("lx %q: %v\nwant a failure that says %q", args, r, says)
	}
}

// store is what the store holds, but for its lock and what is the host's.
func (w *world) store() string {
	w.t.Helper()
	var names []string
	for _, d := range []string{"environments", "layers", "tmp"} {
		found, err := filepath.Glob(w.path("home/.local/share/lx/" + d + "/*"))
		if err != nil {
			w.t.Fatal(err)
		}
		for _, f := range found {
			names = append(names, d+"/"+filepath.Base(f))
		}
	}
	return strings.Join(names, " ")
}

// TestImport: an imported root is an environment of its own.
func TestImport(t *testing.T) {
	w := newWorld(t)
	w.ok("import", "small", w.rootTar())
	same(t, "who and where", w.ok("-d", "small", "sh", "-c", "id -u; hostname; pwd; echo $HOME $USER; cat /etc/os-release"), "0\nsmall\n/root\n/root root\nID=small")
	same(t, "the first process", w.ok("-d", "small", "sh", "-c", "ls /proc | grep -c '^1$'; readlink /proc/1/exe | cut -c1-9"), "1\n/memfd:lx")
	same(t, "devices", w.ok("-d", "small", "sh", "-c", "echo x >/dev/null && ls /dev"), "core\nfd\nfull\nfuse\nlog\nmqueue\nnull\nptmx\npts\nrandom\nshm\nstderr\nstdin\nstdout\ntty\nurandom\nzero")
	host, err := os.ReadFile("/etc/resolv.conf")
	if err != nil {
		t.Fatal(err)
	}
	same(t, "resolv.conf", w.ok("-d", "small", "cat", "/etc/resolv.conf"), strings.TrimSuffix(string(host), "\n"))
	w.ok("-d", "small", "sh", "-c", "echo kept >/root/note; echo gone >/run/note")
	w.ok("stop", "small")
	same(t, "what stays", w.ok("-d", "small", "sh", "-c", "cat /root/note; ls /run/note 2>/dev/null || echo none"), "kept\nnone")
	w.refused("in use", "import", "small", w.path("root.tar"))
	w.refused("no such environment", "-d", "other", "true")

	var list []struct {
		Name             string
		Running, Default bool
		Source           string
	}
	hold := w.startOpen("-d", "small", "cat")
	eventually(t, bound, func() error {
		if err := json.Unmarshal([]byte(w.ok("list", "--json")), &list); err != nil {
			t.Fatal(err)
		}
		if len(list) != 2 || list[0].Name != "host" || list[1].Name != "small" || !list[1].Running || !list[0].Default {
			return fmt.Errorf("list: %+v", list)
		}
		return nil
	})
	w.refused("it runs", "remove", "small")
	w.refused("it runs", "rename", "small", "tiny")
	hold.in.Close()
	hold.wait(bound)
	w.ok("stop", "small")
	w.ok("rename", "small", "tiny")
	w.ok("default", "tiny")
	same(t, "the default", w.ok("default"), "tiny")
	same(t, "lx in the default", w.ok("hostname"), "tiny")
	w.ok("stop", "tiny")
	w.ok("remove", "tiny")
	same(t, "the default", w.ok("default"), "host")
	same(t, "the store", w.store(), "")
}

// TestExport: owners and devices come back as they were, whatever the map shows.
func TestExport(t *testing.T) {
	w := newWorld(t)
	w.ok("import", "--map", w.someMap(), "small", w.rootTar())
	w.ok("-d", "small", "sh", "-c", "rm /etc/group; echo new >/new; chown 33:44 /new")
	check := func(archive string) {
		t.Helper()
		f, err := os.Open(archive)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		found := map[string]*tar.Header{}
		for tr := tar.NewReader(f); ; {
			h, err := tr.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			found[h.Name] = h
		}
		if h := found["var/page"]; h == nil || h.Uid != 33 || h.Gid != 33 || h.Mode != 0o640 {
			t.Errorf("var/page: %+v", h)
		}
		if h := found["dev/odd"]; h == nil || h.Typeflag != tar.TypeChar || h.Devmajor != 10 || h.Devminor != 200 {
			t.Errorf("dev/odd: %+v", h)
		}
		if h := found["new"]; h == nil || h.Uid != 33 || h.Gid != 44 {
			t.Errorf("a file whose owner was changed inside: %+v", h)
		}
		if found["etc/group"] != nil || found["new"] == nil || found["bin/busybox"] == nil {
			t.Errorf("the tree is not as it was left")
		}
	}
	w.ok("export", "small", w.path("home/running.tar"))
	check(w.path("home/running.tar"))
	w.ok("stop", "small")
	w.ok("export", "small", w.path("home/stopped.tar"))
	check(w.path("home/stopped.tar"))
	w.ok("import", "again", w.path("home/stopped.tar"))
	w.ok("export", "again", w.path("home/again.tar"))
	check(w.path("home/again.tar"))
	w.refused("cannot export small", "export", "small", w.path("none/x"))
}

// someMap is the map that an ordinary user of few means has.
func (w *world) someMap() string {
	if runAs.uid == 0 {
		return ""
	}
	return "single"
}

// TestImportRefused: nothing half imported, and it is said why.
func TestImportRefused(t *testing.T) {
	w := newWorld(t)
	whole, err := os.ReadFile(w.rootTar())
	if err != nil {
		t.Fatal(err)
	}
	w.write("cut.tar", string(whole[:len(whole)/2]))
	w.write("empty.tar", "")
	w.write("text.tar", strings.Repeat("no tar ", 1000))
	up := newTar(t, tar.Header{Name: "../up", Typeflag: tar.TypeReg})
	w.write("up.tar", up)
	w.write("norow.tar", newTar(t, tar.Header{Name: "rootfs/bin/", Typeflag: tar.TypeDir, Mode: 0o755}))
	for file, says := range map[string]string{
		"cut.tar": "truncated", "empty.tar": "truncated", "text.tar": "cannot read the archive", "up.tar": "leaves the root",
		"norow.tar": "no root file system", "none.tar": "no such file",
	} {
		w.refused(says, "import", "x", w.path(file))
	}
	w.refused("docker://REFERENCE", "import", "x", "debian")
	w.refused("more than 1048576 bytes", "import", "--max-size", "1M", "x", w.path("root.tar"))
	w.refused("more than 10 entries", "import", "--max-entries", "10", "x", w.path("root.tar"))
	w.refused("environment name", "import", "../x", w.path("root.tar"))
	w.refused("host's own files", "import", "host-2", w.path("root.tar"))
	same(t, "the store", w.store(), "")
	if _, err := os.Lstat(w.path("home/.local/share/lx/environments/up")); err == nil {
		t.Error("a name left the root")
	}
}

func newTar(t testing.TB, headers ...tar.Header) string {
	t.Helper()
	var b bytes.Buffer
	tw := tar.NewWriter(&b)
	for _, h := range headers {
		if err := tw.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// TestCopy: files go out and in as streams made inside.
func TestCopy(t *testing.T) {
	w := newWorld(t)
	w.ok("import", "small", w.rootTar())
	w.ok("copy", "small:/etc/os-release", ".")
	b, err := os.ReadFile(w.path("home/os-release"))
	if err != nil || string(b) != "ID=small\n" {
		t.Errorf("%q, %v", b, err)
	}
	w.ok("copy", "small:/etc", "etc2")
	if _, err := os.Stat(w.path("home/etc2/passwd")); err != nil {
		t.Error(err)
	}
	w.ok("copy", "./etc2", "small:/root")
	w.ok("copy", "os-release", "small:/root/renamed")
	same(t, "what came in", w.ok("-d", "small", "sh", "-c", "cat /root/etc2/passwd | head -1; cat /root/renamed; stat -c %u /root/renamed"), "root:x:0:0:root:/root:/bin/sh\nID=small\n0")
	w.refused("no such file", "copy", "small:/none", ".")
	w.refused("NAME:/PATH", "copy", "a", "b")
	// What a link of the environment leads to is the environment's.
	w.ok("-d", "small", "ln", "-s", w.path("home/etc2"), "/root/out")
	w.refused("no such file", "copy", "small:/root/out", "x")
	left, err := filepath.Glob(w.path("home/.lx-copy-*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

// TestDaemon: it starts once, on demand; it may be killed, and its socket may
// vanish; environments do not suffer.
func TestDaemon(t *testing.T) {
	w := newWorld(t)
	if r := w.lx("daemon", "status"); r.code != 1 {
		t.Errorf("before it runs: %v", r)
	}
	var ten []*running
	for range 10 {
		ten = append(ten, w.start("list"))
	}
	for _, p := range ten {
		if r := p.wait(bound); r.code != 0 {
			t.Errorf("one of ten: %v", r)
		}
	}
	daemon := func() int {
		t.Helper()
		var s struct{ PID int }
		if err := json.Unmarshal([]byte(w.ok("daemon", "status", "--json")), &s); err != nil {
			t.Fatal(err)
		}
		return s.PID
	}
	first := daemon()
	w.ok("import", "small", w.rootTar())
	hold := w.startOpen("-d", "small", "sh", "-c", "echo up; cat")
	hold.says("up")
	if err := unix.Kill(first, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	same(t, "list after a kill", strings.Contains(w.ok("list"), "running"), true)
	second := daemon()
	if second == first {
		t.Error("the same daemon")
	}
	// As a logout does it.
	if err := os.RemoveAll(w.path("run/lx")); err != nil {
		t.Fatal(err)
	}
	same(t, "list without the runtime directory", strings.Contains(w.ok("list"), "running"), true)
	same(t, "the daemon", daemon(), second)
	same(t, "another session", w.ok("-d", "small", "cat", "/etc/os-release"), "ID=small")
	if err := os.Remove(w.path("run/lx/small.sock")); err != nil {
		t.Fatal(err)
	}
	same(t, "another session", w.ok("-d", "small", "cat", "/etc/os-release"), "ID=small")
	// A login that has another runtime directory, as cron has none.
	elsewhere := w.in(t)
	elsewhere.env = append(slices.Clone(w.env), "XDG_RUNTIME_DIR="+w.mkdir("elsewhere"))
	if err := os.Chmod(w.path("elsewhere"), 0o700); err != nil {
		t.Fatal(err)
	}
	same(t, "list from elsewhere", strings.Contains(elsewhere.ok("list"), "running"), true)
	same(t, "a session from elsewhere", elsewhere.ok("-d", "small", "cat", "/etc/os-release"), "ID=small")
	w.ok("daemon", "stop")
	if r := w.lx("daemon", "status"); r.code != 1 {
		t.Errorf("after its end: %v", r)
	}
	select {
	case <-hold.ended:
		t.Error("the session ended with the daemon")
	default:
	}
	hold.in.Close()
	hold.wait(bound)
	if log := w.ok("daemon", "logs"); !strings.Contains(log, "started") {
		t.Errorf("the log: %s", log)
	}
}

// TestUpgrade: a command of another version of lx puts the daemon of its version
// in the place of the one that runs; what runs inside does not notice, nor do
// environments that are stored elsewhere.
func TestUpgrade(t *testing.T) {
	w := newWorld(t)
	elsewhere := w.path("home/elsewhere")
	w.configure(fmt.Sprintf("store = %q\n", elsewhere))
	w.ok("import", "small", w.rootTar())
	if _, err := os.Stat(filepath.Join(elsewhere, "environments/small/record.json")); err != nil {
		t.Error(err)
	}
	same(t, "the usual store", w.store(), "")
	hold := w.startOpen("-d", "small", "sh", "-c", "echo up; exec cat")
	hold.says("up")
	type status struct {
		PID     int
		Version string
	}
	ask := func(w *world) (s status) {
		t.Helper()
		if err := json.Unmarshal([]byte(w.ok("daemon", "status", "--json")), &s); err != nil {
			t.Fatal(err)
		}
		return s
	}
	old := ask(w)
	b, err := os.ReadFile(lxPath)
	if err != nil {
		t.Fatal(err)
	}
	// The same program, but for its version.
	version := "N" + old.Version[1:]
	next := w.in(t)
	next.program = w.write("lx-next", strings.ReplaceAll(string(b), old.Version, version))
	if err := os.Chmod(next.program, 0o700); err != nil {
		t.Fatal(err)
	}
	if out := next.ok("list"); !strings.Contains(out, "running") {
		t.Errorf("lx list of the next version: %s", out)
	}
	if s := ask(next); s.Version != version || s.PID == old.PID {
		t.Errorf("the daemon is %+v, before %+v", s, old)
	}
	same(t, "a session of the next version", next.ok("-d", "small", "cat", "/etc/os-release"), "ID=small")
	if _, err := io.WriteString(hold.in, "still here\n"); err != nil {
		t.Fatal(err)
	}
	hold.says("still here")
	hold.in.Close()
	hold.wait(bound)
	w.ok("remove", "--force", "small")
}
