package guest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// DoNet runs f on an OS thread of its own inside the thread's network
// namespace: sockets that f makes belong to it for good and may be used from
// anywhere. f must make them itself, not in another goroutine. EPERM is the
// network namespace of somebody whom our user namespace does not govern.
func (t Thread) DoNet(ctx context.Context, f func() error) error {
	return onThread(ctx, func() error {
		same, err := t.sharesNS("net")
		if err != nil {
			return err
		}
		if !same {
			ns, err := openNS(t.proc("ns/net"))
			if err != nil {
				return err
			}
			err = unix.Setns(ns, unix.CLONE_NEWNET)
			unix.Close(ns)
			if err != nil {
				return fmt.Errorf("cannot enter the caller's network namespace: %w", err)
			}
		}
		return f()
	})
}

// DialContext connects to "host:port" over network ("tcp", "tcp4", "tcp6",
// "udp" …) in the thread's network namespace, with the name resolved there
// (see Resolve). Addresses are tried in order, each within its share of the
// time that ctx leaves; the first one's error is told.
func (t Thread) DialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	return t.DialFrom(ctx, network, addr, 0)
}

// DialFrom is DialContext from a local port; 0 is any.
func (t Thread) DialFrom(ctx context.Context, network, addr string, from int) (net.Conn, error) {
	host, service, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	port, err := strconv.ParseUint(service, 10, 16)
	if err != nil {
		return nil, fmt.Errorf("cannot connect to %s: port %q is not a number from 0 to 65535: %w", addr, service, unix.EINVAL)
	}
	ips, err := t.Resolve(ctx, host)
	if err != nil {
		return nil, err
	}
	var first error
	for i, ip := range ips {
		if ip.Is4() && network[len(network)-1] == '6' || !ip.Is4() && network[len(network)-1] == '4' {
			continue
		}
		conn, err := t.dial(ctx, network, netip.AddrPortFrom(ip, uint16(port)), from, len(ips)-i)
		if err == nil {
			return conn, nil
		}
		if first == nil {
			first = err
		}
		if ctx.Err() != nil {
			break
		}
	}
	if first == nil {
		first = &net.DNSError{Err: "no address for " + network, Name: host, IsNotFound: true}
	}
	return nil, first
}

// LocalPort is the address to connect from that leaves all but the port to the
// kernel; nil where the port is 0.
func LocalPort(network string, port int) net.Addr {
	switch {
	case port == 0:
		return nil
	case strings.HasPrefix(network, "udp"):
		return &net.UDPAddr{Port: port}
	}
	return &net.TCPAddr{Port: port}
}

// dial connects to one of the left addresses that remain.
func (t Thread) dial(ctx context.Context, network string, to netip.AddrPort, from, left int) (net.Conn, error) {
	ctx, cancel := share(ctx, left)
	defer cancel()
	result := make(chan net.Conn, 1)
	err := t.DoNet(ctx, func() error {
		d := net.Dialer{LocalAddr: LocalPort(network, from)}
		d.SetMultipathTCP(false)
		conn, err := d.DialContext(ctx, network, to.String())
		if err != nil {
			return err
		}
		result <- conn
		if ctx.Err() != nil { // nobody waits any more
			select {
			case conn := <-result:
				conn.Close()
			default:
			}
		}
		return nil
	})
	select {
	case conn := <-result:
		return conn, nil
	default:
	}
	if err == nil {
		err = context.Cause(ctx)
	}
	if errors.Is(err, context.DeadlineExceeded) {
		err = &net.OpError{Op: "dial", Net: network, Addr: net.TCPAddrFromAddrPort(to), Err: unix.ETIMEDOUT}
	}
	return nil, err
}
