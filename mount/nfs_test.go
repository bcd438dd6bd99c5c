package mount

import (
	"testing"

	"github.com/lxbridge/lx/mount/option"
)

// What mount.nfs sends, and mount(8) without it, is understood, and shows as it
// does for the kernel's file systems.
func TestMountNFS(t *testing.T) {
	w := newWorld(t)
	s := w.fake(t)
	for _, c := range []struct{ command, shows string }{
		{"mount -i -t nfs4 nas:/srv /mnt/d -o vers=4.2,port=20490,addr=192.0.2.1,clientaddr=192.0.2.9", "fuse.lx.nfs4 nas:/srv rw,"},
		{"mount -i -t nfs nas:/srv /mnt/d -o nolock,addr=192.0.2.1,vers=3,proto=tcp,port=2049,mountvers=3,mountproto=tcp,mountport=20048,ro", "fuse.lx.nfs nas:/srv ro,"},
		{"mount -i -t nfs '[::1]:/' /mnt/d", "fuse.lx.nfs4 [::1]:/ rw,"}, // no options: NULL
	} {
		out := w.run(t, "mkdir -p /mnt/d; "+c.command+"; grep /mnt/d /proc/self/mountinfo; umount /mnt/d")
		want(t, out, c.shows)
	}
	if told, dials := s.told.Load(), s.dials.Load(); told != dials {
		t.Errorf("%d of %d file systems were told who drops what the kernel has cached", told, dials)
	}
	if o := s.lastNFS.Load(); o.Host != "::1" || o.Path != "/" || o.Vers != "" {
		t.Errorf("%+v", o)
	}
	out := w.run(t, `mkdir -p /mnt/d; mount -i -t nfs nas:/srv /mnt/d -o soft,timeo=50
		mount -i -o remount,ro /mnt/d && grep /mnt/d /proc/self/mountinfo
		{ mount -i -o remount,hard /mnt/d; echo exit $?; } 2>&1 | cat
		mount -i -o remount,soft,addr=192.0.2.1 /mnt/d; echo same $?; umount /mnt/d`)
	want(t, out, "fuse.lx.nfs4 nas:/srv ro,", `option "hard": a remount cannot change it`, "exit 32", "same 0")
	for _, r := range option.NFSTable() {
		if r.Verdict == option.Refused && r.Value == "flag" {
			out := w.run(t, "mkdir -p /mnt/d; { mount -i -t nfs nas:/srv /mnt/d -o "+r.Names[0]+"; echo exit $?; } 2>&1 | cat")
			want(t, out, `option "`+r.Names[0]+`": `+r.Why, "exit 32")
		}
	}
}
