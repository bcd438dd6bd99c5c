package volumetest

import (
	"context"
	"errors"
	"math"
	"os"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/lxbridge/lx/core/fuse"
	"github.com/lxbridge/lx/mount/volume"
)

// lacking says whether err is that of a server without links of a kind.
func lacking(err error) bool {
	return volume.Errno(err) == syscall.EPERM || volume.Errno(err) == syscall.EOPNOTSUPP
}

func (c *contract) symlink() {
	s, ok := c.v.(volume.Symlinker)
	r, ok2 := c.v.(volume.Readlinker)
	if !ok || !ok2 {
		return
	}
	for _, target := range []string{"x", "../up/and a space", strings.Repeat("t", 1000), "/abs/ünï"} {
		n, a, err := s.Symlink(c.ctx, c.dir, "l", target)
		if lacking(err) {
			return
		}
		c.must(err)
		if a.Mode&syscall.S_IFMT != syscall.S_IFLNK || a.Size != uint64(len(target)) {
			c.Errorf("symlink: mode %o, size %d, want %d", a.Mode, a.Size, len(target))
		}
		if got, err := r.Readlink(c.ctx, n); err != nil || got != target {
			c.Errorf("Readlink = %q, %v; want %q", got, err, target)
		}
		_, _, err = s.Symlink(c.ctx, c.dir, "l", target)
		c.is("Symlink over a name", err, syscall.EEXIST)
		if typ := c.list(c.dir)["l"]; typ != os.ModeSymlink {
			c.Errorf("listed as %v", typ)
		}
		c.must(c.v.Unlink(c.ctx, c.dir, "l"))
		c.v.Forget(n)
	}
	c.file(c.dir, "f", "")
	f, _, err := c.v.Lookup(c.ctx, c.dir, "f")
	c.must(err)
	_, err = r.Readlink(c.ctx, f)
	c.is("Readlink of a file", err, syscall.EINVAL)
	c.v.Forget(f)
}

func (c *contract) link() {
	l, ok := c.v.(volume.Linker)
	if !ok {
		return
	}
	c.file(c.dir, "f", "one")
	n, _, err := c.v.Lookup(c.ctx, c.dir, "f")
	c.must(err)
	defer c.v.Forget(n)
	a, err := l.Link(c.ctx, n, c.dir, "g")
	if lacking(err) {
		return
	}
	c.must(err)
	if a.Nlink != 2 {
		c.Errorf("%d links, want 2", a.Nlink)
	}
	_, err = l.Link(c.ctx, n, c.dir, "g")
	c.is("Link over a name", err, syscall.EEXIST)
	_, err = l.Link(c.ctx, c.dir, c.dir, "d")
	c.is("Link of a directory", err, syscall.EPERM)
	c.must(c.v.Unlink(c.ctx, c.dir, "f"))
	c.content(c.dir, "g", "one")
}

func (c *contract) mknod() {
	m, ok := c.v.(volume.Mknoder)
	if !ok {
		return
	}
	for name, mode := range map[string]uint32{"fifo": syscall.S_IFIFO, "sock": syscall.S_IFSOCK, "file": syscall.S_IFREG} {
		n, a, err := m.Mknod(c.ctx, c.dir, name, mode|0o600, 0)
		if lacking(err) {
			continue
		}
		c.must(err)
		if a.Mode&syscall.S_IFMT != mode {
			c.Errorf("%s: mode %o", name, a.Mode)
		}
		_, _, err = m.Mknod(c.ctx, c.dir, name, mode, 0)
		c.is("Mknod over a name", err, syscall.EEXIST)
		c.v.Forget(n)
	}
}

func (c *contract) xattr() {
	x, ok := c.v.(volume.Xattrer)
	if !ok {
		return
	}
	c.file(c.dir, "f", "")
	n, _, err := c.v.Lookup(c.ctx, c.dir, "f")
	c.must(err)
	defer c.v.Forget(n)
	err = x.Setxattr(c.ctx, n, "user.a", []byte("1"), unix.XATTR_CREATE)
	if volume.Errno(err) == syscall.EOPNOTSUPP {
		return
	}
	c.must(err)
	c.is("CREATE twice", x.Setxattr(c.ctx, n, "user.a", nil, unix.XATTR_CREATE), syscall.EEXIST)
	c.is("REPLACE of nothing", x.Setxattr(c.ctx, n, "user.b", nil, unix.XATTR_REPLACE), syscall.ENODATA)
	c.check(x.Setxattr(c.ctx, n, "user.b", []byte("bytes \x00\xff"), 0))
	c.check(x.Setxattr(c.ctx, n, "user.a", []byte("22"), unix.XATTR_REPLACE))
	if got, err := x.Getxattr(c.ctx, n, "user.b"); err != nil || string(got) != "bytes \x00\xff" {
		c.Errorf("Getxattr = %q, %v", got, err)
	}
	names, err := x.Listxattr(c.ctx, n)
	if err != nil || !slices.Contains(names, "user.a") || !slices.Contains(names, "user.b") {
		c.Errorf("Listxattr = %q, %v", names, err)
	}
	c.check(x.Removexattr(c.ctx, n, "user.a"))
	_, err = x.Getxattr(c.ctx, n, "user.a")
	c.is("Getxattr of nothing", err, syscall.ENODATA)
	c.is("Removexattr of nothing", x.Removexattr(c.ctx, n, "user.a"), syscall.ENODATA)
}

func (c *contract) lock() {
	l, ok := c.v.(volume.Locker)
	if !ok {
		return
	}
	n, h := c.open(c.dir, "f", os.O_RDWR|os.O_EXCL)
	lk := func(typ uint32, start, end uint64) fuse.Lk { return fuse.Lk{Type: typ, Start: start, End: end} }
	c.must(l.Setlk(c.ctx, h, 1, lk(syscall.F_WRLCK, 0, 9), false))
	c.is("a taken range", l.Setlk(c.ctx, h, 2, lk(syscall.F_RDLCK, 5, 5), false), syscall.EAGAIN)
	c.check(l.Setlk(c.ctx, h, 2, lk(syscall.F_WRLCK, 10, 19), false))
	got, err := l.Getlk(c.ctx, h, 2, lk(syscall.F_WRLCK, 0, 100))
	if err != nil || got.Type != syscall.F_WRLCK || got.Start != 0 || got.End != 9 {
		c.Errorf("Getlk = %+v, %v", got, err)
	}
	if got, err = l.Getlk(c.ctx, h, 2, lk(syscall.F_WRLCK, 20, math.MaxInt64)); err != nil || got.Type != syscall.F_UNLCK {
		c.Errorf("Getlk of a free range = %+v, %v", got, err)
	}
	ctx, cancel := context.WithCancel(c.ctx)
	done := make(chan error, 2)
	go func() { done <- l.Setlk(ctx, h, 2, lk(syscall.F_WRLCK, 0, 0), true) }()
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		c.Errorf("a wait that is cancelled: %v", err)
	}
	go func() { done <- l.Setlk(c.ctx, h, 2, lk(syscall.F_WRLCK, 0, 0), true) }()
	c.check(l.Setlk(c.ctx, h, 1, lk(syscall.F_UNLCK, 0, math.MaxInt64), false))
	c.check(<-done)
	c.check(h.Close(c.ctx))
	h, err = c.v.Open(c.ctx, n, os.O_RDWR)
	c.must(err)
	c.check(l.Setlk(c.ctx, h, 3, lk(syscall.F_WRLCK, 0, math.MaxInt64), false))
	c.check(h.Close(c.ctx))
	c.v.Forget(n)
}

func (c *contract) copyRange() {
	x, ok := c.v.(volume.Copier)
	if !ok {
		return
	}
	size := 700000
	text := strings.Repeat("0123456789", size/10)
	c.file(c.dir, "src", text)
	src, from := c.open(c.dir, "src", os.O_RDONLY)
	dst, to := c.open(c.dir, "dst", os.O_RDWR|os.O_EXCL)
	var done int64
	for done < int64(size) {
		n, err := x.CopyRange(c.ctx, from, done, to, done+3, int64(size))
		if volume.Errno(err) == syscall.EOPNOTSUPP {
			break
		}
		c.must(err)
		if n == 0 {
			c.Fatalf("copied nothing at %d", done)
		}
		done += n
	}
	if done > 0 {
		c.reads(to, 0, "\x00\x00\x00"+text, true)
		if n, err := x.CopyRange(c.ctx, from, int64(size), to, 0, 10); n != 0 || err != nil {
			c.Errorf("copy at the end: %d, %v", n, err)
		}
	}
	c.check(from.Close(c.ctx))
	c.check(to.Close(c.ctx))
	c.v.Forget(src)
	c.v.Forget(dst)
}

func (c *contract) allocate() {
	x, ok := c.v.(volume.Allocator)
	if !ok {
		return
	}
	n, h := c.open(c.dir, "f", os.O_RDWR|os.O_EXCL)
	c.write(h, "keep", 0)
	size := func(what string, err error, want uint64) {
		c.Helper()
		if volume.Errno(err) == syscall.EOPNOTSUPP {
			return
		}
		a, err2 := c.v.Getattr(c.ctx, n, h)
		if err != nil || err2 != nil || a.Size != want {
			c.Errorf("%s: size %d, want %d, %v, %v", what, a.Size, want, err, err2)
		}
	}
	size("KEEP_SIZE", x.Allocate(c.ctx, h, 0, 1<<20, unix.FALLOC_FL_KEEP_SIZE), 4)
	err := x.Allocate(c.ctx, h, 0, 1<<20, 0)
	size("allocate", err, 1<<20)
	if err == nil {
		c.reads(h, 0, "keep\x00", false)
	}
	err = x.Allocate(c.ctx, h, 1, 2, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE)
	if volume.Errno(err) != syscall.EOPNOTSUPP {
		c.check(err)
		c.reads(h, 0, "k\x00\x00p", false)
	}
	if s, ok := c.v.(volume.Seeker); ok {
		off, err := s.Seek(c.ctx, h, 0, unix.SEEK_DATA)
		if err != nil || off != 0 {
			c.Errorf("SEEK_DATA = %d, %v", off, err)
		}
		_, err = s.Seek(c.ctx, h, 1<<20, unix.SEEK_HOLE)
		c.is("SEEK_HOLE at the end", err, syscall.ENXIO)
	}
	c.check(h.Close(c.ctx))
	c.v.Forget(n)
}
