package guest

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"net/netip"
	"strings"
	"time"
)

// maxResolverFile bounds /etc/hosts (block lists run to megabytes) and its kin.
const maxResolverFile = 8 << 20

// Resolve finds the addresses of host as the thread would: in the order of
// its nsswitch.conf(5) by its hosts(5) file and by the servers of its
// resolv.conf(5), asked in its network namespace. IP literals are themselves;
// "localhost" and names below it are the loopback addresses (RFC 6761).
//
// Of nsswitch's sources "files" and "dns" are known, "resolve" and unknown
// ones that stand before "dns" are passed over, and "resolve" alone counts as
// "dns"; actions such as [NOTFOUND=return] are not obeyed. Not spoken:
// mDNS, LDAP, NIS, EDNS, DNS over TLS.
func (t Thread) Resolve(ctx context.Context, host string) ([]netip.Addr, error) {
	return resolve(ctx, host, t.resolverFile, t.exchange)
}

// The files that say what names stand for.
const (
	nsswitchFile = "/etc/nsswitch.conf"
	hostsFile    = "/etc/hosts"
	resolvFile   = "/etc/resolv.conf"
)

// Resolver finds addresses as a thread would that may have gone.
type Resolver struct {
	files map[string]string
	dial  func(ctx context.Context, network, addr string) (net.Conn, error)
}

// Resolver keeps the thread's files as they are now; of one that cannot be read
// the error tells, and it counts as empty. dial connects from the thread's
// network namespace.
func (t Thread) Resolver(ctx context.Context, dial func(ctx context.Context, network, addr string) (net.Conn, error)) (*Resolver, error) {
	r := &Resolver{files: map[string]string{}, dial: dial}
	var errs []error
	for _, path := range []string{nsswitchFile, hostsFile, resolvFile} {
		text, err := t.resolverFile(ctx, path)
		r.files[path] = text
		errs = append(errs, err)
	}
	return r, errors.Join(errs...)
}

// Resolve is Thread.Resolve by what was kept.
func (r *Resolver) Resolve(ctx context.Context, host string) ([]netip.Addr, error) {
	file := func(_ context.Context, path string) (string, error) { return r.files[path], nil }
	return resolve(ctx, host, file, func(ctx context.Context, network string, server netip.AddrPort, query []byte) ([]byte, error) {
		conn, err := r.dial(ctx, network, server.String())
		if err != nil {
			return nil, err
		}
		return converse(ctx, conn, network, query)
	})
}

// resolve is Thread.Resolve by files that file reads and servers that do asks.
func resolve(ctx context.Context, host string, file func(ctx context.Context, path string) (string, error), do exchange) ([]netip.Addr, error) {
	if ip, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{ip.Unmap()}, nil
	}
	if h := strings.TrimSuffix(strings.ToLower(host), "."); h == "localhost" || strings.HasSuffix(h, ".localhost") {
		return []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()}, nil
	}
	if !validName(host) {
		return nil, &net.DNSError{Err: "not a host name", Name: host, IsNotFound: true}
	}
	sources := []string{"files", "dns"}
	if text, err := file(ctx, nsswitchFile); err != nil {
		return nil, err
	} else if s := parseNSSwitch(text); len(s) > 0 {
		sources = s
	}
	for _, source := range sources {
		var ips []netip.Addr
		switch source {
		case "files":
			text, err := file(ctx, hostsFile)
			if err != nil {
				return nil, err
			}
			ips = parseHosts(text, host)
		case "dns":
			text, err := file(ctx, resolvFile)
			if err != nil {
				return nil, err
			}
			ips, err = parseResolvConf(text).lookup(ctx, host, do)
			if err != nil {
				return nil, err
			}
		}
		if len(ips) > 0 {
			return ips, nil
		}
	}
	return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
}

// resolverFile is empty where there is no such file.
func (t Thread) resolverFile(ctx context.Context, path string) (string, error) {
	b, err := t.ReadFile(ctx, path, maxResolverFile)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	return string(b), err
}

// validName keeps out what could be no host name on the wire (RFC 1035).
func validName(host string) bool {
	host = strings.TrimSuffix(host, ".")
	if host == "" || len(host) > 253 {
		return false
	}
	for label := range strings.SplitSeq(host, ".") {
		if label == "" || len(label) > 63 || strings.ContainsAny(label, " \t\r\n\x00\\/") {
			return false
		}
	}
	return true
}

// parseNSSwitch answers the sources of hosts in order, each once.
func parseNSSwitch(text string) (sources []string) {
	for line := range strings.Lines(text) {
		line, _, _ = strings.Cut(line, "#")
		db, list, ok := strings.Cut(line, ":")
		if !ok || strings.TrimSpace(db) != "hosts" {
			continue
		}
		fields := strings.Fields(list)
		hasDNS := false
		for _, f := range fields {
			hasDNS = hasDNS || f == "dns"
		}
		for _, f := range fields {
			switch {
			case f == "files", f == "dns":
				sources = append(sources, f)
			case f == "resolve" && !hasDNS:
				sources = append(sources, "dns")
			}
		}
		return sources
	}
	return nil
}

// parseHosts answers the addresses of host in file order.
func parseHosts(text, host string) (ips []netip.Addr) {
	host = strings.TrimSuffix(host, ".")
	for line := range strings.Lines(text) {
		line, _, _ = strings.Cut(line, "#")
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		for _, name := range fields[1:] {
			if !strings.EqualFold(strings.TrimSuffix(name, "."), host) {
				continue
			}
			if ip, err := netip.ParseAddr(fields[0]); err == nil {
				ips = append(ips, ip.Unmap())
			}
			break
		}
	}
	return ips
}

// share divides the time that ctx has among n tries.
func share(ctx context.Context, n int) (context.Context, context.CancelFunc) {
	deadline, ok := ctx.Deadline()
	if !ok || n < 2 {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, time.Until(deadline)/time.Duration(n))
}
