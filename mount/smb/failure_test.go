package smb

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

	"github.com/lxbridge/lx/integration/smbtest"
	"github.com/lxbridge/lx/mount/volume"
)

// quick gives up on servers within the patience of a test.
func quick(s *smbtest.Server) Config {
	c := config(s, smbtest.Data)
	c.EchoInterval, c.DialTimeout = 100*time.Millisecond, 2*time.Second
	return c
}

// bounded is a context that no call may need up.
func bounded(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// eventually repeats do, which paces itself, until it succeeds.
func eventually(t testing.TB, do func() error) {
	t.Helper()
	end := time.Now().Add(20 * time.Second)
	for err := do(); err != nil; err = do() {
		if time.Now().After(end) {
			t.Fatal(err)
		}
	}
}

func TestSilentServer(t *testing.T) {
	s := smbtest.New(t, smbtest.Options{})
	c := quick(s)
	c.DialTimeout = 200 * time.Millisecond
	v := dial(t, c)
	n, h := create(t, v, "file", []byte("data"))
	if err := s.Pause(); err != nil {
		t.Fatal(err)
	}
	calls := map[string]func(context.Context) error{
		"stat":   func(ctx context.Context) error { _, err := v.Getattr(ctx, n, nil); return err },
		"read":   func(ctx context.Context) error { _, err := h.ReadAt(ctx, make([]byte, 3<<20), 0); return err },
		"write":  func(ctx context.Context) error { _, err := h.WriteAt(ctx, make([]byte, 3<<20), 0); return err },
		"sync":   func(ctx context.Context) error { return h.Sync(ctx) },
		"unlink": func(ctx context.Context) error { return v.Unlink(ctx, v.Root(), "other") },
		"list":   func(ctx context.Context) error { _, err := v.ReadDir(ctx, v.Root()); return err },
	}
	var wg sync.WaitGroup
	for name, call := range calls {
		wg.Go(func() {
			ctx, cancel := context.WithCancel(t.Context())
			time.AfterFunc(10*time.Millisecond, cancel)
			if err := call(ctx); !errors.Is(err, context.Canceled) {
				t.Errorf("%s, cancelled: %v", name, err)
			}
		})
	}
	wg.Wait()
	for name, call := range calls {
		wg.Go(func() {
			for _, ctx := range []context.Context{bounded(t), context.Background()} {
				wantErrno(t, name, call(ctx), syscall.EHOSTDOWN)
			}
		})
	}
	wg.Wait()
	if err := s.Resume(); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error { _, err := v.Getattr(bounded(t), n, nil); return err })
	b := make([]byte, 4)
	if _, err := h.ReadAt(bounded(t), b, 0); err != nil {
		t.Errorf("reading after the server is back: %v", err)
	}
	if err := h.Close(bounded(t)); err != nil {
		t.Error(err)
	}
}

func TestIdleServerIsAsked(t *testing.T) {
	s := smbtest.New(t, smbtest.Options{})
	c := quick(s)
	c.EchoInterval = 400 * time.Millisecond
	v := dial(t, c).(*Volume)
	select {
	case <-v.link.dead:
		t.Errorf("an idle connection was given up: %v", v.link.err)
	case <-time.After(4 * v.cfg.EchoInterval):
	}
}

func TestKilledServer(t *testing.T) {
	s := smbtest.New(t, smbtest.Options{})
	v := dial(t, quick(s))
	n, h := create(t, v, "file", []byte("before"))
	_, gone := create(t, v, "gone", []byte("removed meanwhile"))
	_, other := create(t, v, "other", []byte("replaced meanwhile"))
	_, lost := create(t, v, "lost", []byte("loses its data"))
	if err := s.Kill(); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		_, err := h.WriteAt(bounded(t), []byte("during"), 0)
		wantErrno(t, "write", err, syscall.EHOSTDOWN)
		_, err = v.Getattr(bounded(t), n, nil)
		wantErrno(t, "stat", err, syscall.EHOSTDOWN)
		_, _, err = v.Mkdir(bounded(t), v.Root(), "dir", 0o755)
		wantErrno(t, "mkdir", err, syscall.EHOSTDOWN)
	}
	path := func(name string) string { return filepath.Join(s.Path(smbtest.Data), name) }
	for _, err := range []error{os.Remove(path("gone")), os.Rename(path("other"), path("kept")),
		os.WriteFile(path("other"), []byte("somebody else's data"), 0o666), os.Truncate(path("lost"), 3)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error { _, err := h.WriteAt(bounded(t), []byte("after!"), 0); return err })
	b := make([]byte, 10)
	if n, err := h.ReadAt(bounded(t), b, 0); err != nil || string(b[:n]) != "after!" {
		t.Errorf("read %q, %v", b[:n], err)
	}
	for name, h := range map[string]volume.Handle{"gone": gone, "other": other, "lost": lost} {
		_, err := h.WriteAt(bounded(t), []byte("x"), 20)
		wantErrno(t, "writing to the handle of "+name, err, syscall.ESTALE)
	}
	for _, h := range []volume.Handle{h, gone, other, lost} {
		if err := h.Close(bounded(t)); err != nil {
			t.Error(err)
		}
	}
}

func TestHardMountWaits(t *testing.T) {
	s := smbtest.New(t, smbtest.Options{})
	c := quick(s)
	c.Hard = true
	v := dial(t, c)
	n, h := create(t, v, "file", []byte("data"))
	if err := s.Kill(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if _, err := v.Getattr(ctx, n, nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a hard mount did not wait: %v", err)
	}
	done := make(chan error, 1)
	go func() {
		_, err := h.WriteAt(bounded(t), []byte("more"), 0)
		done <- err
	}()
	if err := s.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	if err := h.Close(bounded(t)); err != nil {
		t.Error(err)
	}
}

// TestCopyWhileKilled checks that what was acknowledged is there.
func TestCopyWhileKilled(t *testing.T) {
	s := smbtest.New(t, smbtest.Options{})
	v := dial(t, quick(s))
	_, h := create(t, v, "copy", nil)
	piece := bytes.Repeat([]byte("0123456789abcdef"), 64<<10/16)
	acknowledged := 0
	for i := range 200 {
		if i == 50 {
			time.AfterFunc(0, func() {
				if err := s.Kill(); err != nil {
					t.Error(err)
				}
			})
		}
		if _, err := h.WriteAt(bounded(t), piece, int64(acknowledged)); err != nil {
			wantErrno(t, "write", err, syscall.EHOSTDOWN)
			break
		}
		acknowledged += len(piece)
	}
	got, err := os.ReadFile(filepath.Join(s.Path(smbtest.Data), "copy"))
	if err != nil {
		t.Fatal(err)
	}
	if want := bytes.Repeat(piece, acknowledged/len(piece)); !bytes.HasPrefix(got, want) {
		t.Errorf("%d bytes were acknowledged, %d are there, or others", acknowledged, len(got))
	}
}

func TestUseAfterClose(t *testing.T) {
	s := smbtest.New(t, smbtest.Options{})
	v := dial(t, quick(s))
	n, h := create(t, v, "file", []byte("data"))
	if err := v.Close(); err != nil {
		t.Fatal(err)
	}
	_, err := v.Getattr(t.Context(), n, nil)
	wantErrno(t, "stat", err, syscall.EIO)
	_, err = h.ReadAt(t.Context(), make([]byte, 1), 0)
	wantErrno(t, "read", err, syscall.EIO)
}

// TestAbandonedCalls gives up transfers at random moments; the connection and
// the data stay whole.
func TestAbandonedCalls(t *testing.T) {
	s := smbtest.New(t, smbtest.Options{})
	v := dial(t, config(s, smbtest.Data))
	data := bytes.Repeat([]byte("abcdefgh"), 1<<17)
	_, h := create(t, v, "file", data)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := range 50 {
				ctx, cancel := context.WithTimeout(t.Context(), time.Duration(i*j)*10*time.Microsecond)
				b := make([]byte, 300<<10)
				off := (i * 32 << 10) &^ 7
				var n int
				var err error
				if i%2 == 0 {
					n, err = h.ReadAt(ctx, b, int64(off))
				} else {
					copy(b, data[off:])
					n, err = h.WriteAt(ctx, b, int64(off))
					clear(b) // the buffer is ours again, whatever became of the call
					copy(b, data[off:])
				}
				cancel()
				if err != nil && !errors.Is(err, context.DeadlineExceeded) {
					t.Error(err)
				}
				if err == nil && !bytes.Equal(b[:n], data[off:off+n]) {
					t.Error("other bytes")
				}
			}
		})
	}
	wg.Wait()
	if err := h.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if got, err := os.ReadFile(filepath.Join(s.Path(smbtest.Data), "file")); err != nil || !bytes.Equal(got, data) {
		t.Errorf("the file has other bytes (%v)", err)
	}
}
