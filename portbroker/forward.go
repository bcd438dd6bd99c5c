package portbroker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"
)

// Forwarder passes TCP connections on.
type Forwarder struct {
	// Dial reaches the target, wherever that is.
	Dial func(context.Context) (net.Conn, error)
	// Proxy: what is passed on begins with who the client is, in a line of the
	// PROXY protocol, version 1.
	Proxy bool
	Log   *slog.Logger
}

const (
	maxForwarded = 4096             // connections at a time
	dialTime     = 10 * time.Second // for the target to answer
	acceptPause  = 50 * time.Millisecond
)

// Serve takes l over, until ctx ends (nil) or it is closed; connections end with it.
func (f *Forwarder) Serve(ctx context.Context, l net.Listener) error {
	defer l.Close()
	defer context.AfterFunc(ctx, func() { l.Close() })()
	var wg sync.WaitGroup
	defer wg.Wait()
	places := make(chan struct{}, maxForwarded)
	for {
		select {
		case places <- struct{}{}:
		case <-ctx.Done():
			return nil
		}
		c, err := l.Accept()
		if err == nil {
			wg.Go(func() {
				defer func() { <-places }()
				if err := f.pass(ctx, c); err != nil && ctx.Err() == nil {
					f.Log.Warn("forward", "client", c.RemoteAddr().String(), "err", err)
				}
			})
			continue
		}
		<-places
		if ctx.Err() != nil {
			return nil
		}
		if errors.Is(err, net.ErrClosed) {
			return fmt.Errorf("cannot accept: %w", err)
		}
		f.Log.Warn("forward", "err", err)
		select { // out of descriptors: some connections may end
		case <-ctx.Done():
		case <-time.After(acceptPause):
		}
	}
}

// pass serves one client to its end, each direction by itself.
func (f *Forwarder) pass(ctx context.Context, client net.Conn) error {
	defer client.Close()
	dialing, cancel := context.WithTimeout(ctx, dialTime)
	target, err := f.Dial(dialing)
	cancel()
	if err != nil {
		return err
	}
	defer target.Close()
	defer context.AfterFunc(ctx, func() {
		client.Close()
		target.Close()
	})()
	if f.Proxy {
		if _, err := io.WriteString(target, proxyLine(client.RemoteAddr(), client.LocalAddr())); err != nil {
			return err
		}
	}
	up := make(chan error, 1)
	go func() { up <- transfer(target, client) }()
	return errors.Join(transfer(client, target), <-up)
}

// transfer copies until from ends, and tells to. What breaks ends both directions.
func transfer(to, from net.Conn) error {
	_, err := io.Copy(to, from)
	if half, ok := to.(interface{ CloseWrite() error }); ok && err == nil {
		err = half.CloseWrite()
	}
	if err != nil {
		to.Close()
		from.Close()
	}
	if errors.Is(err, net.ErrClosed) { // the other direction has told
		return nil
	}
	return err
}

// proxyLine is the PROXY protocol's (haproxy.org, proxy-protocol.txt, 2.1).
func proxyLine(from, to net.Addr) string {
	a, aerr := netip.ParseAddrPort(from.String())
	b, berr := netip.ParseAddrPort(to.String())
	if aerr != nil || berr != nil {
		return "PROXY UNKNOWN\r\n"
	}
	family, x, y := "TCP6", a.Addr().Unmap().WithZone(""), b.Addr().Unmap().WithZone("")
	if x.Is4() {
		family = "TCP4"
	}
	return fmt.Sprintf("PROXY %s %s %s %d %d\r\n", family, x, y, a.Port(), b.Port())
}
