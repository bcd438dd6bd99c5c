package serve

import (
	"context"
	"slices"
	"sync"
	"syscall"
	"testing"

	"github.com/lxbridge/lx/core/fuse"
	"github.com/lxbridge/lx/mount/volume"
)

// told takes down what the kernel is told.
type told struct {
	mu    sync.Mutex
	names []string

	pruned []uint64
	prune  error // the answer to NotifyPrune
}

func (*told) NotifyInvalInode(uint64, int64, int64) error { return nil }

func (n *told) NotifyInvalEntry(_ uint64, name string, expire bool) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if expire {
		n.names = append(n.names, name)
	}
	return nil
}

func (n *told) NotifyPrune(nodes []uint64) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.pruned = append(n.pruned, nodes...)
	return n.prune
}

// locking is a volume whose server grants every lock.
type locking struct{ *fake }

func (locking) Getlk(_ context.Context, _ volume.Handle, _ uint64, lk fuse.Lk) (fuse.Lk, error) {
	lk.Type = syscall.F_UNLCK
	return lk, nil
}

func (locking) Setlk(context.Context, volume.Handle, uint64, fuse.Lk, bool) error { return nil }

var _ volume.Locker = locking{}

// TestLockedBeside: once a file is locked the kernel believes no name beside it,
// neither one that it has nor one that it is told later; others it does.
func TestLockedBeside(t *testing.T) {
	b := newBed(t, Options{})
	b.fs = New(locking{b.vol}, Options{})
	n := &told{}
	b.fs.SetNotifier(n)
	node, fh := b.create("db")
	b.create("journal")
	d, no := b.fs.Mkdir(b.ctx, fuse.RootID, "elsewhere", 0o755, 0)
	b.ok("mkdir", no)
	believed := func(parent uint64, name string) bool {
		t.Helper()
		e, no := b.fs.Lookup(b.ctx, parent, name)
		b.ok("lookup", no)
		return e.EntryValid > 0
	}
	if !believed(fuse.RootID, "journal") {
		t.Error("not believed before there is a lock")
	}
	for range 2 {
		b.ok("lock", b.fs.Setlk(b.ctx, node, fh, 1, fuse.Lk{End: 9, Type: syscall.F_RDLCK}, false, false))
	}
	slices.Sort(n.names)
	if want := []string{"db", "elsewhere", "journal"}; !slices.Equal(n.names, want) {
		t.Errorf("the kernel was told of %q, want %q", n.names, want)
	}
	if believed(fuse.RootID, "journal") {
		t.Error("believed beside a locked file")
	}
	if _, no := b.fs.Mkdir(b.ctx, d.Node, "sub", 0o755, 0); no != 0 || !believed(d.Node, "sub") {
		t.Errorf("not believed in another directory (%v)", no)
	}
}
