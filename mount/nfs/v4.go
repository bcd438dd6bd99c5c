package nfs

import (
	"cmp"
	"context"
	"crypto/rand"
	"fmt"
	"net"
	"strconv"

	"github.com/lxbridge/lx/mount/nfs/nfs4"
	"github.com/lxbridge/lx/mount/volume"
)

// dial4At mounts by version 4.minor from this server.
func (c *Config) dial4At(ctx context.Context, minor uint32) (volume.Volume, error) {
	calls := c.call()
	calls.Addr = net.JoinHostPort(c.Host, strconv.Itoa(cmp.Or(c.Port, Port)))
	calls.Program, calls.Version = program, 4
	auth, err := c.authenticate(ctx, calls)
	if err != nil {
		return nil, err
	}
	v, err := nfs4.Dial(ctx, nfs4.Config{
		RPC: calls, Minor: minor, Path: c.Path,
		Owner: fmt.Sprintf("lx %s %s", c.Machine, rand.Text()), Auth: auth, Names: c.Names,
		RSize: c.RSize, WSize: c.WSize, NoACL: c.NoACL, Note: c.Note,
	})
	if err != nil {
		return nil, err
	}
	return v, nil
}

// program is NFS's number (RFC 8881).
const program = 100003
