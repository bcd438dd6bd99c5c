package nfs

import (
	"context"

	"github.com/lxbridge/lx/mount/nfs/nfs3"
	"github.com/lxbridge/lx/mount/volume"
)

// dial3 mounts by version 3.
func (c *Config) dial3(ctx context.Context) (volume.Volume, error) {
	return nfs3.Dial(ctx, nfs3.Config{
		Calls: c.call(), Host: c.Host, Port: c.Port, Path: c.Path,
		MountHost: c.MountHost, MountPort: c.MountPort, MountNetwork: c.MountNetwork,
		Auth: c.Auth, Authenticate: c.authenticate, Flavor: c.flavourNumber(), Machine: c.Machine,
		ReadSize: c.RSize, WriteSize: c.WSize, NameMax: c.NameMax, NoLocks: c.NoLocks, NoReadDirPlus: c.NoRdirPlus,
		Note: c.Note,
	})
}
