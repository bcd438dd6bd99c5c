package config

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Policies: what becomes of a bind that an environment's program asks for.
const (
	PortShare   = "share"   // the kernel decides; what no rule speaks of
	PortDeny    = "deny"    // EACCES
	PortWait    = "wait"    // blocks until the port is free
	PortRemap   = "remap"   // another port, where this one is taken or privileged
	PortReserve = "reserve" // held for the environment, also while it does not run
)

// PortPolicies are all of them.
func PortPolicies() []string { return slices.Clone(portPolicies) }

var portPolicies = []string{PortShare, PortDeny, PortWait, PortRemap, PortReserve}

// PortRule is a policy for some ports of an environment.
type PortRule struct {
	Ports  PortRange `toml:"port,omitempty" json:"port"`
	Policy string    `toml:"policy" json:"policy"`
	// To is where PortRemap goes instead, the first of as many ports; 0: lx chooses.
	To  uint16 `toml:"to,omitempty" json:"to,omitempty"`
	Why string `toml:"why,omitempty" json:"why,omitempty"` // of PortReserve and PortDeny, for who is refused
}

// PortRange are ports of one protocol or both, as [tcp/|udp/]LOW[-HIGH]. The
// zero PortRange is every port.
type PortRange struct {
	Protocol  string // "tcp", "udp"; empty: both
	Low, High uint16
}

// ParsePorts reads a PortRange; the empty text is every port.
func ParsePorts(text string) (PortRange, error) {
	var r PortRange
	rest := text
	for _, p := range []string{"tcp", "udp"} {
		if s, ok := strings.CutPrefix(text, p+"/"); ok {
			r.Protocol, rest = p, s
		}
	}
	if rest == "" {
		return r, nil
	}
	low, high, isRange := strings.Cut(rest, "-")
	if !isRange {
		high = low
	}
	a, aerr := strconv.ParseUint(low, 10, 16)
	b, berr := strconv.ParseUint(high, 10, 16)
	if aerr != nil || berr != nil || a == 0 || b < a {
		return r, fmt.Errorf("%q are no ports: expected [tcp/|udp/]NUMBER[-NUMBER] from 1 to 65535", text)
	}
	r.Low, r.High = uint16(a), uint16(b)
	return r, nil
}

func (r PortRange) String() string {
	s := ""
	if r.Protocol != "" {
		s = r.Protocol + "/"
	}
	switch {
	case r.Low == 0:
	case r.Low == r.High:
		s += strconv.Itoa(int(r.Low))
	default:
		s += fmt.Sprintf("%d-%d", r.Low, r.High)
	}
	return s
}

// MarshalText writes what ParsePorts reads.
func (r PortRange) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// UnmarshalText is ParsePorts.
func (r *PortRange) UnmarshalText(b []byte) (err error) {
	*r, err = ParsePorts(string(b))
	return err
}

// Contains says whether the port is one of r.
func (r PortRange) Contains(protocol string, port uint16) bool {
	return (r.Protocol == "" || r.Protocol == protocol) && (r.Low == 0 || r.Low <= port && port <= r.High)
}

// Size is how many ports r has.
func (r PortRange) Size() int {
	if r.Low == 0 {
		return 1 << 16
	}
	return int(r.High-r.Low) + 1
}

// maxReserved bounds the ports of one PortReserve: each is a socket.
const maxReserved = 128

// maxWhy bounds a reason, in bytes.
const maxWhy = 200

// Check says what is wrong with the rule.
func (r PortRule) Check() error {
	switch {
	case !slices.Contains(portPolicies, r.Policy):
		return fmt.Errorf("port %q: policy %q: want %q", r.Ports, r.Policy, portPolicies)
	case r.Policy == PortReserve && r.Ports.Size() > maxReserved:
		return fmt.Errorf("port %q: cannot reserve more than %d ports by one rule", r.Ports, maxReserved)
	case r.To != 0 && (r.Policy != PortRemap || r.Ports.Low == 0):
		return fmt.Errorf("port %q: to = %d is for the policy %q of a port or range", r.Ports, r.To, PortRemap)
	case r.To != 0 && int(r.To)+r.Ports.Size()-1 > 65535:
		return fmt.Errorf("port %q: to = %d goes beyond port 65535", r.Ports, r.To)
	case len(r.Why) > maxWhy || strings.ContainsFunc(r.Why, func(c rune) bool { return c < ' ' || c == 0x7f }):
		return fmt.Errorf("port %q: why: want one line of at most %d bytes", r.Ports, maxWhy)
	}
	return nil
}

// CheckPorts says what is wrong with the rules.
func CheckPorts(rules []PortRule) error {
	var errs []error
	for i, r := range rules {
		if err := r.Check(); err != nil {
			errs = append(errs, err)
		}
		if slices.ContainsFunc(rules[:i], func(o PortRule) bool { return o.Ports == r.Ports }) {
			errs = append(errs, fmt.Errorf("port %q: there are two rules for it", r.Ports))
		}
	}
	return errors.Join(errs...)
}

// MergePorts is the rules in force in the order in which they count: the
// narrower before the wider, one protocol's before both's, those of ours in the
// place of theirs for the same ports.
func MergePorts(ours, theirs []PortRule) []PortRule {
	all := slices.Clone(ours)
	for _, r := range theirs {
		if !slices.ContainsFunc(ours, func(o PortRule) bool { return o.Ports == r.Ports }) {
			all = append(all, r)
		}
	}
	slices.SortStableFunc(all, func(a, b PortRule) int {
		return cmp.Or(cmp.Compare(a.Ports.Size(), b.Ports.Size()), -cmp.Compare(a.Ports.Protocol, b.Ports.Protocol), cmp.Compare(a.Ports.Low, b.Ports.Low))
	})
	return all
}
