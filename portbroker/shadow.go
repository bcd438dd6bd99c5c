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
		mine.Namespace = e.Namespace
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
// have, and the users of either may be surprised; empty where they cannot meet.
func Shadows(a, b *Holder) string {
	if a.Protocol.Space() != b.Protocol.Space() || a.Local.Port() != b.Local.Port() || a.Namespace != b.Namespace ||
		!a.receives() || !b.receives() || a.Device != 0 && b.Device != 0 && a.Device != b.Device {
		return ""
	}
	x, y := a.Local.Addr(), b.Local.Addr()
	if !overlap(x, a.V6Only, y, b.V6Only) {
		if local4(x) && local6(y) || local6(x) && local4(y) {
			return "which of the two \"localhost\" means depends on the resolver's order"
		}
		return ""
	}
	what := "connections"
	if a.Protocol.Space() != netns.TCP {
		what = "packets"
	}
	switch {
	case reach(x) < reach(y):
		return fmt.Sprintf("%s to %s go to that one, all others to the other", what, a.LocalString())
	case reach(x) > reach(y):
		return fmt.Sprintf("%s to %s go to that one, all others to the other", what, b.LocalString())
	case a.Protocol.Space() == netns.TCP:
		return "the kernel spreads connections over both"
	}
	return "the one that was bound later receives, unless both have SO_REUSEPORT: then packets are spread"
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
