// Package nfs mounts what NFS servers export: it finds the version that both
package nfs

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/lxbridge/lx/mount/nfs/nfs4"
	"github.com/lxbridge/lx/mount/nfs/rpc"
	"github.com/lxbridge/lx/mount/nfs/rpc/gss"
	"github.com/lxbridge/lx/mount/volume"
)

// Version is one of the protocol's.
type Version string

const (
	V3  Version = "3"
	V40 Version = "4.0"
	V41 Version = "4.1"
	V42 Version = "4.2"
)

// minor is a version's minor number; ok is false for version 3.
func (v Version) minor() (minor uint32, ok bool) {
	n, ok := map[Version]uint32{V40: 0, V41: 1, V42: 2}[v]
	return n, ok
}

// Versions are what vers= stands for (nfs(5)), the best first: empty is any.
func Versions(vers string) []Version {
	switch vers {
	case "":
		return []Version{V42, V41, V40, V3}
	case "4":
		return []Version{V42, V41, V40}
	}
	return []Version{Version(vers)}
}

// Port is NFS's own.
const Port = 2049

// Config says what to mount and how.
type Config struct {
	Dial rpc.Dialer
	// Network is "tcp", or "tcp6" for addresses of IPv6 only.
	Network string
	Host    string // a name or an IP address, without brackets
	Port    int    // 0: 2049, and for version 3 what the portmapper says
	Path    string // begins with a slash
	// Versions are tried in this order, until one is spoken by the server.
	Versions []Version

	MountHost    string // of the server's mountd; empty: Host
	MountPort    int    // 0: the portmapper is asked
	MountNetwork string // as Network, or for UDP; empty: Network
	NoLocks      bool   // no lock manager is needed

	Conns    int
	Reserved Reserved
	rpc.Recovery
	Timeout time.Duration
	Retrans int
	TLS     *tls.Config

	// Flavours of security that will do, the best first, as sec= has them; none: sys.
	Flavours []string
	// Auth is the AUTH_SYS credential of the caller of a context; of who mounts
	// where there is none.
	Auth    func(ctx context.Context) rpc.Auth
	flavour string // of Flavours, what is used
	// Tickets and Principal, that of the server's service, are for Kerberos;
	// without Tickets there is none.
	Tickets   Tickets
	Principal string
	tickets   *gss.Tickets // once they were asked for
	// Machine names this client to servers.
	Machine string
	// Names relate a version 4 server's names of owners to ids; nil takes numbers only.
	Names *nfs4.Names

	RSize, WSize int // bytes; 0: the largest that both sides can
	NameMax      int // 0: the server says
	NoACL        bool
	NoRdirPlus   bool

	referrals int // that led here

	// Note is told of failures that no caller sees, and nil when the server
	// answers again.
	Note func(error)
}

// Reserved says whether connections come from ports below 1024.
type Reserved int

const (
	Prefer  Reserved = iota // where they can be had
	Require                 // or there is no mount
	Never
)

// Dial mounts. The errno of an error is that of the kernel's own client:
// EPROTONOSUPPORT where none of the versions is spoken, EACCES and EPERM where
// the server refuses, ENOENT for what it does not export, and those of connect(2).
func Dial(ctx context.Context, c Config) (volume.Volume, Version, error) {
	if err := c.chooseFlavour(); err != nil {
		return nil, "", err
	}
	o := c.watch()
	vol, v, err := c.negotiate(ctx)
	return vol, v, o.explain(err)
}

func (c *Config) negotiate(ctx context.Context) (volume.Volume, Version, error) {
	var first error
	for _, v := range c.Versions {
		vol, err := c.dial(ctx, v)
		if err == nil {
			return vol, v, nil
		}
		err = fmt.Errorf("version %s: %w", v, err)
		if first == nil || errors.Is(first, syscall.EPROTONOSUPPORT) {
			first = err
		}
		if ctx.Err() != nil || !c.goOn(v, err) {
			break
		}
	}
	return nil, "", first
}

// goOn says whether a lower version than v may be had where v failed with err,
// as mount.nfs does: no server on the port, or one without a version 4 name space,
// may be one of version 3.
func (c *Config) goOn(v Version, err error) bool {
	if errors.Is(err, syscall.EPROTONOSUPPORT) {
		return true
	}
	last := c.Versions[len(c.Versions)-1] == V3 && v != V3
	return last && (errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.ECONNREFUSED))
}

func (c *Config) dial(ctx context.Context, v Version) (volume.Volume, error) {
	if minor, is4 := v.minor(); is4 {
		return c.dial4(ctx, minor)
	}
	return c.dial3(ctx)
}

// call is how the server's programs are called.
func (c *Config) call() rpc.Config {
	return rpc.Config{
		Dial: c.Dial, Network: c.Network, Conns: c.Conns, ReservedPort: c.Reserved != Never,
		Timeout: c.Timeout, Retrans: c.Retrans, Recovery: c.Recovery, TLS: c.TLS, Note: c.Note,
	}
}

// origin watches which ports of ours connections come from.
type origin struct {
	required bool
	dial     rpc.Dialer
	denied   atomic.Bool // the host gave no reserved port
}

// watch has c's connections watched, and refused where they must and cannot
// come from a reserved port.
func (c *Config) watch() *origin {
	o := &origin{required: c.Reserved == Require, dial: c.Dial}
	c.Dial = o.connect
	return o
}

const remedy = "have the host set sysctl net.ipv4.ip_unprivileged_port_start=665"

func (o *origin) connect(ctx context.Context, network, addr string, localPort int) (net.Conn, error) {
	if localPort == 0 && o.required && o.denied.Load() {
		return nil, &volume.Error{Op: "connect from a port below 1024", Errno: syscall.EACCES,
			Reason: "the host does not allow it: " + remedy + ", or mount without resvport"}
	}
	conn, err := o.dial(ctx, network, addr, localPort)
	if localPort != 0 && (errors.Is(err, syscall.EACCES) || errors.Is(err, syscall.EPERM)) {
		o.denied.Store(true)
	}
	return conn, err
}

// explain says why a server may refuse: where connections do not come from a
// reserved port, that is likely. Some servers hide an export from such.
func (o *origin) explain(err error) error {
	var flavour *nfs4.SecurityError
	var tls *rpc.TLSError
	if err == nil || !o.denied.Load() || errors.As(err, &flavour) || errors.As(err, &tls) ||
		!errors.Is(err, syscall.EACCES) && !errors.Is(err, syscall.EPERM) && !errors.Is(err, syscall.ENOENT) {
		return err
	}
	return fmt.Errorf("%w; it may want clients that connect from a port below 1024, which this host does not allow: "+
		"export with \"insecure\", or %s", err, remedy)
}
