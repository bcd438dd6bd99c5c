package nfs3

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/lxbridge/lx/core/fuse"
	"github.com/lxbridge/lx/integration/nfstest"
	"github.com/lxbridge/lx/mount/volume"
	"github.com/lxbridge/lx/mount/volume/lock"
)

func create(t *testing.T, v volume.Volume, name string) (volume.Node, volume.Handle) {
	t.Helper()
	n, _, h, err := v.Create(t.Context(), v.Root(), name, os.O_RDWR, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	return n, h
}

// TestGaneshaRestart: the server dies under writers; nothing is lost that Sync
// promised, and writes that it had not committed are done again.
func TestGaneshaRestart(t *testing.T) {
	s := nfstest.New(t, nfstest.Options{})
	v := dial(t, config(s, nfstest.Data))
	defer v.Close()
	const writers, rounds, size = 4, 30, 100_000
	half := make(chan struct{}, writers)
	var wg sync.WaitGroup
	for w := range writers {
		n, h := create(t, v, string(rune('a'+w)))
		wg.Go(func() {
			defer v.Forget(n)
			for i := range rounds {
				if i == rounds/2 {
					half <- struct{}{}
				}
				if _, err := h.WriteAt(t.Context(), bytes.Repeat([]byte{byte(w*rounds + i)}, size), int64(i*size)); err != nil {
					t.Error(err)
				}
				if i%7 == 6 {
					if err := h.Sync(t.Context()); err != nil {
						t.Error(err)
					}
				}
			}
			if err := h.Close(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	for range writers {
		<-half
	}
	if err := s.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := s.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	wg.Wait()
	for w := range writers {
		got, err := os.ReadFile(filepath.Join(s.Path(nfstest.Data), string(rune('a'+w))))
		if err != nil {
			t.Fatal(err)
		}
		for i := range rounds {
			if !bytes.Equal(got[i*size:(i+1)*size], bytes.Repeat([]byte{byte(w*rounds + i)}, size)) {
				t.Errorf("writer %d, round %d: other data", w, i)
			}
		}
	}
	if n := v.(*Volume).unsafe.Load(); n != 0 {
		t.Errorf("%d bytes are kept after all was committed", n)
	}
}

// TestGaneshaReplay: what was written, and not committed when the server went
// away, is at the new one after Sync though the old one has lost it.
func TestGaneshaReplay(t *testing.T) {
	s := nfstest.New(t, nfstest.Options{})
	started := time.Now()
	v := dial(t, config(s, nfstest.Data))
	defer v.Close()
	n, h := create(t, v, "f")
	defer v.Forget(n)
	for i, text := range []string{"aaaa", "bb", "c"} {
		if _, err := h.WriteAt(t.Context(), []byte(text), int64(i)); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Kill(); err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(s.Path(nfstest.Data), "f")
	if err := os.Truncate(name, 0); err != nil { // as if its cache had been lost
		t.Fatal(err)
	}
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for time.Now().Unix() == started.Unix() { // ganesha's verifier is the second of its start
		<-tick.C
	}
	if err := s.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := h.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(name); err != nil || string(got) != "abca" {
		t.Errorf("after the restart: %q, %v", got, err)
	}
	if err := h.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestGaneshaLocks: two mounts contend; a lock survives the server's restart,
// and one that somebody else has got meanwhile is reported lost.
func TestGaneshaLocks(t *testing.T) {
	s := nfstest.New(t, nfstest.Options{Namespace: true, Grace: true, Lease: 2 * time.Second})
	mount := func(machine string) volume.Volume {
		c := config(s, nfstest.Data)
		c.NoLocks, c.Machine = false, machine
		return dial(t, c)
	}
	one, two := mount("one"), mount("two")
	defer one.Close()
	defer two.Close()
	n1, h1 := create(t, one, "locked")
	defer one.Forget(n1)
	n2, h2 := create(t, two, "locked")
	defer two.Forget(n2)
	all := fuse.Lk{Type: syscall.F_WRLCK, End: lock.EOF}
	set := func(v volume.Volume, h volume.Handle, lk fuse.Lk, wait bool) error {
		return v.(volume.Locker).Setlk(t.Context(), h, 7, lk, wait)
	}
	if err := set(one, h1, all, false); err != nil {
		t.Fatal(err)
	}
	if err := set(two, h2, all, false); !errors.Is(err, syscall.EAGAIN) {
		t.Fatalf("a lock of two owners: %v", err)
	}
	if err := s.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := s.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	// One says nothing; it finds out by its connection. Two wants the lock and
	// must not get it, not even when the grace period is over.
	if err := set(two, h2, all, false); !errors.Is(err, syscall.EAGAIN) {
		t.Errorf("after the restart another gets the lock: %v", err)
	}
	got := make(chan error, 1)
	wanted := all
	go func() { got <- set(two, h2, wanted, true) }()
	if _, err := h1.WriteAt(t.Context(), []byte("x"), 0); err != nil {
		t.Error(err)
	}
	all.Type = syscall.F_UNLCK
	if err := set(one, h1, all, false); err != nil {
		t.Error(err)
	}
	if err := <-got; err != nil {
		t.Error(err)
	}
	if err := errors.Join(h1.Close(context.Background()), h2.Close(context.Background())); err != nil {
		t.Error(err)
	}
}
