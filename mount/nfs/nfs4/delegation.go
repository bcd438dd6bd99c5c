package nfs4

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/lxbridge/lx/mount/nfs/nfs4/compound"
	"github.com/lxbridge/lx/mount/nfs/nfs4/session"
	"github.com/lxbridge/lx/mount/nfs/rpc"
	"github.com/lxbridge/lx/mount/volume"
)

var _ volume.Leaser = (*Volume)(nil)

// delegation is the server's promise to ask before it lets another client
// change (or, of a write delegation, open) a file. It outlives the opens, and
// goes back when the server recalls it, when there are too many, or at the end.
type delegation struct {
	mu     sync.Mutex
	kind   uint32 // DelegateNone where there is none
	state  compound.StateID
	auth   rpc.Auth
	lease  uint64 // its name for the layer above; 0 once it is on its way back
	size   uint64 // when it was granted, as is change
	change uint64
	back   chan struct{} // while it is on its way back; closed when it is there
}

// maxDelegations is how many files may be delegated that are not open.
const maxDelegations = 1000

// leases is what a volume knows of its delegations together.
type leases struct {
	names  atomic.Uint64
	layers atomic.Pointer[[]layer]
}

// layer caches above the volume.
type layer struct {
	recall func(context.Context, volume.Node)
	size   func(volume.Node) (uint64, bool)
}

// all are the layers that are told of the end of a promise.
func (l *leases) all() []layer {
	if all := l.layers.Load(); all != nil {
		return *all
	}
	return nil
}

func (l *leases) recall(ctx context.Context, n volume.Node) {
	for _, above := range l.all() {
		above.recall(ctx, n)
	}
}

// OnRecall implements volume.Leaser. From the second layer on there are no
// leases: the server takes what one layer does for the holder's own, and
// nobody would tell the others.
func (v *Volume) OnRecall(recall func(context.Context, volume.Node), size func(volume.Node) (uint64, bool)) {
	for {
		old := v.leases.layers.Load()
		all := append(slices.Clone(v.leases.all()), layer{recall, size})
		if v.leases.layers.CompareAndSwap(old, &all) {
			break
		}
	}
	if len(v.leases.all()) == 1 {
		return
	}
	_, files := v.all()
	for _, f := range files {
		f.recalled()
	}
}

// Lease implements volume.Leaser.
func (v *Volume) Lease(n volume.Node) uint64 {
	v, fh := at(n)
	if len(v.leases.all()) > 1 {
		return 0
	}
	v.mu.Lock()
	f := v.files[fh]
	v.mu.Unlock()
	if f == nil {
		return 0
	}
	f.deleg.mu.Lock()
	defer f.deleg.mu.Unlock()
	return f.deleg.lease
}

// granted takes the delegation that came with an open, if one did. a is what
// the file was like then.
func (f *file) granted(auth rpc.Auth, o *compound.Opened, a volume.Attr) {
	if o.Delegation == compound.DelegateNone {
		return
	}
	d := &f.deleg
	d.mu.Lock()
	if d.kind == compound.DelegateNone {
		f.v.mu.Lock()
		f.uses++
		f.v.mu.Unlock()
	}
	if d.state.Other != o.DelegState.Other || d.lease == 0 && d.back == nil {
		d.lease = f.v.leases.names.Add(1)
	}
	d.kind, d.state, d.auth, d.size, d.change = o.Delegation, o.DelegState, auth, a.Size, a.Change
	d.mu.Unlock()
	if o.Recall {
		f.recalled()
	}
}

// recalled gives a delegation back without being waited for.
func (f *file) recalled() {
	f.v.work.Go(func() {
		if err := f.giveBack(f.v.ctx); err != nil && f.v.ctx.Err() == nil {
			f.v.cfg.Note(fmt.Errorf("cannot give a delegation back: %w", err))
		}
	})
}

// giveBack returns the delegation, if there is one, after what depends on it
// has come to the server.
func (f *file) giveBack(ctx context.Context) error {
	d := &f.deleg
	d.mu.Lock()
	if back := d.back; back != nil {
		d.mu.Unlock()
		select {
		case <-back:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if d.kind == compound.DelegateNone {
		d.mu.Unlock()
		return nil
	}
	back := make(chan struct{})
	d.back, d.lease = back, 0
	id, auth := d.state, d.auth
	d.mu.Unlock()
	f.v.leases.recall(ctx, node{f.v, f.fh})
	err := f.v.session.Call(ctx, auth, func(_ *session.Conn, q *compound.Request) {
		q.PutFH(f.fh)
		q.DelegReturn(id)
	}, func(r *compound.Reply) error { return r.All(compound.OpPutFH, compound.OpDelegReturn) })
	var st compound.Status
	if errors.As(err, &st) {
		err = nil // the server knows nothing of it
	}
	d.mu.Lock()
	d.back = nil
	close(back)
	f.loseLocked()
	return err
}

// loseLocked notes that there is no delegation any more. It unlocks deleg.mu.
func (f *file) loseLocked() {
	d := &f.deleg
	had := d.kind != compound.DelegateNone
	d.kind, d.lease, d.state = compound.DelegateNone, 0, compound.StateID{}
	d.mu.Unlock()
	if had {
		f.drop()
	}
}

// writesAlone says whether there is a delegation to write that is not wanted back.
func (f *file) writesAlone() bool {
	f.deleg.mu.Lock()
	defer f.deleg.mu.Unlock()
	return f.deleg.kind == compound.DelegateWrite && f.deleg.lease != 0
}

// forget drops a delegation that the server has forgotten. What depends on it
// goes to the server once that is to be had.
func (f *file) forget() {
	f.deleg.mu.Lock()
	kind := f.deleg.kind
	if f.deleg.back != nil || kind == compound.DelegateNone {
		f.deleg.mu.Unlock()
		return // there is none, or giveBack is at it
	}
	f.loseLocked()
	f.v.work.Go(func() { f.v.leases.recall(f.v.ctx, node{f.v, f.fh}) })
}

// conflicts gives a read delegation back before the file is opened for writing:
// the server would recall it and keep us waiting.
func (v *Volume) conflicts(ctx context.Context, fh compound.FH, access uint32) error {
	v.mu.Lock()
	f := v.files[fh]
	v.mu.Unlock()
	if f == nil || access&compound.ShareWrite == 0 {
		return nil
	}
	f.deleg.mu.Lock()
	kind := f.deleg.kind
	f.deleg.mu.Unlock()
	if kind != compound.DelegateRead {
		return nil
	}
	return f.giveBack(ctx)
}

// testDelegation looks whether the server has taken the delegation.
func (f *file) testDelegation(ctx context.Context) {
	f.deleg.mu.Lock()
	kind, id, auth := f.deleg.kind, f.deleg.state, f.deleg.auth
	f.deleg.mu.Unlock()
	if kind != compound.DelegateNone && f.v.bad(ctx, auth, id) {
		f.forget()
	}
}

// trim gives delegations of files back that are not open, down to keep.
func (v *Volume) trim(keep int) {
	v.mu.Lock()
	var idle []*file
	for _, f := range v.files {
		if len(f.handles) == 0 {
			idle = append(idle, f)
		}
	}
	v.mu.Unlock()
	for _, f := range idle[min(keep, len(idle)):] {
		f.recalled()
	}
}

// Callback implements session.Holder.
func (v holder) Callback(op *compound.CallbackOp, r *compound.CallbackReply) {
	v.mu.Lock()
	f := v.files[op.FH]
	v.mu.Unlock()
	switch op.Op {
	case compound.OpCBRecall:
		if f == nil || !f.delegated(op.State) {
			r.Op(op.Op, compound.ErrBadStateID)
			return
		}
		r.Op(op.Op, compound.OK)
		f.recalled()
	case compound.OpCBGetAttr:
		if f == nil {
			r.Op(op.Op, compound.ErrBadHandle)
			return
		}
		f.tell(op.Mask, r)
	case compound.OpCBRecallAny:
		r.Op(op.Op, compound.OK)
		v.trim(int(min(op.Keep, maxDelegations)))
	case compound.OpCBNotifyLock:
		r.Op(op.Op, compound.OK)
		if f != nil {
			f.locks.free()
		}
	case compound.OpCBOffload:
		r.Op(op.Op, compound.OK)
		v.offloads.tell(op)
	default:
		r.Op(op.Op, compound.ErrNotSupp)
	}
}

func (f *file) delegated(id compound.StateID) bool {
	f.deleg.mu.Lock()
	defer f.deleg.mu.Unlock()
	return f.deleg.kind != compound.DelegateNone && f.deleg.state.Other == id.Other
}

// tell answers CB_GETATTR: the change attribute is one more than the server's
// where something is written here that it has not got (RFC 8881, section 10.4.3).
func (f *file) tell(m compound.Mask, r *compound.CallbackReply) {
	d := &f.deleg
	d.mu.Lock()
	kind, size, change := d.kind, d.size, d.change
	d.mu.Unlock()
	if kind != compound.DelegateWrite {
		r.Op(compound.OpCBGetAttr, compound.ErrBadHandle)
		return
	}
	for _, above := range f.v.leases.all() {
		if here, dirty := above.size(node{f.v, f.fh}); dirty {
			size = here
			change++
			break
		}
	}
	r.GetAttr(m, change, size)
}

var _ session.Holder = holder{}
