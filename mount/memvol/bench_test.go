package memvol

import (
	"fmt"
	"os"
	"testing"

	"github.com/lxbridge/lx/mount/volume"
)

func benchFile(b *testing.B) (*Volume, volume.Handle) {
	v := New(Options{Size: 1 << 40})
	_, _, h, err := v.Create(b.Context(), v.Root(), "f", os.O_RDWR, 0o600)
	if err != nil {
		b.Fatal(err)
	}
	if _, err := h.WriteAt(b.Context(), make([]byte, 64<<20), 0); err != nil {
		b.Fatal(err)
	}
	return v, h
}

func BenchmarkLookup(b *testing.B) {
	v, _ := benchFile(b)
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			n, _, err := v.Lookup(b.Context(), v.Root(), "f")
			if err != nil {
				b.Fatal(err)
			}
			v.Forget(n)
		}
	})
}

func BenchmarkCreateUnlink(b *testing.B) {
	v, _ := benchFile(b)
	for i := 0; b.Loop(); i++ {
		name := fmt.Sprint(i)
		n, _, h, err := v.Create(b.Context(), v.Root(), name, os.O_RDWR, 0o600)
		if err != nil {
			b.Fatal(err)
		}
		if err := h.Close(b.Context()); err != nil {
			b.Fatal(err)
		}
		if err := v.Unlink(b.Context(), v.Root(), name); err != nil {
			b.Fatal(err)
		}
		v.Forget(n)
	}
}

func BenchmarkReadWrite(b *testing.B) {
	_, h := benchFile(b)
	for _, size := range []int{4 << 10, 128 << 10, 1 << 20} {
		p := make([]byte, size)
		for name, f := range map[string]func(off int64) (int, error){
			"Read":  func(off int64) (int, error) { return h.ReadAt(b.Context(), p, off) },
			"Write": func(off int64) (int, error) { return h.WriteAt(b.Context(), p, off) },
		} {
			b.Run(fmt.Sprintf("%s%dK", name, size>>10), func(b *testing.B) {
				b.SetBytes(int64(size))
				for i := 0; b.Loop(); i++ {
					if _, err := f(int64(i * size % (64 << 20))); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
