package mount

import (
	"time"

	"github.com/lxbridge/lx/mount/volume"
)

// timeout is d where 0 means the default.
func timeout(d time.Duration) time.Duration {
	if d == 0 {
		return -1
	}
	return d
}

// outside shows owners as the host sees them, in the numbers of the user
// namespace above ours.
func outside() (func(*volume.Attr), error) {
	m, err := hostIDs()
	if err != nil {
		return nil, err
	}
	return func(a *volume.Attr) {
		if id, ok := m.uid.out(a.UID); ok {
			a.UID = id
		}
		if id, ok := m.gid.out(a.GID); ok {
			a.GID = id
		}
	}, nil
}
