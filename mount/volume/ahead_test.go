package volume

import (
	"context"
	"errors"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/lxbridge/lx/core/fuse"
)

// batches is a stream of so many batches of one entry each.
type batches struct {
	left   int
	err    error // in place of the last
	asked  chan fuse.Caller
	closed bool
}

func (b *batches) Next(ctx context.Context) ([]DirEntry, error) {
	c, _ := CallerOf(ctx)
	b.asked <- c
	if b.left == 0 {
		return nil, io.EOF
	}
	if b.left--; b.left == 0 && b.err != nil {
		return nil, b.err
	}
	return []DirEntry{{Name: "x", Node: b.left}}, nil
}

func (b *batches) Close() error { b.closed = true; return nil }

// forgetful counts the nodes that are given back.
type forgetful struct {
	Volume
	n int
}

func (f *forgetful) Forget(Node) { f.n++ }

// TestAhead: the next batch is asked for before it is wanted, for the same caller;
// all are answered, in order, and what comes after an error or Close is not lost.
func TestAhead(t *testing.T) {
	who := fuse.Caller{UID: 1000, PID: 7}
	ctx := fuse.WithCaller(t.Context(), who)
	v := &forgetful{}
	b := &batches{left: 3, asked: make(chan fuse.Caller, 10)}
	s := Ahead(v, b)
	for want := 2; want >= 0; want-- {
		es, err := s.Next(ctx)
		if err != nil || len(es) != 1 || es[0].Node != want {
			t.Fatalf("%v, %v; want entry %d", es, err, want)
		}
		for range 2 { // this one, and the next, unasked
			if want < 2 {
				break
			}
			if c := <-b.asked; c != who {
				t.Errorf("asked for %+v", c)
			}
		}
	}
	if _, err := s.Next(ctx); !errors.Is(err, io.EOF) {
		t.Errorf("at the end: %v", err)
	}
	if err := s.Close(); err != nil || !b.closed || v.n != 0 {
		t.Errorf("%v; closed %v; %d forgotten", err, b.closed, v.n)
	}

	s = Ahead(v, &batches{left: 3, asked: make(chan fuse.Caller, 10)})
	if _, err := s.Next(ctx); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil || v.n != 1 {
		t.Errorf("closed early: %v; %d forgotten, want the one on its way", err, v.n)
	}

	broken := errors.New("broken")
	s = Ahead(v, &batches{left: 2, err: broken, asked: make(chan fuse.Caller, 10)})
	if _, err := s.Next(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Next(ctx); !errors.Is(err, broken) {
		t.Errorf("%v, want the stream's error", err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

// slow is a stream that waits until its context ends.
type slow struct{ began chan struct{} }

func (s *slow) Next(ctx context.Context) ([]DirEntry, error) {
	select {
	case s.began <- struct{}{}:
		return []DirEntry{{Name: "first"}}, nil
	default:
	}
	<-ctx.Done()
	return nil, ctx.Err()
}
func (s *slow) Close() error { return nil }

// TestAheadGivenUp: neither a caller that leaves nor Close waits for the server.
func TestAheadGivenUp(t *testing.T) {
	s := Ahead(&forgetful{}, &slow{make(chan struct{}, 1)})
	if _, err := s.Next(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Next(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

// TestAheadDated: what was fetched ahead is as old as its answer, not as its use.
func TestAheadDated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := Ahead(&forgetful{}, &batches{left: 2, asked: make(chan fuse.Caller, 10)}).(Dated)
		for _, want := range []time.Duration{0, time.Minute} {
			if _, err := s.Next(t.Context()); err != nil {
				t.Fatal(err)
			}
			if age := time.Since(s.Came()); age != want {
				t.Errorf("a batch is %v old, want %v", age, want)
			}
			synctest.Wait()
			time.Sleep(time.Minute)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
}
