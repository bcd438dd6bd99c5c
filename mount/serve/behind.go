package serve

import (
	"context"
	"errors"
	"sync"
	"syscall"
	"time"

	"github.com/lxbridge/lx/core/fuse"
	"github.com/lxbridge/lx/mount/volume"
)

// behind is what was written to a file and is not at the server yet: pieces in
// the order in which they were written, the last of which may still grow. No
// two pieces overlap: a write over one waits for it. inode.mu guards it.
type behind struct {
	pieces   []*piece
	err      error  // the last failure
	failures uint64 // counts them; an open file is told of those since it was
}

// piece is a run of bytes. grows is false once it is being written.
type piece struct {
	off   int64
	buf   *[]byte
	grows bool
	timer *time.Timer
	done  chan struct{} // closed when it is at the server, or lost
}

func (p *piece) end() int64 { return p.off + int64(len(*p.buf)) }

// pieceBuffers are empty and of a piece's full size.
var pieceBuffers = sync.Pool{New: func() any { b := make([]byte, 0, defaultPart); return &b }}

// end is the largest offset that is to be written; 0 where nothing is.
func (b *behind) end() (end int64) {
	for _, p := range b.pieces {
		end = max(end, p.end())
	}
	return end
}

// overlap finds a piece that shares bytes with [off, end).
func (b *behind) overlap(off, end int64) *piece {
	for _, p := range b.pieces {
		if off < p.end() && p.off < end {
			return p
		}
	}
	return nil
}

// fuseWriteCache marks a write of the kernel's page cache (FUSE_WRITE_CACHE).
const fuseWriteCache = 1 << 0

// Write implements fuse.Writer.
func (f *FS) Write(ctx context.Context, node, fh uint64, off int64, data []byte, flags uint32) (int, syscall.Errno) {
	fl, no := f.file(fh)
	if no != 0 {
		return 0, no
	}
	// The kernel has no call to wait for its own writeback, nor do direct
	// writers expect data to stay behind.
	through := flags&fuseWriteCache != 0 || f.opts.Cache == None || f.opts.Cache == Loose
	var err error
	if through {
		err = f.writeThrough(ctx, fl, off, data)
	} else {
		err = f.writeBehind(ctx, fl, off, data)
	}
	if err != nil {
		return 0, errno(err)
	}
	return len(data), 0
}

func (f *FS) writeThrough(ctx context.Context, fl *file, off int64, data []byte) error {
	i := fl.ino
	if err := i.settle(ctx, off, off+int64(len(data))); err != nil {
		return err
	}
	h := fl.h
	if h.mode == syscall.O_RDONLY {
		w := i.writable()
		if w == nil {
			return syscall.EBADF
		}
		defer f.drop(i, w)
		h = w
	}
	for size := part(f.feat.MaxWrite); len(data) > 0; {
		n := min(int64(len(data)), size)
		if _, err := h.WriteAt(ctx, data[:n], off); err != nil {
			return err
		}
		i.mu.Lock()
		i.grew(f, off+n)
		i.mu.Unlock()
		off, data = off+n, data[n:]
	}
	return nil
}

// writeBehind appends to the growing piece where data continues it, else
// begins another.
func (f *FS) writeBehind(ctx context.Context, fl *file, off int64, data []byte) error {
	size := part(f.feat.MaxWrite)
	i := fl.ino
	for len(data) > 0 {
		i.mu.Lock()
		var last *piece
		if n := len(i.behind.pieces); n > 0 {
			last = i.behind.pieces[n-1]
		}
		if last != nil && last.grows && last.end() == off && i.behind.overlap(off, off+1) == nil && int64(len(*last.buf)) < size {
			n := min(int64(len(data)), size-int64(len(*last.buf)))
			// What was written before must not lie in the way.
			if i.behind.overlap(off, off+n) == nil {
				*last.buf = append(*last.buf, data[:n]...)
				i.grew(f, off+n)
				full := int64(len(*last.buf)) == size
				if full {
					f.send(fl, last)
				}
				i.mu.Unlock()
				off, data = off+n, data[n:]
				continue
			}
		}
		// The growing piece is complete, whatever its size.
		if last != nil && last.grows {
			f.send(fl, last)
		}
		busy := i.behind.overlap(off, off+min(int64(len(data)), size))
		if busy == nil && len(i.behind.pieces) >= fileFlight {
			busy = i.behind.pieces[0]
		}
		i.mu.Unlock()
		if busy != nil {
			select {
			case <-busy.done:
				continue
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		if err := f.dirty.take(ctx, size); err != nil {
			return err
		}
		p := &piece{off: off, buf: pieceBuffers.Get().(*[]byte), grows: true, done: make(chan struct{})}
		i.mu.Lock()
		i.behind.pieces = append(i.behind.pieces, p)
		p.timer = time.AfterFunc(dirtyAge, func() {
			i.mu.Lock()
			defer i.mu.Unlock()
			if p.grows {
				f.send(fl, p)
			}
		})
		i.mu.Unlock()
	}
	return nil
}

// send writes a piece to the server. The caller holds inode.mu.
func (f *FS) send(fl *file, p *piece) {
	p.grows = false
	p.timer.Stop()
	i, h := fl.ino, fl.h
	h.used++
	f.work.Go(func() {
		var err error
		if len(*p.buf) > 0 {
			_, err = h.WriteAt(f.ctx, *p.buf, p.off)
		}
		if err != nil {
			f.opts.Note(&volume.Error{Op: "write behind", Errno: errno(err), Err: err})
		}
		i.mu.Lock()
		for n, q := range i.behind.pieces {
			if q == p {
				i.behind.pieces = append(i.behind.pieces[:n], i.behind.pieces[n+1:]...)
				break
			}
		}
		i.changing(f)
		if err != nil {
			i.behind.err = err
			i.behind.failures++
		}
		i.mu.Unlock()
		*p.buf = (*p.buf)[:0]
		pieceBuffers.Put(p.buf)
		f.dirty.give(part(f.feat.MaxWrite))
		close(p.done)
		f.drop(i, h)
	})
}

// flush brings everything written to the server and answers the last failure
// of what it waited for.
func (i *inode) flush(ctx context.Context) error { return i.settle(ctx, 0, 1<<62) }

// settle waits until no byte of [off, end) is behind.
func (i *inode) settle(ctx context.Context, off, end int64) error {
	i.mu.Lock()
	failures := i.behind.failures
	for {
		var wait *piece
		for _, p := range i.behind.pieces {
			if off < p.end() && p.off < end || p.grows && off <= p.off && p.off < end {
				wait = p
				break
			}
		}
		if wait == nil {
			var err error
			if i.behind.failures != failures {
				err = i.behind.err
			}
			i.mu.Unlock()
			return err
		}
		if wait.grows {
			i.sendLocked(wait)
		}
		i.mu.Unlock()
		select {
		case <-wait.done:
		case <-ctx.Done():
			return ctx.Err()
		}
		i.mu.Lock()
	}
}

// sendLocked sends a growing piece through an open file that may write. The
// caller holds mu.
func (i *inode) sendLocked(p *piece) {
	for fl := range i.files {
		if fl.write {
			fl.fs.send(fl, p)
			return
		}
	}
}

// sync flushes and tells what this file has not been told of yet.
func (fl *file) sync(ctx context.Context) error {
	if err := fl.ino.flush(ctx); err != nil && ctx.Err() != nil {
		return err
	}
	i := fl.ino
	i.mu.Lock()
	failures, err := i.behind.failures, i.behind.err
	i.mu.Unlock()
	fl.mu.Lock()
	defer fl.mu.Unlock()
	if fl.told == failures {
		return nil
	}
	fl.told = failures
	return errors.Join(err)
}

var _ fuse.Writer = (*FS)(nil)
