package portbroker

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Here is what the calling thread's network namespace says of itself.
type Here struct {
	Host
	nonlocal4, nonlocal6 bool // net.ipv4.ip_nonlocal_bind and its sister
}

// ThisHost asks for it.
func ThisHost() (Here, error) {
	var h Here
	start, err := sysctl("ipv4/ip_unprivileged_port_start", 1024)
	nonlocal4, err4 := sysctl("ipv4/ip_nonlocal_bind", 0)
	nonlocal6, err6 := sysctl("ipv6/ip_nonlocal_bind", 0)
	addrs, aerr := net.InterfaceAddrs()
	if err := errors.Join(err, err4, err6, aerr); err != nil {
		return h, fmt.Errorf("cannot ask for the host's addresses and limits: %w", err)
	}
	h.UnprivilegedStart, h.nonlocal4, h.nonlocal6 = uint16(start), nonlocal4 != 0, nonlocal6 != 0
	var nets []netip.Prefix
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.String()); err == nil {
			nets = append(nets, p)
		}
	}
	h.Local = func(a netip.Addr, _ uint32) bool {
		for _, p := range nets {
			// All of 127.0.0.0/8 is the host's.
			if p.Addr() == a || p.Addr().Is4() && p.Addr().IsLoopback() && p.Contains(a) {
				return true
			}
		}
		return a.IsMulticast() || a == netip.AddrFrom4([4]byte{255, 255, 255, 255})
	}
	return h, nil
}

// Nonlocal says whether the host lets everybody bind to foreign addresses of
// a's family.
func (h Here) Nonlocal(a netip.Addr) bool {
	if a.Unmap().Is4() {
		return h.nonlocal4
	}
	return h.nonlocal6
}

func sysctl(name string, missing int) (int, error) {
	b, err := os.ReadFile("/proc/sys/net/" + name)
	if errors.Is(err, os.ErrNotExist) {
		return missing, nil // a kernel without the protocol
	}
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(b)))
}

// MayBindLow says whether this process has CAP_NET_BIND_SERVICE over its
// network namespace: root of a user namespace that does not own it has not.
func MayBindLow() bool {
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return false
	}
	_, rest, _ := strings.Cut(string(b), "\nCapEff:")
	line, _, _ := strings.Cut(rest, "\n")
	caps, err := strconv.ParseUint(strings.TrimSpace(line), 16, 64)
	if err != nil || caps&(1<<unix.CAP_NET_BIND_SERVICE) == 0 {
		return false
	}
	f, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return false
	}
	defer f.Close()
	// EPERM: the owner is no descendant of our user namespace (ioctl_nsfs(2)).
	owner, err := unix.IoctlRetInt(int(f.Fd()), unix.NS_GET_USERNS)
	if err != nil {
		return false
	}
	unix.Close(owner)
	return true
}
