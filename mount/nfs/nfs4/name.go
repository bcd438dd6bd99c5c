package nfs4

import (
	"context"
	"io"
	"io/fs"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/lxbridge/lx/mount/nfs/nfs4/compound"
	"github.com/lxbridge/lx/mount/nfs/nfs4/session"
	"github.com/lxbridge/lx/mount/volume"
)

// found reads GETFH and GETATTR.
func (v *Volume) found(r *compound.Reply) (node, volume.Attr, error) {
	fh, err := r.FH()
	if err != nil {
		return node{}, volume.Attr{}, err
	}
	a, err := v.getAttr(r)
	return node{v, fh}, a, err
}

// dirAttr reads, last in a compound, what a directory is like after names in it
// changed. That it could not be had does not matter: all of it would be repeated.
func (v *Volume) dirAttr(r *compound.Reply, a *volume.Attr) error {
	if got, err := v.getAttr(r); err == nil {
		*a = got
	}
	return r.Err()
}

// restored is dirAttr after RESTOREFH.
func (v *Volume) restored(r *compound.Reply, a *volume.Attr) error {
	if r.Next(compound.OpRestoreFH) != nil {
		return r.Err()
	}
	return v.dirAttr(r, a)
}

// tell hands on what dirAttr read, if it did.
func tell(ctx context.Context, dir volume.Node, a *volume.Attr) {
	if a.Mode != 0 {
		volume.Tell(ctx, dir, *a)
	}
}

// Lookup implements volume.Volume.
func (v *Volume) Lookup(ctx context.Context, dir volume.Node, name string) (volume.Node, volume.Attr, error) {
	v, parent := at(dir)
	var n node
	var a volume.Attr
	err := v.call(ctx, func(_ *session.Conn, q *compound.Request) {
		q.PutFH(parent)
		q.Lookup(name)
		q.GetFH()
		q.GetAttr(v.attrs)
	}, func(r *compound.Reply) (err error) {
		if err = r.All(compound.OpPutFH, compound.OpLookup); err == nil {
			n, a, err = v.found(r)
		}
		return err
	})
	if err != nil {
		if is(err, compound.ErrMoved) && v.cfg.Refer != nil {
			n, a, err := v.follow(ctx, parent, name)
			return n, a, fail("find", name, err)
		}
		return nil, volume.Attr{}, fail("find", name, err)
	}
	v.places.found(n.fh, place{parent, name})
	return n, a, nil
}

// create makes what is not a regular file.
func (v *Volume) create(ctx context.Context, dir volume.Node, typ uint32, name, target string, mode, rdev uint32) (volume.Node, volume.Attr, error) {
	v, parent := at(dir)
	var n node
	var a, after volume.Attr
	set := v.settable(volume.SetAttr{Mode: &mode})
	if typ == compound.TypeLink {
		set = compound.Settable{}
	}
	err := v.call(ctx, func(_ *session.Conn, q *compound.Request) {
		q.PutFH(parent)
		q.SaveFH()
		q.Create(typ, name, target, unix.Major(uint64(rdev)), unix.Minor(uint64(rdev)), &set)
		q.GetFH()
		q.GetAttr(v.attrs)
		q.RestoreFH()
		q.GetAttr(v.attrs)
	}, func(r *compound.Reply) (err error) {
		if err = r.All(compound.OpPutFH, compound.OpSaveFH); err != nil {
			return err
		}
		if err = r.Changed(compound.OpCreate); err == nil {
			n, a, err = v.found(r)
		}
		if err == nil {
			err = v.restored(r, &after)
		}
		return err
	})
	if err != nil {
		return nil, volume.Attr{}, fail("create", name, err)
	}
	tell(ctx, dir, &after)
	v.places.found(n.fh, place{parent, name})
	return n, a, nil
}

// Mkdir implements volume.Volume.
func (v *Volume) Mkdir(ctx context.Context, dir volume.Node, name string, mode uint32) (volume.Node, volume.Attr, error) {
	return v.create(ctx, dir, compound.TypeDirectory, name, "", mode&0o7777, 0)
}

// Symlink implements volume.Symlinker.
func (v *Volume) Symlink(ctx context.Context, dir volume.Node, name, target string) (volume.Node, volume.Attr, error) {
	return v.create(ctx, dir, compound.TypeLink, name, target, 0o777, 0)
}

// Mknod implements volume.Mknoder.
func (v *Volume) Mknod(ctx context.Context, dir volume.Node, name string, mode, rdev uint32) (volume.Node, volume.Attr, error) {
	perm := mode & 0o7777
	switch mode & syscall.S_IFMT {
	case 0, syscall.S_IFREG:
		n, a, h, err := v.Create(ctx, dir, name, syscall.O_WRONLY|syscall.O_EXCL, perm)
		if err == nil {
			err = h.Close(ctx)
		}
		return n, a, err
	case syscall.S_IFIFO:
		return v.create(ctx, dir, compound.TypeFIFO, name, "", perm, 0)
	case syscall.S_IFSOCK:
		return v.create(ctx, dir, compound.TypeSocket, name, "", perm, 0)
	case syscall.S_IFCHR:
		return v.create(ctx, dir, compound.TypeChar, name, "", perm, rdev)
	case syscall.S_IFBLK:
		return v.create(ctx, dir, compound.TypeBlock, name, "", perm, rdev)
	}
	return nil, volume.Attr{}, fail("create", name, syscall.EINVAL)
}

// Readlink implements volume.Readlinker.
func (v *Volume) Readlink(ctx context.Context, n volume.Node) (target string, err error) {
	v, fh := at(n)
	err = v.call(ctx, func(_ *session.Conn, q *compound.Request) {
		q.PutFH(fh)
		q.ReadLink()
	}, func(r *compound.Reply) (err error) {
		if err = r.Next(compound.OpPutFH); err == nil {
			target, err = r.ReadLink()
		}
		return err
	})
	return target, fail("read the link", "", err)
}

// remove removes a name by REMOVE, which takes whatever is there, after what look
// asks, whose results are those of looked.
func (v *Volume) remove(ctx context.Context, dir volume.Node, name string, look func(*compound.Request), looked ...compound.Op) error {
	v, parent := at(dir)
	var after volume.Attr
	err := v.call(ctx, func(_ *session.Conn, q *compound.Request) {
		q.PutFH(parent)
		look(q)
		q.Remove(name)
		q.GetAttr(v.attrs)
	}, func(r *compound.Reply) error {
		err := r.Next(compound.OpPutFH)
		if err == nil {
			err = r.All(looked...)
		}
		if err == nil {
			err = r.Changed(compound.OpRemove)
		}
		if err == nil {
			err = v.dirAttr(r, &after)
		}
		return err
	})
	if err == nil {
		tell(ctx, dir, &after)
	}
	if is(err, compound.ErrNotSame) {
		err = syscall.ENOTDIR
	}
	return fail("remove", name, err)
}

// Unlink implements volume.Volume. An empty directory would be removed as well.
func (v *Volume) Unlink(ctx context.Context, dir volume.Node, name string) error {
	return v.remove(ctx, dir, name, func(*compound.Request) {})
}

// Rmdir implements volume.Volume.
func (v *Volume) Rmdir(ctx context.Context, dir volume.Node, name string) error {
	return v.remove(ctx, dir, name, func(q *compound.Request) {
		q.SaveFH()
		q.Lookup(name)
		q.VerifyType(compound.TypeDirectory)
		q.RestoreFH()
	}, compound.OpSaveFH, compound.OpLookup, compound.OpVerify, compound.OpRestoreFH)
}

// Rename implements volume.Volume. The protocol has no flags for it.
func (v *Volume) Rename(ctx context.Context, dir volume.Node, name string, newDir volume.Node, newName string, flags uint32) error {
	if flags != 0 {
		return fail("rename", name, syscall.EINVAL)
	}
	v, from := at(dir)
	there, to := at(newDir)
	if there != v {
		return fail("rename", name, syscall.EXDEV)
	}
	var after, newAfter volume.Attr
	err := v.call(ctx, func(_ *session.Conn, q *compound.Request) {
		q.PutFH(from)
		q.SaveFH()
		q.PutFH(to)
		q.Rename(name, newName)
		q.GetAttr(v.attrs)
		q.RestoreFH()
		q.GetAttr(v.attrs)
	}, func(r *compound.Reply) error {
		err := r.All(compound.OpPutFH, compound.OpSaveFH, compound.OpPutFH)
		if err == nil {
			err = r.Changed(compound.OpRename)
		}
		if err == nil {
			err = v.dirAttr(r, &newAfter)
		}
		if err == nil && newAfter.Mode != 0 {
			err = v.restored(r, &after)
		}
		return err
	})
	if err == nil {
		tell(ctx, dir, &after)
		tell(ctx, newDir, &newAfter)
		v.places.moved(place{from, name}, place{to, newName})
	}
	return fail("rename", name, err)
}

// Link implements volume.Linker.
func (v *Volume) Link(ctx context.Context, n, dir volume.Node, name string) (out volume.Attr, err error) {
	v, fh := at(n)
	there, parent := at(dir)
	if there != v {
		return out, fail("link", name, syscall.EXDEV)
	}
	var after volume.Attr
	err = v.call(ctx, func(_ *session.Conn, q *compound.Request) {
		q.PutFH(fh)
		q.SaveFH()
		q.PutFH(parent)
		q.Link(name)
		q.RestoreFH()
		q.GetAttr(v.attrs)
		q.PutFH(parent)
		q.GetAttr(v.attrs)
	}, func(r *compound.Reply) error {
		if err := r.All(compound.OpPutFH, compound.OpSaveFH, compound.OpPutFH); err != nil {
			return err
		}
		if err := r.Changed(compound.OpLink); err != nil {
			return err
		}
		if err := r.Next(compound.OpRestoreFH); err != nil {
			return err
		}
		var err error
		if out, err = v.getAttr(r); err == nil && r.Next(compound.OpPutFH) == nil {
			err = v.dirAttr(r, &after)
		}
		return err
	})
	if is(err, compound.ErrIsDir) {
		err = syscall.EPERM // link(2)
	}
	if err == nil {
		tell(ctx, dir, &after)
		v.places.linked(fh, place{parent, name})
	}
	return out, fail("link", name, err)
}

// listing is an open directory: the server knows nothing of it but the cookie.
type listing struct {
	v        *Volume
	dir      compound.FH
	cookie   uint64
	verifier compound.Verifier
	end      bool
	first    []volume.DirEntry
}

// listSize is how much of a listing one answer may have, in bytes.
const listSize = 1 << 20

// ReadDir implements volume.Volume.
func (v *Volume) ReadDir(ctx context.Context, dir volume.Node) (volume.DirStream, error) {
	v, parent := at(dir)
	l := &listing{v: v, dir: parent}
	var err error
	if l.first, err = l.more(ctx); err != nil {
		return nil, err
	}
	return volume.Ahead(v, l), nil
}

// Next implements volume.DirStream.
func (l *listing) Next(ctx context.Context) ([]volume.DirEntry, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if entries := l.first; len(entries) > 0 {
		l.first = nil
		return entries, nil
	}
	if l.end {
		return nil, io.EOF
	}
	entries, err := l.more(ctx)
	if err == nil && len(entries) == 0 {
		err = io.EOF
	}
	return entries, err
}

// entrySize is about how much of an answer an entry takes, in bytes.
const entrySize = 256

// more asks for entries; there are none only at the end.
func (l *listing) more(ctx context.Context) (entries []volume.DirEntry, err error) {
	mask := l.v.attrs.Or(compound.Set(compound.AttrFH, compound.AttrReadDirError))
	size := uint32(min(listSize, l.v.cfg.RSize))
	cookie, verifier := l.cookie, l.verifier
	// Some servers answer NOENT where a name goes while they list.
	for try := 0; try == 0 || try < 10 && is(err, compound.ErrNoEnt); try++ {
		err = l.v.call(ctx, func(_ *session.Conn, q *compound.Request) {
			q.PutFH(l.dir)
			q.ReadDir(cookie, verifier, size, mask)
		}, func(r *compound.Reply) (err error) {
			if err = r.Next(compound.OpPutFH); err != nil {
				return err
			}
			entries = make([]volume.DirEntry, 0, r.Remaining()/entrySize)
			l.verifier, l.end, err = r.ReadDir(func(e *compound.Entry) {
				l.cookie = e.Cookie
				entries = append(entries, l.v.entry(e))
			})
			return err
		})
	}
	if err == nil && len(entries) == 0 && !l.end {
		err = &compound.OpError{Op: compound.OpReadDir, Status: compound.ErrTooSmall}
	}
	if err != nil {
		l.cookie, l.verifier = cookie, verifier
		return nil, fail("list", "", err)
	}
	if l.v.places != nil {
		for _, e := range entries {
			if n, ok := e.Node.(node); ok {
				l.v.places.found(n.fh, place{l.dir, e.Name})
			}
		}
	}
	return entries, nil
}

func (v *Volume) entry(e *compound.Entry) volume.DirEntry {
	d := volume.DirEntry{Name: e.Name}
	a := v.attr(&e.Attr)
	switch a.Mode & syscall.S_IFMT {
	case syscall.S_IFDIR:
		d.Type = fs.ModeDir
	case syscall.S_IFLNK:
		d.Type = fs.ModeSymlink
	case syscall.S_IFIFO:
		d.Type = fs.ModeNamedPipe
	case syscall.S_IFSOCK:
		d.Type = fs.ModeSocket
	case syscall.S_IFBLK:
		d.Type = fs.ModeDevice
	case syscall.S_IFCHR:
		d.Type = fs.ModeDevice | fs.ModeCharDevice
	}
	if len(e.FH) > 0 && e.Error == compound.OK && a.Mode&syscall.S_IFMT != 0 {
		d.Node, d.Attr = node{v, compound.FH(e.FH)}, a
	}
	return d
}

// Close implements volume.DirStream.
func (l *listing) Close() error { return nil }
