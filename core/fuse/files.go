package fuse

import "syscall"

func (r *request) opened(o OpenOut, errno syscall.Errno) syscall.Errno {
	if errno == 0 {
		*out[openOut](r) = openOut{FH: o.FH, Flags: o.Flags}
	}
	return errno
}

func (s *Server) open(r *request) syscall.Errno {
	in, _ := in[openIn](r)
	if in == nil {
		return syscall.EINVAL
	}
	return r.opened(s.can.opener.Open(r, r.hdr.Node, in.Flags))
}

func (s *Server) create(r *request) syscall.Errno {
	in, rest := in[createIn](r)
	name, ok := name(rest)
	if !ok {
		return syscall.EINVAL
	}
	e, o, errno := s.can.creater.Create(r, r.hdr.Node, name, in.Flags, in.Mode, in.Umask)
	if errno == 0 {
		c := out[createOut](r)
		c.Entry.set(&e)
		c.Open = openOut{FH: o.FH, Flags: o.Flags}
	}
	return errno
}

// worthLending is from what size on a copy costs more than to ask for a loan.
const worthLending = 32 << 10

func (s *Server) read(r *request) syscall.Errno {
	in, _ := in[readIn](r)
	if in == nil || in.Size > maxTransfer {
		return syscall.EINVAL
	}
	if s.can.lender != nil && in.Size >= worthLending {
		if b, loan, ok := s.can.lender.Lend(r, r.hdr.Node, in.FH, int64(in.Offset), int(in.Size)); ok {
			r.tail, r.loan = b[:min(len(b), int(in.Size))], loan
			s.stats.read.Add(uint64(len(r.tail)))
			return 0
		}
	}
	dst := r.payload(int(in.Size))
	n, errno := s.can.reader.Read(r, r.hdr.Node, in.FH, int64(in.Offset), dst)
	if errno != 0 {
		return errno
	}
	s.stats.read.Add(uint64(max(n, 0)))
	return r.reply(n, len(dst))
}

func (s *Server) write(r *request) syscall.Errno {
	in, data := in[readIn](r)
	if in == nil || uint64(in.Size) > uint64(len(data)) {
		return syscall.EINVAL
	}
	n, errno := s.can.writer.Write(r, r.hdr.Node, in.FH, int64(in.Offset), data[:in.Size], in.RW)
	if errno != 0 {
		return errno
	}
	if n < 0 || n > int(in.Size) {
		return syscall.EIO
	}
	s.stats.written.Add(uint64(n))
	out[writeOut](r).Size = uint32(n)
	return 0
}

func (s *Server) flush(r *request) syscall.Errno {
	in, _ := in[flushIn](r)
	if in == nil {
		return syscall.EINVAL
	}
	return s.can.flusher.Flush(r, r.hdr.Node, in.FH, in.LockOwner)
}

func (s *Server) fsync(r *request) syscall.Errno {
	in, _ := in[fsyncIn](r)
	if in == nil {
		return syscall.EINVAL
	}
	return s.can.fsyncer.Fsync(r, r.hdr.Node, in.FH, in.Flags&fsyncData != 0)
}

func (s *Server) release(r *request) syscall.Errno {
	in, _ := in[releaseIn](r)
	if in == nil {
		return syscall.EINVAL
	}
	if s.can.releaser != nil {
		s.can.releaser.Release(r.hdr.Node, in.FH, in.ReleaseFlags, in.LockOwner)
	}
	return 0
}

func (s *Server) getlk(r *request) syscall.Errno {
	in, _ := in[lkIn](r)
	if in == nil {
		return syscall.EINVAL
	}
	lk, errno := s.can.locker.Getlk(r, r.hdr.Node, in.FH, in.Owner, Lk(in.Lk), in.Flags&lkFlock != 0)
	if errno == 0 {
		out[lkOut](r).Lk = fileLock(lk)
	}
	return errno
}

func (s *Server) setlk(r *request) syscall.Errno {
	in, _ := in[lkIn](r)
	if in == nil {
		return syscall.EINVAL
	}
	return s.can.locker.Setlk(r, r.hdr.Node, in.FH, in.Owner, Lk(in.Lk), in.Flags&lkFlock != 0, r.hdr.Opcode == opSetlkw)
}

func (s *Server) fallocate(r *request) syscall.Errno {
	in, _ := in[fallocateIn](r)
	if in == nil {
		return syscall.EINVAL
	}
	return s.can.fallocater.Fallocate(r, r.hdr.Node, in.FH, in.Offset, in.Length, in.Mode)
}

func (s *Server) lseek(r *request) syscall.Errno {
	in, _ := in[lseekIn](r)
	if in == nil {
		return syscall.EINVAL
	}
	off, errno := s.can.lseeker.Lseek(r, r.hdr.Node, in.FH, in.Offset, in.Whence)
	if errno == 0 {
		out[lseekOut](r).Offset = off
	}
	return errno
}

// copyFileRange serves both forms: COPY_FILE_RANGE_64 only has a wider answer.
func (s *Server) copyFileRange(r *request) syscall.Errno {
	in, _ := in[copyFileRangeIn](r)
	if in == nil {
		return syscall.EINVAL
	}
	length := in.Len
	if r.hdr.Opcode == opCopyFileRange {
		length = min(length, 1<<31-4096) // what its answer can tell
	}
	n, errno := s.can.copyFileRanger.CopyFileRange(r, r.hdr.Node, in.FHIn, in.OffIn, in.NodeOut, in.FHOut, in.OffOut, length, in.Flags)
	switch {
	case errno != 0:
		return errno
	case n > length:
		return syscall.EIO
	case r.hdr.Opcode == opCopyFileRange:
		out[writeOut](r).Size = uint32(n)
	default:
		out[copyFileRangeOut](r).N = n
	}
	return 0
}

func (s *Server) poll(r *request) syscall.Errno {
	in, _ := in[pollIn](r)
	if in == nil {
		return syscall.EINVAL
	}
	schedule := in.Flags&pollNotify != 0
	kh := in.KH
	if !schedule {
		kh = 0
	}
	revents, errno := s.can.poller.Poll(r, r.hdr.Node, in.FH, kh, in.Events, schedule)
	if errno == 0 {
		out[pollOut](r).Revents = revents
	}
	return errno
}

func (s *Server) ioctl(r *request) syscall.Errno {
	in, data := in[ioctlIn](r)
	if in == nil || uint64(in.InSize) > uint64(len(data)) {
		return syscall.EINVAL
	}
	result, data, errno := s.can.ioctler.Ioctl(r, r.hdr.Node, in.FH, in.Cmd, in.Arg, in.Flags, data[:in.InSize], in.OutSize)
	if errno != 0 {
		return errno
	}
	out[ioctlOut](r).Result = result
	r.tail = data[:min(len(data), int(in.OutSize))]
	return 0
}
