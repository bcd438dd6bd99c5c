package serve

import (
	"context"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/lxbridge/lx/core/fuse"
	"github.com/lxbridge/lx/mount/volume"
)

// Statfs implements fuse.Statfser.
func (f *FS) Statfs(ctx context.Context, _ uint64) (fuse.Statfs, syscall.Errno) {
	s, err := f.vol.Statfs(ctx)
	return s, errno(err)
}

// Access implements fuse.Accesser, for mounts whose modes the kernel does not check.
func (f *FS) Access(ctx context.Context, node uint64, mask uint32) syscall.Errno {
	v, ok := f.vol.(volume.Accesser)
	if !ok {
		return syscall.ENOSYS
	}
	i, no := f.inode(node)
	if no != 0 {
		return no
	}
	return errno(v.Access(ctx, i.node, mask))
}

// xattrs is the volume's ability and the inode; ENOSYS makes the kernel ask no more.
func (f *FS) xattrs(node uint64) (volume.Xattrer, *inode, syscall.Errno) {
	v, ok := f.vol.(volume.Xattrer)
	if !ok {
		return nil, nil, syscall.ENOSYS
	}
	i, no := f.inode(node)
	return v, i, no
}

// fill answers data of unknown size as getxattr(2) does.
func fill(dst, data []byte) (int, syscall.Errno) {
	switch {
	case len(dst) == 0:
		return len(data), 0
	case len(data) > len(dst):
		return 0, syscall.ERANGE
	}
	return copy(dst, data), 0
}

// Getxattr implements fuse.Getxattrer.
func (f *FS) Getxattr(ctx context.Context, node uint64, name string, dst []byte) (int, syscall.Errno) {
	v, i, no := f.xattrs(node)
	if no != 0 {
		return 0, no
	}
	b, err := v.Getxattr(ctx, i.node, name)
	if err != nil {
		return 0, errno(err)
	}
	return fill(dst, b)
}

// Setxattr implements fuse.Setxattrer.
func (f *FS) Setxattr(ctx context.Context, node uint64, name string, value []byte, flags uint32) syscall.Errno {
	v, i, no := f.xattrs(node)
	if no != 0 {
		return no
	}
	defer i.doubt()
	return errno(v.Setxattr(ctx, i.node, name, value, flags))
}

// Listxattr implements fuse.Listxattrer.
func (f *FS) Listxattr(ctx context.Context, node uint64, dst []byte) (int, syscall.Errno) {
	v, i, no := f.xattrs(node)
	if no != 0 {
		return 0, no
	}
	names, err := v.Listxattr(ctx, i.node)
	if err != nil {
		return 0, errno(err)
	}
	var b strings.Builder
	for _, n := range names {
		b.WriteString(n)
		b.WriteByte(0)
	}
	return fill(dst, []byte(b.String()))
}

// Removexattr implements fuse.Removexattrer.
func (f *FS) Removexattr(ctx context.Context, node uint64, name string) syscall.Errno {
	v, i, no := f.xattrs(node)
	if no != 0 {
		return no
	}
	defer i.doubt()
	return errno(v.Removexattr(ctx, i.node, name))
}

// Fallocate implements fuse.Fallocater.
func (f *FS) Fallocate(ctx context.Context, _, fh, off, length uint64, mode uint32) syscall.Errno {
	fl, no := f.file(fh)
	if no != 0 {
		return no
	}
	v, ok := f.vol.(volume.Allocator)
	if !ok {
		return syscall.EOPNOTSUPP
	}
	if off > maxOffset || length > maxOffset-off {
		return syscall.EFBIG
	}
	// Some modes move all that follows.
	i := fl.ino
	return errno(i.exclude(ctx, int64(off), maxOffset, func() error {
		err := v.Allocate(ctx, fl.h.Handle, int64(off), int64(length), mode)
		if err != nil {
			return err
		}
		i.mu.Lock()
		defer i.mu.Unlock()
		size := int64(i.attr.Size)
		switch {
		case mode&unix.FALLOC_FL_COLLAPSE_RANGE != 0:
			i.attr.Size = uint64(max(0, size-int64(length)))
		case mode&unix.FALLOC_FL_INSERT_RANGE != 0:
			i.attr.Size += length
		case mode&unix.FALLOC_FL_KEEP_SIZE == 0:
			i.attr.Size = uint64(max(size, int64(off+length)))
		}
		i.wrote(0)
		return nil
	}))
}

// Lseek implements fuse.Lseeker.
func (f *FS) Lseek(ctx context.Context, _, fh, off uint64, whence uint32) (uint64, syscall.Errno) {
	fl, no := f.file(fh)
	if no != 0 {
		return 0, no
	}
	v, ok := f.vol.(volume.Seeker)
	if !ok {
		return 0, syscall.ENOSYS
	}
	if err := fl.ino.settle(ctx, 0, maxOffset); err != nil {
		return 0, errno(err)
	}
	n, err := v.Seek(ctx, fl.h.Handle, int64(off), int(whence))
	return uint64(n), errno(err)
}

// CopyFileRange implements fuse.CopyFileRanger.
func (f *FS) CopyFileRange(ctx context.Context, _, fhIn, offIn, _, fhOut, offOut, length, _ uint64) (uint64, syscall.Errno) {
	v, ok := f.vol.(volume.Copier)
	if !ok {
		return 0, syscall.ENOSYS
	}
	src, no := f.file(fhIn)
	if no != 0 {
		return 0, no
	}
	dst, no := f.file(fhOut)
	if no != 0 {
		return 0, no
	}
	if offIn > maxOffset || offOut > maxOffset {
		return 0, syscall.EFBIG
	}
	length = min(length, maxOffset-offIn, maxOffset-offOut)
	if err := src.ino.settle(ctx, int64(offIn), int64(offIn+length)); err != nil {
		return 0, errno(err)
	}
	var n int64
	err := dst.ino.exclude(ctx, int64(offOut), int64(offOut+length), func() (err error) {
		n, err = v.CopyRange(ctx, src.h.Handle, int64(offIn), dst.h.Handle, int64(offOut), int64(length))
		if n > 0 {
			dst.ino.mu.Lock()
			defer dst.ino.mu.Unlock()
			dst.ino.wrote(int64(offOut) + n)
		}
		return err
	})
	return uint64(n), errno(err)
}

// Fsyncdir implements fuse.Fsyncdirer: names are at the server at once.
func (f *FS) Fsyncdir(context.Context, uint64, uint64, bool) syscall.Errno { return 0 }

var (
	_ fuse.FileSystem     = (*FS)(nil)
	_ fuse.Setattrer      = (*FS)(nil)
	_ fuse.Locker         = (*FS)(nil)
	_ fuse.ReadDirPluser  = (*FS)(nil)
	_ fuse.CopyFileRanger = (*FS)(nil)
	_ fuse.Renamer        = (*FS)(nil)
)
