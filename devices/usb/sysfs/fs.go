// Package sysfs shows the devices of a host.Host as the kernel's sysfs would, and as
// udev's database does, in a FUSE file system whose parts are mounted where they belong.
package sysfs

import (
	"context"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lxbridge/lx/core/fuse"
	"github.com/lxbridge/lx/devices/usb/host"
)

// node is a file, directory or link, made when it is looked for.
type node struct {
	name   string
	text   func() []byte                                        // of a file
	store  func(ctx context.Context, text string) syscall.Errno // of a file that may be written
	target string                                               // of a link
	list   func() []node                                        // of a directory
}

func (n *node) mode() uint32 {
	switch {
	case n.list != nil:
		return unix.S_IFDIR | 0o755
	case n.target != "":
		return unix.S_IFLNK | 0o777
	case n.store != nil:
		return unix.S_IFREG | 0o644
	}
	return unix.S_IFREG | 0o444
}

// FS is a fuse.FileSystem. A node's number stands for its path, which is looked up
// each time: what it says is as new as the look.
type FS struct {
	root node

	mu    sync.Mutex // guards what follows
	paths map[uint64]string
	ids   map[string]uint64
}

// New makes a file system of h's devices. With beside, the links of the machine's own
// devices are shown too.
func New(h *host.Host, beside bool) *FS {
	t := tree{host: h, beside: beside}
	return &FS{root: node{list: t.root}, paths: map[uint64]string{fuse.RootID: ""}, ids: map[string]uint64{"": fuse.RootID}}
}

var (
	_ fuse.FileSystem = (*FS)(nil)
	_ fuse.Opener     = (*FS)(nil)
	_ fuse.Reader     = (*FS)(nil)
	_ fuse.Writer     = (*FS)(nil)
	_ fuse.Setattrer  = (*FS)(nil)
	_ fuse.Opendirer  = (*FS)(nil)
	_ fuse.ReadDirer  = (*FS)(nil)
	_ fuse.Readlinker = (*FS)(nil)
)

// find walks to a node; nil: it is not there (any more).
func (f *FS) find(id uint64) (*node, string) {
	f.mu.Lock()
	path, ok := f.paths[id]
	f.mu.Unlock()
	if !ok {
		return nil, ""
	}
	n := &f.root
	for name := range strings.SplitSeq(path, "/") {
		if name == "" {
			continue
		}
		if n = n.child(name); n == nil {
			return nil, ""
		}
	}
	return n, path
}

func (n *node) child(name string) *node {
	if n.list == nil {
		return nil
	}
	children := n.list()
	i := slices.IndexFunc(children, func(c node) bool { return c.name == name })
	if i < 0 {
		return nil
	}
	return &children[i]
}

// id is a path's number, the same as long as the file system lives. There are as many
// as places for devices.
func (f *FS) id(path string) uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	id, ok := f.ids[path]
	if !ok {
		id = uint64(len(f.ids)) + fuse.RootID
		f.ids[path], f.paths[id] = id, path
	}
	return id
}

// started is the time that all nodes show.
var started = time.Now()

// fileSize is what sysfs tells of any attribute.
const fileSize = 4096

func attr(id uint64, n *node) fuse.Attr {
	ts := syscall.NsecToTimespec(started.UnixNano())
	a := fuse.Attr{Ino: id, Atime: ts, Mtime: ts, Ctime: ts, Nlink: 1, Blksize: 4096, Mode: n.mode(), Size: uint64(len(n.target))}
	switch {
	case n.list != nil:
		a.Nlink = 2
	case n.target == "":
		a.Size = fileSize
	}
	return a
}

// Lookup finds a node. Nothing is to be cached.
func (f *FS) Lookup(_ context.Context, parent uint64, name string) (fuse.Entry, syscall.Errno) {
	p, path := f.find(parent)
	if p == nil {
		return fuse.Entry{}, syscall.ENOENT
	}
	n := p.child(name)
	if n == nil {
		return fuse.Entry{}, syscall.ENOENT
	}
	id := f.id(path + "/" + name)
	return fuse.Entry{Node: id, Attr: attr(id, n)}, 0
}

// Forget has nothing to do: numbers are kept.
func (f *FS) Forget(uint64, uint64) {}

// Getattr implements fuse.FileSystem.
func (f *FS) Getattr(_ context.Context, id, _ uint64, _ bool) (fuse.Attr, time.Duration, syscall.Errno) {
	n, _ := f.find(id)
	if n == nil {
		return fuse.Attr{}, 0, syscall.ENOENT
	}
	return attr(id, n), 0, 0
}

// Setattr lets a shell truncate an attribute before it writes, and changes nothing.
func (f *FS) Setattr(ctx context.Context, id uint64, in *fuse.SetAttrIn) (fuse.Attr, time.Duration, syscall.Errno) {
	if in.Valid&(fuse.FATTR_MODE|fuse.FATTR_UID|fuse.FATTR_GID) != 0 {
		return fuse.Attr{}, 0, syscall.EPERM
	}
	return f.Getattr(ctx, id, 0, false)
}

// Readlink implements fuse.Readlinker.
func (f *FS) Readlink(_ context.Context, id uint64) (string, syscall.Errno) {
	n, _ := f.find(id)
	switch {
	case n == nil:
		return "", syscall.ENOENT
	case n.target == "":
		return "", syscall.EINVAL
	}
	return n.target, 0
}

// Opendir implements fuse.Opendirer: without it the kernel keeps what it has listed.
func (f *FS) Opendir(context.Context, uint64, uint32) (fuse.OpenOut, syscall.Errno) {
	return fuse.OpenOut{}, 0
}

// ReadDir implements fuse.ReadDirer.
func (f *FS) ReadDir(_ context.Context, id, _, off uint64, sink fuse.DirSink) syscall.Errno {
	n, path := f.find(id)
	switch {
	case n == nil:
		return syscall.ENOENT
	case n.list == nil:
		return syscall.ENOTDIR
	}
	for i, c := range n.list() {
		if uint64(i) < off {
			continue
		}
		e := fuse.DirEntry{Name: c.name, Ino: f.id(path + "/" + c.name), Off: uint64(i) + 1, Type: c.mode() >> 12}
		if !sink.Add(e) {
			break
		}
	}
	return 0
}

// fopenDirectIO is FOPEN_DIRECT_IO: each read is asked for, whatever the size.
const fopenDirectIO = 1

// Open implements fuse.Opener.
func (f *FS) Open(_ context.Context, id uint64, _ uint32) (fuse.OpenOut, syscall.Errno) {
	n, _ := f.find(id)
	if n == nil || n.text == nil {
		return fuse.OpenOut{}, syscall.ENOENT
	}
	return fuse.OpenOut{Flags: fopenDirectIO}, 0
}

// Read implements fuse.Reader.
func (f *FS) Read(_ context.Context, id, _ uint64, off int64, dst []byte) (int, syscall.Errno) {
	n, _ := f.find(id)
	if n == nil || n.text == nil {
		return 0, syscall.ENODEV
	}
	if b := n.text(); off < int64(len(b)) {
		return copy(dst, b[off:]), 0
	}
	return 0, 0
}

// Write implements fuse.Writer: one write is one value.
func (f *FS) Write(ctx context.Context, id, _ uint64, _ int64, data []byte, _ uint32) (int, syscall.Errno) {
	n, _ := f.find(id)
	switch {
	case n == nil:
		return 0, syscall.ENODEV
	case n.store == nil:
		return 0, syscall.EACCES
	}
	if errno := n.store(ctx, strings.TrimSpace(string(data))); errno != 0 {
		return 0, errno
	}
	return len(data), 0
}
