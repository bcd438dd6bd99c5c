package nfs4

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/lxbridge/lx/mount/nfs/nfs4/compound"
	"github.com/lxbridge/lx/mount/nfs/nfs4/session"
	"github.com/lxbridge/lx/mount/nfs/rpc"
	"github.com/lxbridge/lx/mount/volume"
)

// maxOffset is the largest size of a file.
const maxOffset = 1<<63 - 1

// file is what is known of a file while it is open or delegated to us.
type file struct {
	v  *Volume
	fh compound.FH

	// Volume.mu guards these.
	handles map[*handle]struct{}
	uses    int

	unstable unstable
	locks    locks
	deleg    delegation
}

// handle is an open: an open owner of its own and the state id that OPEN gave
// it. Calls through it are made with the opener's credential.
type handle struct {
	file   *file
	auth   rpc.Auth
	access uint32 // ShareRead, ShareWrite
	owner  *sequenced

	reopening chan struct{} // holds one token: whoever has it may open again

	attr volume.Attr // when it was opened

	mu     sync.Mutex // guards what follows
	state  compound.StateID
	gone   error  // why nothing works any more
	told   uint64 // failures that h was told of
	closed bool
	locks  map[uint64]*lockState
}

func shareOf(flags int) uint32 {
	switch flags & syscall.O_ACCMODE {
	case syscall.O_WRONLY:
		return compound.ShareWrite
	case syscall.O_RDWR:
		return compound.ShareBoth
	}
	return compound.ShareRead
}

// hold is the file of a filehandle; drop gives it back.
func (v *Volume) hold(fh compound.FH) *file {
	v.mu.Lock()
	defer v.mu.Unlock()
	f := v.files[fh]
	if f == nil {
		f = &file{v: v, fh: fh, handles: map[*handle]struct{}{}}
		f.unstable.init(f)
		f.locks.table.Waiters = &v.waiters
		v.files[fh] = f
	}
	f.uses++
	return f
}

func (f *file) drop() {
	f.v.mu.Lock()
	defer f.v.mu.Unlock()
	if f.uses--; f.uses == 0 && f.v.files[f.fh] == f {
		delete(f.v.files, f.fh)
	}
}

func (v *Volume) newHandle(ctx context.Context, access uint32) *handle {
	h := &handle{auth: v.cfg.Auth(ctx), access: access, owner: v.idle.get(), reopening: make(chan struct{}, 1)}
	if h.owner == nil {
		h.owner = v.newOwner()
	}
	h.reopening <- struct{}{}
	return h
}

// share is what an OPEN of h asks for.
func (h *handle) share(c *session.Conn) compound.Share {
	id, seq := h.owner.next()
	return compound.Share{Access: h.access, Client: c.Client(), Owner: id, Seq: seq}
}

// opened makes h an open of fh.
func (v *Volume) opened(h *handle, fh compound.FH, o *compound.Opened, a volume.Attr) {
	h.file = v.hold(fh)
	h.state, h.attr = o.State, a
	u := &h.file.unstable
	u.mu.Lock()
	h.told = u.failures
	u.mu.Unlock()
	v.mu.Lock()
	h.file.handles[h] = struct{}{}
	v.mu.Unlock()
	h.file.granted(h.auth, o, a)
}

// Opened implements volume.AttrHandle.
func (h *handle) Opened() volume.Attr { return h.attr }

// finish runs a call that makes state at the server and does not end it when
// ctx ends: then, once it has been answered after all, undo is run.
func (v *Volume) finish(ctx context.Context, f func(context.Context) error, undo func()) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return v.persist(ctx, f, undo)
}

// persist is finish for what gives state back: it is begun even for a caller
// that has gone.
func (v *Volume) persist(ctx context.Context, f func(context.Context) error, undo func()) error {
	done, gone := make(chan error), make(chan struct{})
	v.work.Go(func() {
		err := f(v.ctx)
		select {
		case done <- err:
		case <-gone:
			if err == nil {
				undo()
			}
		}
	})
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		close(gone)
		return ctx.Err()
	}
}

// Open implements volume.Volume.
func (v *Volume) Open(ctx context.Context, n volume.Node, flags int) (volume.Handle, error) {
	v, fh := at(n)
	h := v.newHandle(ctx, shareOf(flags))
	err := v.finish(ctx, func(ctx context.Context) error { return v.open(ctx, h, fh, flags&syscall.O_TRUNC != 0) },
		func() { _ = h.Close(v.ctx) })
	if err != nil {
		return nil, fail("open", "", err)
	}
	return h, nil
}

// open opens fh as h, at once or, in another compound, truncates it.
func (v *Volume) open(ctx context.Context, h *handle, fh compound.FH, truncate bool) error {
	if v.places != nil {
		return v.openNamed(ctx, h, fh, truncate)
	}
	if err := v.conflicts(ctx, fh, h.access); err != nil {
		return err
	}
	if truncate {
		if err := v.durable(ctx, fh); err != nil {
			return err
		}
	}
	var o compound.Opened
	var a volume.Attr
	zero := uint64(0)
	set := compound.Settable{Size: &zero}
	err := v.session.Call(ctx, h.auth, func(c *session.Conn, q *compound.Request) {
		q.PutFH(fh)
		q.OpenFH(h.share(c))
		if truncate {
			q.SetAttr(currentState, &set)
		}
		q.GetAttr(v.attrs)
	}, func(r *compound.Reply) (err error) {
		if err = r.Next(compound.OpPutFH); err != nil {
			return err
		}
		if o, err = r.Open(); err == nil && truncate {
			err = r.SetAttr()
		}
		if err == nil {
			a, err = v.getAttr(r)
		}
		return err
	})
	if o.State != (compound.StateID{}) {
		v.opened(h, fh, &o, a)
		if err != nil {
			err = errors.Join(err, h.Close(ctx))
		}
	}
	return err
}

// openNamed is open for 4.0.
func (v *Volume) openNamed(ctx context.Context, h *handle, fh compound.FH, truncate bool) error {
	o, a, err := h.openByName(ctx, v.session.Call, v, fh)
	if err != nil {
		return err
	}
	v.opened(h, fh, &o, a)
	if !truncate {
		return nil
	}
	zero := uint64(0)
	if h.attr, err = v.Setattr(ctx, node{v, fh}, h, volume.SetAttr{Size: &zero}); err != nil {
		err = errors.Join(err, h.Close(ctx))
	}
	return err
}

// currentState stands for the state id that an operation before in the same
// compound answered (RFC 8881, section 16.2.3.1.2).
var currentState = compound.StateID{Seq: 1}

// Create implements volume.Volume.
func (v *Volume) Create(ctx context.Context, dir volume.Node, name string, flags int, mode uint32) (volume.Node, volume.Attr, volume.Handle, error) {
	v, _ = at(dir)
	h := v.newHandle(ctx, shareOf(flags))
	var n node
	var a, after volume.Attr
	err := v.finish(ctx, func(ctx context.Context) (err error) {
		n, a, after, err = v.make(ctx, h, dir, name, flags, mode)
		return err
	}, func() { _ = h.Close(v.ctx) })
	if err != nil {
		return nil, volume.Attr{}, nil, fail("create", name, err)
	}
	tell(ctx, dir, &after)
	return n, a, h, nil
}

// make opens name as h and creates it. An exclusive create is known again by
// its verifier when it must be repeated in another session. after is what dir is
// like then, where that is known.
func (v *Volume) make(ctx context.Context, h *handle, dir volume.Node, name string, flags int, mode uint32) (n node, a, after volume.Attr, err error) {
	v, parent := at(dir)
	mode &= 0o7777
	zero := uint64(0)
	how, set := uint32(compound.CreateUnchecked), compound.Settable{Mode: &mode}
	var verifier compound.Verifier
	var then *compound.Settable
	switch {
	case flags&syscall.O_EXCL != 0 && v.excl.Has(compound.AttrMode):
		how = compound.CreateExclusive4_1
		_, _ = rand.Read(verifier[:]) // cannot fail
		// Servers keep the verifier where the times belong.
		then = &compound.Settable{ServerTimes: true}
	case flags&syscall.O_EXCL != 0 && v.cfg.Minor == 0:
		how = compound.CreateExclusive
		_, _ = rand.Read(verifier[:])
		then = &compound.Settable{ServerTimes: true, Mode: &mode}
	case flags&syscall.O_EXCL != 0:
		how = compound.CreateGuarded
	case flags&syscall.O_TRUNC != 0:
		set.Size = &zero
	}
	var o compound.Opened
	err = v.session.Call(ctx, h.auth, func(c *session.Conn, q *compound.Request) {
		q.PutFH(parent)
		q.SaveFH()
		q.OpenCreate(h.share(c), name, how, verifier, &set)
		q.GetFH()
		if then != nil {
			q.SetAttr(compound.StateID{}, then)
		}
		q.GetAttr(v.attrs)
		q.RestoreFH()
		q.GetAttr(v.attrs)
	}, func(r *compound.Reply) (err error) {
		if err = r.All(compound.OpPutFH, compound.OpSaveFH); err != nil {
			return err
		}
		o, err = r.Open()
		h.owner.answered(err)
		if err != nil {
			return err
		}
		var fh compound.FH
		if fh, err = r.FH(); err != nil {
			return err
		}
		n = node{v, fh}
		if then != nil {
			if err = r.SetAttr(); err != nil {
				return err
			}
		}
		if a, err = v.getAttr(r); err == nil {
			err = v.restored(r, &after)
		}
		return err
	})
	if o.State != (compound.StateID{}) && n.fh != "" {
		err = errors.Join(err, h.confirm(ctx, v.session.Call, n.fh, &o))
		v.places.found(n.fh, place{parent, name})
		v.opened(h, n.fh, &o, a)
		if err != nil {
			err = errors.Join(err, h.Close(ctx))
		}
	}
	return n, a, after, err
}

func (h *handle) writes() bool { return h.access&compound.ShareWrite != 0 }

// now is the state id that READ, WRITE and their kin name. Its sequence number
// is 0: the latest (RFC 8881, section 8.2.2).
func (h *handle) now() compound.StateID {
	h.mu.Lock()
	defer h.mu.Unlock()
	id := h.state
	if h.file.v.cfg.Minor > 0 {
		id.Seq = 0
	}
	return id
}

// check says why h cannot be used, if so.
func (h *handle) check() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return syscall.EBADF
	}
	if h.gone == nil && h.file.locks.lost.Load() > 0 {
		return errLocksLost
	}
	return h.gone
}

// do sends a compound that names h's state, and opens the file again where the
// server has lost that.
func (h *handle) do(ctx context.Context, build func(*session.Conn, *compound.Request, compound.StateID), read func(*compound.Reply) error) error {
	return h.attempt(ctx, h.file.v.session.Call, build, read)
}

func (h *handle) attempt(ctx context.Context, call caller, build func(*session.Conn, *compound.Request, compound.StateID), read func(*compound.Reply) error) error {
	for try := 0; ; try++ {
		var used compound.StateID
		err := call(ctx, h.auth, func(c *session.Conn, q *compound.Request) {
			// Asked each time: a new session may be one without our state.
			q.Err = h.check()
			used = h.now()
			build(c, q, used)
		}, read)
		var st compound.Status
		if err == nil || try == 4 || !errors.As(err, &st) || st.Class() != compound.State {
			return err
		}
		if err := h.reopen(ctx, used); err != nil {
			return err
		}
	}
}

type caller = func(context.Context, rpc.Auth, func(*session.Conn, *compound.Request), func(*compound.Reply) error) error

// Close implements volume.Handle.
func (h *handle) Close(ctx context.Context) error {
	h.mu.Lock()
	if h.closed {
		h.mu.Unlock()
		return syscall.EBADF
	}
	gone := h.gone
	h.mu.Unlock()
	var err error
	if gone == nil {
		switch {
		case h.file.unstable.any() && h.writes():
			err = h.commit(ctx)
		case h.writes():
			err = h.settled(nil)
		}
		err = errors.Join(err, h.unlockAll(ctx), h.shut(ctx))
	}
	h.mu.Lock()
	h.closed = true
	h.mu.Unlock()
	f := h.file
	f.v.mu.Lock()
	delete(f.handles, h)
	many := len(f.v.files) > maxDelegations
	f.v.mu.Unlock()
	f.drop()
	if many {
		f.v.trim(maxDelegations / 2)
	}
	return fail("close", "", err)
}

// commit is Sync for Close: it goes on when the caller is interrupted, and what
// it cannot bring to the server is told of and let go.
func (h *handle) commit(ctx context.Context) error {
	v, u := h.file.v, &h.file.unstable
	return v.persist(ctx, func(working context.Context) error {
		err := u.commit(working)
		if err != nil {
			u.discard(err)
			if ctx.Err() != nil {
				v.cfg.Note(fmt.Errorf("what was written to a file is lost: %w", err))
			}
		}
		return h.settled(err)
	}, func() {})
}

// shut gives the state back. It goes on when the caller is interrupted, who
// does not wait for it then.
func (h *handle) shut(ctx context.Context) error {
	v := h.file.v
	err := v.persist(ctx, func(ctx context.Context) error {
		if err := h.owner.begin(ctx); err != nil {
			return err
		}
		defer h.owner.end()
		return v.session.Call(ctx, h.auth, func(_ *session.Conn, q *compound.Request) {
			_, seq := h.owner.next()
			q.PutFH(h.file.fh)
			q.Close(seq, h.now())
		}, h.readClose)
	}, func() {})
	if err == nil {
		v.idle.put(h.owner)
	}
	var st compound.Status
	if errors.As(err, &st) && (st.Class() == compound.State || st.Errno() == syscall.ESTALE) {
		return nil // there is nothing to give back
	}
	return err
}

// closeAll closes what is open and gives delegations back.
func (v *Volume) closeAll(ctx context.Context) error {
	v.mu.Lock()
	var handles []*handle
	var files []*file
	for _, f := range v.files {
		for h := range f.handles {
			handles = append(handles, h)
		}
		files = append(files, f)
	}
	v.mu.Unlock()
	err := atOnce(handles, func(h *handle) error {
		if err := h.Close(ctx); !errors.Is(err, syscall.EBADF) {
			return err
		}
		return nil
	})
	return errors.Join(err, atOnce(files, func(f *file) error { return f.giveBack(ctx) }))
}

// closers is how much of what is left is given back at once.
const closers = 16

// atOnce calls do for each of all, several at once.
func atOnce[T any](all []T, do func(T) error) error {
	errs := make([]error, len(all))
	var next atomic.Int64
	var wg sync.WaitGroup
	for range min(closers, len(all)) {
		wg.Go(func() {
			for i := next.Add(1) - 1; i < int64(len(all)); i = next.Add(1) - 1 {
				errs[i] = do(all[i])
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}
