package serve

import (
	"errors"
	"syscall"

	"github.com/lxbridge/lx/core/fuse"
)

// maxInodes is how many inodes are kept for a kernel with memory to spare, which
// would keep all that it ever saw.
const maxInodes = 128 << 10

// crowd is how the kernel is made to forget. FS.mu guards it.
type crowd struct {
	most    int  // from how many inodes on
	least   int  // how few there were since the kernel was asked last
	pruning bool // it is being asked, or it cannot
}

// crowded has the kernel forget a quarter of the inodes, whichever come first,
// where there are too many. The caller holds mu.
func (f *FS) crowded() {
	c, n := &f.crowd, f.notifier.Load()
	if len(f.inodes) < c.most || len(f.inodes) < c.least+c.most/8 || c.pruning || n == nil {
		return
	}
	c.pruning = true
	var ids []uint64
	for id, i := range f.inodes {
		if id != fuse.RootID && len(i.children) == 0 {
			ids = append(ids, id)
		}
		if len(ids) > len(f.inodes)/4 {
			break
		}
	}
	f.work.Go(func() { f.prune(*n, ids) })
}

// prune asks in pieces: the kernel says nothing of those that it does not forget.
func (f *FS) prune(n Notifier, ids []uint64) {
	const piece = 512
	var err error
	for ; len(ids) > 0 && err == nil && f.ctx.Err() == nil; ids = ids[min(piece, len(ids)):] {
		err = n.NotifyPrune(ids[:min(piece, len(ids))])
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.crowd.least = len(f.inodes)
	f.crowd.pruning = errors.Is(err, syscall.ENOSYS)
}
