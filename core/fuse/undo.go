package fuse

import "syscall"

// undo gives back what a successful answer would have given the kernel, where
// that answer came too late or found nobody.
func (s *Server) undo(r *request, errno syscall.Errno) {
	if errno != 0 {
		return
	}
	b := r.out[outHeaderSize:]
	switch r.hdr.Opcode {
	case opLookup, opSymlink, opMknod, opMkdir, opLink:
		s.unref(at[entryOut](b).Node)
	case opCreate:
		c := at[createOut](b)
		if s.can.releaser != nil {
			s.can.releaser.Release(c.Entry.Node, c.Open.FH, 0, 0)
		}
		s.unref(c.Entry.Node)
	case opOpen:
		if s.can.releaser != nil {
			s.can.releaser.Release(r.hdr.Node, at[openOut](b).FH, 0, 0)
		}
	case opOpendir:
		if s.can.releasedirer != nil {
			s.can.releasedirer.Releasedir(r.hdr.Node, at[openOut](b).FH)
		}
	case opReaddirplus:
		for b := r.dir.buf[:r.dir.n]; len(b) > 0; {
			d := at[direntPlus](b)
			s.unref(d.Entry.Node)
			b = b[align8(direntPlusSize+int(d.Dirent.Namelen)):]
		}
	}
}

func (s *Server) unref(node uint64) {
	if node != 0 {
		s.fs.Forget(node, 1)
	}
}
