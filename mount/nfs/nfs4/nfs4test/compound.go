package nfs4test

import (
	"encoding/binary"
	"strings"

	"github.com/lxbridge/lx/mount/nfs/nfs4/compound"
	"github.com/lxbridge/lx/mount/nfs/xdr"
)

// call is a COMPOUND at work.
type call struct {
	*Server
	conn    *conn
	d       *xdr.Decoder
	e       xdr.Encoder // of the operation's result
	session *session
	current string // filehandle: "/" or "/name"
	saved   string
	state   stateID // the current one
}

type stateID struct {
	seq   uint32
	other [12]byte
}

// compound answers a COMPOUND.
func (s *Server) compound(c *conn, d *xdr.Decoder) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	d.Opaque(1024)
	d.Uint32()
	n := d.Len(64, 4)
	k := &call{Server: s, conn: c, d: d}
	var out, results xdr.Encoder
	status, done := compound.OK, uint32(0)
	var sl *slot
	for i := 0; i < n && status == compound.OK && d.Err() == nil; i++ {
		op := compound.Op(d.Uint32())
		k.e.Reset()
		if i == 0 && op == compound.OpSequence {
			var again []byte
			if sl, again, status = k.sequence(); again != nil {
				return again
			}
		} else {
			status = k.do(op)
		}
		s.counts[op]++
		done++
		results.Uint32(uint32(op))
		results.Uint32(uint32(status))
		if status == compound.OK || status == compound.ErrDenied {
			results.Fixed(k.e.Bytes())
		}
		if op == compound.OpSetAttr && status != compound.OK {
			results.Uint32(0)
		}
	}
	out.Uint32(uint32(status))
	out.Uint32(0)
	out.Uint32(done)
	out.Fixed(results.Bytes())
	if sl != nil {
		sl.answer = append([]byte(nil), out.Bytes()...)
	}
	return out.Bytes()
}

func (k *call) sequence() (sl *slot, again []byte, st compound.Status) {
	var id compound.SessionID
	copy(id[:], k.d.Fixed(16))
	seq, n := k.d.Uint32(), k.d.Uint32()
	k.d.Uint32()
	k.d.Bool()
	k.session = k.sessions[id]
	switch {
	case k.lapsed[id]:
		return nil, nil, compound.ErrExpired
	case k.session == nil:
		return nil, nil, compound.ErrBadSession
	case n >= uint32(len(k.session.slots)):
		return nil, nil, compound.ErrBadSlot
	}
	sl = &k.session.slots[n]
	switch {
	case seq == sl.seq && sl.answer != nil:
		return sl, sl.answer, compound.OK
	case seq != sl.seq+1:
		return nil, nil, compound.ErrSeqMisordered
	}
	sl.seq = seq
	k.e.Fixed(id[:])
	for _, v := range []uint32{seq, n, uint32(len(k.session.slots)) - 1, uint32(len(k.session.slots)) - 1, k.flags()} {
		k.e.Uint32(v)
	}
	return sl, nil, compound.OK
}

func (k *call) flags() (f uint32) {
	if k.session.back != nil && !k.conns[k.session.back] {
		f |= compound.SeqCBPathDown
	}
	return f
}

func (k *call) readState() (id stateID) {
	id.seq = k.d.Uint32()
	copy(id.other[:], k.d.Fixed(12))
	if id == (stateID{seq: 1}) {
		return k.state
	}
	return id
}

func (k *call) writeState(id stateID) {
	k.state = id
	k.e.Uint32(id.seq)
	k.e.Fixed(id.other[:])
}

func (k *call) newState() (id stateID) {
	k.number++
	id.seq = 1
	binary.BigEndian.PutUint64(id.other[:], k.number)
	binary.BigEndian.PutUint32(id.other[8:], uint32(k.instance))
	return id
}

func (k *call) verifier() {
	k.e.Uint64(k.instance)
}

// file is the current one, nil for the directory.
func (k *call) file() *file { return k.files[strings.TrimPrefix(k.current, "/")] }

// known finds an open by its state id; the anonymous one is everybody's.
func (k *call) known(f *file, id stateID) compound.Status {
	if f == nil {
		return compound.ErrIsDir
	}
	if id.other == ([12]byte{}) || f.opens[id.other] != nil || f.deleg != nil && f.deleg.id == id.other {
		return compound.OK
	}
	return compound.ErrBadStateID
}

func (k *call) change() {
	k.e.Bool(true)
	k.e.Uint64(1)
	k.e.Uint64(2)
}

// do runs one operation.
func (k *call) do(op compound.Op) compound.Status {
	if k.fail != nil {
		if st := k.fail(op); st != compound.OK {
			return st
		}
	}
	switch op {
	case compound.OpExchangeID, compound.OpCreateSession, compound.OpDestroySession, compound.OpDestroyClientID, compound.OpBindConnToSession:
		return k.client(op)
	case compound.OpReclaimComplete:
		k.d.Bool()
		k.grace, k.session.client.complete = false, true
		return compound.OK
	case compound.OpPutRootFH:
		k.current = "/"
	case compound.OpPutFH:
		k.current = k.d.String(128)
		if k.current != "/" && k.file() == nil {
			return 70 // STALE
		}
	case compound.OpGetFH:
		if _, ok := k.moved[strings.TrimPrefix(k.current, "/")]; ok {
			return compound.ErrMoved
		}
		k.e.String(k.current)
	case compound.OpSaveFH:
		k.saved = k.current
	case compound.OpRestoreFH:
		k.current = k.saved
	case compound.OpLookup:
		name := k.d.String(255)
		if k.current != "/" {
			return compound.ErrNotDir
		}
		if _, ok := k.moved[name]; !ok && k.files[name] == nil {
			return compound.ErrNoEnt
		}
		k.current = "/" + name
	case compound.OpGetAttr:
		k.getAttr()
	case compound.OpSetAttr:
		return k.setAttr()
	case compound.OpOpen:
		return k.open()
	case compound.OpClose, compound.OpDelegReturn, compound.OpFreeStateID, compound.OpTestStateID:
		return k.give(op)
	case compound.OpRead, compound.OpWrite, compound.OpCommit:
		return k.data(op)
	case compound.OpLock, compound.OpLockU:
		return k.lock(op)
	case compound.OpRemove:
		delete(k.files, k.d.String(255))
		k.change()
	default:
		return compound.ErrNotSupp
	}
	return compound.OK
}

func (k *call) client(op compound.Op) compound.Status {
	switch op {
	case compound.OpExchangeID:
		verifier, owner := string(k.d.Fixed(8)), k.d.String(1024)
		k.d.Skip(12)
		var c *client
		for _, old := range k.clients {
			if old.owner == owner && old.verifier == verifier {
				c = old
			}
		}
		confirmed := uint32(0)
		if c == nil {
			k.number++
			c = &client{id: k.number<<8 | k.instance, owner: owner, verifier: verifier, seq: 1}
			k.clients[c.id] = c
		} else {
			confirmed = 1 << 31
		}
		k.e.Uint64(c.id)
		k.e.Uint32(c.seq)
		k.e.Uint32(confirmed)
		k.e.Uint32(0)
		k.e.Uint64(0)
		k.e.String("nfs4test")
		k.e.String("")
		k.e.Uint32(0)
	case compound.OpCreateSession:
		c := k.clients[k.d.Uint64()]
		seq, flags := k.d.Uint32(), k.d.Uint32()
		if c == nil {
			return compound.ErrStaleClientID
		}
		if seq != c.seq {
			return compound.ErrSeqMisordered
		}
		c.seq++
		k.number++
		s := &session{client: c, back: k.conn}
		binary.BigEndian.PutUint64(s.id[:], k.number)
		k.sessions[s.id] = s
		k.e.Fixed(s.id[:])
		k.e.Uint32(seq)
		k.e.Uint32(flags)
		for range 2 {
			for _, v := range []uint32{0, 1 << 20, 1 << 20, 8192, 16, uint32(len(s.slots)), 0} {
				k.e.Uint32(v)
			}
		}
		for range 2 { // channels
			k.d.Skip(24)
			k.d.Uint32()
		}
		k.d.Skip(12)
	case compound.OpDestroySession:
		var id compound.SessionID
		copy(id[:], k.d.Fixed(16))
		delete(k.sessions, id)
	case compound.OpDestroyClientID:
		delete(k.clients, k.d.Uint64())
	case compound.OpBindConnToSession:
		var id compound.SessionID
		copy(id[:], k.d.Fixed(16))
		k.d.Skip(8)
		s := k.sessions[id]
		if s == nil {
			return compound.ErrBadSession
		}
		s.back = k.conn
		k.e.Fixed(id[:])
		k.e.Uint32(3)
		k.e.Bool(false)
	}
	return compound.OK
}

// mask is what attributes there are.
var mask = compound.Set(compound.AttrSupported, compound.AttrType, compound.AttrChange, compound.AttrSize, compound.AttrFSID,
	compound.AttrLeaseTime, compound.AttrFileID, compound.AttrMode, compound.AttrNumLinks)

func (k *call) getAttr() {
	var want compound.Mask
	for i := range k.d.Len(8, 4) {
		if w := k.d.Uint32(); i < len(want) {
			want[i] = w
		}
	}
	if l, ok := k.moved[strings.TrimPrefix(k.current, "/")]; ok {
		k.locations(l)
		return
	}
	f, typ := k.file(), uint32(compound.TypeRegular)
	if f == nil {
		f, typ = &file{change: 1}, compound.TypeDirectory
	}
	want = want.And(mask)
	k.e.Uint32(uint32(len(want)))
	for _, w := range want {
		k.e.Uint32(w)
	}
	n := k.e.Hold()
	for _, a := range []struct {
		attr int
		put  func()
	}{
		{compound.AttrSupported, func() {
			k.e.Uint32(uint32(len(mask)))
			for _, w := range mask {
				k.e.Uint32(w)
			}
		}},
		{compound.AttrType, func() { k.e.Uint32(typ) }},
		{compound.AttrChange, func() { k.e.Uint64(f.change) }},
		{compound.AttrSize, func() { k.e.Uint64(uint64(len(f.data))) }},
		{compound.AttrFSID, func() { k.e.Uint64(1); k.e.Uint64(2) }},
		{compound.AttrLeaseTime, func() { k.e.Uint32(2) }},
		{compound.AttrFileID, func() {
			id := uint64(2)
			for _, c := range f.name {
				id = id*31 + uint64(c)
			}
			k.e.Uint64(id)
		}},
		{compound.AttrMode, func() { k.e.Uint32(0o755) }},
		{compound.AttrNumLinks, func() { k.e.Uint32(1) }},
	} {
		if want.Has(a.attr) {
			a.put()
		}
	}
	k.e.Set(n, uint32(k.e.Since(n)))
}

// locations answers fs_locations, all that can be asked of what has moved.
func (k *call) locations(l location) {
	k.e.Uint32(1)
	k.e.Uint32(1 << compound.AttrFSLocations)
	n := k.e.Hold()
	k.e.Uint32(1)
	k.e.String(strings.TrimPrefix(k.current, "/"))
	k.e.Uint32(1)
	k.e.Uint32(1)
	k.e.String(l.host)
	k.e.Uint32(uint32(len(l.path)))
	for _, name := range l.path {
		k.e.String(name)
	}
	k.e.Set(n, uint32(k.e.Since(n)))
}

func (k *call) setAttr() compound.Status {
	id := k.readState()
	size := k.settable()
	f := k.file()
	if f == nil {
		return compound.ErrIsDir
	}
	if size != nil {
		if st := k.known(f, id); st != compound.OK {
			return st
		}
		f.resize(int(*size))
		f.stable = append([]byte(nil), f.data...)
	}
	k.e.Uint32(0)
	return compound.OK
}

// settable reads a fattr4 and answers the size, if it is there: that comes first.
func (k *call) settable() (size *uint64) {
	n := k.d.Len(8, 4)
	first := uint32(0)
	for i := range n {
		if w := k.d.Uint32(); i == 0 {
			first = w
		}
	}
	d := xdr.NewDecoder(k.d.Opaque(4096))
	if first&(1<<compound.AttrSize) != 0 {
		v := d.Uint64()
		size = &v
	}
	return size
}

func (f *file) resize(n int) {
	f.change++
	for len(f.data) < n {
		f.data = append(f.data, 0)
	}
	f.data = f.data[:n]
}
