package fuse

import "syscall"

// dirWriter puts directory entries into a reply.
type dirWriter struct {
	buf  []byte
	n    int
	full bool
}

var (
	_ DirSink     = (*dirWriter)(nil)
	_ DirPlusSink = (*dirPlusWriter)(nil)
)

// Add adds an entry, unless one before it did not fit. A name that no
// directory can hold is left out.
func (w *dirWriter) Add(e DirEntry) bool {
	if !validName(e.Name) {
		return !w.full
	}
	b := w.room(direntSize, e.Name)
	if b == nil {
		return false
	}
	putDirent(b, &e)
	return true
}

// room gives the next zeroed record with a head of n bytes and a name; nil
// where it does not fit, and from then on.
func (w *dirWriter) room(n int, name string) []byte {
	n = align8(n + len(name))
	if w.full || n > len(w.buf)-w.n {
		w.full = true
		return nil
	}
	b := w.buf[w.n : w.n+n]
	clear(b)
	w.n += n
	return b
}

func putDirent(b []byte, e *DirEntry) {
	d := at[dirent](b)
	d.Ino, d.Off, d.Namelen, d.Type = e.Ino, e.Off, uint32(len(e.Name)), e.Type
	copy(b[direntSize:], e.Name)
}

// validName says whether the kernel takes name in a listing: it answers EIO to
// the whole listing for an empty one, a longer one, or one with a slash.
func validName(name string) bool {
	if len(name) == 0 || len(name) > 1024 {
		return false
	}
	for i := range len(name) {
		if name[i] == '/' || name[i] == 0 {
			return false
		}
	}
	return true
}

// dirPlusWriter is a dirWriter of entries with attributes.
type dirPlusWriter dirWriter

func (w *dirPlusWriter) Fits(name string) bool {
	if !validName(name) {
		return true // Add leaves it out
	}
	if w.full || align8(direntPlusSize+len(name)) > len(w.buf)-w.n {
		w.full = true
		return false
	}
	return true
}

func (w *dirPlusWriter) Add(d DirEntry, e Entry) {
	if !validName(d.Name) {
		return
	}
	b := (*dirWriter)(w).room(direntPlusSize, d.Name)
	if b == nil {
		return
	}
	if d.Name == "." || d.Name == ".." {
		e.Node = 0 // the kernel counts no reference for them
	}
	if e.Node != 0 {
		at[entryOut](b).set(&e)
	}
	putDirent(b[entryOutSize:], &d)
}

func (s *Server) opendir(r *request) syscall.Errno {
	in, _ := in[openIn](r)
	if in == nil {
		return syscall.EINVAL
	}
	return r.opened(s.can.opendirer.Opendir(r, r.hdr.Node, in.Flags))
}

func (s *Server) readdir(r *request) syscall.Errno {
	in, w := r.list()
	if in == nil {
		return syscall.EINVAL
	}
	errno := s.can.readDirer.ReadDir(r, r.hdr.Node, in.FH, in.Offset, w)
	return r.listed(w, errno)
}

func (s *Server) readdirplus(r *request) syscall.Errno {
	in, w := r.list()
	if in == nil {
		return syscall.EINVAL
	}
	errno := s.can.readDirPluser.ReadDirPlus(r, r.hdr.Node, in.FH, in.Offset, (*dirPlusWriter)(w))
	return r.listed(w, errno)
}

func (r *request) list() (*readIn, *dirWriter) {
	in, _ := in[readIn](r)
	if in == nil || in.Size > maxTransfer {
		return nil, nil
	}
	r.dir = dirWriter{buf: r.payload(int(in.Size))}
	return in, &r.dir
}

// listed ends a listing. An error after the first entries comes again when the
// kernel asks for what follows them.
func (r *request) listed(w *dirWriter, errno syscall.Errno) syscall.Errno {
	if errno != 0 && w.n == 0 {
		return errno
	}
	return r.reply(w.n, len(w.buf))
}

func (s *Server) fsyncdir(r *request) syscall.Errno {
	in, _ := in[fsyncIn](r)
	if in == nil {
		return syscall.EINVAL
	}
	return s.can.fsyncdirer.Fsyncdir(r, r.hdr.Node, in.FH, in.Flags&fsyncData != 0)
}

func (s *Server) releasedir(r *request) syscall.Errno {
	in, _ := in[releaseIn](r)
	if in == nil {
		return syscall.EINVAL
	}
	if s.can.releasedirer != nil {
		s.can.releasedirer.Releasedir(r.hdr.Node, in.FH)
	}
	return 0
}
