package nfs4

import (
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
)

// Nobody is the id of owners that are not known here.
const Nobody = 65534

// Names maps owners between the server's strings and ids here: numbers as they
// are, names (user@domain) by look-up. The zero Names knows numbers alone. The
// look-ups may be slow; what they answer is kept.
type Names struct {
	Domain              string // of names that are sent and understood; empty takes any
	UserID, GroupID     func(name string) (uint32, bool)
	UserName, GroupName func(id uint32) (string, bool)
	users, groups       sync.Map // of ids by the server's string
	kept                atomic.Int32
	spelled             atomic.Bool
}

// maxNames is how many look-ups are kept; then all are made again.
const maxNames = 4096

// uid and gid are the ids of the server's strings.
func (n *Names) uid(s []byte) uint32 { return n.id(s, &n.users, n.UserID) }
func (n *Names) gid(s []byte) uint32 { return n.id(s, &n.groups, n.GroupID) }

func (n *Names) id(s []byte, kept *sync.Map, look func(string) (uint32, bool)) uint32 {
	if id, ok := number(s); ok {
		return id
	}
	if look == nil {
		return Nobody
	}
	name := string(s)
	if id, ok := kept.Load(name); ok {
		return id.(uint32)
	}
	id := uint32(Nobody)
	local, domain, _ := strings.Cut(name, "@")
	if local != "" && (n.Domain == "" || strings.EqualFold(domain, n.Domain)) {
		if found, ok := look(local); ok {
			id = found
		}
	}
	if n.kept.Add(1) > maxNames {
		n.users.Clear()
		n.groups.Clear()
		n.kept.Store(1)
	}
	kept.Store(name, id)
	return id
}

func number(s []byte) (uint32, bool) {
	if len(s) == 0 || len(s) > 10 {
		return 0, false
	}
	n := uint64(0)
	for _, c := range s {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + uint64(c-'0')
	}
	return uint32(n), n < 1<<32
}

// owner and group are what the server is sent: numbers, until it refuses them
// (RFC 8881, section 5.9).
func (n *Names) owner(id uint32) string { return n.name(id, n.UserName) }
func (n *Names) group(id uint32) string { return n.name(id, n.GroupName) }

func (n *Names) name(id uint32, look func(uint32) (string, bool)) string {
	if n.spelled.Load() && look != nil {
		if name, ok := look(id); ok {
			return name + "@" + n.Domain
		}
	}
	return strconv.FormatUint(uint64(id), 10)
}

// spell makes names what is sent from now on; false where that is so already,
// or there are none.
func (n *Names) spell() bool {
	return n.Domain != "" && n.UserName != nil && !n.spelled.Swap(true)
}
