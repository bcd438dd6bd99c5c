package smb

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/lxbridge/lx/integration/smbtest"
	"github.com/lxbridge/lx/mount/volume"
)

// mutator stands between volume and server and spoils the server's answers.
type mutator struct {
	net.Listener
	wg sync.WaitGroup

	mu     sync.Mutex // guards what follows
	rand   *rand.Rand
	spoil  func(r *rand.Rand, frame []byte) ([]byte, bool) // false: close the connection
	active bool
}

func newMutator(t *testing.T, to string, seed uint64) *mutator {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	m := &mutator{Listener: l, rand: rand.New(rand.NewPCG(seed, 1))}
	m.wg.Go(func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			m.wg.Go(func() { m.relay(client, to) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		m.wg.Wait()
	})
	return m
}

func (m *mutator) relay(client net.Conn, to string) {
	defer client.Close()
	server, err := net.Dial("tcp", to)
	if err != nil {
		return
	}
	defer server.Close()
	m.wg.Go(func() {
		_, _ = io.Copy(server, client)
		server.Close()
	})
	for {
		head := make([]byte, 4)
		if _, err := io.ReadFull(server, head); err != nil {
			return
		}
		frame := make([]byte, 4+binary.BigEndian.Uint32(head))
		copy(frame, head)
		if _, err := io.ReadFull(server, frame[4:]); err != nil {
			return
		}
		frame, ok := m.change(frame)
		if _, err := client.Write(frame); err != nil || !ok {
			return
		}
	}
}

func (m *mutator) change(frame []byte) ([]byte, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.active || m.rand.IntN(4) != 0 {
		return frame, true
	}
	return m.spoil(m.rand, frame)
}

func (m *mutator) set(active bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.active = active
}

func resize(frame []byte, n int) []byte {
	frame = frame[:4+n]
	binary.BigEndian.PutUint32(frame, uint32(n))
	return frame
}

var spoilers = map[string]func(*rand.Rand, []byte) ([]byte, bool){
	"closed":           func(r *rand.Rand, f []byte) ([]byte, bool) { return f[:r.IntN(len(f))], false },
	"truncated body":   func(r *rand.Rand, f []byte) ([]byte, bool) { return resize(f, r.IntN(len(f)-3)), true },
	"length too large": func(r *rand.Rand, f []byte) ([]byte, bool) { f[1]++; return f, true },
	"length too small": func(r *rand.Rand, f []byte) ([]byte, bool) { f[3] ^= 0x10; return f, true },
	"random header": func(r *rand.Rand, f []byte) ([]byte, bool) {
		f[4+r.IntN(64)] = byte(r.Uint32())
		return f, true
	},
	"random body": func(r *rand.Rand, f []byte) ([]byte, bool) {
		for i := 68; i < len(f); i += 1 + r.IntN(64) {
			f[i] = byte(r.Uint32())
		}
		return f, true
	},
	"large fields": func(r *rand.Rand, f []byte) ([]byte, bool) {
		if at := 68 + r.IntN(60)&^3; at+4 <= len(f) {
			binary.LittleEndian.PutUint32(f[at:], 0xFFFFFFF0+r.Uint32N(16))
		}
		return f, true
	},
	"zeros": func(r *rand.Rand, f []byte) ([]byte, bool) { clear(f[min(68, len(f)):]); return f, true },
	"twice": func(r *rand.Rand, f []byte) ([]byte, bool) { return append(f, f...), true },
	"lost":  func(r *rand.Rand, f []byte) ([]byte, bool) { return nil, true },
	"status": func(r *rand.Rand, f []byte) ([]byte, bool) {
		binary.LittleEndian.PutUint32(f[12:], []uint32{0x103, 0xC0000016, 0x80000006, 0xC0000257, 0x8000002D, 0xC0000203, r.Uint32()}[r.IntN(7)])
		return f, true
	},
	"chained": func(r *rand.Rand, f []byte) ([]byte, bool) {
		binary.LittleEndian.PutUint32(f[24:], r.Uint32N(200))
		return f, true
	},
	"no credits": func(r *rand.Rand, f []byte) ([]byte, bool) { f[18], f[19] = 0, 0; return f, true },
}

// TestHostileServer: whatever a server answers, calls end, with an error or
// not, names stay inside, and the volume works again when the server does.
func TestHostileServer(t *testing.T) {
	s := smbtest.New(t, smbtest.Options{})
	for name, spoil := range spoilers {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newMutator(t, s.Addr(), 7)
			m.spoil = spoil
			c := quick(s)
			c.Port = m.Addr().(*net.TCPAddr).Port
			c.EchoInterval, c.DialTimeout = 50*time.Millisecond, time.Second
			c.MFSymlinks = true
			// A busy machine may be as slow as a server that is given up so soon.
			var v volume.Volume
			eventually(t, func() (err error) { v, err = Dial(t.Context(), c); return err })
			t.Cleanup(func() {
				if err := v.Close(); err != nil {
					t.Error(err)
				}
			})
			var dir volume.Node
			eventually(t, func() (err error) {
				name := strings.ReplaceAll(name, " ", "-")
				if dir, _, err = v.Mkdir(bounded(t), v.Root(), name, 0o755); errors.Is(err, syscall.EEXIST) {
					dir, _, err = v.Lookup(bounded(t), v.Root(), name)
				}
				return err
			})
			m.set(true)
			var wg sync.WaitGroup
			for range 2 {
				wg.Go(func() {
					for range 15 {
						abuse(t, v, dir)
					}
				})
			}
			wg.Wait()
			m.set(false)
			eventually(t, func() error { _, err := v.Statfs(bounded(t)); return err })
		})
	}
}

// abuse makes one call of each kind and asks only that it ends.
func abuse(t *testing.T, v volume.Volume, dir volume.Node) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	defer func() {
		if ctx.Err() == context.DeadlineExceeded {
			t.Error("a call did not end by itself")
		}
	}()
	n, _, h, err := v.Create(ctx, dir, "file", os.O_RDWR, 0o644)
	if err == nil {
		_, _ = h.WriteAt(ctx, make([]byte, 70_000), 0)
		if n, _ := h.ReadAt(ctx, make([]byte, 100_000), 0); n > 100_000 {
			t.Errorf("read %d bytes", n)
		}
		_, _ = v.Getattr(ctx, n, h)
		_ = h.Sync(ctx)
		_ = h.Close(ctx)
		v.Forget(n)
	}
	if n, _, err := v.(volume.Symlinker).Symlink(ctx, dir, "link", "target"); err == nil {
		if target, err := v.(volume.Readlinker).Readlink(ctx, n); err == nil && !validTarget(target) {
			t.Errorf("target %q", target)
		}
		v.Forget(n)
	}
	if d, err := v.ReadDir(ctx, dir); err == nil {
		for {
			list, err := d.Next(ctx)
			if err != nil {
				break
			}
			for _, e := range list {
				if e.Name == "" || e.Name == "." || e.Name == ".." || strings.ContainsAny(e.Name, "/\x00") {
					t.Errorf("name %q", e.Name)
				}
				if e.Node != nil {
					v.Forget(e.Node)
				}
			}
		}
		_ = d.Close()
	}
	_, _ = v.Statfs(ctx)
	_ = v.Rename(ctx, dir, "file", dir, "file2", 0)
	_ = v.Unlink(ctx, dir, "file2")
	_ = v.Unlink(ctx, dir, "link")
}

func FuzzNames(f *testing.F) {
	for _, s := range []string{"file", "..", "a/b", `a\b`, "a:b?", "\x01", "end.", "\xff", "日本語", "\uf022"} {
		f.Add(s, 0)
	}
	f.Fuzz(func(t *testing.T, s string, m int) {
		chars := MapChars(m & 3)
		if wire, err := chars.encode(s); err == nil {
			if strings.ContainsAny(wire, "\\/\x00") {
				t.Errorf("%q travels as %q", s, wire)
			}
			back, ok := chars.decode(wire)
			if again, err := chars.encode(back); !ok || err != nil || again != wire {
				t.Errorf("%q travels as %q and comes back as %q", s, wire, back)
			}
		}
		if name, ok := chars.decode(s); ok {
			if name == "" || name == "." || name == ".." || strings.ContainsAny(name, "/\x00") {
				t.Errorf("%q came in as %q", s, name)
			}
		}
	})
}

func FuzzMFSymlink(f *testing.F) {
	good, err := encodeMF("../some/target")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte("XSym\n9999\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if target, ok := decodeMF(b); ok && !validTarget(target) {
			t.Errorf("target %q", target)
		}
	})
}

// FuzzWire reads a login's answers in any form.
func FuzzWire(f *testing.F) {
	f.Add(append([]byte{0xFE, 'S', 'M', 'B'}, make([]byte, 100)...))
	f.Fuzz(func(t *testing.T, b []byte) {
		new(wire).note(b)
	})
}
