package nfs4

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/lxbridge/lx/mount/nfs/nfs4/compound"
	"github.com/lxbridge/lx/mount/nfs/nfs4/nfs4test"
	"github.com/lxbridge/lx/mount/volume"
)

// soakTime is how long TestSoak runs: LX_TEST_SOAK, or as long as it may with
// the other tests (make soak).
func soakTime(t *testing.T) time.Duration {
	d, err := time.ParseDuration(os.Getenv("LX_TEST_SOAK"))
	switch {
	case os.Getenv("LX_TEST_SOAK") == "":
		return 10 * time.Second
	case err != nil:
		t.Fatal(err)
	}
	return d
}

// TestSoak: whatever happens to the server and on the way to it, what Sync
// promised is there, what was lost is told, and in the end nothing is left:
// neither goroutines nor memory here, nor slots, nor state at the server.
func TestSoak(t *testing.T) {
	s := nfs4test.New(t)
	cfg := fakeConfig(s, "soak")
	cfg.RPC.Timeout = time.Second
	before := runtime.NumGoroutine()
	v, err := Dial(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	v.OnRecall(func(context.Context, volume.Node) {}, func(volume.Node) (uint64, bool) { return 0, false })
	ctx, stop := context.WithTimeout(t.Context(), soakTime(t))
	defer stop()
	var faults, workers sync.WaitGroup
	faults.Go(func() { misfortune(ctx, s) })
	w := make([]soaker, 8)
	var early uint64
	for i := range w {
		w[i] = soaker{T: t, v: v, s: s, name: fmt.Sprint("f", i), rand: rand.New(rand.NewPCG(1, uint64(i)))}
		workers.Go(func() {
			for ctx.Err() == nil {
				w[i].turn(t.Context())
				if i == 0 && w[0].turns == 50 {
					early = heap()
				}
			}
		})
	}
	faults.Wait()
	s.Fail(nil)
	s.Delegate(compound.DelegateNone)
	workers.Wait()
	total, told := 0, 0
	for i := range w {
		w[i].shut(t.Context())
		total, told = total+w[i].turns, told+w[i].told
	}
	t.Logf("%d turns, %d failures told, heap %d KiB early, %d KiB late", total, told, early>>10, heap()>>10)
	if late := heap(); early > 0 && late > early+16<<20 {
		t.Errorf("the heap grew from %d to %d bytes", early, late)
	}
	v.trim(0)
	v.dirty.mu.Lock()
	left := v.dirty.left
	v.dirty.mu.Unlock()
	if left != maxDirty {
		t.Errorf("%d bytes are kept that nobody has open", maxDirty-left)
	}
	// Slots are used in turn: calls one after the other use each, if none is lost.
	carried := s.Slots()
	for range 3 * len(carried) {
		if _, err := v.Getattr(t.Context(), v.Root(), nil); err != nil {
			t.Fatal(err)
		}
	}
	for i, n := range s.Slots() {
		if n == carried[i] {
			t.Errorf("slot %d carries no calls any more", i)
		}
	}
	eventually(t, func() error {
		v.mu.Lock()
		files := len(v.files)
		v.mu.Unlock()
		if opens, locks, delegations := s.States(); opens+locks+delegations+files > 0 {
			return fmt.Errorf("%d opens, %d locks, %d delegations are left at the server, %d files here", opens, locks, delegations, files)
		}
		return nil
	})
	if err := v.Close(); err != nil {
		t.Error(err)
	}
	s.Cut()
	eventually(t, func() error {
		if n := runtime.NumGoroutine(); n > before {
			p := make([]byte, 1<<20)
			return fmt.Errorf("%d goroutines, %d before\n%s", n, before, p[:runtime.Stack(p, true)])
		}
		return nil
	})
}

func eventually(t *testing.T, f func() error) {
	t.Helper()
	deadline := time.After(10 * time.Second)
	for {
		err := f()
		if err == nil {
			return
		}
		select {
		case <-deadline:
			t.Error(err)
			return
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// misfortune is one after another until ctx ends.
func misfortune(ctx context.Context, s *nfs4test.Server) {
	r := rand.New(rand.NewPCG(2, 2))
	happen := []func(){
		s.Cut, s.Cut, s.Cut,
		func() { s.Lose(1 + r.IntN(3)) },
		func() { s.Restart(true) },
		func() { s.Restart(false) },
		s.Expire, s.Lapse, s.DropSessions,
		func() { s.Revoke(fmt.Sprint("f", r.IntN(8))) },
		func() { s.Delegate(compound.DelegateRead) },
		func() { s.Delegate(compound.DelegateWrite) },
		func() { s.Delegate(compound.DelegateNone) },
		func() {
			left := 1 + r.IntN(5)
			s.Fail(func(op compound.Op) compound.Status {
				if left > 0 && op != compound.OpSequence {
					left--
					return compound.ErrDelay
				}
				return compound.OK
			})
		},
	}
	for {
		select {
		case <-time.After(time.Duration(20+r.IntN(200)) * time.Millisecond):
			happen[r.IntN(len(happen))]()
		case <-ctx.Done():
			return
		}
	}
}

// soaker works on a file of its own.
type soaker struct {
	*testing.T
	v     *Volume
	s     *nfs4test.Server
	name  string
	rand  *rand.Rand
	n     volume.Node
	h     volume.Handle
	turns int
	told  int
}

// turn does something with the file. What fails is told: then it is given up,
// and made anew.
func (w *soaker) turn(ctx context.Context) {
	w.turns++
	// Nothing may wait for ever.
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	err := w.work(ctx)
	switch {
	case err == nil:
		return
	case errors.Is(err, syscall.EIO), errors.Is(err, syscall.ESTALE), errors.Is(err, syscall.EBADF), errors.Is(err, syscall.EAGAIN), errors.Is(err, syscall.EEXIST), errors.Is(err, syscall.ENOENT):
		w.told++
	default:
		w.Errorf("%s: %v", w.name, err)
	}
	w.shut(ctx)
}

// shut lets go of the file.
func (w *soaker) shut(ctx context.Context) {
	if w.h == nil {
		return
	}
	if err := w.h.Close(ctx); err != nil {
		w.told++
	}
	w.v.Forget(w.n)
	w.h = nil
}

func (w *soaker) work(ctx context.Context) (err error) {
	if w.h == nil {
		w.n, _, w.h, err = w.v.Create(ctx, w.v.Root(), w.name, os.O_RDWR, 0o600)
		return err
	}
	p := bytes.Repeat([]byte{byte(w.turns)}, 1+w.rand.IntN(8000))
	off := int64(w.rand.IntN(1 << 16))
	switch w.rand.IntN(8) {
	case 0, 1: // what Sync promises is there
		_, err = w.h.WriteAt(ctx, p, off)
		if err == nil {
			err = w.h.Sync(ctx)
		}
		if err == nil {
			if got := w.s.Data(w.name); len(got) < int(off)+len(p) || !bytes.Equal(got[off:int(off)+len(p)], p) {
				w.Errorf("%s: what Sync promised at %d is not there", w.name, off)
			}
		}
	case 2: // what is written is read, whatever became of the server meanwhile
		if _, err = w.h.WriteAt(ctx, p, off); err != nil {
			return err
		}
		if err = w.h.Sync(ctx); err != nil {
			return err
		}
		got := make([]byte, len(p))
		if _, err = w.h.ReadAt(ctx, got, off); err == nil && !bytes.Equal(got, p) {
			w.Errorf("%s: something else is read at %d than was written", w.name, off)
		}
	case 3: // written, and not synced
		_, err = w.h.WriteAt(ctx, p, off)
	case 4:
		if err = w.v.Setlk(ctx, w.h, 1, everything, w.rand.IntN(2) == 0); err == nil {
			_, err = w.h.WriteAt(ctx, p, off)
		}
		err = errors.Join(err, w.v.Setlk(ctx, w.h, 1, unlocked(everything), false))
	case 5:
		w.shut(ctx)
	case 6: // a caller that does not wait
		short, cancel := context.WithTimeout(ctx, time.Duration(w.rand.IntN(2000))*time.Microsecond)
		defer cancel()
		if _, err = w.h.WriteAt(short, p, off); short.Err() != nil {
			err = nil
		}
	case 7:
		size := uint64(off)
		_, err = w.v.Setattr(ctx, w.n, w.h, volume.SetAttr{Size: &size})
	}
	return err
}
