package nfs3

import (
	"context"
	"net"
	"testing"
	"time"

	"github.com/lxbridge/lx/integration/nfstest"
	"github.com/lxbridge/lx/mount/nfs/rpc"
	"github.com/lxbridge/lx/mount/volume"
	"github.com/lxbridge/lx/mount/volume/volumetest"
)

// config mounts an export of s as root.
func config(s *nfstest.Server, export string) Config {
	root := rpc.NewSys("client", 0, 0, nil)
	return Config{
		Calls: rpc.Config{
			Network: "tcp",
			Dial: func(ctx context.Context, network, addr string, _ int) (net.Conn, error) {
				return s.Dial(ctx, network, addr)
			},
			Timeout: 5 * time.Second,
		},
		Host: s.Host, Port: s.Port, MountPort: s.MountPort, Path: "/" + export,
		Auth: func(context.Context) rpc.Auth { return root }, Machine: "client", NoLocks: true,
	}
}

func dial(t testing.TB, c Config) volume.Volume {
	t.Helper()
	v, err := Dial(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestGaneshaContract(t *testing.T) {
	s := nfstest.New(t, nfstest.Options{Namespace: true})
	for name, change := range map[string]func(*Config){
		"plain":       func(*Config) {},
		"small":       func(c *Config) { c.ReadSize, c.WriteSize, c.NoReadDirPlus = 8192, 8192, true },
		"connections": func(c *Config) { c.Calls.Conns = 3 },
		"portmapper":  func(c *Config) { c.Port, c.MountPort, c.NoLocks = 0, 0, false },
		"udp":         func(c *Config) { c.MountPort, c.MountNetwork = 0, "udp" },
	} {
		t.Run(name, func(t *testing.T) {
			volumetest.Contract(t, func() volume.Volume {
				c := config(s, nfstest.Data)
				change(&c)
				return dial(t, c)
			})
		})
	}
}
