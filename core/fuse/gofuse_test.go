package fuse

import (
	"context"
	"syscall"
	"testing"
	"time"

	gofuse "github.com/hanwen/go-fuse/v2/fuse"
)

// peer serves the same memfs through go-fuse's raw server, for comparison.
type peer struct {
	gofuse.RawFileSystem
	m *memfs
}

func servePeer(b *testing.B, m *memfs) (dir string) {
	b.Helper()
	dir = b.TempDir()
	s, err := gofuse.NewServer(&peer{gofuse.NewDefaultRawFileSystem(), m}, dir, &gofuse.MountOptions{
		AllowOther: true, MaxBackground: 128, MaxWrite: 1 << 20, DirectMount: true, DisableSplice: true,
	})
	if err != nil {
		b.Fatal(err)
	}
	done := make(chan struct{})
	go func() { s.Serve(); close(done) }()
	if err := s.WaitMount(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			b.Error(err)
		}
		<-done
	})
	return dir
}

var background = context.Background()

func putAttr(o *gofuse.Attr, a *Attr) {
	*o = gofuse.Attr{
		Ino: a.Ino, Size: a.Size, Blocks: a.Blocks,
		Atime: uint64(a.Atime.Sec), Mtime: uint64(a.Mtime.Sec), Ctime: uint64(a.Ctime.Sec),
		Atimensec: uint32(a.Atime.Nsec), Mtimensec: uint32(a.Mtime.Nsec), Ctimensec: uint32(a.Ctime.Nsec),
		Mode: a.Mode, Nlink: a.Nlink, Owner: gofuse.Owner{Uid: a.UID, Gid: a.GID}, Blksize: a.Blksize,
	}
}

func putEntry(o *gofuse.EntryOut, e *Entry) {
	o.NodeId, o.Generation = e.Node, e.Generation
	o.SetEntryTimeout(e.EntryValid)
	o.SetAttrTimeout(e.AttrValid)
	putAttr(&o.Attr, &e.Attr)
}

func (p *peer) Lookup(_ <-chan struct{}, h *gofuse.InHeader, name string, out *gofuse.EntryOut) gofuse.Status {
	e, errno := p.m.Lookup(background, h.NodeId, name)
	if errno == 0 {
		putEntry(out, &e)
	}
	return gofuse.Status(errno)
}

func (p *peer) Forget(node, n uint64) { p.m.Forget(node, n) }

func (p *peer) GetAttr(_ <-chan struct{}, in *gofuse.GetAttrIn, out *gofuse.AttrOut) gofuse.Status {
	a, valid, errno := p.m.Getattr(background, in.NodeId, in.Fh(), false)
	if errno == 0 {
		out.SetTimeout(valid)
		putAttr(&out.Attr, &a)
	}
	return gofuse.Status(errno)
}

func (p *peer) Open(_ <-chan struct{}, in *gofuse.OpenIn, out *gofuse.OpenOut) gofuse.Status {
	o, errno := p.m.Open(background, in.NodeId, in.Flags)
	out.Fh, out.OpenFlags = o.FH, o.Flags
	return gofuse.Status(errno)
}

func (p *peer) OpenDir(_ <-chan struct{}, in *gofuse.OpenIn, out *gofuse.OpenOut) gofuse.Status {
	o, errno := p.m.Opendir(background, in.NodeId, in.Flags)
	out.Fh, out.OpenFlags = o.FH, o.Flags
	return gofuse.Status(errno)
}

func (p *peer) Create(_ <-chan struct{}, in *gofuse.CreateIn, name string, out *gofuse.CreateOut) gofuse.Status {
	e, o, errno := p.m.Create(background, in.NodeId, name, in.Flags, in.Mode, in.Umask)
	if errno == 0 {
		putEntry(&out.EntryOut, &e)
		out.Fh, out.OpenFlags = o.FH, o.Flags
	}
	return gofuse.Status(errno)
}

func (p *peer) Unlink(_ <-chan struct{}, h *gofuse.InHeader, name string) gofuse.Status {
	return gofuse.Status(p.m.Unlink(background, h.NodeId, name))
}

func (p *peer) Read(_ <-chan struct{}, in *gofuse.ReadIn, buf []byte) (gofuse.ReadResult, gofuse.Status) {
	n, errno := p.m.Read(background, in.NodeId, in.Fh, int64(in.Offset), buf)
	return gofuse.ReadResultData(buf[:n]), gofuse.Status(errno)
}

func (p *peer) Write(_ <-chan struct{}, in *gofuse.WriteIn, data []byte) (uint32, gofuse.Status) {
	n, errno := p.m.Write(background, in.NodeId, in.Fh, int64(in.Offset), data, 0)
	return uint32(n), gofuse.Status(errno)
}

func (p *peer) Flush(<-chan struct{}, *gofuse.FlushIn) gofuse.Status { return gofuse.ENOSYS }

func (p *peer) Release(_ <-chan struct{}, in *gofuse.ReleaseIn) {
	p.m.Release(in.NodeId, in.Fh, 0, 0)
}

func (p *peer) ReadDirPlus(_ <-chan struct{}, in *gofuse.ReadIn, l *gofuse.DirEntryList) gofuse.Status {
	return gofuse.Status(p.m.ReadDirPlus(background, in.NodeId, in.Fh, in.Offset, &peerSink{l: l}))
}

// peerSink gives entries to go-fuse, whose lists say only in adding that one does not fit.
type peerSink struct {
	l   *gofuse.DirEntryList
	out *gofuse.EntryOut
}

func (s *peerSink) Fits(name string) bool {
	s.out = s.l.AddDirLookupEntry(gofuse.DirEntry{Name: name, Ino: 1, Mode: syscall.S_IFREG})
	return s.out != nil
}

func (s *peerSink) Add(_ DirEntry, e Entry) { putEntry(s.out, &e) }

// plain has of memfs what peer serves, so that the kernel asks both the same.
type plain struct{ m *memfs }

func (p plain) Lookup(ctx context.Context, parent uint64, name string) (Entry, syscall.Errno) {
	return p.m.Lookup(ctx, parent, name)
}
func (p plain) Forget(node, n uint64) { p.m.Forget(node, n) }
func (p plain) Getattr(ctx context.Context, node, fh uint64, hasFH bool) (Attr, time.Duration, syscall.Errno) {
	return p.m.Getattr(ctx, node, fh, hasFH)
}
func (p plain) Open(ctx context.Context, node uint64, flags uint32) (OpenOut, syscall.Errno) {
	return p.m.Open(ctx, node, flags)
}
func (p plain) Opendir(ctx context.Context, node uint64, flags uint32) (OpenOut, syscall.Errno) {
	return p.m.Opendir(ctx, node, flags)
}
func (p plain) Create(ctx context.Context, parent uint64, name string, flags, mode, umask uint32) (Entry, OpenOut, syscall.Errno) {
	return p.m.Create(ctx, parent, name, flags, mode, umask)
}
func (p plain) Unlink(ctx context.Context, parent uint64, name string) syscall.Errno {
	return p.m.Unlink(ctx, parent, name)
}
func (p plain) Read(ctx context.Context, node, fh uint64, off int64, dst []byte) (int, syscall.Errno) {
	return p.m.Read(ctx, node, fh, off, dst)
}
func (p plain) Write(ctx context.Context, node, fh uint64, off int64, data []byte, flags uint32) (int, syscall.Errno) {
	return p.m.Write(ctx, node, fh, off, data, flags)
}
func (p plain) Release(node, fh uint64, flags uint32, lockOwner uint64) {
	p.m.Release(node, fh, flags, lockOwner)
}
func (p plain) ReadDirPlus(ctx context.Context, node, fh, off uint64, sink DirPlusSink) syscall.Errno {
	return p.m.ReadDirPlus(ctx, node, fh, off, sink)
}
