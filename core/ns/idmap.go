// Package ns makes the user namespaces of an environment: which ids they map
// (user_namespaces(7)) and how the maps are written.
package ns

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/user"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/lxbridge/lx/core/feature"
)

// Kind is the way ids inside relate to ids outside.
type Kind string

const (
	// Single maps one id: root inside is the user outside.
	Single Kind = "single"
	// Subuid maps root to the user and the ids after it to the ranges of
	// subuid(5) and subgid(5); newuidmap(1) writes it.
	Subuid Kind = "subuid"
	// Root maps every id the caller has to itself; for lx started by root.
	Root Kind = "root"
	// Shift maps the ids inside to a range that the host's users do not have,
	// for environments with files of their own started by root: root inside
	// must not be the root that owns the host's files and settings. The caller
	// has an id too, after the others, in the outer namespace only.
	Shift Kind = "shift"
)

// Extent maps Size ids from Inside to Outside, as a line of /proc/PID/uid_map.
type Extent struct {
	Inside, Outside, Size uint32
}

// Map is the id map of a user namespace.
type Map struct {
	Kind Kind
	UID  []Extent
	GID  []Extent
	// Owner is the id inside of who started the environment.
	Owner uint32 `json:",omitempty"`
}

// Inner is the map without the caller where it is none of those that guests may be.
func (m Map) Inner() Map {
	if m.Kind == Shift {
		m.UID, m.GID, m.Owner = m.UID[:1], m.GID[:1], 0
	}
	return m
}

// Identity is the map that a child of a namespace mapped by m needs so that
// ids read the same in both.
func (m Map) Identity() Map {
	m = m.Inner()
	id := func(es []Extent) []Extent {
		out := slices.Clone(es)
		for i := range out {
			out[i].Outside = out[i].Inside
		}
		return out
	}
	return Map{Kind: m.Kind, UID: id(m.UID), GID: id(m.GID)}
}

// SysProcIDMaps are the extents in the form of syscall.SysProcAttr.
func (m Map) SysProcIDMaps() (uid, gid []syscall.SysProcIDMap) {
	conv := func(es []Extent) (out []syscall.SysProcIDMap) {
		for _, e := range es {
			out = append(out, syscall.SysProcIDMap{ContainerID: int(e.Inside), HostID: int(e.Outside), Size: int(e.Size)})
		}
		return out
	}
	return conv(m.UID), conv(m.GID)
}

// Keep is the identity map of m in which id takes the place that 0 has in m,
// so that a process with that id owns what root owns in m. Needed for running
// as the user again inside an environment where root is the user.
func (m Map) Keep(uid, gid uint32) Map {
	return Map{Kind: m.Kind, UID: keep(m.UID, uid), GID: keep(m.GID, gid)}
}

func keep(es []Extent, id uint32) []Extent {
	if id == 0 {
		return Map{UID: es}.Identity().UID
	}
	out := []Extent{{Inside: id, Outside: 0, Size: 1}}
	// The ids of m without 0, in order, fill the places around id.
	next := uint32(0)
	place := func(outside, size uint32) {
		for size > 0 {
			if next == id {
				next++
			}
			n := size
			if next < id && n > id-next {
				n = id - next
			}
			out = append(out, Extent{Inside: next, Outside: outside, Size: n})
			next, outside, size = next+n, outside+n, size-n
		}
	}
	for _, e := range es {
		in, size := e.Inside, e.Size
		if in == 0 {
			in, size = 1, size-1
		}
		place(in, size)
	}
	return out
}

// Choose is the map for the calling process: Root for root with several ids,
// Subuid where the user has ranges and the helpers, else Single. want, if not empty, insists.
func Choose(want Kind) (Map, error) {
	uid, gid := uint32(os.Geteuid()), uint32(os.Getegid())
	if want == "" {
		switch {
		case uid == 0 && !alone():
			want = Root
		case subidsUsable():
			want = Subuid
		default:
			want = Single
		}
	}
	single := Map{Kind: Single,
		UID: []Extent{{Inside: 0, Outside: uid, Size: 1}},
		GID: []Extent{{Inside: 0, Outside: gid, Size: 1}}}
	switch want {
	case Single:
		return single, nil
	case Root:
		if uid != 0 {
			return Map{}, errors.New(`cannot use the map "root": not started by root`)
		}
		return own()
	case Subuid:
		us, gs, err := subids()
		if err != nil {
			return Map{}, fmt.Errorf("cannot use the map %q: %w", Subuid, err)
		}
		single.Kind = Subuid
		single.UID = append(single.UID, after(us)...)
		single.GID = append(single.GID, after(gs)...)
		return single, nil
	}
	return Map{}, fmt.Errorf("cannot use the map %q: want %s, %s or %s", want, Single, Subuid, Root)
}

// ChooseOwn is Choose for an environment with files of its own, whose guests
// are not trusted: root gets Shift where Choose has Root.
func ChooseOwn(want Kind) (Map, error) {
	if want == Shift {
		if os.Geteuid() != 0 {
			return Map{}, fmt.Errorf("cannot use the map %q: not started by root", Shift)
		}
		return shift()
	}
	m, err := Choose(want)
	if err == nil && want == "" && m.Kind == Root {
		return shift()
	}
	return m, err
}

// Where the ids of Shift lie, if the caller has as many.
const (
	shiftBase = 1 << 19
	shiftSize = 1 << 16
)

func shift() (Map, error) {
	m, err := own()
	if err != nil {
		return Map{}, err
	}
	if len(m.UID) == 0 || len(m.GID) == 0 || m.UID[0].Inside != 0 || m.GID[0].Inside != 0 {
		return Map{}, fmt.Errorf("cannot use the map %q: root is not mapped here", Shift)
	}
	base, size := uint32(shiftBase), uint32(shiftSize)
	if n := min(m.UID[0].Size, m.GID[0].Size); n < base+size {
		base, size = n/2, n/2 // as in a container
	}
	if size == 0 {
		return Map{}, fmt.Errorf("cannot use the map %q: too few ids here", Shift)
	}
	es := []Extent{{Inside: 0, Outside: base, Size: size}, {Inside: size, Outside: 0, Size: 1}}
	return Map{Kind: Shift, UID: es, GID: slices.Clone(es), Owner: size}, nil
}

// Birth completes how a process is started in a new user namespace with the
// map, and answers whether Write is still to be called.
func (m Map) Birth(attr *syscall.SysProcAttr) (write bool) {
	attr.Cloneflags |= unix.CLONE_NEWUSER
	if m.Kind != Shift {
		return true
	}
	// The caller's id is not root's inside: it changes to that before execve(2),
	// which leaves it no rights else.
	attr.UidMappings, attr.GidMappings = m.SysProcIDMaps()
	attr.GidMappingsEnableSetgroups = true
	attr.Credential = &syscall.Credential{Uid: 0, Gid: 0}
	return false
}

// alone says that the caller's own namespace, an environment's, has just one id.
func alone() bool {
	m, err := own()
	return err == nil && len(m.UID) == 1 && m.UID[0].Size == 1
}

// after numbers ranges consecutively from 1.
func after(rs []Extent) []Extent {
	next := uint32(1)
	for i := range rs {
		rs[i].Inside = next
		next += rs[i].Size
	}
	return rs
}

// own is the identity map of all ids of the calling process's namespace.
func own() (Map, error) {
	m := Map{Kind: Root}
	for _, f := range []struct {
		path string
		to   *[]Extent
	}{{"/proc/self/uid_map", &m.UID}, {"/proc/self/gid_map", &m.GID}} {
		b, err := os.ReadFile(f.path)
		if err != nil {
			return Map{}, fmt.Errorf("cannot read own id map: %w", err)
		}
		es, err := ParseMap(bytes.NewReader(b))
		if err != nil {
			return Map{}, fmt.Errorf("cannot read %s: %w", f.path, err)
		}
		*f.to = Map{UID: es}.Identity().UID
	}
	return m, nil
}

// ParseMap reads the form of /proc/PID/uid_map.
func ParseMap(r io.Reader) ([]Extent, error) {
	var out []Extent
	s := bufio.NewScanner(r)
	for s.Scan() {
		f := strings.Fields(s.Text())
		if len(f) != 3 {
			return nil, fmt.Errorf("map line %q: want three numbers", s.Text())
		}
		var n [3]uint32
		for i := range f {
			v, err := strconv.ParseUint(f[i], 10, 32)
			if err != nil {
				return nil, fmt.Errorf("map line %q: %w", s.Text(), err)
			}
			n[i] = uint32(v)
		}
		out = append(out, Extent{n[0], n[1], n[2]})
	}
	return out, s.Err()
}

func subidsUsable() bool {
	if feature.Missing(feature.Subuid) {
		return false
	}
	_, _, err := subids()
	return err == nil
}

// subids are the calling user's ranges, with the helpers checked.
func subids() (us, gs []Extent, err error) {
	for _, helper := range []string{"newuidmap", "newgidmap"} {
		if _, err := exec.LookPath(helper); err != nil {
			return nil, nil, fmt.Errorf("%s: %w", helper, err)
		}
	}
	id := strconv.Itoa(os.Getuid())
	name := id
	if u, err := user.LookupId(id); err == nil {
		name = u.Username
	}
	for _, f := range []struct {
		path string
		to   *[]Extent
	}{{"/etc/subuid", &us}, {"/etc/subgid", &gs}} {
		b, err := os.ReadFile(f.path)
		if err != nil {
			return nil, nil, err
		}
		if *f.to, err = ParseSubid(bytes.NewReader(b), name, id); err != nil {
			return nil, nil, fmt.Errorf("%s: %w", f.path, err)
		}
		if len(*f.to) == 0 {
			return nil, nil, fmt.Errorf("%s has no range for %s", f.path, name)
		}
	}
	return us, gs, nil
}

// ParseSubid reads subuid(5) and answers the ranges (Outside, Size) of the
// user with this name or number. Lines of others are not looked at.
func ParseSubid(r io.Reader, name, id string) ([]Extent, error) {
	var out []Extent
	s := bufio.NewScanner(r)
	for s.Scan() {
		f := strings.Split(strings.TrimSpace(s.Text()), ":")
		if len(f) != 3 || (f[0] != name && f[0] != id) {
			continue
		}
		start, err := strconv.ParseUint(f[1], 10, 32)
		if err != nil {
			return nil, fmt.Errorf("line %q: %w", s.Text(), err)
		}
		size, err := strconv.ParseUint(f[2], 10, 32)
		if err != nil {
			return nil, fmt.Errorf("line %q: %w", s.Text(), err)
		}
		if size > 0 {
			out = append(out, Extent{Outside: uint32(start), Size: uint32(size)})
		}
	}
	return out, s.Err()
}

// Write gives the process pid, which has just entered a new user namespace,
// its map. It must be called from the parent namespace.
func (m Map) Write(pid int) error {
	if m.Kind == Subuid {
		if err := runMapper("newuidmap", pid, m.UID); err != nil {
			return err
		}
		return runMapper("newgidmap", pid, m.GID)
	}
	write := func(name, text string) error {
		if err := os.WriteFile(fmt.Sprintf("/proc/%d/%s", pid, name), []byte(text), 0); err != nil {
			return fmt.Errorf("cannot write the id map: %w", err)
		}
		return nil
	}
	if m.Kind == Single {
		if err := write("setgroups", "deny"); err != nil {
			return err
		}
	}
	if err := write("uid_map", lines(m.UID)); err != nil {
		return err
	}
	return write("gid_map", lines(m.GID))
}

func lines(es []Extent) string {
	var b strings.Builder
	for _, e := range es {
		fmt.Fprintf(&b, "%d %d %d\n", e.Inside, e.Outside, e.Size)
	}
	return b.String()
}

func runMapper(helper string, pid int, es []Extent) error {
	args := []string{strconv.Itoa(pid)}
	for _, e := range es {
		for _, v := range []uint32{e.Inside, e.Outside, e.Size} {
			args = append(args, strconv.FormatUint(uint64(v), 10))
		}
	}
	if out, err := exec.Command(helper, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("cannot write the id map with %s: %w: %s", helper, err, strings.TrimSpace(string(out)))
	}
	return nil
}
