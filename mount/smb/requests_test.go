package smb

import (
	"context"
	"encoding/binary"
	"net"
	"os"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/lxbridge/lx/integration/smbtest"
	"github.com/lxbridge/lx/mount/volume"
)

// counted counts the requests on a connection: messages begin with their
// length (MS-SMB2 2.1).
type counted struct {
	net.Conn
	left     int // bytes of a message that are still to come; its sender's own
	requests *atomic.Int64
}

func (c *counted) Write(p []byte) (int, error) {
	if c.left == 0 {
		c.left = 4 + int(binary.BigEndian.Uint32(p))
		c.requests.Add(1)
	}
	c.left -= len(p)
	return c.Conn.Write(p)
}

// TestRequests: what an operation asks of the server is what it costs where the
// way is long. The transport opens by path, knows no compounds, and keeps what
// the server says of a file that it opens to itself.
func TestRequests(t *testing.T) {
	s := smbtest.New(t, smbtest.Options{})
	var requests atomic.Int64
	c := config(s, smbtest.Data)
	dialTCP := c.Dial
	c.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := dialTCP(ctx, network, addr)
		return &counted{Conn: conn, requests: &requests}, err
	}
	v := dial(t, c)
	ctx, root := t.Context(), v.Root()
	costs := func(what string, want int64, do func() error) {
		t.Helper()
		before := requests.Load()
		if err := do(); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		if n := requests.Load() - before; n != want {
			t.Errorf("%s takes %d requests, want %d", what, n, want)
		}
	}
	var n volume.Node
	var h volume.Handle
	costs("create", 2, func() (err error) { // CREATE, QUERY_INFO
		n, _, h, err = v.Create(ctx, root, "f", os.O_RDWR|os.O_EXCL, 0o644)
		return err
	})
	costs("write", 1, func() error { _, err := h.WriteAt(ctx, make([]byte, 1<<20), 0); return err })
	costs("read", 1, func() error { _, err := h.ReadAt(ctx, make([]byte, 1<<20), 0); return err })
	costs("stat of an open file", 1, func() error { _, err := v.Getattr(ctx, n, h); return err })
	costs("close", 1, func() error { return h.Close(ctx) })
	costs("stat", 2, func() error { _, err := v.Getattr(ctx, n, nil); return err }) // CREATE, CLOSE
	costs("open", 1, func() (err error) { h, err = v.Open(ctx, n, os.O_RDONLY); return err })
	costs("close", 1, func() error { return h.Close(ctx) })
	costs("look-up", 2, func() error {
		n, _, err := v.Lookup(ctx, root, "f")
		if err == nil {
			v.Forget(n)
		}
		return err
	})
	costs("look-up of nothing", 1, func() error {
		_, _, err := v.Lookup(ctx, root, "none")
		wantErrno(t, "look-up of nothing", err, syscall.ENOENT)
		return nil
	})
	costs("listing", 4, func() error { list(t, v, root); return nil }) // CREATE, twice QUERY_DIRECTORY, CLOSE
	costs("rename", 3, func() error { return v.Rename(ctx, root, "f", root, "g", 0) })
	costs("unlink", 3, func() error { return v.Unlink(ctx, root, "g") }) // CREATE, SET_INFO, CLOSE
	v.Forget(n)
}
