package xdr

import (
	"bytes"
	"errors"
	"io"
	"testing"
)

func TestRoundTrip(t *testing.T) {
	var e Encoder
	for range 2 { // a second time on the kept buffer
		e.Reset()
		e.Uint32(7)
		count := e.Hold()
		e.Uint64(1 << 40)
		e.Int64(-2)
		e.Int32(-3)
		e.Bool(true)
		e.Fixed([]byte("abcde"))
		e.Opaque([]byte("xyz"))
		e.String("name")
		e.OpaqueRef([]byte("large data"))
		e.OpaqueRef(nil)
		e.Set(count, uint32(e.Since(count)))
		flat := e.Bytes()
		if len(flat) != e.Len() || len(flat)%4 != 0 {
			t.Fatalf("Len %d, %d bytes", e.Len(), len(flat))
		}
		if joined := bytes.Join(e.Buffers(nil), nil); !bytes.Equal(joined, flat) {
			t.Fatalf("Buffers %x, Bytes %x", joined, flat)
		}

		d := NewDecoder(flat)
		if v := d.Uint32(); v != 7 {
			t.Error("Uint32", v)
		}
		if v := d.Uint32(); int(v) != d.Remaining() {
			t.Error("Since", v, "but", d.Remaining(), "left")
		}
		if v := d.Uint64(); v != 1<<40 {
			t.Error("Uint64", v)
		}
		if v := d.Int64(); v != -2 {
			t.Error("Int64", v)
		}
		if v := d.Int32(); v != -3 {
			t.Error("Int32", v)
		}
		if !d.Bool() {
			t.Error("Bool")
		}
		if p := d.Fixed(5); string(p) != "abcde" {
			t.Errorf("Fixed %q", p)
		}
		if p := d.Opaque(3); string(p) != "xyz" {
			t.Errorf("Opaque %q", p)
		}
		if s := d.String(255); s != "name" {
			t.Errorf("String %q", s)
		}
		p := make([]byte, 16)
		if n := d.OpaqueInto(p); string(p[:n]) != "large data" {
			t.Errorf("OpaqueInto %q", p[:n])
		}
		if n := d.Opaque(9); len(n) != 0 {
			t.Errorf("empty opaque %q", n)
		}
		if d.Remaining() != 0 || d.Err() != nil {
			t.Error(d.Remaining(), d.Err())
		}
	}
}

func TestMalformed(t *testing.T) {
	for name, c := range map[string]struct {
		in   string
		read func(*Decoder)
	}{
		"short uint32":      {"\x00\x00\x00", func(d *Decoder) { d.Uint32() }},
		"short uint64":      {"\x00\x00\x00\x00", func(d *Decoder) { d.Uint64() }},
		"boolean":           {"\x00\x00\x00\x02", func(d *Decoder) { d.Bool() }},
		"over the limit":    {"\x00\x00\x00\x05aaaaaaaa", func(d *Decoder) { d.Opaque(4) }},
		"over the end":      {"\x00\x00\x00\x09aaaaaaaa", func(d *Decoder) { d.Opaque(100) }},
		"huge":              {"\xff\xff\xff\xffaaaaaaaa", func(d *Decoder) { d.Opaque(1 << 30) }},
		"no padding":        {"\x00\x00\x00\x01a", func(d *Decoder) { d.Opaque(4) }},
		"padding not zero":  {"\x00\x00\x00\x01a\x00\x01\x00", func(d *Decoder) { d.Opaque(4) }},
		"fixed":             {"abc", func(d *Decoder) { d.Fixed(4) }},
		"negative":          {"abcd", func(d *Decoder) { d.Fixed(-4) }},
		"array":             {"\x00\x00\x00\x02aaaa", func(d *Decoder) { d.Len(1000, 4) }},
		"into a small room": {"\x00\x00\x00\x04aaaa", func(d *Decoder) { d.OpaqueInto(make([]byte, 3)) }},
		"said by a caller":  {"", func(d *Decoder) { d.Fail("no such type %d", 3) }},
	} {
		d := NewDecoder([]byte(c.in))
		c.read(d)
		first := d.Err()
		if !errors.Is(first, ErrFormat) {
			t.Errorf("%s: %v", name, first)
		}
		if d.Uint32() != 0 || d.Uint64() != 0 || d.Opaque(9) != nil || d.Bool() || d.Remaining() != 0 || !errors.Is(d.Err(), first) {
			t.Errorf("%s: the error does not stay", name)
		}
	}
}

// tail is a Source in memory.
type tail struct{ r *bytes.Reader }

func (s tail) ReadTail(p []byte) error {
	_, err := io.ReadFull(s.r, p)
	return err
}

func (s tail) Whole(head []byte, n int) ([]byte, error) {
	p := make([]byte, len(head)+n)
	return p, s.ReadTail(p[copy(p, head):])
}

func TestTail(t *testing.T) {
	var e Encoder
	e.Uint32(1)
	e.Opaque(bytes.Repeat([]byte("d"), 101))
	e.Uint32(2)
	msg := e.Bytes()
	for split := range len(msg) {
		for _, into := range []bool{false, true} {
			var d Decoder
			d.ResetTail(msg[:split], len(msg)-split, tail{bytes.NewReader(msg[split:])})
			d.Uint32()
			p := make([]byte, 200)
			if into {
				p = p[:d.OpaqueInto(p)]
			} else {
				p = d.Opaque(200)
			}
			if len(p) != 101 || p[100] != 'd' || d.Uint32() != 2 || d.Err() != nil || d.Remaining() != 0 {
				t.Fatalf("split at %d, into %v: %q, %v", split, into, p, d.Err())
			}
		}
	}
	var d Decoder
	d.ResetTail(msg[:8], len(msg)-8, tail{bytes.NewReader(msg[8:20])})
	d.Uint32()
	if d.OpaqueInto(make([]byte, 200)); !errors.Is(d.Err(), io.ErrUnexpectedEOF) {
		t.Errorf("a source that ends: %v", d.Err())
	}
}

func TestNoAllocations(t *testing.T) {
	var e Encoder
	data := make([]byte, 1<<20)
	var d Decoder
	bufs := make([][]byte, 0, 8)
	if n := testing.AllocsPerRun(100, func() {
		e.Reset()
		e.Opaque(data[:32])
		e.OpaqueRef(data)
		bufs = e.Buffers(bufs[:0])
		d.Reset(bufs[0])
		d.Opaque(64)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// FuzzDecoder drives a Decoder by a program of its own: no input panics, and
// a message in one piece reads as one whose tail comes later.
func FuzzDecoder(f *testing.F) {
	f.Add([]byte{0, 1, 2, 3, 4, 5}, []byte("\x00\x00\x00\x04abcd\x00\x00\x00\x01"), 3)
	f.Fuzz(func(t *testing.T, program, in []byte, split int) {
		split = int(uint(split) % uint(len(in)+1))
		whole, parts := NewDecoder(in), new(Decoder)
		parts.ResetTail(in[:split], len(in)-split, tail{bytes.NewReader(in[split:])})
		for _, op := range program {
			a, b := step(whole, op), step(parts, op)
			if !bytes.Equal(a, b) || (whole.Err() == nil) != (parts.Err() == nil) || whole.Remaining() != parts.Remaining() {
				t.Fatalf("op %d: %x, %v; in parts %x, %v", op, a, whole.Err(), b, parts.Err())
			}
		}
	})
}

func step(d *Decoder, op byte) []byte {
	var e Encoder
	switch op % 8 {
	case 0:
		e.Uint32(d.Uint32())
	case 1:
		e.Uint64(d.Uint64())
	case 2:
		e.Bool(d.Bool())
	case 3:
		return d.Fixed(int(op) - 100)
	case 4:
		return d.Opaque(int(op))
	case 5:
		return []byte(d.String(int(op)))
	case 6:
		p := make([]byte, op)
		return p[:d.OpaqueInto(p)]
	case 7:
		e.Uint32(uint32(d.Len(int(op), int(op)%5)))
	}
	return e.Bytes()
}
