package nfs

import (
	"context"
	"errors"
	"net"
	"os"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/lxbridge/lx/mount/nfs/nfs4/nfs4test"
	"github.com/lxbridge/lx/mount/nfs/rpc"
)

// TestReferral: a path that another server has is mounted from there.
func TestReferral(t *testing.T) {
	s := nfs4test.New(t)
	_, port, err := net.SplitHostPort(s.Addr())
	if err != nil {
		t.Fatal(err)
	}
	var d net.Dialer
	sys := rpc.NewSys("client", 1000, 1000, nil)
	c := Config{
		Dial: func(ctx context.Context, network, addr string, _ int) (net.Conn, error) {
			return d.DialContext(ctx, network, addr)
		},
		Network: "tcp", Host: "127.0.0.1", Versions: []Version{V41}, Auth: func(context.Context) rpc.Auth { return sys },
		Machine: "client", Timeout: 5 * time.Second, Reserved: Never, Note: func(error) {},
	}
	if c.Port, err = strconv.Atoi(port); err != nil {
		t.Fatal(err)
	}
	s.Refer("moved", "127.0.0.1") // to its root
	s.Refer("circle", "127.0.0.1", "circle")
	s.Refer("nowhere", "")

	c.Path = "/moved"
	v, _, err := Dial(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	_, _, h, err := v.Create(t.Context(), v.Root(), "f", os.O_RDWR, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(h.Close(t.Context()), v.Close()); err != nil {
		t.Error(err)
	}
	for path, want := range map[string]syscall.Errno{"/circle": syscall.ELOOP, "/nowhere": syscall.EREMOTE} {
		c.Path = path
		if _, _, err := Dial(t.Context(), c); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", path, err, want)
		}
	}
}
