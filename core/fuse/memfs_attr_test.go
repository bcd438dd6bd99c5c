package fuse

import (
	"context"
	"slices"
	"syscall"
)

func (m *memfs) Statfs(context.Context, uint64) (Statfs, syscall.Errno) {
	return Statfs{Blocks: 1000, Bfree: 500, Bavail: 400, Files: 30, Ffree: 20, Bsize: 4096, Frsize: 4096, Namelen: 200}, 0
}

func (m *memfs) Getxattr(_ context.Context, node uint64, name string, dst []byte) (int, syscall.Errno) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	v, ok := m.nodes[node].xattrs[name]
	switch {
	case !ok:
		return 0, syscall.ENODATA
	case len(dst) == 0:
		return len(v), 0
	case len(dst) < len(v):
		return 0, syscall.ERANGE
	}
	return copy(dst, v), 0
}

func (m *memfs) Setxattr(_ context.Context, node uint64, name string, value []byte, flags uint32) syscall.Errno {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := m.nodes[node]
	if n.xattrs == nil {
		n.xattrs = map[string][]byte{}
	}
	if _, ok := n.xattrs[name]; ok && flags == 1 {
		return syscall.EEXIST
	}
	n.xattrs[name] = slices.Clone(value)
	return 0
}

func (m *memfs) Listxattr(_ context.Context, node uint64, dst []byte) (int, syscall.Errno) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	var all []byte
	for name := range m.nodes[node].xattrs {
		all = append(append(all, name...), 0)
	}
	if len(dst) > 0 && len(dst) < len(all) {
		return 0, syscall.ERANGE
	}
	copy(dst, all)
	return len(all), 0
}

func (m *memfs) Removexattr(_ context.Context, node uint64, name string) syscall.Errno {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.nodes[node].xattrs, name)
	return 0
}

func (m *memfs) Getlk(_ context.Context, node, _, owner uint64, lk Lk, _ bool) (Lk, syscall.Errno) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if o, ok := m.locks[node]; ok && o != owner {
		lk.PID = 42
		return lk, 0
	}
	lk.Type = syscall.F_UNLCK
	return lk, 0
}

func (m *memfs) Setlk(ctx context.Context, node, _, owner uint64, lk Lk, _, wait bool) syscall.Errno {
	for {
		m.mu.Lock()
		o, held := m.locks[node]
		switch {
		case lk.Type == syscall.F_UNLCK:
			if held && o == owner {
				delete(m.locks, node)
				m.freed <- struct{}{}
			}
			m.mu.Unlock()
			return 0
		case !held || o == owner:
			m.locks[node] = owner
			m.mu.Unlock()
			return 0
		}
		m.mu.Unlock()
		if !wait {
			return syscall.EAGAIN
		}
		m.wait <- struct{}{}
		select {
		case <-m.freed:
		case <-ctx.Done():
			return syscall.EINTR
		}
	}
}

func (m *memfs) Fallocate(_ context.Context, node, _, off, length uint64, _ uint32) syscall.Errno {
	m.mu.Lock()
	defer m.mu.Unlock()
	if n := m.nodes[node]; off+length > n.attr.Size {
		n.resize(off + length)
	}
	return 0
}

func (m *memfs) Lseek(_ context.Context, node, _, off uint64, whence uint32) (uint64, syscall.Errno) {
	const data, hole = 3, 4
	m.mu.RLock()
	defer m.mu.RUnlock()
	if whence == hole {
		return m.nodes[node].attr.Size, 0
	}
	return off, 0
}

func (m *memfs) CopyFileRange(_ context.Context, nodeIn, _, offIn, nodeOut, _, offOut, length, _ uint64) (uint64, syscall.Errno) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.calls["copy"]++
	from, to := m.nodes[nodeIn], m.nodes[nodeOut]
	length = min(length, from.attr.Size-offIn)
	if offOut+length > to.attr.Size {
		to.resize(offOut + length)
	}
	return uint64(copy(to.data[offOut:], from.data[offIn:offIn+length])), 0
}

func (m *memfs) Ioctl(_ context.Context, _, _ uint64, cmd uint32, arg uint64, _ uint32, in []byte, outSize uint32) (int32, []byte, syscall.Errno) {
	if cmd&0xff == 0xff {
		return 0, nil, syscall.ENOTTY
	}
	out := slices.Clone(in)
	for i := range out {
		out[i]++
	}
	return 7, out, 0
}
