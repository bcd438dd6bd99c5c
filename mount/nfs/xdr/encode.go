// Package xdr encodes and decodes external data representation (RFC 4506) by
// hand: ONC RPC and NFS spend their time here, so nothing is reflected on and
// nothing is copied that need not be.
package xdr

import "encoding/binary"

// Encoder appends XDR to a buffer that is kept from use to use. The zero
// Encoder is ready. It cannot fail; it is not safe for concurrent use.
type Encoder struct {
	buf  []byte
	refs []ref
	n    int // bytes of all refs
}

// ref is data of the caller's that belongs before buf[at:].
type ref struct {
	at   int
	data []byte
}

// maxKept bounds the buffer that Reset keeps.
const maxKept = 256 << 10

// Reset empties e and lets go of what it refers to. The buffer is kept.
func (e *Encoder) Reset() {
	clear(e.refs)
	e.refs, e.n = e.refs[:0], 0
	if cap(e.buf) > maxKept {
		e.buf = nil
	}
	e.buf = e.buf[:0]
}

// Len is the length of what was encoded, in bytes.
func (e *Encoder) Len() int { return len(e.buf) + e.n }

// Bytes is what was encoded. It is e's own buffer, valid until the next call
// of a method that writes, unless OpaqueRef was used: then it is a copy.
func (e *Encoder) Bytes() []byte {
	if len(e.refs) == 0 {
		return e.buf
	}
	return e.AppendTo(make([]byte, 0, e.Len()))
}

// AppendTo appends what was encoded to p.
func (e *Encoder) AppendTo(p []byte) []byte {
	from := 0
	for _, r := range e.refs {
		p = append(append(p, e.buf[from:r.at]...), r.data...)
		from = r.at
	}
	return append(p, e.buf[from:]...)
}

// Buffers appends what was encoded to bufs, in pieces for writev(2), without
// copying. They are valid as long as Bytes.
func (e *Encoder) Buffers(bufs [][]byte) [][]byte {
	from := 0
	for _, r := range e.refs {
		if r.at > from {
			bufs = append(bufs, e.buf[from:r.at])
		}
		bufs = append(bufs, r.data)
		from = r.at
	}
	if from < len(e.buf) {
		bufs = append(bufs, e.buf[from:])
	}
	return bufs
}

func (e *Encoder) Uint32(v uint32) { e.buf = binary.BigEndian.AppendUint32(e.buf, v) }
func (e *Encoder) Int32(v int32)   { e.Uint32(uint32(v)) }
func (e *Encoder) Uint64(v uint64) { e.buf = binary.BigEndian.AppendUint64(e.buf, v) }
func (e *Encoder) Int64(v int64)   { e.Uint64(uint64(v)) }

func (e *Encoder) Bool(v bool) {
	if v {
		e.Uint32(1)
	} else {
		e.Uint32(0)
	}
}

// Fixed encodes an opaque of a length that both sides know (RFC 4506 4.9).
func (e *Encoder) Fixed(p []byte) {
	e.buf = append(e.buf, p...)
	e.pad(len(p))
}

// Opaque encodes an opaque with its length before it (RFC 4506 4.10).
func (e *Encoder) Opaque(p []byte) {
	e.Uint32(uint32(len(p)))
	e.Fixed(p)
}

func (e *Encoder) String(s string) {
	e.Uint32(uint32(len(s)))
	e.buf = append(e.buf, s...)
	e.pad(len(s))
}

// OpaqueRef is Opaque for large data: p is not copied, and must not change
// before Reset.
func (e *Encoder) OpaqueRef(p []byte) {
	e.Uint32(uint32(len(p)))
	if len(p) == 0 {
		return
	}
	e.refs = append(e.refs, ref{len(e.buf), p})
	e.n += len(p)
	e.pad(len(p))
}

// Join appends what o has: a copy, but for what o refers to. o must not be
// Reset before e is.
func (e *Encoder) Join(o *Encoder) {
	for _, r := range o.refs {
		e.refs = append(e.refs, ref{len(e.buf) + r.at, r.data})
	}
	e.n += o.n
	e.buf = append(e.buf, o.buf...)
}

func (e *Encoder) pad(n int) {
	var zero [4]byte
	e.buf = append(e.buf, zero[:-n&3]...)
}

// Mark is a place for a uint32 to be filled in later: a count, a length.
type Mark int

// Hold leaves room for a uint32 that Set fills.
func (e *Encoder) Hold() Mark {
	e.Uint32(0)
	return Mark(len(e.buf) - 4)
}

// Set fills the place at m.
func (e *Encoder) Set(m Mark, v uint32) { binary.BigEndian.PutUint32(e.buf[m:], v) }

// Since is the number of bytes encoded after m: the length of what m precedes.
func (e *Encoder) Since(m Mark) int {
	n := len(e.buf) - int(m) - 4
	for _, r := range e.refs {
		if r.at > int(m) {
			n += len(r.data)
		}
	}
	return n
}
