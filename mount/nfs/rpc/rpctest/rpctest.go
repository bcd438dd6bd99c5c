// Package rpctest is a server of ONC RPC on loopback for tests of clients: it
// does what its handler says, and breaks off, delays, splits and garbles as told.
package rpctest

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"slices"
	"sync"
	"testing"

	"github.com/lxbridge/lx/mount/nfs/xdr"
)

// Server is a fake server. Its goroutines end with the test.
type Server struct {
	Addr string

	handle func(*Call)
	l      net.Listener
	tls    *tls.Config
	wg     sync.WaitGroup

	mu       sync.Mutex
	conns    []*Conn
	accepted int
	closed   bool
	refuse   bool
	fragment int
}

// New starts a server. handle runs in a goroutine for each call and ends it by
// one of Call's methods, or not at all: then there is no reply.
func New(t testing.TB, handle func(*Call)) *Server {
	return NewTLS(t, nil, handle)
}

// NewTLS starts a server that offers RPC over TLS (RFC 9289) with config, and
// wants it of every connection.
func NewTLS(t testing.TB, config *tls.Config, handle func(*Call)) *Server {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{Addr: l.Addr().String(), handle: handle, l: l, tls: config}
	s.wg.Go(s.accept)
	t.Cleanup(s.Close)
	return s
}

// Close ends the server and waits for it.
func (s *Server) Close() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.l.Close()
	s.Drop()
	s.wg.Wait()
}

// Dial connects; it has the form of rpc.Dialer.
func Dial(ctx context.Context, network, addr string, localPort int) (net.Conn, error) {
	d := net.Dialer{}
	switch {
	case localPort == 0:
	case network[:3] == "udp":
		d.LocalAddr = &net.UDPAddr{Port: localPort}
	default:
		d.LocalAddr = &net.TCPAddr{Port: localPort}
	}
	return d.DialContext(ctx, network, addr)
}

// Drop breaks all connections off.
func (s *Server) Drop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.conns {
		c.Close()
	}
	s.conns = nil
}

// Refuse has the server close each new connection at once, or not any more.
func (s *Server) Refuse(on bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refuse = on
}

// Fragment splits replies into fragments of n bytes; 0 does not.
func (s *Server) Fragment(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fragment = n
}

// Accepted is the number of connections that were made.
func (s *Server) Accepted() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.accepted
}

// Conns are the open connections.
func (s *Server) Conns() []*Conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.conns)
}

func (s *Server) accept() {
	for {
		nc, err := s.l.Accept()
		if err != nil {
			return
		}
		s.mu.Lock()
		s.accepted++
		if s.refuse || s.closed {
			s.mu.Unlock()
			nc.Close()
			continue
		}
		c := &Conn{server: s, raw: nc, nc: nc}
		s.conns = append(s.conns, c)
		s.mu.Unlock()
		s.wg.Go(c.serve)
	}
}

// Conn is a connection as the server has it.
type Conn struct {
	server *Server
	raw    net.Conn // to be closed
	nc     net.Conn // raw, or TLS on it

	mu sync.Mutex // one reply at a time
}

// RemoteAddr is the client's end.
func (c *Conn) RemoteAddr() net.Addr { return c.raw.RemoteAddr() }

// TLS is the state of the connection; nil without TLS.
func (c *Conn) TLS() *tls.ConnectionState {
	if t, ok := c.nc.(*tls.Conn); ok {
		s := t.ConnectionState()
		return &s
	}
	return nil
}

// Close breaks the connection off.
func (c *Conn) Close() { c.raw.Close() }

// Write sends bytes as they are.
func (c *Conn) Write(p []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, err := c.nc.Write(p)
	return err
}

// Send sends a record.
func (c *Conn) Send(record []byte) error {
	c.server.mu.Lock()
	size := c.server.fragment
	c.server.mu.Unlock()
	if size == 0 {
		size = max(len(record), 1)
	}
	var p []byte
	for {
		n := min(size, len(record))
		last := uint32(0)
		if n == len(record) {
			last = 1 << 31
		}
		p = binary.BigEndian.AppendUint32(p, last|uint32(n))
		p = append(p, record[:n]...)
		if record = record[n:]; last != 0 {
			return c.Write(p)
		}
	}
}

// Record reads a record.
func Record(r io.Reader) ([]byte, error) {
	var p []byte
	for {
		var head [4]byte
		if _, err := io.ReadFull(r, head[:]); err != nil {
			return nil, err
		}
		mark := binary.BigEndian.Uint32(head[:])
		n := int(mark &^ (1 << 31))
		if len(p)+n > 64<<20 {
			return nil, errors.New("record too long")
		}
		at := len(p)
		p = append(p, make([]byte, n)...)
		if _, err := io.ReadFull(r, p[at:]); err != nil {
			return nil, err
		}
		if mark>>31 != 0 {
			return p, nil
		}
	}
}

func (c *Conn) serve() {
	defer c.Close()
	if c.server.tls != nil && !c.startTLS() {
		return
	}
	for {
		p, err := Record(c.nc)
		if err != nil {
			return
		}
		call := parse(p)
		call.Conn = c
		c.server.wg.Go(func() { c.server.handle(call) })
	}
}

func (c *Conn) startTLS() bool {
	p, err := Record(c.nc)
	if err != nil {
		return false
	}
	call := parse(p)
	call.Conn = c
	if call.Flavor != 7 {
		call.Deny(5) // AUTH_TOOWEAK
		return false
	}
	call.Verifier = []byte("STARTTLS")
	call.Reply(nil)
	t := tls.Server(c.nc, c.server.tls)
	if t.Handshake() != nil {
		return false
	}
	c.nc = t
	return true
}

// Call is a message that came. For a reply to a call that the server made,
// Reply is true and Args stands after the transaction id and message type.
type Call struct {
	Conn                        *Conn
	XID, Program, Version, Proc uint32
	IsReply                     bool
	Flavor                      uint32
	Credential                  []byte
	CallVerifierFlavor          uint32
	CallVerifier                []byte
	Header                      []byte // up to the credential, with it
	Args                        *xdr.Decoder
	VerifierFlavor              uint32 // of the reply
	Verifier                    []byte
}

func parse(p []byte) *Call {
	d := xdr.NewDecoder(p)
	c := &Call{XID: d.Uint32(), IsReply: d.Uint32() == 1, Args: d}
	if c.IsReply {
		return c
	}
	d.Uint32() // RPC version
	c.Program, c.Version, c.Proc = d.Uint32(), d.Uint32(), d.Uint32()
	c.Flavor, c.Credential = d.Uint32(), d.Opaque(400)
	c.Header = p[:len(p)-d.Remaining()]
	c.CallVerifierFlavor, c.CallVerifier = d.Uint32(), d.Opaque(400)
	return c
}

func (c *Call) accepted(stat uint32) *xdr.Encoder {
	e := &xdr.Encoder{}
	e.Uint32(c.XID)
	e.Uint32(1) // REPLY
	e.Uint32(0) // MSG_ACCEPTED
	e.Uint32(c.VerifierFlavor)
	e.Opaque(c.Verifier)
	e.Uint32(stat)
	return e
}

// Reply answers with the results that f encodes. An error of the connection is
// the client's doing, and nobody's to hear.
func (c *Call) Reply(f func(*xdr.Encoder)) {
	e := c.accepted(0)
	if f != nil {
		f(e)
	}
	_ = c.Conn.Send(e.Bytes())
}

// Refuse answers with an accept_stat other than SUCCESS, and what follows it.
func (c *Call) Refuse(stat uint32, more ...uint32) {
	e := c.accepted(stat)
	for _, v := range more {
		e.Uint32(v)
	}
	_ = c.Conn.Send(e.Bytes())
}

// Deny answers with an auth_stat.
func (c *Call) Deny(stat uint32) {
	var e xdr.Encoder
	for _, v := range []uint32{c.XID, 1, 1, 1, stat} {
		e.Uint32(v)
	}
	_ = c.Conn.Send(e.Bytes())
}
