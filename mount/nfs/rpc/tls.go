package rpc

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/lxbridge/lx/mount/nfs/xdr"
)

// startTLS asks the server for TLS and shakes hands (RFC 9289 4.1). It closes
// nc where that fails.
func startTLS(ctx context.Context, nc net.Conn, cfg Config) (net.Conn, error) {
	stop := context.AfterFunc(ctx, func() { _ = nc.SetDeadline(past) }) // a closed one needs none
	err := probeTLS(nc, cfg.Program, cfg.Version)
	if !stop() {
		err = errors.Join(err, ctx.Err())
	}
	if err != nil {
		nc.Close()
		return nil, err
	}
	own := cfg.TLS.Clone()
	own.NextProtos = []string{"sunrpc"} // RFC 9289 8.2
	own.MinVersion = tls.VersionTLS13
	if own.ServerName == "" {
		if own.ServerName, _, err = net.SplitHostPort(cfg.Addr); err != nil {
			nc.Close()
			return nil, err
		}
	}
	t := tls.Client(nc, own)
	if err := t.HandshakeContext(ctx); err != nil {
		nc.Close()
		return nil, fmt.Errorf("cannot speak TLS: %w", err)
	}
	if p := t.ConnectionState().NegotiatedProtocol; p != "sunrpc" {
		_ = t.Close() // nothing was sent
		return nil, fmt.Errorf("cannot speak TLS: the server does not name the protocol sunrpc (ALPN)")
	}
	return t, nil
}

// probeTLS makes the NULL call with AUTH_TLS, whose reply has STARTTLS as its
// verifier if the server will.
func probeTLS(nc net.Conn, program, version uint32) error {
	var e xdr.Encoder
	mark := e.Hold()
	const xid = 1
	for _, v := range []uint32{xid, msgCall, rpcVersion, program, version, 0, uint32(FlavorTLS), 0, 0, 0} {
		e.Uint32(v)
	}
	e.Set(mark, lastFragment|uint32(e.Since(mark)))
	if err := nc.SetDeadline(time.Now().Add(dialWait)); err != nil {
		return err
	}
	if _, err := nc.Write(e.Bytes()); err != nil {
		return err
	}
	var head [4]byte
	if _, err := io.ReadFull(nc, head[:]); err != nil {
		return fmt.Errorf("the server does not offer TLS: %w", err)
	}
	n := xdr.NewDecoder(head[:]).Uint32()
	if n &^= lastFragment; n > 1024 {
		return errors.New("the server does not offer TLS: it answers with something else")
	}
	p := make([]byte, n)
	if _, err := io.ReadFull(nc, p); err != nil {
		return fmt.Errorf("the server does not offer TLS: %w", err)
	}
	d := xdr.NewDecoder(p)
	d.Uint64() // transaction id, message type
	if d.Uint32() != replyAccepted {
		return fmt.Errorf("the server does not offer TLS: %w", denied(d))
	}
	d.Uint32()
	if verifier := d.Opaque(maxAuthBody); string(verifier) != "STARTTLS" {
		return errors.New("the server does not offer TLS")
	}
	return nc.SetDeadline(time.Time{})
}
