package serve

import (
	"context"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/lxbridge/lx/core/fuse"
	"github.com/lxbridge/lx/mount/volume"
)

const (
	aheadAge = time.Second // how long what was read ahead stays true
	slack    = 512 << 10   // how far apart reads that the kernel has in flight may come
	atOnce   = 128 << 10   // a first read of so much, or two in sequence, start reading ahead
	worthy   = 256 << 10   // smaller files are read as they are asked for
)

// ahead reads a file in large pieces before they are asked for: the kernel asks
// for 128 KiB at a time, two in flight, and cannot be told to do better from a
// user namespace. Where its lock and an inode's are held, it is taken first.
type ahead struct {
	mu     sync.Mutex // guards what follows
	high   int64      // the end of the furthest read in sequence
	run    int        // reads in sequence
	window int64      // pieces to have on the way
	chunks map[int64]*chunk
}

// chunk is a piece of a file, read or being read.
type chunk struct {
	fs   *FS
	off  int64
	buf  *[]byte
	n    int // bytes read; less than a piece: the file ends there
	err  error
	done chan struct{}
	at   time.Time    // when it was done
	refs atomic.Int32 // its window, the reading, and who copies out of it
}

var chunkBuffers = sync.Pool{New: func() any { b := make([]byte, defaultPart); return &b }}

// Read implements fuse.Reader.
func (f *FS) Read(ctx context.Context, _, fh uint64, off int64, dst []byte) (int, syscall.Errno) {
	fl, no := f.file(fh)
	if no != 0 {
		return 0, no
	}
	i := fl.ino
	// What lies before data that is not at the server yet is a hole.
	i.mu.Lock()
	hole := i.behind.reach()
	i.mu.Unlock()
	if hole > 0 {
		if err := i.settle(ctx, off, off+int64(len(dst))); err != nil {
			return 0, errno(err)
		}
	}
	n, err := fl.read(ctx, off, dst)
	if err != nil {
		return 0, errno(err)
	}
	if want := min(int64(len(dst)), hole-off); int64(n) < want {
		clear(dst[n:want])
		n = int(want)
	}
	return n, 0
}

func (fl *file) read(ctx context.Context, off int64, dst []byte) (int, error) {
	if fl.fs.opts.Cache == None {
		return fl.readAt(ctx, dst, off, false)
	}
	total := 0
	for total < len(dst) {
		c := fl.chunk(off+int64(total), len(dst)-total)
		if c == nil {
			n, err := fl.readAt(ctx, dst[total:], off+int64(total), false)
			return total + n, err
		}
		n, err := c.copy(ctx, dst[total:], off+int64(total))
		c.Return()
		total += n
		if err != nil {
			fl.ahead.dropAll()
			return total, err
		}
		if n == 0 || (off+int64(total))%defaultPart != 0 {
			break
		}
	}
	return total, nil
}

// copy waits for c and copies what it has from off on.
func (c *chunk) copy(ctx context.Context, dst []byte, off int64) (int, error) {
	select {
	case <-c.done:
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	if c.err != nil {
		return 0, c.err
	}
	return copy(dst, (*c.buf)[min(int(off-c.off), c.n):c.n]), nil
}

// Lend implements fuse.Lender with the volume's own memory, or with what was
// read ahead. While data is not at the server yet, Read puts it together.
func (f *FS) Lend(ctx context.Context, _, fh uint64, off int64, n int) ([]byte, fuse.Loan, bool) {
	fl, no := f.file(fh)
	if no != 0 || f.opts.Cache == None || fl.h.mode == syscall.O_WRONLY || !fl.ino.clean() {
		return nil, nil, false
	}
	if v, ok := fl.h.Handle.(volume.Lender); ok {
		return v.Lend(off, n)
	}
	c := fl.chunk(off, n)
	if c == nil {
		return nil, nil, false
	}
	select {
	case <-c.done:
	case <-ctx.Done():
		c.Return()
		return nil, nil, false
	}
	from := int(off - c.off)
	to := min(from+n, c.n)
	if c.err != nil || from > to || from+n > defaultPart {
		c.Return()
		return nil, nil, false
	}
	return (*c.buf)[from:to], c, true
}

// clean says that all that was written is at the server.
func (i *inode) clean() bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	return len(i.behind.pieces) == 0
}

// readAt reads past the window, in parts of the volume's size. Own: dst is the
// volume's where ctx ends first.
func (fl *file) readAt(ctx context.Context, dst []byte, off int64, own bool) (int, error) {
	h := fl.h
	if h.mode == syscall.O_WRONLY {
		r := fl.ino.use(syscall.O_RDWR, syscall.O_RDONLY)
		if r == nil {
			return 0, syscall.EBADF
		}
		defer fl.fs.drop(fl.ino, r)
		h = r
	}
	read := h.ReadAt
	if o, ok := h.Handle.(volume.Owner); ok && own {
		read = o.ReadOwn
	}
	size, total := int(part(fl.fs.feat.MaxRead)), 0
	for total < len(dst) {
		p := dst[total:min(len(dst), total+size)]
		n, err := read(ctx, p, off+int64(total))
		total += n
		if err != nil || n < len(p) {
			return total, err
		}
	}
	return total, nil
}

// chunk is the piece that has the byte at off, with a reference, where the
// file is read in sequence; else nil. It sees to those after it. What is in
// memory already is not read ahead.
func (fl *file) chunk(off int64, n int) *chunk {
	if _, ok := fl.h.Handle.(volume.Lender); ok {
		return nil
	}
	a, size := &fl.ahead, fl.ino.size()
	a.mu.Lock()
	defer a.mu.Unlock()
	switch end := off + int64(n); {
	case off < a.high-slack || off > a.high+slack:
		a.run, a.window, a.high = 0, 0, end
		a.dropLocked()
	case end > a.high:
		a.run, a.high = a.run+1, end
	}
	start := off / defaultPart * defaultPart
	c := a.chunks[start]
	if c != nil && c.stale() {
		a.dropLocked()
		c = nil
	}
	sequential := a.run >= 2 || a.run == 1 && off == 0 && n >= atOnce
	if c == nil {
		if !sequential || size < worthy || start >= size {
			return nil
		}
		if c = fl.fetch(start); c == nil {
			return nil
		}
	}
	if sequential {
		a.window = min(a.window+1, int64(fl.fs.reads.depth(&fl.fs.ahead)))
	}
	far := start + a.window*defaultPart
	for next := start + defaultPart; next <= far && next < size; next += defaultPart {
		if a.chunks[next] == nil && fl.fetch(next) == nil {
			break
		}
	}
	for o, old := range a.chunks { // what a reader in sequence has left behind
		if o+defaultPart+slack < start {
			delete(a.chunks, o)
			old.Return()
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

// full says that the file does not end in c.
func (c *chunk) full() bool {
	select {
	case <-c.done:
		return c.n == defaultPart
	default:
		return false
	}
}

func (i *inode) size() int64 {
	i.mu.Lock()
	defer i.mu.Unlock()
	return int64(i.attr.Size)
}

// fetch starts to read a piece; nil where memory is short, or data for it is
// not at the server yet. The caller holds ahead.mu.
func (fl *file) fetch(off int64) *chunk {
	f, i := fl.fs, fl.ino
	if !f.ahead.try(defaultPart) {
		f.dropStale()
		return nil
	}
	i.mu.Lock()
	h := fl.h
	if h.mode == syscall.O_WRONLY || i.behind.overlap(off, off+defaultPart) != nil {
		i.mu.Unlock()
		f.ahead.give(defaultPart)
		return nil
	}
	h.used++
	hole := i.behind.reach() // as in Read
	i.mu.Unlock()
	c := &chunk{fs: f, off: off, buf: chunkBuffers.Get().(*[]byte), done: make(chan struct{})}
	c.refs.Store(2)
	if fl.ahead.chunks == nil {
		fl.ahead.chunks = map[int64]*chunk{}
	}
	fl.ahead.chunks[off] = c
	f.work.Go(func() {
		start := time.Now()
		c.n, c.err = fl.readAt(f.ctx, *c.buf, off, true)
		if c.n == defaultPart {
			f.reads.landed(time.Since(start))
		}
		if want := int(min(defaultPart, hole-off)); c.err == nil && c.n < want {
			clear((*c.buf)[c.n:want])
			c.n = want
		}
		c.at = time.Now()
		close(c.done)
		c.Return()
		f.drop(i, h)
	})
	return c
}

// Return gives a reference back; the last frees the buffer.
func (c *chunk) Return() {
	if c.refs.Add(-1) == 0 {
		if c.fs.ctx.Err() == nil {
			chunkBuffers.Put(c.buf)
		} // else it may be the volume's
		c.fs.ahead.give(defaultPart)
	}
}

func (a *ahead) dropAll() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.dropLocked()
}

func (a *ahead) dropLocked() {
	for o, c := range a.chunks {
		delete(a.chunks, o)
		c.Return()
	}
}

// dropAhead forgets what any open file has read ahead of [off, end), which is
// about to change: whoever calls has put it among the pieces behind, so that it
// is not read ahead again.
func (i *inode) dropAhead(off, end int64) {
	i.mu.Lock()
	files := make([]*file, 0, len(i.files))
	for fl := range i.files {
		files = append(files, fl)
	}
	i.mu.Unlock()
	for _, fl := range files {
		fl.ahead.mu.Lock()
		for o, c := range fl.ahead.chunks {
			// One that may be short says where the file ends.
			if o < end && (off < o+defaultPart || !c.full()) {
				delete(fl.ahead.chunks, o)
				c.Return()
			}
		}
		fl.ahead.mu.Unlock()
	}
}

// dropStale forgets what open files that are not read any more have read ahead.
func (f *FS) dropStale() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, fl := range f.files {
		if !fl.ahead.mu.TryLock() { // it is being read
			continue
		}
		for o, c := range fl.ahead.chunks {
			if c.stale() {
				delete(fl.ahead.chunks, o)
				c.Return()
			}
		}
		fl.ahead.mu.Unlock()
	}
}

var (
	_ fuse.Reader = (*FS)(nil)
	_ fuse.Lender = (*FS)(nil)
)
