package session

import (
	"context"
	"sync"

	"github.com/lxbridge/lx/mount/nfs/nfs4/compound"
	"github.com/lxbridge/lx/mount/nfs/rpc"
	"github.com/lxbridge/lx/mount/nfs/xdr"
)

// backSlots is how many callbacks the server may have in flight.
const backSlots = 4

// backchannel answers the server's calls, each once: a repeated one gets the
// answer that the first got.
type backchannel struct {
	s *Session

	mu    sync.Mutex
	id    compound.SessionID
	slots [backSlots]struct {
		seq    uint32
		answer []byte
	}
}

func (b *backchannel) reset(id compound.SessionID) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.id = id
	for i := range b.slots {
		b.slots[i].seq, b.slots[i].answer = 0, nil
	}
}

// serve is an rpc.Handler. Holder.Callback does not wait, so neither does this.
func (b *backchannel) serve(_ context.Context, in *rpc.Incoming, e *xdr.Encoder) rpc.Status {
	switch {
	case in.Program != compound.CallbackProgram:
		return rpc.ProgUnavail
	case in.Version != compound.CallbackVersion && in.Version != compound.Version: // 4.0 servers say 4
		e.Uint32(compound.CallbackVersion)
		e.Uint32(compound.CallbackVersion)
		return rpc.ProgMismatch
	case in.Proc == compound.ProcNull:
		return 0
	case in.Proc != compound.ProcCompound:
		return rpc.ProcUnavail
	}
	cb, err := compound.DecodeCallback(&in.Args)
	if err != nil {
		return rpc.GarbageArgs
	}
	b.answer(&cb, e)
	return 0
}

func (b *backchannel) answer(cb *compound.Callback, e *xdr.Encoder) {
	var r compound.CallbackReply
	r.Begin(e)
	if b.s.Minor == 0 {
		b.ops(cb, &r)
		return
	}
	if !cb.HasSeq {
		r.Op(compound.OpCBSequence, compound.ErrOpNotInSession)
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	sl := &b.slots[min(cb.Sequence.Slot, backSlots-1)]
	switch {
	case cb.Sequence.ID != b.id:
		r.Op(compound.OpCBSequence, compound.ErrBadSession)
		return
	case cb.Sequence.Slot >= backSlots:
		r.Op(compound.OpCBSequence, compound.ErrBadSlot)
		return
	case cb.Sequence.Seq == sl.seq && sl.answer != nil:
		e.Reset()
		e.Fixed(sl.answer)
		return
	case cb.Sequence.Seq != sl.seq+1:
		r.Op(compound.OpCBSequence, compound.ErrSeqMisordered)
		return
	}
	sl.seq = cb.Sequence.Seq
	r.Sequence(cb.Sequence, backSlots-1)
	b.ops(cb, &r)
	sl.answer = append(sl.answer[:0], e.Bytes()...)
}

func (b *backchannel) ops(cb *compound.Callback, r *compound.CallbackReply) {
	for i := range cb.Ops {
		op := &cb.Ops[i]
		switch op.Op {
		case compound.OpCBGetAttr, compound.OpCBRecall, compound.OpCBRecallAny, compound.OpCBNotifyLock, compound.OpCBOffload:
			b.s.Holder.Callback(op, r)
		case compound.OpCBRecallSlot:
			b.s.mu.Lock()
			c := b.s.cur
			b.s.mu.Unlock()
			if c != nil {
				c.aim(op.Highest)
			}
			r.Op(op.Op, compound.OK)
		default:
			r.Op(op.Op, compound.ErrNotSupp)
			return
		}
	}
}
