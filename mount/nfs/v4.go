package nfs

import (
	"cmp"
	"context"
	"crypto/rand"
	"fmt"

	"github.com/lxbridge/lx/mount/nfs/nfs4"
	"github.com/lxbridge/lx/mount/volume"
)

// dial4 mounts by version 4.minor.
func (c *Config) dial4(ctx context.Context, minor uint32) (volume.Volume, error) {
	v, err := nfs4.Dial(ctx, nfs4.Config{
		RPC: c.call(program, 4, c.Host, cmp.Or(c.Port, Port)), Minor: minor, Path: c.Path,
		Owner: fmt.Sprintf("lx %s %s", c.Machine, rand.Text()), Auth: c.Auth,
		RSize: c.RSize, WSize: c.WSize, NoACL: c.NoACL, Note: c.Note,
	})
	if err != nil {
		return nil, err
	}
	return v, nil
}

// program is NFS's number (RFC 8881).
const program = 100003
