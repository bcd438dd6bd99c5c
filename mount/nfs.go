package mount

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"github.com/lxbridge/lx/core/fuse"
	"github.com/lxbridge/lx/mount/nfs"
	"github.com/lxbridge/lx/mount/nfs/rpc"
	"github.com/lxbridge/lx/mount/option"
	"github.com/lxbridge/lx/mount/serve"
	"github.com/lxbridge/lx/mount/volume"
)

var nfsDriver = driver{
	options: func(fsType string) option.Options { return option.NewNFS(fsType) },
	split:   option.SplitPlain,
	connect: connectNFS,
	arrange: arrangeNFS,
	present: presentNFS,
	note:    noteNFS,
}

// nfsVolume is a volume of an NFS server, and whose files guests see there.
type nfsVolume struct {
	volume.Volume
	version nfs.Version
	owners  *owners
}

var recoveries = map[option.Recovery]rpc.Recovery{option.Hard: rpc.Hard, option.Soft: rpc.Soft, option.SoftErr: rpc.SoftErr}

var reserved = map[option.Ports]nfs.Reserved{option.PortsAny: nfs.Prefer, option.PortsReserved: nfs.Require, option.PortsHigh: nfs.Never}

// nfsConfig is what o asks of the connection.
func nfsConfig(o *option.NFS) nfs.Config {
	c := nfs.Config{
		Network: "tcp", Host: o.Host, Port: int(o.Port), Path: o.Path, Versions: nfs.Versions(o.Vers),
		MountHost: o.MountHost, MountPort: int(o.MountPort), MountNetwork: o.MountProto, NoLocks: o.LocalLocks,
		Conns: o.NConnect, Reserved: reserved[o.Ports], Recovery: recoveries[o.Recovery], Timeout: o.Timeo, Retrans: o.Retrans,
		RSize: int(o.RSize), WSize: int(o.WSize), NameMax: o.NameMax, NoACL: o.NoACL, NoRdirPlus: o.NoRdirPlus, Flavours: o.Flavours(),
	}
	if o.Retrans == 0 {
		c.Retrans = -1 // 0 is the default there
	}
	if o.IPv6 {
		c.Network = "tcp6"
	}
	if o.Address.IsValid() {
		c.Host = o.Address.String()
		c.MountHost = cmp.Or(c.MountHost, c.Host)
	}
	if o.MountAddr.IsValid() {
		c.MountHost = o.MountAddr.String()
	}
	return c
}

func connectNFS(ctx context.Context, n *network, of option.Options, log func(error)) (volume.Volume, error) {
	o := of.(*option.NFS)
	w, err := newOwners(n.thread, o)
	if err != nil {
		return nil, err
	}
	c := nfsConfig(o)
	c.Dial, c.Auth, c.Machine, c.Note = n.dialFrom, w.auth, w.machine, log
	c.Tickets, c.Principal = n.tickets, "nfs/"+o.Host
	if c.TLS, err = tlsConfig(o, func(path string) ([]byte, error) { return n.thread.ReadFile(ctx, path, maxCertificate) }); err != nil {
		return nil, err
	}
	if c.Names, err = w.names(ctx, n.thread); err != nil {
		log(fmt.Errorf("some owners will not be known: %w", err))
	}
	v, version, err := nfs.Dial(ctx, c)
	if err != nil {
		return nil, err
	}
	if err := n.outlive(ctx); err != nil {
		log(fmt.Errorf("servers that this one refers to may not be found: %w", err))
	}
	return &nfsVolume{v, version, w}, nil
}

func arrangeNFS(of volume.Volume, oo option.Options) (fuse.MountConfig, fuse.Config) {
	v, o := of.(*nfsVolume), oo.(*option.NFS)
	subtype := "lx.nfs4"
	if v.version == nfs.V3 {
		subtype = "lx.nfs"
	}
	return fuse.MountConfig{
		Source: o.Source, Subtype: subtype, AllowOther: true, ReadOnly: o.Mount.ReadOnly,
		// One user's files are the server's to judge: their owners may not be
		// mapped. Between several users the kernel must judge, for it looks
		// names up in its cache without asking.
		DefaultPermissions: !v.owners.uid.single(),
	}, fuse.Config{TimeGran: v.Features().TimeGranularity, Writeback: o.NoCTO, HandleKillpriv: true}
}

// servingNFS is what o asks of the layer between the volume and the kernel.
func servingNFS(o *option.NFS) serve.Options {
	attr := min(max(time.Second, o.ACRegMin), o.ACRegMax)
	entry := min(max(time.Second, o.ACDirMin), o.ACDirMax)
	if o.NoAC {
		attr, entry = 0, 0
	}
	so := serve.Options{AttrTimeout: timeout(attr), EntryTimeout: timeout(entry), LocalLocks: o.LocalLocks, AskAbsent: o.Lookup != option.LookupAll}
	switch o.Lookup {
	case option.LookupPositive:
	case option.LookupAll:
		so.NegativeTimeout = entry
	case option.LookupNone:
		so.EntryTimeout = -1
	}
	if o.NoCTO {
		so.Cache = serve.Loose
	}
	return so
}

func presentNFS(of volume.Volume, o option.Options, show func(*volume.Attr), note func(error)) fileSystem {
	v := of.(*nfsVolume)
	options := servingNFS(o.(*option.NFS))
	options.Note, options.Accept, options.Present = note, v.owners.accept, v.owners.present
	if !v.owners.uid.single() {
		options.Unseen = unseen
	}
	if show != nil { // the host knows the server's owners by their own numbers
		options.Present = func(a *volume.Attr) { v.owners.present(a); show(a) }
	}
	return serve.New(v.Volume, options)
}

// noteNFS tells of locks that are had again after a restart of the server only
// once this side notices: statd, whom its peer would notify, is not ours.
func noteNFS(of volume.Volume, o option.Options) string {
	if of.(*nfsVolume).version == nfs.V3 && !o.(*option.NFS).LocalLocks {
		return "no reboot notification"
	}
	return ""
}
