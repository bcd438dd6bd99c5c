package nfs3

import (
	"bytes"
	"context"
	"errors"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	krb5config "github.com/jcmturner/gokrb5/v8/config"
	"github.com/jcmturner/gokrb5/v8/keytab"

	"github.com/lxbridge/lx/integration/krb5test"
	"github.com/lxbridge/lx/integration/nfstest"
	"github.com/lxbridge/lx/mount/nfs/rpc"
	"github.com/lxbridge/lx/mount/nfs/rpc/gss"
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

// TestGaneshaKerberos: the contract holds whatever protects the calls, and the
// server's contexts are set up anew when it has forgotten them.
func TestGaneshaKerberos(t *testing.T) {
	realm := krb5test.New(t)
	s := nfstest.New(t, nfstest.Options{Keytab: realm.Keytab(t, "nfs/server.lx.test"), KerberosConfig: realm.Config})
	kt, err := keytab.Load(realm.Keytab(t, "root/client.lx.test"))
	if err != nil {
		t.Fatal(err)
	}
	conf, err := krb5config.Load(realm.Config)
	if err != nil {
		t.Fatal(err)
	}
	tickets := gss.FromKeytab("root/client.lx.test", krb5test.Name, kt, conf)
	tickets.Dial = new(net.Dialer).DialContext
	for name, service := range map[string]gss.Service{"krb5": gss.Krb5, "krb5i": gss.Krb5i, "krb5p": gss.Krb5p} {
		t.Run(name, func(t *testing.T) {
			c := config(s, nfstest.Kerberos)
			calls := c.Calls
			calls.Addr, calls.Program, calls.Version = s.Addr(), program, version
			auth, err := gss.New(t.Context(), gss.Config{Tickets: tickets, Principal: "nfs/server.lx.test", Service: service, Calls: calls})
			if err != nil {
				t.Fatal(err)
			}
			c.Auth, c.Flavor = func(context.Context) rpc.Auth { return auth }, service.Flavor()
			if service == gss.Krb5p { // the contract holds with the others, too, but takes its time
				volumetest.Contract(t, func() volume.Volume { return dial(t, c) })
			}
			if err := auth.Close(t.Context()); err != nil {
				t.Error(err)
			}
			// The server does not know the context any more.
			v := dial(t, c)
			n, h := create(t, v, name)
			data := bytes.Repeat([]byte("0123456789"), 200_000)
			_, err = h.WriteAt(t.Context(), data, 0)
			got := make([]byte, len(data))
			_, err2 := h.ReadAt(t.Context(), got, 0)
			if err := errors.Join(err, err2, h.Close(t.Context())); err != nil || !bytes.Equal(got, data) {
				t.Errorf("other data: %v", err)
			}
			v.Forget(n)
			if err := v.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	c := config(s, nfstest.Kerberos)
	if _, err := Dial(t.Context(), c); !errors.Is(err, syscall.EACCES) || !strings.Contains(err.Error(), "sec=krb5") {
		t.Errorf("without Kerberos: %v", err)
	}
}

func TestGaneshaContract(t *testing.T) {
	s := nfstest.New(t, nfstest.Options{Namespace: true})
	for name, change := range map[string]func(*Config){
		"plain": func(*Config) {},
		"small, UDP": func(c *Config) {
			c.ReadSize, c.WriteSize, c.NoReadDirPlus, c.MountPort, c.MountNetwork = 8192, 8192, true, 0, "udp"
		},
		"portmapper, connections": func(c *Config) { c.Port, c.MountPort, c.NoLocks, c.Calls.Conns = 0, 0, false, 3 },
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
