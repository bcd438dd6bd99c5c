package netcli

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"

	"github.com/lxbridge/lx/core/ns/nstest"
)

// The tests have a network namespace of their own, where every port is free.
func TestMain(m *testing.M) {
	if !nstest.IsInside() {
		os.Exit(nstest.Main(unix.CLONE_NEWNET, 1))
	}
	testscript.Main(m, map[string]func(){
		"lxnet":  func() { os.Exit(Main(os.Args[1:])) },
		"listen": listen,
		"second": listen,
	})
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
			e.Setenv(nstest.Inside, "1")
			e.Setenv("HOME", e.WorkDir)
			return nil
		},
	})
}
