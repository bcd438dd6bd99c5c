package nfs4

import (
	"context"
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/lxbridge/lx/integration/nfstest"
	"github.com/lxbridge/lx/mount/nfs/rpc"
	"github.com/lxbridge/lx/mount/volume"
	"github.com/lxbridge/lx/mount/volume/volumetest"
)

// config is of a client of s that is root.
func config(s *nfstest.Server, export string, minor uint32) Config {
	root := rpc.NewSys("client", 0, 0, nil)
	return Config{
		RPC: rpc.Config{Network: "tcp", Addr: s.Addr(), Timeout: 20 * time.Second,
			Dial: func(ctx context.Context, network, addr string, _ int) (net.Conn, error) {
				return s.Dial(ctx, network, addr)
			}},
		Minor: minor, Path: "/" + export, Owner: "test",
		Auth: func(context.Context) rpc.Auth { return root },
	}
}

// dial is a volume that is closed by the test's end.
func dial(t testing.TB, cfg Config) *Volume {
	t.Helper()
	v, err := Dial(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := v.Close(); err != nil {
			t.Error(err)
		}
	})
	return v
}

func TestGaneshaContract(t *testing.T) {
	s := nfstest.New(t, nfstest.Options{No3: true})
	for _, minor := range []uint32{2, 1, 0} {
		t.Run(fmt.Sprintf("4.%d", minor), func(t *testing.T) {
			volumetest.Contract(t, func() volume.Volume {
				cfg := config(s, nfstest.Data, minor)
				cfg.Note = func(err error) { t.Log(err) }
				v, err := Dial(t.Context(), cfg)
				if err != nil {
					t.Fatal(err)
				}
				return v
			})
		})
	}
}
