package serve

import (
	"context"
	"time"

	"github.com/lxbridge/lx/mount/volume"
)

// leaseTime is how long the kernel may keep attributes by a lease: it is told
// when that ends.
const leaseTime = time.Hour

// leaseTimeout is leaseTime, where the kernel can be told.
func (f *FS) leaseTimeout() time.Duration {
	if f.notifier.Load() == nil {
		return f.opts.AttrTimeout
	}
	return leaseTime
}

// lease names the promise that holds for i now, 0 where there is none.
func (f *FS) lease(i *inode) uint64 {
	if f.leaser == nil || f.opts.Cache == None {
		return 0
	}
	return f.leaser.Lease(i.node)
}

// leased is i's attributes where they are right by a lease that holds. After
// our own writes they are not: times are the server's to say.
func (f *FS) leased(i *inode) (volume.Attr, bool) {
	lease := f.lease(i)
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.attr, lease != 0 && i.lease == lease && i.changed <= i.asked
}

// recalled is called when a lease of n ends: what was written by it goes to the
// server, and the kernel asks again for attributes. Pages stay: the next open
// finds out whether they are still right.
func (f *FS) recalled(ctx context.Context, n volume.Node) {
	f.mu.Lock()
	i := f.byNode[n]
	f.mu.Unlock()
	if i == nil {
		return
	}
	i.mu.Lock()
	i.lease = 0
	i.mu.Unlock()
	// A failure is kept for fsync and close.
	_ = i.settle(ctx, 0, maxOffset)
	i.mu.Lock()
	i.attrAt = time.Time{}
	i.mu.Unlock()
	i.dropAhead(0, maxOffset)
	f.invalidate(i, -1, 0)
}

// dirtySize is how large n is with what is not at the server, if anything is.
func (f *FS) dirtySize(n volume.Node) (uint64, bool) {
	f.mu.Lock()
	i := f.byNode[n]
	f.mu.Unlock()
	if i == nil {
		return 0, false
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.attr.Size, len(i.behind.pieces) > 0
}
