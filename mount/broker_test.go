package mount

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/lxbridge/lx/core/feature"
	"github.com/lxbridge/lx/core/fuse"
	"github.com/lxbridge/lx/core/seccomp"
	"github.com/lxbridge/lx/mount/option"
)

// opts are enough to log in.
const opts = "username=me,password=hunter2"

func TestMountUnmount(t *testing.T) {
	w := newWorld(t)
	s := w.fake(t)
	out := w.run(t, `
		mkdir /mnt/a && cd /mnt && ln -s a link
		mount -i -t cifs //nas/photos ./link -o `+opts+`,nosuid,noexec
		grep /mnt/a /proc/self/mountinfo
		findmnt -no SOURCE,FSTYPE /mnt/a
		umount /mnt/a
		grep -c /mnt/a /proc/self/mountinfo || true`)
	want(t, out, "nosuid,noexec,relatime - fuse.lx.cifs //nas/photos rw,", "default_permissions,allow_other", "//nas/photos fuse.lx.cifs", "\n0\n")
	if strings.Contains(out, "hunter2") {
		t.Error("the password shows")
	}
	w.settle(t)
	if s.dials.Load() != 1 || s.closed.Load() != 1 || s.drained.Load() != 1 {
		t.Errorf("%d dials, %d closed, %d drained", s.dials.Load(), s.closed.Load(), s.drained.Load())
	}
}

// settle waits until nothing is mounted.
func (w *world) settle(t *testing.T) {
	t.Helper()
	w.mu.Lock()
	var all []*mounted
	for _, m := range w.mounts {
		all = append(all, m)
	}
	w.mu.Unlock()
	for _, m := range all {
		select {
		case <-m.gone:
		case <-t.Context().Done():
			t.Fatal("still mounted")
		}
	}
}

func TestMountFails(t *testing.T) {
	w := newWorld(t)
	s := w.fake(t)
	s.dial = func(_ context.Context, o *option.CIFS) error { return errPassword }
	for _, c := range []struct{ script, want string }{
		{"mount -i -t cifs //nas/photos /mnt/d -o " + opts, "lx: cannot mount //nas/photos: cannot log in to //nas/photos: the password is wrong\n"},
		{"mount -i -t cifs //nas/photos /mnt/none -o " + opts, "mount point does not exist"},
		{"mount -i -t cifs //nas/photos /mnt/f -o " + opts, "mount point is not a directory"},
		{"mount -i -t cifs //nas/photos /mnt/d -o foo," + opts, `lx: cannot mount //nas/photos: unknown option "foo"`},
		{"mount -i -t cifs //nas/photos /mnt/d -o rdma," + opts, `option "rdma": the transport uses TCP`},
		{"mount -i -t cifs //nas /mnt/d -o " + opts, "the share's name is missing"},
		{"mount -i -t nfs nas:/x /mnt/d -o rdma", `option "rdma": the transport uses TCP`},
		{"mount -i -t nfs nas /mnt/d", "the colon is missing"},
		{"mount -i -t sshfs nas:/x /mnt/d", "file systems of type sshfs are not supported yet"},
		{"mount -i -t fuse.sshfs nas:/x /mnt/d", "file systems of type fuse.sshfs are not supported yet"},
		{"setpriv --bounding-set=-sys_admin --inh-caps=-sys_admin python3 -c 'import ctypes; l=ctypes.CDLL(None, use_errno=True); print(l.mount(b\"//nas/photos\", b\"/mnt/d\", b\"cifs\", 0, b\"guest\"), ctypes.get_errno()); exit(32)'", "-1 1\n"},
	} {
		out := w.run(t, "mkdir /mnt/d; touch /mnt/f; { "+c.script+"; echo exit $?; } 2>&1 | cat")
		want(t, out, c.want, "exit 32")
		if strings.Count(out, "lx: ") > 1 || strings.Contains(out, "hunter2") {
			t.Error(out)
		}
	}
}

// An interrupted mount gives up at once, and leaves nothing.
func TestMountInterrupted(t *testing.T) {
	w := newWorld(t)
	s := w.fake(t)
	causes := make(chan error, 1)
	s.dial = func(ctx context.Context, _ *option.CIFS) error {
		<-ctx.Done()
		causes <- context.Cause(ctx)
		return context.Cause(ctx)
	}
	for _, signal := range []string{"INT", "TERM", "KILL"} {
		w.run(t, "mkdir -p /mnt/d; timeout -s "+signal+" 0.2 mount -i -t cifs //nas/photos /mnt/d -o "+opts+" && exit 1; ! grep /mnt/d /proc/self/mountinfo")
		if err := <-causes; !errors.Is(err, seccomp.ErrCallerGone) && !errors.Is(err, seccomp.ErrInterrupted) {
			t.Error(err)
		}
	}
}

func TestUmountForce(t *testing.T) {
	w := newWorld(t)
	w.fake(t)
	out := w.run(t, `
		mkdir /mnt/d && mount -i -t cifs //nas/photos /mnt/d -o `+opts+`
		ls /mnt/d/hang &
		while ! grep -q request_wait_answer /proc/$!/stack 2>/dev/null && ! grep -q "^State:.S" /proc/$!/status; do :; done
		umount -f /mnt/d; echo umount $?
		wait $!; echo ls $?
		umount -f /mnt/d 2>/dev/null || umount -l /mnt/d 2>/dev/null
		grep -c /mnt/d /proc/self/mountinfo || true`)
	want(t, out, "ls 2", "umount 0", "\n0\n")
	// Elsewhere the kernel decides.
	want(t, w.run(t, "umount -f /mnt/none 2>&1 || echo exit $?"), "exit 32")
	want(t, w.run(t, "cd /; umount -f /mnt && ! grep ' /mnt ' /proc/self/mountinfo && echo gone"), "gone")
}

func TestRemount(t *testing.T) {
	w := newWorld(t)
	w.fake(t)
	out := w.run(t, `
		mkdir /mnt/d && mount -i -t cifs //nas/photos /mnt/d -o actimeo=5,`+opts+`
		mount -i -o remount,ro,nosuid /mnt/d && grep /mnt/d /proc/self/mountinfo
		mount -i -o remount,rw /mnt/d && grep /mnt/d /proc/self/mountinfo
		{ mount -i -o remount,actimeo=7 /mnt/d; echo exit $?; } 2>&1 | cat
		mount -i -o remount,actimeo=5 /mnt/d; echo same $?
		mount -o remount,bind,ro /mnt/d && grep /mnt/d /proc/self/mountinfo
		umount /mnt/d`)
	want(t, out, "ro,nosuid,relatime - fuse.lx.cifs //nas/photos ro,", "rw,nosuid,relatime - fuse.lx.cifs //nas/photos rw,",
		`option "actimeo": a remount cannot change it`, "exit 32", "same 0", "ro,nosuid,relatime - fuse.lx.cifs //nas/photos rw,")
}

// stay keeps a guest with a mount alive until its input ends, which is at the
// test's end.
func (w *world) stay(t *testing.T, script string) *guestRun {
	t.Helper()
	fifo := filepath.Join(t.TempDir(), "ready")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	g := w.start(t, "set -e\n"+script+"\necho > "+fifo+"; exec sleep 1000")
	if _, err := os.ReadFile(fifo); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { g.Process.Kill(); g.Wait(t) })
	return g
}

func TestInfo(t *testing.T) {
	w := newWorld(t)
	w.fake(t)
	w.stay(t, "mkdir '/mnt/d e' && mount -i -t cifs //nas/photos '/mnt/d e' -o "+opts+",uid=0; ls '/mnt/d e/none' || true")
	list := w.Mounts()
	if len(list) != 1 {
		t.Fatal(list)
	}
	i := list[0]
	if i.Source != "//nas/photos" || i.Target != "/mnt/d e" || i.Type != "cifs" || i.State != Connected || i.Requests == 0 || i.Latency == 0 {
		t.Errorf("%+v", i)
	}
	text, err := json.Marshal(list)
	if err != nil || strings.Contains(string(text), "hunter2") || !slices.Contains(i.Options, "password=[secret]") {
		t.Errorf("%s %v", text, err)
	}
	for _, h := range w.keeper.all() {
		if strings.Contains(string(h.blob), "hunter2") {
			t.Errorf("%s", h.blob)
		}
	}
}

// mount.cifs goes to the target and mounts on ".": people are told where that is.
func TestTargetOfHelper(t *testing.T) {
	w := newWorld(t)
	w.fake(t)
	w.stay(t, "mkdir -p /mnt/a/b && ln -s a /mnt/l && mount.cifs //127.0.0.1/photos /mnt/l/b -o "+opts)
	all := w.keeper.all()
	if len(all) != 1 {
		t.Errorf("%d mounts", len(all))
	}
	for _, h := range all {
		if !strings.Contains(string(h.blob), `"target":"/mnt/a/b"`) {
			t.Errorf("the target is told as %s", h.blob)
		}
	}
}

// A next broker answers what is mounted with EIO, and lets go at the unmount.
func TestAdopt(t *testing.T) {
	w := newWorld(t)
	w.fake(t)
	fifo := filepath.Join(t.TempDir(), "go")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	g := w.start(t, `mkdir /mnt/d && mount -i -t cifs //nas/photos /mnt/d -o `+opts+`
		echo > `+fifo+`; read x < `+fifo+`
		ls /mnt/d; echo ls $?; umount /mnt/d; echo umount $?`)
	if _, err := os.ReadFile(fifo); err != nil {
		t.Fatal(err)
	}
	next := newWorld(t)
	for key, h := range w.keeper.all() {
		own, err := unix.FcntlInt(uintptr(h.fd), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		w.mounts[key].server.Abort() // it reads requests still: dead it would not
		if err := next.Adopt(key, own, h.blob); err != nil {
			t.Fatal(err)
		}
	}
	list := next.Mounts()
	if feature.Missing(feature.FuseResend) { // the connection ends with its last holder
		if len(list) != 0 {
			t.Errorf("%+v", list)
		}
	} else if len(list) != 1 || list[0].State != Failed || list[0].Source != "//nas/photos" || !strings.Contains(list[0].LastError, "restarted") {
		t.Errorf("%+v", list)
	}
	if err := os.WriteFile(fifo, []byte("\n"), 0); err != nil {
		t.Fatal(err)
	}
	if code := g.Wait(t); code != 0 {
		t.Error(code)
	}
	want(t, g.output(t), "Input/output error", "ls 2", "umount 0")
	next.settle(t)
}

// Drain ends what is still mounted, and no mount is made after it.
func TestDrain(t *testing.T) {
	w := newWorld(t)
	s := w.fake(t)
	fifo := filepath.Join(t.TempDir(), "go")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	g := w.start(t, `mkdir /mnt/d /mnt/e && mount -i -t cifs //nas/photos /mnt/d -o `+opts+`
		echo > `+fifo+`; read x < `+fifo+`
		ls /mnt/d/none; mount -i -t cifs //nas/photos /mnt/e -o `+opts+`; echo mount $?; umount /mnt/d`)
	if _, err := os.ReadFile(fifo); err != nil {
		t.Fatal(err)
	}
	if err := w.Drain(t.Context()); err != nil {
		t.Error(err)
	}
	if len(w.Mounts()) != 0 || s.closed.Load() != 1 || s.drained.Load() != 1 {
		t.Errorf("%v, %d closed, %d drained", w.Mounts(), s.closed.Load(), s.drained.Load())
	}
	if err := os.WriteFile(fifo, []byte("\n"), 0); err != nil {
		t.Fatal(err)
	}
	if code := g.Wait(t); code != 0 {
		t.Error(code)
	}
	want(t, g.output(t), "Input/output error", "mount 32")
}

// Exposed, a file system is served on a second mount; it ends with the first.
func TestExpose(t *testing.T) {
	w := newWorld(t)
	s := w.fake(t)
	fifo := filepath.Join(t.TempDir(), "go")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	g := w.start(t, `mkdir /mnt/d && mount -i -t cifs //nas/photos /mnt/d -o `+opts+`
		echo > `+fifo+`; read x < `+fifo+`; umount /mnt/d`)
	if _, err := os.ReadFile(fifo); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	fd, err := fuse.Mount(dir, fuse.MountConfig{Source: "lx"}, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Expose("/mnt/none", fd); err == nil {
		t.Fatal("what is not mounted was exposed")
	}
	if err := unix.Unmount(dir, 0); err != nil {
		t.Fatal(err)
	}
	if fd, err = fuse.Mount(dir, fuse.MountConfig{Source: "lx"}, 0); err != nil {
		t.Fatal(err)
	}
	if err := w.Expose("/mnt/d", fd); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(dir + "/none"); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
	if err := os.WriteFile(fifo, []byte("\n"), 0); err != nil {
		t.Fatal(err)
	}
	if code := g.Wait(t); code != 0 {
		t.Error(code)
	}
	w.settle(t)
	if _, err := os.Stat(dir + "/other"); !errors.Is(err, unix.EIO) {
		t.Error(err)
	}
	if s.closed.Load() != 1 {
		t.Error("the volume is open")
	}
	if err := unix.Unmount(dir, 0); err != nil {
		t.Error(err)
	}
}
