package nfs

import (
	"context"
	"fmt"
	"strings"
	"syscall"

	"github.com/lxbridge/lx/mount/nfs/rpc"
	"github.com/lxbridge/lx/mount/nfs/rpc/gss"
	"github.com/lxbridge/lx/mount/volume"
)

// services are the flavours of Kerberos as sec= has them.
var services = map[string]gss.Service{"krb5": gss.Krb5, "krb5i": gss.Krb5i, "krb5p": gss.Krb5p}

// Tickets gets Kerberos tickets as who mounts. It is asked once for a mount,
// and what it answers belongs to the mount from then on.
type Tickets func(ctx context.Context) (*gss.Tickets, error)

// flavourNumber is the chosen flavour as servers list it (RFC 2623 2.3).
func (c *Config) flavourNumber() uint32 {
	if s, ok := services[c.flavour]; ok {
		return s.Flavor()
	}
	if c.flavour == "none" {
		return uint32(rpc.FlavorNone)
	}
	return uint32(rpc.FlavorSys)
}

// authenticate answers the credentials for calls: Auth, or where Kerberos was
// chosen one that is set up with the server that calls speaks of. All callers
// are then known there as who mounts. done is called when it is not used any more.
func (c *Config) authenticate(ctx context.Context, calls rpc.Config) (auth func(context.Context) rpc.Auth, done func(context.Context), err error) {
	s, ok := services[c.flavour]
	if !ok {
		return c.Auth, func(context.Context) {}, nil
	}
	if c.tickets == nil {
		if c.tickets, err = c.Tickets(ctx); err != nil {
			return nil, nil, c.noKerberos(err)
		}
	}
	g, err := gss.New(ctx, gss.Config{Tickets: c.tickets, Principal: c.Principal, Service: s, Calls: calls})
	if err != nil {
		return nil, nil, c.noKerberos(err)
	}
	// What the server is not told of it forgets in time.
	return func(context.Context) rpc.Auth { return g }, func(ctx context.Context) { _ = g.Close(ctx) }, nil
}

func (c *Config) noKerberos(err error) error {
	no := volume.Errno(err)
	if no == syscall.EIO {
		no = syscall.EACCES
	}
	return &volume.Error{Op: "use sec=" + c.flavour, Errno: no, Err: err}
}

// chooseFlavour takes the first flavour that can be had.
func (c *Config) chooseFlavour() error {
	c.flavour = "sys"
	for _, f := range c.Flavours {
		switch _, kerberos := services[f]; {
		case f == "sys":
			return nil
		case f == "none":
			c.flavour = f
			c.Auth = func(context.Context) rpc.Auth { return rpc.None }
			return nil
		case kerberos && c.Tickets != nil:
			c.flavour = f
			return nil
		}
	}
	if len(c.Flavours) == 0 {
		return nil
	}
	return &volume.Error{Op: "use sec=" + strings.Join(c.Flavours, ":"), Errno: syscall.EOPNOTSUPP,
		Reason: fmt.Sprintf("there is no flavour %s", strings.Join(c.Flavours, " or "))}
}
