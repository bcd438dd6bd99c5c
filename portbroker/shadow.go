package portbroker

import (
	"fmt"
	"net/netip"

	"github.com/lxbridge/lx/netns"
)

// shadows is the verdict on a request that the kernel grants: Shadow where
// somebody else's socket will get what callers meant for this one, or the
// other way round.
func shadows(existing []Holder, r Request) Verdict {
	var v Verdict
	if r.Listen || r.Port == 0 {
		return v
	}
	mine := Holder{Entry: netns.Entry{Socket: netns.Socket{Protocol: r.Protocol, State: netns.Listen, V6Only: r.V6Only,
		Device: r.Device, UID: r.UID, Local: netip.AddrPortFrom(r.Addr, r.Port)}}}
	if r.Protocol.Space() != netns.TCP {
		mine.State = netns.Close
	}
	for _, e := range existing {
		if why := Shadows(&e, &mine); why != "" {
			v.Kind = Shadow
			v.Holders = append(v.Holders, e)
			v.Why = fmt.Sprintf("%s holds %s: %s", e.Name(), e.LocalString(), why)
		}
	}
	return v
}

// receives says whether new peers reach the socket.
func (e *Holder) receives() bool {
	if e.Protocol.Space() == netns.TCP {
		return e.State == netns.Listen
	}
	return e.State == netns.Close
}

// Shadows says who gets what where two sockets share a port that both may
// have, and the earlier and the later one's users may be surprised; empty
// where they cannot meet.
func Shadows(earlier, later *Holder) string {
	if earlier.Protocol.Space() != later.Protocol.Space() || earlier.Local.Port() != later.Local.Port() || earlier.Namespace != later.Namespace && later.Namespace != 0 ||
		!earlier.receives() || !later.receives() {
		return ""
	}
	if earlier.Device != 0 && later.Device != 0 && earlier.Device != later.Device {
		return ""
	}
	a, b := earlier.Local.Addr(), later.Local.Addr()
	if !overlap(a, earlier.V6Only, b, later.V6Only) {
		if local4(a) && local6(b) || local6(a) && local4(b) {
			return "which of the two \"localhost\" means depends on the resolver's order"
		}
		return ""
	}
	ra, rb := reach(a), reach(b)
	switch {
	case earlier.Protocol.Space() == netns.TCP && ra == rb:
		return "the kernel spreads connections over both"
	case ra > rb:
		return "connections to " + later.LocalString() + " go to the later one, all others to the earlier"
	case ra < rb:
		return "connections to " + earlier.LocalString() + " go to the earlier one, all others to the later"
	}
	return "the later one receives, unless both have SO_REUSEPORT: then packets are spread"
}

func local4(a netip.Addr) bool {
	a = a.Unmap()
	return a.Is4() && (a.IsUnspecified() || a.IsLoopback())
}

func local6(a netip.Addr) bool {
	return !a.Unmap().Is4() && (a.IsUnspecified() || a.IsLoopback())
}

// reach is how much an address takes: the kernel prefers the narrower
// (compute_score in net/ipv4/inet_hashtables.c).
func reach(a netip.Addr) int {
	switch {
	case a == netip.IPv6Unspecified():
		return 2
	case a.Unmap().IsUnspecified():
		return 1
	}
	return 0
}
