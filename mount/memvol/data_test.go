package memvol

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// TestDataAsBytes compares random operations with the same on plain bytes.
func TestDataAsBytes(t *testing.T) {
	const span = 4 * chunkSize
	for seed := range uint64(3) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		v := New(Options{Size: 1 << 30})
		var d data
		var want []byte
		grow := func(n int) {
			if n > len(want) {
				want = append(want, make([]byte, n-len(want))...)
			}
		}
		for step := range 100 {
			off, n := rnd.IntN(span), 1+rnd.IntN(chunkSize)
			if rnd.IntN(2) == 0 {
				n = 1 + rnd.IntN(2*pageSize)
			}
			switch rnd.IntN(8) {
			case 0:
				d.truncate(v, int64(off))
				want = want[:min(off, len(want))]
				grow(off)
			case 1:
				d.discard(v, int64(off), int64(off+n))
				if off < len(want) {
					clear(want[off:min(off+n, len(want))])
				}
			case 2:
				if err := d.allocate(v, int64(off), int64(off+n)); err != nil {
					t.Fatal(err)
				}
			case 3:
				d.zero(int64(off), int64(off+n))
				if off < len(want) {
					clear(want[off:min(off+n, len(want))])
				}
			default:
				p := bytes.Repeat([]byte{byte(step) | 1}, n)
				if _, err := d.write(v, p, int64(off)); err != nil {
					t.Fatal(err)
				}
				grow(off + n)
				copy(want[off:], p)
			}
			got := bytes.Repeat([]byte{0xee}, len(want))
			if n := d.read(got, 0); n != len(want) || !bytes.Equal(got, want) {
				t.Fatalf("seed %d step %d: content differs (%d bytes of %d)", seed, step, n, len(want))
			}
			checkHoles(t, &d, want)
		}
		if d.used != v.used.Load() {
			t.Fatalf("the file uses %d, the volume %d", d.used, v.used.Load())
		}
		d.truncate(v, 0)
		if d.used != 0 || v.used.Load() != 0 || len(d.chunks) != 0 {
			t.Fatalf("left: %d bytes, %d in the volume, %d chunks", d.used, v.used.Load(), len(d.chunks))
		}
	}
}

// checkHoles walks data and holes to the end: holes are zero.
func checkHoles(t *testing.T, d *data, want []byte) {
	t.Helper()
	for at := int64(0); at < d.size; {
		from, err := d.seek(at, unix.SEEK_DATA)
		if errors.Is(err, syscall.ENXIO) {
			from = d.size
		} else if err != nil || from < at {
			t.Fatalf("SEEK_DATA from %d: %d, %v", at, from, err)
		}
		if len(bytes.Trim(want[at:from], "\x00")) != 0 {
			t.Fatalf("bytes in the hole %d to %d", at, from)
		}
		if from == d.size {
			return
		}
		if at, err = d.seek(from, unix.SEEK_HOLE); err != nil || at <= from {
			t.Fatalf("SEEK_HOLE from %d: %d, %v", from, at, err)
		}
	}
}

func TestSparseEnds(t *testing.T) {
	v := New(Options{Size: 1 << 20})
	var d data
	if _, err := d.write(v, []byte{1, 2}, maxSize-2); err != nil {
		t.Fatal(err)
	}
	if _, err := d.write(v, []byte{1, 2}, maxSize-1); !errors.Is(err, syscall.EFBIG) {
		t.Errorf("past the largest size: %v", err)
	}
	if off, err := d.seek(0, unix.SEEK_DATA); err != nil || off != maxSize/pageSize*pageSize {
		t.Errorf("SEEK_DATA: %d, %v", off, err)
	}
	if d.used != pageSize {
		t.Errorf("two bytes use %d", d.used)
	}
	d.truncate(v, 0)
	if d.used != 0 || v.used.Load() != 0 {
		t.Errorf("left: %d", d.used)
	}
}

func TestFullVolume(t *testing.T) {
	v := New(Options{Size: 10 * pageSize})
	var d data
	n, err := d.write(v, make([]byte, 10*pageSize), 0)
	if n != 10*pageSize || err != nil {
		t.Fatalf("write to the brim: %d, %v", n, err)
	}
	if _, err := d.write(v, []byte{1}, 20*pageSize); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("write beyond: %v", err)
	}
	if _, err := d.write(v, []byte{1}, 5); err != nil {
		t.Errorf("write over: %v", err)
	}
	if err := d.allocate(v, 9*pageSize, 11*pageSize); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("allocate beyond: %v", err)
	}
	d.discard(v, 0, 5*pageSize)
	if err := d.allocate(v, 9*pageSize, 14*pageSize); err != nil {
		t.Errorf("allocate what a hole gave: %v", err)
	}
	if err := d.allocate(v, 0, maxSize); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("allocate all there is: %v", err)
	}
}
