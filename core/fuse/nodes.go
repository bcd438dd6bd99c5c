package fuse

import (
	"math"
	"syscall"
	"time"
)

func (w *wireAttr) set(a *Attr) {
	*w = wireAttr{
		Ino: a.Ino, Size: a.Size, Blocks: a.Blocks,
		Atime: uint64(a.Atime.Sec), Mtime: uint64(a.Mtime.Sec), Ctime: uint64(a.Ctime.Sec),
		AtimeNsec: uint32(a.Atime.Nsec), MtimeNsec: uint32(a.Mtime.Nsec), CtimeNsec: uint32(a.Ctime.Nsec),
		Mode: a.Mode, Nlink: a.Nlink, UID: a.UID, GID: a.GID, Rdev: a.Rdev, Blk: a.Blksize,
	}
}

func (w *entryOut) set(e *Entry) {
	w.Node, w.Generation = e.Node, e.Generation
	w.EntryValid, w.EntryValidNs = split(e.EntryValid)
	w.AttrValid, w.AttrValidNs = split(e.AttrValid)
	w.Attr.set(&e.Attr)
}

func split(d time.Duration) (sec uint64, nsec uint32) {
	d = max(d, 0)
	return uint64(d / time.Second), uint32(d % time.Second)
}

// entry leaves e in the reply.
func (r *request) entry(e *Entry, errno syscall.Errno) syscall.Errno {
	if errno == 0 {
		out[entryOut](r).set(e)
	}
	return errno
}

func (r *request) attr(a *Attr, valid time.Duration, errno syscall.Errno) syscall.Errno {
	if errno != 0 {
		return errno
	}
	o := out[attrOut](r)
	o.Valid, o.ValidNs = split(valid)
	o.Attr.set(a)
	return 0
}

// name is the one string that follows the structure in b.
func name(b []byte) (string, bool) {
	n, _, ok := cutName(b)
	return string(n), ok && len(n) > 0
}

// names are the two strings that follow the structure in b.
func names(b []byte) (first, second string, ok bool) {
	n1, rest, ok1 := cutName(b)
	n2, _, ok2 := cutName(rest)
	return string(n1), string(n2), ok1 && ok2 && len(n1) > 0 && len(n2) > 0
}

func (s *Server) lookup(r *request) syscall.Errno {
	n, _, ok := cutName(r.body)
	if !ok || len(n) == 0 {
		return syscall.EINVAL
	}
	e, errno := s.fs.Lookup(r, r.hdr.Node, s.names.get(n))
	return r.entry(&e, errno)
}

func (s *Server) forget(node uint64, body []byte) {
	in := at[forgetIn](body)
	if in == nil {
		s.stats.malformed.Add(1)
		return
	}
	if in.N > 0 {
		s.fs.Forget(node, in.N)
	}
}

func (s *Server) batchForget(body []byte) {
	in := at[batchForgetIn](body)
	if in == nil || uint64(in.Count)*uint64(size[forgetOne]()) > uint64(len(body)-size[batchForgetIn]()) {
		s.stats.malformed.Add(1)
		return
	}
	body = body[size[batchForgetIn]():]
	for range in.Count {
		f := at[forgetOne](body)
		if f.N > 0 {
			s.fs.Forget(f.Node, f.N)
		}
		body = body[size[forgetOne]():]
	}
}

func (s *Server) getattr(r *request) syscall.Errno {
	in, _ := in[getattrIn](r)
	if in == nil {
		return syscall.EINVAL
	}
	a, valid, errno := s.fs.Getattr(r, r.hdr.Node, in.FH, in.Flags&getattrFH != 0)
	return r.attr(&a, valid, errno)
}

func (s *Server) setattr(r *request) syscall.Errno {
	in, _ := in[setattrIn](r)
	if in == nil {
		return syscall.EINVAL
	}
	a, valid, errno := s.can.setattrer.Setattr(r, r.hdr.Node, &SetAttrIn{
		Valid: in.Valid, FH: in.FH, Size: in.Size,
		Atime: timespec(in.Atime, in.AtimeNsec), Mtime: timespec(in.Mtime, in.MtimeNsec),
		Mode: in.Mode, UID: in.UID, GID: in.GID,
		KillSuidgid: in.Valid&FATTR_KILL_SUIDGID != 0,
	})
	return r.attr(&a, valid, errno)
}

func timespec(sec uint64, nsec uint32) (t syscall.Timespec) {
	t.Sec, t.Nsec = int64(sec), int64(nsec)
	return t
}

func (s *Server) readlink(r *request) syscall.Errno {
	target, errno := s.can.readlinker.Readlink(r, r.hdr.Node)
	if errno != 0 {
		return errno
	}
	if len(target) == 0 || len(target) >= 4096 {
		return syscall.EIO // symlink(2): no such link can be
	}
	return r.reply(copy(r.payload(len(target)), target), len(target))
}

func (s *Server) symlink(r *request) syscall.Errno {
	name, target, ok := names(r.body)
	if !ok {
		return syscall.EINVAL
	}
	e, errno := s.can.symlinker.Symlink(r, r.hdr.Node, name, target)
	return r.entry(&e, errno)
}

func (s *Server) mknod(r *request) syscall.Errno {
	in, rest := in[mknodIn](r)
	name, ok := name(rest)
	if !ok {
		return syscall.EINVAL
	}
	e, errno := s.can.mknoder.Mknod(r, r.hdr.Node, name, in.Mode, in.Umask, in.Rdev)
	return r.entry(&e, errno)
}

func (s *Server) mkdir(r *request) syscall.Errno {
	in, rest := in[mkdirIn](r)
	name, ok := name(rest)
	if !ok {
		return syscall.EINVAL
	}
	e, errno := s.can.mkdirer.Mkdir(r, r.hdr.Node, name, in.Mode, in.Umask)
	return r.entry(&e, errno)
}

func (s *Server) unlink(r *request) syscall.Errno {
	name, ok := name(r.body)
	if !ok {
		return syscall.EINVAL
	}
	return s.can.unlinker.Unlink(r, r.hdr.Node, name)
}

func (s *Server) rmdir(r *request) syscall.Errno {
	name, ok := name(r.body)
	if !ok {
		return syscall.EINVAL
	}
	return s.can.rmdirer.Rmdir(r, r.hdr.Node, name)
}

func (s *Server) rename(r *request) syscall.Errno {
	in, rest := in[renameIn](r)
	from, to, ok := names(rest)
	if !ok {
		return syscall.EINVAL
	}
	return s.can.renamer.Rename(r, r.hdr.Node, from, in.NewDir, to, 0)
}

func (s *Server) rename2(r *request) syscall.Errno {
	in, rest := in[rename2In](r)
	from, to, ok := names(rest)
	if !ok {
		return syscall.EINVAL
	}
	return s.can.renamer.Rename(r, r.hdr.Node, from, in.NewDir, to, in.Flags)
}

func (s *Server) link(r *request) syscall.Errno {
	in, rest := in[linkIn](r)
	name, ok := name(rest)
	if !ok {
		return syscall.EINVAL
	}
	e, errno := s.can.linker.Link(r, in.Node, r.hdr.Node, name)
	return r.entry(&e, errno)
}

func (s *Server) access(r *request) syscall.Errno {
	in, _ := in[accessIn](r)
	if in == nil {
		return syscall.EINVAL
	}
	return s.can.accesser.Access(r, r.hdr.Node, in.Mask)
}

func (s *Server) statfs(r *request) syscall.Errno {
	st := Statfs{Bsize: 4096, Frsize: 4096, Namelen: 255}
	if s.can.statfser != nil {
		var errno syscall.Errno
		if st, errno = s.can.statfser.Statfs(r, r.hdr.Node); errno != 0 {
			return errno
		}
	}
	*out[statfsOut](r) = statfsOut{
		Blocks: st.Blocks, Bfree: st.Bfree, Bavail: st.Bavail, Files: st.Files, Ffree: st.Ffree,
		Bsize: st.Bsize, Namelen: st.Namelen, Frsize: st.Frsize,
	}
	return 0
}

// xattrReply serves GETXATTR and LISTXATTR: size 0 asks how much there is.
func (r *request) xattrReply(size uint32, get func(dst []byte) (int, syscall.Errno)) syscall.Errno {
	if size > maxXattr {
		size = maxXattr
	}
	var dst []byte
	if size > 0 {
		dst = r.payload(int(size))
	}
	n, errno := get(dst)
	switch {
	case errno != 0:
		return errno
	case n < 0 || n > math.MaxInt32:
		return syscall.EIO
	case size == 0:
		out[getxattrOut](r).Size = uint32(n)
		return 0
	case n > len(dst):
		return syscall.ERANGE
	}
	return r.reply(n, len(dst))
}

// maxXattr is the largest value and list of names (XATTR_SIZE_MAX, XATTR_LIST_MAX).
const maxXattr = 64 << 10

func (s *Server) getxattr(r *request) syscall.Errno {
	in, rest := in[getxattrIn](r)
	name, ok := name(rest)
	if !ok {
		return syscall.EINVAL
	}
	return r.xattrReply(in.Size, func(dst []byte) (int, syscall.Errno) {
		return s.can.getxattrer.Getxattr(r, r.hdr.Node, name, dst)
	})
}

func (s *Server) listxattr(r *request) syscall.Errno {
	in, _ := in[getxattrIn](r)
	if in == nil {
		return syscall.EINVAL
	}
	return r.xattrReply(in.Size, func(dst []byte) (int, syscall.Errno) {
		return s.can.listxattrer.Listxattr(r, r.hdr.Node, dst)
	})
}

func (s *Server) setxattr(r *request) syscall.Errno {
	in, rest := in[setxattrIn](r)
	if s.neg.Load().Flags&initSetxattrExt != 0 {
		rest = rest[min(size[setxattrExtIn]()-size[setxattrIn](), len(rest)):]
	}
	if in == nil {
		return syscall.EINVAL
	}
	name, value, ok := cutName(rest)
	if !ok || len(name) == 0 || uint64(len(value)) < uint64(in.Size) {
		return syscall.EINVAL
	}
	return s.can.setxattrer.Setxattr(r, r.hdr.Node, string(name), value[:in.Size], in.Flags)
}

func (s *Server) removexattr(r *request) syscall.Errno {
	name, ok := name(r.body)
	if !ok {
		return syscall.EINVAL
	}
	return s.can.removexattrer.Removexattr(r, r.hdr.Node, name)
}
