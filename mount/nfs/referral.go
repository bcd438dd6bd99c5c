package nfs

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"

	"github.com/lxbridge/lx/mount/nfs/nfs4"
	"github.com/lxbridge/lx/mount/volume"
)

// maxReferrals is how often a path may be on yet another server: two may point
// at each other.
const maxReferrals = 8

// dial4 mounts by version 4.minor, on the server that has the path.
func (c *Config) dial4(ctx context.Context, minor uint32) (volume.Volume, error) {
	at := *c
	for range maxReferrals {
		v, err := at.dial4At(ctx, minor)
		var moved *nfs4.MovedError
		if !errors.As(err, &moved) {
			return v, err
		}
		if err := at.follow(moved); err != nil {
			return nil, err
		}
	}
	return nil, &volume.Error{Op: "mount", Name: c.Path, Errno: syscall.ELOOP, Reason: fmt.Sprintf("more than %d servers say that another has it", maxReferrals)}
}

// follow makes c the first location that m names (RFC 8881, section 11.5). The
// port stays what was asked for.
func (c *Config) follow(m *nfs4.MovedError) error {
	for _, l := range m.Locations {
		if len(l.Servers) == 0 || l.Servers[0] == "" {
			continue
		}
		rest := names(c.Path)[min(len(names(m.Path)), len(names(c.Path))):]
		c.Host, c.Path = l.Servers[0], "/"+strings.Join(append(l.Path, rest...), "/")
		if c.Principal != "" {
			c.Principal = "nfs/" + c.Host
		}
		return nil
	}
	return &volume.Error{Op: "mount", Name: m.Path, Errno: syscall.EREMOTE, Reason: "the server says that another has it, and not which", Err: m}
}

// names are the components of a path.
func names(path string) []string {
	return strings.FieldsFunc(path, func(r rune) bool { return r == '/' })
}
