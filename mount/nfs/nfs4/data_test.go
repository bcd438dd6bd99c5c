package nfs4

import (
	"bytes"
	"os"
	"testing"

	"github.com/lxbridge/lx/integration/nfstest"
)

// TestGaneshaMuchUncommitted: one write of more than may be kept uncommitted
// waits for nobody but the server.
func TestGaneshaMuchUncommitted(t *testing.T) {
	s := nfstest.New(t, nfstest.Options{No3: true})
	v := dial(t, config(s, nfstest.Data, 2))
	v.dirty.left = 4 << 20
	_, _, h, err := v.Create(t.Context(), v.Root(), "much", os.O_RDWR, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	data := bytes.Repeat([]byte("uncommitted "), 2<<20)
	if _, err := h.WriteAt(t.Context(), data, 0); err != nil {
		t.Fatal(err)
	}
	if err := h.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if v.dirty.left != 4<<20 {
		t.Errorf("%d bytes of room left, want %d", v.dirty.left, 4<<20)
	}
	if err := v.Unlink(t.Context(), v.Root(), "much"); err != nil {
		t.Error(err)
	}
}
