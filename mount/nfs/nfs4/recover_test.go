package nfs4

import (
	"bytes"
	"context"
	"errors"
	"net"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/lxbridge/lx/core/fuse"
	"github.com/lxbridge/lx/mount/nfs/nfs4/compound"
	"github.com/lxbridge/lx/mount/nfs/nfs4/nfs4test"
	"github.com/lxbridge/lx/mount/nfs/rpc"
	"github.com/lxbridge/lx/mount/volume"
	"github.com/lxbridge/lx/mount/volume/lock"
)

// fakeConfig is of a client of s.
func fakeConfig(s *nfs4test.Server, owner string) Config {
	var d net.Dialer
	auth := rpc.NewSys("client", 1000, 1000, nil)
	return Config{
		RPC: rpc.Config{Network: "tcp", Addr: s.Addr(), Timeout: 5 * time.Second,
			Dial: func(ctx context.Context, network, addr string, _ int) (net.Conn, error) {
				return d.DialContext(ctx, network, addr)
			}},
		Minor: 1, Path: "/", Owner: owner, Slots: 8, Auth: func(context.Context) rpc.Auth { return auth },
	}
}

func fakeFile(t *testing.T, v *Volume, name string) (volume.Node, volume.Handle) {
	t.Helper()
	n, _, h, err := v.Create(t.Context(), v.Root(), name, os.O_RDWR, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	return n, h
}

var everything = fuse.Lk{End: lock.EOF, Type: syscall.F_WRLCK}

func unlocked(lk fuse.Lk) fuse.Lk {
	lk.Type = syscall.F_UNLCK
	return lk
}

// TestRestart: what was written and not committed is written again, and a lock
// reclaimed.
func TestRestart(t *testing.T) {
	s := nfs4test.New(t)
	v := dial(t, fakeConfig(s, "a"))
	ctx := t.Context()
	_, h := fakeFile(t, v, "f")
	if _, err := h.WriteAt(ctx, []byte("promised"), 0); err != nil {
		t.Fatal(err)
	}
	if err := v.Setlk(ctx, h, 7, everything, false); err != nil {
		t.Fatal(err)
	}
	s.Restart(true)
	if err := h.Sync(ctx); err != nil {
		t.Fatal(err)
	}
	if got := s.Data("f"); string(got) != "promised" {
		t.Errorf("the server has %q", got)
	}
	if s.Locks("f") != 1 {
		t.Errorf("%d locks after the restart, want 1", s.Locks("f"))
	}
	if err := h.Close(ctx); err != nil {
		t.Error(err)
	}
}

// TestUnasked: much is committed while writing goes on; what fails then is told
// once, by whoever asks next.
func TestUnasked(t *testing.T) {
	s := nfs4test.New(t)
	v := dial(t, fakeConfig(s, "a"))
	ctx := t.Context()
	_, h := fakeFile(t, v, "f")
	failed := make(chan struct{})
	s.Fail(func(op compound.Op) compound.Status {
		if op != compound.OpCommit {
			return compound.OK
		}
		select {
		case <-failed:
			return compound.OK
		default:
			close(failed)
			return compound.ErrNoSpc
		}
	})
	p := make([]byte, 1<<20)
	for off := int64(0); off <= early; off += int64(len(p)) {
		if _, err := h.WriteAt(ctx, p, off); err != nil {
			t.Fatal(err)
		}
	}
	<-failed
	if _, err := h.WriteAt(ctx, p, 0); err != nil {
		t.Fatal(err)
	}
	if err := h.Sync(ctx); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("the first sync: %v, want %v", err, syscall.ENOSPC)
	}
	if err := h.Sync(ctx); err != nil {
		t.Errorf("the next: %v", err)
	}
	if err := h.Close(ctx); err != nil {
		t.Error(err)
	}
	if v.dirty.left != maxDirty {
		t.Errorf("%d bytes of room left, want %d", v.dirty.left, maxDirty)
	}
}

// TestLostLock: a lock that cannot be reclaimed is told of by the next
// operation, until it is given back.
func TestLostLock(t *testing.T) {
	for name, lose := range map[string]func(*nfs4test.Server){
		"no grace": func(s *nfs4test.Server) { s.Restart(false) },
		"expired":  (*nfs4test.Server).Expire,
		"lapsed":   (*nfs4test.Server).Lapse,
		"revoked":  func(s *nfs4test.Server) { s.Revoke("f") },
	} {
		t.Run(name, func(t *testing.T) {
			s := nfs4test.New(t)
			v := dial(t, fakeConfig(s, "a"))
			ctx := t.Context()
			_, h := fakeFile(t, v, "f")
			if err := v.Setlk(ctx, h, 7, everything, false); err != nil {
				t.Fatal(err)
			}
			lose(s)
			if _, err := h.WriteAt(ctx, []byte("x"), 0); volume.Errno(err) != syscall.EIO || !errors.Is(err, errLocksLost) {
				t.Errorf("write under a lost lock: %v", err)
			}
			if err := v.Setlk(ctx, h, 7, unlocked(everything), false); err != nil {
				t.Errorf("unlock: %v", err)
			}
			if _, err := h.WriteAt(ctx, []byte("x"), 0); err != nil {
				t.Errorf("write after the unlock: %v", err)
			}
			if err := v.Setlk(ctx, h, 7, everything, false); err != nil {
				t.Errorf("lock again: %v", err)
			}
			if err := h.Close(ctx); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestSessionLost: another session goes on with the same state.
func TestSessionLost(t *testing.T) {
	s := nfs4test.New(t)
	v := dial(t, fakeConfig(s, "a"))
	_, h := fakeFile(t, v, "f")
	opens := s.Count(compound.OpOpen)
	s.DropSessions()
	if _, err := h.WriteAt(t.Context(), []byte("x"), 0); err != nil {
		t.Fatal(err)
	}
	if got := s.Count(compound.OpOpen); got != opens {
		t.Errorf("%d opens, want none", got-opens)
	}
	if err := h.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestOnce: a call whose answer is lost is done once.
func TestOnce(t *testing.T) {
	s := nfs4test.New(t)
	v := dial(t, fakeConfig(s, "a"))
	fakeFile(t, v, "f")
	before := s.Count(compound.OpRemove)
	s.Lose(3)
	if err := v.Unlink(t.Context(), v.Root(), "f"); err != nil && !errors.Is(err, compound.ErrNotSupp) {
		t.Fatal(err)
	}
	_, h := fakeFile(t, v, "g")
	s.Lose(2)
	if _, err := h.WriteAt(t.Context(), []byte("x"), 0); err != nil {
		t.Fatal(err)
	}
	if got := s.Count(compound.OpWrite); got != 1 {
		t.Errorf("%d writes, want 1", got)
	}
	if got := s.Count(compound.OpRemove) - before; got > 1 {
		t.Errorf("%d removals", got)
	}
}

// TestDelay: a server that asks for time is asked again; a caller may leave.
func TestDelay(t *testing.T) {
	s := nfs4test.New(t)
	v := dial(t, fakeConfig(s, "a"))
	_, h := fakeFile(t, v, "f")
	var mu sync.Mutex
	left := 3
	s.Fail(func(op compound.Op) compound.Status {
		mu.Lock()
		defer mu.Unlock()
		if op != compound.OpWrite || left == 0 {
			return compound.OK
		}
		left--
		return compound.ErrDelay
	})
	if _, err := h.WriteAt(t.Context(), []byte("x"), 0); err != nil {
		t.Fatal(err)
	}
	s.Fail(func(op compound.Op) compound.Status {
		if op == compound.OpWrite {
			return compound.ErrDelay
		}
		return compound.OK
	})
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := h.WriteAt(ctx, []byte("x"), 0); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a caller that leaves: %v", err)
	}
	s.Fail(nil)
}

// TestAbandoned: an open whose caller left is closed, and its slot used again.
func TestAbandoned(t *testing.T) {
	s := nfs4test.New(t)
	cfg := fakeConfig(s, "a")
	cfg.Slots = 1
	v := dial(t, cfg)
	n, h := fakeFile(t, v, "f")
	if err := h.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	closes := s.Count(compound.OpClose)
	ctx, cancel := context.WithCancel(t.Context())
	s.Fail(func(op compound.Op) compound.Status {
		if op == compound.OpOpen {
			cancel()
		}
		return compound.OK
	})
	if _, err := v.Open(ctx, n, os.O_RDONLY); err != nil && !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	} else if err == nil {
		t.Fatal("the open was not abandoned")
	}
	s.Fail(nil)
	for s.Count(compound.OpClose) == closes {
		if _, err := v.Getattr(t.Context(), n, nil); err != nil {
			t.Fatal(err)
		}
	}
}

// TestDelegation: a delegation is named as a lease, and goes back, after what
// depends on it, when another client wants the file.
func TestDelegation(t *testing.T) {
	s := nfs4test.New(t)
	s.Delegate(compound.DelegateWrite)
	ctx := t.Context()
	v, other := dial(t, fakeConfig(s, "holder")), dial(t, fakeConfig(s, "other"))
	n, h := fakeFile(t, v, "f")
	if v.Lease(n) == 0 {
		t.Fatal("no lease")
	}
	var recalls atomic.Int32
	v.OnRecall(func(ctx context.Context, got volume.Node) {
		recalls.Add(1)
		if got != n || v.Lease(n) != 0 {
			t.Error("the lease holds while it is recalled, or another was")
		}
		if _, err := h.WriteAt(ctx, []byte("late"), 0); err != nil {
			t.Errorf("writing out on recall: %v", err)
		}
	}, func(volume.Node) (uint64, bool) { return 4, true })
	on, oh := fakeFile(t, other, "f")
	if recalls.Load() != 1 || v.Lease(n) != 0 || other.Lease(on) != 0 {
		t.Errorf("%d recalls, leases %d and %d afterwards", recalls.Load(), v.Lease(n), other.Lease(on))
	}
	p := make([]byte, 10)
	if k, err := oh.ReadAt(ctx, p, 0); err != nil || string(p[:k]) != "late" {
		t.Errorf("the other reads %q, %v", p[:k], err)
	}
	for _, h := range []volume.Handle{h, oh} {
		if err := h.Close(ctx); err != nil {
			t.Error(err)
		}
	}
}

// distant is a connection whose answers come late, once slow is set.
type distant struct {
	net.Conn
	slow *atomic.Bool
}

func (c distant) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if c.slow.Load() {
		time.Sleep(8 * time.Millisecond) // the way back
	}
	return n, err
}

// TestManyDelegations: all go back at the end, also to a server that is so far
// away that one after the other would take too long.
func TestManyDelegations(t *testing.T) {
	s := nfs4test.New(t)
	s.Delegate(compound.DelegateWrite)
	cfg, slow := fakeConfig(s, "holder"), &atomic.Bool{}
	near := cfg.RPC.Dial
	cfg.RPC.Dial = func(ctx context.Context, network, addr string, port int) (net.Conn, error) {
		c, err := near(ctx, network, addr, port)
		return distant{c, slow}, err
	}
	v, err := Dial(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	const many = maxDelegations * 9 / 10
	for i := range many {
		if _, h := fakeFile(t, v, strconv.Itoa(i)); i%2 == 0 {
			if err := h.Close(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
	if _, _, n := s.States(); n != many {
		t.Fatalf("%d delegations, want %d", n, many)
	}
	slow.Store(true)
	if err := v.Close(); err != nil {
		t.Error(err)
	}
	if opens, _, n := s.States(); opens+n != 0 {
		t.Errorf("%d opens and %d delegations are left", opens, n)
	}
}

// TestDelegationShared: where two layers cache above one volume neither has
// leases, and both are told when the second comes.
func TestDelegationShared(t *testing.T) {
	s := nfs4test.New(t)
	s.Delegate(compound.DelegateRead)
	ctx := t.Context()
	v := dial(t, fakeConfig(s, "a"))
	n, h := fakeFile(t, v, "f")
	if err := h.Close(ctx); err != nil {
		t.Fatal(err)
	}
	told := make(chan int, 2)
	layer := func(i int) {
		v.OnRecall(func(context.Context, volume.Node) { told <- i }, func(volume.Node) (uint64, bool) { return 0, false })
	}
	layer(1)
	h, err := v.Open(ctx, n, os.O_RDONLY)
	if err != nil {
		t.Fatal(err)
	}
	if v.Lease(n) == 0 {
		t.Fatal("no lease for the first layer")
	}
	layer(2)
	if first, second := <-told, <-told; first != 1 || second != 2 {
		t.Errorf("recalled of layers %d and %d", first, second)
	}
	again, err := v.Open(ctx, n, os.O_RDONLY)
	if err != nil {
		t.Fatal(err)
	}
	if v.Lease(n) != 0 {
		t.Error("a lease for one of two layers")
	}
	for _, h := range []volume.Handle{h, again} {
		if err := h.Close(ctx); err != nil {
			t.Error(err)
		}
	}
}

// TestDelegationForgotten: a restart ends what a delegation promised.
func TestDelegationForgotten(t *testing.T) {
	s := nfs4test.New(t)
	s.Delegate(compound.DelegateRead)
	ctx := t.Context()
	v := dial(t, fakeConfig(s, "a"))
	n, h := fakeFile(t, v, "f")
	if err := h.Close(ctx); err != nil {
		t.Fatal(err)
	}
	h, err := v.Open(ctx, n, os.O_RDONLY)
	if err != nil {
		t.Fatal(err)
	}
	if v.Lease(n) == 0 {
		t.Fatal("no lease")
	}
	dropped := make(chan struct{}, 1)
	v.OnRecall(func(context.Context, volume.Node) { dropped <- struct{}{} }, func(volume.Node) (uint64, bool) { return 0, false })
	s.Delegate(compound.DelegateNone)
	s.Restart(true)
	if _, err := v.Getattr(ctx, n, h); err != nil {
		t.Fatal(err)
	}
	<-dropped
	if v.Lease(n) != 0 {
		t.Error("the lease outlives the server")
	}
	if err := h.Close(ctx); err != nil {
		t.Error(err)
	}
}

// TestManyAtOnce: many calls share few slots while sessions come and go.
func TestManyAtOnce(t *testing.T) {
	s := nfs4test.New(t)
	v := dial(t, fakeConfig(s, "a"))
	_, h := fakeFile(t, v, "f")
	var wg sync.WaitGroup
	for i := range 40 {
		wg.Go(func() {
			for k := range 10 {
				p := bytes.Repeat([]byte{byte(i)}, 16)
				off := int64(i * 16)
				if _, err := h.WriteAt(t.Context(), p, off); err != nil {
					t.Errorf("write: %v", err)
				}
				got := make([]byte, 16)
				if _, err := h.ReadAt(t.Context(), got, off); err != nil || !bytes.Equal(p, got) {
					t.Errorf("read: %q, %v", got, err)
				}
				if i == 0 {
					switch k % 3 {
					case 0:
						s.DropSessions()
					case 1:
						s.Cut()
					case 2:
						s.Lose(1)
					}
				}
			}
		})
	}
	wg.Wait()
	if err := h.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestCloseGivesUp: nobody waits for a server that does not answer longer than
// they want to, and the volume ends.
func TestCloseGivesUp(t *testing.T) {
	s := nfs4test.New(t)
	v, err := Dial(t.Context(), fakeConfig(s, "a"))
	if err != nil {
		t.Fatal(err)
	}
	_, h := fakeFile(t, v, "f")
	if err := v.Setlk(t.Context(), h, 7, everything, false); err != nil {
		t.Fatal(err)
	}
	if _, err := h.WriteAt(t.Context(), []byte("x"), 0); err != nil {
		t.Fatal(err)
	}
	s.Fail(func(op compound.Op) compound.Status {
		if op == compound.OpCommit || op == compound.OpLockU || op == compound.OpClose {
			return compound.ErrDelay
		}
		return compound.OK
	})
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			if err := h.Sync(ctx); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("sync: %v", err)
			}
		})
	}
	wg.Wait()
	if err := v.Setlk(ctx, h, 7, unlocked(everything), false); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("unlock: %v", err)
	}
	if err := h.Close(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("close: %v", err)
	}
	if err := v.Close(); err != nil {
		t.Errorf("the volume's end: %v", err)
	}
}

// TestLossIsTold: what the server does not take is told to each that has the
// file open, once.
func TestLossIsTold(t *testing.T) {
	s := nfs4test.New(t)
	v := dial(t, fakeConfig(s, "a"))
	ctx := t.Context()
	n, a := fakeFile(t, v, "f")
	b, err := v.Open(ctx, n, os.O_RDWR)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.WriteAt(ctx, []byte("x"), 0); err != nil {
		t.Fatal(err)
	}
	s.Fail(func(op compound.Op) compound.Status {
		if op == compound.OpCommit {
			return compound.ErrNoSpc
		}
		return compound.OK
	})
	if err := b.Sync(ctx); volume.Errno(err) != syscall.ENOSPC {
		t.Errorf("who asks first: %v", err)
	}
	s.Fail(nil)
	if err := a.Sync(ctx); volume.Errno(err) != syscall.ENOSPC {
		t.Errorf("who wrote: %v", err)
	}
	for _, h := range []volume.Handle{a, b} {
		if err := errors.Join(h.Sync(ctx), h.Close(ctx)); err != nil {
			t.Errorf("afterwards: %v", err)
		}
	}
}

// TestRestartOrder: what the server lost is not written over what came after it.
func TestRestartOrder(t *testing.T) {
	write := func(text string) func(context.Context, *Volume, volume.Node, volume.Handle) error {
		return func(ctx context.Context, _ *Volume, _ volume.Node, h volume.Handle) error {
			_, err := h.WriteAt(ctx, []byte(text), 0)
			return err
		}
	}
	three := uint64(3)
	for name, c := range map[string]struct {
		newer func(context.Context, *Volume, volume.Node, volume.Handle) error
		want  string
	}{
		"write": {write("new"), "new, longer"},
		"truncation": {func(ctx context.Context, v *Volume, n volume.Node, h volume.Handle) error {
			_, err := v.Setattr(ctx, n, h, volume.SetAttr{Size: &three})
			return err
		}, "old"},
		"opening": {func(ctx context.Context, v *Volume, n volume.Node, _ volume.Handle) error {
			h, err := v.Open(ctx, n, os.O_RDWR|os.O_TRUNC)
			if err == nil {
				err = errors.Join(write("x")(ctx, v, n, h), h.Close(ctx))
			}
			return err
		}, "x"},
	} {
		t.Run(name, func(t *testing.T) {
			s := nfs4test.New(t)
			v := dial(t, fakeConfig(s, "a"))
			ctx := t.Context()
			n, h := fakeFile(t, v, "f")
			if err := write("old, longer")(ctx, v, n, h); err != nil {
				t.Fatal(err)
			}
			s.Restart(true)
			if err := errors.Join(c.newer(ctx, v, n, h), h.Sync(ctx), h.Close(ctx)); err != nil {
				t.Fatal(err)
			}
			if got := s.Data("f"); string(got) != c.want {
				t.Errorf("the server has %q, want %q", got, c.want)
			}
			if left := v.dirty.left; left != maxDirty {
				t.Errorf("%d bytes are kept after all was committed", maxDirty-left)
			}
		})
	}
}

// TestLockGivenUp: a lock that the server grants when its caller has left is
// undone, but not what the owner held before or has asked for since.
func TestLockGivenUp(t *testing.T) {
	s := nfs4test.New(t)
	v := dial(t, fakeConfig(s, "a"))
	_, h := fakeFile(t, v, "f")
	read := everything
	read.Type = syscall.F_RDLCK
	giveUp := func() {
		t.Helper()
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		s.Fail(func(op compound.Op) compound.Status {
			if op == compound.OpLock {
				cancel()
			}
			return compound.OK
		})
		if err := v.Setlk(ctx, h, 7, everything, true); !errors.Is(err, context.Canceled) {
			t.Fatalf("a lock that is given up: %v", err)
		}
		s.Fail(nil)
	}
	for name, c := range map[string]struct {
		before, after *fuse.Lk
		want          bool
	}{
		"nothing": {nil, nil, false},
		"before":  {&read, nil, true},
		"since":   {nil, &everything, true},
	} {
		if c.before != nil {
			if err := v.Setlk(t.Context(), h, 7, *c.before, true); err != nil {
				t.Fatal(err)
			}
		}
		giveUp()
		if c.after != nil {
			if err := v.Setlk(t.Context(), h, 7, *c.after, true); err != nil {
				t.Fatal(err)
			}
		}
		v.work.Wait()
		if got := s.Locks("f") > 0; got != c.want {
			t.Errorf("%s: locked at the server: %v, want %v", name, got, c.want)
		}
		if err := v.Setlk(t.Context(), h, 7, unlocked(everything), false); err != nil {
			t.Error(err)
		}
	}
	if err := h.Close(t.Context()); err != nil {
		t.Error(err)
	}
}
