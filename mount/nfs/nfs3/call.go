package nfs3

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lxbridge/lx/mount/nfs/rpc"
	"github.com/lxbridge/lx/mount/nfs/xdr"
	"github.com/lxbridge/lx/mount/volume"
)

const (
	program = 100003
	version = 3

	maxHandle = 64
	maxPath   = 4096
)

// Procedures (RFC 1813 3).
const (
	procGetattr     = 1
	procSetattr     = 2
	procLookup      = 3
	procAccess      = 4
	procReadlink    = 5
	procRead        = 6
	procWrite       = 7
	procCreate      = 8
	procMkdir       = 9
	procSymlink     = 10
	procMknod       = 11
	procRemove      = 12
	procRmdir       = 13
	procRename      = 14
	procLink        = 15
	procReaddir     = 16
	procReaddirplus = 17
	procFSStat      = 18
	procFSInfo      = 19
	procPathconf    = 20
	procCommit      = 21
)

// status is an nfsstat3 other than NFS3_OK (RFC 1813 2.6).
type status uint32

const (
	errNotDir    = 20
	errStale     = 70
	errBadHandle = 10001
	errBadCookie = 10003
	errNotSupp   = 10004
	errJukebox   = 10008
)

// statuses are those that are not an errno of Linux by their number.
var statuses = map[status]struct {
	errno syscall.Errno
	words string
}{
	63:           {syscall.ENAMETOOLONG, ""},
	66:           {syscall.ENOTEMPTY, ""},
	69:           {syscall.EDQUOT, ""},
	errStale:     {syscall.ESTALE, "the server does not know the file any more"},
	71:           {syscall.EREMOTE, ""},
	errBadHandle: {syscall.ESTALE, "the server does not accept the file handle"},
	10002:        {syscall.EBUSY, "somebody else changed it meanwhile"}, // NOT_SYNC
	errBadCookie: {syscall.EIO, "the server has lost the place in the listing"},
	errNotSupp:   {syscall.EOPNOTSUPP, "the server does not support it"},
	10005:        {syscall.EOVERFLOW, ""}, // TOOSMALL
	10006:        {syscall.EREMOTEIO, "the server has an internal error"},
	10007:        {syscall.EINVAL, "the server does not support this type of file"},
	errJukebox:   {syscall.EAGAIN, "the server is still fetching the file"},
}

func (s status) errno() syscall.Errno {
	if e, ok := statuses[s]; ok {
		return e.errno
	}
	switch e := syscall.Errno(s); e {
	case syscall.EPERM, syscall.ENOENT, syscall.EIO, syscall.ENXIO, syscall.EACCES, syscall.EEXIST, syscall.EXDEV, syscall.ENODEV,
		syscall.ENOTDIR, syscall.EISDIR, syscall.EINVAL, syscall.EFBIG, syscall.ENOSPC, syscall.EROFS, syscall.EMLINK:
		return e
	}
	return syscall.EIO
}

func (s status) Error() string {
	if e := statuses[s]; e.words != "" {
		return e.words
	}
	if e := s.errno(); e != syscall.EIO || s == status(syscall.EIO) {
		return e.Error()
	}
	return fmt.Sprintf("the server answers with the unknown error %d", uint32(s))
}

func (s status) Unwrap() error { return s.errno() }

// failure is err as the caller of the volume gets it.
func (v *Volume) failure(op, name string, err error) error {
	if err == nil {
		return nil
	}
	var known *volume.Error
	if errors.As(err, &known) {
		return err
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("cannot %s %s: %w", op, name, err)
	}
	return &volume.Error{Op: op, Name: name, Errno: volume.Errno(err), Err: err}
}

// call begins a call of proc whose first argument is n's handle, for the
// caller of ctx. All of version 3 may be sent again: servers know calls by
// their transaction ids, and where a server that was restarted does not, the
// answer is looked at again (Call.Resent).
func (v *Volume) call(ctx context.Context, proc uint32, n *node) *rpc.Call {
	return v.callAs(v.cfg.Auth(ctx), proc, n)
}

func (v *Volume) callAs(auth rpc.Auth, proc uint32, n *node) *rpc.Call {
	call := v.client.NewCall(proc, auth)
	call.Again = true
	call.Args.String(n.handle)
	return call
}

// Waits between attempts where the server asks for patience (JUKEBOX).
const (
	firstPatience = 50 * time.Millisecond
	lastPatience  = 5 * time.Second
)

// do makes a call and reads its status. The rest of the results is left.
func (v *Volume) do(ctx context.Context, call *rpc.Call) error {
	return patiently(ctx, func() error {
		if err := v.client.Do(ctx, call); err != nil {
			return err
		}
		return readStatus(&call.Results)
	})
}

// patiently tries again while the server asks for patience.
func patiently(ctx context.Context, try func() error) error {
	for wait := firstPatience; ; wait = min(2*wait, lastPatience) {
		err := try()
		if err != status(errJukebox) {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait):
		}
	}
}

// readStatus reads a status: nil for NFS3_OK.
func readStatus(d *xdr.Decoder) error {
	s := status(d.Uint32())
	switch {
	case d.Err() != nil:
		return d.Err()
	case s != 0:
		return s
	}
	return nil
}

// types are ftype3 as stat(2) has them.
var types = [...]uint32{1: syscall.S_IFREG, 2: syscall.S_IFDIR, 3: syscall.S_IFBLK, 4: syscall.S_IFCHR, 5: syscall.S_IFLNK, 6: syscall.S_IFSOCK, 7: syscall.S_IFIFO}

func ftype(mode uint32) uint32 {
	for t, m := range types {
		if m == mode&syscall.S_IFMT && m != 0 {
			return uint32(t)
		}
	}
	return 0
}

// attr reads fattr3 (RFC 1813 2.6) and the file system's id.
func (v *Volume) attr(d *xdr.Decoder) (a volume.Attr, fsid uint64) {
	typ := d.Uint32()
	if typ == 0 || typ >= uint32(len(types)) {
		d.Fail("file type %d", typ)
		return a, 0
	}
	a.Mode = types[typ] | d.Uint32()&0o7777
	a.Nlink, a.UID, a.GID = d.Uint32(), d.Uint32(), d.Uint32()
	a.Size, a.Allocated = d.Uint64(), d.Uint64()
	major, minor := d.Uint32(), d.Uint32()
	if t := a.Mode & syscall.S_IFMT; t == syscall.S_IFBLK || t == syscall.S_IFCHR {
		a.Rdev = uint32(unix.Mkdev(major, minor))
	}
	fsid, a.FileID = d.Uint64(), d.Uint64()
	a.Atime, a.Mtime, a.Ctime = readTime(d), readTime(d), readTime(d)
	if fsid != v.fsid && v.fsid != 0 { // another file system below the export: its numbers are its own
		a.FileID ^= maphash.Comparable(v.seed, fsid)
	}
	return a, fsid
}

func readTime(d *xdr.Decoder) time.Time {
	s, ns := d.Uint32(), d.Uint32()
	return time.Unix(int64(s), int64(ns))
}

// postAttr reads post_op_attr into a, which may be nil, and says whether there is one.
func (v *Volume) postAttr(d *xdr.Decoder, a *volume.Attr) bool {
	if !d.Bool() {
		return false
	}
	got, _ := v.attr(d)
	if a != nil {
		*a = got
	}
	return d.Err() == nil
}

// wcc reads wcc_data; its attributes, if any, are those after the operation.
func (v *Volume) wcc(d *xdr.Decoder, a *volume.Attr) bool {
	if d.Bool() {
		d.Skip(8 + 8 + 8) // size, mtime, ctime before
	}
	return v.postAttr(d, a)
}

// tell reads a directory's wcc_data after a change of names in it and hands it on.
func (v *Volume) tell(ctx context.Context, d *xdr.Decoder, dir *node) {
	var a volume.Attr
	if v.wcc(d, &a) {
		volume.Tell(ctx, dir, a)
	}
}

// setAttr encodes sattr3.
func setAttr(e *xdr.Encoder, s volume.SetAttr) {
	for _, p := range []*uint32{s.Mode, s.UID, s.GID} {
		e.Bool(p != nil)
		if p != nil {
			if p == s.Mode {
				e.Uint32(*p & 0o7777)
			} else {
				e.Uint32(*p)
			}
		}
	}
	e.Bool(s.Size != nil)
	if s.Size != nil {
		e.Uint64(*s.Size)
	}
	const setToClientTime = 2
	for _, t := range []*time.Time{s.Atime, s.Mtime} {
		if t == nil {
			e.Uint32(0)
			continue
		}
		e.Uint32(setToClientTime)
		e.Uint32(uint32(t.Unix()))
		e.Uint32(uint32(t.Nanosecond()))
	}
}

// found reads what CREATE and its kin answer: a handle and attributes, either
// of which may be missing, and the directory's wcc_data.
func (v *Volume) found(ctx context.Context, d *xdr.Decoder, dir *node, name string) (*node, volume.Attr, error) {
	var a volume.Attr
	var handle []byte
	if d.Bool() {
		handle = d.Opaque(maxHandle)
	}
	known := v.postAttr(d, &a)
	v.tell(ctx, d, dir)
	if err := d.Err(); err != nil {
		return nil, a, err
	}
	if handle == nil {
		return v.lookup(ctx, dir, name)
	}
	if known {
		return v.node(handle, a.Mode&syscall.S_IFMT), a, nil
	}
	n := &node{handle: string(handle)}
	a, _, err := v.getattr(ctx, n)
	if err != nil {
		return nil, a, err
	}
	return v.node(handle, a.Mode&syscall.S_IFMT), a, nil
}
