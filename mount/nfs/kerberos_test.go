package nfs

import (
	"context"
	"errors"
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/jcmturner/gokrb5/v8/config"
	"github.com/jcmturner/gokrb5/v8/keytab"

	"github.com/lxbridge/lx/integration/krb5test"
	"github.com/lxbridge/lx/integration/nfstest"
	"github.com/lxbridge/lx/mount/nfs/rpc"
	"github.com/lxbridge/lx/mount/nfs/rpc/gss"
)

// TestGaneshaKerberos: each version mounts with each flavour of Kerberos, and
// one that refuses AUTH_SYS does not without.
func TestGaneshaKerberos(t *testing.T) {
	realm := krb5test.New(t)
	s := nfstest.New(t, nfstest.Options{Keytab: realm.Keytab(t, "nfs/server.lx.test"), KerberosConfig: realm.Config})
	keys, err := keytab.Load(realm.Keytab(t, "root/client.lx.test"))
	if err != nil {
		t.Fatal(err)
	}
	conf, err := config.Load(realm.Config)
	if err != nil {
		t.Fatal(err)
	}
	sys := rpc.NewSys("client", 0, 0, nil)
	c := Config{
		Dial: func(ctx context.Context, network, addr string, _ int) (net.Conn, error) {
			return s.Dial(ctx, network, addr)
		},
		Network: "tcp", Host: s.Host, Port: s.Port, MountPort: s.MountPort, Path: "/" + nfstest.Kerberos, NoLocks: true,
		Auth: func(context.Context) rpc.Auth { return sys }, Machine: "client", Timeout: 5 * time.Second, Reserved: Never,
		Principal: "nfs/server.lx.test", Note: func(error) {},
		Tickets: func(context.Context) (*gss.Tickets, error) {
			t := gss.FromKeytab("root/client.lx.test", krb5test.Name, keys, conf)
			t.Dial = new(net.Dialer).DialContext
			return t, nil
		},
	}
	for _, version := range []Version{V42, V41, V40, V3} {
		for _, flavour := range []string{"krb5", "krb5i", "krb5p"} {
			t.Run(string(version)+" "+flavour, func(t *testing.T) {
				c.Versions, c.Flavours = []Version{version}, []string{flavour}
				v, _, err := Dial(t.Context(), c)
				if err != nil {
					t.Fatal(err)
				}
				n, _, h, err := v.Create(t.Context(), v.Root(), "f", os.O_RDWR, 0o600)
				if err != nil {
					t.Fatal(err)
				}
				p := make([]byte, 7)
				_, err = h.WriteAt(t.Context(), []byte("content"), 0)
				_, err2 := h.ReadAt(t.Context(), p, 0)
				if err := errors.Join(err, err2, h.Close(t.Context())); err != nil || string(p) != "content" {
					t.Errorf("%q, %v", p, err)
				}
				v.Forget(n)
				if err := v.Close(); err != nil {
					t.Error(err)
				}
			})
		}
	}
	c.Versions, c.Flavours = Versions(""), nil
	if _, _, err := Dial(t.Context(), c); !errors.Is(err, syscall.EACCES) && !errors.Is(err, syscall.EPERM) {
		t.Errorf("without Kerberos: %v", err)
	}
}
