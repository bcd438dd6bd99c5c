package serve

import (
	"testing"

	"github.com/lxbridge/lx/core/fuse"
)

// TestPrivilegesKilled: a write, a truncation and chown(2) take set-user-id bits
// away, at the server as well, when the kernel says that they are to.
func TestPrivilegesKilled(t *testing.T) {
	for name, c := range map[string]struct {
		mode, want uint32
		change     func(b *bed, node, fh uint64)
	}{
		"write":               {0o6755, 0o755, func(b *bed, node, fh uint64) { b.privilegedWrite(node, fh, fuseWriteKill) }},
		"no group may run it": {0o6745, 0o2745, func(b *bed, node, fh uint64) { b.privilegedWrite(node, fh, fuseWriteKill) }},
		"privileged writer":   {0o6755, 0o6755, func(b *bed, node, fh uint64) { b.privilegedWrite(node, fh, 0) }},
		"truncation": {0o4755, 0o755, func(b *bed, node, _ uint64) {
			_, _, no := b.fs.Setattr(b.ctx, node, &fuse.SetAttrIn{Valid: fattrSize, Size: 1, KillSuidgid: true})
			b.ok("truncate", no)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBed(t, Options{})
			defer b.end(nil)
			node, fh := b.create("f")
			_, _, no := b.fs.Setattr(b.ctx, node, &fuse.SetAttrIn{Valid: fattrMode, Mode: c.mode})
			b.ok("chmod", no)
			c.change(b, node, fh)
			if a, _, no := b.fs.Getattr(b.ctx, node, 0, false); no != 0 || a.Mode&0o7777 != c.want {
				t.Errorf("shown mode %o, want %o", a.Mode&0o7777, c.want)
			}
			n, a, err := b.vol.Volume.Lookup(b.ctx, b.vol.Root(), "f")
			if err != nil || a.Mode&0o7777 != c.want {
				t.Errorf("the server's mode %o, want %o; %v", a.Mode&0o7777, c.want, err)
			}
			b.vol.Volume.Forget(n)
			b.fs.Release(node, fh, 0, 0)
		})
	}
}

func (b *bed) privilegedWrite(node, fh uint64, flags uint32) {
	b.Helper()
	_, no := b.fs.Write(b.ctx, node, fh, 0, []byte("x"), flags)
	b.ok("write", no)
	b.ok("flush", b.fs.Flush(b.ctx, node, fh, 0))
}
