package compound

import "github.com/lxbridge/lx/mount/nfs/xdr"

// Callback is a CB_COMPOUND that the server sent.
type Callback struct {
	Minor    uint32
	Sequence Sequence // of 4.1 and later
	HasSeq   bool
	Ops      []CallbackOp
}

// CallbackOp is one operation of a Callback: what its kind has is set.
type CallbackOp struct {
	Op       Op
	FH       FH
	State    StateID // recalled, or of the copy
	Mask     Mask    // CB_GETATTR
	Truncate bool    // CB_RECALL: the file is about to be truncated
	Keep     uint32  // CB_RECALL_ANY: how many may be kept
	Types    Mask    // CB_RECALL_ANY: of these kinds
	Highest  uint32  // CB_RECALL_SLOT
	Owner    []byte  // CB_NOTIFY_LOCK
	Status   Status  // CB_OFFLOAD: how the copy ended
	Copied   Written
}

// DecodeCallback reads a CB_COMPOUND's arguments. Operations after one that is
// not known are left out; that one is the last.
func DecodeCallback(d *xdr.Decoder) (cb Callback, err error) {
	r := Reply{Decoder: d}
	r.Opaque(maxTag)
	cb.Minor = r.Uint32()
	r.Uint32() // callback ident of 4.0: there is one client to a connection
	n := r.Len(maxOps, 4)
	for i := range n {
		op := CallbackOp{Op: Op(r.Uint32())}
		if r.Err() != nil {
			break
		}
		switch op.Op {
		case OpCBSequence:
			s := &cb.Sequence
			if i != 0 {
				r.Fail("CB_SEQUENCE is not the first")
			}
			copy(s.ID[:], r.Fixed(16))
			s.Seq, s.Slot, s.Highest, s.Cache = r.Uint32(), r.Uint32(), r.Uint32(), r.Bool()
			for range r.Len(1024, 20) { // referring calls
				r.Fixed(16)
				for range r.Len(1024, 8) {
					r.Uint64()
				}
			}
			cb.HasSeq = true
			continue
		case OpCBGetAttr:
			op.FH, op.Mask = FH(r.Opaque(MaxFH)), r.bitmap()
		case OpCBRecall:
			op.State, op.Truncate, op.FH = r.stateID(), r.Bool(), FH(r.Opaque(MaxFH))
		case OpCBRecallAny:
			op.Keep, op.Types = r.Uint32(), r.bitmap()
		case OpCBRecallSlot:
			op.Highest = r.Uint32()
		case OpCBNotifyLock:
			op.FH = FH(r.Opaque(MaxFH))
			r.Uint64()
			op.Owner = append([]byte(nil), r.Opaque(maxOpaque)...)
		case OpCBOffload:
			op.FH, op.State, op.Status = FH(r.Opaque(MaxFH)), r.stateID(), Status(r.Uint32())
			if op.Status == OK {
				op.Copied = r.writeResponse()
			} else {
				op.Copied.Count = r.Uint64()
			}
		default:
			cb.Ops = append(cb.Ops, op)
			return cb, r.Err()
		}
		cb.Ops = append(cb.Ops, op)
	}
	return cb, r.Err()
}

// CallbackReply builds the answer to a Callback.
type CallbackReply struct {
	Enc    *xdr.Encoder
	status xdr.Mark
	count  xdr.Mark
	n      uint32
}

// Begin starts an answer.
func (c *CallbackReply) Begin(e *xdr.Encoder) {
	c.Enc = e
	c.status = e.Hold()
	e.Uint32(0)
	c.count = e.Hold()
}

// Op appends a result; a result that is not OK is the last, and the whole's.
func (c *CallbackReply) Op(op Op, s Status) {
	c.n++
	c.Enc.Set(c.count, c.n)
	c.Enc.Set(c.status, uint32(s))
	c.Enc.Uint32(uint32(op))
	c.Enc.Uint32(uint32(s))
}

// Sequence answers CB_SEQUENCE.
func (c *CallbackReply) Sequence(s Sequence, highest uint32) {
	c.Op(OpCBSequence, OK)
	c.Enc.Fixed(s.ID[:])
	c.Enc.Uint32(s.Seq)
	c.Enc.Uint32(s.Slot)
	c.Enc.Uint32(highest)
	c.Enc.Uint32(highest)
}

// GetAttr answers CB_GETATTR: change attribute and size of a file with a write delegation.

func (c *CallbackReply) GetAttr(m Mask, change, size uint64) {
	c.Op(OpCBGetAttr, OK)
	m = m.And(Set(AttrChange, AttrSize))
	m.encode(c.Enc)
	l := c.Enc.Hold()
	if m.Has(AttrChange) {
		c.Enc.Uint64(change)
	}
	if m.Has(AttrSize) {
		c.Enc.Uint64(size)
	}
	c.Enc.Set(l, uint32(c.Enc.Since(l)))
}
