package nfs

import (
	"context"
	"errors"
	"net"
	"os"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/lxbridge/lx/mount/nfs/nfs4/nfs4test"
	"github.com/lxbridge/lx/mount/nfs/rpc"
	"github.com/lxbridge/lx/mount/volume"
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
	c.Path = "/"
	if v, _, err = Dial(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]syscall.Errno{"circle": syscall.ELOOP, "nowhere": syscall.EREMOTE} {
		c.Path = "/" + name
		if _, _, err := Dial(t.Context(), c); !errors.Is(err, want) {
			t.Errorf("mount %s: %v, want %v", name, err, want)
		}
		if _, _, err := v.Lookup(t.Context(), v.Root(), name); !errors.Is(err, want) {
			t.Errorf("look %s up: %v, want %v", name, err, want)
		}
	}
	// Below the mounted directory the way leads there by itself: all who ask at
	// once find one directory, whose files are not those of this side.
	var found [8]volume.Node
	var asking sync.WaitGroup
	for i := range found {
		asking.Go(func() {
			var err error
			if found[i], _, err = v.Lookup(t.Context(), v.Root(), "moved"); err != nil {
				t.Error(err)
			}
		})
	}
	asking.Wait()
	there := found[0]
	if slices.ContainsFunc(found[:], func(n volume.Node) bool { return n != there }) || there == v.Root() {
		t.Errorf("found %v from %v", found, v.Root())
	}
	near, a, err := v.Lookup(t.Context(), v.Root(), "f")
	if err != nil {
		t.Fatal(err)
	}
	far, b, err := v.Lookup(t.Context(), there, "f")
	if err != nil {
		t.Fatal(err)
	}
	if near == far || a.FileID == b.FileID {
		t.Errorf("one file by both ways: %d, %d", a.FileID, b.FileID)
	}
	if err := v.Rename(t.Context(), v.Root(), "f", there, "g", 0); !errors.Is(err, syscall.EXDEV) {
		t.Errorf("rename from here to there: %v", err)
	}
	if h, err = v.Open(t.Context(), far, os.O_RDWR); err != nil {
		t.Fatal(err)
	}
	_, err = h.WriteAt(t.Context(), []byte("there"), 0)
	if err := errors.Join(err, h.Sync(t.Context()), h.Close(t.Context())); err != nil {
		t.Error(err)
	}
	if a, err := v.Getattr(t.Context(), near, nil); err != nil || a.Size != 5 {
		t.Errorf("%d bytes, %v", a.Size, err)
	}
	if err := v.Close(); err != nil {
		t.Error(err)
	}
}
