package fuse

import (
	"context"
	"syscall"
	"time"
)

// blank answers every operation well, whatever the node, and checks that what
// it is asked is in order. Its hooks, where set, come first.
type blank struct {
	onLookup func(ctx context.Context, name string) (Entry, syscall.Errno)
	onForget func(node, n uint64)
	fail     func(format string, args ...any) // told what was out of order
}

func (b *blank) name(names ...string) {
	for _, n := range names {
		if n == "" {
			b.fail("an empty name")
		}
		for i := range len(n) {
			if n[i] == 0 {
				b.fail("a NUL in name %q", n)
			}
		}
	}
}

func (b *blank) e() Entry {
	return Entry{Node: 7, Attr: Attr{Ino: 7, Mode: syscall.S_IFREG | 0o644, Nlink: 1}}
}

func (b *blank) Lookup(ctx context.Context, _ uint64, name string) (Entry, syscall.Errno) {
	b.name(name)
	if b.onLookup != nil {
		return b.onLookup(ctx, name)
	}
	return b.e(), 0
}

func (b *blank) Forget(node, n uint64) {
	if n == 0 {
		b.fail("forget of nothing")
	}
	if b.onForget != nil {
		b.onForget(node, n)
	}
}

func (b *blank) Getattr(context.Context, uint64, uint64, bool) (Attr, time.Duration, syscall.Errno) {
	return b.e().Attr, time.Second, 0
}
func (b *blank) Setattr(context.Context, uint64, *SetAttrIn) (Attr, time.Duration, syscall.Errno) {
	return b.e().Attr, time.Second, 0
}
func (b *blank) Readlink(context.Context, uint64) (string, syscall.Errno) { return "target", 0 }
func (b *blank) Symlink(_ context.Context, _ uint64, name, target string) (Entry, syscall.Errno) {
	b.name(name, target)
	return b.e(), 0
}
func (b *blank) Mknod(_ context.Context, _ uint64, name string, _, _, _ uint32) (Entry, syscall.Errno) {
	b.name(name)
	return b.e(), 0
}
func (b *blank) Mkdir(_ context.Context, _ uint64, name string, _, _ uint32) (Entry, syscall.Errno) {
	b.name(name)
	return b.e(), 0
}
func (b *blank) Unlink(_ context.Context, _ uint64, name string) syscall.Errno {
	b.name(name)
	return 0
}
func (b *blank) Rmdir(_ context.Context, _ uint64, name string) syscall.Errno {
	b.name(name)
	return 0
}
func (b *blank) Rename(_ context.Context, _ uint64, name string, _ uint64, newName string, _ uint32) syscall.Errno {
	b.name(name, newName)
	return 0
}
func (b *blank) Link(_ context.Context, _, _ uint64, name string) (Entry, syscall.Errno) {
	b.name(name)
	return b.e(), 0
}
func (b *blank) Open(context.Context, uint64, uint32) (OpenOut, syscall.Errno) {
	return OpenOut{FH: 1}, 0
}
func (b *blank) Create(_ context.Context, _ uint64, name string, _, _, _ uint32) (Entry, OpenOut, syscall.Errno) {
	b.name(name)
	return b.e(), OpenOut{FH: 1}, 0
}
func (b *blank) Read(_ context.Context, _, _ uint64, _ int64, dst []byte) (int, syscall.Errno) {
	return len(dst), 0
}
func (b *blank) Write(_ context.Context, _, _ uint64, _ int64, data []byte, _ uint32) (int, syscall.Errno) {
	return len(data), 0
}
func (b *blank) Flush(context.Context, uint64, uint64, uint64) syscall.Errno { return 0 }
func (b *blank) Fsync(context.Context, uint64, uint64, bool) syscall.Errno   { return 0 }
func (b *blank) Release(uint64, uint64, uint32, uint64)                      {}
func (b *blank) Opendir(context.Context, uint64, uint32) (OpenOut, syscall.Errno) {
	return OpenOut{}, 0
}

// hostile are names that a server might list.
var hostile = []string{"", ".", "..", "a/b", "/", "nul\x00", "ok", string(make([]byte, 5000)), "\xff\xfe"}

func (b *blank) ReadDir(_ context.Context, _, _, off uint64, sink DirSink) syscall.Errno {
	for i := off; i < 3000; i++ {
		if !sink.Add(DirEntry{Name: hostile[i%uint64(len(hostile))], Ino: i, Off: i + 1}) {
			break
		}
	}
	return 0
}
func (b *blank) ReadDirPlus(_ context.Context, _, _, off uint64, sink DirPlusSink) syscall.Errno {
	for i := off; i < 3000; i++ {
		name := hostile[i%uint64(len(hostile))]
		if !sink.Fits(name) {
			break
		}
		sink.Add(DirEntry{Name: name, Ino: i, Off: i + 1}, b.e())
	}
	return 0
}
func (b *blank) Fsyncdir(context.Context, uint64, uint64, bool) syscall.Errno { return 0 }
func (b *blank) Releasedir(uint64, uint64)                                    {}
func (b *blank) Statfs(context.Context, uint64) (Statfs, syscall.Errno)       { return Statfs{}, 0 }
func (b *blank) Access(context.Context, uint64, uint32) syscall.Errno         { return 0 }
func (b *blank) Getxattr(_ context.Context, _ uint64, name string, dst []byte) (int, syscall.Errno) {
	b.name(name)
	return copy(dst, "value"), 0
}
func (b *blank) Setxattr(_ context.Context, _ uint64, name string, _ []byte, _ uint32) syscall.Errno {
	b.name(name)
	return 0
}
func (b *blank) Listxattr(_ context.Context, _ uint64, dst []byte) (int, syscall.Errno) {
	return copy(dst, "user.a\x00"), 0
}
func (b *blank) Removexattr(_ context.Context, _ uint64, name string) syscall.Errno {
	b.name(name)
	return 0
}
func (b *blank) Getlk(_ context.Context, _, _, _ uint64, lk Lk, _ bool) (Lk, syscall.Errno) {
	return lk, 0
}
func (b *blank) Setlk(context.Context, uint64, uint64, uint64, Lk, bool, bool) syscall.Errno {
	return 0
}
func (b *blank) Fallocate(context.Context, uint64, uint64, uint64, uint64, uint32) syscall.Errno {
	return 0
}
func (b *blank) Lseek(context.Context, uint64, uint64, uint64, uint32) (uint64, syscall.Errno) {
	return 0, 0
}
func (b *blank) CopyFileRange(_ context.Context, _, _, _, _, _, _, length, _ uint64) (uint64, syscall.Errno) {
	return length, 0
}
func (b *blank) Poll(context.Context, uint64, uint64, uint64, uint32, bool) (uint32, syscall.Errno) {
	return 1, 0
}
func (b *blank) Ioctl(_ context.Context, _, _ uint64, _ uint32, _ uint64, _ uint32, in []byte, _ uint32) (int32, []byte, syscall.Errno) {
	return 0, in, 0
}
