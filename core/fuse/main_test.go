package fuse

import (
	"context"
	"errors"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/lxbridge/lx/core/fuse/fusetest"
	"github.com/lxbridge/lx/core/ns/nstest"
)

// The tests mount, so they run in a user and mount namespace of their own.
func TestMain(m *testing.M) {
	if !nstest.IsInside() {
		os.Exit(nstest.Main(unix.CLONE_NEWNS, 1))
	}
	if role := os.Getenv(roleEnv); role != "" {
		os.Exit(roles[role]())
	}
	os.Exit(m.Run())
}

// roleEnv makes the test binary play a part of a test: a key of roles.
const roleEnv = "LX_FUSE_TEST_ROLE"

var roles = map[string]func() int{}

// serve mounts fs until the test ends, where it checks that Serve ends well.
func serve(t testing.TB, fs FileSystem, cfg Config) (dir string, s *Server) {
	t.Helper()
	return serveMount(t, fs, cfg, MountConfig{Source: "test", Subtype: "lx.test", AllowOther: true, DefaultPermissions: true})
}

func serveMount(t testing.TB, fs FileSystem, cfg Config, mount MountConfig) (dir string, s *Server) {
	t.Helper()
	dir = t.TempDir()
	s, err := New(fs, cfg)
	if err != nil {
		t.Fatal(err)
	}
	dev, err := Mount(dir, mount, 0)
	if err != nil {
		t.Fatal(err)
	}
	if m, ok := fs.(*memfs); ok {
		m.server = s
	}
	go s.Serve(context.Background(), dev)
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) {
			t.Error(err)
		}
		if err := s.Wait(); err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return dir, s
}

func open(t testing.TB, name string, flags int) *os.File {
	t.Helper()
	f, err := fusetest.OpenFile(name, flags, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	return f
}
