package nfs

import (
	"context"

	"github.com/lxbridge/lx/mount/nfs/nfs3"
	"github.com/lxbridge/lx/mount/nfs/rpc"
	"github.com/lxbridge/lx/mount/volume"
)

// flavourNumbers are those of AUTH_NONE and AUTH_SYS as mountd lists them.
var flavourNumbers = map[string]uint32{"none": uint32(rpc.FlavorNone), "sys": uint32(rpc.FlavorSys)}

// dial3 mounts by version 3.
func (c *Config) dial3(ctx context.Context) (volume.Volume, error) {
	return nfs3.Dial(ctx, nfs3.Config{
		Calls: c.call(), Host: c.Host, Port: c.Port, Path: c.Path,
		MountHost: c.MountHost, MountPort: c.MountPort, MountNetwork: c.MountNetwork,
		Auth: c.Auth, Flavor: flavourNumbers[c.flavour], Machine: c.Machine,
		ReadSize: c.RSize, WriteSize: c.WSize, NameMax: c.NameMax, NoLocks: c.NoLocks, NoReadDirPlus: c.NoRdirPlus,
		Note: c.Note,
	})
}
