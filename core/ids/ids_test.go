package ids

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/lxbridge/lx/core/guest"
	"github.com/lxbridge/lx/core/seccomp"
)

// TestHandlers: every row of the feature has a handler, and no other has.
func TestHandlers(t *testing.T) {
	h := Handlers(nil)
	for _, r := range seccomp.Table() {
		if _, ok := h[r.Name]; ok != (r.Feature == seccomp.FeatureIDs) {
			t.Errorf("%s: feature %s, handler %v", r.Name, r.Feature, ok)
		}
	}
}

func TestMapped(t *testing.T) {
	for id, want := range map[uint64]int{0: 0, 5: -1, 0xffffffff: -1, 1 << 32: 0} {
		if got := mapped(id); got != want {
			t.Errorf("%d: %d, want %d", id, got, want)
		}
	}
}

// TestOthersContinue: the owner that a caller names whose namespace maps more than one id is the
// kernel's business. The tests themselves run in such a namespace.
func TestOthersContinue(t *testing.T) {
	trap := &seccomp.Trap{Thread: guest.Thread{TID: os.Getpid()}, Args: [6]uint64{5, 5, 5}}
	if r := fchown(trap, nil); !r.Continue {
		t.Errorf("%+v", r)
	}
	gone := &seccomp.Trap{Thread: guest.Thread{TID: 1 << 30}}
	if r := fchown(gone, nil); !r.Continue {
		t.Errorf("of a dead caller: %+v", r)
	}
	if got := failure(os.ErrClosed); got.Errno != unix.EINTR {
		t.Errorf("%+v", got)
	}
}
