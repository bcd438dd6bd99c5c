package nfs4

import (
	"errors"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/lxbridge/lx/mount/nfs/nfs4/compound"
	"github.com/lxbridge/lx/mount/nfs/nfs4/nfs4test"
)

// TestQuota: who is over quota is told by the call that finds out, whether the
// server refuses to take data or to keep it, and can go on with less.
func TestQuota(t *testing.T) {
	const dquot = compound.Status(69)
	for _, over := range []compound.Op{compound.OpWrite, compound.OpCommit} {
		s := nfs4test.New(t)
		v := dial(t, fakeConfig(s, "a"))
		_, h := fakeFile(t, v, "f")
		var full atomic.Bool
		full.Store(true)
		s.Fail(func(op compound.Op) compound.Status {
			if op == over && full.Load() {
				return dquot
			}
			return compound.OK
		})
		write := func() error {
			_, err := h.WriteAt(t.Context(), []byte("much"), 0)
			return errors.Join(err, h.Sync(t.Context()))
		}
		if err := write(); !errors.Is(err, syscall.EDQUOT) {
			t.Errorf("refused by %v: %v", over, err)
		}
		full.Store(false)
		if err := errors.Join(write(), h.Close(t.Context())); err != nil || string(s.Data("f")) != "much" {
			t.Errorf("with room again: %v, %q", err, s.Data("f"))
		}
	}
}
