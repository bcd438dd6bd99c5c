package serve

import (
	"context"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/lxbridge/lx/mount/volume"
)

// leasing is a volume whose server makes a promise for every file.
type leasing struct {
	*fake
	lease  atomic.Uint64
	recall func(context.Context, volume.Node)
	size   func(volume.Node) (uint64, bool)
}

func (l *leasing) Lease(volume.Node) uint64 { return l.lease.Load() }

func (l *leasing) OnRecall(recall func(context.Context, volume.Node), size func(volume.Node) (uint64, bool)) {
	l.recall, l.size = recall, size
}

// end ends the promise, and answers when all is written out.
func (l *leasing) end(n volume.Node) {
	l.lease.Store(0)
	l.recall(context.Background(), n)
}

// TestLease: what a lease promises is not asked for; when it is recalled what
// is dirty is at the server first, and attributes are asked for again.
func TestLease(t *testing.T) {
	b := newBed(t, Options{})
	l := &leasing{fake: b.vol}
	b.fs = New(l, Options{})
	node, fh := b.create("f")
	b.write(node, fh, 0, []byte("0123456789"))
	b.ok("fsync", b.fs.Fsync(b.ctx, node, fh, false))
	b.fs.Release(node, fh, 0, 0)
	l.lease.Store(1)
	fh, _ = b.open(node, syscall.O_RDWR)
	asked := b.vol.count("getattr")
	for range 3 {
		again, flags := b.open(node, syscall.O_RDWR)
		if flags&fopenKeepCache == 0 {
			t.Error("pages are dropped under a lease")
		}
		if _, _, no := b.fs.Getattr(b.ctx, node, 0, false); no != 0 {
			t.Error(no)
		}
		b.fs.Release(node, again, 0, 0)
	}
	if n := b.vol.count("getattr") - asked; n != 0 {
		t.Errorf("attributes were asked for %d times under a lease", n)
	}
	b.write(node, fh, 10, []byte("more"))
	i, _ := b.fs.inode(node)
	if size, dirty := l.size(i.node); size != 14 || !dirty {
		t.Errorf("size %d, dirty %v while written behind", size, dirty)
	}
	l.end(i.node)
	if size, dirty := l.size(i.node); size != 14 || dirty {
		t.Errorf("size %d, dirty %v after the recall", size, dirty)
	}
	asked = b.vol.count("getattr")
	if _, _, no := b.fs.Getattr(b.ctx, node, 0, false); no != 0 {
		t.Error(no)
	}
	if b.vol.count("getattr") == asked {
		t.Error("attributes were not asked for after the recall")
	}
	// Another lease does not vouch for pages of the time between.
	l.lease.Store(2)
	a, err := l.Setattr(b.ctx, i.node, nil, volume.SetAttr{Size: new(uint64)})
	if err != nil || a.Size != 0 {
		t.Fatal(err)
	}
	again, flags := b.open(node, syscall.O_RDONLY)
	if flags&fopenKeepCache != 0 {
		t.Error("pages are kept by a lease that is younger than a change")
	}
	b.fs.Release(node, again, 0, 0)
	b.fs.Release(node, fh, 0, 0)
	b.fs.Forget(node, 1)
	b.end(nil)
}
