package serve

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lxbridge/lx/core/fuse"
	"github.com/lxbridge/lx/core/guest"
	"github.com/lxbridge/lx/core/ns/nstest"
	"github.com/lxbridge/lx/mount/memvol"
	"github.com/lxbridge/lx/mount/volume"
)

// The tests mount, so they run in a user and mount namespace of their own; what
// they mount is served by a process of its own, as it is in life.
const (
	roleVar = "LX_SERVE_TEST_ROLE" // the variant that a server serves
	dirVar  = "LX_SERVE_TEST_DIR"
)

func TestMain(m *testing.M) {
	if !nstest.IsInside() {
		os.Exit(nstest.Main(unix.CLONE_NEWNS, 1))
	}
	role := os.Getenv(roleVar)
	if role == "" {
		os.Exit(m.Run())
	}
	if err := serveVariant(variants[role], os.Getenv(dirVar)); err != nil {
		fmt.Fprintln(os.Stderr, "server:", err)
		os.Exit(1)
	}
}

// variant is a volume and how it is served.
type variant struct {
	vol  func() volume.Volume
	opts Options
	wire fuse.Config
	list bool // answer look-ups from listings, however quick the volume is
}

func memory() volume.Volume { return memvol.New(memvol.Options{Size: 1 << 30}) }

// poor is a volume as SMB's: no abilities, no open files without a name, times
// of 1 s, no file ids, listings without attributes.
func poor() volume.Volume {
	return &fake{Volume: memory(), features: func(f *volume.Features) {
		f.UnlinkOpen, f.RealModes, f.TimeGranularity = false, false, time.Second
	}, bare: true}
}

var variants = map[string]variant{
	"strict": {vol: memory, list: true},
	"none":   {vol: memory, opts: Options{Cache: None}},
	"loose":  {vol: memory, opts: Options{Cache: Loose}, wire: fuse.Config{Writeback: true}},
	"asked little": {vol: func() volume.Volume { return &fake{Volume: memory(), most: map[string]int{"getattr": fewGetattrs}} },
		opts: Options{AttrTimeout: time.Hour, Unseen: func(c fuse.Caller) bool { return guest.Thread{TID: int(c.PID)}.InNameCall() }}},
	"poor": {vol: poor, wire: fuse.Config{TimeGran: time.Second}},
}

// serveVariant mounts v at dir and serves it until it is unmounted.
func serveVariant(v variant, dir string) error {
	vol := v.vol()
	v.opts.Note = func(err error) { fmt.Fprintln(os.Stderr, "note:", err) }
	fs := New(vol, v.opts)
	if v.list {
		fs.slow = 0
	}
	srv, err := fuse.New(fs, v.wire)
	if err != nil {
		return err
	}
	fs.SetNotifier(srv)
	dev, err := fuse.Mount(dir, fuse.MountConfig{Source: "test", Subtype: "lx.test", AllowOther: true, DefaultPermissions: true}, 0)
	if err != nil {
		return err
	}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(context.Background(), dev) }()
	<-srv.Ready()
	fmt.Println("ready")
	err = errors.Join(<-served, fs.Drain(context.Background()))
	if s := fs.Stats(); s.Dirty != 0 || s.Ahead != 0 {
		err = errors.Join(err, fmt.Errorf("%d bytes dirty, %d read ahead at the end", s.Dirty, s.Ahead))
	}
	if n := len(fs.inodes); n != 1 {
		err = errors.Join(err, fmt.Errorf("%d inodes at the end", n))
	}
	if f, ok := vol.(*fake); ok {
		err = errors.Join(err, f.balance())
	}
	return errors.Join(err, vol.Close())
}

// mounted is a variant mounted until the test ends.
func mounted(t *testing.T, name string) string {
	t.Helper()
	dir := t.TempDir()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), roleVar+"="+name, dirVar+"="+dir)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Errorf("umount: %v", err)
			unix.Unmount(dir, unix.MNT_DETACH|unix.MNT_FORCE)
		}
		if err := cmd.Wait(); err != nil {
			t.Errorf("the server: %v", err)
		}
		if stderr.Len() > 0 {
			t.Log(stderr.String())
		}
	})
	if _, err := io.ReadFull(out, make([]byte, len("ready\n"))); err != nil {
		t.Fatalf("the server does not start: %v: %s", err, stderr.String())
	}
	return dir
}
