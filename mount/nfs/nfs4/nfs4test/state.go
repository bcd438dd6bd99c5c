package nfs4test

import (
	"math"

	"github.com/lxbridge/lx/mount/nfs/nfs4/compound"
	"github.com/lxbridge/lx/mount/nfs/xdr"
)

// open serves OPEN, which is not exclusive and denies nothing.
func (k *call) open() compound.Status {
	k.d.Uint32()
	access := k.d.Uint32() & compound.ShareBoth
	k.d.Uint32() // deny
	k.d.Uint64()
	k.d.Opaque(1024)
	create, how := k.d.Uint32() == 1, uint32(0)
	var size *uint64
	if create {
		if how = k.d.Uint32(); how >= compound.CreateExclusive {
			k.d.Fixed(8)
		}
		if how != compound.CreateExclusive {
			size = k.settable()
		}
	}
	claim := compound.Claim(k.d.Uint32())
	var f *file
	switch claim {
	case compound.ClaimNull:
		name := k.d.String(255)
		f = k.files[name]
		switch {
		case f == nil && !create:
			return compound.ErrNoEnt
		case f == nil:
			f = &file{name: name, opens: map[[12]byte]*open{}, change: 1}
			k.files[name] = f
		case create && how == compound.CreateGuarded:
			return compound.ErrExist
		}
		k.current = "/" + name
	case compound.ClaimPrevious:
		k.d.Uint32()
		if !k.grace {
			return compound.ErrNoGrace
		}
		f = k.file()
	case compound.ClaimFH:
		f = k.file()
	default:
		return compound.ErrNotSupp
	}
	switch {
	case f == nil:
		return compound.ErrIsDir
	case claim != compound.ClaimPrevious && (k.grace || !k.session.client.complete):
		return compound.ErrGrace
	case k.conflict(f, access):
		return compound.ErrDelay
	}
	if size != nil {
		f.resize(int(*size))
	}
	id := k.newState()
	f.opens[id.other] = &open{k.session.client, access}
	k.writeState(id)
	k.change()
	k.e.Uint32(4) // OPEN4_RESULT_LOCKTYPE_POSIX
	k.e.Uint32(0)
	k.grant(f, access)
	return compound.OK
}

// conflict recalls a delegation of another's that is in the way.
func (k *call) conflict(f *file, access uint32) bool {
	d := f.deleg
	if d == nil || d.client == k.session.client || d.kind == compound.DelegateRead && access == compound.ShareRead {
		return false
	}
	if !d.recalled {
		d.recalled = true
		k.callback(d.client, func(q *compound.Request) {
			e := q.Op(compound.OpCBRecall)
			e.Uint32(1)
			e.Fixed(d.id[:])
			e.Bool(false)
			e.String("/" + f.name)
		})
	}
	return true
}

// callback calls a client. Its answer is not waited for.
func (k *call) callback(c *client, build func(*compound.Request)) {
	for _, s := range k.sessions {
		if s.client != c || s.back == nil {
			continue
		}
		s.cbSeq++
		var e xdr.Encoder
		k.number++
		e.Uint32(uint32(k.number))
		e.Uint32(0)
		e.Uint32(2)
		e.Uint32(compound.CallbackProgram)
		e.Uint32(compound.CallbackVersion)
		e.Uint32(compound.ProcCompound)
		e.Uint64(0)
		e.Uint64(0)
		e.Uint32(0) // no tag
		e.Uint32(1) // minor version
		e.Uint32(0) // callback ident
		var ops xdr.Encoder
		var q compound.Request
		q.Begin(&ops, 1)
		o := q.Op(compound.OpCBSequence)
		o.Fixed(s.id[:])
		o.Uint32(s.cbSeq)
		for range 4 { // slot, highest slot, cache, no referring calls
			o.Uint32(0)
		}
		build(&q)
		e.Uint32(uint32(q.Ops()))
		e.Fixed(ops.Bytes()[12:])
		_ = s.back.write(e.Bytes()) // a client that is gone loses its delegation in time
		return
	}
}

func (k *call) grant(f *file, access uint32) {
	kind := k.delegate
	if kind == compound.DelegateRead && access != compound.ShareRead || f.deleg != nil || len(f.opens) > 1 {
		kind = compound.DelegateNone
	}
	k.e.Uint32(kind)
	if kind == compound.DelegateNone {
		return
	}
	id := k.newState()
	f.deleg = &delegation{id: id.other, kind: kind, client: k.session.client}
	k.e.Uint32(id.seq)
	k.e.Fixed(id.other[:])
	k.e.Bool(false)
	if kind == compound.DelegateWrite {
		k.e.Uint32(1)
		k.e.Uint64(math.MaxUint64)
	}
	k.e.Uint32(0)
	k.e.Uint32(0)
	k.e.Uint32(0)
	k.e.String("")
}

// give serves what ends state, and asks for it.
func (k *call) give(op compound.Op) compound.Status {
	switch op {
	case compound.OpTestStateID:
		n := k.d.Len(64, 16)
		k.e.Uint32(uint32(n))
		for range n {
			k.e.Uint32(uint32(k.anywhere(k.readState())))
		}
		return compound.OK
	case compound.OpFreeStateID:
		k.readState()
		return compound.OK
	case compound.OpDelegReturn:
		id := k.readState()
		f := k.file()
		if f == nil || f.deleg == nil || f.deleg.id != id.other {
			return compound.ErrBadStateID
		}
		f.deleg = nil
		return compound.OK
	}
	k.d.Uint32()
	id := k.readState()
	f := k.file()
	if f == nil || f.opens[id.other] == nil {
		return compound.ErrBadStateID
	}
	delete(f.opens, id.other)
	k.writeState(stateID{seq: math.MaxUint32})
	return compound.OK
}

func (k *call) anywhere(id stateID) compound.Status {
	for _, f := range k.files {
		if k.known(f, id) == compound.OK {
			return compound.OK
		}
	}
	return compound.ErrBadStateID
}

func (k *call) data(op compound.Op) compound.Status {
	f := k.file()
	switch op {
	case compound.OpCommit:
		k.d.Uint64()
		k.d.Uint32()
		if f == nil {
			return compound.ErrIsDir
		}
		f.stable = append([]byte(nil), f.data...)
		k.verifier()
		return compound.OK
	case compound.OpRead:
		id, off, n := k.readState(), k.d.Uint64(), k.d.Uint32()
		if st := k.known(f, id); st != compound.OK {
			return st
		}
		from := min(off, uint64(len(f.data)))
		to := min(from+uint64(n), uint64(len(f.data)))
		k.e.Bool(to == uint64(len(f.data)))
		k.e.Opaque(f.data[from:to])
		return compound.OK
	}
	id, off, stable, p := k.readState(), k.d.Uint64(), k.d.Uint32(), k.d.Opaque(1<<20)
	if st := k.known(f, id); st != compound.OK {
		return st
	}
	if end := off + uint64(len(p)); end > uint64(len(f.data)) {
		f.resize(int(end))
	}
	copy(f.data[off:], p)
	f.change++
	if stable != compound.WriteUnstable {
		f.stable = append([]byte(nil), f.data...)
	}
	k.e.Uint32(uint32(len(p)))
	k.e.Uint32(stable)
	k.verifier()
	return compound.OK
}

// lock serves LOCK and LOCKU of whole owners: an unlock frees all that its
// state id has.
func (k *call) lock(op compound.Op) compound.Status {
	f := k.file()
	if f == nil {
		return compound.ErrIsDir
	}
	typ := k.d.Uint32()
	if op == compound.OpLockU {
		k.d.Uint32()
		id := k.readState()
		k.d.Skip(16)
		if f.opens[id.other] == nil {
			return compound.ErrBadStateID
		}
		keep := f.locks[:0]
		for _, h := range f.locks {
			if h.client != k.session.client {
				keep = append(keep, h)
			}
		}
		f.locks = keep
		k.writeState(id)
		return compound.OK
	}
	reclaim, off, n := k.d.Bool(), k.d.Uint64(), k.d.Uint64()
	h := held{client: k.session.client, off: off, end: off + n - 1, write: typ == compound.LockWrite || typ == compound.LockWriteWait}
	if n == math.MaxUint64 {
		h.end = n
	}
	var id stateID
	if k.d.Bool() {
		k.d.Uint32()
		id = k.readState()
		k.d.Uint32()
		k.d.Uint64()
		h.owner = k.d.String(1024)
	} else {
		id = k.readState()
		k.d.Uint32()
	}
	switch {
	case f.opens[id.other] == nil:
		return compound.ErrBadStateID
	case reclaim && !k.grace:
		return compound.ErrNoGrace
	case k.grace && !reclaim:
		return compound.ErrGrace
	}
	for _, o := range f.locks {
		if o.client != h.client && o.off <= h.end && h.off <= o.end && (o.write || h.write) {
			k.e.Uint64(o.off)
			k.e.Uint64(math.MaxUint64)
			k.e.Uint32(compound.LockWrite)
			k.e.Uint64(o.client.id)
			k.e.String(o.owner)
			return compound.ErrDenied
		}
	}
	f.locks = append(f.locks, h)
	k.writeState(id) // the open's serves for the owner's as well
	return compound.OK
}
