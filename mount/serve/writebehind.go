package serve

import (
	"context"
	"fmt"
	"math"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/lxbridge/lx/core/fuse"
	"github.com/lxbridge/lx/mount/volume"
)

const (
	fileGrowing = 4 // pieces that may still grow, per file
	dirtyAge    = 500 * time.Millisecond
	defaultPart = 1 << 20
	smallPart   = 64 << 10
	maxOffset   = math.MaxInt64
)

// part is the size of a transfer.
func part(n int) int64 {
	if n <= 0 || n > defaultPart {
		return defaultPart
	}
	return int64(n)
}

// behind is what was written to a file and is not at the server yet, in the
// order in which it was begun. No two pieces overlap. inode.mu guards it.
//
//	growing ──▶ sent ──▶ at the server, or lost
//	   full, too old, one of too many, flushed
type behind struct {
	pieces   []*piece
	err      error  // the last failure
	failures uint64 // counts them; an open file is told of those since it was
}

// piece is a run of bytes, or a stretch that a call has for itself meanwhile
// (no handle).
type piece struct {
	off, end int64
	buf      *[]byte
	h        *handle // of which it has a use
	grows    bool
	timer    *time.Timer
	done     chan struct{} // closed when it is at the server, or lost
}

// Buffers of pieces, full size; small ones are for files of a few bytes.
var (
	pieceBuffers = sync.Pool{New: func() any { b := make([]byte, defaultPart); return &b }}
	smallBuffers = sync.Pool{New: func() any { b := make([]byte, smallPart); return &b }}
)

func newBuffer(size int64) *[]byte {
	if size == smallPart {
		return smallBuffers.Get().(*[]byte)
	}
	return pieceBuffers.Get().(*[]byte)
}

func freeBuffer(b *[]byte) {
	if len(*b) == smallPart {
		smallBuffers.Put(b)
	} else {
		pieceBuffers.Put(b)
	}
}

// overlap finds a piece that shares bytes with [off, end).
func (b *behind) overlap(off, end int64) *piece {
	for _, p := range b.pieces {
		if off < p.end && p.off < end {
			return p
		}
	}
	return nil
}

// reach is the largest offset that is written to.
func (b *behind) reach() (end int64) {
	for _, p := range b.pieces {
		if p.h != nil {
			end = max(end, p.end)
		}
	}
	return end
}

func (b *behind) count(grows bool) (n int, first *piece) {
	for _, p := range b.pieces {
		if p.h != nil && p.grows == grows {
			if n++; first == nil {
				first = p
			}
		}
	}
	return n, first
}

// fuseWriteCache marks a write of the kernel's page cache (FUSE_WRITE_CACHE).
const fuseWriteCache = 1 << 0

// Write implements fuse.Writer.
func (f *FS) Write(ctx context.Context, node, fh uint64, off int64, data []byte, flags uint32) (int, syscall.Errno) {
	fl, no := f.file(fh)
	if no != 0 {
		return 0, no
	}
	cached := flags&fuseWriteCache != 0
	if fl.append && !cached {
		var err error
		if off, err = fl.appendOffset(ctx, off); err != nil {
			return 0, errno(err)
		}
	}
	if len(data) == 0 {
		return 0, 0
	}
	if off < 0 || off > maxOffset-int64(len(data)) {
		return 0, syscall.EFBIG
	}
	if flags&fuseWriteKill != 0 && fl.ino.privileged() {
		return fl.writePrivileged(ctx, off, data)
	}
	// The kernel has no call to wait for its own writeback, nor do direct
	// writers expect data to stay behind; and where writes have failed, the
	// next ones are to fail at once.
	if cached || fl.through || fl.failed() {
		return fl.writeThrough(ctx, off, data)
	}
	return fl.writeBehind(ctx, off, data)
}

// appendOffset is where an append that the kernel would do at off is to go:
// another client may have written there since the kernel last knew the size.
func (fl *file) appendOffset(ctx context.Context, off int64) (int64, error) {
	i, f := fl.ino, fl.fs
	i.mu.Lock()
	a, old := i.attr, len(i.behind.pieces) == 0 && time.Since(i.attrAt) >= max(f.opts.AttrTimeout, time.Second)
	i.mu.Unlock()
	if old {
		var err error
		if a, err = f.refresh(ctx, i); err != nil {
			return 0, err
		}
	}
	if end := int64(a.Size); end > off {
		f.invalidate(i, 0, 0) // the kernel believes that what it has is at off
		return end, nil
	}
	return off, nil
}

func (fl *file) failed() bool {
	fl.ino.mu.Lock()
	defer fl.ino.mu.Unlock()
	return fl.told != fl.ino.behind.failures
}

// writer is a use of a handle that can write.
func (fl *file) writer() (*handle, error) {
	i := fl.ino
	i.mu.Lock()
	defer i.mu.Unlock()
	if fl.h.mode != syscall.O_RDONLY {
		fl.h.used++
		return fl.h, nil
	}
	if h := i.useLocked(syscall.O_RDWR, syscall.O_WRONLY); h != nil {
		return h, nil
	}
	return nil, syscall.EBADF
}

func (fl *file) writeThrough(ctx context.Context, off int64, data []byte) (int, syscall.Errno) {
	h, err := fl.writer()
	if err != nil {
		return 0, errno(err)
	}
	i, done := fl.ino, 0
	defer fl.fs.drop(i, h)
	err = i.exclude(ctx, off, off+int64(len(data)), func() error {
		defer func() {
			if done > 0 {
				i.mu.Lock()
				defer i.mu.Unlock()
				i.wrote(off + int64(done))
			}
		}()
		for size := int(part(fl.fs.feat.MaxWrite)); done < len(data); {
			n, err := h.WriteAt(ctx, data[done:min(len(data), done+size)], off+int64(done))
			done += n
			if err != nil {
				return err
			}
		}
		if fl.durable {
			return h.Sync(ctx)
		}
		return nil
	})
	if err != nil {
		return 0, errno(err)
	}
	return done, 0
}

// exclude waits until nothing of [off, end) is behind, and has do done while
// nothing of it is read ahead or written.
func (i *inode) exclude(ctx context.Context, off, end int64, do func() error) error {
	p := &piece{off: off, end: end, done: make(chan struct{})}
	for {
		i.mu.Lock()
		if i.behind.overlap(off, end) == nil {
			i.behind.pieces = append(i.behind.pieces, p)
			i.mu.Unlock()
			break
		}
		i.mu.Unlock()
		if err := i.settle(ctx, off, end); err != nil {
			return err
		}
	}
	defer i.remove(p, nil)
	i.dropAhead(off, end)
	return do()
}

// remove takes a piece that is done with.
func (i *inode) remove(p *piece, err error) {
	i.mu.Lock()
	n := slices.Index(i.behind.pieces, p)
	i.behind.pieces = slices.Delete(i.behind.pieces, n, n+1)
	if err != nil {
		i.behind.err = err
		i.behind.failures++
		i.seen, i.ours, i.attrAt = version{}, false, time.Time{}
	}
	i.changed = i.fs.tick()
	if p.h != nil {
		i.fs.setDirty(i)
	}
	i.mu.Unlock()
	close(p.done)
}

// setDirty notes whether i has data behind. The caller holds i.mu.
func (f *FS) setDirty(i *inode) {
	f.dirtyMu.Lock()
	defer f.dirtyMu.Unlock()
	if slices.ContainsFunc(i.behind.pieces, func(p *piece) bool { return p.h != nil }) {
		f.behind[i] = struct{}{}
	} else {
		delete(f.behind, i)
	}
}

// writeBehind puts data into pieces. It answers how much it took.
func (fl *file) writeBehind(ctx context.Context, off int64, data []byte) (done int, no syscall.Errno) {
	i := fl.ino
	for done < len(data) {
		n, wait, err := fl.put(off, data[done:])
		if err == nil && n == 0 {
			err = fl.fs.wait(ctx, wait)
		}
		if err != nil {
			if done > 0 {
				break // a short write; what follows fails
			}
			return 0, errno(err)
		}
		i.dropAhead(off, off+int64(n))
		off, done = off+int64(n), done+n
	}
	return done, 0
}

// wait waits for a piece, or for room where p is nil.
func (f *FS) wait(ctx context.Context, p *piece) error {
	if p == nil {
		f.sendAll()
		if err := f.dirty.take(ctx, defaultPart); err != nil {
			return err
		}
		f.dirty.give(defaultPart)
		return nil
	}
	select {
	case <-p.done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// sendAll sends every file's growing pieces: room is short.
func (f *FS) sendAll() {
	f.dirtyMu.Lock()
	var all []*inode
	for i := range f.behind {
		all = append(all, i)
	}
	f.dirtyMu.Unlock()
	for _, i := range all {
		i.mu.Lock()
		i.send(0, maxOffset)
		i.mu.Unlock()
	}
}

// send sends the growing pieces that touch [off, end). The caller holds mu.
func (i *inode) send(off, end int64) {
	for _, p := range i.behind.pieces {
		if p.grows && off < p.end && p.off < end {
			i.fs.send(i, p, false)
		}
	}
}

// put takes as much of data as goes into one piece. Where it takes nothing it
// says which piece to wait for, nil for room.
func (fl *file) put(off int64, data []byte) (n int, wait *piece, err error) {
	i, f := fl.ino, fl.fs
	size := part(f.feat.MaxWrite)
	end := off + min(int64(len(data)), size)
	i.mu.Lock()
	defer i.mu.Unlock()
	var p *piece // that data continues or changes
	for _, q := range i.behind.pieces {
		if q.grows && q.off <= off && off <= q.end && off < q.off+size {
			p = q
			end = min(end, p.off+size)
		}
	}
	for _, q := range i.behind.pieces {
		if q != p && off < q.end && q.off < end {
			if q.grows {
				f.send(i, q, false)
			}
			return 0, q, nil
		}
	}
	if p == nil {
		if n, first := i.behind.count(true); n >= fileGrowing {
			f.send(i, first, false)
		}
		if n, first := i.behind.count(false); n >= f.writes.depth(&f.dirty) {
			return 0, first, nil
		}
		want := smallPart
		if end-off > smallPart {
			want = defaultPart
		}
		if !f.dirty.try(int64(want)) {
			return 0, nil, nil
		}
		h := fl.h
		if h.mode == syscall.O_RDONLY {
			f.dirty.give(int64(want))
			return 0, nil, syscall.EBADF
		}
		h.used++
		p = &piece{off: off, end: off, buf: newBuffer(int64(want)), h: h, grows: true, done: make(chan struct{})}
		p.timer = time.AfterFunc(dirtyAge, func() {
			i.mu.Lock()
			defer i.mu.Unlock()
			if p.grows {
				f.send(i, p, false)
			}
		})
		i.behind.pieces = append(i.behind.pieces, p)
		f.setDirty(i)
	}
	if end-p.off > int64(len(*p.buf)) { // it needs a large buffer
		if !f.dirty.try(defaultPart - smallPart) {
			f.send(i, p, false)
			return 0, p, nil
		}
		large := newBuffer(defaultPart)
		copy(*large, (*p.buf)[:p.end-p.off])
		freeBuffer(p.buf)
		p.buf = large
	}
	n = copy((*p.buf)[off-p.off:end-p.off], data)
	p.end = max(p.end, end)
	i.wrote(end)
	if p.end-p.off == size {
		f.send(i, p, false)
	}
	return n, nil, nil
}

// send writes a piece to the server; last: what is behind is to be made durable
// after it. The caller holds inode.mu.
func (f *FS) send(i *inode, p *piece, last bool) {
	p.grows = false
	p.timer.Stop()
	f.work.Go(func() {
		write := p.h.WriteAt
		if s, ok := p.h.Handle.(volume.Stabler); ok && last {
			write = s.WriteStable
		} else if o, ok := p.h.Handle.(volume.Owner); ok {
			write = o.WriteOwn
		}
		start := time.Now()
		_, err := write(f.ctx, (*p.buf)[:p.end-p.off], p.off)
		if err == nil && p.end-p.off == part(f.feat.MaxWrite) {
			f.writes.landed(time.Since(start))
		}
		if err != nil {
			err = fmt.Errorf("cannot write to %s: %w", f.nameOf(i), err)
			f.opts.Note(err)
		}
		f.dirty.give(int64(len(*p.buf)))
		if f.ctx.Err() == nil {
			freeBuffer(p.buf)
		} // else it may be the volume's
		i.remove(p, err)
		if err != nil {
			f.invalidate(i, 0, 0) // its pages are not what the server has
		}
		f.drop(i, p.h)
	})
}

// flush brings everything written to the server and answers the last failure
// of what it waited for.
func (i *inode) flush(ctx context.Context) error {
	i.mu.Lock()
	failures := i.behind.failures
	i.mu.Unlock()
	if err := i.settle(ctx, 0, maxOffset); err != nil {
		return err
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.behind.failures != failures {
		return i.behind.err
	}
	return nil
}

// settle waits until what is behind of [off, end) at this moment is no more. It
// fails with ctx only.
func (i *inode) settle(ctx context.Context, off, end int64) error {
	i.mu.Lock()
	i.send(off, end)
	var wait []*piece
	for _, p := range i.behind.pieces {
		if off < p.end && p.off < end {
			wait = append(wait, p)
		}
	}
	i.mu.Unlock()
	for _, p := range wait {
		select {
		case <-p.done:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// sync flushes and tells what this file was not told of yet.
func (fl *file) sync(ctx context.Context) error {
	i := fl.ino
	i.mu.Lock()
	if len(i.behind.pieces) == 1 && i.behind.pieces[0].grows {
		fl.fs.send(i, i.behind.pieces[0], true)
	}
	i.mu.Unlock()
	if err := i.settle(ctx, 0, maxOffset); err != nil {
		return err
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	if fl.told == i.behind.failures || !fl.write {
		return nil
	}
	fl.told = i.behind.failures
	return i.behind.err
}

var _ fuse.Writer = (*FS)(nil)
