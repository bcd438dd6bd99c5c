package portbroker

import "net/netip"

// Bucket is what the kernel remembers of a TCP port besides its sockets
// (fastreuseport of struct inet_bind_bucket, as it works since Linux 6.8): the
// last socket with SO_REUSEPORT that had to be compared with the others. Those
// that it covers are let in without a look at the sockets that are there. It
// matters where sockets with and without the option are mixed, or options change.
type Bucket struct {
	set    bool
	uid    uint32
	addr   netip.Addr
	v6only bool
}

// Bound tells of a bind or listen that has succeeded. A port that no socket
// is on has a new Bucket.
func (b *Bucket) Bound(r Request) {
	switch {
	case !r.ReusePort:
		b.set = false
	case !b.admits(r):
		*b = Bucket{true, r.UID, r.Addr, r.V6Only}
	}
}

// admits is sk_reuseport_match (net/ipv4/inet_connection_sock.c).
func (b *Bucket) admits(r Request) bool {
	if b == nil || !b.set || !r.ReusePort || b.uid != r.UID {
		return false
	}
	four := r.Addr.Unmap().Is4()
	switch {
	case b.addr == netip.IPv6Unspecified():
		return !four || !b.v6only
	case b.addr.Unmap().Is4() && four:
		return b.addr.Unmap() == r.Addr.Unmap() || b.addr.Unmap().IsUnspecified()
	case b.addr.Is4():
		return b.addr.IsUnspecified() && r.Addr == netip.IPv6Unspecified() && !r.V6Only
	}
	return b.addr == r.Addr
}
