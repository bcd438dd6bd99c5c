package nfs

import (
	"context"
	"fmt"
	"strings"
	"syscall"

	"github.com/lxbridge/lx/mount/nfs/nfs4"
	"github.com/lxbridge/lx/mount/volume"
)

// maxReferrals is how often a path may be on yet another server: two may point
// at each other.
const maxReferrals = 8

// refer is how to reach by version 4.minor what has moved from c's server: the
// first location that m names (RFC 8881, section 11.5). The port stays what was
// asked for.
func (c *Config) refer(ctx context.Context, minor uint32, m *nfs4.MovedError) (nfs4.Config, error) {
	at := *c
	if at.referrals++; at.referrals > maxReferrals {
		return nfs4.Config{}, &volume.Error{Op: "mount", Name: m.Path, Errno: syscall.ELOOP, Reason: fmt.Sprintf("more than %d servers say that another has it", maxReferrals)}
	}
	for _, l := range m.Locations {
		if len(l.Servers) == 0 || l.Servers[0] == "" {
			continue
		}
		at.Host, at.Path = l.Servers[0], "/"+strings.Join(append(l.Path, m.Rest...), "/")
		if at.Principal != "" {
			at.Principal = "nfs/" + at.Host
		}
		if at.TLS != nil {
			at.TLS = at.TLS.Clone()
			at.TLS.ServerName = at.Host
		}
		return at.config4(ctx, minor)
	}
	return nfs4.Config{}, &volume.Error{Op: "mount", Name: m.Path, Errno: syscall.EREMOTE, Reason: "the server says that another has it, and not which", Err: m}
}
