package portbroker

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"net/netip"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/lxbridge/lx/core/config"
	"github.com/lxbridge/lx/core/seccomp"
	"github.com/lxbridge/lx/netns"
)

// call is one bind or listen that is being served.
type call struct {
	*seccomp.Trap
	ctx    context.Context // of what may wait
	name   string          // bind, listen
	socket int             // our descriptor of the caller's
	want   netip.AddrPort  // bind: what was asked for, and as it was written
	sa     []byte
	do     func() syscall.Errno // bind to sa, or listen
	low    bool                 // the port is privileged for the caller, if not for us
	rule   config.PortRule

	// For the ledger.
	why, hint string
}

// perform does the bind as the policy says. An error: the caller waits no more.
func (b *Broker) perform(c *call) (syscall.Errno, error) {
	switch c.rule.Policy {
	case config.PortDeny:
		return c.deny(), c.Commit()
	case config.PortWait:
		return b.await(c)
	case config.PortRemap:
		return b.remap(c)
	case config.PortReserve:
		return b.enter(c)
	}
	return c.try()
}

// try does the call. What succeeds cannot be undone.
func (c *call) try() (errno syscall.Errno, err error) {
	err = c.Attempt(func() bool {
		errno = c.do()
		return errno == 0
	})
	return errno, err
}

// enter does the call on a port that is reserved for the environment.
func (b *Broker) enter(c *call) (errno syscall.Errno, err error) {
	if errno, err = c.try(); err != nil || errno != unix.EADDRINUSE {
		return errno, err
	}
	if err := b.reserved.await(c.ctx); err != nil {
		return 0, err
	}
	place := Place{c.protocol().Space().String(), c.want.Port()}
	err = c.Attempt(func() bool {
		errno = b.reserved.pass(place, c.socket, c.do)
		return errno == 0
	})
	return errno, err
}

// protocol is what the socket speaks.
func (c *call) protocol() netns.Protocol {
	p, err := unix.GetsockoptInt(c.socket, unix.SOL_SOCKET, unix.SO_PROTOCOL)
	if err != nil {
		return netns.TCP
	}
	return netns.Protocol(p)
}

// deny is the answer of the policy of that name, which is also Landlock's.
func (c *call) deny() syscall.Errno {
	c.why = cmp.Or(c.rule.Why, "the environment's policy denies it")
	c.hint = "lxnet policy shows who said so"
	return unix.EACCES
}

var errBound = errors.New("bound")

// await binds once the port is free.
func (b *Broker) await(c *call) (errno syscall.Errno, err error) {
	if errno, err = c.try(); err != nil || errno != unix.EADDRINUSE {
		return errno, err
	}
	if v, err := b.inTheWay(c, c.want); err == nil && len(v.Holders) > 0 {
		b.say(c, fmt.Sprintf("Waits for port %d, which is held by %s", c.want.Port(), holderName(&v.Holders[0])))
	}
	werr := netns.Watch(c.ctx, b.reader, query(c, c.want.Port()), func(*netns.Snapshot, []netns.Event) error {
		if errno, err = c.try(); err != nil || errno != unix.EADDRINUSE {
			return errBound
		}
		return nil
	})
	switch {
	case errors.Is(werr, errBound):
		return errno, err
	case werr != nil:
		b.log.Warn("cannot wait for a port", "port", c.want.Port(), "err", werr)
		return unix.EADDRINUSE, nil
	}
	return 0, context.Cause(c.ctx)
}

// Where remap looks for another port: above the one that was wanted, as
// people remember best.
const (
	privilegedStep = 8000  // 80 becomes 8080
	takenStep      = 10000 // 8080 becomes 18080
)

// remap binds to the port that is wanted, or else to another. What the
// environment itself holds is refused as ever.
func (b *Broker) remap(c *call) (syscall.Errno, error) {
	errno := unix.EACCES
	if !c.low {
		var err error
		if errno, err = c.try(); err != nil || errno != unix.EADDRINUSE && errno != unix.EACCES {
			return errno, err
		}
	}
	if errno == unix.EACCES && !c.low {
		if host, err := ThisHost(); err != nil || c.want.Port() >= host.UnprivilegedStart {
			return errno, nil // for another reason
		}
	}
	reason := fmt.Sprintf("port %d is privileged", c.want.Port())
	if errno == unix.EADDRINUSE {
		v, err := b.inTheWay(c, c.want)
		if err != nil {
			b.log.Warn("cannot tell who holds a port", "err", err)
			return errno, nil
		}
		if b.ours(v) {
			return errno, nil
		}
		reason = fmt.Sprintf("port %d was held a moment ago", c.want.Port())
		if len(v.Holders) > 0 {
			reason = fmt.Sprintf("port %d is held by %s", c.want.Port(), holderName(&v.Holders[0]))
		}
	}
	for _, place := range b.places(c, errno) {
		if b.rule(c.socket, place.Port()).Policy == config.PortDeny {
			continue
		}
		c.sa = readdress(c.sa, place)
		other, err := c.try()
		switch {
		case err != nil:
			return 0, err
		case other == unix.EADDRINUSE:
			if v, err := b.inTheWay(c, place); err != nil || b.ours(v) {
				return errno, nil
			}
		case other == 0:
			b.moved(c, reason)
			return 0, nil
		}
	}
	return errno, nil
}

// places are where else the socket may go, the best first.
func (b *Broker) places(c *call, errno syscall.Errno) []netip.AddrPort {
	port, addr := int(c.want.Port()), c.want.Addr()
	if c.rule.To != 0 {
		return []netip.AddrPort{netip.AddrPortFrom(addr, c.rule.To+c.want.Port()-c.rule.Ports.Low)}
	}
	var all []netip.AddrPort
	step := privilegedStep
	if errno == unix.EADDRINUSE {
		step = takenStep
		if addr == netip.AddrFrom4([4]byte{127, 0, 0, 1}) {
			all = append(all, netip.AddrPortFrom(OwnLoopback(b.env), c.want.Port()))
		}
	}
	for p := port + step; p <= 65535; p += takenStep {
		all = append(all, netip.AddrPortFrom(addr, uint16(p)))
	}
	return append(all, netip.AddrPortFrom(addr, 0)) // the kernel's choice
}

// OwnLoopback is the environment's own among the loopback addresses of IPv4.
func OwnLoopback(environment string) netip.Addr {
	h := fnv.New32a()
	h.Write([]byte(environment))
	n := h.Sum32()
	return netip.AddrFrom4([4]byte{127, 64 + byte(n>>16)%64, byte(n >> 8), 1 + byte(n)%254})
}

// readdress is the sockaddr with another place of the same family.
func readdress(sa []byte, to netip.AddrPort) []byte {
	sa = slices.Clone(sa)
	binary.BigEndian.PutUint16(sa[2:], to.Port())
	if to.Addr().Is4() {
		a := to.Addr().As4()
		copy(sa[4:8], a[:])
	}
	return sa
}

// moved tells of a socket that got another place than it wanted.
func (b *Broker) moved(c *call, reason string) {
	c.why = reason
	name, err := unix.Getsockname(c.socket)
	if err != nil {
		return
	}
	b.say(c, fmt.Sprintf("P%s; %s's is at %s", reason[1:], b.env, placeOf(addrPort(name), c.want)))
}

// query asks for all sockets of the call's protocol on a port.
func query(c *call, port uint16) netns.Query {
	return netns.Query{Protocols: []netns.Protocol{c.protocol().Space()}, Connected: true, Low: max(1, port)}
}

// inTheWay is why the socket cannot have the place now.
func (b *Broker) inTheWay(c *call, place netip.AddrPort) (Verdict, error) {
	host, err := ThisHost()
	if err != nil {
		return Verdict{}, err
	}
	s, err := b.reader.Read(query(c, place.Port()))
	if err != nil {
		return Verdict{}, err
	}
	r := requestOf(c.socket, place, false)
	r.Environment = b.env
	all := Holders(s, b.ledger.dirs)
	b.nameByDaemon(all, Place{r.Protocol.Space().String(), r.Port})
	return Decide(host.Host, all, r), nil
}

// ours says whether the environment itself is in the way.
func (b *Broker) ours(v Verdict) bool {
	return slices.ContainsFunc(v.Holders, func(h Holder) bool {
		o := h.Owner()
		return o != nil && o.Environment == b.env
	})
}

// holderName is Name, with the host where it is no environment's.
func holderName(h *Holder) string {
	if o := h.Owner(); o != nil && o.Environment == "" && o.Container.ID == "" {
		return h.Name() + " on the host"
	}
	return h.Name()
}

// Majors of the devices behind /dev/pts (linux/major.h).
const firstPTS, lastPTS = 136, 143

// say writes a line to the caller's terminal, where its standard error is one,
// and to the log. It does not wait: neither for a terminal that is stopped nor
// for a file system of a guest.
func (b *Broker) say(c *call, text string) {
	b.log.Info("ports", "said", text, "pid", c.TID)
	theirs, err := c.GetFD(2)
	if err != nil {
		return // it has none
	}
	defer unix.Close(theirs)
	var st unix.Statx_t
	err = unix.Statx(theirs, "", unix.AT_EMPTY_PATH|unix.AT_STATX_DONT_SYNC, unix.STATX_TYPE, &st)
	if err != nil || st.Mode&unix.S_IFMT != unix.S_IFCHR || st.Rdev_major < firstPTS || st.Rdev_major > lastPTS {
		return
	}
	// A description of our own: to make theirs non-blocking would show.
	fd, err := unix.Open(fmt.Sprintf("/proc/self/fd/%d", theirs), unix.O_WRONLY|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		b.log.Warn("cannot tell of a port at the terminal", "err", err)
		return
	}
	defer unix.Close(fd)
	if _, err := unix.Write(fd, []byte("lx: "+printable(text)+"\r\n")); err != nil && !errors.Is(err, unix.EAGAIN) {
		b.log.Warn("cannot tell of a port at the terminal", "err", err)
	}
}

// printable is text without what a terminal would obey.
func printable(text string) string {
	clean := []rune(text)
	for i, c := range clean {
		if c < ' ' || c >= 0x7f && c < 0xa0 {
			clean[i] = '?'
		}
	}
	return string(clean)
}
