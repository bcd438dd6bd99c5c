// Package nfs4 is a volume.Volume on an NFS server of version 4.0, 4.1 or 4.2.
// Nodes are filehandles. Opens, locks and delegations are state at the server
// (file, handle, locks, delegation); package session keeps the client's
// standing there and calls Reclaim when the server has forgotten it.
package nfs4

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/lxbridge/lx/core/fuse"
	"github.com/lxbridge/lx/mount/nfs/nfs4/compound"
	"github.com/lxbridge/lx/mount/nfs/nfs4/session"
	"github.com/lxbridge/lx/mount/nfs/rpc"
	"github.com/lxbridge/lx/mount/volume"
	"github.com/lxbridge/lx/mount/volume/lock"
)

// Config of a volume.
type Config struct {
	RPC   rpc.Config // whom to call; Serve and Connected are the volume's
	Minor uint32     // 0, 1 or 2
	Path  string     // in the server's name space
	// Owner names this client to the server: the host and the mount.
	Owner string
	// Auth is the credential of the caller of ctx; of lx itself where there is none.
	Auth         func(ctx context.Context) rpc.Auth
	Names        *Names // of owners; nil takes numbers only
	RSize, WSize int    // bytes; 0 is 1 MiB
	Slots        int    // calls in flight; 0 is 64
	NoACL        bool
	Note         func(error) // is told of failures that no caller sees
	// Refer says how to reach what has moved to another server; nil refuses that.
	Refer func(context.Context, *MovedError) (Config, error)
	// Done, if set, is called when nobody uses Auth any more.
	Done func(context.Context)
}

// Volume is one mounted file system, with those mounted below it at the server.
type Volume struct {
	cfg      Config
	session  *session.Session
	root     node
	fsid     compound.FSID
	feat     volume.Features
	attrs    compound.Mask // asked of every object
	excl     compound.Mask // that may be set by an exclusive create
	has      compound.Mask
	owners   atomic.Uint64                           // names open owners
	refused  [compound.OpRemoveXattr + 1]atomic.Bool // operations that the server does not have
	dirty    budget
	waiters  lock.Waiters
	offloads offloads
	idle     idle
	leases   *leases
	places   *places // of 4.0 only
	xattrs   bool    // the file system has them
	salt     string  // of file ids; empty for the mounted

	referrals referrals

	ctx    context.Context
	cancel context.CancelFunc
	work   sync.WaitGroup

	mu    sync.Mutex
	files map[compound.FH]*file // open files, and those with a delegation
}

// node is an object of a volume, the mounted or one that it refers to.
type node struct {
	v  *Volume
	fh compound.FH
}

// at is where n is.
func at(n volume.Node) (*Volume, compound.FH) {
	o := n.(node)
	return o.v, o.fh
}

var (
	_ volume.Volume     = (*Volume)(nil)
	_ volume.Symlinker  = (*Volume)(nil)
	_ volume.Readlinker = (*Volume)(nil)
	_ volume.Linker     = (*Volume)(nil)
	_ volume.Mknoder    = (*Volume)(nil)
	_ volume.Accesser   = (*Volume)(nil)
)

// Dial makes the client known to the server and finds Path. What stops it is a
// *volume.Error, or one of SecurityError and, without Refer, MovedError.
func Dial(ctx context.Context, cfg Config) (*Volume, error) {
	return reach(ctx, cfg, &parent{leases: &leases{}})
}

// reach is Dial for what p refers to. Refer ends circles.
func reach(ctx context.Context, cfg Config, p *parent) (*Volume, error) {
	for {
		v, err := connect(ctx, cfg, p)
		var moved *MovedError
		if err == nil || cfg.Refer == nil || !errors.As(err, &moved) {
			return v, err
		}
		if cfg, err = cfg.Refer(ctx, moved); err != nil {
			return nil, err
		}
	}
}

func connect(ctx context.Context, cfg Config, p *parent) (*Volume, error) {
	for _, size := range []*int{&cfg.RSize, &cfg.WSize} {
		if *size <= 0 {
			*size = 1 << 20
		}
	}
	if cfg.Slots <= 0 {
		cfg.Slots = 64
	}
	if cfg.Names == nil {
		cfg.Names = &Names{}
	}
	if cfg.Note == nil {
		cfg.Note = func(error) {}
	}
	v := &Volume{cfg: cfg, leases: p.leases, salt: p.salt, files: map[compound.FH]*file{}}
	v.dirty.left = maxDirty
	if cfg.Minor == 0 {
		v.places = newPlaces()
	}
	v.ctx, v.cancel = context.WithCancel(context.Background())
	var instance compound.Verifier
	_, _ = rand.Read(instance[:]) // cannot fail
	var err error
	v.session, err = session.New(ctx, session.Config{
		RPC: cfg.RPC, Minor: cfg.Minor, Owner: cfg.Owner, Verifier: instance, Auth: cfg.Auth(context.Background()),
		MaxIO: max(cfg.RSize, cfg.WSize), Slots: cfg.Slots, Holder: holder{v}, Note: cfg.Note,
	})
	if err != nil {
		v.cancel()
		v.done(ctx)
		return nil, fail("connect", "", err)
	}
	if err := v.mount(ctx); err != nil {
		return nil, errors.Join(err, v.Close())
	}
	return v, nil
}

// components are a path's names; the lone root has none.
func components(path string) (names []string) {
	for _, name := range strings.Split(path, "/") {
		if name != "" && name != "." {
			names = append(names, name)
		}
	}
	return names
}

// mount walks to the mounted directory and learns what its file system can do.
func (v *Volume) mount(ctx context.Context) error {
	at, err := v.walk(ctx, "", nil)
	for i, name := range components(v.cfg.Path) {
		if err == nil {
			at, err = v.walk(ctx, at, &name)
		}
		if err != nil {
			return v.cannotMount(ctx, at, i, err)
		}
	}
	if err != nil {
		return fail("mount", v.cfg.Path, err)
	}
	v.root = node{v, at}
	return v.learn(ctx)
}

// walk goes from a directory to name, or to the root.
func (v *Volume) walk(ctx context.Context, dir compound.FH, name *string) (fh compound.FH, err error) {
	err = v.call(ctx, func(_ *session.Conn, q *compound.Request) {
		if name == nil {
			q.PutRootFH()
		} else {
			q.PutFH(dir)
			q.Lookup(*name)
		}
		q.GetFH()
	}, func(r *compound.Reply) error {
		if name == nil {
			err = r.Next(compound.OpPutRootFH)
		} else {
			err = r.All(compound.OpPutFH, compound.OpLookup)
		}
		if err != nil {
			return err
		}
		fh, err = r.FH()
		return err
	})
	if err != nil {
		return dir, err // for cannotMount
	}
	return fh, nil
}

// learn asks what the mounted file system can do.
func (v *Volume) learn(ctx context.Context) error {
	var a compound.Attr
	get := func(m compound.Mask) error {
		return v.call(ctx, func(_ *session.Conn, q *compound.Request) {
			q.PutFH(v.root.fh)
			q.GetAttr(m)
		}, func(r *compound.Reply) (err error) {
			if err = r.Next(compound.OpPutFH); err == nil {
				a, err = r.GetAttr()
			}
			return err
		})
	}
	if err := get(compound.Set(compound.AttrSupported)); err != nil {
		return fail("mount", v.cfg.Path, err)
	}
	v.has = a.Supported
	if err := get(v.has.And(compound.Set(compound.AttrType, compound.AttrFSID, compound.AttrMaxRead, compound.AttrMaxWrite, compound.AttrMaxName,
		compound.AttrTimeDelta, compound.AttrCaseInsensitive, compound.AttrExclCreat, compound.AttrXattr))); err != nil {
		return fail("mount", v.cfg.Path, err)
	}
	if a.Type != compound.TypeDirectory {
		return fail("mount", v.cfg.Path, syscall.ENOTDIR)
	}
	v.fsid, v.excl, v.xattrs = a.FSID, a.ExclCreat, a.Xattr
	v.attrs = v.has.And(wanted)
	size := func(want int, most uint64) int {
		if most > 0 && most < uint64(want) {
			want = int(most)
		}
		return want &^ 4095
	}
	most := v.session.MaxData()
	v.cfg.RSize = max(4096, size(min(v.cfg.RSize, most), a.MaxRead))
	v.cfg.WSize = max(4096, size(min(v.cfg.WSize, most), a.MaxWrite))
	v.feat = volume.Features{RealModes: true, CaseInsensitive: a.CaseInsensitive, MaxRead: v.cfg.RSize, MaxWrite: v.cfg.WSize,
		TimeGranularity: max(a.TimeDelta, 1), NameMax: int(nameMax(a.MaxName))}
	return nil
}

// nameMax is the longest name: servers may promise more than the VFS takes.
func nameMax(n uint32) uint32 {
	if n == 0 || n > 255 {
		return 255
	}
	return n
}

// SecurityError is a path that is to be had with other security flavours only.
type SecurityError struct {
	Path    string
	Flavors []compound.Flavor // best first
}

func (e *SecurityError) Error() string {
	var names []string
	for _, f := range e.Flavors {
		names = append(names, flavorName(f))
	}
	return fmt.Sprintf("%s wants another security flavour: sec=%s", e.Path, strings.Join(names, ":"))
}

// Unwrap is the errno of mount(2).
func (e *SecurityError) Unwrap() error { return syscall.EPERM }

func flavorName(f compound.Flavor) string {
	switch {
	case f.Number == 0:
		return "none"
	case f.Number == 1:
		return "sys"
	case f.Number == 6 && f.Service >= 1 && f.Service <= 3:
		return [...]string{"krb5", "krb5i", "krb5p"}[f.Service-1]
	}
	return fmt.Sprint(f.Number)
}

// cannotMount says why the walk ended in dir, where the i-th name of the path
// could not be reached.
func (v *Volume) cannotMount(ctx context.Context, dir compound.FH, i int, err error) error {
	names := components(v.cfg.Path)
	name, path := names[i], "/"+strings.Join(names[:i+1], "/")
	switch {
	case is(err, compound.ErrWrongSec):
		e := &SecurityError{Path: path}
		if err := v.call(ctx, func(_ *session.Conn, q *compound.Request) {
			q.PutFH(dir)
			q.SecInfo(name)
		}, func(r *compound.Reply) (err error) {
			if err = r.Next(compound.OpPutFH); err == nil {
				e.Flavors, err = r.SecInfo(compound.OpSecInfo)
			}
			return err
		}); err != nil {
			return fail("mount", v.cfg.Path, err)
		}
		return e
	case is(err, compound.ErrMoved):
		e, err := v.moved(ctx, dir, name, path)
		if err != nil {
			return fail("mount", v.cfg.Path, err)
		}
		e.Rest = names[i+1:]
		return e
	}
	return fail("mount", path, err)
}

// call sends a compound with the credential of ctx's caller.
func (v *Volume) call(ctx context.Context, build func(*session.Conn, *compound.Request), read func(*compound.Reply) error) error {
	return v.session.Call(ctx, v.cfg.Auth(ctx), build, read)
}

// fail is err as the contract has it.
func fail(op, name string, err error) error {
	if err == nil {
		return nil
	}
	return &volume.Error{Op: op, Name: name, Errno: volume.Errno(err), Err: err}
}

func is(err error, st compound.Status) bool {
	var got compound.Status
	return errors.As(err, &got) && got == st
}

// Root implements volume.Volume.
func (v *Volume) Root() volume.Node { return v.root }

// Features implements volume.Volume.
func (v *Volume) Features() volume.Features { return v.feat }

// Forget implements volume.Volume: a filehandle takes nothing at the server.
func (v *Volume) Forget(n volume.Node) {
	v, fh := at(n)
	v.places.forget(fh)
}

// Statfs implements volume.Volume.
func (v *Volume) Statfs(ctx context.Context) (s fuse.Statfs, err error) {
	mask := v.has.And(compound.Set(compound.AttrFilesAvail, compound.AttrFilesFree, compound.AttrFilesTotal,
		compound.AttrSpaceAvail, compound.AttrSpaceFree, compound.AttrSpaceTotal, compound.AttrMaxName))
	err = v.call(ctx, func(_ *session.Conn, q *compound.Request) {
		q.PutFH(v.root.fh)
		q.GetAttr(mask)
	}, func(r *compound.Reply) error {
		if err := r.Next(compound.OpPutFH); err != nil {
			return err
		}
		a, err := r.GetAttr()
		const block = 4096
		s = fuse.Statfs{Blocks: a.SpaceTotal / block, Bfree: a.SpaceFree / block, Bavail: a.SpaceAvail / block,
			Files: a.FilesTotal, Ffree: a.FilesFree, Bsize: block, Frsize: block, Namelen: nameMax(a.MaxName)}
		return err
	})
	return s, fail("statfs", "", err)
}

// closeTime is how long Close lets the server take.
const closeTime = 5 * time.Second

// Close implements volume.Volume. What is open is closed at the server, and
// delegations are given back.
func (v *Volume) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), closeTime)
	defer cancel()
	err := v.closeAll(ctx)
	v.cancel()
	v.work.Wait()
	err = errors.Join(err, v.session.Close(ctx))
	v.done(ctx)
	return errors.Join(err, v.referrals.close())
}

func (v *Volume) done(ctx context.Context) {
	if v.cfg.Done != nil {
		v.cfg.Done(ctx)
	}
}
