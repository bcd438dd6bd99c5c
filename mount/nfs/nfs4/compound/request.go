package compound

import (
	"github.com/lxbridge/lx/mount/nfs/xdr"
)

// FH is a filehandle: at most 128 bytes that only the server understands.
type FH string

// StateID names state at the server: an open, a lock, a delegation.
type StateID struct {
	Seq   uint32
	Other [12]byte
}

// SessionID names a session.
type SessionID [16]byte

// Verifier tells one instance of something from the next.
type Verifier [8]byte

// Request is a COMPOUND being built. The zero Request is ready after Begin.
// It is not safe for concurrent use.
type Request struct {
	Enc *xdr.Encoder
	// Err, where set, keeps the compound from being sent.
	Err   error
	count xdr.Mark
	ops   uint32
	cache xdr.Mark // SEQUENCE's sa_cachethis
}

// Begin starts a COMPOUND of a minor version in e.
func (q *Request) Begin(e *xdr.Encoder, minor uint32) {
	*q = Request{Enc: e}
	e.Uint32(0) // no tag
	e.Uint32(minor)
	q.count = e.Hold()
}

// Op appends an operation's number; its arguments follow.
func (q *Request) Op(op Op) *xdr.Encoder {
	q.ops++
	q.Enc.Set(q.count, q.ops)
	q.Enc.Uint32(uint32(op))
	switch op {
	case OpOpen, OpClose, OpCreate, OpDelegReturn, OpLink, OpLock, OpLockU, OpRemove, OpRename, OpSetAttr, OpSetXattr, OpRemoveXattr:
		// Not done twice: the server keeps the answer (RFC 8881, section 2.10.6.1.3).
		if q.cache != 0 {
			q.Enc.Set(q.cache, 1)
		}
	}
	return q.Enc
}

// Ops is how many operations there are.
func (q *Request) Ops() int { return int(q.ops) }

// PutFH makes fh the current filehandle.
func (q *Request) PutFH(fh FH) { q.Op(OpPutFH).String(string(fh)) }

// PutRootFH makes the root of the server's name space the current filehandle.
func (q *Request) PutRootFH() { q.Op(OpPutRootFH) }

// SaveFH, RestoreFH, GetFH, ReadLink and LookupP have no arguments.
func (q *Request) SaveFH()    { q.Op(OpSaveFH) }
func (q *Request) RestoreFH() { q.Op(OpRestoreFH) }
func (q *Request) GetFH()     { q.Op(OpGetFH) }
func (q *Request) ReadLink()  { q.Op(OpReadLink) }
func (q *Request) LookupP()   { q.Op(OpLookupP) }

// Lookup goes to name in the current directory.
func (q *Request) Lookup(name string) { q.Op(OpLookup).String(name) }

// GetAttr asks for attributes.
func (q *Request) GetAttr(m Mask) { m.encode(q.Op(OpGetAttr)) }

// VerifyType lets the rest of the compound be done only if the current object
// is of a type: else ErrNotSame.
func (q *Request) VerifyType(typ uint32) {
	e := q.Op(OpVerify)
	Set(AttrType).encode(e)
	e.Uint32(4)
	e.Uint32(typ)
}

// Access asks which of mask the caller may.
func (q *Request) Access(mask uint32) { q.Op(OpAccess).Uint32(mask) }

// ReadDir lists on from cookie: attributes m of as many entries as fit in
// size bytes of answer.
func (q *Request) ReadDir(cookie uint64, v Verifier, size uint32, m Mask) {
	e := q.Op(OpReadDir)
	e.Uint64(cookie)
	e.Fixed(v[:])
	e.Uint32(size / 4)
	e.Uint32(size)
	m.encode(e)
}

// Share is what an OPEN asks for.
type Share struct {
	Access uint32 // ShareRead, ShareWrite, and a Want flag
	Seq    uint32 // of the owner; 4.0 only
	Client uint64
	Owner  uint64
}

// openOwner encodes an owner: its name is a tag for the kind and a number.
func owner(e *xdr.Encoder, client uint64, kind byte, id uint64) {
	e.Uint64(client)
	e.Uint32(16)
	e.Fixed([]byte{'l', 'x', ' ', kind, 0, 0, 0, 0})
	e.Uint64(id)
}

func (q *Request) open(s Share) *xdr.Encoder {
	e := q.Op(OpOpen)
	e.Uint32(s.Seq)
	e.Uint32(s.Access)
	e.Uint32(0) // denies nothing
	owner(e, s.Client, 'o', s.Owner)
	return e
}

// OpenFH opens the current file (4.1).
func (q *Request) OpenFH(s Share) {
	e := q.open(s)
	e.Uint32(0)
	e.Uint32(uint32(ClaimFH))
}

// OpenName opens name in the current directory; it must exist.
func (q *Request) OpenName(s Share, name string) {
	e := q.open(s)
	e.Uint32(0)
	e.Uint32(uint32(ClaimNull))
	e.String(name)
}

// OpenPrevious opens the current file again after the server restarted;
// delegation is the type of the one that was held.
func (q *Request) OpenPrevious(s Share, delegation uint32) {
	e := q.open(s)
	e.Uint32(0)
	e.Uint32(uint32(ClaimPrevious))
	e.Uint32(delegation)
}

// OpenCreate opens name in the current directory and makes it where it is not
// there: how is one of the Create constants, v the verifier of the exclusive ones.
func (q *Request) OpenCreate(s Share, name string, how uint32, v Verifier, a *Settable) {
	e := q.open(s)
	e.Uint32(1)
	e.Uint32(how)
	switch how {
	case CreateExclusive:
		e.Fixed(v[:])
	case CreateExclusive4_1:
		e.Fixed(v[:])
		a.encode(e)
	default:
		a.encode(e)
	}
	e.Uint32(uint32(ClaimNull))
	e.String(name)
}

func stateID(e *xdr.Encoder, id StateID) {
	e.Uint32(id.Seq)
	e.Fixed(id.Other[:])
}

// OpenConfirm confirms a new owner (4.0).
func (q *Request) OpenConfirm(id StateID, seq uint32) {
	e := q.Op(OpOpenConfirm)
	stateID(e, id)
	e.Uint32(seq)
}

// Close closes an open; seq is the owner's in 4.0, else 0.
func (q *Request) Close(seq uint32, id StateID) {
	e := q.Op(OpClose)
	e.Uint32(seq)
	stateID(e, id)
}

// DelegReturn gives a delegation back.
func (q *Request) DelegReturn(id StateID) { stateID(q.Op(OpDelegReturn), id) }

// Read reads n bytes.
func (q *Request) Read(id StateID, off uint64, n uint32) {
	e := q.Op(OpRead)
	stateID(e, id)
	e.Uint64(off)
	e.Uint32(n)
}

// Write writes p, which must not change until the call has ended.
func (q *Request) Write(id StateID, off uint64, stable uint32, p []byte) {
	e := q.Op(OpWrite)
	stateID(e, id)
	e.Uint64(off)
	e.Uint32(stable)
	e.OpaqueRef(p)
}

// Commit makes the whole file durable.
func (q *Request) Commit() {
	e := q.Op(OpCommit)
	e.Uint64(0)
	e.Uint32(0)
}

// SetAttr sets attributes; id is that of an open for writing where the size is
// set, else the zero StateID.
func (q *Request) SetAttr(id StateID, a *Settable) {
	e := q.Op(OpSetAttr)
	stateID(e, id)
	a.encode(e)
}

// Create makes what is not a regular file. target is a link's; major and minor
// are a device's.
func (q *Request) Create(typ uint32, name, target string, major, minor uint32, a *Settable) {
	e := q.Op(OpCreate)
	e.Uint32(typ)
	switch typ {
	case TypeLink:
		e.String(target)
	case TypeBlock, TypeChar:
		e.Uint32(major)
		e.Uint32(minor)
	}
	e.String(name)
	a.encode(e)
}

// Remove removes name from the current directory.
func (q *Request) Remove(name string) { q.Op(OpRemove).String(name) }

// Rename moves name in the saved directory to newName in the current one.
func (q *Request) Rename(name, newName string) {
	e := q.Op(OpRename)
	e.String(name)
	e.String(newName)
}

// Link gives the saved file a name in the current directory.
func (q *Request) Link(name string) { q.Op(OpLink).String(name) }

// LockOwner is who locks.
type LockOwner struct {
	Client uint64
	ID     uint64
}

// LockNew takes the first lock of an owner on an open.
func (q *Request) LockNew(typ uint32, reclaim bool, off, n uint64, openSeq uint32, open StateID, lockSeq uint32, o LockOwner) {
	e := q.lock(typ, reclaim, off, n)
	e.Bool(true)
	e.Uint32(openSeq)
	stateID(e, open)
	e.Uint32(lockSeq)
	owner(e, o.Client, 'l', o.ID)
}

// LockMore takes another lock of an owner that has state already.
func (q *Request) LockMore(typ uint32, reclaim bool, off, n uint64, id StateID, seq uint32) {
	e := q.lock(typ, reclaim, off, n)
	e.Bool(false)
	stateID(e, id)
	e.Uint32(seq)
}

func (q *Request) lock(typ uint32, reclaim bool, off, n uint64) *xdr.Encoder {
	e := q.Op(OpLock)
	e.Uint32(typ)
	e.Bool(reclaim)
	e.Uint64(off)
	e.Uint64(n)
	return e
}

// LockT asks whether a lock could be had.
func (q *Request) LockT(typ uint32, off, n uint64, o LockOwner) {
	e := q.Op(OpLockT)
	e.Uint32(typ)
	e.Uint64(off)
	e.Uint64(n)
	owner(e, o.Client, 'l', o.ID)
}

// LockU unlocks.
func (q *Request) LockU(typ, seq uint32, id StateID, off, n uint64) {
	e := q.Op(OpLockU)
	e.Uint32(typ)
	e.Uint32(seq)
	stateID(e, id)
	e.Uint64(off)
	e.Uint64(n)
}

// ReleaseLockOwner forgets an owner that holds no locks (4.0).
func (q *Request) ReleaseLockOwner(o LockOwner) {
	owner(q.Op(OpReleaseLockOwner), o.Client, 'l', o.ID)
}

// FreeStateID and TestStateID deal with state that the server revoked (4.1).
func (q *Request) FreeStateID(id StateID) { stateID(q.Op(OpFreeStateID), id) }
func (q *Request) TestStateID(ids ...StateID) {
	e := q.Op(OpTestStateID)
	e.Uint32(uint32(len(ids)))
	for _, id := range ids {
		stateID(e, id)
	}
}

// SecInfo asks which flavours name is to be had with.
func (q *Request) SecInfo(name string) { q.Op(OpSecInfo).String(name) }

// SecInfoNoName asks it of the current filehandle.
func (q *Request) SecInfoNoName() { q.Op(OpSecInfoNoName).Uint32(0) }

// Seek finds data or a hole.
func (q *Request) Seek(id StateID, off uint64, what uint32) {
	e := q.Op(OpSeek)
	stateID(e, id)
	e.Uint64(off)
	e.Uint32(what)
}

// Allocate and Deallocate reserve and give back space.
func (q *Request) Allocate(id StateID, off, n uint64)   { q.extent(OpAllocate, id, off, n) }
func (q *Request) Deallocate(id StateID, off, n uint64) { q.extent(OpDeallocate, id, off, n) }

func (q *Request) extent(op Op, id StateID, off, n uint64) {
	e := q.Op(op)
	stateID(e, id)
	e.Uint64(off)
	e.Uint64(n)
}

// Copy copies from the saved file to the current one.
func (q *Request) Copy(src, dst StateID, srcOff, dstOff, n uint64, sync bool) {
	e := q.Op(OpCopy)
	stateID(e, src)
	stateID(e, dst)
	e.Uint64(srcOff)
	e.Uint64(dstOff)
	e.Uint64(n)
	e.Bool(true) // consecutive
	e.Bool(sync)
	e.Uint32(0) // the same server
}

// Clone shares the blocks of the saved file with the current one.
func (q *Request) Clone(src, dst StateID, srcOff, dstOff, n uint64) {
	e := q.Op(OpClone)
	stateID(e, src)
	stateID(e, dst)
	e.Uint64(srcOff)
	e.Uint64(dstOff)
	e.Uint64(n)
}

// OffloadStatus and OffloadCancel speak of a copy under way.
func (q *Request) OffloadStatus(id StateID) { stateID(q.Op(OpOffloadStatus), id) }
func (q *Request) OffloadCancel(id StateID) { stateID(q.Op(OpOffloadCancel), id) }

// The extended attributes of RFC 8276; names are without "user.".
func (q *Request) GetXattr(name string)    { q.Op(OpGetXattr).String(name) }
func (q *Request) RemoveXattr(name string) { q.Op(OpRemoveXattr).String(name) }
func (q *Request) SetXattr(how uint32, name string, value []byte) {
	e := q.Op(OpSetXattr)
	e.Uint32(how)
	e.String(name)
	e.Opaque(value)
}
func (q *Request) ListXattrs(cookie uint64, max uint32) {
	e := q.Op(OpListXattrs)
	e.Uint64(cookie)
	e.Uint32(max)
}
