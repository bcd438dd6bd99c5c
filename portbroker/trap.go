package portbroker

import (
	"context"
	"encoding/binary"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lxbridge/lx/core/config"
	"github.com/lxbridge/lx/core/env"
	"github.com/lxbridge/lx/core/seccomp"
	"github.com/lxbridge/lx/netns"
)

// Broker does the binds and listens of an environment's programs, and keeps
// the ledger of them. The kernel decides; what it refuses is explained in the
// ledger and the log.
type Broker struct {
	env      string
	log      *slog.Logger
	ledger   *Ledger
	reader   *netns.Reader
	policy   atomic.Pointer[Policy]
	reserved reservations
	link     atomic.Pointer[env.Link] // to the daemon; nil: there is none
	asking   sync.Mutex               // one question at a time, whose answer comes by
	answers  chan owners
	cookie   uint64 // of the network namespace that environment and host share
	low      uint16 // ports below are the kernel's to judge by the caller's own rights
	// reading: a receiving thread is in a guest's memory, which may hang. The
	// next bind meanwhile has a goroutine, so that one thread hangs at most.
	reading atomic.Bool
}

// New makes the broker of the environment name, whose ledger is in the state
// directory. Close ends it.
func New(name string, dirs env.Dirs, log *slog.Logger) (*Broker, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("cannot serve binds: %w", err)
	}
	defer unix.Close(fd)
	b := &Broker{env: name, log: log, answers: make(chan owners, 1), reader: netns.NewReader()}
	b.policy.Store(&Policy{})
	b.reserved.known = make(chan struct{})
	if b.cookie, err = unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE); err != nil {
		return nil, fmt.Errorf("cannot tell the network namespace: %w", err)
	}
	if MayBindLow() {
		// We may what a caller perhaps may not.
		host, err := ThisHost()
		if err != nil {
			return nil, err
		}
		b.low = host.UnprivilegedStart
	}
	if b.ledger, err = openLedger(dirs, name, log, b.nameByDaemon); err != nil {
		return nil, err
	}
	return b, nil
}

// Close writes what the ledger still has. No handler may run any more.
func (b *Broker) Close() error {
	b.reader.Close()
	b.reserved.replace(nil)
	return b.ledger.close()
}

// SetPolicy counts for what is asked from now on.
func (b *Broker) SetPolicy(p Policy) { b.policy.Store(&p) }

// Handlers serve the rows of seccomp.FeaturePorts.
func (b *Broker) Handlers() seccomp.Handlers {
	return seccomp.Handlers{
		"bind": b.reads(func(ctx context.Context, t *seccomp.Trap) (seccomp.Reply, bool) {
			return b.bind(ctx, t, t.Args[0], t.Args[1], t.Args[2])
		}),
		"listen": {
			Inline: func(t *seccomp.Trap) (seccomp.Reply, bool) {
				return b.listen(context.Background(), t, t.Args[0], t.Args[1])
			},
			Serve: func(ctx context.Context, t *seccomp.Trap) seccomp.Reply {
				r, _ := b.listen(ctx, t, t.Args[0], t.Args[1])
				return r
			},
		},
		"socketcall": b.reads(b.socketcall),
	}
}

// receiving says that a call is on the receiving thread, whose context never
// ends, and where what may wait is declined.
func receiving(ctx context.Context) bool { return ctx.Done() == nil }

// reads is a handler that reads guest memory.
func (b *Broker) reads(f func(context.Context, *seccomp.Trap) (seccomp.Reply, bool)) seccomp.Handler {
	return seccomp.Handler{
		Inline: func(t *seccomp.Trap) (seccomp.Reply, bool) {
			if !b.reading.CompareAndSwap(false, true) {
				return seccomp.Reply{}, false
			}
			defer b.reading.Store(false)
			return f(context.Background(), t)
		},
		Serve: func(ctx context.Context, t *seccomp.Trap) seccomp.Reply {
			r, _ := f(ctx, t)
			return r
		},
	}
}

// native lets the kernel do the call, which is not for the broker or of which
// it knows the error.
var native = seccomp.Reply{Continue: true}

// socketcall unpacks the arguments of i386, an array of 32-bit words.
func (b *Broker) socketcall(ctx context.Context, t *seccomp.Trap) (seccomp.Reply, bool) {
	words := make([]byte, 12)
	if uint32(t.Args[0]) == seccomp.SocketcallListen {
		words = words[:8]
	}
	if n, err := t.ReadMemory(t.Args[1], words); err != nil || n < len(words) {
		return native, true // EFAULT
	}
	word := func(i int) uint64 { return uint64(binary.LittleEndian.Uint32(words[4*i:])) }
	if uint32(t.Args[0]) == seccomp.SocketcallListen {
		return b.listen(ctx, t, word(0), word(1))
	}
	return b.bind(ctx, t, word(0), word(1), word(2))
}

// maxSockaddr is the size of struct sockaddr_storage: more is EINVAL.
const maxSockaddr = 128

// bind does the call, or declines on the receiving thread.
func (b *Broker) bind(ctx context.Context, t *seccomp.Trap, fd, addr, size uint64) (seccomp.Reply, bool) {
	if int32(size) <= 0 || int32(size) > maxSockaddr {
		return native, true
	}
	var storage [maxSockaddr]byte
	sa := storage[:int32(size)]
	if n, err := t.ReadMemory(addr, sa); err != nil || n < len(sa) {
		return native, true
	}
	s, ok := b.take(t, fd)
	if !ok {
		return native, true
	}
	defer unix.Close(s)
	want, parsed := parseSockaddr(sa)
	rule := b.rule(s, want.Port())
	if receiving(ctx) && rule.Policy != config.PortShare && rule.Policy != config.PortDeny {
		return seccomp.Reply{}, false
	}
	low := parsed && want.Port() != 0 && want.Port() < b.low
	if low && rule.Policy != config.PortDeny && rule.Policy != config.PortRemap {
		return native, true
	}
	c := &call{Trap: t, ctx: ctx, name: "bind", socket: s, want: want, sa: sa, low: low, rule: rule}
	c.do = func() syscall.Errno { return bind(s, c.sa) }
	errno, err := b.perform(c)
	if err != nil {
		return seccomp.Reply{Errno: unix.EINTR}, true
	}
	b.tell(c, errno)
	return seccomp.Reply{Errno: errno}, true
}

// rule is what the policy says of the port for the socket s.
func (b *Broker) rule(s int, port uint16) config.PortRule {
	p := *b.policy.Load()
	if len(p) == 0 {
		return share
	}
	proto, err := unix.GetsockoptInt(s, unix.SOL_SOCKET, unix.SO_PROTOCOL)
	if err != nil {
		return share
	}
	return p.Rule(netns.Protocol(proto), port)
}

// listen does the call, or declines on the receiving thread.
func (b *Broker) listen(ctx context.Context, t *seccomp.Trap, fd, backlog uint64) (seccomp.Reply, bool) {
	s, ok := b.take(t, fd)
	if !ok {
		return native, true
	}
	defer unix.Close(s)
	c := &call{Trap: t, ctx: ctx, name: "listen", socket: s, rule: share}
	if len(*b.policy.Load()) > 0 {
		if name, err := unix.Getsockname(s); err == nil {
			c.want = addrPort(name)
			c.rule = b.rule(s, c.want.Port())
		}
	}
	if receiving(ctx) && c.rule.Policy == config.PortReserve {
		return seccomp.Reply{}, false
	}
	c.do = func() syscall.Errno {
		errno, _ := unix.Listen(s, int(int32(backlog))).(syscall.Errno)
		return errno
	}
	var errno syscall.Errno
	var err error
	switch c.rule.Policy {
	case config.PortDeny:
		errno, err = c.deny(), t.Commit()
	case config.PortReserve:
		errno, err = b.enter(c)
	default:
		errno, err = c.try()
	}
	if err != nil {
		return seccomp.Reply{Errno: unix.EINTR}, true
	}
	b.tell(c, errno)
	return seccomp.Reply{Errno: errno}, true
}

// take is our own descriptor of the caller's socket, where that is one of the
// shared network: all others are the kernel's, for SO_PEERCRED, paths and
// netlink ids must be the caller's, and its rights over its own namespaces too.
func (b *Broker) take(t *seccomp.Trap, fd uint64) (int, bool) {
	s, err := t.GetFD(int(int32(fd)))
	if err != nil {
		return -1, false
	}
	domain, err := unix.GetsockoptInt(s, unix.SOL_SOCKET, unix.SO_DOMAIN)
	if err == nil && (domain == unix.AF_INET || domain == unix.AF_INET6) {
		if cookie, err := unix.GetsockoptUint64(s, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE); err == nil && cookie == b.cookie {
			return s, true
		}
	}
	unix.Close(s)
	return -1, false
}

// tell writes the call to the ledger.
func (b *Broker) tell(c *call, errno syscall.Errno) {
	e := Record{At: time.Now(), Environment: b.env, PID: c.TID, Call: c.name, Wanted: c.want, Why: c.why, Hint: c.hint}
	if c.rule.Policy != config.PortShare {
		e.Policy = c.rule.Policy
	}
	if proto, err := unix.GetsockoptInt(c.socket, unix.SOL_SOCKET, unix.SO_PROTOCOL); err == nil {
		e.Protocol = netns.Protocol(proto).String()
	}
	if errno == 0 || c.name == "listen" {
		if name, err := unix.Getsockname(c.socket); err == nil {
			e.Local = addrPort(name)
		}
		if cookie, err := unix.GetsockoptUint64(c.socket, unix.SOL_SOCKET, unix.SO_COOKIE); err == nil {
			e.Socket = cookie
		}
		if c.name == "listen" {
			e.Wanted = e.Local
		}
	}
	if errno != 0 {
		e.Error = unix.ErrnoName(errno)
		e.request = requestOf(c.socket, e.Wanted, c.name == "listen")
		e.request.Environment = b.env
		e.identify() // it may end of it
	}
	b.ledger.add(e)
}

// requestOf asks a socket for the options that matter.
func requestOf(s int, want netip.AddrPort, listen bool) Request {
	option := func(level, name int) int {
		v, err := unix.GetsockoptInt(s, level, name)
		if err != nil {
			return 0 // IPv6's of an IPv4 socket
		}
		return v
	}
	r := Request{Addr: want.Addr(), Port: want.Port(), Listen: listen,
		Protocol:  netns.Protocol(option(unix.SOL_SOCKET, unix.SO_PROTOCOL)),
		V6Only:    option(unix.SOL_IPV6, unix.IPV6_V6ONLY) != 0,
		ReuseAddr: option(unix.SOL_SOCKET, unix.SO_REUSEADDR) != 0,
		ReusePort: option(unix.SOL_SOCKET, unix.SO_REUSEPORT) != 0,
		Freebind:  option(unix.SOL_IP, unix.IP_FREEBIND)|option(unix.SOL_IP, unix.IP_TRANSPARENT) != 0,
		Device:    uint32(option(unix.SOL_SOCKET, unix.SO_BINDTOIFINDEX))}
	var st unix.Stat_t
	if unix.Fstat(s, &st) == nil {
		r.UID = st.Uid
	}
	if name, err := unix.Getsockname(s); err == nil && !listen {
		r.Bound = addrPort(name).Port() != 0
	}
	return r
}

// parseSockaddr reads struct sockaddr_in and sockaddr_in6; what is neither is
// the kernel's to refuse.
func parseSockaddr(b []byte) (netip.AddrPort, bool) {
	if len(b) < 2 {
		return netip.AddrPort{}, false
	}
	switch family := binary.NativeEndian.Uint16(b); {
	case (family == unix.AF_INET || family == unix.AF_UNSPEC) && len(b) >= 8:
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[4:8])), binary.BigEndian.Uint16(b[2:])), true
	case family == unix.AF_INET6 && len(b) >= 24:
		return netip.AddrPortFrom(netip.AddrFrom16([16]byte(b[8:24])), binary.BigEndian.Uint16(b[2:])), true
	}
	return netip.AddrPort{}, false
}

func addrPort(sa unix.Sockaddr) netip.AddrPort {
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(sa.Addr), uint16(sa.Port))
	}
	return netip.AddrPort{}
}
