package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/lxbridge/lx/integration/nfstest"
)

// Each version, with mount.nfs and without, by both mount APIs.
func TestGaneshaMount(t *testing.T) {
	w := newWorld(t)
	s := w.nfs(nfstest.Options{Namespace: true}) // mount.nfs asks the portmapper
	w.hold()
	s.put(nfstest.Data, "hello", "hello from the server\n", 0o644, 4242)
	mounts := map[string]string{"mount(2)": "mount -i", "mount.nfs": "mount", "new API": newMount(t) + " -i"}
	for _, version := range nfsVersions {
		for how, mount := range mounts {
			t.Run(version+" "+how, func(t *testing.T) {
				w, s := w.in(t), s.in(t)
				dir := w.mkdir(strings.NewReplacer(" ", "", "(", "", ")", "").Replace("mnt" + version + how))
				w.must(strings.Replace(s.command(nfstest.Data, dir, version), "mount -i", mount, 1))
				same(t, "findmnt", w.must("findmnt -nr -o SOURCE,FSTYPE --mountpoint "+dir), s.source(nfstest.Data)+" fuse.lx."+nfsType(version))
				same(t, "cat", w.must("cat "+dir+"/hello"), "hello from the server")
				w.must(fmt.Sprintf("cd %s; mkdir d; echo text > d/f; mv d/f d/g; grep -q text d/g; ls -la . d >/dev/null; rm -r d; cd /; umount %[1]s", dir))
			})
		}
	}
	// The server's pseudo root, exports below it, and a directory of one.
	dir := s.mount("", "4.2")
	same(t, "exports", w.must("cat "+dir+"/data/hello"), "hello from the server")
	w.must("mkdir " + dir + "/data/sub && echo x > " + dir + "/data/sub/f")
	same(t, "a directory of an export", w.must("cat "+s.mount("data/sub", "4.1")+"/f"), "x")
}

// Without vers= the highest version is taken that both sides speak.
func TestGaneshaNegotiation(t *testing.T) {
	for _, c := range []struct {
		name, want string
		o          nfstest.Options
	}{
		{"4.1", "nfs4", nfstest.Options{Minor: "0,1"}},
		{"4.0", "nfs4", nfstest.Options{Minor: "0"}},
		{"3", "nfs", nfstest.Options{No4: true, Namespace: true}},
		{"IPv6", "nfs4", nfstest.Options{Host: "::1"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			s := w.nfs(c.o)
			w.hold()
			dir := w.mkdir("mnt")
			options := "nolock"
			if !c.o.Namespace {
				options += fmt.Sprintf(",port=%d", s.Port)
			}
			w.must(fmt.Sprintf("mount -i -t nfs %s %s -o %s; echo x > %[2]s/f", s.source(nfstest.Data), dir, options))
			same(t, "type", w.must("findmnt -nr -o FSTYPE --mountpoint "+dir), "fuse.lx."+c.want)
			same(t, "written", s.get(nfstest.Data, "f"), "x\n")
		})
	}
}

// The errno is the one that the kernel's client gives, and the reason is told.
func TestGaneshaErrors(t *testing.T) {
	w := newWorld(t)
	s := w.nfs(nfstest.Options{Minor: "1"})
	w.hold()
	dir := w.mkdir("mnt")
	for _, c := range []struct {
		export, version, options string
		errno                    unix.Errno
		reason                   string
	}{
		{"nothing", "4.1", "", unix.ENOENT, "nothing"},
		{"nothing", "3", "", unix.EACCES, "does not give access"},
		{nfstest.Data, "4.2", "", unix.EPROTONOSUPPORT, "4.2"},
		{nfstest.Data, "4.0", "", unix.EPROTONOSUPPORT, "4.0"},
		{nfstest.Kerberos, "4.1", "", unix.EPERM, "krb5"},
		{nfstest.Kerberos, "3", "", unix.EACCES, ""},
		{nfstest.Data, "4.1", "port=1", unix.ECONNREFUSED, "refused"},
		{nfstest.Data, "4.1", "sec=krb5", unix.ENOKEY, "krb5"},
		{nfstest.Data, "4.1", "resvport", unix.EACCES, "ip_unprivileged_port_start"},
		{nfstest.Secure, "4.1", "", unix.ENOENT, "insecure"},
		{nfstest.Secure, "3", "", unix.EACCES, "insecure"},
		{nfstest.Data, "4.1", "fsc", unix.EOPNOTSUPP, "nothing is cached on local disks"},
	} {
		more := []string{}
		if c.options != "" {
			more = append(more, c.options)
		}
		r := w.sh(helper("mount") + " -t nfs " + s.source(c.export) + " " + dir + " -o " + s.options(c.version, more...))
		if want := c.errno.Error(); r.code == 0 || !strings.Contains(r.err, want) {
			t.Errorf("%v: want %q: %v", c, want, r)
		}
		if !strings.Contains(w.log(), c.reason) {
			t.Errorf("%v: no %q in the log:\n%s", c, c.reason, tail(w.log(), 3))
		}
	}
	dir = s.mount(nfstest.ReadOnly, "4.1")
	if r := w.sh("echo x > " + dir + "/x"); !strings.Contains(r.err, "Read-only file system") {
		t.Errorf("writing to a read-only export: %v", r)
	}
	// A full file system is told at the latest by fsync.
	dir = s.mount(nfstest.Small, "4.1")
	if r := w.sh("dd if=/dev/zero of=" + dir + "/x bs=1M count=8 conv=fsync"); !strings.Contains(r.err, "No space left on device") {
		t.Errorf("writing to a full file system: %v", r)
	}
}

// What goes at the server, past NFS, while it is in use here: an open file and the
// working directory. What stays is there.
func TestGaneshaStale(t *testing.T) {
	for _, version := range []string{"3", "4.2"} {
		t.Run(version, func(t *testing.T) {
			w := newWorld(t)
			s := w.nfs(nfstest.Options{})
			w.hold()
			dir := s.mount(nfstest.Data, version)
			w.must("cd " + dir + "; mkdir d; echo x > d/f; echo y > other")
			p := w.startOpen("sh", "-c", "cd "+dir+"/d; exec 3<f; echo open; read go; cat <&3; ls -a >/dev/null; echo new > new; cat '"+dir+"/other'")
			p.says("open")
			if err := os.RemoveAll(filepath.Join(s.Path(nfstest.Data), "d")); err != nil {
				t.Fatal(err)
			}
			if err := s.Kill(); err != nil { // which holds files open
				t.Fatal(err)
			}
			if err := s.Restart(t.Context()); err != nil {
				t.Fatal(err)
			}
			fmt.Fprintln(p.in, "go")
			r := p.wait(bound)
			if n := strings.Count(r.err, "Stale file handle"); n != 3 || !strings.HasSuffix(r.out, "y\n") {
				t.Errorf("%d times stale: %v", n, r)
			}
		})
	}
}

// Owners: whose files they are at the server, whatever the ids are inside: those
// of root, a single one, and those of subuid(5).
func TestGaneshaOwners(t *testing.T) {
	if runAs.uid == 0 {
		nfsOwners(t, 1)
		return
	}
	t.Run("single", func(t *testing.T) { nfsOwners(t, 1) })
	t.Run("subuids", func(t *testing.T) {
		withSubuids(t)
		nfsOwners(t, 2)
	})
}

// nfsOwners is TestGaneshaOwners with a map of so many ranges of ids.
func nfsOwners(t *testing.T, ranges int) {
	w := newWorld(t)
	s := w.nfs(nfstest.Options{})
	w.hold()
	same(t, "ranges of ids", w.must("wc -l </proc/self/uid_map"), fmt.Sprint(ranges))
	for _, uid := range []int{0, 1000, 4242} {
		s.put(nfstest.Data, fmt.Sprintf("open-%d", uid), "x", 0o666, uid)
		s.put(nfstest.Data, fmt.Sprintf("own-%d", uid), "x", 0o600, uid)
	}
	owner := func(name string) int {
		st, err := os.Stat(filepath.Join(s.Path(nfstest.Data), name))
		if err != nil {
			t.Fatal(err)
		}
		return int(st.Sys().(*syscall.Stat_t).Uid)
	}
	for _, version := range []string{"4.2", "3"} {
		dir := s.mount(nfstest.Data, version)
		w.must("cd " + dir + "; for u in 0 1000 4242; do cat open-$u; echo y >> open-$u; done; echo mine > mine-" + version)
		same(t, "the owner of a new file", owner("mine-"+version), runAs.uid)
		for _, uid := range []int{0, 1000, 4242} {
			r := w.sh(fmt.Sprintf("cat %s/own-%d", dir, uid))
			if may := runAs.uid == 0 || runAs.uid == uid; (r.code == 0) != may {
				t.Errorf("version %s: %d reads a file of %d: %v", version, runAs.uid, uid, r)
			}
		}
		// Root is nobody to a server that squashes it.
		squashed := s.mount(nfstest.RootSquash, version)
		w.must("echo x > " + squashed + "/squashed-" + version)
		want := runAs.uid
		if want == 0 {
			want = nfstest.Anonymous
		}
		same(t, "the owner where root is nobody", owner("squashed-"+version), want)
		all := s.mount(nfstest.AllSquash, version)
		w.must("echo x > " + all + "/all-" + version)
		same(t, "the owner where all are nobody", owner("all-"+version), nfstest.Anonymous)
		// The option says who one is.
		other := s.mount(nfstest.Data, version, "idmap=4242")
		w.must("cat " + other + "/own-4242; echo x > " + other + "/other-" + version)
		same(t, "the owner under idmap=4242", owner("other-"+version), 4242)
	}
}

// A server that wants reserved ports, in a network where they can be had.
func TestGaneshaReservedPorts(t *testing.T) {
	w := newWorld(t)
	s := w.nfs(nfstest.Options{Namespace: true})
	if err := s.Command(t.Context(), "sysctl", "-qw", "net.ipv4.ip_unprivileged_port_start=0").Run(); err != nil {
		t.Fatal(err)
	}
	w.hold()
	for _, version := range nfsVersions {
		w.must("echo x > " + s.mount(nfstest.Secure, version, "resvport") + "/reserved-" + version)
	}
}
