package nfs3

import (
	"context"
	"errors"
	"net"
	"strconv"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/lxbridge/lx/mount/nfs/rpc"
	"github.com/lxbridge/lx/mount/nfs/rpc/rpctest"
	"github.com/lxbridge/lx/mount/nfs/xdr"
	"github.com/lxbridge/lx/mount/volume"
)

// server plays mountd and NFS; do answers what it does not know.
func server(t *testing.T, do func(*rpctest.Call)) volume.Volume {
	t.Helper()
	s := rpctest.New(t, func(c *rpctest.Call) {
		switch {
		case c.Program == mountProgram:
			c.Reply(func(e *xdr.Encoder) {
				e.Uint32(0)
				e.String("root")
				e.Uint32(0)
			})
		case c.Proc == procGetattr:
			c.Reply(func(e *xdr.Encoder) {
				e.Uint32(0)
				attributes(e, 2)
			})
		case c.Proc == procFSInfo:
			c.Reply(func(e *xdr.Encoder) {
				for _, v := range []uint32{0, 0, 1 << 20, 1 << 20, 1, 1 << 20, 1 << 20, 1, 65536, 0, 0, 0, 1, 0x1b} {
					e.Uint32(v)
				}
			})
		case c.Proc == procPathconf:
			c.Reply(func(e *xdr.Encoder) { e.Uint32(errNotSupp); e.Uint32(0) })
		default:
			do(c)
		}
	})
	host, text, err := net.SplitHostPort(s.Addr)
	if err != nil {
		t.Fatal(err)
	}
	port, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	return dial(t, Config{
		Calls: rpc.Config{Dial: rpctest.Dial, Network: "tcp", Recovery: rpc.SoftErr, Timeout: 2 * time.Second, Retrans: -1},
		Host:  host, Port: port, MountPort: port, Path: "/x", NoLocks: true,
		Auth: func(context.Context) rpc.Auth { return rpc.None },
	})
}

// attributes encodes fattr3 of a file of type typ.
func attributes(e *xdr.Encoder, typ uint32) {
	e.Uint32(typ)
	for range attrSize/4 - 1 {
		e.Uint32(1)
	}
}

// TestListingForEver: a server whose cookies do not go on cannot keep a caller.
func TestListingForEver(t *testing.T) {
	v := server(t, func(c *rpctest.Call) {
		c.Reply(func(e *xdr.Encoder) {
			e.Uint32(0)
			e.Uint32(0)
			e.Uint64(0) // verifier
			e.Uint32(1)
			e.Uint64(1)
			e.String("again")
			e.Uint64(5)
			e.Bool(true)
			attributes(e, 1)
			e.Bool(true)
			e.String("again")
			e.Uint32(0)
			e.Uint32(0) // there is more
		})
	})
	defer v.Close()
	s, err := v.ReadDir(t.Context(), v.Root())
	if err != nil {
		t.Fatal(err)
	}
	entries, err := s.Next(t.Context())
	for err == nil {
		for _, e := range entries {
			v.Forget(e.Node)
		}
		entries, err = s.Next(t.Context())
	}
	if !errors.Is(err, syscall.EIO) {
		t.Error(err)
	}
	if n := len(v.(*Volume).nodes); n != 1 {
		t.Errorf("%d nodes are left", n)
	}
}

// uncommitted is a volume of a server that makes one file and takes what is written
// as not durable yet; commit answers COMMIT, or does not.
func uncommitted(t *testing.T, commit func(*rpctest.Call)) volume.Volume {
	t.Helper()
	return server(t, func(c *rpctest.Call) {
		switch c.Proc {
		case procCreate:
			c.Reply(func(e *xdr.Encoder) {
				e.Uint32(0)
				e.Bool(true)
				e.String("file")
				e.Bool(true)
				attributes(e, 1)
				e.Uint64(0)
			})
		case procWrite:
			c.Args.Opaque(maxHandle)
			c.Args.Uint64()
			n := c.Args.Uint32()
			c.Reply(func(e *xdr.Encoder) {
				for _, w := range []uint32{0, 0, 0, n, unstableHow, 1, 2} {
					e.Uint32(w)
				}
			})
		case procCommit:
			commit(c)
		}
	})
}

// TestCommitRefused: what the server refuses to make durable is told once, and
// not kept for ever.
func TestCommitRefused(t *testing.T) {
	const dquot = 69
	var refusal atomic.Uint32
	refusal.Store(uint32(syscall.ENOSPC))
	v := uncommitted(t, func(c *rpctest.Call) {
		c.Reply(func(e *xdr.Encoder) {
			if st := refusal.Load(); st != 0 {
				e.Uint32(st)
				e.Uint64(0)
				return
			}
			for _, w := range []uint32{0, 0, 0, 1, 2} {
				e.Uint32(w)
			}
		})
	})
	n, h := create(t, v, "f")
	write := func() {
		if _, err := h.WriteAt(t.Context(), []byte("data"), 0); err != nil {
			t.Error(err)
		}
	}
	write()
	if err := h.Sync(t.Context()); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("Sync: %v", err)
	}
	if err := h.Sync(t.Context()); err != nil {
		t.Errorf("the same loss is told twice: %v", err)
	}
	refusal.Store(dquot)
	write()
	if err := h.(volume.Flusher).Flush(t.Context()); !errors.Is(err, syscall.EDQUOT) {
		t.Errorf("what close(2) waits for: %v", err)
	}
	refusal.Store(0)
	write()
	if err := h.Close(t.Context()); err != nil {
		t.Error(err)
	}
	v.Forget(n)
	if err := v.Close(); err != nil {
		t.Error(err)
	}
}

// TestCommitHangs: who waits for somebody else's COMMIT, which is not answered,
// can be called off.
func TestCommitHangs(t *testing.T) {
	asked := make(chan struct{}, 1)
	v := uncommitted(t, func(*rpctest.Call) {
		select {
		case asked <- struct{}{}:
		default:
		}
	})
	n, h := create(t, v, "f")
	if _, err := h.WriteAt(t.Context(), []byte("data"), 0); err != nil {
		t.Fatal(err)
	}
	first, end := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- h.Sync(first) }()
	<-asked
	second, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := h.Sync(second); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the second: %v", err)
	}
	select {
	case err := <-done:
		t.Errorf("the first ended before the second: %v", err)
	default:
	}
	end()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("the first: %v", err)
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if err := h.Close(gone); err == nil {
		t.Error("what was not committed is not told at Close")
	}
	v.Forget(n)
	if err := v.Close(); err != nil { // nothing is kept any more
		t.Error(err)
	}
}
