package compound

import (
	"testing"

	"github.com/lxbridge/lx/mount/nfs/xdr"
)

// decoders is each result's decoder.
var decoders = []func(*Reply){
	func(r *Reply) { r.All(OpPutFH, OpLookup) },
	func(r *Reply) { r.FH() },
	func(r *Reply) { r.Access() },
	func(r *Reply) { r.Open() },
	func(r *Reply) { r.State(OpClose) },
	func(r *Reply) { r.Read(make([]byte, 100)) },
	func(r *Reply) { r.Write() },
	func(r *Reply) { r.Copy() },
	func(r *Reply) { r.OffloadStatus() },
	func(r *Reply) { r.Commit() },
	func(r *Reply) { r.Changed(OpRename) },
	func(r *Reply) { r.Changed(OpCreate) },
	func(r *Reply) { r.SetAttr() },
	func(r *Reply) { r.ReadLink() },
	func(r *Reply) { r.ReadDir(func(*Entry) {}) },
	func(r *Reply) { r.Lock() },
	func(r *Reply) { r.LockT() },
	func(r *Reply) { r.TestStateID(3) },
	func(r *Reply) { r.SecInfo(OpSecInfo) },
	func(r *Reply) { r.Seek() },
	func(r *Reply) { r.GetXattr() },
	func(r *Reply) { r.ListXattrs(nil) },
	func(r *Reply) { r.GetAttr() },
	func(r *Reply) { r.ExchangeID() },
	func(r *Reply) { r.CreateSession() },
	func(r *Reply) { r.Sequence() },
	func(r *Reply) { r.BindConn() },
	func(r *Reply) { r.SetClientID() },
}

// ops is the operation that each decoder reads.
var ops = []Op{OpPutFH, OpGetFH, OpAccess, OpOpen, OpClose, OpRead, OpWrite, OpCopy, OpOffloadStatus, OpCommit, OpRename, OpCreate, OpSetAttr,
	OpReadLink, OpReadDir, OpLock, OpLockT, OpTestStateID, OpSecInfo, OpSeek, OpGetXattr, OpListXattrs, OpGetAttr, OpExchangeID, OpCreateSession,
	OpSequence, OpBindConnToSession, OpSetClientID}

// FuzzReply: no answer makes a decoder panic, nor take more memory than it is long.
func FuzzReply(f *testing.F) {
	var e xdr.Encoder
	wide := Set(AttrSupported, AttrType, AttrChange, AttrFSID, AttrACL, AttrFSLocations, AttrOwner, AttrMtime, AttrXattr)
	wide.encode(&e)
	for range 100 {
		e.Uint32(1)
	}
	for i := range decoders {
		f.Add(uint8(i), uint32(0), e.Bytes())
		f.Add(uint8(i), uint32(ErrDenied), make([]byte, 64))
	}
	f.Fuzz(func(_ *testing.T, which uint8, status uint32, body []byte) {
		i := int(which) % len(decoders)
		var e xdr.Encoder
		e.Uint32(status)
		e.Uint32(0)
		e.Uint32(2)
		e.Uint32(uint32(ops[i]))
		e.Uint32(status)
		var r Reply
		if err := r.Begin(xdr.NewDecoder(append(e.Bytes(), body...))); err == nil {
			decoders[i](&r)
		}
	})
}

// FuzzCallback: no call of the server's makes the decoder panic, and what it
// takes is answered.
func FuzzCallback(f *testing.F) {
	var q Request
	var e xdr.Encoder
	q.Begin(&e, 2)
	e.Uint32(0)
	q.Op(OpCBSequence)
	e.Fixed(make([]byte, 16))
	for range 5 {
		e.Uint32(0)
	}
	q.Op(OpCBRecall)
	stateID(&e, StateID{})
	e.Bool(false)
	e.String("handle")
	f.Add(e.Bytes())
	f.Fuzz(func(_ *testing.T, p []byte) {
		cb, err := DecodeCallback(xdr.NewDecoder(p))
		if err != nil {
			return
		}
		var out xdr.Encoder
		var r CallbackReply
		r.Begin(&out)
		r.Sequence(cb.Sequence, 0)
		for _, op := range cb.Ops {
			r.GetAttr(op.Mask, 1, 2)
		}
	})
}

// FuzzACL: what a program sets as system.nfs4_acl is checked.
func FuzzACL(f *testing.F) {
	f.Add([]byte{0, 0, 0, 0})
	f.Fuzz(func(_ *testing.T, p []byte) { _ = CheckACL(p) })
}
