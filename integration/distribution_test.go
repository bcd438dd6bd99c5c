package integration

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
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

// TestAsRootDebian: two releases side by side; apt works as an ordinary user, also
// where only one id exists; namespaces can be nested.
func TestAsRootDebian(t *testing.T) {
	needRoot(t, "run debootstrap")
	w := newWorld(t)
	var both sync.WaitGroup
	for _, release := range []string{"bookworm", "trixie"} {
		archive := debian(t, release)
		both.Go(func() {
			if r := w.within(2*time.Minute, "import", release, archive); r.code != 0 {
				t.Errorf("%v", r)
			}
		})
	}
	both.Wait()
	holds := []*running{w.startOpen("-d", "bookworm", "cat"), w.startOpen("-d", "trixie", "cat")}
	for release, version := range map[string]string{"bookworm": "12", "trixie": "13"} {
		same(t, release, w.ok("-d", release, "sh", "-c", ". /etc/os-release; echo $VERSION_ID $(hostname) $(id -u)"), version+" "+release+" 0")
	}
	r := w.within(3*time.Minute, "-d", "bookworm", "sh", "-ec", "apt-get -q update && apt-get -qy install --no-install-recommends hello bubblewrap && hello")
	if r.code != 0 || !strings.Contains(r.out, "Hello, world!") {
		t.Fatalf("apt: %v", r)
	}
	w.refused("not found", "-d", "trixie", "hello")
	w.checkAPT("bookworm")
	same(t, "nested", w.ok("-d", "bookworm", "bwrap", "--ro-bind", "/", "/", "--proc", "/proc", "--dev", "/dev", "--unshare-all", "id", "-u"), "0")
	same(t, "unshare", w.ok("-d", "trixie", "unshare", "-Urmpf", "--mount-proc", "sh", "-c", "mount -t tmpfs none /mnt && echo $$"), "1")
	for _, h := range holds {
		h.in.Close()
		h.wait(bound)
	}
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
