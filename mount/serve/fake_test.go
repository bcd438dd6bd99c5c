package serve

import (
	"context"
	"fmt"
	"sync"
	"syscall"
	"time"

	"github.com/lxbridge/lx/mount/volume"
)

// fake is a volume of which tests see and change what it does. It has none of
// the optional abilities.
type fake struct {
	volume.Volume
	features func(*volume.Features)
	bare     bool           // no file ids; listings without nodes; times of 1 s
	most     map[string]int // how many times operations succeed; any number where there is none

	mu    sync.Mutex // guards what follows
	calls map[string]int
	open  map[volume.Node]int
	held  map[volume.Node]int // references given out
	hook  func(ctx context.Context, op, name string) error
}

// on sets what is called before each operation; its error is the operation's.
func (f *fake) on(hook func(ctx context.Context, op, name string) error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.hook = hook
}

func (f *fake) count(op string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.calls[op]
}

func (f *fake) enter(ctx context.Context, op, name string) error {
	f.mu.Lock()
	if f.calls == nil {
		f.calls = map[string]int{}
	}
	f.calls[op]++
	most, bounded := f.most[op]
	tooMany := bounded && f.calls[op] > most
	hook := f.hook
	f.mu.Unlock()
	if tooMany {
		return syscall.EDQUOT
	}
	if hook != nil {
		return hook(ctx, op, name)
	}
	return nil
}

// balance checks that all was given back.
func (f *fake) balance() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	for n, refs := range f.held {
		if refs != 0 {
			return fmt.Errorf("%d references to %p are left", refs, n)
		}
	}
	if len(f.open) != 0 {
		return fmt.Errorf("%d files are left open", len(f.open))
	}
	return nil
}

func (f *fake) ref(n volume.Node, by int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.held == nil {
		f.held = map[volume.Node]int{}
	}
	f.held[n] += by
}

func (f *fake) attr(a volume.Attr) volume.Attr {
	if f.bare {
		a.FileID = 0
		for _, t := range []*time.Time{&a.Atime, &a.Mtime, &a.Ctime} {
			*t = t.Truncate(time.Second)
		}
	}
	return a
}

func (f *fake) Features() volume.Features {
	v := f.Volume.Features()
	if f.features != nil {
		f.features(&v)
	}
	return v
}

func (f *fake) Lookup(ctx context.Context, dir volume.Node, name string) (volume.Node, volume.Attr, error) {
	if err := f.enter(ctx, "lookup", name); err != nil {
		return nil, volume.Attr{}, err
	}
	n, a, err := f.Volume.Lookup(ctx, dir, name)
	if err == nil {
		f.ref(n, 1)
	}
	return n, f.attr(a), err
}

// linking is a fake that can link.
type linking struct{ *fake }

func (f linking) Link(ctx context.Context, n, dir volume.Node, name string) (volume.Attr, error) {
	if err := f.enter(ctx, "link", name); err != nil {
		return volume.Attr{}, err
	}
	a, err := f.Volume.(volume.Linker).Link(ctx, n, dir, name)
	return f.attr(a), err
}

func (f *fake) Forget(n volume.Node) {
	f.ref(n, -1)
	f.Volume.Forget(n)
}

func (f *fake) Getattr(ctx context.Context, n volume.Node, h volume.Handle) (volume.Attr, error) {
	if err := f.enter(ctx, "getattr", ""); err != nil {
		return volume.Attr{}, err
	}
	a, err := f.Volume.Getattr(ctx, n, bare(h))
	if err == nil {
		err = f.enter(ctx, "gotattr", "")
	}
	return f.attr(a), err
}

func (f *fake) Setattr(ctx context.Context, n volume.Node, h volume.Handle, s volume.SetAttr) (volume.Attr, error) {
	if err := f.enter(ctx, "setattr", ""); err != nil {
		return volume.Attr{}, err
	}
	a, err := f.Volume.Setattr(ctx, n, bare(h), s)
	return f.attr(a), err
}

func (f *fake) ReadDir(ctx context.Context, dir volume.Node) (volume.DirStream, error) {
	if err := f.enter(ctx, "readdir", ""); err != nil {
		return nil, err
	}
	s, err := f.Volume.ReadDir(ctx, dir)
	return fakeStream{s, f}, err
}

type fakeStream struct {
	volume.DirStream
	f *fake
}

func (s fakeStream) Next(ctx context.Context) ([]volume.DirEntry, error) {
	if err := s.f.enter(ctx, "next", ""); err != nil {
		return nil, err
	}
	es, err := s.DirStream.Next(ctx)
	for i := range es {
		if !s.f.bare {
			s.f.ref(es[i].Node, 1)
			continue
		}
		s.f.Volume.Forget(es[i].Node)
		es[i].Node, es[i].Attr = nil, volume.Attr{}
	}
	return es, err
}

func (f *fake) opened(n volume.Node, by int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.open == nil {
		f.open = map[volume.Node]int{}
	}
	if f.open[n] += by; f.open[n] == 0 {
		delete(f.open, n)
	}
}

func (f *fake) Open(ctx context.Context, n volume.Node, flags int) (volume.Handle, error) {
	if err := f.enter(ctx, "open", ""); err != nil {
		return nil, err
	}
	h, err := f.Volume.Open(ctx, n, flags)
	if err != nil {
		return nil, err
	}
	f.opened(n, 1)
	return &fakeHandle{h, f, n, flags & syscall.O_ACCMODE}, nil
}

func (f *fake) Create(ctx context.Context, dir volume.Node, name string, flags int, mode uint32) (volume.Node, volume.Attr, volume.Handle, error) {
	if err := f.enter(ctx, "create", name); err != nil {
		return nil, volume.Attr{}, nil, err
	}
	n, a, h, err := f.Volume.Create(ctx, dir, name, flags, mode)
	if err != nil {
		return nil, volume.Attr{}, nil, err
	}
	f.ref(n, 1)
	f.opened(n, 1)
	return n, f.attr(a), &fakeHandle{h, f, n, flags & syscall.O_ACCMODE}, nil
}

func (f *fake) Mkdir(ctx context.Context, dir volume.Node, name string, mode uint32) (volume.Node, volume.Attr, error) {
	if err := f.enter(ctx, "mkdir", name); err != nil {
		return nil, volume.Attr{}, err
	}
	n, a, err := f.Volume.Mkdir(ctx, dir, name, mode)
	if err == nil {
		f.ref(n, 1)
	}
	return n, f.attr(a), err
}

// busy refuses to take an open file's name away.
func (f *fake) busy(ctx context.Context, dir volume.Node, name string) error {
	if f.Features().UnlinkOpen {
		return nil
	}
	n, _, err := f.Volume.Lookup(ctx, dir, name)
	if err != nil {
		return nil
	}
	defer f.Volume.Forget(n)
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.open[n] > 0 {
		return syscall.EBUSY
	}
	return nil
}

func (f *fake) Unlink(ctx context.Context, dir volume.Node, name string) error {
	if err := f.enter(ctx, "unlink", name); err != nil {
		return err
	}
	if err := f.busy(ctx, dir, name); err != nil {
		return err
	}
	return f.Volume.Unlink(ctx, dir, name)
}

func (f *fake) Rmdir(ctx context.Context, dir volume.Node, name string) error {
	if err := f.enter(ctx, "rmdir", name); err != nil {
		return err
	}
	return f.Volume.Rmdir(ctx, dir, name)
}

func (f *fake) Rename(ctx context.Context, dir volume.Node, name string, newDir volume.Node, newName string, flags uint32) error {
	if err := f.enter(ctx, "rename", name); err != nil {
		return err
	}
	if flags == 0 {
		if err := f.busy(ctx, newDir, newName); err != nil {
			return err
		}
	}
	return f.Volume.Rename(ctx, dir, name, newDir, newName, flags)
}

type fakeHandle struct {
	volume.Handle
	f    *fake
	n    volume.Node
	mode int
}

// bare is the handle below a fake's.
func bare(h volume.Handle) volume.Handle {
	if f, ok := h.(*fakeHandle); ok {
		return f.Handle
	}
	return h
}

func (h *fakeHandle) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	if h.mode == syscall.O_WRONLY {
		return 0, syscall.EBADF
	}
	if err := h.f.enter(ctx, "read", ""); err != nil {
		return 0, err
	}
	n, err := h.Handle.ReadAt(ctx, p, off)
	if err == nil {
		err = h.f.enter(ctx, "wasread", "")
	}
	return n, err
}

func (h *fakeHandle) WriteAt(ctx context.Context, p []byte, off int64) (int, error) {
	if h.mode == syscall.O_RDONLY {
		return 0, syscall.EBADF
	}
	if err := h.f.enter(ctx, "write", ""); err != nil {
		return 0, err
	}
	return h.Handle.WriteAt(ctx, p, off)
}

func (h *fakeHandle) Sync(ctx context.Context) error {
	if err := h.f.enter(ctx, "sync", ""); err != nil {
		return err
	}
	return h.Handle.Sync(ctx)
}

// Flush implements volume.Flusher.
func (h *fakeHandle) Flush(ctx context.Context) error { return h.f.enter(ctx, "flush", "") }

func (h *fakeHandle) Close(ctx context.Context) error {
	err := h.f.enter(ctx, "close", "")
	h.f.opened(h.n, -1)
	if e := h.Handle.Close(ctx); err == nil {
		err = e
	}
	return err
}
