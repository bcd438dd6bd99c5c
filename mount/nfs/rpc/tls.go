package rpc

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
	"time"

	"github.com/lxbridge/lx/mount/nfs/xdr"
)

// TLSError is a server that cannot be spoken to by TLS: it does not offer it,
// or one side does not believe the other's certificate.
type TLSError struct{ Err error }

func (e *TLSError) Error() string { return "cannot speak TLS: " + e.Err.Error() }

// Unwrap has the kernel's errno, unless Err has one.
func (e *TLSError) Unwrap() []error {
	var no syscall.Errno
	if errors.As(e.Err, &no) {
		return []error{e.Err}
	}
	return []error{syscall.EACCES, e.Err}
}

// startTLS asks the server for TLS and shakes hands (RFC 9289 4.1). It closes
// nc where that fails.
func startTLS(ctx context.Context, nc net.Conn, cfg Config) (net.Conn, error) {
	stop := context.AfterFunc(ctx, func() { _ = nc.SetDeadline(past) }) // a closed one needs none
	t, err := shakeHands(nc, cfg)
	if !stop() {
		err = errors.Join(err, ctx.Err())
	}
	if err != nil {
		nc.Close()
		return nil, &TLSError{err}
	}
	return t, nil
}

func shakeHands(nc net.Conn, cfg Config) (net.Conn, error) {
	if err := nc.SetDeadline(time.Now().Add(dialWait)); err != nil {
		return nil, err
	}
	verifier, err := null(nc, cfg, FlavorTLS)
	if err != nil {
		return nil, fmt.Errorf("the server does not offer it: %w", err)
	}
	if verifier != "STARTTLS" {
		return nil, fmt.Errorf("the server does not offer it: %w", syscall.EPROTONOSUPPORT)
	}
	own := cfg.TLS.Clone()
	own.NextProtos = []string{"sunrpc"} // RFC 9289 8.2
	own.MinVersion = tls.VersionTLS13
	if own.ServerName == "" {
		if own.ServerName, _, err = net.SplitHostPort(cfg.Addr); err != nil {
			return nil, err
		}
	}
	t := tls.Client(nc, own)
	if err := t.Handshake(); err != nil {
		return nil, err
	}
	if t.ConnectionState().NegotiatedProtocol != "sunrpc" {
		return nil, errors.New("the server does not name the protocol sunrpc (ALPN)")
	}
	// The server looks at the client's certificate after the client's part of
	// the handshake (RFC 8446 2): what it answers first tells.
	if _, err := null(t, cfg, FlavorNone); err != nil {
		return nil, err
	}
	return t, nc.SetDeadline(time.Time{})
}

// null makes the NULL call with a credential that has no body, and answers the
// reply's verifier.
func null(nc net.Conn, cfg Config, flavor Flavor) (verifier string, err error) {
	var e xdr.Encoder
	mark := e.Hold()
	const xid = 1
	for _, v := range []uint32{xid, msgCall, rpcVersion, cfg.Program, cfg.Version, 0, uint32(flavor), 0, 0, 0} {
		e.Uint32(v)
	}
	e.Set(mark, lastFragment|uint32(e.Since(mark)))
	if _, err := nc.Write(e.Bytes()); err != nil {
		return "", err
	}
	var head [4]byte
	if _, err := io.ReadFull(nc, head[:]); err != nil {
		return "", err
	}
	n := xdr.NewDecoder(head[:]).Uint32()
	if n &^= lastFragment; n > 1024 {
		return "", errors.New("it answers with something else than a reply")
	}
	p := make([]byte, n)
	if _, err := io.ReadFull(nc, p); err != nil {
		return "", err
	}
	d := xdr.NewDecoder(p)
	d.Uint64() // transaction id, message type
	if d.Uint32() != replyAccepted {
		return "", denied(d)
	}
	d.Uint32()
	verifier = string(d.Opaque(maxAuthBody))
	return verifier, d.Err()
}
