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

// dial4 mounts by version 4.minor, from the server that has the path.
func (c *Config) dial4(ctx context.Context, minor uint32) (volume.Volume, error) {
	cfg, err := c.config4(ctx, minor)
	if err != nil {
		return nil, err
	}
	v, err := nfs4.Dial(ctx, cfg)
	if err != nil {
		return nil, err
	}
	return v, nil
}

// config4 is how to mount by version 4.minor from c's server.
func (c *Config) config4(ctx context.Context, minor uint32) (nfs4.Config, error) {
	calls := c.call()
	calls.Addr = net.JoinHostPort(c.Host, strconv.Itoa(cmp.Or(c.Port, Port)))
	calls.Program, calls.Version = program, 4
	auth, done, err := c.authenticate(ctx, calls)
	if err != nil {
		return nfs4.Config{}, err
	}
	return nfs4.Config{
		RPC: calls, Minor: minor, Path: c.Path,
		Owner: fmt.Sprintf("lx %s %s", c.Machine, rand.Text()), Auth: auth, Done: done, Names: c.Names,
		RSize: c.RSize, WSize: c.WSize, NoACL: c.NoACL, Note: c.Note,
		Refer: func(ctx context.Context, m *nfs4.MovedError) (nfs4.Config, error) { return c.refer(ctx, minor, m) },
	}, nil
}

// program is NFS's number (RFC 8881).
const program = 100003
