package fuse

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/lxbridge/lx/core/fuse/fusetest"
)

// The tests mount, so they run in a user and mount namespace of their own.
const inNamespace = "LX_FUSE_TEST_NAMESPACE"

func TestMain(m *testing.M) {
	if os.Getenv(inNamespace) != "" {
		if role := os.Getenv(roleEnv); role != "" {
			os.Exit(roles[role]())
		}
		os.Exit(m.Run())
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), inNamespace+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
		Pdeathsig:   syscall.SIGKILL,
	}
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		os.Exit(exit.ExitCode())
	case err != nil:
		fmt.Fprintln(os.Stderr, "cannot run the tests in a user namespace:", err)
		os.Exit(1)
	}
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
