// Package gss is RPCSEC_GSS (RFC 2203) with Kerberos version 5 (RFC 4121):
// credentials for calls that say who calls (krb5), that nobody can change
// (krb5i), that nobody can read (krb5p).
package gss

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"syscall"

	"github.com/lxbridge/lx/mount/nfs/rpc"
	"github.com/lxbridge/lx/mount/nfs/xdr"
)

// Service is how calls are protected (RFC 2203 5.3.1).
type Service uint32

const (
	Krb5  Service = 1 // who calls
	Krb5i Service = 2 // and that it is what was sent
	Krb5p Service = 3 // and that nobody else reads it
)

// Flavor is the pseudo-flavour that stands for Kerberos with s in lists of
// flavours (RFC 2623 4.2).
func (s Service) Flavor() uint32 { return 390002 + uint32(s) }

// Config says whom a credential is for.
type Config struct {
	// Tickets gets service tickets for the caller, by a credential cache or a
	// keytab, both read in the caller's view.
	Tickets *Tickets
	// Principal of the server's service: "nfs/host.name".
	Principal string
	Service
	// Calls is how the server is called to set up the context: as the client is
	// that the credential is for. The connection lasts as long as that takes,
	// and it need not be the client's own.
	Calls rpc.Config
}

// Procedures of RPCSEC_GSS (RFC 2203 5.3.1).
const (
	procData    = 0
	procInit    = 1
	procDestroy = 3

	gssVersion = 1
	maxToken   = 64 << 10
	maxHandle  = 400
)

// Context is a credential (rpc.Auth). When the server has forgotten or expired
// it, it is set up anew.
type Context struct {
	cfg Config

	renewing chan struct{} // has one element while somebody sets up

	mu     sync.RWMutex // guards what follows
	now    *established
	before *established // replies to calls made by it may still come; may be nil
}

// established is a context that the server knows.
type established struct {
	handle []byte
	keys   *keys
	first  uint32 // the number that the first call's comes after: the last of the context before

	mu  sync.Mutex
	seq uint32 // of the last call
}

// maxSeq is where sequence numbers end and a context with them (RFC 2203 5.3.3.1).
const maxSeq = 0x80000000

var _ rpc.Auth = (*Context)(nil)

// New sets up a context with the server.
func New(ctx context.Context, cfg Config) (*Context, error) {
	c := &Context{cfg: cfg, renewing: make(chan struct{}, 1)}
	if err := c.renew(ctx, nil); err != nil {
		return nil, err
	}
	return c, nil
}

func (c *Context) current() *established {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.now
}

// renew sets up a context, if old is still the one in use.
func (c *Context) renew(ctx context.Context, old *established) error {
	select {
	case c.renewing <- struct{}{}:
		defer func() { <-c.renewing }()
	case <-ctx.Done():
		return ctx.Err()
	}
	if c.current() != old {
		return nil
	}
	e, err := establish(ctx, c.cfg)
	if err != nil {
		return fmt.Errorf("cannot set up Kerberos with %s: %w", c.cfg.Principal, err)
	}
	if old != nil {
		e.follow(old)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now, c.before = e, c.now
	return nil
}

// follow has e count on where old is, so that numbers tell whose a call was,
// unless few are left.
func (e *established) follow(old *established) {
	old.mu.Lock()
	defer old.mu.Unlock()
	if old.seq < maxSeq/2 {
		e.first, e.seq = old.seq, old.seq
	}
}

// next is the number of a new transmission.
func (e *established) next() (uint32, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.seq >= maxSeq-1 {
		return 0, fmt.Errorf("the GSS context is used up: %w", syscall.EKEYEXPIRED)
	}
	e.seq++
	return e.seq, nil
}

// credential appends the credential (RFC 2203 5.3.1).
func credential(head *xdr.Encoder, proc, seq uint32, s Service, handle []byte) {
	head.Uint32(uint32(rpc.FlavorGSS))
	n := head.Hold()
	head.Uint32(gssVersion)
	head.Uint32(proc)
	head.Uint32(seq)
	head.Uint32(uint32(s))
	head.Opaque(handle)
	head.Set(n, uint32(head.Since(n)))
}

// header appends the credential and the verifier, which signs all before it
// but the record mark (RFC 2203 5.3.1).
func (e *established) header(head *xdr.Encoder, proc, seq uint32, s Service) {
	credential(head, proc, seq, s, e.handle)
	mic := e.keys.sign(head.Bytes()[4:])
	head.Uint32(uint32(rpc.FlavorGSS))
	head.Opaque(mic)
}

// Seal implements rpc.Auth.
func (c *Context) Seal(head, args *xdr.Encoder) (uint32, error) {
	e := c.current()
	seq, err := e.next()
	if err != nil {
		return 0, err
	}
	e.header(head, procData, seq, c.cfg.Service)
	if c.cfg.Service == Krb5 {
		head.Join(args)
		return seq, nil
	}
	body := args.AppendTo(binary.BigEndian.AppendUint32(make([]byte, 0, 4+args.Len()), seq))
	if c.cfg.Service == Krb5i {
		head.OpaqueRef(body)
		head.Opaque(e.keys.sign(body))
		return seq, nil
	}
	sealed, err := e.keys.wrap(body)
	if err != nil {
		return 0, err
	}
	head.OpaqueRef(sealed)
	return seq, nil
}

// Open implements rpc.Auth.
func (c *Context) Open(seq uint32, flavor rpc.Flavor, verifier []byte, d *xdr.Decoder) error {
	if flavor != rpc.FlavorGSS {
		return fmt.Errorf("the server does not sign its reply: %w", syscall.EACCES)
	}
	c.mu.RLock()
	e, before := c.now, c.before
	c.mu.RUnlock()
	signed := binary.BigEndian.AppendUint32(nil, seq)
	err := e.keys.verify(signed, verifier)
	if err != nil && before != nil {
		e, err = before, before.keys.verify(signed, verifier)
	}
	if err != nil {
		return err
	}
	var body []byte
	switch c.cfg.Service {
	case Krb5:
		return nil
	case Krb5i:
		body = d.Opaque(d.Remaining())
		mic := d.Opaque(d.Remaining())
		if d.Err() != nil {
			return d.Err()
		}
		if err := e.keys.verify(body, mic); err != nil {
			return err
		}
	case Krb5p:
		sealed := d.Opaque(d.Remaining())
		if d.Err() != nil {
			return d.Err()
		}
		var err error
		if body, err = e.keys.unwrap(sealed); err != nil {
			return err
		}
	}
	d.Reset(body)
	if got := d.Uint32(); d.Err() == nil && got != seq {
		return fmt.Errorf("a reply to another call was put in: %w", syscall.EACCES)
	}
	return d.Err()
}

// Plain implements rpc.Auth.
func (c *Context) Plain() bool { return c.cfg.Service == Krb5 }

// Refused implements rpc.Auth: a context that the server does not know any more
// is set up again, once for all calls that were made by it.
func (c *Context) Refused(ctx context.Context, seq uint32, why *rpc.Error) error {
	if why.Auth != rpc.GSSCredProblem && why.Auth != rpc.GSSContextProblem {
		return why
	}
	now := c.current()
	if seq <= now.first {
		return nil // by one before
	}
	return c.renew(ctx, now)
}

// Close tells the server that the context is not used any more (RFC 2203 5.4).
func (c *Context) Close(ctx context.Context) error {
	return exchange(ctx, c.cfg, destroying{c}, func(*xdr.Encoder) {}, func(*xdr.Decoder) error { return nil })
}

// destroying makes the call that ends a context.
type destroying struct{ *Context }

func (d destroying) Seal(head, args *xdr.Encoder) (uint32, error) {
	e := d.current()
	seq, err := e.next()
	if err != nil {
		return 0, err
	}
	e.header(head, procDestroy, seq, Krb5)
	return seq, nil
}

func (d destroying) Open(seq uint32, flavor rpc.Flavor, verifier []byte, _ *xdr.Decoder) error {
	return d.current().keys.verify(binary.BigEndian.AppendUint32(nil, seq), verifier)
}

func (d destroying) Plain() bool                                               { return true }
func (d destroying) Refused(_ context.Context, _ uint32, why *rpc.Error) error { return why }

// initiating makes the call that begins a context, and keeps the verifier of
// its reply, which can be checked only when the keys are known.
type initiating struct{ verifier []byte }

func (i *initiating) Seal(head, args *xdr.Encoder) (uint32, error) {
	credential(head, procInit, 0, Krb5, nil)
	head.Uint64(0) // verifier: none
	head.Join(args)
	return 0, nil
}

func (i *initiating) Open(_ uint32, flavor rpc.Flavor, verifier []byte, _ *xdr.Decoder) error {
	if flavor == rpc.FlavorGSS {
		i.verifier = append([]byte(nil), verifier...)
	}
	return nil
}

func (i *initiating) Plain() bool                                               { return true }
func (i *initiating) Refused(_ context.Context, _ uint32, why *rpc.Error) error { return why }

// exchange makes one call on a connection of its own.
func exchange(ctx context.Context, cfg Config, auth rpc.Auth, args func(*xdr.Encoder), results func(*xdr.Decoder) error) error {
	calls := cfg.Calls
	calls.Conns, calls.Connected, calls.Lost, calls.Serve, calls.Note = 1, nil, nil, nil, nil
	if calls.Recovery == rpc.Hard {
		calls.Recovery = rpc.SoftErr
	}
	cl, err := rpc.Dial(ctx, calls)
	if err != nil {
		return err
	}
	call := cl.NewCall(0, auth)
	args(&call.Args)
	if err = cl.Do(ctx, call); err == nil {
		err = results(&call.Results)
	}
	call.Free()
	return errors.Join(err, cl.Close())
}

// establish sets up a context: one exchange, since Kerberos needs no more.
func establish(ctx context.Context, cfg Config) (*established, error) {
	token, pending, err := request(ctx, cfg.Tickets, cfg.Principal)
	if err != nil {
		return nil, err
	}
	e := &established{}
	var init initiating
	var reply []byte
	var major, minor, window uint32
	err = exchange(ctx, cfg, &init, func(x *xdr.Encoder) { x.Opaque(token) }, func(d *xdr.Decoder) error {
		e.handle = append([]byte(nil), d.Opaque(maxHandle)...)
		major, minor, window = d.Uint32(), d.Uint32(), d.Uint32()
		reply = append([]byte(nil), d.Opaque(maxToken)...)
		return d.Err()
	})
	switch {
	case err != nil:
		return nil, err
	case major != 0:
		return nil, fmt.Errorf("the server does not accept the ticket (GSS error %#x, %d): %w", major, minor, syscall.EACCES)
	}
	if e.keys, err = pending.accepted(reply); err != nil {
		return nil, err
	}
	// The reply's verifier signs the window (RFC 2203 5.2.3.1).
	return e, e.keys.verify(binary.BigEndian.AppendUint32(nil, window), init.verifier)
}
