package serve

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lxbridge/lx/core/fuse"
	"github.com/lxbridge/lx/mount/volume"
)

// bed is a file system without a kernel on a fake volume.
type bed struct {
	*testing.T
	ctx   context.Context
	vol   *fake
	fs    *FS
	notes []error
	mu    sync.Mutex
}

func newBed(t *testing.T, o Options) *bed {
	b := &bed{T: t, ctx: t.Context(), vol: &fake{Volume: memory()}}
	o.Note = func(err error) {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.notes = append(b.notes, err)
	}
	b.fs = New(b.vol, o)
	return b
}

// end drains and checks that nothing is left.
func (b *bed) end(want error) {
	b.Helper()
	b.vol.on(nil)
	if err := b.fs.Drain(context.Background()); errno(err) != errno(want) {
		b.Errorf("Drain: %v, want %v", err, want)
	}
	if s := b.fs.Stats(); s != (Stats{}) {
		b.Errorf("left at the end: %+v", s)
	}
	if err := b.vol.balance(); err != nil {
		b.Error(err)
	}
}

func (b *bed) ok(what string, no syscall.Errno) {
	b.Helper()
	if no != 0 {
		b.Fatalf("%s: %v", what, no)
	}
}

func (b *bed) create(name string) (node, fh uint64) {
	b.Helper()
	e, o, no := b.fs.Create(b.ctx, fuse.RootID, name, syscall.O_RDWR, 0o644, 0)
	b.ok("create", no)
	return e.Node, o.FH
}

func (b *bed) open(node uint64, flags uint32) (uint64, uint32) {
	b.Helper()
	o, no := b.fs.Open(b.ctx, node, flags)
	b.ok("open", no)
	return o.FH, o.Flags
}

func (b *bed) write(node, fh uint64, off int64, data []byte) {
	b.Helper()
	n, no := b.fs.Write(b.ctx, node, fh, off, data, 0)
	if no != 0 || n != len(data) {
		b.Fatalf("write %d bytes at %d: %d, %v", len(data), off, n, no)
	}
}

func (b *bed) read(node, fh uint64, off int64, n int) []byte {
	b.Helper()
	p := make([]byte, n)
	n, no := b.fs.Read(b.ctx, node, fh, off, p)
	b.ok("read", no)
	return p[:n]
}

// atServer is a file's content as another client sees it.
func (b *bed) atServer(name string) []byte {
	b.Helper()
	v := b.vol.Volume
	n, a, err := v.Lookup(b.ctx, v.Root(), name)
	if err != nil {
		b.Fatal(err)
	}
	defer v.Forget(n)
	h, err := v.Open(b.ctx, n, syscall.O_RDONLY)
	if err != nil {
		b.Fatal(err)
	}
	defer h.Close(b.ctx)
	p := make([]byte, a.Size)
	if _, err := h.ReadAt(b.ctx, p, 0); err != nil {
		b.Fatal(err)
	}
	return p
}

// elsewhere changes a file as another client does.
func (b *bed) elsewhere(name string, off int64, data []byte) {
	b.Helper()
	v := b.vol.Volume
	n, _, h, err := v.Create(b.ctx, v.Root(), name, syscall.O_RDWR, 0o644)
	if err == nil {
		_, err = h.WriteAt(b.ctx, data, off)
	}
	if err != nil {
		b.Fatal(err)
	}
	if err := h.Close(b.ctx); err != nil {
		b.Fatal(err)
	}
	v.Forget(n)
}

// TestLikeBytes compares random operations through several open files with the
// same on plain bytes, with answers of the server that come at random times.
func TestLikeBytes(t *testing.T) {
	for seed := range uint64(8) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			b := newBed(t, Options{Cache: Cache(seed % 2)})
			rnd := rand.New(rand.NewPCG(seed, 7))
			b.vol.on(func(context.Context, string, string) error {
				if rand.IntN(4) == 0 {
					<-time.After(time.Duration(rand.IntN(300)) * time.Microsecond)
				}
				return nil
			})
			node, fh := b.create("f")
			fhs := []uint64{fh}
			var want []byte
			at := 0
			const span = 6 << 20
			for step := range 600 {
				fh := fhs[rnd.IntN(len(fhs))]
				off, n := rnd.IntN(span), 1+rnd.IntN(128<<10)
				if rnd.IntN(3) > 0 { // go on where the last one ended
					off = at % span
				}
				switch k := rnd.IntN(20); {
				case k < 9:
					p := bytes.Repeat([]byte{byte(step)}, n)
					b.write(node, fh, int64(off), p)
					if off+n > len(want) {
						want = append(want, make([]byte, off+n-len(want))...)
					}
					copy(want[off:], p)
					at = off + n
				case k < 17:
					got := b.read(node, fh, int64(off), n)
					exp := want[min(off, len(want)):min(off+n, len(want))]
					if !bytes.Equal(got, exp) {
						t.Fatalf("step %d: read %d at %d of %d: %d bytes, which differ", step, n, off, len(want), len(got))
					}
					at = off + n
				case k == 17:
					size := uint64(rnd.IntN(span))
					a, _, no := b.fs.Setattr(b.ctx, node, &fuse.SetAttrIn{Valid: fattrSize, Size: size})
					b.ok("truncate", no)
					if a.Size != size {
						t.Fatalf("step %d: truncated to %d, got %d", step, size, a.Size)
					}
					want = append(want[:min(int(size), len(want))], make([]byte, max(0, int(size)-len(want)))...)
				case k == 18:
					b.ok("fsync", b.fs.Fsync(b.ctx, node, fh, false))
				default:
					if len(fhs) < 4 {
						fh, _ := b.open(node, syscall.O_RDWR)
						fhs = append(fhs, fh)
					} else {
						b.ok("flush", b.fs.Flush(b.ctx, node, fhs[0], 1))
						b.fs.Release(node, fhs[0], 0, 0)
						fhs = fhs[1:]
					}
				}
				if a, _, no := b.fs.Getattr(b.ctx, node, 0, false); no != 0 || a.Size != uint64(len(want)) {
					t.Fatalf("step %d: size %d, %v; want %d", step, a.Size, no, len(want))
				}
			}
			for _, fh := range fhs {
				b.ok("flush", b.fs.Flush(b.ctx, node, fh, 1))
				b.fs.Release(node, fh, 0, 0)
			}
			if !bytes.Equal(b.atServer("f"), want) {
				t.Error("the server has something else")
			}
			b.fs.Forget(node, 1)
			b.end(nil)
		})
	}
}

// TestCoalesce: small writes in sequence reach the server in few large ones.
func TestCoalesce(t *testing.T) {
	b := newBed(t, Options{})
	node, fh := b.create("f")
	for n := range 1024 {
		b.write(node, fh, int64(n)*4096, make([]byte, 4096))
	}
	b.ok("fsync", b.fs.Fsync(b.ctx, node, fh, false))
	if n := b.vol.count("write"); n < 4 || n > 8 {
		t.Errorf("4 MiB took %d writes", n)
	}
	if n := b.vol.count("sync"); n != 1 {
		t.Errorf("%d syncs", n)
	}
	b.fs.Release(node, fh, 0, 0)
	b.fs.Forget(node, 1)
	b.end(nil)
}

// TestCloseTells: close(2) of a writer tells what the server took and cannot keep.
func TestCloseTells(t *testing.T) {
	b := newBed(t, Options{})
	node, writer := b.create("f")
	reader, _ := b.open(node, syscall.O_RDONLY)
	b.write(node, writer, 0, []byte("data"))
	b.vol.on(func(_ context.Context, op, _ string) error {
		if op == "flush" {
			return syscall.EDQUOT
		}
		return nil
	})
	b.ok("close of a reader", b.fs.Flush(b.ctx, node, reader, 1))
	if no := b.fs.Flush(b.ctx, node, writer, 1); no != syscall.EDQUOT {
		t.Errorf("close: %v", no)
	}
	if got := b.atServer("f"); string(got) != "data" {
		t.Errorf("asked before the data was there: %q", got)
	}
}

// TestLostWrite: every open file that may have written is told, once; the
// mount has a note; writes meanwhile fail at once.
func TestLostWrite(t *testing.T) {
	b := newBed(t, Options{})
	node, one := b.create("f")
	two, _ := b.open(node, syscall.O_RDWR)
	reader, _ := b.open(node, syscall.O_RDONLY)
	b.vol.on(func(_ context.Context, op, _ string) error {
		if op == "write" {
			return syscall.ENOSPC
		}
		return nil
	})
	b.write(node, one, 0, []byte("lost"))
	if no := b.fs.Flush(b.ctx, node, reader, 1); no != 0 {
		t.Errorf("close of a reader: %v", no)
	}
	if no := b.fs.Fsync(b.ctx, node, one, false); no != syscall.ENOSPC {
		t.Errorf("fsync: %v", no)
	}
	if no := b.fs.Fsync(b.ctx, node, one, false); no != 0 {
		t.Errorf("second fsync: %v", no)
	}
	if _, no := b.fs.Write(b.ctx, node, two, 0, []byte("more"), 0); no != syscall.ENOSPC {
		t.Errorf("write of one not told yet: %v", no)
	}
	if no := b.fs.Flush(b.ctx, node, two, 1); no != syscall.ENOSPC {
		t.Errorf("close: %v", no)
	}
	if len(b.notes) != 1 {
		t.Errorf("notes: %v", b.notes)
	}
	if a, _, no := b.fs.Getattr(b.ctx, node, 0, false); no != 0 || a.Size != 0 {
		t.Errorf("size %d, %v after nothing was written", a.Size, no)
	}
	b.vol.on(nil)
	b.write(node, two, 0, []byte("kept"))
	b.ok("close", b.fs.Flush(b.ctx, node, two, 1))
	if got := b.atServer("f"); string(got) != "kept" {
		t.Errorf("the server has %q", got)
	}
	for _, fh := range []uint64{one, two, reader} {
		b.fs.Release(node, fh, 0, 0)
	}
	b.fs.Forget(node, 1)
	b.end(nil)
}

// TestDirtyBound: writers wait when much is behind, and go on after.
func TestDirtyBound(t *testing.T) {
	b := newBed(t, Options{})
	gate := make(chan struct{})
	b.vol.on(func(ctx context.Context, op, _ string) error {
		if op == "write" {
			select {
			case <-gate:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		return nil
	})
	type opened struct{ node, fh uint64 }
	var files []opened
	for n := range 20 {
		node, fh := b.create(fmt.Sprint(n))
		files = append(files, opened{node, fh})
	}
	ctx, cancel := context.WithTimeout(b.ctx, time.Second)
	defer cancel()
	written := 0
	var no syscall.Errno
	for ; no == 0 && written < 128; written++ {
		fl := files[written%len(files)]
		_, no = b.fs.Write(ctx, fl.node, fl.fh, int64(written/len(files))<<20, make([]byte, 1<<20), 0)
	}
	if no != syscall.ETIMEDOUT || written != 65 || b.fs.Stats().Dirty != maxDirty {
		t.Errorf("%d MiB written, %v, %d bytes dirty", written, no, b.fs.Stats().Dirty)
	}
	close(gate)
	b.write(files[0].node, files[0].fh, 0, make([]byte, 1<<20))
	for _, fl := range files {
		b.ok("close", b.fs.Flush(b.ctx, fl.node, fl.fh, 1))
		b.fs.Release(fl.node, fl.fh, 0, 0)
		b.fs.Forget(fl.node, 1)
	}
	b.end(nil)
}

// TestDrain: what is written when the kernel lets go is at the server after
// Drain; where that cannot be, Drain says so and ends in time.
func TestDrain(t *testing.T) {
	b := newBed(t, Options{})
	node, fh := b.create("f")
	b.write(node, fh, 0, []byte("dirty"))
	if err := b.fs.Drain(b.ctx); err != nil {
		t.Error(err)
	}
	if got := b.atServer("f"); string(got) != "dirty" {
		t.Errorf("the server has %q", got)
	}
	if err := b.vol.balance(); err != nil {
		t.Error(err)
	}

	b = newBed(t, Options{})
	node, fh = b.create("f")
	b.vol.on(func(ctx context.Context, op, _ string) error {
		if op == "write" {
			<-ctx.Done()
			return ctx.Err()
		}
		return nil
	})
	b.write(node, fh, 0, []byte("dirty"))
	ctx, cancel := context.WithTimeout(b.ctx, 50*time.Millisecond)
	defer cancel()
	if err := b.fs.Drain(ctx); err == nil {
		t.Error("Drain of a dead server tells nothing")
	}
}

// TestInterrupted: a waiting call ends with its context, and what it waited
// for goes on.
func TestInterrupted(t *testing.T) {
	b := newBed(t, Options{})
	node, fh := b.create("f")
	gate, entered := make(chan struct{}), make(chan struct{}, 10)
	b.vol.on(func(_ context.Context, op, _ string) error {
		if op == "write" {
			entered <- struct{}{}
			<-gate
		}
		return nil
	})
	b.write(node, fh, 0, []byte("slow"))
	ctx, cancel := context.WithCancel(b.ctx)
	got := make(chan syscall.Errno)
	go func() { got <- b.fs.Flush(ctx, node, fh, 1) }()
	<-entered
	cancel()
	if no := <-got; no != syscall.EINTR {
		t.Errorf("close: %v", no)
	}
	close(gate)
	b.fs.Release(node, fh, 0, 0)
	if got := b.atServer("f"); string(got) != "slow" {
		t.Errorf("the server has %q", got)
	}
	b.fs.Forget(node, 1)
	b.end(nil)
}

// TestReadAhead: sequential readers are answered from large pieces, random
// ones ask for what they need.
func TestReadAhead(t *testing.T) {
	const size, piece = 32 << 20, 128 << 10
	b := newBed(t, Options{})
	b.elsewhere("f", 0, make([]byte, size))
	e, no := b.fs.Lookup(b.ctx, fuse.RootID, "f")
	b.ok("lookup", no)
	fh, _ := b.open(e.Node, syscall.O_RDONLY)
	for off := int64(0); off < size; off += piece {
		if got := b.read(e.Node, fh, off, piece); len(got) != piece {
			t.Fatalf("%d bytes at %d", len(got), off)
		}
	}
	if n := b.vol.count("read"); n > 36 {
		t.Errorf("reading 32 MiB in sequence took %d reads", n)
	}
	before := b.vol.count("read")
	rnd := rand.New(rand.NewPCG(1, 1))
	for range 200 {
		b.read(e.Node, fh, rnd.Int64N(size-4096), 4096)
	}
	if n := b.vol.count("read") - before; n > 230 {
		t.Errorf("200 random reads took %d", n)
	}
	b.fs.Release(e.Node, fh, 0, 0)
	b.fs.Forget(e.Node, 1)
	b.end(nil)
}

// TestReadAheadHole: what is read ahead while the end of the file is not at the
// server yet is no shorter for that.
func TestReadAheadHole(t *testing.T) {
	const end, piece = 6 << 20, 128 << 10
	b := newBed(t, Options{})
	node, fh := b.create("f")
	b.write(node, fh, 1<<20, []byte("mid"))
	b.ok("fsync", b.fs.Fsync(b.ctx, node, fh, false))
	gate := make(chan struct{})
	b.vol.on(func(_ context.Context, op, _ string) error {
		if op == "write" {
			<-gate
		}
		return nil
	})
	b.write(node, fh, end, []byte("end"))
	want := make([]byte, end+3)
	copy(want[1<<20:], "mid")
	copy(want[end:], "end")
	var got []byte
	for off := int64(0); off < int64(len(want)); off += piece {
		if off == 2<<20 {
			close(gate)
			b.ok("fsync", b.fs.Fsync(b.ctx, node, fh, false))
		}
		got = append(got, b.read(node, fh, off, piece)...)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%d bytes, want %d; or they differ", len(got), len(want))
	}
	b.fs.Release(node, fh, 0, 0)
	b.fs.Forget(node, 1)
	b.end(nil)
}

// TestLend: what was read ahead is lent as it is, to the end of the file and not
// beyond a piece; what is not at the server yet is not.
func TestLend(t *testing.T) {
	const size, n = 3<<20 + 1000, 128 << 10
	b := newBed(t, Options{})
	data := make([]byte, size)
	for i := range data {
		data[i] = byte(i >> 9)
	}
	b.elsewhere("f", 0, data)
	e, no := b.fs.Lookup(b.ctx, fuse.RootID, "f")
	b.ok("lookup", no)
	fh, _ := b.open(e.Node, syscall.O_RDWR)
	lend := func(off int64, ok bool, want []byte) {
		t.Helper()
		p, loan, got := b.fs.Lend(b.ctx, e.Node, fh, off, n)
		if got != ok || !bytes.Equal(p, want) {
			t.Errorf("%d bytes at %d, %v; want %d, %v", len(p), off, got, len(want), ok)
		}
		if got {
			loan.Return()
		}
	}
	for off := int64(0); off < size; off += n {
		lend(off, true, data[off:min(off+n, size)])
	}
	lend(size, true, nil)
	lend(1<<20-4096, false, nil)
	b.write(e.Node, fh, 2<<20, []byte("new"))
	lend(2<<20, false, nil)
	b.fs.Release(e.Node, fh, 0, 0)
	b.fs.Forget(e.Node, 1)
	b.end(nil)
}

// TestCloseToOpen: pages are kept where nothing changed, also after own
// writes, and not where somebody else wrote.
func TestCloseToOpen(t *testing.T) {
	b := newBed(t, Options{})
	node, fh := b.create("f")
	b.write(node, fh, 0, make([]byte, 2<<20))
	b.ok("close", b.fs.Flush(b.ctx, node, fh, 1))
	b.fs.Release(node, fh, 0, 0)
	reopen := func(want uint32) {
		t.Helper()
		fh, flags := b.open(node, syscall.O_RDONLY)
		if flags != want {
			t.Errorf("open flags %#x, want %#x", flags, want)
		}
		b.fs.Release(node, fh, 0, 0)
	}
	reopen(fopenKeepCache)
	reopen(fopenKeepCache)
	b.elsewhere("f", 0, []byte("changed"))
	reopen(0)
	reopen(fopenKeepCache)
	b.fs.Forget(node, 1)
	b.end(nil)
}

// TestOldAnswer: what the server said before a write does not shrink the file.
func TestOldAnswer(t *testing.T) {
	b := newBed(t, Options{AttrTimeout: -1})
	node, fh := b.create("f")
	asked, answer := make(chan struct{}), make(chan struct{})
	b.vol.on(func(_ context.Context, op, _ string) error {
		if op == "gotattr" {
			close(asked)
			<-answer
		}
		return nil
	})
	got := make(chan uint64)
	go func() {
		a, _, _ := b.fs.Getattr(b.ctx, node, 0, false)
		got <- a.Size
	}()
	<-asked
	b.vol.on(nil)
	b.write(node, fh, 0, []byte("0123456789"))
	b.ok("flush", b.fs.Flush(b.ctx, node, fh, 1))
	close(answer)
	if size := <-got; size != 10 {
		t.Errorf("size %d after 10 bytes were written", size)
	}
	b.fs.Release(node, fh, 0, 0)
	b.fs.Forget(node, 1)
	b.end(nil)
}

// TestAppend: an append goes behind what another client has appended.
func TestAppend(t *testing.T) {
	b := newBed(t, Options{})
	node, fh := b.create("f")
	b.write(node, fh, 0, []byte("one "))
	b.ok("close", b.fs.Flush(b.ctx, node, fh, 1))
	b.elsewhere("f", 4, []byte("two "))
	app, _ := b.open(node, syscall.O_WRONLY|syscall.O_APPEND)
	b.write(node, app, 4, []byte("three ")) // the kernel knows 4 bytes
	b.ok("close", b.fs.Flush(b.ctx, node, app, 1))
	if got := b.atServer("f"); string(got) != "one two three " {
		t.Errorf("the server has %q", got)
	}
	b.fs.Release(node, fh, 0, 0)
	b.fs.Release(node, app, 0, 0)
	b.fs.Forget(node, 1)
	b.end(nil)
}

// TestHiddenLinked: of a file that is removed while open, and has another name,
// only the hidden name goes at its last close.
func TestHiddenLinked(t *testing.T) {
	b := newBed(t, Options{})
	b.vol.features = func(f *volume.Features) { f.UnlinkOpen = false }
	b.fs.feat, b.fs.vol = b.vol.Features(), linking{b.vol}
	node, fh := b.create("f")
	b.write(node, fh, 0, []byte("stays"))
	b.ok("flush", b.fs.Flush(b.ctx, node, fh, 1))
	_, no := b.fs.Link(b.ctx, node, fuse.RootID, "g")
	b.ok("link", no)
	b.ok("unlink", b.fs.Unlink(b.ctx, fuse.RootID, "f"))
	_, no = b.fs.Lookup(b.ctx, fuse.RootID, "g")
	b.ok("lookup", no)
	b.fs.Release(node, fh, 0, 0)
	if got := b.atServer("g"); string(got) != "stays" {
		t.Errorf("the other name has %q", got)
	}
	again, _ := b.open(node, syscall.O_RDONLY)
	if got := b.read(node, again, 0, 100); string(got) != "stays" {
		t.Errorf("opened again: %q", got)
	}
	if names := b.list(); len(names) != 1 || names[0] != "g" {
		t.Errorf("listed: %q", names)
	}
	b.fs.Release(node, again, 0, 0)
	b.fs.Forget(node, 3)
	b.end(nil)
}

// TestUnlinkOfJustClosed: the server has a file open a moment longer than the
// kernel; who removes it meanwhile does not hear of that, unless it stays so.
func TestUnlinkOfJustClosed(t *testing.T) {
	b := newBed(t, Options{})
	b.vol.features = func(f *volume.Features) { f.UnlinkOpen = false }
	b.fs.feat = b.vol.Features()
	var tries int
	for _, busy := range []int{3, inUseTries + 1} {
		node, fh := b.create("f")
		b.fs.Release(node, fh, 0, 0)
		tries = 0
		b.vol.on(func(_ context.Context, op, _ string) error {
			if op == "unlink" {
				if tries++; tries <= busy {
					return syscall.EBUSY
				}
			}
			return nil
		})
		want := syscall.Errno(0)
		if busy > inUseTries {
			want = syscall.EBUSY
		}
		if no := b.fs.Unlink(b.ctx, fuse.RootID, "f"); no != want {
			t.Errorf("busy %d times: %v, want %v", busy, no, want)
		}
		b.vol.on(nil)
		b.fs.Forget(node, 1)
	}
	b.end(nil)
}

// TestHidden: a file removed or replaced while open lives on, unseen, until
// its last close; where the rename that was to replace it fails it is back.
func TestHidden(t *testing.T) {
	b := newBed(t, Options{})
	b.vol.features = func(f *volume.Features) { f.UnlinkOpen = false }
	b.fs.feat = b.vol.Features()
	node, fh := b.create("f")
	other, ofh := b.create("g")
	b.fs.Release(other, ofh, 0, 0)
	b.vol.on(func(_ context.Context, op, name string) error {
		if op == "rename" && name == "g" {
			return syscall.EACCES
		}
		return nil
	})
	if no := b.fs.Rename(b.ctx, fuse.RootID, "g", fuse.RootID, "f", 0); no != syscall.EACCES {
		t.Errorf("rename: %v", no)
	}
	b.vol.on(nil)
	b.write(node, fh, 0, []byte("lives"))
	b.ok("flush", b.fs.Flush(b.ctx, node, fh, 1))
	if got := b.atServer("f"); string(got) != "lives" {
		t.Errorf("the file that was not replaced has %q", got)
	}
	b.ok("unlink", b.fs.Unlink(b.ctx, fuse.RootID, "f"))
	if a, _, no := b.fs.Getattr(b.ctx, node, 0, false); no != 0 || a.Nlink != 0 {
		t.Errorf("%d links, %v", a.Nlink, no)
	}
	if got := b.read(node, fh, 0, 100); string(got) != "lives" {
		t.Errorf("the removed file has %q", got)
	}
	if names := b.list(); len(names) != 1 || names[0] != "g" {
		t.Errorf("listed: %q", names)
	}
	b.fs.Release(node, fh, 0, 0)
	s, err := b.vol.Volume.ReadDir(b.ctx, b.vol.Root())
	if err != nil {
		t.Fatal(err)
	}
	es, err := s.Next(b.ctx)
	if err != nil || len(es) != 1 {
		t.Errorf("at the server: %v, %v", es, err)
	}
	s.Close()
	b.fs.Forget(node, 1)
	b.fs.Forget(other, 1)
	b.end(nil)
}

// sink takes entries, at most room of them.
type sink struct {
	names []string
	room  int
	nodes []uint64
	last  uint64
}

func (s *sink) Fits(string) bool { return s.room > 0 }

func (s *sink) Add(d fuse.DirEntry, e fuse.Entry) {
	s.room--
	s.names, s.last = append(s.names, d.Name), d.Off
	if e.Node != 0 {
		s.nodes = append(s.nodes, e.Node)
	}
}

// list is a listing of the root without dots.
func (b *bed) list() []string {
	b.Helper()
	o, no := b.fs.Opendir(b.ctx, fuse.RootID, 0)
	b.ok("opendir", no)
	s := &sink{room: unix.PathMax}
	b.ok("readdirplus", b.fs.ReadDirPlus(b.ctx, fuse.RootID, o.FH, 0, s))
	for _, n := range s.nodes {
		b.fs.Forget(n, 1)
	}
	b.fs.Releasedir(fuse.RootID, o.FH)
	return s.names[2:]
}

// TestListing: a listing costs no look-up per entry, goes on where it was,
// back where it is told, and does not bring removed names back.
func TestListing(t *testing.T) {
	b := newBed(t, Options{})
	for n := range 1000 {
		b.elsewhere(fmt.Sprintf("%04d", n), 0, []byte("x"))
	}
	o, no := b.fs.Opendir(b.ctx, fuse.RootID, 0)
	b.ok("opendir", no)
	var names []string
	var nodes []uint64
	var mark uint64
	more := func(off uint64, room int) *sink {
		s := &sink{room: room}
		b.ok("readdirplus", b.fs.ReadDirPlus(b.ctx, fuse.RootID, o.FH, off, s))
		nodes = append(nodes, s.nodes...)
		return s
	}
	for off := uint64(0); ; {
		s := more(off, 100)
		if len(s.names) == 0 {
			break
		}
		names, off = append(names, s.names...), s.last
		if len(names) == 100 {
			mark = off
			if no := b.fs.Unlink(b.ctx, fuse.RootID, "0300"); no != 0 { // listed already, not given on
				t.Fatal(no)
			}
		}
	}
	if len(names) != 1001 || b.vol.count("lookup") != 0 || b.vol.count("getattr") != 0 {
		t.Errorf("%d names, %d look-ups, %d getattrs", len(names), b.vol.count("lookup"), b.vol.count("getattr"))
	}
	if again := more(mark, 10); again.names[0] != names[100] {
		t.Errorf("back at %d: %s, want %s", mark, again.names[0], names[100])
	}
	for _, n := range nodes {
		b.fs.Forget(n, 1)
	}
	b.fs.Releasedir(fuse.RootID, o.FH)
	b.end(nil)
}

// TestModeOnly: a caller who sees no attributes of a directory gets those that
// are known, not to be kept, and only while they may be believed.
func TestModeOnly(t *testing.T) {
	const blind, seeing = 1, 2
	b := newBed(t, Options{AttrTimeout: time.Hour, Unseen: func(c fuse.Caller) bool { return c.PID == blind }})
	ask := func(pid uint32, node uint64, wantAsked int) (fuse.Attr, time.Duration) {
		t.Helper()
		before := b.vol.count("getattr")
		a, valid, no := b.fs.Getattr(fuse.WithCaller(b.ctx, fuse.Caller{PID: pid}), node, 0, false)
		b.ok("getattr", no)
		if n := b.vol.count("getattr") - before; n != wantAsked {
			t.Errorf("the server was asked %d times for process %d, want %d", n, pid, wantAsked)
		}
		return a, valid
	}
	ask(blind, fuse.RootID, 1) // nothing is known yet
	old, valid := ask(seeing, fuse.RootID, 1)
	if valid != time.Hour {
		t.Errorf("attributes hold for %v", valid)
	}
	node, fh := b.create("f")
	a, valid := ask(blind, fuse.RootID, 0)
	if valid != 0 || a.Mode != old.Mode {
		t.Errorf("mode %o for %v, want %o for no time", a.Mode, valid, old.Mode)
	}
	if a, _ := ask(seeing, fuse.RootID, 1); a.Mtime == old.Mtime {
		t.Error("who looks sees times of before a change")
	}
	ask(blind, node, 1) // a file
	root := b.fs.inodes[fuse.RootID]
	root.mu.Lock()
	root.attrAt = root.attrAt.Add(-2 * time.Hour)
	root.mu.Unlock()
	ask(blind, fuse.RootID, 1)
	b.fs.Release(node, fh, 0, 0)
	b.fs.Forget(node, 1)
	b.end(nil)
}
