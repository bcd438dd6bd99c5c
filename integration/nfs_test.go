package integration

import (
	"fmt"
	"testing"

	"github.com/lxbridge/lx/integration/nfstest"
)

// Each version, with mount.nfs and without, by both mount APIs.
func TestGaneshaMount(t *testing.T) {
	w := newWorld(t)
	s := w.nfs(nfstest.Options{})
	w.hold()
	s.put(nfstest.Data, "hello", "hello from the server\n", 0o644, 4242)
	for _, version := range nfsVersions {
		t.Run(version, func(t *testing.T) {
			w, s := w.in(t), s.in(t)
			dir := s.mount(nfstest.Data, version)
			same(t, "findmnt", w.must("findmnt -nr -o SOURCE,FSTYPE --mountpoint "+dir), s.source(nfstest.Data)+" fuse.lx."+nfsType(version))
			same(t, "cat", w.must("cat "+dir+"/hello"), "hello from the server")
			w.must(fmt.Sprintf("cd %s; mkdir d; echo text > d/f; mv d/f d/g; cat d/g; ls -la . d; rm -r d; cd /; umount %[1]s", dir))
		})
	}
}
