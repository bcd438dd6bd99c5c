package serve

import (
	"context"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/lxbridge/lx/core/fuse"
)

// ahead reads a file in large pieces before they are asked for: the kernel asks
// for 128 KiB at a time, two in flight, and cannot be told to do better from a
// user namespace. file.mu guards it.
type ahead struct {
	next   int64 // where a sequential reader goes on
	run    int   // sequential reads in a row
	window int   // pieces to have on the way
	chunks map[int64]*chunk
}

// chunk is a piece of a file, read or being read.
type chunk struct {
	off   int64
	asked uint64
	buf   *[]byte
	n     int // bytes read; less than a piece: the file ends there
	err   error
	done  chan struct{}
	at    time.Time // when it was done
	refs  atomic.Int32
}

// aheadAge is how long what was read ahead may wait to be asked for.
const aheadAge = time.Second

// slack is how far a reader may jump and still be sequential: what the kernel
// has in flight.
const slack = 512 << 10

var chunkBuffers = sync.Pool{New: func() any { b := make([]byte, defaultPart); return &b }}

// Read implements fuse.Reader.
func (f *FS) Read(ctx context.Context, _, fh uint64, off int64, dst []byte) (int, syscall.Errno) {
	fl, no := f.file(fh)
	if no != 0 {
		return 0, no
	}
	if err := fl.ino.settle(ctx, off, off+int64(len(dst))); err != nil && ctx.Err() != nil {
		return 0, errno(err)
	}
	n, err := f.read(ctx, fl, off, dst)
	if err == nil && n < len(dst) && fl.ino.unwrittenAfter(off+int64(n)) {
		// The file is longer than the server knows: what lies between is a hole.
		if err = fl.ino.flush(ctx); err == nil {
			n, err = fl.readAt(ctx, dst, off)
		}
	}
	if err != nil {
		return 0, errno(err)
	}
	return n, 0
}

// unwrittenAfter says whether something was written beyond off that is not at
// the server yet.
func (i *inode) unwrittenAfter(off int64) bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.behind.end() > off
}

// read reads from what was read ahead, else from the server.
func (f *FS) read(ctx context.Context, fl *file, off int64, dst []byte) (int, error) {
	if f.opts.Cache == None {
		return fl.readAt(ctx, dst, off)
	}
	total := 0
	for total < len(dst) {
		c := fl.chunk(off + int64(total))
		if c == nil {
			n, err := fl.readAt(ctx, dst[total:], off+int64(total))
			return total + n, err
		}
		select {
		case <-c.done:
		case <-ctx.Done():
			f.put(c)
			return 0, ctx.Err()
		}
		if c.err != nil {
			err := c.err
			f.put(c)
			fl.dropAhead()
			return 0, err
		}
		if !fl.ino.unchangedSince(c.asked) {
			f.put(c)
			if err := fl.ino.settle(ctx, off, off+int64(len(dst))); err != nil && ctx.Err() != nil {
				return 0, err
			}
			return fl.readAt(ctx, dst, off)
		}
		from := off + int64(total) - c.off
		n := 0
		if from < int64(c.n) {
			n = copy(dst[total:], (*c.buf)[from:c.n])
		}
		short := c.n < defaultPart && int64(c.n) <= from+int64(n)
		f.put(c)
		total += n
		if short || n == 0 {
			break
		}
	}
	return total, nil
}

// readAt reads past the window, in parts of the volume's size.
func (fl *file) readAt(ctx context.Context, dst []byte, off int64) (int, error) {
	h := fl.h
	if h.mode == syscall.O_WRONLY {
		r := fl.ino.use(syscall.O_RDWR, syscall.O_RDONLY)
		if r == nil {
			return 0, syscall.EBADF
		}
		defer fl.fs.drop(fl.ino, r)
		h = r
	}
	size, total := part(fl.fs.feat.MaxRead), 0
	for total < len(dst) {
		p := dst[total:min(int64(len(dst)), int64(total)+size)]
		n, err := h.ReadAt(ctx, p, off+int64(total))
		total += n
		if err != nil || n < len(p) {
			return total, err
		}
	}
	return total, nil
}

// chunk is the piece that has the byte at off, with a reference, where the
// file is read in sequence; else nil. It sees to those after it.
func (fl *file) chunk(off int64) *chunk {
	fl.mu.Lock()
	defer fl.mu.Unlock()
	a := &fl.ahead
	if off >= a.next-slack && off <= a.next+slack {
		a.run++
	} else {
		a.run, a.window = 0, 0
		fl.dropLocked()
	}
	a.next = off
	start := off / defaultPart * defaultPart
	c := a.chunks[start]
	if c != nil && (c.stale() || !fl.ino.unchangedSince(c.asked)) {
		fl.dropLocked()
		c = nil
	}
	if c == nil && a.run < 2 {
		return nil
	}
	a.window = min(a.window+1, fileAhead)
	known := fl.ino.knownSize()
	if c == nil {
		if start >= known && known > 0 || known < 256<<10 {
			return nil
		}
		if c = fl.fetch(start); c == nil {
			return nil
		}
	}
	for n := int64(1); n <= int64(a.window); n++ {
		next := start + n*defaultPart
		if next >= known || a.chunks[next] != nil {
			continue
		}
		if fl.fetch(next) == nil {
			break
		}
	}
	// What lies behind a sequential reader is not asked for again.
	for o, old := range a.chunks {
		if o+defaultPart+slack < start {
			delete(a.chunks, o)
			fl.fs.put(old)
		}
	}
	c.refs.Add(1)
	return c
}

// stale says that a chunk has waited too long to be true.
func (c *chunk) stale() bool {
	select {
	case <-c.done:
		return time.Since(c.at) > aheadAge
	default:
		return false
	}
}

// unchangedSince says that what was read at a moment is still true for us.
func (i *inode) unchangedSince(asked uint64) bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	return asked > i.changed
}

func (i *inode) knownSize() int64 {
	i.mu.Lock()
	defer i.mu.Unlock()
	return int64(i.attr.Size)
}

// fetch starts to read a piece; nil where memory is short. The caller holds mu.
func (fl *file) fetch(off int64) *chunk {
	f := fl.fs
	if !f.ahead.try(defaultPart) {
		return nil
	}
	c := &chunk{off: off, asked: f.tick(), buf: chunkBuffers.Get().(*[]byte), done: make(chan struct{})}
	c.refs.Store(2) // the window's and that of the goroutine below
	if fl.ahead.chunks == nil {
		fl.ahead.chunks = map[int64]*chunk{}
	}
	fl.ahead.chunks[off] = c
	h := fl.h
	fl.ino.mu.Lock()
	h.used++
	fl.ino.mu.Unlock()
	f.work.Go(func() {
		if c.err = fl.ino.settle(f.ctx, off, off+defaultPart); c.err == nil {
			c.n, c.err = fl.readAt(f.ctx, *c.buf, off)
		}
		c.at = time.Now()
		close(c.done)
		f.put(c)
		f.drop(fl.ino, h)
	})
	return c
}

// put gives a reference back; the last frees the buffer.
func (f *FS) put(c *chunk) {
	if c.refs.Add(-1) == 0 {
		chunkBuffers.Put(c.buf)
		f.ahead.give(defaultPart)
	}
}

func (fl *file) dropAhead() {
	fl.mu.Lock()
	defer fl.mu.Unlock()
	fl.dropLocked()
}

// dropLocked forgets what was read ahead. The caller holds mu.
func (fl *file) dropLocked() {
	for o, c := range fl.ahead.chunks {
		delete(fl.ahead.chunks, o)
		fl.fs.put(c)
	}
}

var _ fuse.Reader = (*FS)(nil)
