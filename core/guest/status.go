package guest

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// IDs are a thread's user and group ids in the numbers of our own user
// namespace; one that is not mapped there shows as the overflow id (65534).
type IDs struct {
	UID, EUID, SUID, FSUID uint32
	GID, EGID, SGID, FSGID uint32
	Groups                 []uint32
}

// Status is what /proc/TID/status tells (proc_pid_status(5)).
type Status struct {
	Name    string // the command's name, at most 15 bytes, as the guest chose it
	Umask   uint32
	TGID    int // the process that the thread belongs to
	Threads int // in that process
	IDs
	CapEff uint64
	Signals
}

// Signals are sets of signals; bit n-1 is signal n.
type Signals struct {
	Pending uint64 // for this thread
	Shared  uint64 // for the process
	Blocked uint64
	Ignored uint64
	Caught  uint64
}

// byDefaultIgnored are the signals whose default action is to do nothing.
const byDefaultIgnored = 1<<(unix.SIGCHLD-1) | 1<<(unix.SIGURG-1) |
	1<<(unix.SIGWINCH-1) | 1<<(unix.SIGCONT-1)

// Acts keeps of set the signals that would end, stop or run a handler of the
// thread, and that it does not block.
func (s Signals) Acts(set uint64) uint64 {
	return set &^ s.Blocked & (s.Caught | ^(s.Ignored | byDefaultIgnored))
}

// ParseStatus parses the text of /proc/TID/status. The fields that Status
// holds must be there; the first line of a name counts, so a guest's name
// cannot stand in for another field.
func ParseStatus(text []byte) (Status, error) {
	p := statusParser{seen: map[string]bool{}}
	for line := range bytes.Lines(text) {
		key, val, ok := strings.Cut(strings.TrimSuffix(string(line), "\n"), ":")
		if ok && !p.seen[key] {
			p.seen[key] = true
			p.field(key, strings.TrimPrefix(val, "\t"))
		}
		if p.err != nil {
			return Status{}, fmt.Errorf("cannot parse %s of a thread's status %q: %w", key, val, p.err)
		}
	}
	for _, key := range []string{"Name", "Tgid", "Uid", "Gid", "Groups", "CapEff", "SigPnd", "ShdPnd", "SigBlk", "SigIgn", "SigCgt"} {
		if !p.seen[key] {
			return Status{}, fmt.Errorf("cannot parse a thread's status: no %s in it", key)
		}
	}
	return p.Status, nil
}

type statusParser struct {
	Status
	seen map[string]bool
	err  error
}

func (p *statusParser) field(key, val string) {
	switch key {
	case "Name":
		p.Name = val
	case "Umask":
		p.Umask = uint32(p.number(val, 8, 32))
	case "Tgid":
		p.TGID = int(p.number(val, 10, 31))
	case "Threads":
		p.Threads = int(p.number(val, 10, 31))
	case "Uid":
		p.four(val, &p.UID, &p.EUID, &p.SUID, &p.FSUID)
	case "Gid":
		p.four(val, &p.GID, &p.EGID, &p.SGID, &p.FSGID)
	case "Groups":
		for g := range strings.FieldsSeq(val) {
			p.Groups = append(p.Groups, uint32(p.number(g, 10, 32)))
		}
	case "CapEff":
		p.CapEff = p.number(val, 16, 64)
	case "SigPnd":
		p.Pending = p.number(val, 16, 64)
	case "ShdPnd":
		p.Shared = p.number(val, 16, 64)
	case "SigBlk":
		p.Blocked = p.number(val, 16, 64)
	case "SigIgn":
		p.Ignored = p.number(val, 16, 64)
	case "SigCgt":
		p.Caught = p.number(val, 16, 64)
	}
}

func (p *statusParser) number(s string, base, bits int) uint64 {
	n, err := strconv.ParseUint(strings.TrimSpace(s), base, bits)
	if err != nil {
		p.err = err
	}
	return n
}

func (p *statusParser) four(s string, to ...*uint32) {
	f := strings.Fields(s)
	if len(f) != len(to) {
		p.err = fmt.Errorf("%d numbers, expected %d", len(f), len(to))
		return
	}
	for i := range to {
		*to[i] = uint32(p.number(f[i], 10, 32))
	}
}
