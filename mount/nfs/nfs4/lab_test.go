//go:build lab

package nfs4

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lxbridge/lx/core/fuse"
	"github.com/lxbridge/lx/integration/labtest"
	"github.com/lxbridge/lx/mount/nfs/nfs4/compound"
	"github.com/lxbridge/lx/mount/nfs/rpc"
	"github.com/lxbridge/lx/mount/volume"
	"github.com/lxbridge/lx/mount/volume/lock"
	"github.com/lxbridge/lx/mount/volume/volumetest"
)

// knfsd is the kernel's server in a lab. It exports an ext4 file system, and
// remembers its clients when it is restarted.
type knfsd struct {
	*labtest.Lab
	addr string
}

const (
	exported = "/export/ext4"
	stop     = "rpc.nfsd 0"
	start    = "rpc.nfsd -N 3 4"
)

func newKnfsd(t *testing.T) *knfsd {
	t.Helper()
	disk := filepath.Join(t.TempDir(), "disk")
	if err := errors.Join(os.WriteFile(disk, nil, 0o600), os.Truncate(disk, 256<<20)); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("mkfs.ext4", "-q", "-b", "4096", disk).CombinedOutput(); err != nil {
		t.Fatalf("cannot make a file system: %v\n%s", err, out)
	}
	l, addrs := labtest.Boot(t, 2049)
	l.Sh(t, fmt.Sprintf(`set -e
lab-kservers
mkdir -p /tmp/host %[1]s
mount -t hostfs -o %[2]s none /tmp/host
mount -o loop,nobarrier /tmp/host/disk %[1]s
chmod 777 %[1]s
echo '%[1]s *(rw,sync,no_root_squash,insecure,no_subtree_check,fsid=1)' >>/etc/exports
mkdir -p /export/moved
mount --bind /export/moved /export/moved
echo '/export/moved *(ro,insecure,no_subtree_check,fsid=2,refer=/ext4@192.0.2.7)' >>/etc/exports
exportfs -ra
echo Y >/proc/fs/nfsd/v4_end_grace`, exported, filepath.Dir(disk)))
	return &knfsd{l, addrs[0]}
}

// config is of a client that is root; each name is another client.
func (s *knfsd) config(t *testing.T, minor uint32, name string) Config {
	var d net.Dialer
	root := rpc.NewSys("client", 0, 0, nil)
	return Config{
		RPC: rpc.Config{Network: "tcp", Addr: s.addr, Timeout: 20 * time.Second,
			Dial: func(ctx context.Context, network, addr string, _ int) (net.Conn, error) {
				return d.DialContext(ctx, network, addr)
			}},
		Minor: minor, Path: "/ext4", Owner: t.Name() + " " + name,
		Auth: func(context.Context) rpc.Auth { return root },
		Note: func(err error) { t.Logf("%s: %v", name, err) },
	}
}

// names: the server says user@domain, as the guest's cache has it in place of
// its idmapd, and is told so.
func (s *knfsd) names(t *testing.T) {
	ctx := t.Context()
	const parameter = "/sys/module/nfsd/parameters/nfs4_disable_idmapping"
	s.Sh(t, `set -e
echo N >`+parameter+`
for k in "user 4242 alice" "user 4243 bob" "user 0 root" "group 4242 alice" "group 0 root"; do
	set -- $k
	echo "* $1 $2 4000000000 $3@lab.example" >/proc/net/rpc/nfs4.idtoname/channel
	echo "* $1 $3@lab.example 4000000000 $2" >/proc/net/rpc/nfs4.nametoid/channel
done
echo "* user 1002 4000000000" >/proc/net/rpc/nfs4.nametoid/channel # a number is no name
echo one >`+exported+`/named; chown 4242:4242 `+exported+`/named`)
	t.Cleanup(func() {
		if _, err := s.Run(context.Background(), "echo Y >"+parameter); err != nil {
			t.Error(err)
		}
	})
	cfg := s.config(t, 2, "names")
	ids := map[string]uint32{"alice": 1001, "bob": 1002, "root": 0}
	cfg.Names = &Names{
		Domain:  "lab.example",
		UserID:  func(name string) (uint32, bool) { id, ok := ids[name]; return id, ok },
		GroupID: func(name string) (uint32, bool) { id, ok := ids[name]; return id, ok },
		UserName: func(id uint32) (string, bool) {
			for name, have := range ids {
				if have == id {
					return name, true
				}
			}
			return "", false
		},
	}
	v := dial(t, cfg)
	n, a, err := v.Lookup(ctx, v.Root(), "named")
	check(t, "lookup", err)
	if a.UID != 1001 || a.GID != 1001 {
		t.Errorf("owner %d:%d, want alice's ids here, 1001", a.UID, a.GID)
	}
	bob := uint32(1002)
	a, err = v.Setattr(ctx, n, nil, volume.SetAttr{UID: &bob})
	check(t, "chown", err)
	if got := strings.TrimSpace(s.Sh(t, "stat -c %u "+exported+"/named")); got != "4243" || a.UID != bob {
		t.Errorf("the owner is %s at the server and %d here, want bob", got, a.UID)
	}
}

// TestLab runs everything in one guest.
func TestLab(t *testing.T) {
	s := newKnfsd(t)
	t.Run("Referral", s.referral)
	t.Run("Abilities", s.abilities)
	t.Run("ACL", s.acl)
	t.Run("Names", s.names)
	for _, minor := range []uint32{2, 1} {
		t.Run(fmt.Sprintf("Delegations4.%d", minor), func(t *testing.T) { s.delegations(t, minor) })
	}
	for _, minor := range []uint32{2, 1, 0} {
		t.Run(fmt.Sprintf("Expired4.%d", minor), func(t *testing.T) {
			s.taken(t, minor, "for c in /proc/fs/nfsd/clients/*/ctl; do echo expire >$c; done")
		})
		t.Run(fmt.Sprintf("Revoked4.%d", minor), func(t *testing.T) {
			s.taken(t, minor, "echo "+exported+" >/proc/fs/nfsd/unlock_filesystem")
		})
	}
	for _, minor := range []uint32{2, 1, 0} {
		t.Run(fmt.Sprintf("Restart4.%d", minor), func(t *testing.T) { s.restart(t, minor) })
	}
	t.Run("Contract", s.contract)
}

func (s *knfsd) contract(t *testing.T) {
	for _, minor := range []uint32{2, 1, 0} {
		t.Run(fmt.Sprintf("4.%d", minor), func(t *testing.T) {
			volumetest.Contract(t, func() volume.Volume {
				v, err := Dial(t.Context(), s.config(t, minor, "a"))
				if err != nil {
					t.Fatal(err)
				}
				return v
			})
		})
	}
}

// referral: the server says of a directory that another has it.
func (s *knfsd) referral(t *testing.T) {
	ctx := t.Context()
	s.seed(t, "referred", "there")
	for _, minor := range []uint32{2, 1, 0} {
		cfg, other := s.config(t, minor, fmt.Sprint("a", minor)), s.config(t, minor, fmt.Sprint("b", minor))
		cfg.Path = "/"
		cfg.Refer = func(_ context.Context, m *MovedError) (Config, error) {
			if len(m.Locations) != 1 || !slices.Equal(m.Locations[0].Servers, []string{"192.0.2.7"}) || !slices.Equal(m.Locations[0].Path, []string{"ext4"}) {
				return Config{}, fmt.Errorf("locations %+v: %w", m.Locations, syscall.EREMOTE)
			}
			return other, nil
		}
		v := dial(t, cfg)
		dir, _, err := v.Lookup(ctx, v.Root(), "moved")
		check(t, "look the directory up", err)
		n, _, err := v.Lookup(ctx, dir, "referred")
		check(t, "look a file up", err)
		h, err := v.Open(ctx, n, os.O_RDONLY)
		check(t, "open", err)
		if got := content(t, h); got != "there" {
			t.Errorf("4.%d: read %q", minor, got)
		}
		shut(t, h)
		// In a listing it has no attributes, and keeps no others from having them.
		list, err := v.ReadDir(ctx, v.Root())
		check(t, "list", err)
		entries, err := list.Next(ctx)
		check(t, "list", err)
		i := slices.IndexFunc(entries, func(e volume.DirEntry) bool { return e.Name == "moved" })
		if i < 0 || entries[i].Node != nil || len(entries) < 2 {
			t.Errorf("4.%d: listed %+v", minor, entries)
		}
		check(t, "close", list.Close())
	}
}

// cached plays the serving layer: it counts recalls, and tells of dirty data.
type cached struct {
	mu      sync.Mutex
	size    uint64
	dirty   bool
	recalls chan volume.Node
	flush   func()
}

func cache(v *Volume) *cached {
	c := &cached{recalls: make(chan volume.Node, 16), flush: func() {}}
	v.OnRecall(func(_ context.Context, n volume.Node) {
		c.flush()
		c.recalls <- n
	}, func(volume.Node) (uint64, bool) {
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.size, c.dirty
	})
	return c
}

// recalled waits for a recall, and that the promise is void then.
func (c *cached) recalled(t *testing.T, v *Volume, n volume.Node) {
	t.Helper()
	select {
	case got := <-c.recalls:
		if got != n {
			t.Errorf("recalled %v, want %v", got, n)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("there was no recall")
	}
	if l := v.Lease(n); l != 0 {
		t.Errorf("lease %d after the recall", l)
	}
}

func (s *knfsd) seed(t *testing.T, name, data string) {
	t.Helper()
	s.Sh(t, fmt.Sprintf("printf %%s '%s' >%s/%s && chmod 666 %[2]s/%[3]s", data, exported, name))
}

func open(t *testing.T, v *Volume, name string, flags int) (volume.Node, volume.Handle) {
	t.Helper()
	n, _, err := v.Lookup(t.Context(), v.Root(), name)
	if err != nil {
		t.Fatal(err)
	}
	h, err := v.Open(t.Context(), n, flags)
	if err != nil {
		t.Fatal(err)
	}
	return n, h
}

func shut(t *testing.T, handles ...volume.Handle) {
	t.Helper()
	for _, h := range handles {
		if err := h.Close(t.Context()); err != nil {
			t.Errorf("close: %v", err)
		}
	}
}

func check(t *testing.T, what string, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

func content(t *testing.T, h volume.Handle) string {
	t.Helper()
	p := make([]byte, 64)
	n, err := h.ReadAt(t.Context(), p, 0)
	if err != nil {
		t.Fatal(err)
	}
	return string(p[:n])
}

func (s *knfsd) delegations(t *testing.T, minor uint32) {
	ctx := t.Context()
	v, other := dial(t, s.config(t, minor, "a")), dial(t, s.config(t, minor, "b"))
	c := cache(v)

	t.Run("ReadByClient", func(t *testing.T) {
		name := fmt.Sprintf("read%d", minor)
		s.seed(t, name, "one")
		n, h := open(t, v, name, os.O_RDONLY)
		if v.Lease(n) == 0 {
			t.Fatal("no read delegation")
		}
		on, oh := open(t, other, name, os.O_RDONLY)
		if other.Lease(on) == 0 {
			t.Error("no read delegation for the second reader")
		}
		if v.Lease(n) == 0 {
			t.Error("a second reader took the delegation")
		}
		shut(t, oh)
		oh, err := other.Open(ctx, on, os.O_RDWR)
		if err != nil {
			t.Fatal(err)
		}
		c.recalled(t, v, n)
		if _, err := oh.WriteAt(ctx, []byte("two"), 0); err != nil {
			t.Fatal(err)
		}
		shut(t, oh)
		if got := content(t, h); got != "two" {
			t.Errorf("read %q", got)
		}
		shut(t, h)
	})

	t.Run("ReadByGuest", func(t *testing.T) {
		name := fmt.Sprintf("local%d", minor)
		s.seed(t, name, "one")
		n, h := open(t, v, name, os.O_RDONLY)
		if v.Lease(n) == 0 {
			t.Fatal("no read delegation")
		}
		s.Sh(t, "printf two >"+exported+"/"+name)
		c.recalled(t, v, n)
		if got := content(t, h); got != "two" {
			t.Errorf("read %q", got)
		}
		shut(t, h)
	})

	t.Run("RemovedByClient", func(t *testing.T) {
		name := fmt.Sprintf("gone%d", minor)
		s.seed(t, name, "one")
		n, h := open(t, v, name, os.O_RDONLY)
		if v.Lease(n) == 0 {
			t.Fatal("no read delegation")
		}
		if err := other.Unlink(ctx, other.Root(), name); err != nil {
			t.Fatal(err)
		}
		c.recalled(t, v, n)
		shut(t, h)
	})

	t.Run("Own", func(t *testing.T) {
		// What the holder does itself is not recalled, or not waited for.
		name := fmt.Sprintf("own%d", minor)
		s.seed(t, name, "one")
		n, h := open(t, v, name, os.O_RDONLY)
		begin := time.Now()
		mode, size := uint32(0o600), uint64(1)
		_, err := v.Setattr(ctx, n, nil, volume.SetAttr{Mode: &mode})
		check(t, "chmod", err)
		a, err := v.Setattr(ctx, n, nil, volume.SetAttr{Size: &size})
		check(t, "truncate", err)
		if a.Size != 1 || v.Lease(n) == 0 {
			t.Errorf("after chmod and truncate: size %d, lease %d", a.Size, v.Lease(n))
		}
		wh, err := v.Open(ctx, n, os.O_WRONLY)
		check(t, "open", err)
		shut(t, wh)
		check(t, "rename", v.Rename(ctx, v.Root(), name, v.Root(), name+"2", 0))
		check(t, "unlink", v.Unlink(ctx, v.Root(), name+"2"))
		if d := time.Since(begin); d > 5*time.Second {
			t.Errorf("it took %v: the server waited for us", d)
		}
		c.recalled(t, v, n) // by open, before it asked the server
		shut(t, h)
	})

	t.Run("Write", func(t *testing.T) {
		name := fmt.Sprintf("write%d", minor)
		n, _, h, err := v.Create(ctx, v.Root(), name, os.O_RDWR, 0o666)
		if err != nil {
			t.Fatal(err)
		}
		f := h.(*handle).file
		f.deleg.mu.Lock()
		kind := f.deleg.kind
		f.deleg.mu.Unlock()
		if kind != compound.DelegateWrite || v.Lease(n) == 0 {
			t.Fatalf("delegation %d, want one to write", kind)
		}
		// What is written here is seen in the attributes that others get.
		c.mu.Lock()
		c.size, c.dirty = 5000, true
		c.mu.Unlock()
		_, oa, err := other.Lookup(ctx, other.Root(), name)
		if err != nil {
			t.Fatal(err)
		}
		if oa.Size != 5000 {
			t.Errorf("the other sees %d bytes, want the 5000 that CB_GETATTR tells", oa.Size)
		}
		if v.Lease(n) == 0 {
			t.Error("looking at attributes took the delegation")
		}
		c.flush = func() {
			if _, err := h.WriteAt(ctx, bytes.Repeat([]byte("x"), 5000), 0); err != nil {
				t.Errorf("flush: %v", err)
			}
			c.mu.Lock()
			c.dirty = false
			c.mu.Unlock()
		}
		_, oh := open(t, other, name, os.O_RDONLY)
		c.recalled(t, v, n)
		p := make([]byte, 6000)
		if k, err := oh.ReadAt(ctx, p, 0); k != 5000 || err != nil {
			t.Errorf("the other reads %d bytes, %v", k, err)
		}
		shut(t, oh, h)
		c.flush = func() {}
	})

	t.Run("Idle", func(t *testing.T) {
		// Delegations outlive the open, and are wanted back when memory is scarce.
		name := fmt.Sprintf("idle%d", minor)
		s.seed(t, name, "one")
		n, h := open(t, v, name, os.O_RDONLY)
		shut(t, h)
		if v.Lease(n) == 0 {
			t.Fatal("closing took the delegation")
		}
		s.Sh(t, "echo 2 >/proc/sys/vm/drop_caches")
		c.recalled(t, v, n)
	})
}

func (s *knfsd) abilities(t *testing.T) {
	ctx := t.Context()
	v := dial(t, s.config(t, 2, "a"))
	n, _, h, err := v.Create(ctx, v.Root(), "sparse", os.O_RDWR, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	const mib = 1 << 20
	if _, err := h.WriteAt(ctx, bytes.Repeat([]byte("d"), mib), 0); err != nil {
		t.Fatal(err)
	}
	if _, err := h.WriteAt(ctx, bytes.Repeat([]byte("d"), mib), 3*mib); err != nil {
		t.Fatal(err)
	}
	if err := h.Sync(ctx); err != nil {
		t.Fatal(err)
	}
	seek := func(off int64, whence int, want int64) {
		t.Helper()
		if got, err := v.Seek(ctx, h, off, whence); got != want || err != nil {
			t.Errorf("seek %d from %d: %d, %v; want %d", whence, off, got, err, want)
		}
	}
	seek(0, unix.SEEK_HOLE, mib)
	seek(mib, unix.SEEK_DATA, 3*mib)
	seek(3*mib, unix.SEEK_HOLE, 4*mib)
	if _, err := v.Seek(ctx, h, 4*mib, unix.SEEK_DATA); volume.Errno(err) != syscall.ENXIO {
		t.Errorf("seek behind the end: %v", err)
	}
	if err := v.Allocate(ctx, h, 4*mib, mib, 0); err != nil {
		t.Errorf("allocate: %v", err)
	}
	if a, err := v.Getattr(ctx, n, h); err != nil || a.Size != 5*mib {
		t.Errorf("%d bytes after allocate, %v", a.Size, err)
	}
	if err := v.Allocate(ctx, h, 0, mib/2, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE); err != nil {
		t.Errorf("punch: %v", err)
	}
	seek(0, unix.SEEK_DATA, mib/2)
	_, _, to, err := v.Create(ctx, v.Root(), "copy", os.O_RDWR, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	for done := int64(0); done < 5*mib; {
		k, err := v.CopyRange(ctx, h, done, to, done, 5*mib-done)
		if err != nil || k == 0 {
			t.Fatalf("copied %d, then %d: %v", done, k, err)
		}
		done += k
	}
	got := make([]byte, 5*mib)
	want := slices.Concat(make([]byte, mib/2), bytes.Repeat([]byte("d"), mib/2), make([]byte, 2*mib), bytes.Repeat([]byte("d"), mib), make([]byte, mib))
	if k, err := to.ReadAt(ctx, got, 0); k != len(got) || err != nil || !bytes.Equal(got, want) {
		t.Errorf("the copy is not the same: %d bytes, %v", k, err)
	}
	t.Logf("refused: seek %v clone %v copy %v", v.lacks(compound.OpSeek, nil), v.lacks(compound.OpClone, nil), v.lacks(compound.OpCopy, nil))
	if v.lacks(compound.OpCopy, nil) {
		t.Error("the server was not asked to copy")
	}

	if !v.xattrs {
		t.Fatal("no extended attributes")
	}
	value := bytes.Repeat([]byte("v"), 3000)
	for _, name := range []string{"user.a", "user.b"} {
		if err := v.Setxattr(ctx, n, name, value, unix.XATTR_CREATE); err != nil {
			t.Fatalf("set %s: %v", name, err)
		}
		if name == "user.a" {
			if err := v.Setxattr(ctx, n, name, []byte("short"), unix.XATTR_CREATE); volume.Errno(err) != syscall.EEXIST {
				t.Errorf("create an attribute that exists: %v", err)
			}
			if err := v.Setxattr(ctx, n, name, []byte("short"), unix.XATTR_REPLACE); err != nil {
				t.Errorf("replace: %v", err)
			}
		}
	}
	if p, err := v.Getxattr(ctx, n, "user.b"); err != nil || !bytes.Equal(p, value) {
		t.Errorf("%d bytes of user.b, %v", len(p), err)
	}
	names, err := v.Listxattr(ctx, n)
	slices.Sort(names)
	if err != nil || !strings.HasSuffix(strings.Join(names, " "), "user.a user.b") {
		t.Errorf("attributes %q, %v", names, err)
	}
	if err := v.Removexattr(ctx, n, "user.a"); err != nil {
		t.Errorf("remove: %v", err)
	}
	if _, err := v.Getxattr(ctx, n, "user.a"); volume.Errno(err) != syscall.ENODATA {
		t.Errorf("a removed attribute: %v", err)
	}
	if err := v.Removexattr(ctx, n, "user.a"); volume.Errno(err) != syscall.ENODATA {
		t.Errorf("remove a removed attribute: %v", err)
	}
	shut(t, h, to)
}

// acl is of the lab's tmpfs, whose files have ACLs.
func (s *knfsd) acl(t *testing.T) {
	ctx := t.Context()
	cfg := s.config(t, 2, "acl")
	cfg.Path = "/share"
	v := dial(t, cfg)
	n, _, h, err := v.Create(ctx, v.Root(), "acl", os.O_RDWR, 0o640)
	check(t, "create", err)
	acl, err := v.Getxattr(ctx, n, aclName)
	check(t, "read the ACL", err)
	check(t, "set the ACL that was read", v.Setxattr(ctx, n, aclName, acl, 0))
	a, err := v.Getattr(ctx, n, nil)
	check(t, "getattr", err)
	if a.Mode&0o777 != 0o640 {
		t.Errorf("mode %o after setting the same ACL", a.Mode)
	}
	shut(t, h)
}

// taken: what the server's administrator takes by commands is had again, but
// for locks, whose loss is told until they are unlocked.
func (s *knfsd) taken(t *testing.T, minor uint32, commands string) {
	ctx := t.Context()
	v := dial(t, s.config(t, minor, "a"))
	cache(v)
	names := []string{"plain", "locked"}
	handles := make([]volume.Handle, len(names))
	nodes := make([]volume.Node, len(names))
	for i, name := range names {
		var err error
		nodes[i], _, handles[i], err = v.Create(ctx, v.Root(), name, os.O_RDWR, 0o600)
		check(t, "create", err)
		_, err = handles[i].WriteAt(ctx, []byte("before"), 0)
		check(t, "write", err)
	}
	all := fuse.Lk{End: lock.EOF, Type: syscall.F_WRLCK}
	check(t, "lock", v.Setlk(ctx, handles[1], 1, all, false))
	s.Sh(t, commands)
	_, err := handles[0].WriteAt(ctx, []byte("after!"), 0)
	check(t, "write", err)
	check(t, "sync", handles[0].Sync(ctx))
	if got := content(t, handles[0]); got != "after!" {
		t.Errorf("read %q", got)
	}
	if _, err := handles[1].WriteAt(ctx, []byte("after!"), 0); volume.Errno(err) != syscall.EIO {
		t.Errorf("write after a lock was lost: %v, want EIO", err)
	}
	check(t, "unlock", v.Setlk(ctx, handles[1], 1, fuse.Lk{End: lock.EOF, Type: syscall.F_UNLCK}, false))
	_, err = handles[1].WriteAt(ctx, []byte("unlock"), 0)
	check(t, "write", err)
	check(t, "lock again", v.Setlk(ctx, handles[1], 1, all, false))
	for i, name := range names {
		if l := v.Lease(nodes[i]); l != 0 && s.Sh(t, "grep -c 'type: deleg' /proc/fs/nfsd/clients/*/states || true") == "0" {
			t.Errorf("%s: lease %d that the server does not know", name, l)
		}
		shut(t, handles[i])
		check(t, "unlink", v.Unlink(ctx, v.Root(), name))
	}
}

func (s *knfsd) restart(t *testing.T, minor uint32) {
	ctx := t.Context()
	v := dial(t, s.config(t, minor, "a"))
	name := fmt.Sprintf("restart%d", minor)
	n, _, h, err := v.Create(ctx, v.Root(), name, os.O_RDWR|os.O_EXCL, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	data := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	if _, err := h.WriteAt(ctx, data, 0); err != nil {
		t.Fatal(err)
	}
	all := fuse.Lk{End: lock.EOF, Type: syscall.F_WRLCK}
	if err := v.Setlk(ctx, h, 1, all, false); err != nil {
		t.Fatal(err)
	}
	t.Logf("lease %d", v.Lease(n))
	s.Sh(t, stop)
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			if _, err := h.WriteAt(ctx, data[:4096], int64(len(data)+i*4096)); err != nil {
				t.Errorf("write: %v", err)
			}
		})
	}
	s.Sh(t, start)
	begin := time.Now()
	wg.Wait()
	t.Logf("goes on after %v", time.Since(begin))
	if err := h.Sync(ctx); err != nil {
		t.Fatalf("sync: %v", err)
	}
	got := make([]byte, len(data)+4*4096)
	if k, err := h.ReadAt(ctx, got, 0); err != nil || k != len(got) || !bytes.Equal(got[:len(data)], data) {
		t.Errorf("after the restart: %d bytes, %v", k, err)
	}
	other := dial(t, s.config(t, minor, "b"))
	_, oh := open(t, other, name, os.O_RDWR)
	if err := other.Setlk(ctx, oh, 1, all, false); volume.Errno(err) != syscall.EAGAIN {
		t.Errorf("another client's lock after the restart: %v, want EAGAIN", err)
	}
	done := make(chan error, 1)
	go func() { done <- other.Setlk(ctx, oh, 1, all, true) }()
	if err := v.Setlk(ctx, h, 1, fuse.Lk{End: lock.EOF, Type: syscall.F_UNLCK}, false); err != nil {
		t.Errorf("unlock: %v", err)
	}
	if err := <-done; err != nil {
		t.Errorf("the other's wait: %v", err)
	}
	shut(t, h, oh)
	if err := v.Unlink(ctx, v.Root(), name); err != nil {
		t.Error(err)
	}
}
