package guest

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// resolvConf is resolv.conf(5).
type resolvConf struct {
	servers  []netip.AddrPort
	search   []string
	ndots    int
	timeout  time.Duration
	attempts int
}

// parseResolvConf takes what it understands, within the limits of
// resolv.conf(5): 3 servers, 30 s, 5 attempts, 15 dots.
func parseResolvConf(text string) resolvConf {
	c := resolvConf{ndots: 1, timeout: 5 * time.Second, attempts: 2}
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "#") || strings.HasPrefix(line, ";") {
			continue
		}
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		switch f[0] {
		case "nameserver":
			if ip, err := netip.ParseAddr(f[1]); err == nil && len(c.servers) < 3 {
				c.servers = append(c.servers, netip.AddrPortFrom(ip.Unmap(), 53))
			}
		case "domain":
			c.search = f[1:2]
		case "search":
			c.search = f[1:]
		case "options":
			for _, o := range f[1:] {
				c.option(o)
			}
		}
	}
	if len(c.servers) == 0 {
		c.servers = []netip.AddrPort{netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), 53)}
	}
	return c
}

func (c *resolvConf) option(o string) {
	key, val, _ := strings.Cut(o, ":")
	n, err := strconv.Atoi(val)
	if err != nil || n < 0 {
		return
	}
	switch key {
	case "ndots":
		c.ndots = min(n, 15)
	case "timeout":
		c.timeout = time.Duration(min(max(n, 1), 30)) * time.Second
	case "attempts":
		c.attempts = min(max(n, 1), 5)
	}
}

// names are the full names to ask for, in order.
func (c resolvConf) names(host string) []string {
	if strings.HasSuffix(host, ".") {
		return []string{host}
	}
	var searched []string
	for _, domain := range c.search {
		if name := host + "." + strings.Trim(domain, ".") + "."; validName(name) {
			searched = append(searched, name)
		}
	}
	if strings.Count(host, ".") >= c.ndots {
		return append([]string{host + "."}, searched...)
	}
	return append(searched, host+".")
}

// exchange sends one query to a server and answers its response.
type exchange func(ctx context.Context, network string, server netip.AddrPort, query []byte) ([]byte, error)

// lookup asks for host; none of that name is no addresses and no error.
func (c resolvConf) lookup(ctx context.Context, host string, do exchange) ([]netip.Addr, error) {
	for _, name := range c.names(host) {
		type answer struct {
			ips []netip.Addr
			err error
		}
		ask := func(kind dnsmessage.Type) <-chan answer {
			got := make(chan answer, 1)
			go func() {
				ips, err := c.ask(ctx, name, kind, do)
				got <- answer{ips, err}
			}()
			return got
		}
		v4, v6 := ask(dnsmessage.TypeA), ask(dnsmessage.TypeAAAA)
		a, aaaa := <-v4, <-v6
		if ips := append(a.ips, aaaa.ips...); len(ips) > 0 {
			return ips, nil
		}
		if err := errors.Join(a.err, aaaa.err); err != nil {
			return nil, &net.DNSError{Err: err.Error(), Name: host, UnwrapErr: err,
				IsTimeout: errors.Is(err, context.DeadlineExceeded), IsTemporary: true}
		}
	}
	return nil, nil
}

// ask puts one question to the servers in turn until one answers it.
func (c resolvConf) ask(ctx context.Context, name string, kind dnsmessage.Type, do exchange) ([]netip.Addr, error) {
	var first error
	for range c.attempts {
		for _, server := range c.servers {
			ips, err := c.askServer(ctx, server, name, kind, do)
			if err == nil {
				return ips, nil
			}
			if ctx.Err() != nil {
				return nil, context.Cause(ctx)
			}
			if first == nil {
				first = fmt.Errorf("name server %s: %w", server, err)
			}
		}
	}
	return nil, first
}

func (c resolvConf) askServer(ctx context.Context, server netip.AddrPort, name string, kind dnsmessage.Type, do exchange) ([]netip.Addr, error) {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	query, q, err := newQuery(name, kind)
	if err != nil {
		return nil, err
	}
	response, err := do(ctx, "udp", server, query)
	if err != nil {
		return nil, err
	}
	ips, truncated, err := parseAnswer(response, query, q)
	if err == nil && truncated {
		if response, err = do(ctx, "tcp", server, query); err == nil {
			ips, _, err = parseAnswer(response, query, q)
		}
	}
	return ips, err
}

func newQuery(name string, kind dnsmessage.Type) ([]byte, dnsmessage.Question, error) {
	n, err := dnsmessage.NewName(name)
	if err != nil {
		return nil, dnsmessage.Question{}, err
	}
	var id [2]byte
	rand.Read(id[:])
	q := dnsmessage.Question{Name: n, Type: kind, Class: dnsmessage.ClassINET}
	m := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: binary.BigEndian.Uint16(id[:]), RecursionDesired: true},
		Questions: []dnsmessage.Question{q},
	}
	b, err := m.Pack()
	return b, q, err
}

// parseAnswer takes the addresses out of a response to query. The servers'
// CNAME chains are taken as they are: a recursive server has followed them.
func parseAnswer(response, query []byte, q dnsmessage.Question) (ips []netip.Addr, truncated bool, err error) {
	var p dnsmessage.Parser
	h, err := p.Start(response)
	if err != nil {
		return nil, false, err
	}
	if !h.Response || h.ID != binary.BigEndian.Uint16(query) {
		return nil, false, errors.New("a response to another query")
	}
	got, err := p.Question()
	if err != nil {
		return nil, false, err
	}
	if got.Type != q.Type || got.Class != q.Class || !strings.EqualFold(got.Name.String(), q.Name.String()) {
		return nil, false, errors.New("a response to another question")
	}
	switch h.RCode {
	case dnsmessage.RCodeSuccess:
	case dnsmessage.RCodeNameError:
		return nil, false, nil
	default:
		return nil, false, fmt.Errorf("refused the query: %s", h.RCode)
	}
	if h.Truncated {
		return nil, true, nil
	}
	if err := p.SkipAllQuestions(); err != nil {
		return nil, false, err
	}
	for {
		r, err := p.AnswerHeader()
		if errors.Is(err, dnsmessage.ErrSectionDone) {
			return ips, false, nil
		} else if err != nil {
			return nil, false, err
		}
		switch {
		case r.Type == dnsmessage.TypeA && q.Type == r.Type:
			a, err := p.AResource()
			if err != nil {
				return nil, false, err
			}
			ips = append(ips, netip.AddrFrom4(a.A))
		case r.Type == dnsmessage.TypeAAAA && q.Type == r.Type:
			a, err := p.AAAAResource()
			if err != nil {
				return nil, false, err
			}
			ips = append(ips, netip.AddrFrom16(a.AAAA))
		default:
			if err := p.SkipAnswer(); err != nil {
				return nil, false, err
			}
		}
	}
}

// exchange speaks DNS from the thread's network namespace.
func (t Thread) exchange(ctx context.Context, network string, server netip.AddrPort, query []byte) ([]byte, error) {
	conn, err := t.dial(ctx, network, server, 0, 1)
	if err != nil {
		return nil, err
	}
	return converse(ctx, conn, network, query)
}

// converse sends a query over conn, which it closes.
func converse(ctx context.Context, conn net.Conn, network string, query []byte) ([]byte, error) {
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	response, err := speak(conn, network, query)
	if err != nil && ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	return response, err
}

func speak(conn net.Conn, network string, query []byte) ([]byte, error) {
	if network == "tcp" {
		framed := append(binary.BigEndian.AppendUint16(nil, uint16(len(query))), query...)
		if _, err := conn.Write(framed); err != nil {
			return nil, err
		}
		var size [2]byte
		if _, err := io.ReadFull(conn, size[:]); err != nil {
			return nil, err
		}
		response := make([]byte, binary.BigEndian.Uint16(size[:]))
		_, err := io.ReadFull(conn, response)
		return response, err
	}
	if _, err := conn.Write(query); err != nil {
		return nil, err
	}
	for {
		response := make([]byte, 4096)
		n, err := conn.Read(response)
		if err != nil {
			return nil, err
		}
		if n >= 12 && response[0] == query[0] && response[1] == query[1] {
			return response[:n], nil
		}
	}
}
