package lock

import (
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lxbridge/lx/core/fuse"
)

const (
	rd = syscall.F_RDLCK
	wr = syscall.F_WRLCK
	un = syscall.F_UNLCK
)

func lk(typ uint32, start, end uint64) fuse.Lk { return fuse.Lk{Type: typ, Start: start, End: end} }

func set(t *testing.T, tab *Table, owner uint64, l fuse.Lk) {
	t.Helper()
	if err := tab.Set(t.Context(), owner, l, false); err != nil {
		t.Fatalf("Set(%d, %+v): %v", owner, l, err)
	}
}

func TestRejectsNonsense(t *testing.T) {
	var tab Table
	for _, l := range []fuse.Lk{lk(rd, 2, 1), lk(7, 0, 1), lk(wr, 0, EOF+1)} {
		if err := tab.Set(t.Context(), 1, l, true); !errors.Is(err, syscall.EINVAL) {
			t.Errorf("Set(%+v): %v", l, err)
		}
		if _, err := tab.Get(1, l); !errors.Is(err, syscall.EINVAL) {
			t.Errorf("Get(%+v): %v", l, err)
		}
	}
	if err := tab.Flock(t.Context(), 1, 9, false); !errors.Is(err, syscall.EINVAL) {
		t.Errorf("Flock: %v", err)
	}
}

// kernelLock sets a lock of an open file description.
func kernelLock(f *os.File, l fuse.Lk) error {
	return unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, flock(l))
}

func flock(l fuse.Lk) *unix.Flock_t {
	k := &unix.Flock_t{Type: int16(l.Type), Start: int64(l.Start)}
	if l.End != EOF {
		k.Len = int64(l.End-l.Start) + 1
	}
	return k
}

// TestAsKernel runs random sequences of locks through a Table and through OFD
// locks of a real file, and compares each verdict and all that is then held.
func TestAsKernel(t *testing.T) {
	const owners, span = 4, 24
	for seed := range uint64(40) {
		rnd := rand.New(rand.NewPCG(seed, 7))
		path := filepath.Join(t.TempDir(), "f")
		files := make([]*os.File, owners+1)
		for i := range files {
			f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			files[i] = f
		}
		var tab Table
		for step := range 60 {
			owner := rnd.IntN(owners)
			start := rnd.Uint64N(span)
			l := lk([]uint32{rd, wr, un}[rnd.IntN(3)], start, start+rnd.Uint64N(8))
			if rnd.IntN(10) == 0 {
				l.End = EOF
			}
			got, want := tab.Set(t.Context(), uint64(owner), l, false), kernelLock(files[owner], l)
			if (got == nil) != (want == nil) || want != nil && !errors.Is(got, want) {
				t.Fatalf("seed %d step %d: Set(%d, %+v) = %v, kernel %v", seed, step, owner, l, got, want)
			}
			for at := range uint64(span + 10) {
				compareAt(t, &tab, files[owners], at)
			}
		}
	}
}

// compareAt asks both who keeps a stranger from writing one byte.
func compareAt(t *testing.T, tab *Table, stranger *os.File, at uint64) {
	t.Helper()
	k := flock(lk(wr, at, at))
	if err := unix.FcntlFlock(stranger.Fd(), unix.F_OFD_GETLK, k); err != nil {
		t.Fatal(err)
	}
	kernel := fuse.Lk{Type: uint32(k.Type), Start: uint64(k.Start), End: uint64(k.Start + k.Len - 1)}
	if k.Len == 0 {
		kernel.End = EOF
	}
	got, err := tab.Get(1000, lk(wr, at, at))
	if err != nil {
		t.Fatal(err)
	}
	if got.Type != kernel.Type {
		t.Fatalf("byte %d: %+v, kernel %+v", at, got, kernel)
	}
	if got.Type == un {
		return
	}
	for _, h := range tab.held { // with several readers the kernel may name any
		if h.Lk == kernel {
			return
		}
	}
	t.Fatalf("byte %d: the kernel has %+v, the table %+v", at, kernel, tab.held)
}

func TestConversionKeepsTheOldWhenItFails(t *testing.T) {
	var tab Table
	set(t, &tab, 1, lk(rd, 0, 9))
	set(t, &tab, 2, lk(rd, 5, 5))
	if err := tab.Set(t.Context(), 1, lk(wr, 0, 9), false); !errors.Is(err, syscall.EAGAIN) {
		t.Fatal(err)
	}
	if got, _ := tab.Get(3, lk(wr, 0, 0)); got.Type != rd || got.End != 9 {
		t.Errorf("after a failed conversion: %+v", got)
	}
}

func TestHeld(t *testing.T) {
	var tab Table
	set(t, &tab, 1, lk(wr, 0, 9))
	set(t, &tab, 2, lk(rd, 20, 29))
	set(t, &tab, 1, lk(un, 4, 5))
	if got := tab.Held(1); len(got) != 2 || got[0].End != 3 || got[1].Start != 6 {
		t.Errorf("held: %+v", got)
	}
	if got := tab.Held(3); got != nil {
		t.Errorf("a stranger holds %+v", got)
	}
}

func TestFlockConversionLosesTheOld(t *testing.T) {
	var tab Table
	for owner := range uint64(2) {
		if err := tab.Flock(t.Context(), owner, rd, false); err != nil {
			t.Fatal(err)
		}
	}
	if err := tab.Flock(t.Context(), 0, wr, false); !errors.Is(err, syscall.EAGAIN) {
		t.Fatal(err)
	}
	if err := tab.Flock(t.Context(), 1, wr, false); err != nil {
		t.Errorf("the other's was not lost: %v", err)
	}
	tab.ReleaseOwner(1)
	if !tab.Empty() {
		t.Errorf("left: %+v", tab.held)
	}
}

// started runs Set in a goroutine and answers once it waits.
func started(ctx context.Context, tab *Table, owner uint64, l fuse.Lk) <-chan error {
	done := make(chan error, 1)
	tab.mu.Lock()
	n := len(tab.waiting)
	tab.mu.Unlock()
	go func() { done <- tab.Set(ctx, owner, l, true) }()
	for {
		tab.mu.Lock()
		m := len(tab.waiting)
		tab.mu.Unlock()
		if m > n {
			return done
		}
		select {
		case err := <-done:
			done <- err
			return done
		default:
		}
	}
}

func TestWaiting(t *testing.T) {
	var tab Table
	set(t, &tab, 1, lk(wr, 0, 9))
	a := started(t.Context(), &tab, 2, lk(rd, 0, 4))
	b := started(t.Context(), &tab, 3, lk(rd, 3, 9))
	ctx, cancel := context.WithCancel(t.Context())
	c := started(ctx, &tab, 4, lk(wr, 0, EOF))
	cancel()
	if err := <-c; !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled wait: %v", err)
	}
	set(t, &tab, 1, lk(un, 0, 4))
	if err := <-a; err != nil {
		t.Error(err)
	}
	select {
	case err := <-b:
		t.Errorf("got the lock too early: %v", err)
	default:
	}
	tab.ReleaseOwner(1)
	if err := <-b; err != nil {
		t.Error(err)
	}
	tab.ReleaseOwner(2)
	tab.ReleaseOwner(3)
	if !tab.Empty() {
		t.Errorf("left: %+v, %d waiting", tab.held, len(tab.waiting))
	}
}

func TestDeadlock(t *testing.T) {
	var g Waiters
	x, y, z := Table{Waiters: &g}, Table{Waiters: &g}, Table{Waiters: &g}
	set(t, &x, 1, lk(wr, 0, 0))
	set(t, &y, 2, lk(wr, 0, 0))
	set(t, &z, 3, lk(wr, 0, 0))
	a := started(t.Context(), &y, 1, lk(wr, 0, 0))
	b := started(t.Context(), &z, 2, lk(wr, 0, 0))
	if err := <-started(t.Context(), &x, 3, lk(rd, 0, 0)); !errors.Is(err, syscall.EDEADLK) {
		t.Fatalf("a circle of three: %v", err)
	}
	z.ReleaseOwner(3)
	if err := <-b; err != nil {
		t.Error(err)
	}
	y.ReleaseOwner(2)
	if err := <-a; err != nil {
		t.Error(err)
	}
	if len(g.waits) != 0 {
		t.Errorf("left: %v", g.waits)
	}
}

// TestConcurrent lets many owners fight for few bytes, some giving up: writers
// are alone, and nothing is left.
func TestConcurrent(t *testing.T) {
	tab := Table{Waiters: &Waiters{}}
	var inside [4]struct {
		sync.Mutex
		readers, writers int
	}
	var wg sync.WaitGroup
	for owner := range uint64(8) {
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(owner, 3))
			for range 300 {
				at := rnd.Uint64N(4)
				l := lk([]uint32{rd, wr}[rnd.IntN(2)], at, at)
				ctx, cancel := context.WithCancel(t.Context())
				if rnd.IntN(4) == 0 {
					stop := time.AfterFunc(time.Duration(rnd.IntN(50))*time.Microsecond, cancel)
					defer stop.Stop()
				}
				err := tab.Set(ctx, owner, l, true)
				cancel()
				if errors.Is(err, context.Canceled) {
					continue
				}
				if err != nil {
					t.Error(err)
					return
				}
				in := &inside[at]
				in.Lock()
				if l.Type == wr {
					in.writers++
				} else {
					in.readers++
				}
				if in.writers > 1 || in.writers == 1 && in.readers > 0 {
					t.Errorf("byte %d: %d writers, %d readers", at, in.writers, in.readers)
				}
				in.Unlock()
				in.Lock()
				if l.Type == wr {
					in.writers--
				} else {
					in.readers--
				}
				in.Unlock()
				tab.ReleaseOwner(owner)
			}
		})
	}
	wg.Wait()
	if !tab.Empty() || len(tab.Waiters.waits) != 0 {
		t.Errorf("left: %+v, %v", tab.held, tab.Waiters.waits)
	}
}

// TestUndo: after a lock and its undoing all is as it was.
func TestUndo(t *testing.T) {
	for name, c := range map[string]struct {
		held []fuse.Lk
		lk   fuse.Lk
		n    int // calls that it takes
	}{
		"nothing held": {nil, lk(wr, 3, 9), 1},
		"the same":     {[]fuse.Lk{lk(wr, 0, EOF)}, lk(wr, 3, 9), 0},
		"downgrade":    {[]fuse.Lk{lk(rd, 0, EOF)}, lk(wr, 3, EOF), 1},
		"pieces":       {[]fuse.Lk{lk(rd, 0, 2), lk(wr, 5, 6), lk(rd, 8, 20), lk(wr, 30, 31)}, lk(wr, 1, 10), 4},
		"to the end":   {[]fuse.Lk{lk(rd, 10, 19)}, lk(wr, 0, EOF), 3},
		"beside":       {[]fuse.Lk{lk(rd, 0, 4), lk(rd, 10, 19)}, lk(rd, 5, 9), 1},
	} {
		var tab Table
		for _, h := range c.held {
			set(t, &tab, 1, h)
		}
		before := tab.Held(1)
		set(t, &tab, 1, c.lk)
		calls := Undo(before, c.lk)
		for _, lk := range calls {
			set(t, &tab, 1, lk)
		}
		if got := tab.Held(1); !slices.Equal(got, before) || len(calls) != c.n {
			t.Errorf("%s: %+v after %d calls, want %+v after %d", name, got, len(calls), before, c.n)
		}
	}
}
