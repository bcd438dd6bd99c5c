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

	"github.com/lxbridge/lx/core/fuse"
	"github.com/lxbridge/lx/mount/nfs/rpc"
	"github.com/lxbridge/lx/mount/nfs/rpc/rpctest"
	"github.com/lxbridge/lx/mount/nfs/xdr"
	"github.com/lxbridge/lx/mount/volume/lock"
)

// TestLockGivenUp: a lock that the server grants when its caller has left is
// undone before the owner's next call, and who waits for the server's answer
// to an unlock can be called off.
func TestLockGivenUp(t *testing.T) {
	var locked, silent atomic.Bool
	asked, answer := make(chan struct{}), make(chan struct{})
	of := server(t, func(c *rpctest.Call) {
		if c.Program != nlmProgram {
			c.Reply(func(e *xdr.Encoder) { // COMMIT
				for range 5 {
					e.Uint32(0)
				}
			})
			return
		}
		switch c.Proc {
		case nlmLock:
			select {
			case asked <- struct{}{}:
				<-answer
			default:
			}
			locked.Store(true)
		case nlmUnlock:
			if silent.Load() {
				return
			}
			locked.Store(false)
		}
		c.Reply(func(e *xdr.Encoder) { e.Opaque(nil); e.Uint32(uint32(nlmGranted)) })
	}).(*Volume)
	client, err := rpc.Dial(t.Context(), rpc.Config{Dial: rpctest.Dial, Network: "tcp", Program: nlmProgram, Version: nlmVersion,
		Addr: net.JoinHostPort(of.cfg.Host, strconv.Itoa(of.cfg.Port))})
	if err != nil {
		t.Fatal(err)
	}
	l := newLocks(of)
	l.client = client
	h := of.newHandle(t.Context(), of.root, syscall.O_RDWR)
	all := held{7, h, fuse.Lk{Type: syscall.F_WRLCK, End: lock.EOF}}

	ctx, cancel := context.WithCancel(t.Context())
	first := make(chan error)
	go func() { first <- l.set(ctx, of.root, all, true) }()
	<-asked
	cancel()
	if err := <-first; !errors.Is(err, context.Canceled) {
		t.Errorf("the lock that is given up: %v", err)
	}
	second := make(chan error)
	go func() { second <- l.set(t.Context(), of.root, all, true) }()
	close(answer)
	if err := <-second; err != nil {
		t.Fatal(err)
	}
	if !locked.Load() || len(l.of(of.root, 7)) != 1 {
		t.Errorf("the owner that locked again has it at the server: %v, here: %v", locked.Load(), l.of(of.root, 7))
	}

	silent.Store(true)
	all.Type = syscall.F_UNLCK
	ctx, cancel = context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := l.set(ctx, of.root, all, false); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("an unlock that is not answered: %v", err)
	}
	l.close()
	if err := of.Close(); err != nil {
		t.Error(err)
	}
}
