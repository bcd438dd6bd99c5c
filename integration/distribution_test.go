package integration

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lxbridge/lx/integration/smbtest"
)

// openCache is the directory of what tests fetch once (LX_TEST_CACHE, else in
// the build folder), closed to all others until done is called.
func openCache() (dir string, done func(), err error) {
	dir = os.Getenv("LX_TEST_CACHE")
	if dir == "" {
		dir = filepath.Join("..", "build", "cache")
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return "", nil, err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", nil, err
	}
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return "", nil, err
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		lock.Close()
		return "", nil, err
	}
	return dir, func() { lock.Close() }, nil
}

// debian is an archive of a release's minimal root file system, which is made
// once, by root, and kept in LX_TEST_CACHE.
func debian(t testing.TB, release string) string {
	t.Helper()
	cache, done, err := openCache()
	if err != nil {
		t.Fatal(err)
	}
	defer done()
	file := filepath.Join(cache, "debian-"+release+".tar")
	if _, err := os.Stat(file); err == nil {
		return file
	}
	site, err := exec.Command("apt-get", "indextargets", "--format", "$(SITE)").Output()
	if err != nil || len(strings.Fields(string(site))) == 0 {
		t.Fatalf("cannot find a Debian mirror: %v", err)
	}
	dir, err := os.MkdirTemp("", "debian")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	for _, c := range [][]string{
		{"debootstrap", "--variant=minbase", release, dir, strings.Fields(string(site))[0]},
		{"chmod", "755", dir},
		{"tar", "-C", dir, "--xattrs", "--numeric-owner", "-cf", file + ".part", "."},
	} {
		if out, err := exec.CommandContext(ctx, c[0], c[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%q: %v\n%s", c, err, tail(string(out), 20))
		}
	}
	if err := os.Rename(file+".part", file); err != nil {
		t.Fatal(err)
	}
	return file
}

// needRoot fails a test of the name TestAsRoot… that anybody else runs; make
// test leaves those out for ordinary users.
func needRoot(t testing.TB, what string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("cannot test without being root, who alone can " + what)
	}
}

// withSubuids has lx run by another ordinary user until the test's end, who has
// ids of subuid(5), and is made where missing.
func withSubuids(t testing.TB) {
	t.Helper()
	const name, ids = "lxtest-subuid", "1879048192-1879113727"
	must := func(argv ...string) {
		t.Helper()
		if out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%q: %v: %s", argv, err, out)
		}
	}
	if _, err := user.Lookup(name); err != nil {
		must("useradd", "--system", "--no-create-home", "--shell", "/bin/bash", name)
	}
	b, err := os.ReadFile("/etc/subuid")
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	if !strings.Contains("\n"+string(b), "\n"+name+":") {
		must("usermod", "--add-subuids", ids, "--add-subgids", ids, name)
	}
	was := runAs
	if runAs, err = lookAccount(name); err != nil {
		runAs = was
		t.Fatal(err)
	}
	t.Cleanup(func() { runAs = was })
}

// get is what a web server answers.
func get(url string) (string, error) {
	resp, err := http.Get(url)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	return string(text), err
}

// TestAsRootDebian: two releases side by side; apt works as an ordinary user, also
// where only one id exists; stock services serve; systemd boots;
// namespaces can be nested.
func TestAsRootDebian(t *testing.T) {
	needRoot(t, "run debootstrap")
	packages := "bubblewrap keyutils hello"
	ordinary := runAs.uid != 0
	var group *os.File
	if ordinary {
		withSubuids(t) // before the world, which ends as that user
		group = delegatedGroup(t)
		packages = "bubblewrap keyutils nginx postgresql"
	}
	w := newWorld(t)
	w.group = group
	key := w.keyedDaemon()
	var both sync.WaitGroup
	for release, ids := range map[string]string{"bookworm": "", "trixie": w.someMap()} {
		archive := debian(t, release)
		both.Go(func() {
			if r := w.within(2*time.Minute, "import", "--map", ids, release, archive); r.code != 0 {
				t.Errorf("%v", r)
			}
		})
	}
	both.Wait()
	holds := []*running{w.startOpen("-d", "bookworm", "cat"), w.startOpen("-d", "trixie", "cat")}
	for release, version := range map[string]string{"bookworm": "12", "trixie": "13"} {
		same(t, release, w.ok("-d", release, "sh", "-c", ". /etc/os-release; echo $VERSION_ID $(hostname) $(id -u)"), version+" "+release+" 0")
	}
	install := func(release, packages string) {
		t.Helper()
		r := w.within(5*time.Minute, "-d", release, "sh", "-ec", "echo force-unsafe-io >/etc/dpkg/dpkg.cfg.d/quick; apt-get -q update && DEBIAN_FRONTEND=noninteractive apt-get -qy install --no-install-recommends "+packages)
		if r.code != 0 {
			t.Fatalf("apt: %v", r)
		}
	}
	install("bookworm", packages)
	if ordinary {
		same(t, "ids", w.mapKind("bookworm")+" "+w.mapKind("trixie"), "subuid single")
		install("trixie", "hello systemd-sysv buildah netavark busybox-static")
		same(t, "hello", w.ok("-d", "trixie", "hello"), "Hello, world!")
		w.refused("not found", "-d", "bookworm", "hello")
		w.stockServices("bookworm")
		w.buildah("trixie")
	} else {
		same(t, "hello", w.ok("-d", "bookworm", "hello"), "Hello, world!")
	}
	w.refused("Permission denied", "-d", "bookworm", "keyctl", "print", key)
	w.checkAPT("bookworm")
	same(t, "nested", w.ok("-d", "bookworm", "bwrap", "--ro-bind", "/", "/", "--proc", "/proc", "--dev", "/dev", "--unshare-all", "id", "-u"), "0")
	same(t, "unshare", w.ok("-d", "trixie", "unshare", "-Urmpf", "--mount-proc", "sh", "-c", "mount -t tmpfs none /mnt && echo $$"), "1")
	if ordinary { // the daemon, brokers and the other environment are processes 0 there
		w.refused("", "-d", "trixie", "unshare", "-Cm", "sh", "-c", "mount -t cgroup2 none /mnt || exit 0; find /mnt -name cgroup.procs -writable -exec cat {} + | grep -x 0")
	}
	for _, h := range holds {
		h.in.Close()
		h.wait(bound)
	}
	if ordinary {
		w.systemd("trixie")
	}
}

// keyedDaemon starts the daemon in a session with a key, whose id it answers.
func (w *world) keyedDaemon() (id string) {
	w.t.Helper()
	cmd := w.command(context.Background(), "daemon", "start")
	cmd.Path, cmd.Args = helperPath, append([]string{helperPath}, cmd.Args...)
	cmd.Env = append(cmd.Env, helperVar+"=keyed")
	r := w.startCommand(cmd).wait(bound)
	id, _, _ = strings.Cut(r.out, "\n")
	if r.code != 0 {
		w.t.Fatalf("a daemon in a session with a key: %v", r)
	}
	return id
}

// buildah: a container is built and run, with one id, and has a mount that the
// broker serves.
func (w *world) buildah(name string) {
	w.t.Helper()
	s := w.share(smbtest.Options{})
	s.put("hello", "hello\n")
	w.ok("copy", s.credentials, name+":/root/credentials")
	r := w.within(2*time.Minute, "-d", name, "sh", "-ec", fmt.Sprintf(`mount -t cifs %s /mnt -o port=%d,credentials=/root/credentials
export BUILDAH_ISOLATION=chroot STORAGE_DRIVER=vfs
c=$(buildah from scratch)
buildah copy -q $c /bin/busybox /bin/ >/dev/null
buildah run -v /mnt:/mnt $c -- /bin/busybox sh -c 'echo built >/made; cat /mnt/hello; echo from inside >/mnt/back'
buildah commit -q $c image >/dev/null
c=$(buildah from image)
buildah run $c -- /bin/busybox cat /made
umount /mnt`, s.source(smbtest.Data, ""), s.Port))
	if r.code != 0 || r.out != "hello\nbuilt\n" {
		w.t.Errorf("buildah: %v", r)
	}
	same(w.t, "what the container wrote", s.get("back"), "from inside\n")
}

// stockServices: nginx and PostgreSQL run by the distribution's own units, serve
// without a console, and are back, with their data, after the environment's restart.
func (w *world) stockServices(name string) {
	w.t.Helper()
	units := []string{"nginx.service", "postgresql@15-main.service"}
	lx := func(args ...string) string { w.t.Helper(); return w.ok(append([]string{"-d", name}, args...)...) }
	lx(append([]string{"service", "import"}, units...)...)
	const remedy = "sysctl -w net.ipv4.ip_unprivileged_port_start=80"
	w.refused(remedy, "-d", name, "service", "enable", "nginx")
	if r := w.lx("-d", name, "service", "status", "nginx"); r.code != 3 || !strings.Contains(r.out, "hint: port 80 is for the host's root") || !strings.Contains(r.out, remedy) {
		w.t.Errorf("nginx on port 80: %v", r)
	}
	web, sql := freePort(w.t), freePort(w.t)
	lx("sh", "-ec", fmt.Sprintf(`cd /etc/systemd/system
mkdir nginx.service.d postgresql@15-main.service.d
echo 'pid /run/nginx.pid; user www-data; events {} http { server { listen 127.0.0.1:%d; root /var/www/html; } }' >/etc/nginx/high.conf
printf '[Service]\nExecStartPre=\nExecStart=\nExecStart=/usr/sbin/nginx -c /etc/nginx/high.conf\n' >nginx.service.d/port.conf
printf '[Service]\nExecStart=\nExecStart=-/usr/bin/pg_ctlcluster --skip-systemctl-redirect %%%%i start -- -o "-p %d"\n' >postgresql@15-main.service.d/port.conf
cp /var/www/html/index*.html /var/www/html/index.html; chmod 600 /var/www/html/index.html; chown www-data: /var/www/html/index.html`, web, sql))
	lx(append([]string{"service", "import", "--force"}, units...)...)
	lx("service", "enable", "nginx", "postgresql@15-main")
	query := func(text string) string {
		w.t.Helper()
		return lx("su", "-", "postgres", "-c", fmt.Sprintf("psql -p %d -qAtc '%s'", sql, text))
	}
	page := func() error {
		text, err := get(fmt.Sprintf("http://127.0.0.1:%d/", web))
		if err == nil && !strings.Contains(text, "Welcome to nginx") {
			err = fmt.Errorf("nginx answers %q", text)
		}
		return err
	}
	if err := page(); err != nil {
		w.t.Error(err)
	}
	same(w.t, "a query", query("create table t (n int); insert into t values (42); select n from t"), "42")
	w.ok("stop", name)
	w.ok("-d", name, "true") // its end does not end what is enabled
	eventually(w.t, bound, page)
	eventually(w.t, bound, func() error {
		if r := w.lx("-d", name, "service", "status", "postgresql@15-main"); r.code != 0 {
			return fmt.Errorf("%v", r)
		}
		return nil
	})
	same(w.t, "after a restart", query("select n from t"), "42")
	lx(append([]string{"service", "disable", "--now"}, "nginx", "postgresql@15-main")...)
}

// TestAsRootFullDisk: a disk that is full leaves nothing half imported.
func TestAsRootFullDisk(t *testing.T) {
	needRoot(t, "mount a small disk")
	w := newWorld(t)
	archive := w.rootTar()
	for _, d := range []string{"home/.local", "home/.local/share"} {
		w.mkdir(d)
	}
	disk := w.path("home/.local/share")
	out, err := exec.Command("mount", "-t", "tmpfs", "-o", fmt.Sprintf("size=1m,mode=700,uid=%d,gid=%d", runAs.uid, runAs.gid), "small", disk).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	unmounted := false
	unmount := func() error {
		if unmounted {
			return nil
		}
		unmounted = true
		return exec.Command("umount", "-l", disk).Run()
	}
	t.Cleanup(func() { unmount() })
	w.refused("no space left on device", "import", "small", archive)
	same(t, "the store", w.store(), "")
	if err := unmount(); err != nil {
		t.Fatal(err)
	}
}

// TestImportKilled: what an import that was killed leaves is removed by the next.
func TestImportKilled(t *testing.T) {
	w := newWorld(t)
	archive := w.rootTar()
	fifo := w.path("home/fifo")
	if out, err := exec.Command("mkfifo", "-m", "666", fifo).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	p := w.start("import", "small", fifo)
	f, err := os.OpenFile(fifo, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(archive)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write(b[:len(b)/2]); err != nil {
		t.Fatal(err)
	}
	eventually(t, bound, func() error {
		if !strings.Contains(w.store(), "tmp/") {
			return errors.New("nothing is being imported")
		}
		return nil
	})
	if err := p.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	p.wait(bound)
	f.Close()
	w.refused("no such environment", "-d", "small", "true")
	// The worker of the dead import may take a moment to see its end.
	eventually(t, bound, func() error {
		if r := w.lx("import", "small", archive); r.code != 0 && !strings.Contains(r.err, "in use") {
			t.Fatal(r)
		}
		if s := w.store(); s != "environments/small" {
			return fmt.Errorf("the store holds %s", s)
		}
		return nil
	})
}
