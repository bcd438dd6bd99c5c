package volumetest

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

var dataTests = map[string]func(*T){
	"Seek": func(t *T) {
		t.write("f", "0123456789")
		f := t.open("f", os.O_RDWR)
		seek := func(off int64, whence int, want int64) {
			if got, err := f.Seek(off, whence); got != want || err != nil {
				t.Errorf("seek(%d, %d) = %d, %v; want %d", off, whence, got, err, want)
			}
		}
		seek(3, io.SeekStart, 3)
		p := make([]byte, 2)
		n, err := f.Read(p)
		t.same("read", p[:n], []byte("34"), err)
		seek(0, io.SeekCurrent, 5)
		seek(-1, io.SeekEnd, 9)
		seek(5, io.SeekEnd, 15)
		if n, err := f.Read(p); n != 0 || err != io.EOF {
			t.Errorf("read past the end: %d, %v", n, err)
		}
		_, err = f.Seek(-1, io.SeekStart)
		t.fails("seek before the start", err, unix.EINVAL)
		_, err = f.Write([]byte("x"))
		t.must("write past the end", err)
		t.has("f", "0123456789\x00\x00\x00\x00\x00x")
	},
	"ReadEnd": func(t *T) {
		t.write("f", "short")
		f := t.open("f", os.O_RDONLY)
		for off, want := range []string{"short", "hort", "ort", "rt", "t", "", ""} {
			p := make([]byte, 100)
			n, err := f.ReadAt(p, int64(off))
			if err != io.EOF || string(p[:n]) != want {
				t.Errorf("read at %d: %q, %v", off, p[:n], err)
			}
		}
	},
	"ReadWriteSizes": func(t *T) {
		f := t.create("f")
		want := []byte{}
		for _, n := range []int{1, 511, 512, 513, 4095, 4096, 4097, 65536, 131071, 131072, 131073, 1 << 20, 1<<20 + 1, 3<<20 + 7} {
			p := []byte(pattern(byte(n), n))
			_, err := f.Write(p)
			t.must("write", err)
			want = append(want, p...)
		}
		got := make([]byte, len(want))
		n, err := f.ReadAt(got, 0)
		t.same("the whole file", got[:n], want, err)
		t.check("close", f.Close())
		got, err = os.ReadFile(t.path("f"))
		t.same("the whole file, opened again", got, want, err)
		f = t.open("f", os.O_RDONLY)
		for _, size := range []int{1000, 4096, 100000, 1 << 20} {
			for off := 0; off < len(want); off += 7*size + 13 {
				end := min(off+size, len(want))
				t.readsAt(f, int64(off), string(want[off:end]))
			}
		}
	},
	"Vectors": func(t *T) {
		f := t.create("f")
		n, err := unix.Pwritev(int(f.Fd()), [][]byte{[]byte("one "), []byte("two "), []byte("three")}, 2)
		if n != 13 || err != nil {
			t.Errorf("pwritev: %d, %v", n, err)
		}
		a, b := make([]byte, 6), make([]byte, 20)
		n, err = unix.Preadv(int(f.Fd()), [][]byte{a, b}, 0)
		if n != 15 || err != nil || string(a)+string(b[:9]) != "\x00\x00one two three" {
			t.Errorf("preadv: %d, %v, %q %q", n, err, a, b)
		}
	},
	"Sync": func(t *T) {
		f := t.create("f")
		t.writeAt(f, pattern(1, 200000), 0)
		t.check("fsync", f.Sync())
		t.check("fdatasync", again(func() error { return unix.Fdatasync(int(f.Fd())) }))
		r := t.open("f", os.O_RDONLY)
		t.check("fsync of O_RDONLY", r.Sync())
		t.writeAt(f, "more", 100)
		t.check("close", f.Close())
		t.readsAt(r, 100, "more")
		t.check("syncfs", again(func() error { return unix.Syncfs(int(r.Fd())) }))
	},
	"Truncate": func(t *T) {
		t.write("f", "0123456789")
		f := t.open("f", os.O_RDWR)
		t.must("down", os.Truncate(t.path("f"), 4))
		t.has("f", "0123")
		t.must("up", f.Truncate(8))
		t.has("f", "0123\x00\x00\x00\x00")
		if st := t.fstat(f); st.Size != 8 {
			t.Errorf("size %d, want 8", st.Size)
		}
		t.must("to nothing", f.Truncate(0))
		t.writeAt(f, "x", 5)
		t.has("f", "\x00\x00\x00\x00\x00x")
	},
	// TruncateZeroes: what was cut off does not come back.
	"TruncateZeroes": func(t *T) {
		f := t.create("f")
		for _, cut := range []int64{1, 4095, 4096, 5000, 65536, 100001} {
			t.writeAt(f, strings.Repeat("x", 200000), 0)
			t.must("down", f.Truncate(cut))
			t.must("up", f.Truncate(200000))
			got := make([]byte, 200000)
			n, err := f.ReadAt(got, 0)
			want := append(bytes.Repeat([]byte("x"), int(cut)), make([]byte, 200000-cut)...)
			t.same(fmt.Sprint("cut at ", cut), got[:n], want, err)
		}
		t.must("down", f.Truncate(10))
		t.writeAt(f, "y", 9000)
		t.readsAt(f, 10, strings.Repeat("\x00", 8990)+"y")
	},
	"TruncateErrors": func(t *T) {
		t.write("f", "x")
		t.mkdir("d")
		r := t.open("f", os.O_RDONLY)
		t.fails("ftruncate of O_RDONLY", r.Truncate(0), unix.EINVAL)
		t.fails("of a directory", os.Truncate(t.path("d"), 0), unix.EISDIR)
		t.fails("of nothing", os.Truncate(t.path("none"), 0), unix.ENOENT)
		t.fails("negative", os.Truncate(t.path("f"), -1), unix.EINVAL)
		t.has("f", "x")
	},
	// TruncateOtherOpen: another descriptor sees the new size at once.
	"TruncateOtherOpen": func(t *T) {
		a := t.create("f")
		b := t.open("f", os.O_RDWR)
		t.writeAt(a, pattern(2, 10000), 0)
		t.readsAt(b, 0, pattern(2, 10000))
		t.must("truncate", os.Truncate(t.path("f"), 5))
		if n, err := b.ReadAt(make([]byte, 100), 0); n != 5 || err != io.EOF {
			t.Errorf("read after another truncated: %d, %v", n, err)
		}
		if st := t.fstat(b); st.Size != 5 {
			t.Errorf("size %d, want 5", st.Size)
		}
	},
	// AppendConcurrent: records of several writers, each with its own
	// descriptor, neither mix nor overwrite each other.
	"AppendConcurrent": func(t *T) {
		const writers, records, size = 5, 100, 101
		t.write("f", "")
		var wg sync.WaitGroup
		for w := range writers {
			f := t.open("f", os.O_WRONLY|os.O_APPEND)
			wg.Go(func() {
				record := append(bytes.Repeat([]byte{byte('a' + w)}, size-1), '\n')
				for range records {
					if _, err := f.Write(record); err != nil {
						t.Errorf("append: %v", err)
					}
				}
				t.check("close", f.Close())
			})
		}
		wg.Wait()
		p, err := os.ReadFile(t.path("f"))
		t.must("read", err)
		count := map[string]int{}
		for _, line := range strings.SplitAfter(string(p), "\n") {
			count[line]++
		}
		for w := range writers {
			if n := count[strings.Repeat(string(rune('a'+w)), size-1)+"\n"]; n != records {
				t.Errorf("%d whole records of writer %d, want %d", n, w, records)
			}
		}
		if len(p) != writers*records*size {
			t.Errorf("%d bytes, want %d", len(p), writers*records*size)
		}
	},
	"ConcurrentDisjoint": func(t *T) {
		const writers, part = 6, 300000
		f := t.create("f")
		var wg sync.WaitGroup
		for w := range writers {
			g := t.open("f", os.O_RDWR)
			wg.Go(func() {
				for round := range 5 {
					p := pattern(byte(16*w+round), part)
					for off := 0; off < part; off += 10000 {
						if _, err := g.WriteAt([]byte(p[off:off+10000]), int64(w*part+off)); err != nil {
							t.Errorf("write: %v", err)
						}
					}
					t.readsAt(g, int64(w*part), p)
				}
				t.check("close", g.Close())
			})
		}
		wg.Wait()
		for w := range writers {
			t.readsAt(f, int64(w*part), pattern(byte(16*w+4), part))
		}
	},
	// ConcurrentOverlap: each page is from one of the writers, whole.
	"ConcurrentOverlap": func(t *T) {
		const pages = 32
		f := t.create("f")
		var wg sync.WaitGroup
		for w := range 4 {
			g := t.open("f", os.O_RDWR)
			wg.Go(func() {
				page := bytes.Repeat([]byte{byte('a' + w)}, 4096)
				for range 3 {
					for i := range pages {
						if _, err := g.WriteAt(page, int64(i*4096)); err != nil {
							t.Errorf("write: %v", err)
						}
					}
				}
				t.check("close", g.Close())
			})
		}
		wg.Wait()
		p := make([]byte, 4096)
		for i := range pages {
			if _, err := f.ReadAt(p, int64(i*4096)); err != nil || bytes.Count(p, p[:1]) != 4096 || p[0] < 'a' || p[0] > 'd' {
				t.Errorf("page %d is of several writers: %v", i, err)
			}
		}
	},
	// Model does what a random program does to a file, through two descriptors,
	// and compares with the same done in memory (as fsx does).
	"Model": func(t *T) {
		for seed := range uint64(3) {
			t.model(fmt.Sprint("f", seed), rand.New(rand.NewPCG(seed, 11)))
		}
	},
	"CopyFileRange": func(t *T) {
		text := pattern(3, 500000)
		t.write("a", text)
		a, b := t.open("a", os.O_RDONLY), t.create("b")
		src, dst, left := int64(0), int64(7), len(text)
		for left > 0 {
			n, err := unix.CopyFileRange(int(a.Fd()), &src, int(b.Fd()), &dst, left, 0)
			t.must("copy_file_range", err)
			if n == 0 {
				t.Fatalf("nothing was copied at %d", src)
			}
			left -= n
		}
		t.has("b", strings.Repeat("\x00", 7)+text)
		if n, err := unix.CopyFileRange(int(a.Fd()), &src, int(b.Fd()), &dst, 10, 0); n != 0 || err != nil {
			t.Errorf("at the end: %d, %v", n, err)
		}
		// What is still on its way in the source is copied too.
		w := t.open("a", os.O_RDWR)
		t.writeAt(w, "fresh", 0)
		src, dst = 0, 0
		if n, err := unix.CopyFileRange(int(w.Fd()), &src, int(b.Fd()), &dst, 5, 0); n != 5 || err != nil {
			t.Errorf("fresh bytes: %d, %v", n, err)
		}
		t.readsAt(b, 0, "fresh")
	},
	"Sendfile": func(t *T) {
		text := pattern(4, 300000)
		t.write("a", text)
		a, b := t.open("a", os.O_RDONLY), t.create("b")
		for left := len(text); left > 0; {
			n, err := unix.Sendfile(int(b.Fd()), int(a.Fd()), nil, left)
			t.must("sendfile", err)
			if n == 0 {
				break
			}
			left -= n
		}
		t.has("b", text)
	},
}

func (t *T) model(name string, rnd *rand.Rand) {
	const span = 400000
	fds := []*os.File{t.create(name), t.open(name, os.O_RDWR)}
	var want []byte
	for step := range 250 {
		f := fds[rnd.IntN(2)]
		off, n := rnd.IntN(span), 1+rnd.IntN(60000)
		switch op := rnd.IntN(10); op {
		case 0:
			t.must("truncate", f.Truncate(int64(off)))
			if off < len(want) {
				want = want[:off]
			}
			want = append(want, make([]byte, off-len(want))...)
		case 1:
			t.must("fsync", f.Sync())
		case 2:
			t.must("close", f.Close())
			fds[0], fds[1] = t.open(name, os.O_RDWR), fds[0]
			if fds[1] == f {
				fds[1] = t.open(name, os.O_RDWR)
			}
		case 3, 4, 5:
			p := []byte(pattern(byte(step), n))
			_, err := f.WriteAt(p, int64(off))
			t.must("write", err)
			if off+n > len(want) {
				want = append(want, make([]byte, off+n-len(want))...)
			}
			copy(want[off:], p)
		case 6:
			if len(want) < 2 {
				continue
			}
			at := rnd.IntN(len(want) - 1)
			end := min(at+n, len(want))
			t.storeMapped(f, int64(at), []byte(pattern(byte(step), end-at)), int64(len(want)))
			copy(want[at:end], pattern(byte(step), end-at))
		default:
			p := make([]byte, n)
			got, err := f.ReadAt(p, int64(off))
			if err == io.EOF {
				err = nil
			}
			part := want[min(off, len(want)):min(off+n, len(want))]
			t.same(fmt.Sprintf("%s step %d: read of %d at %d", name, step, n, off), p[:got], part, err)
		}
		if size := t.fstat(fds[rnd.IntN(2)]).Size; size != int64(len(want)) {
			t.Fatalf("%s step %d: size %d, want %d", name, step, size, len(want))
		}
	}
	t.has(name, string(want))
	t.check("close", fds[0].Close())
	t.check("close", fds[1].Close())
	t.has(name, string(want))
}

// storeMapped writes through a shared mapping.
func (t *T) storeMapped(f *os.File, off int64, p []byte, size int64) {
	m, err := unix.Mmap(int(f.Fd()), 0, int(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	t.must("mmap", err)
	copy(m[off:], p)
	t.must("munmap", unix.Munmap(m))
}

var sparseTests = map[string]func(*T){
	"Sparse": func(t *T) {
		f := t.create("f")
		t.writeAt(f, "end", 3<<20)
		t.writeAt(f, "mid", 1<<20)
		if st := t.fstat(f); st.Size != 3<<20+3 {
			t.Errorf("size %d", st.Size)
		}
		t.readsAt(f, 0, strings.Repeat("\x00", 1<<20)+"mid"+strings.Repeat("\x00", 2<<20-3)+"end")
		t.check("close", f.Close())
		p, err := os.ReadFile(t.path("f"))
		if err != nil || len(p) != 3<<20+3 || bytes.Count(p, []byte{0}) != 3<<20-3 {
			t.Errorf("opened again: %d bytes, %v", len(p), err)
		}
	},
	// Large goes past 2^32 bytes.
	"Large": func(t *T) {
		f := t.create("f")
		for _, off := range []int64{1<<31 - 2, 1<<32 - 2, 5 << 30} {
			t.writeAt(f, fmt.Sprint("at", off), off)
		}
		t.must("fsync", f.Sync())
		for _, off := range []int64{1<<31 - 2, 1<<32 - 2, 5 << 30} {
			t.readsAt(f, off, fmt.Sprint("at", off))
		}
		t.readsAt(f, 3<<30, strings.Repeat("\x00", 10000))
		if st := t.stat("f"); st.Size != 5<<30+12 {
			t.Errorf("size %d", st.Size)
		}
		t.must("truncate", f.Truncate(1<<32+1))
		t.check("close", f.Close())
		f = t.open("f", os.O_RDONLY)
		p := make([]byte, 100)
		if n, err := f.ReadAt(p, 1<<32-2); n != 3 || err != io.EOF || string(p[:3]) != "at4" {
			t.Errorf("after truncating: %q, %v", p[:n], err)
		}
	},
	"Fallocate": func(t *T) {
		f := t.create("f")
		t.writeAt(f, "data", 0)
		t.must("fallocate", t.fallocate(f, 0, 0, 1<<20))
		if st := t.fstat(f); st.Size != 1<<20 || st.Blocks < 1<<20/512 {
			t.Errorf("size %d, %d blocks", st.Size, st.Blocks)
		}
		t.readsAt(f, 0, "data"+strings.Repeat("\x00", 10000))
		t.fails("of no bytes", t.fallocate(f, 0, 0, 0), unix.EINVAL)
		r := t.open("f", os.O_RDONLY)
		t.fails("of O_RDONLY", t.fallocate(r, 0, 0, 100), unix.EBADF)
	},
	"FallocateKeepSize": func(t *T) {
		f := t.create("f")
		t.writeAt(f, "data", 0)
		t.must("fallocate", t.fallocate(f, unix.FALLOC_FL_KEEP_SIZE, 0, 1<<20))
		if st := t.fstat(f); st.Size != 4 {
			t.Errorf("size %d", st.Size)
		}
		t.has("f", "data")
	},
	"FallocatePunchHole": func(t *T) {
		f := t.create("f")
		text := pattern(6, 1<<20)
		t.writeAt(f, text, 0)
		t.must("fsync", f.Sync())
		before := t.fstat(f)
		t.must("punch hole", t.fallocate(f, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 1000, 800000))
		t.readsAt(f, 0, text[:1000]+strings.Repeat("\x00", 800000)+text[801000:])
		after := t.fstat(f)
		if after.Size != before.Size || after.Blocks >= before.Blocks {
			t.Errorf("size %d to %d, blocks %d to %d", before.Size, after.Size, before.Blocks, after.Blocks)
		}
	},
	"FallocateZeroRange": func(t *T) {
		f := t.create("f")
		t.writeAt(f, pattern(6, 100000), 0)
		t.must("zero range", t.fallocate(f, unix.FALLOC_FL_ZERO_RANGE, 5000, 200000))
		t.readsAt(f, 0, pattern(6, 100000)[:5000]+strings.Repeat("\x00", 200000))
		if st := t.fstat(f); st.Size != 205000 {
			t.Errorf("size %d", st.Size)
		}
	},
	"SeekHole": func(t *T) {
		f := t.create("f")
		t.writeAt(f, "x", 4<<20)
		t.must("truncate", f.Truncate(8<<20))
		seek := func(off int64, whence int) int64 {
			got, err := f.Seek(off, whence)
			t.must("seek", err)
			return got
		}
		if off := seek(0, unix.SEEK_HOLE); off != 0 {
			t.Errorf("SEEK_HOLE from 0: %d", off)
		}
		data := seek(0, unix.SEEK_DATA)
		if data > 4<<20 || data < 3<<20 {
			t.Errorf("SEEK_DATA from 0: %d", data)
		}
		hole := seek(4<<20, unix.SEEK_HOLE)
		if hole <= 4<<20 || hole > 5<<20 {
			t.Errorf("SEEK_HOLE from the data: %d", hole)
		}
		_, err := f.Seek(hole, unix.SEEK_DATA)
		t.fails("SEEK_DATA in the last hole", err, unix.ENXIO)
		_, err = f.Seek(8<<20, unix.SEEK_HOLE)
		t.fails("SEEK_HOLE at the end", err, unix.ENXIO)
	},
	// SeekData holds for all: data is never passed over, holes are zero.
	"SeekData": func(t *T) {
		f := t.create("f")
		want := make([]byte, 3<<20)
		for _, off := range []int{0, 700000, 2 << 20} {
			t.writeAt(f, pattern(9, 5000), int64(off))
			copy(want[off:], pattern(9, 5000))
		}
		t.must("truncate", f.Truncate(3<<20))
		for at := int64(0); at < 3<<20; {
			data, err := f.Seek(at, unix.SEEK_DATA)
			if err != nil {
				t.fails("SEEK_DATA", err, unix.ENXIO)
				data = 3 << 20
			}
			if len(bytes.Trim(want[at:data], "\x00")) > 0 {
				t.Errorf("data between %d and %d was passed over", at, data)
			}
			if data == 3<<20 {
				break
			}
			at, err = f.Seek(data, unix.SEEK_HOLE)
			t.must("SEEK_HOLE", err)
			if at <= data {
				t.Fatalf("SEEK_HOLE from %d: %d", data, at)
			}
		}
	},
}

func (t *T) fallocate(f *os.File, mode uint32, off, n int64) error {
	return again(func() error { return unix.Fallocate(int(f.Fd()), mode, off, n) })
}
