package nfs3

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/lxbridge/lx/mount/nfs/rpc"
	"github.com/lxbridge/lx/mount/nfs/xdr"
	"github.com/lxbridge/lx/mount/volume"
)

// The MOUNT protocol, version 3 (RFC 1813 appendix I).
const (
	mountProgram = 100005
	mountVersion = 3

	mountMnt  = 1
	mountUmnt = 3

	maxFlavors = 256
)

// The portmapper, version 2, and rpcbind, version 3 (RFC 1833).
const (
	portProgram = 100000
	portPort    = 111

	portVersion = 2
	portGetPort = 3

	bindVersion = 3
	bindGetAddr = 3

	protoTCP = 6
	protoUDP = 17
)

// unmountWait bounds how long telling the server of an unmount may take.
const unmountWait = 2 * time.Second

var errNotRegistered = errors.New("not registered")

// address is host:port.
func address(host string, port int) string { return net.JoinHostPort(host, strconv.Itoa(port)) }

// simply makes one call on a connection of its own. args and results may be nil.
func simply(ctx context.Context, c rpc.Config, proc uint32, auth rpc.Auth, args func(*xdr.Encoder), results func(*xdr.Decoder) error) error {
	// A mount that is being made fails rather than waits: who mounts tries again.
	if c.Recovery == rpc.Hard {
		c.Recovery = rpc.SoftErr
	}
	c.Conns, c.Connected, c.Lost, c.Serve, c.Note = 1, nil, nil, nil, nil
	if strings.HasPrefix(c.Network, "udp") {
		c.TLS = nil
		c.Timeout, c.Retrans = time.Second, 9
	}
	client, err := rpc.Dial(ctx, c)
	if err != nil {
		return err
	}
	call := client.NewCall(proc, auth)
	call.Again = true
	if args != nil {
		args(&call.Args)
	}
	if err = client.Do(ctx, call); err == nil && results != nil {
		err = results(&call.Results)
	}
	call.Free()
	return errors.Join(err, client.Close())
}

// port asks the portmapper where a program is.
func (v *Volume) port(ctx context.Context, host, network string, program, version uint32) (int, error) {
	c := v.calls(host, network, portPort, portProgram, portVersion)
	c.TLS, c.ReservedPort = nil, false
	var port int
	var err error
	if ip := net.ParseIP(host); network[len(network)-1] == '6' || ip != nil && ip.To4() == nil {
		c.Version = bindVersion
		port, err = v.bindPort(ctx, c, program, version)
	} else {
		err = simply(ctx, c, portGetPort, rpc.None, func(e *xdr.Encoder) {
			e.Uint32(program)
			e.Uint32(version)
			if c.Network[:3] == "udp" {
				e.Uint32(protoUDP)
			} else {
				e.Uint32(protoTCP)
			}
			e.Uint32(0)
		}, func(d *xdr.Decoder) error {
			port = int(d.Uint32())
			return d.Err()
		})
	}
	if err != nil {
		return 0, fmt.Errorf("cannot ask the portmapper of %s: %w", host, err)
	}
	if port <= 0 || port > 65535 {
		return 0, fmt.Errorf("the portmapper of %s has no version %d of program %d over %s: %w: %w",
			host, version, program, network, errNotRegistered, syscall.EPROTONOSUPPORT)
	}
	return port, nil
}

// bindPort asks rpcbind, whose answer is a universal address (RFC 5665 5.2.3.4).
func (v *Volume) bindPort(ctx context.Context, c rpc.Config, program, version uint32) (port int, err error) {
	err = simply(ctx, c, bindGetAddr, rpc.None, func(e *xdr.Encoder) {
		e.Uint32(program)
		e.Uint32(version)
		e.String(c.Network[:3] + "6")
		e.String("")
		e.String("")
	}, func(d *xdr.Decoder) error {
		port = universalPort(d.String(256))
		return d.Err()
	})
	return port, err
}

// universalPort is the port of a universal address; 0 where it has none.
func universalPort(addr string) int {
	low := strings.LastIndexByte(addr, '.')
	if low < 0 {
		return 0
	}
	high := strings.LastIndexByte(addr[:low], '.')
	h, err := strconv.ParseUint(addr[high+1:low], 10, 8)
	if err != nil {
		return 0
	}
	l, err := strconv.ParseUint(addr[low+1:], 10, 8)
	if err != nil {
		return 0
	}
	return int(h<<8 | l)
}

// mount asks mountd for the export's handle.
func (v *Volume) mount(ctx context.Context) (handle []byte, err error) {
	port := v.cfg.MountPort
	if port == 0 {
		if port, err = v.port(ctx, v.cfg.MountHost, v.cfg.MountNetwork, mountProgram, mountVersion); err != nil {
			return nil, err
		}
	}
	v.mountds = v.calls(v.cfg.MountHost, v.cfg.MountNetwork, port, mountProgram, mountVersion)
	var flavors []uint32
	v.mountAs = v.mountAuth(ctx)
	err = simply(ctx, v.mountds, mountMnt, v.mountAs, func(e *xdr.Encoder) { e.String(v.cfg.Path) }, func(d *xdr.Decoder) error {
		if s := d.Uint32(); s != 0 && d.Err() == nil {
			return mountError(s)
		}
		handle = slices.Clone(d.Opaque(maxHandle))
		for range d.Len(maxFlavors, 4) {
			flavors = append(flavors, d.Uint32())
		}
		if d.Err() == nil && len(handle) == 0 {
			d.Fail("an empty file handle")
		}
		return d.Err()
	})
	if err != nil {
		return nil, err
	}
	// An empty list, and AUTH_NONE in it, stand for any flavour (RFC 2623 2.7).
	if len(flavors) > 0 && !slices.Contains(flavors, v.cfg.Flavor) && !slices.Contains(flavors, uint32(rpc.FlavorNone)) {
		return nil, &volume.Error{Op: "mount", Name: v.cfg.Host + ":" + v.cfg.Path, Errno: syscall.EACCES,
			Reason: "the server wants " + flavorNames(flavors)}
	}
	return handle, nil
}

// mountAuth is the credential for mountd: AUTH_SYS, even where NFS itself wants
// Kerberos.
func (v *Volume) mountAuth(ctx context.Context) rpc.Auth {
	if a := v.cfg.Auth(ctx); a.Plain() {
		return a
	}
	return rpc.NewSys(v.cfg.Machine, 0, 0, nil)
}

// unmount tells mountd, which keeps a list for people to read.
func (v *Volume) unmount() {
	ctx, cancel := context.WithTimeout(context.Background(), unmountWait)
	defer cancel()
	v.mountds.Timeout, v.mountds.Retrans = unmountWait, -1
	// Who does not hear it has lost nothing but a line of that list.
	_ = simply(ctx, v.mountds, mountUmnt, v.mountAs, func(e *xdr.Encoder) { e.String(v.cfg.Path) }, nil)
}

// mountError is a mountstat3.
func mountError(s uint32) error {
	switch s {
	case 10004:
		return syscall.EOPNOTSUPP
	case 10006:
		return syscall.EREMOTEIO
	case 1, 13:
		return fmt.Errorf("the server does not give access to it: %w", status(s).errno())
	case 2:
		return fmt.Errorf("the server does not export it: %w", syscall.ENOENT)
	}
	return status(s).errno()
}

// flavorNames are pseudo-flavours as sec= has them.
func flavorNames(flavors []uint32) string {
	known := map[uint32]string{1: "sys", 390003: "krb5", 390004: "krb5i", 390005: "krb5p"}
	var names []string
	for _, f := range flavors {
		name := known[f]
		if name == "" {
			name = fmt.Sprint(f)
		}
		names = append(names, "sec="+name)
	}
	return strings.Join(names, " or ")
}
