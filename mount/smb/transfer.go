package smb

import (
	"context"
	"io"
	"math/bits"
	"os"
	"sync"
	"syscall"

	"github.com/cloudsoda/go-smb2"
)

// small is the largest transfer that costs one credit (MS-SMB2 3.1.5.2).
const small = 64 << 10

// bouncing is where a transfer that its caller may abandon has its data. The
// pools hold sizes from 4 KiB to 1 MiB by powers of two.
var bouncing [9]sync.Pool

func bounce(n int) []byte {
	class := max(0, bits.Len(uint(max(n, 1)-1))-12)
	if class >= len(bouncing) {
		return make([]byte, n)
	}
	if p, ok := bouncing[class].Get().(*[]byte); ok {
		return (*p)[:n]
	}
	return make([]byte, n, 4096<<class)
}

func giveBack(b []byte) {
	class := bits.Len(uint(cap(b))) - 13
	if class < 0 || class >= len(bouncing) || cap(b) != 4096<<class {
		return
	}
	b = b[:0]
	bouncing[class].Put(&b)
}

// ReadAt implements volume.Handle. More than one request's worth is read in
// parallel.
func (h *handle) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	return h.readAt(ctx, p, off, ctx.Done() != nil)
}

// ReadOwn implements volume.Owner.
func (h *handle) ReadOwn(ctx context.Context, p []byte, off int64) (int, error) {
	return h.readAt(ctx, p, off, false)
}

func (h *handle) readAt(ctx context.Context, p []byte, off int64, bounced bool) (int, error) {
	switch {
	case off < 0:
		return 0, syscall.EINVAL
	case h.user == os.O_WRONLY:
		return 0, syscall.EBADF
	}
	return h.split(len(p), limit(h.v.cfg.MaxRead), func(from, to int) (int, error) {
		return h.readChunk(ctx, p[from:to], off+int64(from), bounced)
	})
}

// WriteAt implements volume.Handle.
func (h *handle) WriteAt(ctx context.Context, p []byte, off int64) (int, error) {
	return h.writeAt(ctx, p, off, ctx.Done() != nil)
}

// WriteOwn implements volume.Owner.
func (h *handle) WriteOwn(ctx context.Context, p []byte, off int64) (int, error) {
	return h.writeAt(ctx, p, off, false)
}

func (h *handle) writeAt(ctx context.Context, p []byte, off int64, bounced bool) (int, error) {
	switch {
	case off < 0:
		return 0, syscall.EINVAL
	case h.user == os.O_RDONLY:
		return 0, syscall.EBADF
	}
	return h.split(len(p), limit(h.v.cfg.MaxWrite), func(from, to int) (int, error) {
		return h.writeChunk(ctx, p[from:to], off+int64(from), bounced)
	})
}

// split calls do for pieces of n bytes, all at once, and answers how many bytes
// from the start were done, with the first error.
func (h *handle) split(n, piece int, do func(from, to int) (int, error)) (int, error) {
	if n <= piece {
		return do(0, n)
	}
	type result struct {
		n   int
		err error
	}
	results := make([]result, (n+piece-1)/piece)
	var wg sync.WaitGroup
	for i := range results {
		wg.Go(func() {
			from := i * piece
			r := &results[i]
			r.n, r.err = do(from, min(n, from+piece))
		})
	}
	wg.Wait()
	done := 0
	for i, r := range results {
		done += r.n
		if r.err != nil {
			return done, r.err
		}
		if r.n < min(piece, n-i*piece) {
			break
		}
	}
	return done, nil
}

// transfer is the buffer and count of one chunk.
type transfer struct {
	b []byte
	n int
}

// readChunk reads at most one request's worth. Bounced, for a caller that can
// give up and use p again, the answer lands in a buffer of ours first: the
// transport fills it when it likes.
func (h *handle) readChunk(ctx context.Context, p []byte, off int64, bounced bool) (int, error) {
	t, err := run(ctx, h.v, call[transfer]{op: "read", node: h.node, repeat: true, do: func(l *link) (transfer, error) {
		b := p
		if bounced {
			b = bounce(len(p))
		}
		n, err := h.read(l, b, off)
		return transfer{b, n}, err
	}, undo: func(t transfer) {
		if bounced {
			giveBack(t.b)
		}
	}})
	if err != nil {
		return 0, err
	}
	if bounced {
		copy(p, t.b[:t.n])
		giveBack(t.b)
	}
	return t.n, nil
}

// read fills b. A short answer is the end of the file only where the file is
// not known to be longer.
func (h *handle) read(l *link, b []byte, off int64) (n int, err error) {
	err = h.use(l, func(f *smb2.File) error {
		defer l.slot(len(b))()
		for n < len(b) {
			m, err := f.ReadAt(b[n:], off+int64(n))
			n += m
			if err == io.EOF || err == nil && m == 0 {
				return nil
			}
			if err != nil {
				return err
			}
			if uint64(off)+uint64(n) >= h.v.knownOf(h.node).size {
				return nil
			}
		}
		return nil
	})
	return n, err
}

// writeChunk writes at most one request's worth; bounced, from a copy, for a
// caller that can give up and use p again.
func (h *handle) writeChunk(ctx context.Context, p []byte, off int64, bounced bool) (int, error) {
	b := p
	if bounced {
		b = bounce(len(p))
		copy(b, p)
	}
	return run(ctx, h.v, call[int]{op: "write", node: h.node, repeat: true, do: func(l *link) (int, error) {
		err := h.write(l, b, off)
		if bounced && (err == nil || l.alive()) {
			giveBack(b)
		}
		if err != nil {
			return 0, err
		}
		return len(p), nil
	}})
}

func (h *handle) write(l *link, b []byte, off int64) error {
	return h.use(l, func(f *smb2.File) error {
		defer l.slot(len(b))()
		n, err := f.WriteAt(b, off)
		if err == nil && n != len(b) {
			err = io.ErrShortWrite
		}
		if err == nil {
			end := uint64(off) + uint64(n)
			h.written(end, false)
			h.v.grown(h.node, end)
		}
		return err
	})
}

// slot waits for one where n is large, and answers how to give it back.
func (l *link) slot(n int) (free func()) {
	if n <= small {
		return func() {}
	}
	select {
	case l.big <- struct{}{}:
		return func() { <-l.big }
	case <-l.dead:
		return func() {}
	}
}
