package mount

import (
	"context"
	"os"
	"sync"
	"time"

	"github.com/lxbridge/lx/core/fuse"
	"github.com/lxbridge/lx/core/guest"
	"github.com/lxbridge/lx/mount/nfs/rpc"
	"github.com/lxbridge/lx/mount/option"
	"github.com/lxbridge/lx/mount/volume"
)

// owners relates the ids of guests to those that a server knows. Guests' ids
// are those of our own user namespace.
type owners struct {
	idMaps
	mode    option.IDMap
	fixed   uint32
	mounter guest.IDs // whose what is not mapped seems to be
	machine string

	mu    sync.Mutex // guards what follows
	creds map[fuse.Caller]credential
}

// credential is what the server is told of a caller.
type credential struct {
	*rpc.Sys
	until time.Time
}

// credentialTime is how long a caller's supplementary groups are believed.
const credentialTime = time.Second

// maxCredentials bounds how many are kept.
const maxCredentials = 1024

// newOwners is for mounts of thread t.
func newOwners(t guest.Thread, o *option.NFS) (*owners, error) {
	maps, err := hostIDs()
	if err != nil {
		return nil, err
	}
	ids, err := t.IDs()
	if err != nil {
		return nil, err
	}
	machine, err := os.Hostname()
	if err != nil {
		return nil, err
	}
	return &owners{idMaps: maps, mode: o.IDMap, fixed: o.FixedID, mounter: ids, machine: machine, creds: map[fuse.Caller]credential{}}, nil
}

// user and group are what the server is told for ids of guests.
func (w *owners) user(id uint32) uint32  { return w.told(w.uid, id) }
func (w *owners) group(id uint32) uint32 { return w.told(w.gid, id) }

func (w *owners) told(m idMap, id uint32) uint32 {
	switch w.mode {
	case option.IDMapGuest:
		return id
	case option.IDMapFixed:
		return w.fixed
	}
	if out, ok := m.out(id); ok {
		return out
	}
	return nobody
}

// nobody is the overflow id (user_namespaces(7)).
const nobody = 65534

// present shows the server's owners as guests know them. One that is none of
// theirs is shown as who mounted: to files of unmapped owners the VFS refuses
// writing, whatever the server allows.
func (w *owners) present(a *volume.Attr) {
	a.UID = w.shown(w.uid, a.UID, w.mounter.FSUID)
	a.GID = w.shown(w.gid, a.GID, w.mounter.FSGID)
}

func (w *owners) shown(m idMap, id, other uint32) uint32 {
	in, ok := m.in(id)
	switch w.mode {
	case option.IDMapGuest:
		in = id
		_, ok = m.out(id)
	case option.IDMapFixed:
		ok = ok && id != w.fixed
	}
	if !ok {
		return other
	}
	return in
}

// accept makes owners that a guest sets the server's.
func (w *owners) accept(s *volume.SetAttr) {
	for _, id := range []struct {
		set  **uint32
		told func(uint32) uint32
	}{{&s.UID, w.user}, {&s.GID, w.group}} {
		if *id.set != nil {
			told := id.told(**id.set)
			*id.set = &told
		}
	}
}

// auth is the AUTH_SYS credential of the caller of ctx.
func (w *owners) auth(ctx context.Context) rpc.Auth {
	c, ok := volume.CallerOf(ctx)
	if !ok {
		c = fuse.Caller{UID: w.mounter.FSUID, GID: w.mounter.FSGID}
	}
	if w.uid.single() || w.mode == option.IDMapFixed {
		c.PID = 0 // nobody there can change his groups
	}
	now := time.Now()
	w.mu.Lock()
	defer w.mu.Unlock()
	if have, ok := w.creds[c]; ok && (c.PID == 0 || now.Before(have.until)) {
		return have
	}
	if len(w.creds) >= maxCredentials {
		clear(w.creds)
	}
	made := credential{rpc.NewSys(w.machine, w.user(c.UID), w.group(c.GID), w.groups(c)), now.Add(credentialTime)}
	w.creds[c] = made
	return made
}

// groups are the supplementary groups of a caller, as far as the server may
// know them. A caller that is gone has none.
func (w *owners) groups(c fuse.Caller) (told []uint32) {
	if c.PID == 0 {
		return nil
	}
	ids, err := guest.Thread{TID: int(c.PID)}.IDs()
	if err != nil {
		return nil
	}
	for _, g := range ids.Groups {
		if _, mapped := w.gid.out(g); mapped {
			told = append(told, w.group(g))
		}
	}
	return told
}
