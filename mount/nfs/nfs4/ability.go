package nfs4

import (
	"context"
	"errors"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lxbridge/lx/mount/nfs/nfs4/compound"
	"github.com/lxbridge/lx/mount/nfs/nfs4/session"
	"github.com/lxbridge/lx/mount/nfs/xdr"
	"github.com/lxbridge/lx/mount/volume"
)

var (
	_ volume.Seeker    = (*Volume)(nil)
	_ volume.Allocator = (*Volume)(nil)
	_ volume.Copier    = (*Volume)(nil)
	_ volume.Xattrer   = (*Volume)(nil)
)

// lacks says that the server has no operation op, as far as is known, and
// learns it from err.
func (v *Volume) lacks(op compound.Op, err error) bool {
	if is(err, compound.ErrNotSupp) || is(err, compound.ErrOpIllegal) {
		v.refused[op].Store(true)
	}
	return v.cfg.Minor < 2 || v.refused[op].Load()
}

func (v *Volume) sizeOf(ctx context.Context, h *handle) (uint64, error) {
	a, err := v.Getattr(ctx, node{v, h.file.fh}, h)
	return a.Size, err
}

// Seek implements volume.Seeker. To a server that cannot tell a file is all data.
func (v *Volume) Seek(ctx context.Context, vh volume.Handle, off int64, whence int) (int64, error) {
	h := vh.(*handle)
	v = h.file.v
	what := uint32(compound.SeekData)
	switch {
	case off < 0:
		return 0, fail("seek", "", syscall.ENXIO)
	case whence == unix.SEEK_HOLE:
		what = compound.SeekHole
	case whence != unix.SEEK_DATA:
		return 0, fail("seek", "", syscall.EINVAL)
	}
	if !v.lacks(compound.OpSeek, nil) {
		var end bool
		var at uint64
		err := h.do(ctx, func(_ *session.Conn, q *compound.Request, id compound.StateID) {
			q.PutFH(h.file.fh)
			q.Seek(id, uint64(off), what)
		}, func(r *compound.Reply) (err error) {
			if err = r.Next(compound.OpPutFH); err == nil {
				end, at, err = r.Seek()
			}
			return err
		})
		switch {
		case err == nil && end && what == compound.SeekData:
			return 0, fail("seek", "", syscall.ENXIO)
		case err == nil:
			return int64(at), nil
		case !v.lacks(compound.OpSeek, err) && !is(err, compound.ErrUnionNotSupp):
			return 0, fail("seek", "", err)
		}
	}
	size, err := v.sizeOf(ctx, h)
	switch {
	case err != nil:
		return 0, err
	case uint64(off) >= size:
		return 0, fail("seek", "", syscall.ENXIO)
	case what == compound.SeekHole:
		return int64(size), nil
	}
	return off, nil
}

// Allocate implements volume.Allocator: what the kernel's client does, which is
// allocating and punching holes.
func (v *Volume) Allocate(ctx context.Context, vh volume.Handle, off, n int64, mode uint32) error {
	h := vh.(*handle)
	v = h.file.v
	op := compound.OpAllocate
	switch mode {
	case 0:
	case unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE:
		op = compound.OpDeallocate
	default:
		return fail("allocate", "", syscall.EOPNOTSUPP)
	}
	if v.lacks(op, nil) {
		return fail("allocate", "", syscall.EOPNOTSUPP)
	}
	if op == compound.OpDeallocate {
		if err := v.durable(ctx, h.file.fh); err != nil {
			return fail("allocate", "", err)
		}
	}
	err := h.do(ctx, func(_ *session.Conn, q *compound.Request, id compound.StateID) {
		q.PutFH(h.file.fh)
		if op == compound.OpAllocate {
			q.Allocate(id, uint64(off), uint64(n))
		} else {
			q.Deallocate(id, uint64(off), uint64(n))
		}
	}, func(r *compound.Reply) error { return r.All(compound.OpPutFH, op) })
	if v.lacks(op, err) {
		err = syscall.EOPNOTSUPP
	}
	return fail("allocate", "", err)
}

// whole is from how much on a copy is not waited for in one call, in bytes.
const whole = 4 << 20

// CopyRange implements volume.Copier: by CLONE where blocks can be shared, else
// by COPY.
func (v *Volume) CopyRange(ctx context.Context, vsrc volume.Handle, srcOff int64, vdst volume.Handle, dstOff, n int64) (int64, error) {
	src, dst := vsrc.(*handle), vdst.(*handle)
	if v = dst.file.v; src.file.v != v {
		return 0, fail("copy", "", syscall.EOPNOTSUPP)
	}
	if v.lacks(compound.OpClone, nil) && v.lacks(compound.OpCopy, nil) {
		return 0, fail("copy", "", syscall.EOPNOTSUPP)
	}
	size, err := v.sizeOf(ctx, src)
	if err != nil {
		return 0, err
	}
	n = min(n, int64(size)-srcOff)
	switch {
	case n <= 0:
		return 0, nil
	case src.file == dst.file && srcOff < dstOff+n && dstOff < srcOff+n:
		return 0, fail("copy", "", syscall.EINVAL)
	}
	if err := v.durable(ctx, dst.file.fh); err != nil {
		return 0, fail("copy", "", err)
	}
	const block = 4096
	if !v.lacks(compound.OpClone, nil) && srcOff%block == 0 && dstOff%block == 0 && (n%block == 0 || srcOff+n == int64(size)) {
		err := v.clone(ctx, src, dst, srcOff, dstOff, n)
		if err == nil {
			return n, nil
		}
		v.lacks(compound.OpClone, err) // whatever it is, COPY will tell
	}
	if v.lacks(compound.OpCopy, nil) {
		return 0, fail("copy", "", syscall.EOPNOTSUPP)
	}
	done, err := v.copy(ctx, src, dst, srcOff, dstOff, n)
	if v.lacks(compound.OpCopy, err) {
		err = syscall.EOPNOTSUPP
	}
	return done, fail("copy", "", err)
}

// between sends an operation on two open files.
func between(ctx context.Context, src, dst *handle, build func(q *compound.Request, src, dst compound.StateID), read func(*compound.Reply) error) error {
	if err := src.check(); err != nil {
		return err
	}
	return dst.do(ctx, func(_ *session.Conn, q *compound.Request, id compound.StateID) {
		q.PutFH(src.file.fh)
		q.SaveFH()
		q.PutFH(dst.file.fh)
		build(q, src.now(), id)
	}, func(r *compound.Reply) error {
		if err := r.All(compound.OpPutFH, compound.OpSaveFH, compound.OpPutFH); err != nil {
			return err
		}
		return read(r)
	})
}

func (v *Volume) clone(ctx context.Context, src, dst *handle, srcOff, dstOff, n int64) error {
	return between(ctx, src, dst, func(q *compound.Request, s, d compound.StateID) {
		q.Clone(s, d, uint64(srcOff), uint64(dstOff), uint64(n))
	}, func(r *compound.Reply) error { return r.Next(compound.OpClone) })
}

func (v *Volume) copy(ctx context.Context, src, dst *handle, srcOff, dstOff, n int64) (int64, error) {
	for try := 0; ; try++ {
		var w compound.Written
		err := between(ctx, src, dst, func(q *compound.Request, s, d compound.StateID) {
			q.Copy(s, d, uint64(srcOff), uint64(dstOff), uint64(n), n <= whole)
		}, func(r *compound.Reply) (err error) { w, err = r.Copy(); return err })
		if err == nil && w.Callback {
			w.Count, err = v.await(ctx, dst, w.State)
		}
		if err != nil || w.Count == 0 {
			return 0, err
		}
		if w.Stable != compound.WriteUnstable {
			return int64(w.Count), nil
		}
		var got compound.Verifier
		err = v.session.Call(ctx, dst.auth, func(_ *session.Conn, q *compound.Request) {
			q.PutFH(dst.file.fh)
			q.Commit()
		}, func(r *compound.Reply) (err error) {
			if err = r.Next(compound.OpPutFH); err == nil {
				got, err = r.Commit()
			}
			return err
		})
		if err != nil || got == w.Verifier || w.Callback {
			return int64(w.Count), err
		}
		if try == 3 {
			return 0, syscall.EIO // the server restarts all the time
		}
	}
}

// await waits for a copy that goes on at the server, and ends it when ctx ends.
func (v *Volume) await(ctx context.Context, dst *handle, id compound.StateID) (uint64, error) {
	for pause := 10 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		t := time.NewTimer(pause)
		select {
		case <-t.C:
		case <-v.offloads.wait(id):
			t.Stop()
		case <-ctx.Done():
			t.Stop()
			v.work.Go(func() {
				// Where it fails the copy has ended or will.
				_ = v.session.Call(v.ctx, dst.auth, func(_ *session.Conn, q *compound.Request) {
					q.PutFH(dst.file.fh)
					q.OffloadCancel(id)
				}, func(r *compound.Reply) error { return r.All(compound.OpPutFH, compound.OpOffloadCancel) })
			})
			return 0, ctx.Err()
		}
		if r, ok := v.offloads.take(id); ok {
			if r.Status != compound.OK {
				return r.Copied.Count, r.Status
			}
			return r.Copied.Count, nil
		}
		var count uint64
		var done bool
		var status compound.Status
		err := v.session.Call(ctx, dst.auth, func(_ *session.Conn, q *compound.Request) {
			q.PutFH(dst.file.fh)
			q.OffloadStatus(id)
		}, func(r *compound.Reply) (err error) {
			if err = r.Next(compound.OpPutFH); err == nil {
				count, done, status, err = r.OffloadStatus()
			}
			return err
		})
		switch {
		case is(err, compound.ErrBadStateID):
			// It has just ended: the callback says how.
		case err != nil:
			return count, err
		case done && status != compound.OK:
			return count, status
		case done:
			return count, nil
		}
	}
}

const (
	userPrefix = "user."
	aclName    = "system.nfs4_acl"
)

// xattr is a name as the server knows it.
func (v *Volume) xattr(op compound.Op, name string) (string, error) {
	short, ok := strings.CutPrefix(name, userPrefix)
	if !ok || v.lacks(op, nil) || !v.xattrs {
		return "", syscall.EOPNOTSUPP
	}
	return short, nil
}

func (v *Volume) isACL(name string) bool {
	return name == aclName && !v.cfg.NoACL && v.has.Has(compound.AttrACL)
}

// xattrErr is an error of an operation on extended attributes.
func (v *Volume) xattrErr(what string, op compound.Op, err error) error {
	if err != nil && v.lacks(op, err) {
		err = syscall.EOPNOTSUPP
	}
	return fail(what, "", err)
}

// Getxattr implements volume.Xattrer.
func (v *Volume) Getxattr(ctx context.Context, n volume.Node, name string) (value []byte, err error) {
	v, fh := at(n)
	if v.isACL(name) {
		err := v.call(ctx, func(_ *session.Conn, q *compound.Request) {
			q.PutFH(fh)
			q.GetAttr(compound.Set(compound.AttrACL))
		}, func(r *compound.Reply) error {
			if err := r.Next(compound.OpPutFH); err != nil {
				return err
			}
			a, err := r.GetAttr()
			value = a.ACL
			return err
		})
		if err == nil && value == nil {
			err = syscall.ENODATA
		}
		return value, fail("read the ACL", "", err)
	}
	short, err := v.xattr(compound.OpGetXattr, name)
	if err != nil {
		return nil, err
	}
	err = v.call(ctx, func(_ *session.Conn, q *compound.Request) {
		q.PutFH(fh)
		q.GetXattr(short)
	}, func(r *compound.Reply) error {
		if err := r.Next(compound.OpPutFH); err != nil {
			return err
		}
		p, err := r.GetXattr()
		value = append([]byte{}, p...)
		return err
	})
	return value, v.xattrErr("read an attribute", compound.OpGetXattr, err)
}

// Setxattr implements volume.Xattrer.
func (v *Volume) Setxattr(ctx context.Context, n volume.Node, name string, value []byte, flags uint32) error {
	v, fh := at(n)
	if v.isACL(name) {
		if err := compound.CheckACL(value); err != nil {
			return fail("set the ACL", "", errors.Join(syscall.EINVAL, err))
		}
		set := compound.Settable{ACL: value}
		return fail("set the ACL", "", v.call(ctx, func(_ *session.Conn, q *compound.Request) {
			q.PutFH(fh)
			q.SetAttr(compound.StateID{}, &set)
		}, func(r *compound.Reply) error {
			if err := r.Next(compound.OpPutFH); err != nil {
				return err
			}
			return r.SetAttr()
		}))
	}
	short, err := v.xattr(compound.OpSetXattr, name)
	if err != nil {
		return err
	}
	how := uint32(compound.SetXattrEither)
	switch {
	case flags&unix.XATTR_CREATE != 0:
		how = compound.SetXattrCreate
	case flags&unix.XATTR_REPLACE != 0:
		how = compound.SetXattrSwap
	}
	err = v.call(ctx, func(_ *session.Conn, q *compound.Request) {
		q.PutFH(fh)
		q.SetXattr(how, short, value)
	}, func(r *compound.Reply) error {
		if err := r.Next(compound.OpPutFH); err != nil {
			return err
		}
		return r.Changed(compound.OpSetXattr)
	})
	return v.xattrErr("set an attribute", compound.OpSetXattr, err)
}

// Removexattr implements volume.Xattrer.
func (v *Volume) Removexattr(ctx context.Context, n volume.Node, name string) error {
	v, fh := at(n)
	short, err := v.xattr(compound.OpRemoveXattr, name)
	if err != nil {
		return err
	}
	err = v.call(ctx, func(_ *session.Conn, q *compound.Request) {
		q.PutFH(fh)
		q.RemoveXattr(short)
	}, func(r *compound.Reply) error {
		if err := r.Next(compound.OpPutFH); err != nil {
			return err
		}
		return r.Changed(compound.OpRemoveXattr)
	})
	return v.xattrErr("remove an attribute", compound.OpRemoveXattr, err)
}

// Listxattr implements volume.Xattrer.
func (v *Volume) Listxattr(ctx context.Context, n volume.Node) (names []string, err error) {
	v, fh := at(n)
	if !v.cfg.NoACL && v.has.Has(compound.AttrACL) {
		names = append(names, aclName)
	}
	if !v.xattrs || v.lacks(compound.OpListXattrs, nil) {
		return names, nil
	}
	acls := len(names)
	for cookie, end := uint64(0), false; !end; {
		var got []string
		err := v.call(ctx, func(_ *session.Conn, q *compound.Request) {
			q.PutFH(fh)
			q.ListXattrs(cookie, 64<<10)
		}, func(r *compound.Reply) (err error) {
			if err = r.Next(compound.OpPutFH); err == nil {
				got, cookie, end, err = r.ListXattrs(nil)
			}
			return err
		})
		switch {
		case err != nil && v.lacks(compound.OpListXattrs, err):
			return names[:acls], nil
		case err != nil:
			return nil, fail("list attributes", "", err)
		case len(got) == 0 && !end:
			return nil, fail("list attributes", "", xdr.ErrFormat)
		}
		for _, name := range got {
			names = append(names, userPrefix+name)
		}
	}
	return names, nil
}
