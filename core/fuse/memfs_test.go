package fuse

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"syscall"
	"time"
)

// memfs is a small file system in memory with every ability, for tests and
// benchmarks. One lock guards it; what a test wants to hang waits outside it.
type memfs struct {
	mu     sync.RWMutex
	nodes  map[uint64]*memNode
	last   uint64
	valid  time.Duration // of attributes and entries
	direct bool          // no page cache

	opened, released int // files open
	calls            map[string]int
	server           *Server // to notify

	hang  chan struct{} // Read of "hang" waits for its closing, whatever the context
	wait  chan struct{} // told when something hangs
	polls chan uint64   // kernel handles of polls
	ready bool          // what Poll answers
	locks map[uint64]uint64
	freed chan struct{} // a lock was given back
}

type memNode struct {
	attr     Attr
	parent   uint64
	data     []byte
	target   string
	children map[string]uint64
	names    []string // of children, sorted; nil when it must be made again
	xattrs   map[string][]byte
	refs     uint64
}

func newMemfs() *memfs {
	m := &memfs{
		nodes: map[uint64]*memNode{}, calls: map[string]int{}, valid: time.Second,
		hang: make(chan struct{}), wait: make(chan struct{}, 1000), polls: make(chan uint64, 100),
		locks: map[uint64]uint64{}, freed: make(chan struct{}, 100),
	}
	m.make(0, syscall.S_IFDIR|0o755, Caller{})
	return m
}

// make makes a node. m.mu is held, or m is not yet served.
func (m *memfs) make(parent uint64, mode uint32, c Caller) *memNode {
	m.last++
	now := timespecOf(time.Now())
	n := &memNode{parent: parent, attr: Attr{
		Ino: m.last, Mode: mode, Nlink: 1, Blksize: 4096, UID: c.UID, GID: c.GID, Atime: now, Mtime: now, Ctime: now,
	}}
	if mode&syscall.S_IFMT == syscall.S_IFDIR {
		n.children = map[string]uint64{}
		n.attr.Nlink = 2
	}
	m.nodes[m.last] = n
	return n
}

// add makes a file.
func (m *memfs) add(name string, data []byte) uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := m.make(RootID, syscall.S_IFREG|0o644, Caller{})
	n.data, n.attr.Size = data, uint64(len(data))
	m.nodes[RootID].children[name] = n.attr.Ino
	return n.attr.Ino
}

func timespecOf(t time.Time) syscall.Timespec { return syscall.NsecToTimespec(t.UnixNano()) }

func (m *memfs) entry(n *memNode) Entry {
	n.refs++
	return Entry{Node: n.attr.Ino, Attr: n.attr, EntryValid: m.valid, AttrValid: m.valid}
}

func (m *memfs) Lookup(ctx context.Context, parent uint64, name string) (Entry, syscall.Errno) {
	if name == "stuck" {
		m.wait <- struct{}{}
		<-ctx.Done()
		return Entry{}, syscall.EINTR
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	p := m.nodes[parent]
	if p == nil {
		return Entry{}, syscall.ESTALE
	}
	ino, ok := p.children[name]
	if !ok {
		return Entry{}, syscall.ENOENT
	}
	return m.entry(m.nodes[ino]), 0
}

func (m *memfs) Forget(node, n uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if f := m.nodes[node]; f != nil {
		f.refs -= n
		if f.refs == 0 && f.attr.Nlink == 0 {
			delete(m.nodes, node)
		}
	}
}

func (m *memfs) Getattr(_ context.Context, node, _ uint64, _ bool) (Attr, time.Duration, syscall.Errno) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	n := m.nodes[node]
	if n == nil {
		return Attr{}, 0, syscall.ESTALE
	}
	return n.attr, m.valid, 0
}

func (m *memfs) Setattr(_ context.Context, node uint64, in *SetAttrIn) (Attr, time.Duration, syscall.Errno) {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := m.nodes[node]
	if n == nil {
		return Attr{}, 0, syscall.ESTALE
	}
	now := timespecOf(time.Now())
	if in.Valid&FATTR_MODE != 0 {
		n.attr.Mode = n.attr.Mode&syscall.S_IFMT | in.Mode&0o7777
	}
	if in.Valid&FATTR_UID != 0 {
		n.attr.UID = in.UID
	}
	if in.Valid&FATTR_GID != 0 {
		n.attr.GID = in.GID
	}
	if in.Valid&FATTR_SIZE != 0 {
		n.resize(in.Size)
	}
	if in.Valid&FATTR_ATIME != 0 {
		n.attr.Atime = in.Atime
	}
	if in.Valid&FATTR_MTIME != 0 {
		n.attr.Mtime = in.Mtime
	}
	n.attr.Ctime = now
	return n.attr, m.valid, 0
}

func (n *memNode) resize(size uint64) {
	if have := uint64(len(n.data)); size <= have {
		n.data = n.data[:size]
	} else {
		n.data = append(n.data, make([]byte, size-have)...)
	}
	n.attr.Size, n.attr.Blocks = size, (size+511)/512
}

func (m *memfs) Readlink(_ context.Context, node uint64) (string, syscall.Errno) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.nodes[node].target, 0
}

func (m *memfs) child(ctx context.Context, parent uint64, name string, mode uint32) (*memNode, syscall.Errno) {
	p := m.nodes[parent]
	if _, ok := p.children[name]; ok {
		return nil, syscall.EEXIST
	}
	c, _ := CallerOf(ctx)
	n := m.make(parent, mode, c)
	p.children[name], p.names = n.attr.Ino, nil
	return n, 0
}

func (m *memfs) Symlink(ctx context.Context, parent uint64, name, target string) (Entry, syscall.Errno) {
	m.mu.Lock()
	defer m.mu.Unlock()
	n, errno := m.child(ctx, parent, name, syscall.S_IFLNK|0o777)
	if errno != 0 {
		return Entry{}, errno
	}
	n.target, n.attr.Size = target, uint64(len(target))
	return m.entry(n), 0
}

func (m *memfs) Mknod(ctx context.Context, parent uint64, name string, mode, umask, rdev uint32) (Entry, syscall.Errno) {
	m.mu.Lock()
	defer m.mu.Unlock()
	n, errno := m.child(ctx, parent, name, mode&^umask)
	if errno != 0 {
		return Entry{}, errno
	}
	n.attr.Rdev = rdev
	return m.entry(n), 0
}

func (m *memfs) Mkdir(ctx context.Context, parent uint64, name string, mode, umask uint32) (Entry, syscall.Errno) {
	m.mu.Lock()
	defer m.mu.Unlock()
	n, errno := m.child(ctx, parent, name, syscall.S_IFDIR|mode&^umask)
	if errno != 0 {
		return Entry{}, errno
	}
	return m.entry(n), 0
}

func (m *memfs) remove(parent uint64, name string) syscall.Errno {
	p := m.nodes[parent]
	ino, ok := p.children[name]
	if !ok {
		return syscall.ENOENT
	}
	n := m.nodes[ino]
	if len(n.children) > 0 {
		return syscall.ENOTEMPTY
	}
	delete(p.children, name)
	p.names = nil
	if n.attr.Nlink--; n.children != nil {
		n.attr.Nlink = 0
	}
	return 0
}

func (m *memfs) Unlink(_ context.Context, parent uint64, name string) syscall.Errno {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.remove(parent, name)
}

func (m *memfs) Rmdir(ctx context.Context, parent uint64, name string) syscall.Errno {
	return m.Unlink(ctx, parent, name)
}

func (m *memfs) Rename(_ context.Context, parent uint64, name string, newParent uint64, newName string, flags uint32) syscall.Errno {
	m.mu.Lock()
	defer m.mu.Unlock()
	p, q := m.nodes[parent], m.nodes[newParent]
	ino, there := p.children[name], q.children[newName]
	const noreplace, exchange = 1, 2
	switch {
	case flags&noreplace != 0 && there != 0:
		return syscall.EEXIST
	case flags&exchange != 0:
		p.children[name], q.children[newName] = there, ino
		return 0
	}
	if there != 0 {
		if errno := m.remove(newParent, newName); errno != 0 {
			return errno
		}
	}
	delete(p.children, name)
	q.children[newName] = ino
	p.names, q.names = nil, nil
	return 0
}

func (m *memfs) Link(_ context.Context, node, newParent uint64, newName string) (Entry, syscall.Errno) {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := m.nodes[node]
	n.attr.Nlink++
	m.nodes[newParent].children[newName], m.nodes[newParent].names = node, nil
	return m.entry(n), 0
}

func (m *memfs) Open(_ context.Context, node uint64, flags uint32) (OpenOut, syscall.Errno) {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := m.nodes[node]
	if n == nil {
		return OpenOut{}, syscall.ESTALE
	}
	if flags&syscall.O_TRUNC != 0 {
		n.resize(0)
	}
	m.opened++
	return m.out(node), 0
}

func (m *memfs) Create(ctx context.Context, parent uint64, name string, flags, mode, umask uint32) (Entry, OpenOut, syscall.Errno) {
	m.mu.Lock()
	defer m.mu.Unlock()
	n, errno := m.child(ctx, parent, name, syscall.S_IFREG|mode&0o7777&^umask)
	if errno != 0 {
		return Entry{}, OpenOut{}, errno
	}
	m.opened++
	return m.entry(n), m.out(n.attr.Ino), 0
}

func (m *memfs) Read(_ context.Context, node, _ uint64, off int64, dst []byte) (int, syscall.Errno) {
	m.mu.Lock()
	m.calls["read"]++
	m.mu.Unlock()
	m.mu.RLock()
	n := m.nodes[node]
	if n.target == "hang" {
		m.mu.RUnlock()
		m.wait <- struct{}{}
		<-m.hang
		return 0, 0
	}
	defer m.mu.RUnlock()
	if off >= int64(len(n.data)) {
		return 0, 0
	}
	return copy(dst, n.data[off:]), 0
}

func (m *memfs) Write(_ context.Context, node, _ uint64, off int64, data []byte, flags uint32) (int, syscall.Errno) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.calls["write"]++
	if flags&FUSE_WRITE_CACHE != 0 {
		m.calls["cached"]++
	}
	n := m.nodes[node]
	if end := uint64(off) + uint64(len(data)); end > n.attr.Size {
		n.resize(end)
	}
	return copy(n.data[off:], data), 0
}

func (m *memfs) Flush(_ context.Context, node, fh, owner uint64) syscall.Errno {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.calls["flush"]++
	if m.locks[node] == owner {
		delete(m.locks, node)
		m.freed <- struct{}{}
	}
	return 0
}

func (m *memfs) Fsync(_ context.Context, _, _ uint64, datasync bool) syscall.Errno {
	m.mu.Lock()
	defer m.mu.Unlock()
	if datasync {
		m.calls["fdatasync"]++
	} else {
		m.calls["fsync"]++
	}
	return 0
}

func (m *memfs) Release(_, _ uint64, _ uint32, _ uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.released++
}

func (m *memfs) Opendir(context.Context, uint64, uint32) (OpenOut, syscall.Errno) {
	return OpenOut{}, 0
}

// list are the names in n, sorted, so that offsets are indexes.
func (m *memfs) list(node uint64) ([]string, *memNode) {
	n := m.nodes[node]
	if n.names == nil {
		for name := range n.children {
			n.names = append(n.names, name)
		}
		slices.SortFunc(n.names, cmp.Compare)
	}
	return n.names, n
}

func (m *memfs) ReadDir(_ context.Context, node, _, off uint64, sink DirSink) syscall.Errno {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.calls["readdir"]++
	names, n := m.list(node)
	for i := int(off); i < len(names); i++ {
		c := m.nodes[n.children[names[i]]]
		if !sink.Add(DirEntry{Name: names[i], Ino: c.attr.Ino, Off: uint64(i + 1), Type: c.attr.Mode >> 12}) {
			break
		}
	}
	return 0
}

func (m *memfs) ReadDirPlus(_ context.Context, node, _, off uint64, sink DirPlusSink) syscall.Errno {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.calls["readdirplus"]++
	names, n := m.list(node)
	for i := int(off); i < len(names) && sink.Fits(names[i]); i++ {
		c := m.nodes[n.children[names[i]]]
		sink.Add(DirEntry{Name: names[i], Ino: c.attr.Ino, Off: uint64(i + 1), Type: c.attr.Mode >> 12}, m.entry(c))
	}
	return 0
}

func (m *memfs) Fsyncdir(context.Context, uint64, uint64, bool) syscall.Errno {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.calls["fsyncdir"]++
	return 0
}

func (m *memfs) Releasedir(uint64, uint64) {}

func (m *memfs) out(fh uint64) OpenOut {
	if m.direct {
		return OpenOut{FH: fh, Flags: FOPEN_DIRECT_IO}
	}
	return OpenOut{FH: fh}
}

// pollfs is a memfs whose files are ready only when told so.
type pollfs struct{ *memfs }

func (p *pollfs) Poll(_ context.Context, _, _, kh uint64, events uint32, schedule bool) (uint32, syscall.Errno) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ready {
		return events & 1, 0 // POLLIN; POLLERR and POLLHUP are always asked for
	}
	if schedule {
		p.polls <- kh
	}
	return 0, 0
}
