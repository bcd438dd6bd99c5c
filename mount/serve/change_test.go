package serve

import (
	"context"
	"syscall"
	"testing"
	"time"

	"github.com/lxbridge/lx/core/fuse"
	"github.com/lxbridge/lx/mount/volume"
)

// TestChangeTold: what the server told of a directory with a change of ours is
// what the kernel gets, once it asks, unless another change was under way.
func TestChangeTold(t *testing.T) {
	b := newBed(t, Options{})
	defer b.end(nil)
	root := b.vol.Root()
	mtime := time.Unix(1e9, 0)
	var inside func()
	b.vol.on(func(ctx context.Context, op, name string) error {
		if op == "mkdir" {
			if f := inside; f != nil {
				inside = nil
				f()
			}
			volume.Tell(ctx, root, volume.Attr{Mode: syscall.S_IFDIR | 0o755, Mtime: mtime})
		}
		return nil
	})
	mkdir := func(name string) {
		t.Helper()
		_, no := b.fs.Mkdir(b.ctx, fuse.RootID, name, 0o755, 0)
		b.ok("mkdir", no)
	}
	asks := func(want int) fuse.Attr {
		t.Helper()
		before := b.vol.count("getattr")
		a, _, no := b.fs.Getattr(b.ctx, fuse.RootID, 0, false)
		b.ok("getattr", no)
		if n := b.vol.count("getattr") - before; n != want {
			t.Errorf("the server was asked %d times, want %d", n, want)
		}
		return a
	}
	mkdir("alone")
	if a := asks(0); a.Mtime.Sec != mtime.Unix() {
		t.Errorf("mtime %v, want what was told, %v", a.Mtime, mtime)
	}
	asks(1) // once more
	inside = func() { mkdir("within") }
	mkdir("around")
	asks(1)
	mkdir("after")
	asks(0)
	mkdir("doubted")
	b.fs.inodes[fuse.RootID].doubt()
	asks(1)
	mkdir("late")
	b.fs.opts.AttrTimeout = 0
	asks(1)
}
