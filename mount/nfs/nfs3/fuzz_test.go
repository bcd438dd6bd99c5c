package nfs3

import (
	"hash/maphash"
	"testing"

	"github.com/lxbridge/lx/mount/nfs/xdr"
	"github.com/lxbridge/lx/mount/volume"
)

// FuzzResults has each decoder of results look at any bytes.
func FuzzResults(f *testing.F) {
	f.Add([]byte("\x00\x00\x00\x00\x00\x00\x00\x00"), uint8(0))
	f.Add([]byte("\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x07\x00\x00\x00\x01a\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01"), uint8(3))
	f.Fuzz(func(t *testing.T, in []byte, what uint8) {
		v := &Volume{nodes: map[string]*node{}, seed: maphash.MakeSeed(), fsid: 1}
		v.root = v.node([]byte("root"), 0)
		d := xdr.NewDecoder(in)
		switch what % 6 {
		case 0:
			v.attr(d)
		case 1:
			v.wcc(d, new(volume.Attr))
		case 2, 3:
			l := &listing{v: v, dir: v.root}
			entries, _, _, _ := l.entries(d, what%2 == 0)
			for _, e := range entries {
				if e.Node != nil {
					v.Forget(e.Node)
				}
			}
			if len(v.nodes) != 1 {
				t.Errorf("%d nodes are left", len(v.nodes))
			}
		case 4:
			r := transferring{into: make([]byte, 64)}
			if err := r.DecodeResults(d); err == nil && r.err == nil && r.n > 64 {
				t.Errorf("%d bytes", r.n)
			}
		case 5:
			holder(d)
			if p := universalPort(string(in)); p < 0 || p > 65535 {
				t.Errorf("port %d", p)
			}
		}
	})
}
