package serve

import (
	"strconv"
	"syscall"
	"testing"

	"github.com/lxbridge/lx/core/fuse"
)

// TestCrowd: a kernel that sees ever more files is asked to forget some, again
// only when there are more, and never again where it cannot.
func TestCrowd(t *testing.T) {
	for name, c := range map[string]struct {
		answer   error
		forgets  bool
		atLeast  int // nodes that the kernel is asked to forget
		atMost   int
		mostLeft int
	}{
		"forgets": {nil, true, 2500, 3600, 1300},
		"busy":    {nil, false, 1000, 20000, 4001},
		"cannot":  {syscall.ENOSYS, false, 1, 512, 4001},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBed(t, Options{})
			n := &told{prune: c.answer}
			b.fs.SetNotifier(n)
			b.fs.crowd.most = 1000
			asked := 0
			for i := range 4000 {
				if _, no := b.fs.Mkdir(b.ctx, fuse.RootID, strconv.Itoa(i), 0o755, 0); no != 0 {
					t.Fatal(no)
				}
				b.fs.work.Wait()
				if n.pruned != nil {
					asked += len(n.pruned)
					for _, id := range n.pruned {
						if id == fuse.RootID {
							t.Error("the root is to be forgotten")
						}
						if c.forgets {
							b.fs.Forget(id, 1)
						}
					}
					n.pruned = nil
				}
			}
			if asked < c.atLeast || asked > c.atMost || len(b.fs.inodes) > c.mostLeft {
				t.Errorf("the kernel was asked to forget %d, want %d to %d; %d are left, want at most %d", asked, c.atLeast, c.atMost, len(b.fs.inodes), c.mostLeft)
			}
		})
	}
}
