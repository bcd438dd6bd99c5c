package nfs4

import (
	"context"
	"encoding/binary"
	"hash/fnv"
	"io"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/lxbridge/lx/mount/nfs/nfs4/compound"
	"github.com/lxbridge/lx/mount/nfs/nfs4/session"
	"github.com/lxbridge/lx/mount/volume"
)

// wanted is what is asked of every object.
var wanted = compound.Set(compound.AttrType, compound.AttrChange, compound.AttrSize, compound.AttrFSID, compound.AttrFileID, compound.AttrMode,
	compound.AttrNumLinks, compound.AttrOwner, compound.AttrGroup, compound.AttrRawDev, compound.AttrSpaceUsed, compound.AttrAtime,
	compound.AttrBtime, compound.AttrCtime, compound.AttrMtime)

// types are S_IFMT bits by nfs_ftype4.
var types = [...]uint32{
	compound.TypeRegular: syscall.S_IFREG, compound.TypeDirectory: syscall.S_IFDIR, compound.TypeBlock: syscall.S_IFBLK,
	compound.TypeChar: syscall.S_IFCHR, compound.TypeLink: syscall.S_IFLNK, compound.TypeSocket: syscall.S_IFSOCK,
	compound.TypeFIFO: syscall.S_IFIFO, compound.TypeAttrDir: syscall.S_IFDIR, compound.TypeNamedAttr: syscall.S_IFREG,
}

func typeOf(t uint32) uint32 {
	if int(t) < len(types) {
		return types[t]
	}
	return 0
}

// attr is a in the contract's form.
func (v *Volume) attr(a *compound.Attr) volume.Attr {
	out := volume.Attr{
		FileID: a.FileID, Size: a.Size, Allocated: a.Used, Mode: typeOf(a.Type) | a.Mode&0o7777, Nlink: a.NumLinks,
		Atime: a.Atime, Mtime: a.Mtime, Ctime: a.Ctime, Btime: a.Btime, Change: a.Change,
		UID: v.cfg.Names.uid(a.Owner), GID: v.cfg.Names.gid(a.Group),
	}
	if a.FSID != v.fsid || v.salt != "" {
		out.FileID = elsewhere(v.salt, a.FSID, a.FileID)
	}
	if a.Type == compound.TypeBlock || a.Type == compound.TypeChar {
		out.Rdev = uint32(unix.Mkdev(a.Major, a.Minor))
	}
	if !a.Mask.Has(compound.AttrNumLinks) {
		out.Nlink = 1
	}
	if !a.Mask.Has(compound.AttrMode) {
		out.Mode |= 0o755
	}
	return out
}

// getAttr is the result of GETATTR in the contract's form. It aliases nothing.
func (v *Volume) getAttr(r *compound.Reply) (volume.Attr, error) {
	a, err := r.GetAttr()
	if err != nil {
		return volume.Attr{}, err
	}
	return v.attr(&a), nil
}

// elsewhere is a file id of another file system, of this server's or, with a
// salt, of others, so that it is not taken for one of the mounted.
func elsewhere(salt string, fs compound.FSID, id uint64) uint64 {
	h := fnv.New64a()
	_, _ = io.WriteString(h, salt) // hashing cannot fail
	var p [24]byte
	binary.BigEndian.PutUint64(p[:], fs.Major)
	binary.BigEndian.PutUint64(p[8:], fs.Minor)
	binary.BigEndian.PutUint64(p[16:], id)
	h.Write(p[:])
	return h.Sum64()>>1 | 1<<62
}

// Getattr implements volume.Volume.
func (v *Volume) Getattr(ctx context.Context, n volume.Node, _ volume.Handle) (out volume.Attr, err error) {
	v, fh := at(n)
	err = v.call(ctx, func(_ *session.Conn, q *compound.Request) {
		q.PutFH(fh)
		q.GetAttr(v.attrs)
	}, func(r *compound.Reply) (err error) {
		if err = r.Next(compound.OpPutFH); err == nil {
			out, err = v.getAttr(r)
		}
		return err
	})
	return out, fail("get attributes", "", err)
}

// settable is s for the wire. The birth time is left out where the server has none.
func (v *Volume) settable(s volume.SetAttr) (out compound.Settable) {
	out.Size, out.Mode, out.Atime, out.Mtime = s.Size, s.Mode, s.Atime, s.Mtime
	if v.has.Has(compound.AttrBtime) {
		out.Btime = s.Btime
	}
	if s.UID != nil {
		name := v.cfg.Names.owner(*s.UID)
		out.Owner = &name
	}
	if s.GID != nil {
		name := v.cfg.Names.group(*s.GID)
		out.Group = &name
	}
	return out
}

// Setattr implements volume.Volume.
func (v *Volume) Setattr(ctx context.Context, n volume.Node, vh volume.Handle, s volume.SetAttr) (out volume.Attr, err error) {
	v, fh := at(n)
	h, _ := vh.(*handle)
	if s.Size != nil && *s.Size > maxOffset {
		return out, fail("set attributes", "", syscall.EFBIG)
	}
	if s.Size != nil {
		if err := v.durable(ctx, fh); err != nil {
			return out, fail("set attributes", "", err)
		}
	}
	set := v.settable(s)
	build := func(_ *session.Conn, q *compound.Request, id compound.StateID) {
		q.PutFH(fh)
		q.SetAttr(id, &set)
		q.GetAttr(v.attrs)
	}
	read := func(r *compound.Reply) error {
		if err := r.Next(compound.OpPutFH); err != nil {
			return err
		}
		err := r.SetAttr()
		if err == nil {
			out, err = v.getAttr(r)
		}
		return err
	}
	if s.Size != nil && h != nil && h.writes() {
		err = h.do(ctx, build, read)
	} else {
		err = v.call(ctx, func(c *session.Conn, q *compound.Request) { build(c, q, compound.StateID{}) }, read)
	}
	if is(err, compound.ErrBadOwner) && v.cfg.Names.spell() {
		return v.Setattr(ctx, n, vh, s)
	}
	return out, fail("set attributes", "", err)
}

// Access implements volume.Accesser.
func (v *Volume) Access(ctx context.Context, n volume.Node, mask uint32) error {
	v, fh := at(n)
	var allowed, known uint32
	var a compound.Attr
	err := v.call(ctx, func(_ *session.Conn, q *compound.Request) {
		q.PutFH(fh)
		q.Access(compound.AccessRead | compound.AccessLookup | compound.AccessModify | compound.AccessExtend | compound.AccessDelete | compound.AccessExecute)
		q.GetAttr(compound.Set(compound.AttrType))
	}, func(r *compound.Reply) (err error) {
		if err = r.Next(compound.OpPutFH); err == nil {
			if known, allowed, err = r.Access(); err == nil {
				a, err = r.GetAttr()
			}
		}
		return err
	})
	if err != nil {
		return fail("ask for access", "", err)
	}
	need := uint32(0)
	if mask&unix.R_OK != 0 {
		need |= compound.AccessRead
	}
	if mask&unix.W_OK != 0 {
		need |= compound.AccessModify | compound.AccessExtend
	}
	if mask&unix.X_OK != 0 {
		if a.Type == compound.TypeDirectory {
			need |= compound.AccessLookup
		} else {
			need |= compound.AccessExecute
		}
	}
	if need&known&^allowed != 0 {
		return syscall.EACCES
	}
	return nil
}
