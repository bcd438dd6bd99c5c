package xdr

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// ErrFormat is what every error of a Decoder matches.
var ErrFormat = errors.New("malformed XDR")

// Decoder reads XDR. The first error stays, and what is read after it is zero,
// so a caller may decode a whole message and look at Err once. No input makes
// it panic or allocate more than the input is long.
type Decoder struct {
	buf []byte
	// rest is what of the message has not been read from its source; more gets it.
	rest int
	more Source
	err  error
}

// Source is where the tail of a message comes from that is not in memory yet.
type Source interface {
	// ReadTail reads the next len(p) bytes into p.
	ReadTail(p []byte) error
	// Whole answers head and the next n bytes, which are all, in one piece of
	// memory of its own.
	Whole(head []byte, n int) ([]byte, error)
}

// NewDecoder decodes p, which results alias.
func NewDecoder(p []byte) *Decoder { return &Decoder{buf: p} }

// Reset makes d decode p.
func (d *Decoder) Reset(p []byte) { *d = Decoder{buf: p} }

// ResetTail makes d decode a message that begins with p and goes on with n
// bytes from s, which is asked for them once: either by OpaqueInto, which reads
// straight into the caller's memory, or whole.
func (d *Decoder) ResetTail(p []byte, n int, s Source) { *d = Decoder{buf: p, rest: n, more: s} }

// Err is the first error, or nil.
func (d *Decoder) Err() error { return d.err }

// Remaining is the number of bytes not decoded yet.
func (d *Decoder) Remaining() int { return len(d.buf) + d.rest }

// Fail makes err, unless there was one before, what Err answers: for values
// that a protocol does not allow. It wraps ErrFormat.
func (d *Decoder) Fail(format string, args ...any) {
	if d.err == nil {
		d.err = fmt.Errorf("%w: %s", ErrFormat, fmt.Sprintf(format, args...))
	}
	d.buf, d.rest = nil, 0
}

func (d *Decoder) take(n int) []byte {
	if n > len(d.buf) && !d.fill(n) {
		return nil
	}
	p := d.buf[:n:n]
	d.buf = d.buf[n:]
	return p
}

// fill gets the tail, if there is one, so that n bytes are in memory.
func (d *Decoder) fill(n int) bool {
	if d.err != nil {
		return false
	}
	if n < 0 || n > d.Remaining() {
		d.Fail("%d bytes wanted, %d left", n, d.Remaining())
		return false
	}
	all, err := d.more.Whole(d.buf, d.rest)
	if err != nil {
		d.stop(err)
		return false
	}
	d.buf, d.rest = all, 0
	return true
}

// stop ends decoding for an error of the source.
func (d *Decoder) stop(err error) {
	d.err, d.buf, d.rest = err, nil, 0
}

func (d *Decoder) Uint32() uint32 {
	if p := d.take(4); p != nil {
		return binary.BigEndian.Uint32(p)
	}
	return 0
}

func (d *Decoder) Int32() int32 { return int32(d.Uint32()) }

func (d *Decoder) Uint64() uint64 {
	if p := d.take(8); p != nil {
		return binary.BigEndian.Uint64(p)
	}
	return 0
}

func (d *Decoder) Int64() int64 { return int64(d.Uint64()) }

// Bool takes 0 and 1 only (RFC 4506 4.4).
func (d *Decoder) Bool() bool {
	v := d.Uint32()
	if v > 1 {
		d.Fail("%d is no boolean", v)
	}
	return v == 1
}

// Fixed reads an opaque of n bytes and its padding. It aliases the input.
func (d *Decoder) Fixed(n int) []byte {
	if n < 0 || n > d.Remaining() {
		d.Fail("%d bytes wanted, %d left", n, d.Remaining())
		return nil
	}
	p := d.take(n)
	d.pad(n)
	if d.err != nil {
		return nil
	}
	return p
}

// pad checks the padding after n bytes: zeroes (RFC 4506 3).
func (d *Decoder) pad(n int) {
	for _, b := range d.take(-n & 3) {
		if b != 0 {
			d.Fail("padding is not zero")
			return
		}
	}
}

// length reads the length of something with at most limit elements of at least
// size bytes.
func (d *Decoder) length(limit, size int) int {
	n := d.Uint32()
	switch {
	case uint64(n) > uint64(limit):
		d.Fail("length %d is over %d", n, limit)
	case uint64(n)*uint64(size) > uint64(d.Remaining()):
		d.Fail("length %d, but %d bytes left", n, d.Remaining())
	default:
		return int(n)
	}
	return 0
}

// Opaque reads an opaque of at most limit bytes. It aliases the input.
func (d *Decoder) Opaque(limit int) []byte { return d.Fixed(d.length(limit, 1)) }

func (d *Decoder) String(limit int) string { return string(d.Opaque(limit)) }

// Len reads the length of an array with at most limit elements, each of at
// least size bytes (4 for a uint32); a length that the input cannot hold is an
// error, so it is safe to make room for it.
func (d *Decoder) Len(limit, size int) int { return d.length(limit, max(size, 1)) }

// OpaqueInto reads an opaque into p and answers its length. One that p does
// not hold is an error. Of a message whose tail is unread it reads straight
// from the source.
func (d *Decoder) OpaqueInto(p []byte) int {
	n := d.length(len(p), 1)
	if d.err != nil {
		return 0
	}
	if n <= len(d.buf) {
		copy(p, d.take(n))
		d.pad(n)
		return n
	}
	have := copy(p, d.buf)
	d.buf = nil
	if n-have > d.rest {
		d.Fail("%d bytes wanted, %d left", n, have+d.rest)
		return 0
	}
	if err := d.more.ReadTail(p[have:n]); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		d.stop(err)
		return 0
	}
	d.rest -= n - have
	d.pad(n)
	return n
}

// Skip passes over n bytes.
func (d *Decoder) Skip(n int) { d.take(n) }
