package memvol

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/lxbridge/lx/mount/volume"
	"github.com/lxbridge/lx/mount/volume/volumetest"
)

func TestContract(t *testing.T) {
	volumetest.Contract(t, func() volume.Volume { return New(Options{Size: 1 << 30}) })
}

// TestSpaceComesBack: what was removed while open and held takes no space once
// it is let go.
func TestSpaceComesBack(t *testing.T) {
	ctx, v := t.Context(), New(Options{Size: 1 << 20})
	n, _, h, err := v.Create(ctx, v.Root(), "f", os.O_RDWR, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := h.WriteAt(ctx, make([]byte, 1<<20), 0); err != nil {
		t.Fatal(err)
	}
	if _, err := h.WriteAt(ctx, []byte{1}, 1<<20); volume.Errno(err) != syscall.ENOSPC {
		t.Errorf("beyond the size: %v", err)
	}
	if err := v.Unlink(ctx, v.Root(), "f"); err != nil {
		t.Fatal(err)
	}
	free := func() uint64 {
		s, err := v.Statfs(ctx)
		if err != nil {
			t.Fatal(err)
		}
		return s.Bfree
	}
	if free() != 0 {
		t.Error("space came back while the file is open")
	}
	if err := h.Close(ctx); err != nil {
		t.Fatal(err)
	}
	if free() != 0 {
		t.Error("space came back while the node is held")
	}
	v.Forget(n)
	if free() != 256 || v.nodes.Load() != 1 {
		t.Errorf("%d of 256 blocks free, %d nodes", free(), v.nodes.Load())
	}
}

// TestRenameStorm moves directories and files about from many goroutines: no
// deadlock, no race, and the tree that is left hangs together.
func TestRenameStorm(t *testing.T) {
	ctx, v := t.Context(), New(Options{Size: 1 << 20})
	dirs := []volume.Node{v.Root()}
	for i := range 6 {
		d, _, err := v.Mkdir(ctx, dirs[i/2], fmt.Sprint(i%4), 0o755)
		if err != nil {
			t.Fatal(err)
		}
		dirs = append(dirs, d)
	}
	var wg sync.WaitGroup
	for g := range uint64(8) {
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(g, 5))
			name := func() string { return fmt.Sprint(rnd.IntN(4)) }
			dir := func() volume.Node { return dirs[rnd.IntN(len(dirs))] }
			for range 1500 {
				var err error
				switch rnd.IntN(6) {
				case 0:
					var n volume.Node
					if n, _, err = v.Mkdir(ctx, dir(), name(), 0o755); err == nil {
						v.Forget(n)
					}
				case 1:
					var n volume.Node
					if n, _, err = v.Mknod(ctx, dir(), name(), syscall.S_IFREG|0o600, 0); err == nil {
						v.Forget(n)
					}
				case 2:
					if err = v.Rmdir(ctx, dir(), name()); volume.Errno(err) == syscall.ENOTDIR {
						err = v.Unlink(ctx, dir(), name())
					}
				case 3:
					err = v.Rename(ctx, dir(), name(), dir(), name(), unix.RENAME_EXCHANGE)
				default:
					err = v.Rename(ctx, dir(), name(), dir(), name(), 0)
				}
				switch volume.Errno(err) {
				case 0, syscall.ENOENT, syscall.EEXIST, syscall.ENOTEMPTY, syscall.EINVAL, syscall.ENOTDIR, syscall.EISDIR:
				default:
					t.Errorf("unexpected: %v", err)
				}
			}
		})
	}
	wg.Wait()
	for _, d := range dirs[1:] {
		v.Forget(d)
	}
	if n := count(t, v.root); n != v.nodes.Load() {
		t.Errorf("%d nodes in the tree, %d in the books", n, v.nodes.Load())
	}
}

// count walks the tree and checks parents and link counts on the way.
func count(t *testing.T, d *node) int64 {
	n, links := int64(1), uint32(2)
	for name, e := range d.dir.names {
		if e.n.dir == nil {
			n++
			continue
		}
		links++
		if e.n.dir.parent != d {
			t.Errorf("%s: wrong parent", name)
		}
		n += count(t, e.n)
	}
	if d.nlink != links {
		t.Errorf("a directory has %d links, want %d", d.nlink, links)
	}
	return n
}

// TestLend: what is lent is what would be read, and cannot change meanwhile.
func TestLend(t *testing.T) {
	v := New(Options{})
	n, _, h, err := v.Create(t.Context(), v.Root(), "f", os.O_RDWR, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer v.Forget(n)
	data := make([]byte, chunkSize+100)
	for i := range data {
		data[i] = byte(i)
	}
	if _, err := h.WriteAt(t.Context(), data, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := h.ReadAt(t.Context(), make([]byte, 1), 0); err != nil { // moves atime
		t.Fatal(err)
	}
	lender := h.(volume.Lender)
	for _, c := range []struct{ off, n, want int }{{0, 4096, 4096}, {100, 1000, 1000}, {chunkSize, 4096, 100}, {chunkSize - 10, 10, 10}, {chunkSize - 10, 20, -1}, {len(data), 1, -1}, {-1, 1, -1}} {
		b, loan, ok := lender.Lend(int64(c.off), c.n)
		if ok != (c.want >= 0) || ok && !bytes.Equal(b, data[c.off:c.off+c.want]) {
			t.Errorf("%d bytes at %d: %d, %v", c.n, c.off, len(b), ok)
		}
		if ok {
			loan.Return()
		}
	}
	b, loan, ok := lender.Lend(0, 4096)
	if !ok {
		t.Fatal("nothing is lent")
	}
	written := make(chan error)
	go func() {
		_, err := h.WriteAt(t.Context(), []byte("other"), 0)
		written <- err
	}()
	select {
	case <-written:
		t.Error("written to while it was lent")
	default:
	}
	if !bytes.Equal(b, data[:4096]) {
		t.Error("what is lent has changed")
	}
	loan.Return()
	if err := <-written; err != nil {
		t.Error(err)
	}
	if err := h.Close(t.Context()); err != nil {
		t.Error(err)
	}
}
