// Package portbroker knows who may have which port: Verdict predicts what the
// kernel answers to a bind or listen, and says why; the traps do the calls of
// guests on their behalf and remember who asked for what.
package portbroker

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/lxbridge/lx/netns"
)

// Option is whether a socket has a socket option. A dump does not tell.
type Option int8

const (
	Off     Option = -1
	Unknown Option = 0
	On      Option = 1
)

// OptionOf is On or Off.
func OptionOf(on bool) Option {
	if on {
		return On
	}
	return Off
}

// Holder is a socket that exists on the port.
type Holder struct {
	netns.Entry
	ReuseAddr, ReusePort Option
	ReservedFor          string // a reservation's environment, which may take it
	Why                  string // the reservation's reason
}

// Request is a bind(2), or the listen(2) of a socket that is bound.
type Request struct {
	Protocol    netns.Protocol
	Addr        netip.Addr // an IPv4 address: AF_INET
	Port        uint16     // 0: the kernel chooses
	V6Only      bool
	ReuseAddr   bool
	ReusePort   bool
	Freebind    bool   // IP_FREEBIND, IP_TRANSPARENT or ip_nonlocal_bind
	Device      uint32 // SO_BINDTODEVICE
	UID         uint32 // of who made the socket
	Privileged  bool   // CAP_NET_BIND_SERVICE over the network namespace
	Bound       bool   // the socket has a port already
	Listen      bool   // listen, not bind
	Environment string // whose reservations it may take
}

// Host is what the network namespace says of itself.
type Host struct {
	UnprivilegedStart uint16 // net.ipv4.ip_unprivileged_port_start
	// Local is whether an address is the host's, and with device not 0, one
	// of that device; nil: all are.
	Local func(a netip.Addr, device uint32) bool
	// Bucket is what the kernel remembers of the port, where its history is
	// known; nil: the verdict goes by the sockets alone.
	Bucket *Bucket
}

// Kind is the outcome.
type Kind int

const (
	OK          Kind = iota
	Shadow           // succeeds, and somebody will be surprised
	Conflict         // EADDRINUSE
	Reserved         // EADDRINUSE: held for an environment that may not run yet
	Privileged       // EACCES
	Unavailable      // EADDRNOTAVAIL: the address is not the host's
	Invalid          // EINVAL: the socket is bound
)

var kindNames = [...]string{"ok", "shadow", "conflict", "reserved", "privileged", "unavailable", "invalid"}

func (k Kind) String() string { return kindNames[k] }

// MarshalText writes the name.
func (k Kind) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// Verdict is the outcome of a request, and why.
type Verdict struct {
	Kind    Kind          `json:"verdict"`
	Errno   syscall.Errno `json:"errno,omitempty"`
	Holders []Holder      `json:"holders,omitempty"` // whom it meets
	// Uncertain: a holder's options are not known; with the same option on
	// both sides the call would succeed.
	Uncertain bool   `json:"uncertain,omitempty"`
	Why       string `json:"why,omitempty"`
	Hint      string `json:"hint,omitempty"` // what to type or to change
}

// Decide is the kernel's answer to r where existing are the sockets of the
// same network namespace, in the order of Insert. It follows __inet_bind and
// inet_csk_get_port (net/ipv4), and udp_lib_get_port while no more than ten UDP
// sockets share a hash slot.
func Decide(h Host, existing []Holder, r Request) Verdict {
	if v := h.admit(r); v.Kind != OK {
		return v
	}
	if r.Port == 0 {
		return Verdict{}
	}
	if r.Protocol.Space() == netns.TCP && len(existing) > 0 && h.Bucket.admits(r) {
		return shadows(existing, r)
	}
	var met []Holder
	certain := false
	for i := range existing {
		e := &existing[i]
		if !e.counts(r) || !e.meets(r) {
			continue
		}
		if e.ReservedFor != "" {
			if e.ReservedFor == r.Environment {
				continue
			}
			return Verdict{Kind: Reserved, Errno: unix.EADDRINUSE, Holders: []Holder{*e}, Why: e.reservation()}
		}
		waiver := e.waives(r)
		if waiver != On {
			met = append(met, *e)
			certain = certain || waiver == Off
		} else if len(met) == 0 && r.Protocol.Space() != netns.TCP && e.sharesAddr(r) != On {
			break // let in by SO_REUSEPORT: the kernel looks no further
		}
	}
	if len(met) > 0 {
		return conflict(met, r, !certain)
	}
	return shadows(existing, r)
}

// Insert adds a socket that was just bound where the kernel's hash table has
// it (sk_add_node_rcu), which decides what a UDP bind meets first.
func Insert(existing []Holder, h Holder) []Holder {
	if h.ReusePort == On && h.Local.Addr().Is6() {
		return append(existing, h)
	}
	return slices.Insert(existing, 0, h)
}

// admit checks what does not depend on other sockets, in the kernel's order,
// which differs by family.
func (h Host) admit(r Request) Verdict {
	if r.Listen {
		return Verdict{}
	}
	checks := []func(Request) Verdict{h.available, h.allowed, unbound}
	if !r.Addr.Is4() {
		checks = []func(Request) Verdict{h.allowed, unbound, h.available}
	}
	for _, check := range checks {
		if v := check(r); v.Kind != OK {
			return v
		}
	}
	return Verdict{}
}

func (h Host) available(r Request) Verdict {
	a, device := r.Addr.Unmap(), r.Device
	if a.Is4() || !a.IsLoopback() && !a.IsLinkLocalUnicast() {
		device = 0 // the address is the host's, whatever device has it
	}
	if r.Freebind || h.Local == nil || a.IsUnspecified() || h.Local(a, device) {
		return Verdict{}
	}
	return Verdict{Kind: Unavailable, Errno: unix.EADDRNOTAVAIL, Why: fmt.Sprintf("%s is no address of this host", r.Addr)}
}

func (h Host) allowed(r Request) Verdict {
	if r.Port == 0 || r.Port >= h.UnprivilegedStart || r.Privileged {
		return Verdict{}
	}
	return Verdict{Kind: Privileged, Errno: unix.EACCES,
		Why:  fmt.Sprintf("ports below %d are for those with CAP_NET_BIND_SERVICE over the host's network", h.UnprivilegedStart),
		Hint: fmt.Sprintf("as root: sysctl -w net.ipv4.ip_unprivileged_port_start=%d", r.Port)}
}

func unbound(r Request) Verdict {
	if !r.Bound {
		return Verdict{}
	}
	return Verdict{Kind: Invalid, Errno: unix.EINVAL, Why: "the socket is bound already"}
}

// counts says whether the holder is in the port's bind table at all.
func (e *Holder) counts(r Request) bool {
	if e.Local.Port() != r.Port || e.Protocol.Space() != r.Protocol.Space() {
		return false
	}
	const synReceived, newSynReceived = 3, 12 // not yet sockets of their own
	return e.State != synReceived && e.State != newSynReceived
}

// meets is whether devices and addresses overlap (sk_bound_dev_if,
// inet_rcv_saddr_equal).
func (e *Holder) meets(r Request) bool {
	if e.Device != 0 && r.Device != 0 && e.Device != r.Device {
		return false
	}
	return overlap(e.Local.Addr(), e.V6Only, r.Addr, r.V6Only)
}

// overlap is whether two bound addresses receive the same packets.
func overlap(a netip.Addr, aV6Only bool, b netip.Addr, bV6Only bool) bool {
	four := func(a netip.Addr) bool { return a.Is4() || a.Is4In6() }
	switch {
	case four(a) && four(b):
		a, b = a.Unmap(), b.Unmap()
		return a == b || a.IsUnspecified() || b.IsUnspecified()
	case four(a):
		return b.IsUnspecified() && !bV6Only
	case four(b):
		return a.IsUnspecified() && !aV6Only
	}
	return a == b || a.IsUnspecified() || b.IsUnspecified()
}

// both is On where the request has the option and the holder too.
func both(holder Option, request bool) Option {
	if !request {
		return Off
	}
	return holder
}

// sharesPort is the waiver of SO_REUSEPORT: the same option, the same user.
func (e *Holder) sharesPort(r Request) Option {
	if e.UID != r.UID && !(e.State == netns.TimeWait && r.Protocol.Space() == netns.TCP) {
		return Off
	}
	return both(e.ReusePort, r.ReusePort)
}

// sharesAddr is the waiver of SO_REUSEADDR, which TCP has for holders that do
// not listen.
func (e *Holder) sharesAddr(r Request) Option {
	if r.Protocol.Space() == netns.TCP && e.State == netns.Listen {
		return Off
	}
	return both(e.ReuseAddr, r.ReuseAddr)
}

func (e *Holder) waives(r Request) Option { return max(e.sharesAddr(r), e.sharesPort(r)) }

// conflict is the verdict where r meets others. The first of them is the one
// to tell of: who listens rather than what is left of a connection.
func conflict(met []Holder, r Request, uncertain bool) Verdict {
	slices.SortStableFunc(met, func(a, b Holder) int { return cmp.Compare(a.weight(), b.weight()) })
	e := &met[0]
	v := Verdict{Kind: Conflict, Errno: unix.EADDRINUSE, Holders: met, Uncertain: uncertain}
	v.Why = fmt.Sprintf("port %d is held by %s", r.Port, e.Name())
	if !e.Local.Addr().Unmap().IsUnspecified() || e.Device != 0 {
		v.Why += " on " + e.LocalString()
	}
	switch {
	case e.State != netns.Listen && e.State != netns.Bound && r.Protocol.Space() == netns.TCP:
		v.Why += fmt.Sprintf(", whose connection to %s is in state %s", e.RemoteString(), e.State)
		v.Hint = "both the old and the new socket need SO_REUSEADDR"
	case e.State == netns.Bound:
		v.Why += ", which is bound and does not listen"
	}
	if uncertain {
		v.Hint = "it succeeds if the holder has the same of SO_REUSEADDR and SO_REUSEPORT, which the kernel does not tell"
	}
	return v
}

func (e *Holder) weight() int {
	switch {
	case e.receives():
		return 0
	case e.State == netns.Bound:
		return 1
	case e.Inode != 0:
		return 2
	}
	return 3
}

func (e *Holder) reservation() string {
	s := fmt.Sprintf("port %d is reserved for environment %s", e.Local.Port(), e.ReservedFor)
	if e.Why != "" {
		s += ": " + e.Why
	}
	return s
}

// overflowUID is anybody who is not in the user namespace's map.
const overflowUID = 65534

// Name is who holds the socket, for people: "node (4211) of anna in debian".
func (e *Holder) Name() string {
	o := e.Owner()
	switch {
	case e.Hidden && e.UID == overflowUID:
		return "a process of another user that may not be seen"
	case e.Hidden && e.UID == uint32(syscall.Getuid()):
		return "a process that may not be seen from here"
	case e.Hidden:
		return "a process of " + netns.UserName(e.UID) + " that may not be seen"
	case o == nil:
		return "no process any more (" + e.State.String() + ")"
	}
	s := fmt.Sprintf("%s (%d)", o.Program(), o.PID)
	if o.UID != uint32(syscall.Getuid()) {
		s += " of " + o.User
	}
	if c := o.Container.String(); c != "" {
		s += " in " + c
	}
	if o.Environment != "" {
		s += " in environment " + o.Environment
	}
	return s
}

// ParseEndpoint reads [tcp/|udp/]ADDR:PORT, where ADDR may be left out (*, and
// both families), a name "localhost", or an address. The protocol is TCP
// unless told.
func ParseEndpoint(text string) (p netns.Protocol, a netip.Addr, port uint16, err error) {
	rest := text
	p = netns.TCP
	for name, proto := range map[string]netns.Protocol{"tcp/": netns.TCP, "udp/": netns.UDP, "udplite/": netns.UDPLite} {
		if s, ok := strings.CutPrefix(rest, name); ok {
			p, rest = proto, s
		}
	}
	host, number := "", rest
	if i := strings.LastIndexByte(rest, ':'); i >= 0 {
		host, number = rest[:i], rest[i+1:]
	}
	n, err := strconv.ParseUint(number, 10, 16)
	if err != nil {
		return 0, a, 0, fmt.Errorf("%q is no port: expected [tcp/|udp/][ADDRESS:]NUMBER with a number up to 65535", text)
	}
	switch host = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]"); host {
	case "", "*":
		a = netip.IPv6Unspecified()
	case "localhost":
		a = netip.AddrFrom4([4]byte{127, 0, 0, 1})
	default:
		if a, err = netip.ParseAddr(host); err != nil {
			return 0, a, 0, fmt.Errorf("%q is no address: expected an IPv4 or IPv6 address, localhost or *", host)
		}
	}
	return p, a, uint16(n), nil
}
