package nfs4

import (
	"math/rand/v2"
	"os"
	"sync"
	"testing"

	"github.com/lxbridge/lx/integration/nfstest"
)

// BenchmarkGanesha is the raw client: what a layer above can reach at best.
func BenchmarkGanesha(b *testing.B) {
	const mib = 1 << 20
	s, err := nfstest.Start(b.Context(), nfstest.Options{No3: true})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Stop()
	v := dial(b, config(s, nfstest.Data, 2))
	_, _, h, err := v.Create(b.Context(), v.Root(), "bench", os.O_RDWR, 0o644)
	if err != nil {
		b.Fatal(err)
	}
	defer h.Close(b.Context())
	if _, err := h.WriteAt(b.Context(), make([]byte, 256*mib), 0); err != nil {
		b.Fatal(err)
	}
	if err := h.Sync(b.Context()); err != nil {
		b.Fatal(err)
	}
	// many runs f b.N times, depth at once, each with a buffer of its own.
	many := func(b *testing.B, depth, size int, f func(p []byte, i int) error) {
		b.SetBytes(int64(size))
		var wg sync.WaitGroup
		next := make(chan int, depth)
		b.ResetTimer()
		for range depth {
			wg.Go(func() {
				p := make([]byte, size)
				for i := range next {
					if err := f(p, i); err != nil {
						b.Error(err)
					}
				}
			})
		}
		for i := range b.N {
			next <- i
		}
		close(next)
		wg.Wait()
	}
	read := func(p []byte, i int) error { _, err := h.ReadAt(b.Context(), p, int64(i%256)*mib); return err }
	write := func(p []byte, i int) error { _, err := h.WriteAt(b.Context(), p, int64(i%256)*mib); return err }
	random := func(p []byte, _ int) error {
		_, err := h.ReadAt(b.Context(), p, rand.Int64N(256*mib)&^4095)
		return err
	}
	b.Run("read-1", func(b *testing.B) { many(b, 1, mib, read) })
	b.Run("read-4", func(b *testing.B) { many(b, 4, mib, read) })
	b.Run("write-1", func(b *testing.B) { many(b, 1, mib, write) })
	b.Run("write-4", func(b *testing.B) { many(b, 4, mib, write) })
	b.Run("random-1", func(b *testing.B) { many(b, 1, 4096, random) })
	b.Run("random-32", func(b *testing.B) { many(b, 32, 4096, random) })
	b.Run("stat-32", func(b *testing.B) {
		many(b, 32, 0, func([]byte, int) error { _, err := v.Getattr(b.Context(), v.Root(), nil); return err })
	})
	b.Run("open", func(b *testing.B) {
		n, _, err := v.Lookup(b.Context(), v.Root(), "bench")
		if err != nil {
			b.Fatal(err)
		}
		many(b, 1, 0, func([]byte, int) error {
			h, err := v.Open(b.Context(), n, os.O_RDONLY)
			if err == nil {
				err = h.Close(b.Context())
			}
			return err
		})
	})
}
