package nfs4

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"syscall"

	"github.com/lxbridge/lx/mount/nfs/nfs4/compound"
	"github.com/lxbridge/lx/mount/nfs/nfs4/session"
	"github.com/lxbridge/lx/mount/nfs/rpc"
)

// inPieces runs f on pieces of n bytes, of at most size each, at once, and
// answers how much was done from the start without a gap.
func inPieces(n, size int, f func(at, end int) (int, error)) (int, error) {
	if n <= size {
		return f(0, n)
	}
	type result struct {
		n   int
		err error
	}
	results := make([]result, (n+size-1)/size)
	var wg sync.WaitGroup
	for i := range results {
		wg.Go(func() {
			at := i * size
			done, err := f(at, min(n, at+size))
			results[i] = result{done, err}
		})
	}
	wg.Wait()
	total := 0
	for i, r := range results {
		total += r.n
		if r.err != nil {
			return total, r.err
		}
		if r.n < min(n, (i+1)*size)-i*size {
			break
		}
	}
	return total, nil
}

// ReadAt implements volume.Handle.
func (h *handle) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	switch {
	case h.access&compound.ShareRead == 0:
		return 0, fail("read", "", syscall.EBADF)
	case off < 0 || off > maxOffset-int64(len(p)):
		return 0, fail("read", "", syscall.EINVAL)
	}
	n, err := inPieces(len(p), h.file.v.cfg.RSize, func(at, end int) (int, error) {
		return h.read(ctx, p[at:end], uint64(off)+uint64(at))
	})
	return n, fail("read", "", err)
}

// read fills p unless the file ends: servers may answer less than was asked.
func (h *handle) read(ctx context.Context, p []byte, off uint64) (done int, err error) {
	for done < len(p) {
		var n int
		var eof bool
		err := h.attempt(ctx, h.file.v.session.Fetch, func(_ *session.Conn, q *compound.Request, id compound.StateID) {
			q.PutFH(h.file.fh)
			q.Read(id, off+uint64(done), uint32(len(p)-done))
		}, func(r *compound.Reply) (err error) {
			if err = r.Next(compound.OpPutFH); err == nil {
				n, eof, err = r.Read(p[done:])
			}
			return err
		})
		if err != nil {
			return done, err
		}
		done += n
		if eof || n == 0 {
			break
		}
	}
	return done, nil
}

// WriteAt implements volume.Handle. What the server has in memory only is kept
// until it is committed.
func (h *handle) WriteAt(ctx context.Context, p []byte, off int64) (int, error) {
	return h.writeAll(ctx, p, off, compound.WriteUnstable)
}

// WriteStable implements volume.Stabler. While something is kept the server must
// be able to lose this as well: what it lost is written again, in order.
func (h *handle) WriteStable(ctx context.Context, p []byte, off int64) (int, error) {
	how := uint32(compound.WriteFileSync)
	if len(p) > h.file.v.cfg.WSize || h.file.unstable.any() || h.file.writesAlone() {
		how = compound.WriteUnstable
	}
	return h.writeAll(ctx, p, off, how)
}

func (h *handle) writeAll(ctx context.Context, p []byte, off int64, how uint32) (int, error) {
	switch {
	case !h.writes():
		return 0, fail("write", "", syscall.EBADF)
	case off < 0:
		return 0, fail("write", "", syscall.EINVAL)
	case off > maxOffset-int64(len(p)):
		return 0, fail("write", "", syscall.EFBIG)
	}
	n, err := inPieces(len(p), h.file.v.cfg.WSize, func(at, end int) (int, error) {
		return h.write(ctx, p[at:end], uint64(off)+uint64(at), how)
	})
	return n, fail("write", "", err)
}

func (h *handle) write(ctx context.Context, p []byte, off uint64, how uint32) (int, error) {
	u := &h.file.unstable
	if err := u.room(ctx, len(p)); err != nil {
		return 0, err
	}
	u.order.RLock()
	defer u.order.RUnlock()
	for done := 0; done < len(p); {
		w, err := h.send(ctx, p[done:], off+uint64(done), how)
		if err != nil {
			h.file.v.dirty.give(len(p) - done)
			return done, err
		}
		n := int(w.Count)
		if w.Stable == compound.WriteUnstable {
			u.keep(h.auth, p[done:done+n], off+uint64(done), w.Verifier)
		} else {
			h.file.v.dirty.give(n)
		}
		done += n
	}
	return len(p), nil
}

// send writes p, or a part of it, to the server.
func (h *handle) send(ctx context.Context, p []byte, off uint64, stable uint32) (w compound.Written, err error) {
	err = h.do(ctx, func(_ *session.Conn, q *compound.Request, id compound.StateID) {
		q.PutFH(h.file.fh)
		q.Write(id, off, stable, p)
	}, func(r *compound.Reply) error { return readWrite(r, &w, len(p)) })
	return w, err
}

func readWrite(r *compound.Reply, w *compound.Written, n int) (err error) {
	if err = r.Next(compound.OpPutFH); err != nil {
		return err
	}
	if *w, err = r.Write(); err == nil && (w.Count == 0 || w.Count > uint64(n)) {
		err = fmt.Errorf("the server wrote %d of %d bytes: %w", w.Count, n, syscall.EIO)
	}
	return err
}

// Sync implements volume.Handle.
func (h *handle) Sync(ctx context.Context) error {
	if err := errors.Join(ctx.Err(), h.check()); err != nil {
		return fail("sync", "", err)
	}
	return fail("sync", "", h.settled(h.file.unstable.commit(ctx)))
}

// Flush implements volume.Flusher. Under a delegation to write nobody else reads
// what COMMIT would make durable.
func (h *handle) Flush(ctx context.Context) error {
	if h.file.writesAlone() {
		return nil
	}
	return fail("close", "", h.settled(h.file.unstable.commit(ctx)))
}

// settled is err, or what was lost of the file since h was told last: every
// open file learns it, whoever found out.
func (h *handle) settled(err error) error {
	u := &h.file.unstable
	u.mu.Lock()
	failures, lost := u.failures, u.err
	u.mu.Unlock()
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.told != failures && err == nil {
		err = lost
	}
	h.told = failures
	return err
}

// maxDirty bounds what the server has not committed yet and is kept, in bytes.
const maxDirty = 128 << 20

// budget is memory that is shared by the files of a volume.
type budget struct {
	mu   sync.Mutex
	left int
	wake chan struct{} // closed when there is more
}

func (b *budget) take(n int) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.left < n {
		return false
	}
	b.left -= n
	return true
}

func (b *budget) give(n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.left += n
	if b.wake != nil {
		close(b.wake)
		b.wake = nil
	}
}

// more is closed when something was given back or kept.
func (b *budget) more() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.wake == nil {
		b.wake = make(chan struct{})
	}
	return b.wake
}

// durable commits what is kept of a file, before a change that it would undo if
// it were written again after it.
func (v *Volume) durable(ctx context.Context, fh compound.FH) error {
	v.mu.Lock()
	f := v.files[fh]
	if f != nil {
		f.uses++
	}
	v.mu.Unlock()
	if f == nil {
		return nil
	}
	defer f.drop()
	return f.unstable.commit(ctx)
}

// unstable is what of a file the server has in memory only, in the order in
// which it was written.
type unstable struct {
	file *file

	turn chan struct{} // one token: of those who commit
	// order is held shared by writes, and alone while pieces are written again.
	order sync.RWMutex

	mu         sync.Mutex
	pieces     []piece
	bytes      int
	committing bool // unasked
	// failures counts when something was lost, err is why.
	failures uint64
	err      error
}

func (u *unstable) init(f *file) {
	u.file, u.turn = f, make(chan struct{}, 1)
	u.turn <- struct{}{}
}

// any says whether something is kept.
func (u *unstable) any() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.bytes > 0
}

type piece struct {
	auth     rpc.Auth
	data     *[]byte // from buffers
	off      uint64
	verifier compound.Verifier
}

const (
	early = 32 << 20  // bytes of one file kept before they are committed unasked,
	much  = 2 * early // and before its writers wait for that
)

var buffers = sync.Pool{New: func() any { return new([]byte) }}

func (u *unstable) keep(auth rpc.Auth, p []byte, off uint64, v compound.Verifier) {
	b := buffers.Get().(*[]byte)
	*b = append((*b)[:0], p...)
	u.mu.Lock()
	u.pieces = append(u.pieces, piece{auth, b, off, v})
	u.bytes += len(p)
	u.file.v.dirty.give(0) // whoever waits for room may commit this
	unasked := u.bytes > early && !u.committing
	u.committing = u.committing || unasked
	u.mu.Unlock()
	if unasked {
		u.commitUnasked()
	}
}

// commitUnasked commits while others go on writing. What fails is told, or
// tried again, when the file is committed next. The caller has a use of the file.
func (u *unstable) commitUnasked() {
	v := u.file.v
	v.mu.Lock()
	u.file.uses++
	v.mu.Unlock()
	v.work.Go(func() {
		_ = u.commit(v.ctx)
		u.mu.Lock()
		u.committing = false
		u.mu.Unlock()
		u.file.drop()
	})
}

// room waits until n more bytes may be kept.
func (u *unstable) room(ctx context.Context, n int) error {
	v := u.file.v
	u.mu.Lock()
	kept := u.bytes
	u.mu.Unlock()
	if kept > much {
		if err := u.commit(ctx); err != nil {
			return err
		}
	}
	for !v.dirty.take(n) {
		more := v.dirty.more()
		if err := u.commit(ctx); err != nil {
			return err
		}
		if v.dirty.take(n) {
			return nil
		}
		v.mu.Lock()
		var others []*file
		for _, f := range v.files {
			if f != u.file {
				f.uses++
				others = append(others, f)
			}
		}
		v.mu.Unlock()
		for _, f := range others {
			// A failure is told to whoever syncs or closes that file.
			_ = f.unstable.commit(ctx)
			f.drop()
		}
		select {
		case <-more:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// commit makes what was written so far durable. A verifier that is not the one
// that WRITE answered tells that the server has restarted and lost it: then it
// is written again (RFC 8881, section 18.3).
func (u *unstable) commit(ctx context.Context) error {
	select {
	case <-u.turn:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { u.turn <- struct{}{} }()
	for {
		u.mu.Lock()
		pieces := u.pieces
		u.pieces = nil
		u.mu.Unlock()
		if len(pieces) == 0 {
			return nil
		}
		left, err := u.settle(ctx, pieces)
		u.mu.Lock()
		u.pieces = append(left, u.pieces...)
		u.mu.Unlock()
		if err != nil {
			return err
		}
		if len(left) == 0 {
			return nil
		}
	}
}

// settle commits pieces and answers those that must be committed once more.
func (u *unstable) settle(ctx context.Context, pieces []piece) (left []piece, err error) {
	v := u.file.v
	var got compound.Verifier
	err = v.session.Call(ctx, pieces[0].auth, func(_ *session.Conn, q *compound.Request) {
		q.PutFH(u.file.fh)
		q.Commit()
	}, func(r *compound.Reply) (err error) {
		if err = r.Next(compound.OpPutFH); err == nil {
			got, err = r.Commit()
		}
		return err
	})
	if err != nil {
		return u.lost(pieces, err)
	}
	first := slices.IndexFunc(pieces, func(p piece) bool { return p.verifier != got })
	if first < 0 {
		first = len(pieces)
	}
	for _, p := range pieces[:first] {
		u.free(p)
	}
	if first == len(pieces) {
		return nil, nil
	}
	// All that came after it goes again too, and nothing else meanwhile, or what
	// the server lost would come over what is newer.
	u.order.Lock()
	defer u.order.Unlock()
	u.mu.Lock()
	pieces = append(pieces[first:], u.pieces...)
	u.pieces = nil
	u.mu.Unlock()
	for i := range pieces {
		verifier, err := u.again(ctx, pieces[i])
		if err != nil {
			left, err = u.lost(pieces[i:], err)
			return append(pieces[:i:i], left...), err
		}
		pieces[i].verifier = verifier
	}
	return pieces, nil
}

// lost decides what becomes of pieces after a failure: where trying again may
// help they stay.
func (u *unstable) lost(pieces []piece, err error) ([]piece, error) {
	var st compound.Status
	if !errors.As(err, &st) {
		return pieces, err
	}
	u.drop(pieces, err)
	return nil, err
}

// drop lets go of pieces that cannot be brought to the server.
func (u *unstable) drop(pieces []piece, err error) {
	if len(pieces) == 0 {
		return
	}
	for _, p := range pieces {
		u.free(p)
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.failures++
	u.err = err
}

// discard drops all that is kept.
func (u *unstable) discard(err error) {
	u.mu.Lock()
	pieces := u.pieces
	u.pieces = nil
	u.mu.Unlock()
	u.drop(pieces, err)
}

func (u *unstable) free(p piece) {
	n := len(*p.data)
	buffers.Put(p.data)
	u.mu.Lock()
	u.bytes -= n
	u.mu.Unlock()
	u.file.v.dirty.give(n)
}

// again writes a piece that the server lost, through any handle that may.
func (u *unstable) again(ctx context.Context, p piece) (verifier compound.Verifier, err error) {
	v := u.file.v
	v.mu.Lock()
	var through *handle
	for h := range u.file.handles {
		if h.writes() {
			through = h
		}
	}
	v.mu.Unlock()
	data := *p.data
	for done := 0; done < len(data); {
		var w compound.Written
		if through != nil {
			w, err = through.send(ctx, data[done:], p.off+uint64(done), compound.WriteUnstable)
		} else {
			// The anonymous state id: the file is closed.
			err = v.session.Call(ctx, p.auth, func(_ *session.Conn, q *compound.Request) {
				q.PutFH(u.file.fh)
				q.Write(compound.StateID{}, p.off+uint64(done), compound.WriteUnstable, data[done:])
			}, func(r *compound.Reply) error { return readWrite(r, &w, len(data)-done) })
		}
		if err != nil {
			return verifier, err
		}
		if done > 0 && w.Verifier != verifier {
			done = 0 // it has restarted once more
			verifier = w.Verifier
			continue
		}
		verifier = w.Verifier
		done += int(w.Count)
	}
	return verifier, nil
}
