package env

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// OwnInit says why a distribution's own init (systemd, OpenRC) cannot be the
// first process of an environment.
type OwnInit struct {
	Reason string
	Remedy string // the line that mends it; empty where none does
}

func (e *OwnInit) Error() string { return e.Reason }

// CheckOwnInit looks for what systemd needs of a host to boot in a user
// namespace: a subtree of control groups version 2 delegated to it (systemd's
// CONTAINER_INTERFACE and CGROUP_DELEGATION). It never answers nil: where the host has
// all of it, what is missing is lx's own part.
func CheckOwnInit() *OwnInit {
	self, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return &OwnInit{Reason: fmt.Sprintf("the control group of lx cannot be known: %v", err)}
	}
	return checkOwnInit("/sys/fs/cgroup", self, func(dir string) (unified bool, err error) {
		var fs unix.Statfs_t
		err = unix.Statfs(dir, &fs)
		return fs.Type == unix.CGROUP2_SUPER_MAGIC, err
	})
}

// checkOwnInit is CheckOwnInit for the hierarchy mounted at root and a process of
// the groups self (cgroups(7), /proc/PID/cgroup); unified tells cgroup2 from others.
func checkOwnInit(root string, self []byte, unified func(dir string) (bool, error)) *OwnInit {
	const boot = "boot the host with the kernel parameter systemd.unified_cgroup_hierarchy=1"
	v2, err := unified(root)
	switch {
	case err != nil:
		return &OwnInit{Reason: fmt.Sprintf("the host has no control groups (%s: %v)", root, err), Remedy: "mount -t cgroup2 cgroup2 " + root}
	case !v2:
		reason := fmt.Sprintf("the host's control groups are version 1 (%s is no cgroup2), which cannot be delegated to a user namespace", root)
		if beside, err := unified(filepath.Join(root, "unified")); err == nil && beside {
			reason += fmt.Sprintf("; version 2 is there beside it, without their controllers (%s/unified)", root)
		}
		return &OwnInit{Reason: reason, Remedy: boot}
	}
	group, ok := unifiedGroup(self)
	if !ok {
		return &OwnInit{Reason: "lx runs in no control group of version 2", Remedy: boot}
	}
	dir := filepath.Join(root, group)
	for _, file := range []string{".", "cgroup.procs", "cgroup.subtree_control"} {
		if err := unix.Access(filepath.Join(dir, file), unix.W_OK); err != nil {
			return &OwnInit{
				Reason: fmt.Sprintf("the control group of lx is not delegated to the user (%s: %v)", filepath.Join(dir, file), err),
				Remedy: "lx shutdown && systemd-run --user --property=Delegate=yes --property=KillMode=process lx daemon start --foreground",
			}
		}
	}
	return &OwnInit{Reason: "this host has what it takes, but lx does not support it yet: its own init is the first process of every environment"}
}

// unifiedGroup is the group in the hierarchy of version 2.
func unifiedGroup(self []byte) (string, bool) {
	for line := range bytes.Lines(self) {
		if group, ok := strings.CutPrefix(strings.TrimSuffix(string(line), "\n"), "0::"); ok {
			return group, true
		}
	}
	return "", false
}
