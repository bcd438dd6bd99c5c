package mount

import (
	"fmt"
	"os"
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
	var maps [2]string
	for i, name := range []string{"uid_map", "gid_map"} {
		text, err := os.ReadFile("/proc/self/" + name)
		if err != nil {
			return nil, fmt.Errorf("cannot read how ids are mapped: %w", err)
		}
		maps[i] = string(text)
	}
	return func(a *volume.Attr) {
		if id, ok := translate(maps[0], a.UID); ok {
			a.UID = id
		}
		if id, ok := translate(maps[1], a.GID); ok {
			a.GID = id
		}
	}, nil
}
