package rpc

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/lxbridge/lx/mount/nfs/xdr"
)

// Message constants of RFC 5531 9.
const (
	rpcVersion = 2

	msgCall  = 0
	msgReply = 1

	replyAccepted = 0
	replyDenied   = 1

	maxAuthBody = 400
)

// Call is a call and, once Do has answered nil, its reply. It comes from
// NewCall and is used up by Free; it belongs to one goroutine.
type Call struct {
	Program, Version, Proc uint32
	Auth                   Auth
	// Again says that the call may reach the server twice: it is idempotent, or
	// a session or the server's reply cache knows it by its transaction id. It
	// is then sent again, with that id, after its connection was lost. Else Do
	// fails with ErrLost once it may have been sent.
	Again bool
	// Into, if set, decodes the results while they arrive; Results is not used
	// then. For READ, whose data goes from the socket to the caller's memory by
	// xdr.Decoder.OpaqueInto. It runs before Do returns, may run on the
	// connection's goroutine, and must not block.
	Into Decoder
	// Args takes the arguments. What it refers to must not change before Do returns.
	Args xdr.Encoder
	// Results reads the results; valid until Free.
	Results xdr.Decoder

	head   xdr.Encoder
	xid    uint32
	seq    uint32 // what Auth.Seal answered
	record []byte // the reply's memory
	resent bool
	timer  *time.Timer
	done   chan struct{} // one token when the reply is there or the connection lost

	// Guarded by Conn.mu while the call is on its way.
	state   callState
	writing bool // its bytes are being written by somebody else than its owner
	err     error
}

// Decoder decodes results; what it answers, Do answers.
type Decoder interface {
	DecodeResults(d *xdr.Decoder) error
}

// idle ──start──► pending ──reply──► decoding ──► idle
//
//	│ cancelled or lost: ► idle
type callState uint8

const (
	idle callState = iota
	pending
	decoding // the connection's reader is at its reply
	dropped  // decoding, but its owner wants it back
)

var calls = sync.Pool{New: func() any {
	t := time.NewTimer(time.Hour)
	t.Stop()
	return &Call{timer: t, done: make(chan struct{}, 1)}
}}

// maxKept bounds the reply memory that a free Call keeps, in bytes.
const maxKept = 256 << 10

// Free gives the call back: its encoder, decoder and what they alias are not
// to be used any more.
func (c *Call) Free() {
	c.Args.Reset()
	c.head.Reset()
	c.Results.Reset(nil)
	c.Auth, c.Into, c.err = nil, nil, nil
	if cap(c.record) > maxKept {
		c.record = nil
	}
	calls.Put(c)
}

// Resent says that the call was sent more than once, so that an answer such as
// EEXIST or ENOENT may be to a call that succeeded before.
func (c *Call) Resent() bool { return c.resent }

// seal makes the message, in c.head.
func (c *Call) seal(stream bool) (err error) {
	h := &c.head
	h.Reset()
	mark := h.Hold()
	h.Uint32(c.xid)
	h.Uint32(msgCall)
	h.Uint32(rpcVersion)
	h.Uint32(c.Program)
	h.Uint32(c.Version)
	h.Uint32(c.Proc)
	if c.seq, err = c.Auth.Seal(h, &c.Args); err != nil {
		return err
	}
	if stream {
		h.Set(mark, lastFragment|uint32(h.Since(mark)))
	}
	return nil
}

// open reads a reply up to the results.
func (c *Call) open(d *xdr.Decoder) error {
	if err := replyHeader(d, c); err != nil {
		var known *Error
		if errors.As(err, &known) {
			return err
		}
		return fmt.Errorf("cannot understand a reply: %w", err)
	}
	return nil
}

// replyHeader reads the body of a reply (RFC 5531 9) after the message type.
func replyHeader(d *xdr.Decoder, c *Call) error {
	switch stat := d.Uint32(); {
	case d.Err() != nil:
		return d.Err()
	case stat == replyDenied:
		return denied(d)
	case stat != replyAccepted:
		d.Fail("reply_stat %d", stat)
		return d.Err()
	}
	flavor := Flavor(d.Uint32())
	verifier := d.Opaque(maxAuthBody)
	stat := Status(d.Uint32())
	if d.Err() != nil {
		return d.Err()
	}
	switch stat {
	case 0:
		if err := c.Auth.Open(c.seq, flavor, verifier, d); err != nil {
			return err
		}
		return d.Err()
	case ProgMismatch:
		e := &Error{Status: stat, Low: d.Uint32(), High: d.Uint32()}
		if d.Err() != nil {
			return d.Err()
		}
		return e
	case ProgUnavail, ProcUnavail, GarbageArgs, SystemErr:
		return &Error{Status: stat}
	}
	d.Fail("accept_stat %d", stat)
	return d.Err()
}

func denied(d *xdr.Decoder) error {
	e := &Error{}
	switch why := d.Uint32(); why {
	case 0:
		e.Status, e.Low, e.High = RPCMismatch, d.Uint32(), d.Uint32()
	case 1:
		e.Status, e.Auth = AuthError, AuthStat(d.Uint32())
	default:
		d.Fail("reject_stat %d", why)
	}
	if d.Err() != nil {
		return d.Err()
	}
	return e
}

// finish decodes the record of a reply that was read whole.
func (c *Call) finish() error {
	c.Results.Reset(c.record[8:])
	if err := c.open(&c.Results); err != nil {
		return err
	}
	if c.Into != nil {
		return c.Into.DecodeResults(&c.Results)
	}
	return nil
}

// room makes c.record n bytes long.
func (c *Call) room(n int) []byte {
	if cap(c.record) < n {
		c.record = make([]byte, n)
	}
	c.record = c.record[:n]
	return c.record
}

// complete hands the call back to its owner. Conn.mu is held.
func (c *Call) complete(err error) {
	c.state, c.err = idle, err
	if !c.writing {
		c.done <- struct{}{}
	}
}

// Incoming is a call that the server makes on our connection.
type Incoming struct {
	Program, Version, Proc uint32
	Flavor                 Flavor
	Credential             []byte
	Args                   xdr.Decoder
	Conn                   *Conn
}

// Handler answers a call of the server's: it encodes the results and answers
// 0, or why it does not. ctx ends with the connection.
type Handler func(ctx context.Context, in *Incoming, results *xdr.Encoder) Status

// answer makes the reply to a record that is a call; nil where it deserves none.
func answer(ctx context.Context, c *Conn, h Handler, record []byte) *xdr.Encoder {
	in := &Incoming{Conn: c}
	d := &in.Args
	d.Reset(record)
	xid := d.Uint32()
	d.Uint32() // message type
	version := d.Uint32()
	in.Program, in.Version, in.Proc = d.Uint32(), d.Uint32(), d.Uint32()
	in.Flavor, in.Credential = Flavor(d.Uint32()), d.Opaque(maxAuthBody)
	d.Uint32()
	d.Opaque(maxAuthBody)
	if d.Err() != nil {
		return nil
	}
	e := &xdr.Encoder{}
	mark := e.Hold()
	e.Uint32(xid)
	e.Uint32(msgReply)
	if version != rpcVersion {
		e.Uint32(replyDenied)
		e.Uint32(0)
		e.Uint32(rpcVersion)
		e.Uint32(rpcVersion)
	} else {
		e.Uint32(replyAccepted)
		e.Uint64(0) // verifier: none
		var results xdr.Encoder
		status := ProgUnavail
		if h != nil {
			status = h(ctx, in, &results)
		}
		e.Uint32(uint32(status))
		switch status {
		case 0:
			e.Join(&results)
		case ProgMismatch: // the handler encodes low and high
			e.Join(&results)
		}
	}
	e.Set(mark, lastFragment|uint32(e.Since(mark)))
	return e
}

// isReply looks at the begin of a record, at least 8 bytes.
func isReply(p []byte) (xid uint32, reply bool) {
	return binary.BigEndian.Uint32(p), binary.BigEndian.Uint32(p[4:]) == msgReply
}
