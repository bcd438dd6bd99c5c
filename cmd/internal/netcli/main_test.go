package netcli

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"syscall"
	"testing"
	"time"

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
		"fetch":  fetch,
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

// fetch prints the answer of /metrics, once somebody serves it: fetch NETWORK
// ADDRESS [TOKEN].
func fetch() {
	dial := func(ctx context.Context, _, _ string) (c net.Conn, err error) {
		for end := time.Now().Add(20 * time.Second); ; runtime.Gosched() {
			if c, err = new(net.Dialer).DialContext(ctx, os.Args[1], os.Args[2]); err == nil || time.Now().After(end) {
				return c, err
			}
		}
	}
	req, err := http.NewRequest(http.MethodGet, "http://lx/metrics", nil)
	if err == nil {
		if len(os.Args) > 3 {
			req.Header.Set("Authorization", "Bearer "+os.Args[3])
		}
		var resp *http.Response
		if resp, err = (&http.Client{Transport: &http.Transport{DialContext: dial}}).Do(req); err == nil {
			fmt.Println(resp.Status)
			_, err = io.Copy(os.Stdout, resp.Body)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
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
