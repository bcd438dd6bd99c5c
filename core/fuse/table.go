package fuse

import "syscall"

// handler serves one opcode: it reads r's body, asks the FileSystem and leaves
// the reply in r.
type handler func(s *Server, r *request) syscall.Errno

// abilities are what a FileSystem can do beyond FileSystem's methods; nil what it cannot.
type abilities struct {
	setattrer      Setattrer
	readlinker     Readlinker
	symlinker      Symlinker
	mknoder        Mknoder
	mkdirer        Mkdirer
	unlinker       Unlinker
	rmdirer        Rmdirer
	renamer        Renamer
	linker         Linker
	opener         Opener
	creater        Creater
	reader         Reader
	lender         Lender
	writer         Writer
	flusher        Flusher
	fsyncer        Fsyncer
	releaser       Releaser
	opendirer      Opendirer
	readDirer      ReadDirer
	readDirPluser  ReadDirPluser
	fsyncdirer     Fsyncdirer
	releasedirer   Releasedirer
	statfser       Statfser
	accesser       Accesser
	getxattrer     Getxattrer
	setxattrer     Setxattrer
	listxattrer    Listxattrer
	removexattrer  Removexattrer
	locker         Locker
	fallocater     Fallocater
	lseeker        Lseeker
	copyFileRanger CopyFileRanger
	poller         Poller
	ioctler        Ioctler
}

func findAbilities(fs FileSystem) (a abilities) {
	a.setattrer, _ = fs.(Setattrer)
	a.readlinker, _ = fs.(Readlinker)
	a.symlinker, _ = fs.(Symlinker)
	a.mknoder, _ = fs.(Mknoder)
	a.mkdirer, _ = fs.(Mkdirer)
	a.unlinker, _ = fs.(Unlinker)
	a.rmdirer, _ = fs.(Rmdirer)
	a.renamer, _ = fs.(Renamer)
	a.linker, _ = fs.(Linker)
	a.opener, _ = fs.(Opener)
	a.creater, _ = fs.(Creater)
	a.reader, _ = fs.(Reader)
	a.lender, _ = fs.(Lender)
	a.writer, _ = fs.(Writer)
	a.flusher, _ = fs.(Flusher)
	a.fsyncer, _ = fs.(Fsyncer)
	a.releaser, _ = fs.(Releaser)
	a.opendirer, _ = fs.(Opendirer)
	a.readDirer, _ = fs.(ReadDirer)
	a.readDirPluser, _ = fs.(ReadDirPluser)
	a.fsyncdirer, _ = fs.(Fsyncdirer)
	a.releasedirer, _ = fs.(Releasedirer)
	a.statfser, _ = fs.(Statfser)
	a.accesser, _ = fs.(Accesser)
	a.getxattrer, _ = fs.(Getxattrer)
	a.setxattrer, _ = fs.(Setxattrer)
	a.listxattrer, _ = fs.(Listxattrer)
	a.removexattrer, _ = fs.(Removexattrer)
	a.locker, _ = fs.(Locker)
	a.fallocater, _ = fs.(Fallocater)
	a.lseeker, _ = fs.(Lseeker)
	a.copyFileRanger, _ = fs.(CopyFileRanger)
	a.poller, _ = fs.(Poller)
	a.ioctler, _ = fs.(Ioctler)
	return a
}

// handlers is the table by opcode. What the FileSystem cannot do, and BMAP,
// SETUPMAPPING, REMOVEMAPPING, SYNCFS, TMPFILE and STATX, answer ENOSYS: the
// kernel remembers that and falls back where it can.
func (s *Server) handlers() (t [opCount]handler) {
	for i := range t {
		t[i] = (*Server).unknown
	}
	set := func(able bool, op int, h handler) {
		if able {
			t[op] = h
		}
	}
	a := &s.can
	t[opLookup] = (*Server).lookup
	t[opGetattr] = (*Server).getattr
	t[opStatfs] = (*Server).statfs
	t[opRelease] = (*Server).release
	t[opReleasedir] = (*Server).releasedir
	t[opDestroy] = func(*Server, *request) syscall.Errno { return 0 }
	set(a.setattrer != nil, opSetattr, (*Server).setattr)
	set(a.readlinker != nil, opReadlink, (*Server).readlink)
	set(a.symlinker != nil, opSymlink, (*Server).symlink)
	set(a.mknoder != nil, opMknod, (*Server).mknod)
	set(a.mkdirer != nil, opMkdir, (*Server).mkdir)
	set(a.unlinker != nil, opUnlink, (*Server).unlink)
	set(a.rmdirer != nil, opRmdir, (*Server).rmdir)
	set(a.renamer != nil, opRename, (*Server).rename)
	set(a.renamer != nil, opRename2, (*Server).rename2)
	set(a.linker != nil, opLink, (*Server).link)
	set(a.opener != nil && !s.cfg.NoOpen, opOpen, (*Server).open)
	set(a.creater != nil, opCreate, (*Server).create)
	set(a.reader != nil, opRead, (*Server).read)
	set(a.writer != nil, opWrite, (*Server).write)
	set(a.flusher != nil, opFlush, (*Server).flush)
	set(a.fsyncer != nil, opFsync, (*Server).fsync)
	set(a.opendirer != nil && !s.cfg.NoOpendir, opOpendir, (*Server).opendir)
	set(a.readDirer != nil, opReaddir, (*Server).readdir)
	set(a.readDirPluser != nil, opReaddirplus, (*Server).readdirplus)
	set(a.fsyncdirer != nil, opFsyncdir, (*Server).fsyncdir)
	set(a.accesser != nil, opAccess, (*Server).access)
	set(a.getxattrer != nil, opGetxattr, (*Server).getxattr)
	set(a.setxattrer != nil, opSetxattr, (*Server).setxattr)
	set(a.listxattrer != nil, opListxattr, (*Server).listxattr)
	set(a.removexattrer != nil, opRemovexattr, (*Server).removexattr)
	set(a.locker != nil, opGetlk, (*Server).getlk)
	set(a.locker != nil, opSetlk, (*Server).setlk)
	set(a.locker != nil, opSetlkw, (*Server).setlk)
	set(a.fallocater != nil, opFallocate, (*Server).fallocate)
	set(a.lseeker != nil, opLseek, (*Server).lseek)
	set(a.copyFileRanger != nil, opCopyFileRange, (*Server).copyFileRange)
	set(a.copyFileRanger != nil, opCopyFileRange64, (*Server).copyFileRange)
	set(a.poller != nil, opPoll, (*Server).poll)
	set(a.ioctler != nil, opIoctl, (*Server).ioctl)
	return t
}

// alwaysServed are the requests that reach the FileSystem after Abort too, so
// that it can let go of what it holds.
func alwaysServed(op uint32) bool {
	return op == opRelease || op == opReleasedir || op == opDestroy
}

func (s *Server) unknown(*request) syscall.Errno { return syscall.ENOSYS }
