package env

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"time"

	"github.com/lxbridge/lx/core/regular"
)

// fstabTypes are what an environment mounts by itself of its fstab(5): file
// systems of the network. Disks are the host's, and the rest is mounted already.
var fstabTypes = []string{"cifs", "smb3", "nfs", "nfs4", "sshfs", "fuse.sshfs"}

// maxFstab bounds fstab(5), in bytes.
const maxFstab = 1 << 20

// mountLimit is how long sessions wait for servers that do not answer; mounting
// goes on after it.
const mountLimit = 20 * time.Second

// awaitMounts returns when what an environment with files of its own mounts at
// its start has been tried once: before the first session. What fails is told of
// by `lx service status`, and tried again.
func (in *initProcess) awaitMounts() {
	if !in.cfg.OwnRoot {
		return
	}
	late := time.NewTimer(mountLimit)
	defer late.Stop()
	select {
	case <-in.services.Begun():
	case <-late.C:
	}
}

// fstabTargets are where mount -a would mount file systems of the network. Each
// is mounted by itself, for a mount -a that is done again, where one server was
// missing, may mount the others once more (BusyBox).
func fstabTargets(path string) ([]string, error) {
	b, err := regular.ReadFile(path, maxFstab)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot mount what %s says: %w", path, err)
	}
	var targets []string
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) < 3 || strings.HasPrefix(f[0], "#") || !slices.Contains(fstabTypes, f[2]) {
			continue
		}
		if len(f) < 4 || !slices.Contains(strings.Split(f[3], ","), "noauto") {
			targets = append(targets, unescape.Replace(f[1]))
		}
	}
	return targets, nil
}

// unescape undoes what fstab(5) has for spaces and the like in names.
var unescape = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
