package compound

import (
	"fmt"

	"github.com/lxbridge/lx/mount/nfs/xdr"
)

// Limits of what a server may send (RFC 8881, section 3.1), and of lists.
const (
	MaxFH     = 128
	maxTag    = 1024
	maxOps    = 64
	maxOpaque = 1024
	maxPath   = 1 << 16
	maxValue  = 1 << 20
)

// Reply is the answer to a COMPOUND, read operation by operation in the order
// they were sent.
type Reply struct {
	*xdr.Decoder
	status Status // of the whole
	left   int
}

// OpError is an operation that the server refused.
type OpError struct {
	Op Op
	Status
}

func (e *OpError) Error() string { return e.Status.Error() }
func (e *OpError) Unwrap() error { return e.Status }

// Begin reads the head of a COMPOUND's results.
func (r *Reply) Begin(d *xdr.Decoder) error {
	r.Decoder = d
	r.status = Status(d.Uint32())
	d.Opaque(maxTag)
	r.left = d.Len(maxOps, 8)
	return d.Err()
}

// Next goes to the result of op and answers the status of it. The arguments
// of a failed operation are not there, but for what the status itself brings.
func (r *Reply) Next(op Op) error {
	if r.left == 0 {
		if r.status != OK && r.Err() == nil {
			return &OpError{op, r.status}
		}
		r.Fail("the result of operation %d is missing", op)
		return r.Err()
	}
	r.left--
	got, status := Op(r.Uint32()), Status(r.Uint32())
	if r.Err() == nil && got != op {
		if got == OpCBIllegal && status != OK {
			return &OpError{op, status}
		}
		r.Fail("a result of operation %d where %d was asked", got, op)
	}
	if err := r.Err(); err != nil {
		return err
	}
	if status != OK {
		return &OpError{op, status}
	}
	return nil
}

// All goes over results that have nothing but a status.
func (r *Reply) All(ops ...Op) error {
	for _, op := range ops {
		if err := r.Next(op); err != nil {
			return err
		}
	}
	return nil
}

// FH is the result of GETFH.
func (r *Reply) FH() (FH, error) {
	if err := r.Next(OpGetFH); err != nil {
		return "", err
	}
	fh := FH(r.Opaque(MaxFH))
	return fh, r.Err()
}

func (r *Reply) stateID() (id StateID) {
	id.Seq = r.Uint32()
	copy(id.Other[:], r.Fixed(12))
	return id
}

func (r *Reply) verifier() (v Verifier) {
	copy(v[:], r.Fixed(8))
	return v
}

func (r *Reply) changeInfo() {
	r.Bool()
	r.Uint64()
	r.Uint64()
}

func (r *Reply) bitmap() (m Mask) {
	n := r.Len(8, 4)
	for i := range n {
		w := r.Uint32()
		if i < len(m) {
			m[i] = w
		}
	}
	return m
}

// Access is the result of ACCESS: what was asked and is known, and what may be.
func (r *Reply) Access() (known, allowed uint32, err error) {
	if err := r.Next(OpAccess); err != nil {
		return 0, 0, err
	}
	known, allowed = r.Uint32(), r.Uint32()
	return known, allowed, r.Err()
}

// Opened is the result of OPEN.
type Opened struct {
	State      StateID
	Flags      uint32
	Attrs      Mask // those that were set on creation
	Delegation uint32
	DelegState StateID
	Recall     bool // give it back at once
}

// Open is the result of OPEN.
func (r *Reply) Open() (o Opened, err error) {
	if err := r.Next(OpOpen); err != nil {
		return o, err
	}
	o.State = r.stateID()
	r.changeInfo()
	o.Flags = r.Uint32()
	o.Attrs = r.bitmap()
	switch o.Delegation = r.Uint32(); o.Delegation {
	case DelegateNone:
	case DelegateRead:
		o.DelegState, o.Recall = r.stateID(), r.Bool()
		r.ace()
	case DelegateWrite:
		o.DelegState, o.Recall = r.stateID(), r.Bool()
		switch by := r.Uint32(); by { // nfs_space_limit4
		case 1:
			r.Uint64()
		case 2:
			r.Uint32()
			r.Uint32()
		default:
			r.Fail("space limit %d", by)
		}
		r.ace()
	case DelegateNoneExt:
		if why := r.Uint32(); why == 1 || why == 2 { // WND4_CONTENTION, WND4_RESOURCE
			r.Bool()
		}
		o.Delegation = DelegateNone
	default:
		r.Fail("delegation of type %d", o.Delegation)
	}
	return o, r.Err()
}

func (r *Reply) ace() {
	r.Uint32()
	r.Uint32()
	r.Uint32()
	r.Opaque(maxOpaque)
}

// State is the result of an operation that answers a state id alone.
func (r *Reply) State(op Op) (StateID, error) {
	if err := r.Next(op); err != nil {
		return StateID{}, err
	}
	id := r.stateID()
	return id, r.Err()
}

// Read is the result of READ: data goes into p.
func (r *Reply) Read(p []byte) (n int, eof bool, err error) {
	if err := r.Next(OpRead); err != nil {
		return 0, false, err
	}
	eof = r.Bool()
	n = r.OpaqueInto(p)
	return n, eof, r.Err()
}

// Written is the result of WRITE, and of COPY.
type Written struct {
	Count  uint64
	Stable uint32
	Verifier
	Callback bool // COPY goes on; State names it
	State    StateID
}

// Write is the result of WRITE.
func (r *Reply) Write() (w Written, err error) {
	if err := r.Next(OpWrite); err != nil {
		return w, err
	}
	w.Count, w.Stable, w.Verifier = uint64(r.Uint32()), r.Uint32(), r.verifier()
	return w, r.Err()
}

func (r *Reply) writeResponse() (w Written) {
	if r.Len(1, 16) == 1 {
		w.Callback, w.State = true, r.stateID()
	}
	w.Count, w.Stable, w.Verifier = r.Uint64(), r.Uint32(), r.verifier()
	return w
}

// Copy is the result of COPY.
func (r *Reply) Copy() (w Written, err error) {
	if err := r.Next(OpCopy); err != nil {
		return w, err
	}
	w = r.writeResponse()
	r.Bool() // consecutive
	r.Bool() // synchronous
	return w, r.Err()
}

// OffloadStatus is how far a copy came and, once done, how it ended.
func (r *Reply) OffloadStatus() (count uint64, done bool, status Status, err error) {
	if err := r.Next(OpOffloadStatus); err != nil {
		return 0, false, 0, err
	}
	count = r.Uint64()
	if r.Len(1, 4) == 1 {
		done, status = true, Status(r.Uint32())
	}
	return count, done, status, r.Err()
}

// Commit is the result of COMMIT.
func (r *Reply) Commit() (v Verifier, err error) {
	if err := r.Next(OpCommit); err != nil {
		return v, err
	}
	v = r.verifier()
	return v, r.Err()
}

// Changed goes over the result of an operation that tells of one changed
// directory, or of two for RENAME.
func (r *Reply) Changed(op Op) error {
	if err := r.Next(op); err != nil {
		return err
	}
	r.changeInfo()
	switch op {
	case OpRename:
		r.changeInfo()
	case OpCreate:
		r.bitmap()
	}
	return r.Err()
}

// SetAttr is the result of SETATTR, which tells what was set even where it failed.
func (r *Reply) SetAttr() error {
	if err := r.Next(OpSetAttr); err != nil {
		return err
	}
	r.bitmap()
	return r.Err()
}

// ReadLink is a link's target.
func (r *Reply) ReadLink() (string, error) {
	if err := r.Next(OpReadLink); err != nil {
		return "", err
	}
	s := r.String(maxPath)
	return s, r.Err()
}

// Entry is one name of a listing.
type Entry struct {
	Cookie uint64
	Name   string
	Attr
}

// ReadDir is a part of a listing. Attributes alias the answer.
func (r *Reply) ReadDir(each func(*Entry)) (v Verifier, eof bool, err error) {
	if err := r.Next(OpReadDir); err != nil {
		return v, false, err
	}
	v = r.verifier()
	var e Entry
	for r.Bool() {
		e.Cookie, e.Name = r.Uint64(), r.String(maxPath)
		e.Attr.decode(r)
		if r.Err() != nil {
			return v, false, r.Err()
		}
		each(&e)
	}
	eof = r.Bool()
	return v, eof, r.Err()
}

// Denied is the lock in the way of another.
type Denied struct {
	Off, Len uint64
	Type     uint32
	Client   uint64
	Owner    []byte
}

func (r *Reply) denied() (d Denied) {
	d.Off, d.Len, d.Type, d.Client = r.Uint64(), r.Uint64(), r.Uint32(), r.Uint64()
	d.Owner = r.Opaque(maxOpaque)
	return d
}

// Lock is the result of LOCK; where it is ErrDenied, who is in the way.
func (r *Reply) Lock() (id StateID, d Denied, err error) {
	if err = r.Next(OpLock); err != nil {
		if oe, ok := err.(*OpError); ok && oe.Status == ErrDenied {
			d = r.denied()
		}
		return id, d, err
	}
	id = r.stateID()
	return id, d, r.Err()
}

// LockT is the lock in the way; ok where there is one.
func (r *Reply) LockT() (d Denied, ok bool, err error) {
	err = r.Next(OpLockT)
	if oe, is := err.(*OpError); is && oe.Status == ErrDenied {
		d = r.denied()
		return d, true, r.Err()
	}
	return d, false, err
}

// TestStateID is the verdict on each of n state ids.
func (r *Reply) TestStateID(n int) ([]Status, error) {
	if err := r.Next(OpTestStateID); err != nil {
		return nil, err
	}
	if got := r.Len(n, 4); got != n && r.Err() == nil {
		r.Fail("%d verdicts on %d state ids", got, n)
	}
	out := make([]Status, n)
	for i := range out {
		out[i] = Status(r.Uint32())
	}
	return out, r.Err()
}

// Flavor is a security flavour that a server offers; for RPCSEC_GSS (6) with
// mechanism and service (RFC 8881, section 18.29).
type Flavor struct {
	Number  uint32
	OID     []byte
	Service uint32
}

// SecInfo is the result of SECINFO or SECINFO_NO_NAME, best first.
func (r *Reply) SecInfo(op Op) ([]Flavor, error) {
	if err := r.Next(op); err != nil {
		return nil, err
	}
	out := make([]Flavor, r.Len(64, 4))
	for i := range out {
		f := Flavor{Number: r.Uint32()}
		if f.Number == 6 {
			f.OID = append([]byte(nil), r.Opaque(maxOpaque)...)
			r.Uint32()
			f.Service = r.Uint32()
		}
		out[i] = f
	}
	return out, r.Err()
}

// Seek is where the data or hole is; eof where there is none before the end.
func (r *Reply) Seek() (eof bool, off uint64, err error) {
	if err := r.Next(OpSeek); err != nil {
		return false, 0, err
	}
	eof, off = r.Bool(), r.Uint64()
	return eof, off, r.Err()
}

// GetXattr is a value, which aliases the answer.
func (r *Reply) GetXattr() ([]byte, error) {
	if err := r.Next(OpGetXattr); err != nil {
		return nil, err
	}
	p := r.Opaque(maxValue)
	return p, r.Err()
}

// ListXattrs is a part of the names.
func (r *Reply) ListXattrs(names []string) (_ []string, cookie uint64, eof bool, err error) {
	if err := r.Next(OpListXattrs); err != nil {
		return names, 0, false, err
	}
	cookie = r.Uint64()
	for range r.Len(1<<16, 4) {
		names = append(names, r.String(maxPath))
	}
	eof = r.Bool()
	return names, cookie, eof, r.Err()
}

func (o Op) String() string { return fmt.Sprintf("operation %d", uint32(o)) }
