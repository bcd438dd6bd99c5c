package netcli

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"
)

// insideVar marks processes in the tests' own network namespace, where every
// port is free.
const insideVar = "NETCLI_TEST_INSIDE"

func TestMain(m *testing.M) {
	if os.Getenv(insideVar) != "" {
		testscript.Main(m, map[string]func(){
			"lxnet":  func() { os.Exit(Main(os.Args[1:])) },
			"listen": listen,
			"second": listen,
		})
		return
	}
	code, err := outside()
	if err != nil {
		fmt.Fprintln(os.Stderr, "netcli:", err)
		code = 1
	}
	os.Exit(code)
}

func outside() (int, error) {
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), insideVar+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWUSER | unix.CLONE_NEWNET,
		UidMappings: []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}},
		Pdeathsig:   unix.SIGKILL,
	}
	err := cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exit.ExitCode(), nil
	}
	return 0, err
}

// listen holds a port until it is ended: listen NETWORK ADDRESS.
func listen() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	var c net.ListenConfig
	c.SetMultipathTCP(false)
	l, err := c.Listen(ctx, os.Args[1], os.Args[2])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	defer l.Close()
	<-ctx.Done()
}

func TestScripts(t *testing.T) {
	if out, err := exec.Command("ip", "link", "set", "lo", "up").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(e *testscript.Env) error {
			e.Setenv(insideVar, "1")
			e.Setenv("HOME", e.WorkDir)
			return nil
		},
	})
}
