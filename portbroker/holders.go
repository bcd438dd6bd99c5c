package portbroker

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"

	"github.com/lxbridge/lx/core/config"
	"github.com/lxbridge/lx/core/env"
	"github.com/lxbridge/lx/netns"
)

// Holders are the sockets of the caller's own namespace, with options that
// nobody has told. What the kernel does not tell is taken from lx's state: for
// whom a socket reserves its port, and who in an environment has one whose
// process may not be seen from here. Without its state, the kernel's view stays.
func Holders(s *netns.Snapshot, d env.Dirs) []Holder {
	var all []Holder
	for _, e := range s.Entries {
		if e.Namespace == s.Namespaces[0].Inode {
			all = append(all, Holder{Entry: e})
		}
	}
	if len(all) == 0 {
		return nil
	}
	if reserved, err := ReadReservations(d.Reservations()); err == nil {
		for i := range all {
			all[i].reserve(reserved)
		}
	}
	if slices.ContainsFunc(all, func(h Holder) bool { return h.Hidden }) {
		_ = eachLedger(d, func(b []byte) { nameHidden(all, b) })
	}
	return all
}

// eachLedger reads the ledgers of all environments, the older part of each first.
func eachLedger(d env.Dirs, f func([]byte)) error {
	paths, err := filepath.Glob(d.Ports("*"))
	if err != nil {
		return err
	}
	for _, path := range paths {
		for _, name := range []string{path + ".1", path} {
			b, err := os.ReadFile(name)
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err != nil {
				return err
			}
			f(b)
		}
	}
	return nil
}

// ReservedNote begins the note at a reservation's socket.
const ReservedNote = "reserved for "

// Annotate notes at sockets for whom they are reserved, and which port they have
// instead of the one that was wanted.
func Annotate(s *netns.Snapshot, d env.Dirs) error {
	reserved, err := ReadReservations(d.Reservations())
	notes := map[uint64]string{}
	for _, r := range reserved {
		if notes[r.Socket] = ReservedNote + r.Environment; r.Why != "" {
			notes[r.Socket] += ": " + r.Why
		}
	}
	err = errors.Join(err, eachLedger(d, func(b []byte) {
		mark := []byte(`"policy":"` + config.PortRemap + `"`)
		for line := range bytes.Lines(b) {
			var r Record
			if bytes.Contains(line, mark) && json.Unmarshal(line, &r) == nil && r.Moved() {
				notes[r.Socket] = "for " + placeOf(r.Wanted, r.Local)
			}
		}
	}))
	for i := range s.Entries {
		if e := &s.Entries[i]; e.Cookie != 0 {
			e.Note = notes[e.Cookie]
		}
	}
	return err
}

// placeOf is a place as it is said beside another: its port alone where that is
// the difference.
func placeOf(a, b netip.AddrPort) string {
	if a.Addr() == b.Addr() {
		return fmt.Sprintf(":%d", a.Port())
	}
	return a.String()
}

// reserve marks the socket of a reservation.
func (h *Holder) reserve(all []Reservation) {
	for _, r := range all {
		if r.Socket != 0 && r.Socket == h.Cookie && r.Port == h.Local.Port() {
			h.ReservedFor, h.Why = r.Environment, r.Why
		}
	}
}

// nameHidden looks hidden holders up in a ledger.
func nameHidden(all []Holder, ledger []byte) {
	for i := range all {
		h := &all[i]
		if !h.Hidden || h.Cookie == 0 {
			continue
		}
		at := max(bytes.LastIndex(ledger, fmt.Appendf(nil, `"socket":%d,`, h.Cookie)), bytes.LastIndex(ledger, fmt.Appendf(nil, `"socket":%d}`, h.Cookie)))
		if at < 0 {
			continue
		}
		line := ledger[bytes.LastIndexByte(ledger[:at], '\n')+1:]
		if end := bytes.IndexByte(line, '\n'); end >= 0 {
			line = line[:end]
		}
		var r Record
		if json.Unmarshal(line, &r) != nil || r.Socket != h.Cookie || r.Error != "" || r.Local.Port() != h.Local.Port() {
			continue
		}
		h.Hidden = false
		h.Owners = []netns.Owner{{Process: &netns.Process{PID: r.PID, UID: h.UID, User: netns.UserName(h.UID), Command: r.Command, Environment: r.Environment}, FD: -1}}
	}
}
