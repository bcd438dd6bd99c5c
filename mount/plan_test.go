package mount

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/lxbridge/lx/core/guest"
	"github.com/lxbridge/lx/mount/memvol"
	"github.com/lxbridge/lx/mount/nfs"
	"github.com/lxbridge/lx/mount/option"
	"github.com/lxbridge/lx/mount/volume"
)

// plan is all that an option can change, as text.
func plan(o *option.CIFS) string {
	c := smbConfig(o)
	cfg, server := arrangeCIFS(memvol.New(memvol.Options{}), o)
	return fmt.Sprintf("%+v %q %+v %+v %+v %+v %v %v", c, string(c.Password), cfg, server, servingCIFS(o), o.Mount, o.NoDelete, o.NoStrictSync)
}

// The kernel checks modes where they may refuse somebody something.
func TestModesIdle(t *testing.T) {
	single, many := parseIDMap("0 1000 1"), parseIDMap("0 1000 1\n1 100000 65536")
	for _, c := range []struct {
		uid       idMap
		file, dir uint32
		want      bool
	}{
		{single, 0o755, 0o755, true}, {single, 0o700, 0o700, true}, {many, 0o777, 0o777, false},
		{single, 0o444, 0o755, false}, {single, 0o666, 0o755, false}, // access(X_OK) says no {single, 0o755, 0o555, false}, {single, 0o755, 0o666, false},
	} {
		if got := modesIdle(c.uid, &option.CIFS{FileMode: c.file, DirMode: c.dir}); got != c.want {
			t.Errorf("%v, file_mode=%o, dir_mode=%o: %v", c.uid, c.file, c.dir, got)
		}
	}
}

// What the grammar takes reaches the connection, the serving layer or the
// superblock: no field of CIFS is set and forgotten.
func TestOptionsReachSomewhere(t *testing.T) {
	base := option.NewCIFS("cifs")
	for name, set := range map[string]func(*option.CIFS){
		"server": func(o *option.CIFS) { o.Server = "x" }, "share": func(o *option.CIFS) { o.Share = "x" },
		"prefix": func(o *option.CIFS) { o.Prefix = "x" }, "source": func(o *option.CIFS) { o.Source = "//x/y" },
		"ip":   func(o *option.CIFS) { o.Address = netip.IPv6Loopback() },
		"port": func(o *option.CIFS) { o.Port = 1 }, "netbiosname": func(o *option.CIFS) { o.Workstation = "x" },
		"username": func(o *option.CIFS) { o.User = "x" }, "password": func(o *option.CIFS) { o.Password = "x" },
		"domain": func(o *option.CIFS) { o.Domain = "x" }, "sec": func(o *option.CIFS) { o.Sec = option.Anonymous },
		"vers": func(o *option.CIFS) { o.Vers = "2.0" }, "sign": func(o *option.CIFS) { o.Sign = true },
		"seal": func(o *option.CIFS) { o.Seal = true }, "echo_interval": func(o *option.CIFS) { o.EchoInterval = 1 },
		"hard": func(o *option.CIFS) { o.Hard = true }, "uid": func(o *option.CIFS) { o.UID = 1 }, "gid": func(o *option.CIFS) { o.GID = 1 },
		"file_mode": func(o *option.CIFS) { o.FileMode = 1 }, "dir_mode": func(o *option.CIFS) { o.DirMode = 1 },
		"noperm": func(o *option.CIFS) { o.NoPerm = true }, "mapchars": func(o *option.CIFS) { o.MapChars = option.MapSFU },
		"nomapposix": func(o *option.CIFS) { o.MapChars = option.MapNone }, "nocase": func(o *option.CIFS) { o.NoCase = true },
		"mfsymlinks": func(o *option.CIFS) { o.MFSymlinks = true }, "nodelete": func(o *option.CIFS) { o.NoDelete = true },
		"cache=none": func(o *option.CIFS) { o.Cache = option.CacheNone }, "cache=loose": func(o *option.CIFS) { o.Cache = option.CacheLoose },
		"acregmax": func(o *option.CIFS) { o.ACRegMax = 0 }, "acdirmax": func(o *option.CIFS) { o.ACDirMax = 0 },
		"nostrictsync": func(o *option.CIFS) { o.NoStrictSync = true },
		"rsize":        func(o *option.CIFS) { o.RSize = 1 }, "wsize": func(o *option.CIFS) { o.WSize = 1 },
		"ro": func(o *option.CIFS) { o.Mount.ReadOnly = true },
	} {
		o := *base
		set(&o)
		if plan(&o) == plan(base) {
			t.Errorf("%s changes nothing", name)
		}
	}
	for vers := range dialects {
		o := option.NewCIFS("cifs")
		if err := o.Set(option.Param{Name: "vers", Value: vers, Has: true}); err != nil {
			t.Error(err)
		}
	}
}

// planNFS is all that an option of NFS can change, as text.
func planNFS(o *option.NFS) string {
	version := nfs.Versions(o.Vers)[0]
	v := &nfsVolume{memvol.New(memvol.Options{}), version, &owners{mode: o.IDMap, fixed: o.FixedID}}
	cfg, server := arrangeNFS(v, o)
	return fmt.Sprintf("%+v %+v %+v %+v %+v %d", nfsConfig(o), cfg, server, servingNFS(o), o.Mount, v.owners.user(7))
}

func TestNFSOptionsReachSomewhere(t *testing.T) {
	base := option.NewNFS("nfs")
	for name, set := range map[string]func(*option.NFS){
		"source": func(o *option.NFS) { o.Source = "x:/" }, "host": func(o *option.NFS) { o.Host = "x" }, "path": func(o *option.NFS) { o.Path = "/x" },
		"addr": func(o *option.NFS) { o.Address = netip.IPv6Loopback() }, "port": func(o *option.NFS) { o.Port = 1 },
		"mountproto": func(o *option.NFS) { o.MountProto = "udp" }, "proto": func(o *option.NFS) { o.IPv6 = true },
		"mounthost": func(o *option.NFS) { o.MountHost = "x" }, "mountaddr": func(o *option.NFS) { o.MountAddr = netip.IPv6Loopback() },
		"mountport": func(o *option.NFS) { o.MountPort = 1 }, "vers": func(o *option.NFS) { o.Vers = "3" },
		"nconnect": func(o *option.NFS) { o.NConnect = 4 }, "resvport": func(o *option.NFS) { o.Ports = option.PortsReserved },
		"noresvport": func(o *option.NFS) { o.Ports = option.PortsHigh },
		"soft":       func(o *option.NFS) { o.Recovery = option.Soft }, "softerr": func(o *option.NFS) { o.Recovery = option.SoftErr },
		"timeo": func(o *option.NFS) { o.Timeo = 1 }, "retrans": func(o *option.NFS) { o.Retrans = 0 },
		"sec": func(o *option.NFS) { o.Sec = "krb5" }, "idmap": func(o *option.NFS) { o.IDMap = option.IDMapGuest },
		"idmap=4242": func(o *option.NFS) { o.IDMap, o.FixedID = option.IDMapFixed, 4242 },
		"nolock":     func(o *option.NFS) { o.LocalLocks = true }, "noacl": func(o *option.NFS) { o.NoACL = true },
		"namlen": func(o *option.NFS) { o.NameMax = 9 }, "nordirplus": func(o *option.NFS) { o.NoRdirPlus = true },
		"noac": func(o *option.NFS) { o.NoAC = true }, "acregmin": func(o *option.NFS) { o.ACRegMin = time.Hour }, "acregmax": func(o *option.NFS) { o.ACRegMax = 0 },
		"acdirmin": func(o *option.NFS) { o.ACDirMin = time.Hour }, "acdirmax": func(o *option.NFS) { o.ACDirMax = 0 },
		"lookupcache=all": func(o *option.NFS) { o.Lookup = option.LookupAll }, "lookupcache=none": func(o *option.NFS) { o.Lookup = option.LookupNone },
		"nocto": func(o *option.NFS) { o.NoCTO = true }, "rsize": func(o *option.NFS) { o.RSize = 1 }, "wsize": func(o *option.NFS) { o.WSize = 1 },
		"ro": func(o *option.NFS) { o.Mount.ReadOnly = true },
	} {
		o := *base
		set(&o)
		if planNFS(&o) == planNFS(base) {
			t.Errorf("%s changes nothing", name)
		}
	}
}

// Owners as the server has them and as guests see them.
func TestOwners(t *testing.T) {
	const single, many = "0 1000 1", "0 1000 1\n1 100000 65536"
	mounter := guest.IDs{FSUID: 0, FSGID: 0}
	for _, c := range []struct {
		maps  string
		mode  option.IDMap
		told  map[uint32]uint32 // what the server is told, by guests' ids
		shown map[uint32]uint32 // what guests see, by the server's
	}{
		{single, option.IDMapHost, map[uint32]uint32{0: 1000, 5: nobody}, map[uint32]uint32{1000: 0, 0: 0, 4242: 0}},
		{single, option.IDMapGuest, map[uint32]uint32{0: 0}, map[uint32]uint32{0: 0, 1000: 0}},
		{many, option.IDMapHost, map[uint32]uint32{0: 1000, 33: 100032}, map[uint32]uint32{1000: 0, 100032: 33, 0: 0, 4242: 0}},
		{many, option.IDMapGuest, map[uint32]uint32{0: 0, 33: 33}, map[uint32]uint32{33: 33, 0: 0, 70000: 0}},
		{many, option.IDMapFixed, map[uint32]uint32{0: 4242, 33: 4242}, map[uint32]uint32{4242: 0, 100032: 33}},
	} {
		m := parseIDMap(c.maps)
		w := &owners{idMaps: idMaps{m, m}, mode: c.mode, fixed: 4242, mounter: mounter}
		for id, want := range c.told {
			set := volume.SetAttr{UID: &id, GID: &id}
			w.accept(&set)
			if w.user(id) != want || *set.UID != want || *set.GID != want {
				t.Errorf("%q, idmap=%s: the server is told %d for %d, want %d", c.maps, c.mode, w.user(id), id, want)
			}
		}
		for id, want := range c.shown {
			a := volume.Attr{UID: id, GID: id}
			w.present(&a)
			if a.UID != want || a.GID != want {
				t.Errorf("%q, idmap=%s: %d is shown as %d:%d, want %d", c.maps, c.mode, id, a.UID, a.GID, want)
			}
		}
	}
}

func TestMountPoints(t *testing.T) {
	const text = `22 1 0:20 / /proc rw - proc proc rw
223 222 0:47 / /mnt/d\040e rw,nosuid,relatime - fuse.lx.cifs //nas/photos rw
224 222 0:47 /x /mnt/f rw - fuse.lx.cifs //nas/photos rw
bad
225 222 x:47 / /mnt rw
`
	got := mountPoints(text)
	if len(got) != 2 || len(got[47]) != 2 || got[47][0] != "/mnt/f" || got[47][1] != "/mnt/d e" {
		t.Errorf("%v", got)
	}
}

func FuzzMountPoints(f *testing.F) {
	f.Add(`223 222 0:47 / /mnt/d\040e rw - fuse.lx.cifs //nas/photos rw`)
	f.Fuzz(func(t *testing.T, text string) {
		for _, points := range mountPoints(text) {
			if len(points) == 0 {
				t.Fatal("a device without a mount point")
			}
		}
	})
}

// The lock manager of version 3 cannot tell us that the server was restarted.
func TestNoteNFS(t *testing.T) {
	for _, c := range []struct {
		version nfs.Version
		local   bool
		want    string
	}{{nfs.V3, false, "no reboot notification"}, {nfs.V3, true, ""}, {nfs.V42, false, ""}} {
		if got := noteNFS(&nfsVolume{version: c.version}, &option.NFS{LocalLocks: c.local}); got != c.want {
			t.Errorf("%s, local locks %v: %q, want %q", c.version, c.local, got, c.want)
		}
	}
}
