package nfs3

import (
	"context"
	"crypto/rand"
	"errors"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/lxbridge/lx/mount/nfs/rpc"
	"github.com/lxbridge/lx/mount/volume"
)

// named begins a call of proc on a name in dir.
func (v *Volume) named(ctx context.Context, proc uint32, dir *node, name string) (*rpc.Call, error) {
	switch {
	case dir.typ != syscall.S_IFDIR:
		return nil, syscall.ENOTDIR
	case len(name) > v.feat.NameMax:
		return nil, syscall.ENAMETOOLONG
	}
	call := v.call(ctx, proc, dir)
	call.Args.String(name)
	return call, nil
}

// Lookup implements volume.Volume.
func (v *Volume) Lookup(ctx context.Context, dir volume.Node, name string) (volume.Node, volume.Attr, error) {
	n, a, err := v.lookup(ctx, dir.(*node), name)
	if err != nil {
		return nil, a, v.failure("find", name, err)
	}
	return n, a, nil
}

func (v *Volume) lookup(ctx context.Context, dir *node, name string) (n *node, a volume.Attr, err error) {
	call, err := v.named(ctx, procLookup, dir, name)
	if err != nil {
		return nil, a, err
	}
	defer call.Free()
	if err := v.do(ctx, call); err != nil {
		return nil, a, err
	}
	handle := call.Results.Opaque(maxHandle)
	known := v.postAttr(&call.Results, &a)
	if err := call.Results.Err(); err != nil {
		return nil, a, err
	}
	if !known {
		if a, _, err = v.getattr(ctx, &node{handle: string(handle)}); err != nil {
			return nil, a, err
		}
	}
	return v.node(handle, a.Mode&syscall.S_IFMT), a, nil
}

// Getattr implements volume.Volume.
func (v *Volume) Getattr(ctx context.Context, n volume.Node, _ volume.Handle) (volume.Attr, error) {
	a, _, err := v.getattr(ctx, n.(*node))
	return a, v.failure("stat", "", err)
}

func (v *Volume) getattr(ctx context.Context, n *node) (a volume.Attr, fsid uint64, err error) {
	call := v.call(ctx, procGetattr, n)
	defer call.Free()
	if err := v.do(ctx, call); err != nil {
		return a, 0, err
	}
	a, fsid = v.attr(&call.Results)
	return a, fsid, call.Results.Err()
}

// Setattr implements volume.Volume.
func (v *Volume) Setattr(ctx context.Context, n volume.Node, _ volume.Handle, s volume.SetAttr) (volume.Attr, error) {
	a, err := v.setattr(ctx, n.(*node), s)
	return a, v.failure("change", "", err)
}

func (v *Volume) setattr(ctx context.Context, n *node, s volume.SetAttr) (a volume.Attr, err error) {
	if s.Size != nil {
		// A write sent again after the truncation would undo it.
		if err := v.commit(ctx, n); err != nil {
			return a, err
		}
	}
	call := v.call(ctx, procSetattr, n)
	defer call.Free()
	setAttr(&call.Args, s)
	call.Args.Bool(false) // no guard
	if err := v.do(ctx, call); err != nil {
		return a, err
	}
	if v.wcc(&call.Results, &a) {
		return a, nil
	}
	if err := call.Results.Err(); err != nil {
		return a, err
	}
	a, _, err = v.getattr(ctx, n)
	return a, err
}

// How CREATE treats a name that exists (createmode3).
const (
	unchecked = 0
	guarded   = 1
	exclusive = 2
)

// Create implements volume.Volume.
func (v *Volume) Create(ctx context.Context, dir volume.Node, name string, flags int, mode uint32) (volume.Node, volume.Attr, volume.Handle, error) {
	n, a, err := v.create(ctx, dir.(*node), name, flags, mode)
	if err == nil && a.Mode&syscall.S_IFMT != syscall.S_IFREG {
		v.forget(n)
		err = syscall.EEXIST
		if a.Mode&syscall.S_IFMT == syscall.S_IFDIR {
			err = syscall.EISDIR
		}
	}
	if err != nil {
		return nil, a, nil, v.failure("create", name, err)
	}
	return n, a, v.newHandle(ctx, n, flags), nil
}

func (v *Volume) create(ctx context.Context, dir *node, name string, flags int, mode uint32) (n *node, a volume.Attr, err error) {
	call, err := v.named(ctx, procCreate, dir, name)
	if err != nil {
		return nil, a, err
	}
	defer call.Free()
	if flags&os.O_EXCL != 0 {
		var verifier [8]byte
		rand.Read(verifier[:]) // never fails
		call.Args.Uint32(exclusive)
		call.Args.Fixed(verifier[:])
	} else {
		call.Args.Uint32(unchecked)
		s := volume.SetAttr{Mode: &mode}
		if flags&os.O_TRUNC != 0 {
			s.Size = new(uint64)
		}
		setAttr(&call.Args, s)
	}
	err = v.do(ctx, call)
	switch {
	case errors.Is(err, syscall.EEXIST) && flags&os.O_EXCL == 0: // a directory, say
		return v.lookup(ctx, dir, name)
	case err != nil:
		return nil, a, err
	}
	n, a, err = v.found(ctx, &call.Results, dir, name)
	if err != nil || flags&os.O_EXCL == 0 {
		return n, a, err
	}
	// EXCLUSIVE keeps its verifier where the times and the mode belong.
	s := volume.SetAttr{Mode: &mode}
	setTimesToServer := v.call(ctx, procSetattr, n)
	defer setTimesToServer.Free()
	e := &setTimesToServer.Args
	e.Bool(true)
	e.Uint32(*s.Mode & 0o7777)
	e.Uint64(0) // no uid, gid
	e.Uint32(0) // no size
	e.Uint32(1) // atime, mtime: SET_TO_SERVER_TIME
	e.Uint32(1)
	e.Bool(false)
	if err = v.do(ctx, setTimesToServer); err == nil && !v.wcc(&setTimesToServer.Results, &a) {
		if err = setTimesToServer.Results.Err(); err == nil {
			a, _, err = v.getattr(ctx, n)
		}
	}
	if err != nil {
		v.forget(n)
	}
	return n, a, err
}

// made makes something by a call whose arguments are complete. Where the call
// was sent twice and the name exists, it may be what the first sending made.
func (v *Volume) made(ctx context.Context, call *rpc.Call, dir *node, name string, typ uint32) (volume.Node, volume.Attr, error) {
	defer call.Free()
	var n *node
	var a volume.Attr
	err := v.do(ctx, call)
	switch {
	case err == nil:
		n, a, err = v.found(ctx, &call.Results, dir, name)
	case errors.Is(err, syscall.EEXIST) && call.Resent():
		if n, a, err = v.lookup(ctx, dir, name); err == nil && n.typ != typ {
			v.forget(n)
			err = syscall.EEXIST
		}
	}
	if err != nil {
		return nil, a, v.failure("make", name, err)
	}
	return n, a, nil
}

// Mkdir implements volume.Volume.
func (v *Volume) Mkdir(ctx context.Context, dir volume.Node, name string, mode uint32) (volume.Node, volume.Attr, error) {
	call, err := v.named(ctx, procMkdir, dir.(*node), name)
	if err != nil {
		return nil, volume.Attr{}, v.failure("make", name, err)
	}
	setAttr(&call.Args, volume.SetAttr{Mode: &mode})
	return v.made(ctx, call, dir.(*node), name, syscall.S_IFDIR)
}

// Symlink implements volume.Symlinker.
func (v *Volume) Symlink(ctx context.Context, dir volume.Node, name, target string) (volume.Node, volume.Attr, error) {
	call, err := v.named(ctx, procSymlink, dir.(*node), name)
	if err != nil {
		return nil, volume.Attr{}, v.failure("make", name, err)
	}
	mode := uint32(0o777)
	setAttr(&call.Args, volume.SetAttr{Mode: &mode})
	call.Args.String(target)
	return v.made(ctx, call, dir.(*node), name, syscall.S_IFLNK)
}

// Mknod implements volume.Mknoder.
func (v *Volume) Mknod(ctx context.Context, dir volume.Node, name string, mode, rdev uint32) (volume.Node, volume.Attr, error) {
	if mode&syscall.S_IFMT == 0 {
		mode |= syscall.S_IFREG
	}
	proc := uint32(procMknod)
	switch mode & syscall.S_IFMT {
	case syscall.S_IFREG:
		proc = procCreate
	case syscall.S_IFIFO, syscall.S_IFSOCK, syscall.S_IFCHR, syscall.S_IFBLK:
	default:
		return nil, volume.Attr{}, v.failure("make", name, syscall.EPERM)
	}
	call, err := v.named(ctx, proc, dir.(*node), name)
	if err != nil {
		return nil, volume.Attr{}, v.failure("make", name, err)
	}
	if proc == procCreate {
		call.Args.Uint32(guarded)
	} else {
		call.Args.Uint32(ftype(mode))
	}
	setAttr(&call.Args, volume.SetAttr{Mode: &mode})
	if t := mode & syscall.S_IFMT; t == syscall.S_IFCHR || t == syscall.S_IFBLK {
		call.Args.Uint32(unix.Major(uint64(rdev)))
		call.Args.Uint32(unix.Minor(uint64(rdev)))
	}
	return v.made(ctx, call, dir.(*node), name, mode&syscall.S_IFMT)
}

// remove takes a name away. Where the call was sent twice, a name that is gone
// went by the first sending.
func (v *Volume) remove(ctx context.Context, proc uint32, dir *node, name string) error {
	call, err := v.named(ctx, proc, dir, name)
	if err != nil {
		return v.failure("remove", name, err)
	}
	defer call.Free()
	err = v.do(ctx, call)
	switch {
	case err == nil:
		v.tell(ctx, &call.Results, dir)
	case errors.Is(err, syscall.ENOENT) && call.Resent():
		err = nil
	}
	if err == status(syscall.EEXIST) { // RFC 1813 3.3.13: some say so of a full directory
		err = syscall.ENOTEMPTY
	}
	return v.failure("remove", name, err)
}

// Unlink implements volume.Volume.
func (v *Volume) Unlink(ctx context.Context, dir volume.Node, name string) error {
	return v.remove(ctx, procRemove, dir.(*node), name)
}

// Rmdir implements volume.Volume.
func (v *Volume) Rmdir(ctx context.Context, dir volume.Node, name string) error {
	return v.remove(ctx, procRmdir, dir.(*node), name)
}

// Rename implements volume.Volume. The protocol has no flags.
func (v *Volume) Rename(ctx context.Context, dir volume.Node, name string, newDir volume.Node, newName string, flags uint32) error {
	err := error(syscall.EINVAL)
	if flags == 0 {
		err = v.rename(ctx, dir.(*node), name, newDir.(*node), newName)
	}
	return v.failure("rename", name, err)
}

func (v *Volume) rename(ctx context.Context, dir *node, name string, newDir *node, newName string) error {
	switch {
	case newDir.typ != syscall.S_IFDIR:
		return syscall.ENOTDIR
	case len(newName) > v.feat.NameMax:
		return syscall.ENAMETOOLONG
	}
	call, err := v.named(ctx, procRename, dir, name)
	if err != nil {
		return err
	}
	defer call.Free()
	call.Args.String(newDir.handle)
	call.Args.String(newName)
	err = v.do(ctx, call)
	if err == nil {
		v.tell(ctx, &call.Results, dir)
		v.tell(ctx, &call.Results, newDir)
	}
	if !errors.Is(err, syscall.ENOENT) || !call.Resent() {
		return err
	}
	// The first sending may have done it: then the new name is there.
	n, _, there := v.lookup(ctx, newDir, newName)
	if there != nil {
		return err
	}
	v.forget(n)
	return nil
}

// Link implements volume.Linker.
func (v *Volume) Link(ctx context.Context, n volume.Node, dir volume.Node, name string) (volume.Attr, error) {
	a, err := v.link(ctx, n.(*node), dir.(*node), name)
	return a, v.failure("link", name, err)
}

func (v *Volume) link(ctx context.Context, n, dir *node, name string) (a volume.Attr, err error) {
	switch {
	case n.typ == syscall.S_IFDIR:
		return a, syscall.EPERM
	case dir.typ != syscall.S_IFDIR:
		return a, syscall.ENOTDIR
	case len(name) > v.feat.NameMax:
		return a, syscall.ENAMETOOLONG
	}
	call := v.call(ctx, procLink, n)
	defer call.Free()
	call.Args.String(dir.handle)
	call.Args.String(name)
	switch err := v.do(ctx, call); {
	case err == nil:
		known := v.postAttr(&call.Results, &a)
		v.tell(ctx, &call.Results, dir)
		if known {
			return a, nil
		}
	case errors.Is(err, syscall.EEXIST) && call.Resent():
		is, _, lerr := v.lookup(ctx, dir, name)
		if lerr != nil {
			return a, err
		}
		v.forget(is)
		if is != n {
			return a, err
		}
	default:
		return a, err
	}
	a, _, err = v.getattr(ctx, n)
	return a, err
}

// Readlink implements volume.Readlinker.
func (v *Volume) Readlink(ctx context.Context, n volume.Node) (string, error) {
	l := n.(*node)
	if l.typ != syscall.S_IFLNK {
		return "", v.failure("read a link", "", syscall.EINVAL)
	}
	call := v.call(ctx, procReadlink, l)
	defer call.Free()
	err := v.do(ctx, call)
	if err != nil {
		return "", v.failure("read a link", "", err)
	}
	v.postAttr(&call.Results, nil)
	target := call.Results.String(maxPath)
	return target, v.failure("read a link", "", call.Results.Err())
}

// Rights of ACCESS (RFC 1813 3.3.4).
const (
	accessRead    = 0x01
	accessLookup  = 0x02
	accessModify  = 0x04
	accessExtend  = 0x08
	accessExecute = 0x20
)

// Access implements volume.Accesser.
func (v *Volume) Access(ctx context.Context, n volume.Node, mask uint32) error {
	a := n.(*node)
	var want uint32
	if mask&unix.R_OK != 0 {
		want |= accessRead
	}
	if mask&unix.W_OK != 0 {
		want |= accessModify
		if a.typ == syscall.S_IFDIR {
			want |= accessExtend
		}
	}
	if mask&unix.X_OK != 0 {
		if a.typ == syscall.S_IFDIR {
			want |= accessLookup
		} else {
			want |= accessExecute
		}
	}
	return v.failure("access", "", v.access(ctx, a, want))
}

// access asks whether the caller has all of the rights wanted.
func (v *Volume) access(ctx context.Context, n *node, want uint32) error {
	call := v.call(ctx, procAccess, n)
	defer call.Free()
	call.Args.Uint32(want)
	if err := v.do(ctx, call); err != nil {
		return err
	}
	v.postAttr(&call.Results, nil)
	got := call.Results.Uint32()
	switch {
	case call.Results.Err() != nil:
		return call.Results.Err()
	case got&want != want:
		return syscall.EACCES
	}
	return nil
}
