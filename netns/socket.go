// Package netns tells which sockets exist, in every network namespace that the
// caller may see, and who holds them: sock_diag(7) where a namespace can be
// entered, /proc/PID/net where it can only be read, /proc/PID/fd for owners.
// It needs no privilege, and says what it was not allowed to see.
package netns

import (
	"fmt"
	"net/netip"
	"strconv"

	"golang.org/x/sys/unix"
)

// Protocol is what a socket speaks, by the numbers of socket(2).
type Protocol uint16

const (
	TCP     Protocol = unix.IPPROTO_TCP
	UDP     Protocol = unix.IPPROTO_UDP
	SCTP    Protocol = unix.IPPROTO_SCTP
	UDPLite Protocol = unix.IPPROTO_UDPLITE
	Raw     Protocol = unix.IPPROTO_RAW
	MPTCP   Protocol = unix.IPPROTO_MPTCP
	VSock   Protocol = 0xff28 // AF_VSOCK has no IP protocol: its domain, marked
)

var protocolNames = map[Protocol]string{TCP: "tcp", UDP: "udp", SCTP: "sctp", UDPLite: "udplite", Raw: "raw", MPTCP: "mptcp", VSock: "vsock"}

func (p Protocol) String() string {
	if s, ok := protocolNames[p]; ok {
		return s
	}
	return "proto-" + strconv.Itoa(int(p))
}

// MarshalText writes the name.
func (p Protocol) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// Space is the protocol whose ports p shares: MPTCP's are TCP's.
func (p Protocol) Space() Protocol {
	if p == MPTCP {
		return TCP
	}
	return p
}

// State is the kernel's TCP state (net/tcp_states.h), which other protocols
// borrow: an unconnected UDP socket is in Close, a connected one Established.
type State uint8

const (
	Established State = 1
	SynSent     State = 2
	TimeWait    State = 6
	Close       State = 7
	Listen      State = 10
	// Bound is TCP that has a port and neither listens nor is connected.
	Bound State = 13
)

var stateNames = [...]string{"UNKNOWN", "ESTAB", "SYN-SENT", "SYN-RECV", "FIN-WAIT-1", "FIN-WAIT-2", "TIME-WAIT", "UNCONN",
	"CLOSE-WAIT", "LAST-ACK", "LISTEN", "CLOSING", "NEW-SYN-RECV", "BOUND"}

func (s State) String() string {
	if int(s) < len(stateNames) {
		return stateNames[s]
	}
	return "STATE-" + strconv.Itoa(int(s))
}

// MarshalText writes the name as ss(8) has it.
func (s State) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// Socket is one socket as the kernel tells it.
type Socket struct {
	Namespace uint64         `json:"namespace"` // inode of its network namespace; 0: could not be told
	Protocol  Protocol       `json:"protocol"`
	Family    uint8          `json:"family"` // AF_INET, AF_INET6, AF_VSOCK
	State     State          `json:"state"`
	Local     netip.AddrPort `json:"local"`  // raw: the port is the IP protocol
	Remote    netip.AddrPort `json:"remote"` // zero port where not connected
	Device    uint32         `json:"device,omitempty"`
	V6Only    bool           `json:"v6only,omitempty"` // told for Listen and Close only
	UID       uint32         `json:"uid"`              // of who made it, in the caller's user namespace
	Inode     uint32         `json:"inode"`            // 0: no process holds it any more
	Cookie    uint64         `json:"cookie"`           // 0: read from /proc/PID/net
	Cgroup    uint64         `json:"cgroup,omitempty"` // id (inode in cgroup2) of the cgroup that made it
	RecvQ     uint32         `json:"recv_q"`           // Listen: connections to accept
	SendQ     uint32         `json:"send_q"`           // Listen: the backlog
	VSock     *VSockAddr     `json:"vsock,omitempty"`
}

// VSockAddr are the ends of a vsock(7) socket: context ids and 32-bit ports.
type VSockAddr struct {
	CID        uint32 `json:"cid"`
	Port       uint32 `json:"port"`
	RemoteCID  uint32 `json:"remote_cid"`
	RemotePort uint32 `json:"remote_port"`
}

// Holds says whether the socket is one that others meet when they bind: it
// listens, is bound, or receives from anybody.
func (s *Socket) Holds() bool {
	return s.State == Listen || s.State == Close || s.State == Bound
}

// key tells sockets apart between two looks.
type key struct {
	cookie uint64
	ends   string // where there is no cookie
}

func (s *Socket) key() key {
	if s.Cookie != 0 {
		return key{cookie: s.Cookie}
	}
	return key{ends: fmt.Sprint(s.Namespace, s.Protocol, s.Local, s.Remote, s.Inode)}
}

// LocalString is the local end as ss(8) prints it.
func (s *Socket) LocalString() string {
	if s.VSock != nil {
		return vsockEnd(s.VSock.CID, s.VSock.Port)
	}
	return s.end(s.Local)
}

// RemoteString is the remote end as ss(8) prints it.
func (s *Socket) RemoteString() string {
	if s.VSock != nil {
		return vsockEnd(s.VSock.RemoteCID, s.VSock.RemotePort)
	}
	return s.end(s.Remote)
}

func (s *Socket) end(a netip.AddrPort) string {
	host := a.Addr().String()
	switch {
	case a.Addr() == netip.IPv6Unspecified() && s.Holds() && !s.V6Only && s.Cookie != 0 && a == s.Local:
		host = "*" // both families, as /proc/PID/net does not tell
	case a.Addr().Is6():
		host = "[" + host + "]"
	}
	if a.Port() == 0 {
		return host + ":*"
	}
	return host + ":" + strconv.Itoa(int(a.Port()))
}

func vsockEnd(cid, port uint32) string {
	text := func(n uint32) string {
		if n == unix.VMADDR_CID_ANY {
			return "*"
		}
		return strconv.FormatUint(uint64(n), 10)
	}
	return text(cid) + ":" + text(port)
}
