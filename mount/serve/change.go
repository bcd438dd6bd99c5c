package serve

import (
	"context"
	"slices"
	"syscall"
	"time"

	"github.com/lxbridge/lx/mount/volume"
)

// changes counts the changes of names in a directory that we make, so that one
// knows whether it was alone.
type changes struct {
	begun, ended uint64
}

// change has do change names in dirs. The kernel asks for a directory's attributes
// after each change of ours: where the server told them with its answer, and no
// other change of ours was under way meanwhile, that is what it gets.
func (f *FS) change(ctx context.Context, do func(ctx context.Context) error, dirs ...*inode) error {
	dirs = slices.Compact(dirs)
	told := make(map[volume.Node]volume.Attr, len(dirs))
	asked := f.tick()
	alone := make([]uint64, len(dirs)) // what begun is while no other begins; 0: another is under way
	for n, d := range dirs {
		alone[n] = d.beginChange()
	}
	err := do(volume.Telling(ctx, func(dir volume.Node, a volume.Attr) { told[dir] = a }))
	for n, d := range dirs {
		a, ok := told[d.node]
		d.endChange(a, ok && err == nil, alone[n], asked)
	}
	return err
}

func (i *inode) beginChange() (alone uint64) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.toldAt = time.Time{}
	i.changes.begun++
	if i.changes.begun == i.changes.ended+1 {
		alone = i.changes.begun
	}
	return alone
}

func (i *inode) endChange(a volume.Attr, told bool, alone, asked uint64) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.changes.ended++
	if told && alone == i.changes.begun && i.asked <= asked && a.Mode&syscall.S_IFMT == i.typ {
		i.attr, i.known, i.asked = a, true, asked
		i.attrAt = time.Now()
		i.toldAt = i.attrAt
	}
}

// toldAttr is what the server told of i with its answer to our last change, and
// for how long it counts. It is given once: who asks again while the kernel may
// keep it wants to know what is true now.
func (f *FS) toldAttr(i *inode) (a volume.Attr, valid time.Duration, ok bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	valid = f.opts.AttrTimeout - time.Since(i.toldAt)
	i.toldAt = time.Time{}
	return i.attr, valid, valid > 0
}
