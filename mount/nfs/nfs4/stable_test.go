package nfs4

import (
	"errors"
	"os"
	"syscall"
	"testing"

	"github.com/lxbridge/lx/mount/nfs/nfs4/compound"
	"github.com/lxbridge/lx/mount/nfs/nfs4/nfs4test"
	"github.com/lxbridge/lx/mount/volume"
)

// TestStable: a lone last write needs no COMMIT; after others it does, since those
// would be written again over it.
func TestStable(t *testing.T) {
	s := nfs4test.New(t)
	v := dial(t, fakeConfig(s, "a"))
	ctx := t.Context()
	_, vh := fakeFile(t, v, "f")
	h := vh.(*handle)
	write := func(f func() (int, error)) {
		t.Helper()
		if _, err := f(); err != nil {
			t.Fatal(err)
		}
	}
	write(func() (int, error) { return h.WriteStable(ctx, []byte("alone"), 0) })
	s.Restart(true)
	if err := errors.Join(h.Sync(ctx), h.Flush(ctx)); err != nil || s.Count(compound.OpCommit) != 0 || string(s.Data("f")) != "alone" {
		t.Errorf("%v; %d commits; the server has %q", err, s.Count(compound.OpCommit), s.Data("f"))
	}
	write(func() (int, error) { return h.WriteAt(ctx, []byte("older, longer"), 0) })
	write(func() (int, error) { return h.WriteStable(ctx, []byte("newer"), 0) })
	s.Restart(true)
	if err := h.Sync(ctx); err != nil || string(s.Data("f")) != "newer, longer" {
		t.Errorf("%v; the server has %q", err, s.Data("f"))
	}
}

// TestDirectoryTold: what changes names tells what the directory is like then, also
// where that could not be had, and is not done twice for that.
func TestDirectoryTold(t *testing.T) {
	s := nfs4test.New(t)
	v := dial(t, fakeConfig(s, "a"))
	var told []volume.Attr
	ctx := volume.Telling(t.Context(), func(n volume.Node, a volume.Attr) {
		if n != v.Root() {
			t.Errorf("told of %v", n)
		}
		told = append(told, a)
	})
	_, _, h, err := v.Create(ctx, v.Root(), "f", os.O_RDWR, 0o600)
	if err == nil {
		err = h.Close(ctx)
	}
	if err == nil {
		err = v.Unlink(ctx, v.Root(), "f")
	}
	if err != nil || len(told) != 2 || told[0].Mode&syscall.S_IFMT != syscall.S_IFDIR {
		t.Fatalf("%v; told %+v", err, told)
	}
	fakeFile(t, v, "g")
	s.Fail(func(op compound.Op) compound.Status {
		if op == compound.OpGetAttr {
			return compound.ErrDelay
		}
		return compound.OK
	})
	before := s.Count(compound.OpRemove)
	if err := v.Unlink(ctx, v.Root(), "g"); err != nil || len(told) != 2 || s.Count(compound.OpRemove) != before+1 {
		t.Errorf("%v; told %+v; removed %d times", err, told, s.Count(compound.OpRemove)-before)
	}
}
