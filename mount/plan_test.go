package mount

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/lxbridge/lx/mount/memvol"
	"github.com/lxbridge/lx/mount/option"
)

// plan is all that an option can change, as text.
func plan(o *option.CIFS) string {
	c := smbConfig(o)
	cfg, server := arrangeCIFS(memvol.New(memvol.Options{}), o)
	return fmt.Sprintf("%+v %q %+v %+v %+v %+v %v %v", c, string(c.Password), cfg, server, servingCIFS(o), o.Mount, o.NoDelete, o.NoStrictSync)
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
