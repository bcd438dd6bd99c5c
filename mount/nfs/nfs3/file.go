package nfs3

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/lxbridge/lx/mount/nfs/rpc"
	"github.com/lxbridge/lx/mount/nfs/xdr"
	"github.com/lxbridge/lx/mount/volume"
)

// handle is an open file. The protocol knows no such thing: it is the node, and
// as whom it was opened.
type handle struct {
	v           *Volume
	n           *node
	auth        rpc.Auth
	read, write bool
	shut        atomic.Bool
}

func (v *Volume) newHandle(ctx context.Context, n *node, flags int) *handle {
	v.opened(n)
	mode := flags & syscall.O_ACCMODE
	return &handle{v: v, n: n, auth: v.cfg.Auth(ctx), read: mode != os.O_WRONLY, write: mode != os.O_RDONLY}
}

// Open implements volume.Volume. The server is asked for the rights now, since
// a caller expects EACCES of open(2) and not of read(2).
func (v *Volume) Open(ctx context.Context, n volume.Node, flags int) (volume.Handle, error) {
	h, err := v.open(ctx, n.(*node), flags)
	if err != nil {
		return nil, v.failure("open", "", err)
	}
	return h, nil
}

func (v *Volume) open(ctx context.Context, n *node, flags int) (*handle, error) {
	switch n.typ {
	case syscall.S_IFREG:
	case syscall.S_IFDIR:
		return nil, syscall.EISDIR
	case syscall.S_IFLNK:
		return nil, syscall.ELOOP
	default:
		return nil, syscall.ENXIO
	}
	var want uint32
	switch flags & syscall.O_ACCMODE {
	case os.O_RDONLY:
		want = accessRead
	case os.O_WRONLY:
		want = accessModify | accessExtend
	default:
		want = accessRead | accessModify | accessExtend
	}
	err := v.access(ctx, n, want)
	if errors.Is(err, syscall.EACCES) && want == accessRead {
		// Who may execute a file may have it read for that (RFC 1813 4.4).
		err = v.access(ctx, n, accessExecute)
	}
	if err == nil && flags&os.O_TRUNC != 0 {
		_, err = v.setattr(ctx, n, volume.SetAttr{Size: new(uint64)})
	}
	if err != nil {
		return nil, err
	}
	return v.newHandle(ctx, n, flags), nil
}

// usable refuses I/O through a handle that is closed or not meant for it, and
// on a file whose lock was lost.
func (h *handle) usable(meant bool) error {
	switch {
	case !meant || h.shut.Load():
		return syscall.EBADF
	case h.v.locks != nil && h.v.locks.lost(h.n):
		return errLockLost
	}
	return nil
}

// transferring is a READ on its way: where its data goes.
type transferring struct {
	into []byte
	n    int
	end  bool
	err  error // the status
}

var transfers = sync.Pool{New: func() any { return new(transferring) }}

// DecodeResults reads READ3res (RFC 1813 3.3.6), its data into the caller's memory.
func (t *transferring) DecodeResults(d *xdr.Decoder) error {
	if t.err = readStatus(d); t.err != nil {
		return nil
	}
	if d.Bool() {
		d.Skip(attrSize)
	}
	count := d.Uint32()
	t.end = d.Bool()
	if t.n = d.OpaqueInto(t.into); d.Err() == nil && uint32(t.n) != count {
		d.Fail("%d bytes read, but %d of data", count, t.n)
	}
	return d.Err()
}

// attrSize is the length of fattr3, in bytes.
const attrSize = 84

// ReadAt implements volume.Handle.
func (h *handle) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	if err := h.usable(h.read); err != nil {
		return 0, h.v.failure("read", "", err)
	}
	n := 0
	for n < len(p) {
		m, end, err := h.readOnce(ctx, p[n:min(len(p), n+h.v.read)], off+int64(n))
		if err != nil {
			return n, h.v.failure("read", "", err)
		}
		n += m
		if end || m == 0 {
			break
		}
	}
	return n, nil
}

func (h *handle) readOnce(ctx context.Context, p []byte, off int64) (int, bool, error) {
	t := transfers.Get().(*transferring)
	call := h.v.callAs(h.auth, procRead, h.n)
	call.Args.Uint64(uint64(off))
	call.Args.Uint32(uint32(len(p)))
	*t = transferring{into: p}
	call.Into = t
	err := h.v.client.Do(ctx, call)
	if err == nil {
		err = t.err
	}
	if err == status(errJukebox) {
		err = patiently(ctx, func() error {
			if err := h.v.client.Do(ctx, call); err != nil {
				return err
			}
			return t.err
		})
	}
	n, end := t.n, t.end
	call.Free()
	t.into = nil
	transfers.Put(t)
	return n, end, err
}

// How stable WRITE makes its data (stable_how).
const (
	unstableHow = 0
	fileSync    = 2
)

// unstable is what was written to a file and not committed yet. It is kept,
// since a server that restarts before COMMIT has lost it (RFC 1813 4.8).
type unstable struct {
	// order is held shared by writes, and alone while data is written again,
	// which must not come over newer data.
	order sync.RWMutex

	mu         sync.Mutex // guards what follows
	writes     []kept
	size       int
	committing bool // in the background
	err        error

	turn chan struct{} // has one element while somebody commits; made when first wanted
}

// one is the turn to commit: who can send has it, and receives to give it back.
func (u *unstable) one() chan struct{} {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.turn == nil {
		u.turn = make(chan struct{}, 1)
	}
	return u.turn
}

// any says whether something is kept.
func (u *unstable) any() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.size > 0
}

// kept is a write that may have to be done again.
type kept struct {
	data     []byte
	off      int64
	verifier [8]byte
	auth     rpc.Auth
	chunk    *[]byte // the pool's memory that data lies in, if it does
}

const (
	// commitAfter is how many bytes of a file are kept before they are
	// committed in the background, and maxUnstable how many of a volume before
	// a write waits for that.
	commitAfter = 16 << 20
	maxUnstable = 64 << 20
)

// WriteAt implements volume.Handle.
func (h *handle) WriteAt(ctx context.Context, p []byte, off int64) (int, error) {
	return h.writeAll(ctx, p, off, unstableHow)
}

// WriteStable implements volume.Stabler. While something is kept the server must
// be able to lose this as well: what it lost is written again, in order.
func (h *handle) WriteStable(ctx context.Context, p []byte, off int64) (int, error) {
	how := uint32(fileSync)
	if len(p) > h.v.write || h.n.data.any() {
		how = unstableHow
	}
	return h.writeAll(ctx, p, off, how)
}

func (h *handle) writeAll(ctx context.Context, p []byte, off int64, how uint32) (int, error) {
	if err := h.usable(h.write); err != nil {
		return 0, h.v.failure("write", "", err)
	}
	n := 0
	for n < len(p) {
		m, err := h.writeOnce(ctx, p[n:min(len(p), n+h.v.write)], off+int64(n), how)
		if err != nil {
			return n, h.v.failure("write", "", err)
		}
		n += m
	}
	if n == 0 && ctx.Err() != nil {
		return 0, h.v.failure("write", "", ctx.Err())
	}
	return n, nil
}

func (h *handle) writeOnce(ctx context.Context, p []byte, off int64, how uint32) (int, error) {
	v, u := h.v, &h.n.data
	if v.unsafe.Load() > maxUnstable {
		if err := v.commit(ctx, h.n); err != nil {
			return 0, err
		}
	}
	u.order.RLock()
	defer u.order.RUnlock()
	n, done, verifier, err := v.writeData(ctx, h.n, h.auth, p, off, how)
	if err == nil && done == unstableHow {
		v.keep(h.n, kept{data: p[:n], off: off, verifier: verifier, auth: h.auth})
	}
	return n, err
}

// writeData is one WRITE (RFC 1813 3.3.7).
func (v *Volume) writeData(ctx context.Context, n *node, auth rpc.Auth, p []byte, off int64, how uint32) (int, uint32, [8]byte, error) {
	call := v.callAs(auth, procWrite, n)
	defer call.Free()
	call.Args.Uint64(uint64(off))
	call.Args.Uint32(uint32(len(p)))
	call.Args.Uint32(how)
	call.Args.OpaqueRef(p)
	if err := v.do(ctx, call); err != nil {
		return 0, 0, [8]byte{}, err
	}
	d := &call.Results
	v.wcc(d, nil)
	count, done := d.Uint32(), d.Uint32()
	var verifier [8]byte
	copy(verifier[:], d.Fixed(8))
	if count == 0 || uint64(count) > uint64(len(p)) {
		d.Fail("%d bytes written of %d", count, len(p))
	}
	return int(count), done, verifier, d.Err()
}

// keep copies what was written, until it is committed.
func (v *Volume) keep(n *node, k kept) {
	if len(k.data) > v.write/2 {
		k.chunk = v.chunks.Get().(*[]byte)
		k.data = (*k.chunk)[:copy(*k.chunk, k.data)]
	} else {
		k.data = append([]byte(nil), k.data...)
	}
	v.unsafe.Add(int64(len(k.data)))
	u := &n.data
	u.mu.Lock()
	defer u.mu.Unlock()
	u.writes = append(u.writes, k)
	u.size += len(k.data)
	if u.size >= commitAfter && !u.committing && !v.shut.Load() {
		u.committing = true
		v.wg.Go(func() {
			err := v.commit(v.ctx, n)
			if err != nil && !v.isOpen(n) {
				v.abandon(n)
			}
			u.mu.Lock()
			defer u.mu.Unlock()
			u.committing = false
			if err != nil && v.ctx.Err() == nil && u.err == nil {
				u.err = err
			}
		})
	}
}

// commit makes durable all that was written to a file so far (RFC 1813 3.3.21).
func (v *Volume) commit(ctx context.Context, n *node) error {
	u := &n.data
	turn := u.one()
	select {
	case turn <- struct{}{}:
		defer func() { <-turn }()
	case <-ctx.Done():
		return ctx.Err()
	}
	u.mu.Lock()
	writes := u.writes
	err := u.err
	u.err = nil
	u.mu.Unlock()
	if len(writes) == 0 || err != nil {
		return err
	}
	verifier, err := v.commitCall(ctx, n, writes[0].auth)
	if err == nil && slices.ContainsFunc(writes, func(k kept) bool { return k.verifier != verifier }) {
		return v.given(n, v.again(ctx, n))
	}
	if err == nil {
		v.committed(n, len(writes))
	}
	return v.given(n, err)
}

// given is err as commit answers it: what the server refuses to keep is lost,
// and told once, as Linux does. Other errors may pass, and it is kept.
func (v *Volume) given(n *node, err error) error {
	var refused status
	if errors.As(err, &refused) {
		v.drop(n)
	}
	return err
}

// drop gives up all that is kept of a file. The caller has the turn to commit.
func (v *Volume) drop(n *node) {
	u := &n.data
	u.mu.Lock()
	count := len(u.writes)
	u.mu.Unlock()
	v.committed(n, count)
}

// abandon drops what is kept of a file that nobody has open and could not be
// committed: nobody is left to try again, but who is at it.
func (v *Volume) abandon(n *node) {
	turn := n.data.one()
	select {
	case turn <- struct{}{}:
		v.drop(n)
		<-turn
	default:
	}
}

// commitCall is one COMMIT of a whole file.
func (v *Volume) commitCall(ctx context.Context, n *node, auth rpc.Auth) (verifier [8]byte, err error) {
	call := v.callAs(auth, procCommit, n)
	defer call.Free()
	call.Args.Uint64(0)
	call.Args.Uint32(0)
	if err := v.do(ctx, call); err != nil {
		return verifier, err
	}
	v.wcc(&call.Results, nil)
	copy(verifier[:], call.Results.Fixed(8))
	return verifier, call.Results.Err()
}

// again does the writes anew that the server forgot when it restarted, in
// their order and with no others between them, and durably at once.
func (v *Volume) again(ctx context.Context, n *node) error {
	u := &n.data
	u.order.Lock()
	defer u.order.Unlock()
	u.mu.Lock()
	writes := u.writes
	u.mu.Unlock()
	for i, k := range writes {
		for p, off := k.data, k.off; len(p) > 0; {
			m, how, _, err := v.writeData(ctx, n, k.auth, p, off, fileSync)
			if err == nil && how != fileSync {
				err = fmt.Errorf("the server does not write durably, as it was asked: %w", syscall.EIO)
			}
			if err != nil {
				v.committed(n, i)
				return err
			}
			p, off = p[m:], off+int64(m)
		}
	}
	v.committed(n, len(writes))
	return nil
}

// committed forgets the first count writes kept.
func (v *Volume) committed(n *node, count int) {
	u := &n.data
	u.mu.Lock()
	defer u.mu.Unlock()
	size := 0
	for _, k := range u.writes[:count] {
		size += len(k.data)
		if k.chunk != nil {
			v.chunks.Put(k.chunk)
		}
	}
	rest := copy(u.writes, u.writes[count:])
	clear(u.writes[rest:])
	u.writes = u.writes[:rest]
	u.size -= size
	v.unsafe.Add(-int64(size))
}

// Sync implements volume.Handle.
func (h *handle) Sync(ctx context.Context) error {
	err := ctx.Err()
	if err == nil {
		err = h.usable(true)
	}
	if err == nil {
		err = h.v.commit(ctx, h.n)
	}
	return h.v.failure("sync", "", err)
}

// Flush implements volume.Flusher.
func (h *handle) Flush(ctx context.Context) error {
	return h.v.failure("close", "", h.v.commit(ctx, h.n))
}

// Close implements volume.Handle. What was written is durable afterwards, as
// close-to-open wants it.
func (h *handle) Close(ctx context.Context) error {
	if h.shut.Swap(true) {
		return h.v.failure("close", "", syscall.EBADF)
	}
	var err error
	if h.write {
		err = h.v.commit(ctx, h.n)
	}
	if h.v.locks != nil {
		err = errors.Join(err, h.v.locks.release(ctx, h))
	}
	if h.v.closed(h.n) && err != nil {
		h.v.abandon(h.n)
	}
	h.v.forget(h.n)
	return h.v.failure("close", "", err)
}
