package nfs4

import (
	"context"
	"errors"
	"fmt"
	"syscall"

	"github.com/lxbridge/lx/mount/nfs/nfs4/compound"
	"github.com/lxbridge/lx/mount/nfs/nfs4/session"
	"github.com/lxbridge/lx/mount/nfs/rpc"
	"github.com/lxbridge/lx/mount/volume"
)

// holder is the volume as its session knows it.
type holder struct{ *Volume }

// errLocksLost is what operations on a file answer whose locks the server has
// dropped: another client may have had them since.
var errLocksLost = fmt.Errorf("the server has lost the locks on this file: %w", syscall.EIO)

// all is the handles that are open, and the files.
func (v *Volume) all() (handles []*handle, files []*file) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, f := range v.files {
		files = append(files, f)
		for h := range f.handles {
			handles = append(handles, h)
		}
	}
	return handles, files
}

// Reclaim implements session.Holder: every open and lock is claimed as one from
// before the server's restart. Where it does not allow that (no grace period,
// or the lease had ended) files are opened as new and their locks are lost.
func (v holder) Reclaim(ctx context.Context, c *session.Conn, complete func() error) error {
	handles, files := v.all()
	for _, f := range files {
		f.forget() // whatever was cached by it is asked for again
	}
	var lost []*handle
	for _, h := range handles {
		claimed, err := h.reclaim(ctx, c)
		if err := v.recovered(h, err); err != nil {
			return err
		}
		if !claimed && err == nil {
			lost = append(lost, h)
		}
	}
	if err := complete(); err != nil {
		return err
	}
	for _, h := range lost {
		if err := v.recovered(h, h.openAnew(ctx, c.Patient)); err != nil {
			return err
		}
	}
	return nil
}

// recovered is err unless it is one of h alone, which has failed then.
func (v holder) recovered(h *handle, err error) error {
	var st compound.Status
	if errors.As(err, &st) && st.Class() == compound.Final {
		h.fail(fmt.Errorf("cannot open the file again: %w", errors.Join(syscall.EIO, err)))
		v.cfg.Note(fmt.Errorf("an open file is lost: %w", err))
		return nil
	}
	return err
}

func (h *handle) fail(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.gone == nil {
		h.gone = err
	}
}

// reclaim claims h and its locks in a new session. claimed is false where that
// is not allowed, so that h's file must be opened anew.
func (h *handle) reclaim(ctx context.Context, c *session.Conn) (claimed bool, err error) {
	h.mu.Lock()
	skip := h.closed || h.gone != nil
	h.mu.Unlock()
	if skip {
		return true, nil
	}
	h.owner.rename(h.file.v.owners.Add(1))
	err = h.claim(ctx, c.Patient, func(c *session.Conn, q *compound.Request) { q.OpenPrevious(h.share(c), compound.DelegateNone) })
	switch {
	case err == nil:
		return true, h.reclaimLocks(ctx, c)
	case is(err, compound.ErrNoGrace), is(err, compound.ErrReclaimBad), is(err, compound.ErrReclaimConflict):
		h.loseLocks()
		return false, nil
	}
	return false, err
}

// openAnew opens h's file as if for the first time.
func (h *handle) openAnew(ctx context.Context, call caller) error {
	f := h.file
	if f.v.places == nil {
		return h.claim(ctx, call, h.openFH)
	}
	h.owner.rename(f.v.owners.Add(1))
	o, a, err := h.openByName(ctx, call, f.v, f.fh)
	if err == nil {
		h.took(&o, a)
	}
	return err
}

func (h *handle) took(o *compound.Opened, a volume.Attr) {
	h.mu.Lock()
	h.state = o.State
	h.mu.Unlock()
	h.file.granted(h.auth, o, a)
}

func (h *handle) openFH(c *session.Conn, q *compound.Request) { q.OpenFH(h.share(c)) }

// claim opens h's file by what open appends.
func (h *handle) claim(ctx context.Context, call caller, open session.Build) error {
	var o compound.Opened
	var a volume.Attr
	err := call(ctx, h.auth, func(c *session.Conn, q *compound.Request) {
		q.PutFH(h.file.fh)
		open(c, q)
		q.GetAttr(h.file.v.attrs)
	}, func(r *compound.Reply) (err error) {
		if err = r.Next(compound.OpPutFH); err == nil {
			o, err = r.Open()
			h.owner.answered(err)
		}
		if err == nil {
			a, err = h.file.v.getAttr(r)
		}
		return err
	})
	if err == nil {
		err = h.confirm(ctx, call, h.file.fh, &o)
	}
	if err == nil {
		h.took(&o, a)
	}
	return err
}

// reopen opens h's file again since the server does not know used any more:
// the lease had ended, or an administrator took it. Locks are lost then.
func (h *handle) reopen(ctx context.Context, used compound.StateID) error {
	select {
	case <-h.reopening:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { h.reopening <- struct{}{} }()
	if h.now() != used {
		return nil // somebody has
	}
	h.loseLocks()
	err := h.openAnew(ctx, h.file.v.session.Call)
	var st compound.Status
	if errors.As(err, &st) {
		h.fail(err)
	}
	return err
}

// Revoked implements session.Holder: whatever the server took is freed there
// and opened again.
func (v holder) Revoked(ctx context.Context) {
	handles, files := v.all()
	for _, h := range handles {
		id := h.now()
		if v.bad(ctx, h.auth, id) {
			if err := h.reopen(ctx, id); err != nil {
				v.cfg.Note(fmt.Errorf("an open file is lost: %w", err))
			}
		}
		h.testLocks(ctx)
	}
	for _, f := range files {
		f.testDelegation(ctx)
	}
}

// bad asks whether the server has taken id, and frees it there if so.
func (v *Volume) bad(ctx context.Context, auth rpc.Auth, id compound.StateID) bool {
	var verdict []compound.Status
	err := v.session.Call(ctx, auth, func(_ *session.Conn, q *compound.Request) { q.TestStateID(id) },
		func(r *compound.Reply) (err error) { verdict, err = r.TestStateID(1); return err })
	if err != nil || verdict[0] == compound.OK || verdict[0] == compound.ErrOldStateID {
		return false
	}
	// One that the server does not know needs no freeing.
	_ = v.session.Call(ctx, auth, func(_ *session.Conn, q *compound.Request) { q.FreeStateID(id) },
		func(r *compound.Reply) error { return r.Next(compound.OpFreeStateID) })
	return true
}
