package nfs3

import (
	"context"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/lxbridge/lx/integration/nfstest"
	"github.com/lxbridge/lx/mount/volume"
)

// BenchmarkGanesha is the client alone, without FUSE: integration/bench sets
// it beside libnfs.
func BenchmarkGanesha(b *testing.B) {
	s := nfstest.New(b, nfstest.Options{})
	v := dial(b, config(s, nfstest.Data))
	defer v.Close()
	const file = 256 << 20
	n, _, h, err := v.Create(b.Context(), v.Root(), "f", 2, 0o644)
	if err != nil {
		b.Fatal(err)
	}
	defer v.Forget(n)
	defer h.Close(b.Context())
	p := make([]byte, 1<<20)
	for off := int64(0); off < file; off += int64(len(p)) {
		if _, err := h.WriteAt(b.Context(), p, off); err != nil {
			b.Fatal(err)
		}
	}
	for _, c := range []struct {
		name        string
		size, depth int
		do          func(h volume.Handle, p []byte, i int) error
	}{
		{"read/1M/1", 1 << 20, 1, readNext},
		{"read/1M/4", 1 << 20, 4, readNext},
		{"write/1M/1", 1 << 20, 1, writeNext},
		{"write/1M/4", 1 << 20, 4, writeNext},
		{"random/4K/1", 4 << 10, 1, readRandom},
		{"random/4K/32", 4 << 10, 32, readRandom},
		{"stat/1", 0, 1, nil},
		{"stat/32", 0, 32, nil},
	} {
		b.Run(c.name, func(b *testing.B) {
			b.SetBytes(int64(c.size))
			b.ReportAllocs()
			var next atomic.Int64
			var wg sync.WaitGroup
			for range c.depth {
				p := make([]byte, c.size)
				wg.Go(func() {
					for i := next.Add(1); i <= int64(b.N); i = next.Add(1) {
						var err error
						if c.do != nil {
							err = c.do(h, p, int(i))
						} else {
							_, err = v.Getattr(b.Context(), n, nil)
						}
						if err != nil {
							b.Error(err)
						}
					}
				})
			}
			wg.Wait()
			if c.name[0] == 'w' {
				if err := h.Sync(b.Context()); err != nil {
					b.Error(err)
				}
			}
		})
	}
}

const blocks = 256

func readNext(h volume.Handle, p []byte, i int) error {
	_, err := h.ReadAt(context.Background(), p, int64(i%blocks)<<20)
	return err
}

func writeNext(h volume.Handle, p []byte, i int) error {
	_, err := h.WriteAt(context.Background(), p, int64(i%blocks)<<20)
	return err
}

func readRandom(h volume.Handle, p []byte, _ int) error {
	_, err := h.ReadAt(context.Background(), p, rand.Int64N(blocks<<8)<<12)
	return err
}
