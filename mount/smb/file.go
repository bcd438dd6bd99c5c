package smb

import (
	"context"
	"errors"
	"math"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/cloudsoda/go-smb2"

	"github.com/lxbridge/lx/mount/volume"
	"github.com/lxbridge/lx/mount/volume/pathtree"
)

// handle is an open file. The server's handle below it may be closed and
// opened again: for a rename, or after a reconnect.
type handle struct {
	v    *Volume
	node *pathtree.Node
	mode int // O_RDONLY, O_WRONLY or O_RDWR, as the server was asked
	user int // the same, as the caller asked

	// gate is held for reading during transfers, and for writing while f is
	// exchanged. Where names is taken too, it is taken first.
	gate   sync.RWMutex
	f      *smb2.File // nil while parked
	on     *link      // that f belongs to
	closed bool

	mu    sync.Mutex // guards what follows
	dirty bool       // written since the last Sync
	end   uint64     // the highest byte written since then
}

var (
	_ volume.Handle = (*handle)(nil)
	_ volume.Owner  = (*handle)(nil)
)

func (h *handle) at() *pathtree.Node { return h.node }

// park implements parker.
func (h *handle) park() (resume func()) {
	h.gate.Lock()
	if h.f != nil {
		if err := h.f.Close(); err != nil && h.on.alive() {
			h.v.cfg.Log(failure("close", h.v.name(h.node), err))
		}
		h.f = nil
	}
	return h.gate.Unlock
}

// use calls do with the server's handle on l, opened again where it must be.
func (h *handle) use(l *link, do func(*smb2.File) error) error {
	for {
		h.gate.RLock()
		switch {
		case h.closed:
			h.gate.RUnlock()
			return syscall.EBADF
		case h.f != nil && h.on == l:
			defer h.gate.RUnlock()
			return do(h.f)
		}
		h.gate.RUnlock()
		if err := h.reopen(l); err != nil {
			return err
		}
	}
}

// reopen opens the file again by its present path. ESTALE where that is not
// the file it was, or lost what was written since the last Sync.
func (h *handle) reopen(l *link) error {
	h.v.names.RLock()
	defer h.v.names.RUnlock()
	h.gate.Lock()
	defer h.gate.Unlock()
	if h.closed || h.f != nil && h.on == l {
		return nil
	}
	path, err := h.v.path(h.node)
	if err != nil {
		return err
	}
	if h.on != l {
		if err := h.same(l, path); err != nil {
			return err
		}
	}
	f, err := l.share.OpenFile(path, h.mode, 0o666)
	if errors.Is(err, os.ErrPermission) && h.mode != os.O_RDONLY {
		f, err = h.reopenProtected(l, path)
	}
	if err != nil {
		return err
	}
	h.f, h.on = f, l
	return nil
}

// reopenProtected opens for writing what was made read only since it was first
// opened so, as a file created without write permission is.
func (h *handle) reopenProtected(l *link, path string) (*smb2.File, error) {
	fi, err := l.share.Lstat(path)
	if err != nil {
		return nil, err
	}
	if fi.(*smb2.FileStat).FileAttributes&attrReadonly == 0 {
		return nil, os.ErrPermission
	}
	if err := l.share.Chmod(path, 0o644); err != nil {
		return nil, err
	}
	f, err := l.share.OpenFile(path, h.mode, 0o666)
	if err := errors.Join(err, l.share.Chmod(path, 0o444)); err != nil {
		if f != nil {
			err = errors.Join(err, f.Close())
		}
		return nil, err
	}
	return f, nil
}

// same looks whether path still is the file that was opened on an earlier link.
func (h *handle) same(l *link, path string) error {
	a, err := h.v.lstat(l, path)
	if errors.Is(err, os.ErrNotExist) {
		return &volume.Error{Op: "reopen", Name: h.v.name(h.node), Errno: syscall.ESTALE, Reason: "it was removed while the server was away"}
	}
	if err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	birth := h.v.knownOf(h.node).birth
	switch {
	case a.Mode&syscall.S_IFMT != syscall.S_IFREG, !birth.IsZero() && !a.Btime.IsZero() && !birth.Equal(a.Btime):
		return &volume.Error{Op: "reopen", Name: h.v.name(h.node), Errno: syscall.ESTALE, Reason: "it is another file since the server was away"}
	case h.dirty && a.Size < h.end:
		return &volume.Error{Op: "reopen", Name: h.v.name(h.node), Errno: syscall.ESTALE, Reason: "the server lost what was written last"}
	}
	return nil
}

// opened is a handle on f, counted among what is open.
func (v *Volume) opened(l *link, n *pathtree.Node, f *smb2.File, mode, flags int) *handle {
	h := &handle{v: v, node: n, mode: mode, user: flags & syscall.O_ACCMODE, f: f, on: l}
	v.track(h)
	return h
}

// Open implements volume.Volume.
func (v *Volume) Open(ctx context.Context, n volume.Node, flags int) (volume.Handle, error) {
	node := n.(*pathtree.Node)
	h, err := run(ctx, v, call[*handle]{op: "open", node: node, repeat: true, undo: discard, do: func(l *link) (*handle, error) {
		v.names.RLock()
		defer v.names.RUnlock()
		path, err := v.path(node)
		if err != nil {
			return nil, err
		}
		if v.knownOf(node).mode&syscall.S_IFMT == syscall.S_IFDIR {
			return nil, syscall.EISDIR
		}
		mode := flags & syscall.O_ACCMODE
		if flags&syscall.O_TRUNC != 0 && mode == os.O_RDONLY {
			mode = os.O_RDWR
		}
		f, err := l.share.OpenFile(path, mode, 0o666)
		if err != nil {
			return nil, err
		}
		if flags&syscall.O_TRUNC != 0 {
			if err := f.Truncate(0); err != nil {
				return nil, errors.Join(err, f.Close())
			}
		}
		return v.opened(l, node, f, mode, flags), nil
	}})
	if err != nil {
		return nil, err
	}
	return h, nil
}

// discard closes a handle that nobody waited for.
func discard(h *handle) { _ = h.Close(context.Background()) }

type created struct {
	found
	h *handle
}

// Create implements volume.Volume. Of the mode only the absence of write
// permission counts, as the read-only attribute. The server is asked for
// reading too, which attributes need.
func (v *Volume) Create(ctx context.Context, d volume.Node, name string, flags int, mode uint32) (volume.Node, volume.Attr, volume.Handle, error) {
	dir := d.(*pathtree.Node)
	c, err := run(ctx, v, call[created]{op: "create", name: name, do: func(l *link) (created, error) {
		v.names.RLock()
		defer v.names.RUnlock()
		path, err := v.join(dir, name)
		if err != nil {
			return created{}, err
		}
		return v.create(l, dir, name, path, flags, mode)
	}, undo: func(c created) {
		discard(c.h)
		v.Forget(c.node)
	}})
	if err != nil {
		return nil, volume.Attr{}, nil, err
	}
	return c.node, c.attr, c.h, nil
}

func (v *Volume) create(l *link, dir *pathtree.Node, name, path string, flags int, mode uint32) (created, error) {
	perm := os.FileMode(0o666)
	if mode&0o222 == 0 {
		perm = 0o444
	}
	how := os.O_CREATE | flags&os.O_EXCL
	access := os.O_RDWR
	f, err := l.share.OpenFile(path, access|how, perm)
	if errors.Is(err, os.ErrPermission) && flags&syscall.O_ACCMODE == os.O_WRONLY {
		access = os.O_WRONLY
		f, err = l.share.OpenFile(path, access|how, perm)
	}
	if err != nil {
		return created{}, err
	}
	a, err := v.createdAttr(l, f, path, access)
	if err == nil && a.Mode&syscall.S_IFMT == syscall.S_IFDIR {
		err = syscall.EISDIR
	}
	if err == nil && flags&syscall.O_TRUNC != 0 && a.Size > 0 {
		err = f.Truncate(0)
		a.Size = 0
	}
	if err != nil {
		return created{}, errors.Join(err, f.Close())
	}
	n := v.child(dir, name, a)
	return created{found{n, a}, v.opened(l, n, f, access, flags)}, nil
}

// createdAttr reads the attributes of a file just opened.
func (v *Volume) createdAttr(l *link, f *smb2.File, path string, access int) (volume.Attr, error) {
	if access != os.O_WRONLY {
		if fi, err := f.Stat(); err == nil {
			return v.attr(fi.(*smb2.FileStat)), nil
		}
	}
	return v.lstat(l, path)
}

// Getattr implements volume.Volume.
func (v *Volume) Getattr(ctx context.Context, n volume.Node, vh volume.Handle) (volume.Attr, error) {
	node := n.(*pathtree.Node)
	h, _ := vh.(*handle)
	return run(ctx, v, call[volume.Attr]{op: "stat", node: node, repeat: true, do: func(l *link) (volume.Attr, error) {
		a, err := v.getattr(l, node, h)
		if err == nil {
			v.learn(node, a)
		}
		return a, err
	}})
}

func (v *Volume) getattr(l *link, node *pathtree.Node, h *handle) (a volume.Attr, err error) {
	if h != nil && h.mode != os.O_WRONLY {
		err := h.use(l, func(f *smb2.File) error {
			fi, err := f.Stat()
			if err == nil {
				a = v.attr(fi.(*smb2.FileStat))
			}
			return err
		})
		if err == nil {
			return a, nil
		}
		if !isStatus(err, statusInvalidParameter) { // no credits for the long answer
			return a, err
		}
	}
	v.names.RLock()
	defer v.names.RUnlock()
	path, err := v.path(node)
	if err != nil {
		return a, err
	}
	return v.lstat(l, path)
}

// Setattr implements volume.Volume. Owners are not kept. Of a file's mode only
// the absence of all write permission is, as the read-only attribute.
func (v *Volume) Setattr(ctx context.Context, n volume.Node, vh volume.Handle, s volume.SetAttr) (volume.Attr, error) {
	node := n.(*pathtree.Node)
	h, _ := vh.(*handle)
	return run(ctx, v, call[volume.Attr]{op: "change", node: node, repeat: true, do: func(l *link) (volume.Attr, error) {
		if s.Size != nil {
			if err := v.truncate(l, node, h, *s.Size); err != nil {
				return volume.Attr{}, err
			}
		}
		if s.Mtime != nil {
			// A server sets the time of the last write when the handle that wrote
			// is closed, over a time set through another: so they are closed first.
			defer v.park(node)()
			h = nil
		}
		a, err := v.getattr(l, node, h)
		if err == nil && (s.Mode != nil || s.Atime != nil || s.Mtime != nil) {
			var changed bool
			if changed, err = v.setBasic(l, node, a, s); err == nil && changed {
				a, err = v.getattr(l, node, h)
			}
		}
		if err == nil {
			v.learn(node, a)
		}
		return a, err
	}})
}

func (v *Volume) truncate(l *link, node *pathtree.Node, h *handle, size uint64) error {
	if size > 1<<63-1 {
		return syscall.EFBIG
	}
	if h != nil && h.user != os.O_RDONLY {
		h.written(size, true)
		return h.use(l, func(f *smb2.File) error { return f.Truncate(int64(size)) })
	}
	v.names.RLock()
	defer v.names.RUnlock()
	path, err := v.path(node)
	if err != nil {
		return err
	}
	return l.share.Truncate(path, int64(size))
}

// setBasic sets times and the read-only attribute (MS-FSCC 2.4.7), the latter
// where it differs from what now has. The transport sets both times or none.
func (v *Volume) setBasic(l *link, node *pathtree.Node, now volume.Attr, s volume.SetAttr) (changed bool, err error) {
	v.names.RLock()
	defer v.names.RUnlock()
	path, err := v.path(node)
	if err != nil {
		return false, err
	}
	// Where file_mode shows no write permission at all, the attribute is not known.
	unlike := s.Mode != nil && ((*s.Mode&0o222 == 0) != (now.Mode&0o222 == 0) || v.cfg.FileMode&0o222 == 0)
	if unlike && now.Mode&syscall.S_IFMT == syscall.S_IFREG {
		// The transport looks at the owner's permission only.
		perm := os.FileMode(0o444)
		if *s.Mode&0o222 != 0 {
			perm = 0o644
		}
		if err := l.share.Chmod(path, perm); err != nil {
			return false, err
		}
		changed = true
	}
	atime, mtime := now.Atime, now.Mtime
	if s.Atime != nil {
		atime = *s.Atime
	}
	if s.Mtime != nil {
		mtime = *s.Mtime
	}
	if s.Atime == nil && s.Mtime == nil {
		return changed, nil
	}
	return true, l.share.Chtimes(path, storable(atime), storable(mtime))
}

// storable is the nearest time to t that the transport can pass on: it counts
// nanoseconds since 1970 in 64 bits.
func storable(t time.Time) time.Time {
	if first := time.Unix(0, math.MinInt64); t.Before(first) {
		return first
	}
	if last := time.Unix(0, math.MaxInt64); t.After(last) {
		return last
	}
	return t
}

// Close implements volume.Handle. The server's handle is closed even where ctx
// has ended, and nothing is dialled for it.
func (h *handle) Close(ctx context.Context) error {
	if h.v.begin() != nil {
		return nil // the connection, and with it the server's handle, is closed
	}
	done := make(chan error, 1)
	go func() {
		defer h.v.wg.Done()
		done <- h.close()
	}()
	select {
	case err := <-done:
		return failure("close", h.v.name(h.node), err)
	case <-ctx.Done():
		return failure("close", h.v.name(h.node), context.Cause(ctx))
	}
}

func (h *handle) close() error {
	defer h.v.untrack(h) // not before: who wants the file closed must be able to wait for it
	h.gate.Lock()
	defer h.gate.Unlock()
	f := h.f
	h.f, h.closed = nil, true
	if f == nil || !h.on.alive() {
		return nil
	}
	_, err := guarded(h.on, func(*link) (struct{}, error) { return struct{}{}, f.Close() })
	return err
}

// Sync implements volume.Handle (MS-SMB2 2.2.17, FLUSH).
func (h *handle) Sync(ctx context.Context) error {
	if h.user == os.O_RDONLY {
		return context.Cause(ctx)
	}
	return exec(ctx, h.v, call[struct{}]{op: "sync", node: h.node, repeat: true}, func(l *link) error {
		return h.use(l, func(f *smb2.File) error {
			err := f.Sync()
			if err == nil {
				h.synced()
			}
			return err
		})
	})
}

// written notes that bytes up to end are on the server but perhaps not on its
// disk; truncated, that it has no more.
func (h *handle) written(end uint64, truncated bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if truncated && h.end > end {
		h.end = end
	}
	if !truncated {
		h.dirty, h.end = true, max(h.end, end)
	}
}

func (h *handle) synced() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.dirty, h.end = false, 0
}
