package mount

import (
	"fmt"
	"os"
	"strings"
)

// idMap relates ids of a user namespace to those of the one above it.
type idMap []extent

type extent struct{ inside, outside, n uint64 }

// parseIDMap parses the text of a uid_map file (user_namespaces(7)), up to
// what is no line of one.
func parseIDMap(text string) (m idMap) {
	for line := range strings.Lines(text) {
		var e extent
		if _, err := fmt.Sscan(line, &e.inside, &e.outside, &e.n); err != nil {
			break
		}
		m = append(m, e)
	}
	return m
}

// out is what id is called above.
func (m idMap) out(id uint32) (uint32, bool) {
	for _, e := range m {
		if i := uint64(id); i >= e.inside && i-e.inside < e.n {
			return uint32(e.outside + i - e.inside), true
		}
	}
	return 0, false
}

// in is what the id that is called so above is called in the namespace.
func (m idMap) in(id uint32) (uint32, bool) {
	for _, e := range m {
		if i := uint64(id); i >= e.outside && i-e.outside < e.n {
			return uint32(e.inside + i - e.outside), true
		}
	}
	return 0, false
}

// single says that there is one id only.
func (m idMap) single() bool { return len(m) == 1 && m[0].n == 1 }

// idMaps are those of users and of groups.
type idMaps struct{ uid, gid idMap }

// hostIDs relates ids of our own user namespace (U1), in which guests' ids read
// the same, to those of the host.
func hostIDs() (m idMaps, err error) {
	for _, f := range []struct {
		to   *idMap
		name string
	}{{&m.uid, "uid_map"}, {&m.gid, "gid_map"}} {
		text, err := os.ReadFile("/proc/self/" + f.name)
		if err != nil {
			return m, fmt.Errorf("cannot read how ids are mapped: %w", err)
		}
		*f.to = parseIDMap(string(text))
	}
	return m, nil
}
