package nfs4

import (
	"bytes"
	"fmt"
	"os"
	"sync"
	"syscall"
	"testing"

	"github.com/lxbridge/lx/core/fuse"
	"github.com/lxbridge/lx/integration/nfstest"
	"github.com/lxbridge/lx/mount/volume"
	"github.com/lxbridge/lx/mount/volume/lock"
)

// TestGaneshaRestart: files stay open, what was written and not committed is
// written again, and locks are still held, whatever happens to the server.
func TestGaneshaRestart(t *testing.T) {
	s := nfstest.New(t, nfstest.Options{No3: true})
	for _, minor := range []uint32{2, 0} {
		t.Run(fmt.Sprintf("4.%d", minor), func(t *testing.T) { restart(t, s, minor) })
	}
}

func restart(t *testing.T, s *nfstest.Server, minor uint32) {
	ctx := t.Context()
	cfg := config(s, nfstest.Data, minor)
	cfg.Note = func(err error) { t.Log(err) }
	v := dial(t, cfg)
	_, _, h, err := v.Create(ctx, v.Root(), "restart", os.O_RDWR|os.O_EXCL, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	data := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	if _, err := h.WriteAt(ctx, data, 0); err != nil {
		t.Fatal(err)
	}
	all := fuse.Lk{End: lock.EOF, Type: syscall.F_WRLCK}
	if err := v.Setlk(ctx, h, 1, all, false); err != nil {
		t.Fatal(err)
	}
	if err := s.Kill(); err != nil {
		t.Fatal(err)
	}
	// Calls that are made meanwhile wait.
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			if _, err := h.WriteAt(ctx, data[:4096], int64(len(data)+i*4096)); err != nil {
				t.Errorf("write: %v", err)
			}
		})
	}
	if err := s.Restart(ctx); err != nil {
		t.Fatal(err)
	}
	wg.Wait()
	if err := h.Sync(ctx); err != nil {
		t.Fatalf("sync: %v", err)
	}
	got := make([]byte, len(data)+8*4096)
	if k, err := h.ReadAt(ctx, got, 0); err != nil || k != len(got) || !bytes.Equal(got[:len(data)], data) {
		t.Errorf("after the restart: %d bytes, %v", k, err)
	}
	cfg.Owner = "other"
	other := dial(t, cfg)
	n, _, err := other.Lookup(ctx, other.Root(), "restart")
	if err != nil {
		t.Fatal(err)
	}
	oh, err := other.Open(ctx, n, os.O_RDWR)
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Setlk(ctx, oh, 1, all, false); volume.Errno(err) != syscall.EAGAIN {
		t.Errorf("another client's lock after the restart: %v, want EAGAIN", err)
	}
	done := make(chan error, 1)
	go func() { done <- other.Setlk(ctx, oh, 1, all, true) }()
	if err := v.Setlk(ctx, h, 1, fuse.Lk{End: lock.EOF, Type: syscall.F_UNLCK}, false); err != nil {
		t.Errorf("unlock: %v", err)
	}
	if err := <-done; err != nil {
		t.Errorf("the other's wait: %v", err)
	}
	for _, h := range []volume.Handle{h, oh} {
		if err := h.Close(ctx); err != nil {
			t.Errorf("close: %v", err)
		}
	}
	if err := v.Unlink(ctx, v.Root(), "restart"); err != nil {
		t.Error(err)
	}
}
