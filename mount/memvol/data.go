package memvol

import (
	"math"
	"math/bits"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

const (
	pageSize   = 4096
	chunkPages = 64 // the bits of chunk.pages
	chunkSize  = chunkPages * pageSize
	maxSize    = math.MaxInt64
)

// data is a file's content: chunks where there is any, holes elsewhere. It is
// guarded by its node's lock.
type data struct {
	size   int64
	used   int64 // bytes of pages, reserved from the volume
	chunks map[int64]*chunk
}

// chunk is chunkSize bytes of a file. Bytes from len(b) on are zero, and so are
// those of pages that are not in use.
type chunk struct {
	pages uint64 // a bit for each page in use
	b     []byte
}

var chunkPool = sync.Pool{New: func() any { return new([chunkSize]byte) }}

// read fills p from off, which lies before the end, and answers how much.
func (d *data) read(p []byte, off int64) int {
	if off >= d.size {
		return 0
	}
	p = p[:min(int64(len(p)), d.size-off)]
	for done := 0; done < len(p); {
		at, part := span(off+int64(done), p[done:])
		n := 0
		if c := d.chunks[(off+int64(done))/chunkSize]; c != nil && at < len(c.b) {
			n = copy(part, c.b[at:])
		}
		clear(part[n:])
		done += len(part)
	}
	return len(p)
}

// view is what read would fill n bytes with, where they lie in one piece.
func (d *data) view(off int64, n int) ([]byte, bool) {
	if off >= d.size {
		return nil, false
	}
	c, at := d.chunks[off/chunkSize], int(off%chunkSize)
	end := at + int(min(int64(n), d.size-off))
	if c == nil || end > len(c.b) {
		return nil, false
	}
	return c.b[at:end:end], true
}

// write puts p at off. Where the volume is full it answers how much it wrote.
func (d *data) write(v *Volume, p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, syscall.EINVAL
	}
	if off > maxSize-int64(len(p)) {
		return 0, syscall.EFBIG
	}
	done := 0
	for done < len(p) {
		at, part := span(off+int64(done), p[done:])
		i, mask := (off+int64(done))/chunkSize, pageMask(at, at+len(part))
		c := d.chunks[i]
		if c == nil || mask&^c.pages != 0 {
			if err := v.reserve(d.missing(i, mask) * pageSize); err != nil {
				return done, err
			}
			c = d.use(i, mask)
		}
		c.write(part, at)
		done += len(part)
		d.size = max(d.size, off+int64(done))
	}
	return done, nil
}

// missing is how many of a chunk's pages are not in use.
func (d *data) missing(i int64, mask uint64) int64 {
	if c := d.chunks[i]; c != nil {
		mask &^= c.pages
	}
	return int64(bits.OnesCount64(mask))
}

// use answers a chunk with these pages in use; the missing ones are reserved.
func (d *data) use(i int64, mask uint64) *chunk {
	d.used += d.missing(i, mask) * pageSize
	c := d.chunks[i]
	if c == nil {
		if d.chunks == nil {
			d.chunks = map[int64]*chunk{}
		}
		c = &chunk{}
		d.chunks[i] = c
	}
	c.pages |= mask
	return c
}

// discard makes a hole from off to end: pages that it covers are given back,
// the rest of it is zeroed.
func (d *data) discard(v *Volume, off, end int64) {
	d.each(off, end, func(i int64, c *chunk) {
		from, to := inChunk(i, off, end)
		c.zero(from, to)
		if end == maxSize {
			to = chunkSize // the page that no offset ends
		}
		whole := pageMask((from+pageSize-1)/pageSize*pageSize, to/pageSize*pageSize) & c.pages
		c.pages &^= whole
		n := int64(bits.OnesCount64(whole)) * pageSize
		d.used -= n
		v.used.Add(-n)
		if c.pages == 0 {
			c.release()
			delete(d.chunks, i)
		}
	})
}

// zero makes bytes zero and leaves their pages in use.
func (d *data) zero(off, end int64) {
	d.each(off, end, func(i int64, c *chunk) {
		from, to := inChunk(i, off, end)
		c.zero(from, to)
	})
}

func (d *data) truncate(v *Volume, size int64) {
	if size < d.size || size == 0 {
		d.discard(v, size, maxSize)
	}
	d.size = size
}

// allocate takes the pages of a range into use, all or none.
func (d *data) allocate(v *Volume, off, end int64) error {
	missing := (end-1)/pageSize - off/pageSize + 1
	d.each(off, end, func(i int64, c *chunk) {
		missing -= int64(bits.OnesCount64(c.pages & pageMask(inChunk(i, off, end))))
	})
	if missing > v.size/pageSize {
		return syscall.ENOSPC
	}
	if err := v.reserve(missing * pageSize); err != nil {
		return err
	}
	for i := off / chunkSize; i <= (end-1)/chunkSize; i++ {
		d.use(i, pageMask(inChunk(i, off, end)))
	}
	return nil
}

// seek is lseek(2) with SEEK_DATA or SEEK_HOLE; a hole follows the end.
func (d *data) seek(off int64, whence int) (int64, error) {
	if off < 0 || off >= d.size {
		return 0, syscall.ENXIO
	}
	switch whence {
	case unix.SEEK_DATA:
		off = max(off, d.nextData(off))
		if off >= d.size {
			return 0, syscall.ENXIO
		}
		return off, nil
	case unix.SEEK_HOLE:
		return min(max(off, d.nextHole(off)), d.size), nil
	}
	return 0, syscall.EINVAL
}

// nextData is where the first page in use from that of off on begins.
func (d *data) nextData(off int64) int64 {
	i, page := off/chunkSize, off%chunkSize/pageSize
	for {
		if c := d.chunks[i]; c != nil {
			if in := c.pages >> page << page; in != 0 {
				return i*chunkSize + int64(bits.TrailingZeros64(in))*pageSize
			}
		}
		i, page = i+1, 0
		if d.chunks[i] != nil {
			continue
		}
		next := int64(math.MaxInt64)
		for j := range d.chunks {
			if j > i {
				next = min(next, j)
			}
		}
		if next == math.MaxInt64 {
			return maxSize
		}
		i = next
	}
}

// nextHole is where the first page not in use from that of off on begins.
func (d *data) nextHole(off int64) int64 {
	i, page := off/chunkSize, off%chunkSize/pageSize
	for {
		c := d.chunks[i]
		if c == nil {
			return i*chunkSize + page*pageSize
		}
		if out := ^c.pages >> page << page; out != 0 {
			return i*chunkSize + int64(bits.TrailingZeros64(out))*pageSize
		}
		i, page = i+1, 0
	}
}

// each calls f for the chunks that have bytes from off to end.
func (d *data) each(off, end int64, f func(i int64, c *chunk)) {
	if end <= off {
		return
	}
	first, last := off/chunkSize, (end-1)/chunkSize
	if last-first < int64(len(d.chunks)) {
		for i := first; i <= last; i++ {
			if c := d.chunks[i]; c != nil {
				f(i, c)
			}
		}
		return
	}
	for i, c := range d.chunks {
		if i >= first && i <= last {
			f(i, c)
		}
	}
}

func (c *chunk) write(p []byte, at int) {
	old, need := len(c.b), at+len(p)
	if need > old {
		c.grow(need)
		if at > old {
			clear(c.b[old:at])
		}
	}
	copy(c.b[at:], p)
}

// grow makes b longer; what it gains is to be overwritten. Small files take
// little, larger ones a whole chunk from the pool.
func (c *chunk) grow(n int) {
	if n <= cap(c.b) {
		c.b = c.b[:n]
		return
	}
	var b []byte
	if n > chunkSize/4 {
		b = chunkPool.Get().(*[chunkSize]byte)[:n]
	} else {
		b = make([]byte, n, max(512, 1<<bits.Len(uint(n-1))))
	}
	copy(b, c.b)
	c.b = b
}

func (c *chunk) zero(from, to int) {
	switch {
	case from >= len(c.b):
	case to >= len(c.b):
		c.b = c.b[:from]
	default:
		clear(c.b[from:to])
	}
}

func (c *chunk) release() {
	if cap(c.b) == chunkSize {
		chunkPool.Put((*[chunkSize]byte)(c.b[:chunkSize]))
	}
	c.b = nil
}

// span is where in its chunk off lies, and the part of p that fits there.
func span(off int64, p []byte) (at int, part []byte) {
	at = int(off % chunkSize)
	return at, p[:min(len(p), chunkSize-at)]
}

// inChunk is the part of chunk i that lies from off to end of the file.
func inChunk(i, off, end int64) (from, to int) {
	return int(max(off-i*chunkSize, 0)), int(min(end-i*chunkSize, chunkSize))
}

// pageMask is the pages that have bytes from at to end of a chunk.
func pageMask(at, end int) uint64 {
	if end <= at {
		return 0
	}
	first, last := at/pageSize, (end-1)/pageSize
	return ^uint64(0) << first & (^uint64(0) >> (chunkPages - 1 - last))
}
