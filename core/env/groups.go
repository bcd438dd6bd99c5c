package env

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/lxbridge/lx/core/ns"
)

// NotDelegated says why lx has no control groups to divide, and the line that
// mends it.
type NotDelegated struct {
	Reason, Remedy string
	Unified        bool // the host has nothing but version 2: a user manager can delegate
}

func (e *NotDelegated) Error() string { return e.Reason }

// DelegatedGroup is the directory of a process's control group of version 2, if
// its user may make groups in it and move own processes there (cgroups(7),
// "Delegation"); else the error is a *NotDelegated.
func DelegatedGroup(pid int) (string, error) {
	self, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		return "", &NotDelegated{Reason: fmt.Sprintf("the control group of lx cannot be known: %v", err)}
	}
	return delegatedGroup("/sys/fs/cgroup", self, func(dir string) (unified bool, err error) {
		var fs unix.Statfs_t
		err = unix.Statfs(dir, &fs)
		return fs.Type == unix.CGROUP2_SUPER_MAGIC, err
	})
}

// delegatedGroup is DelegatedGroup for the hierarchy mounted at root, or, where
// version 1 is, beside it, and a process of the groups self (/proc/PID/cgroup);
// unified tells version 2 from others.
func delegatedGroup(root string, self []byte, unified func(dir string) (bool, error)) (string, error) {
	const boot = "boot the host with the kernel parameter systemd.unified_cgroup_hierarchy=1"
	remedy := "lx shutdown && systemd-run --user --property=Delegate=yes --property=KillMode=process lx daemon start --foreground"
	v2, err := unified(root)
	if err != nil {
		return "", &NotDelegated{Reason: fmt.Sprintf("the host has no control groups (%s: %v)", root, err), Remedy: "mount -t cgroup2 cgroup2 " + root}
	}
	if !v2 {
		beside := filepath.Join(root, "unified")
		if v2, err := unified(beside); err != nil || !v2 {
			return "", &NotDelegated{Reason: fmt.Sprintf("the host's control groups are version 1 (%s is no cgroup2), which cannot be delegated to a user namespace", root), Remedy: boot}
		}
		root, remedy = beside, boot
	}
	group, ok := unifiedGroup(self)
	if !ok {
		return "", &NotDelegated{Reason: "lx runs in no control group of version 2", Remedy: boot}
	}
	dir := filepath.Join(root, group)
	for _, file := range delegated {
		if err := unix.Access(filepath.Join(dir, file), unix.W_OK); err != nil {
			return "", &NotDelegated{fmt.Sprintf("the control group of lx is not delegated to the user (%s: %v)", filepath.Join(dir, file), err), remedy, v2}
		}
	}
	return dir, nil
}

// delegated are the files of a group that its owner has to be able to write.
var delegated = []string{".", "cgroup.procs", "cgroup.subtree_control"}

// unifiedGroup is the group in the hierarchy of version 2.
func unifiedGroup(self []byte) (string, bool) {
	for line := range bytes.Lines(self) {
		if group, ok := strings.CutPrefix(strings.TrimSuffix(string(line), "\n"), "0::"); ok {
			return group, true
		}
	}
	return "", false
}

const (
	groupPrefix = "lx-"    // of an environment's group, with its keeper and broker
	GuestsGroup = "guests" // in it: init's, which a distribution's own init divides
)

// making is held from the making of groups until the keeper is in them: they are
// not swept meanwhile.
var making sync.Mutex

// startInGroups starts the keeper in groups of its environment, if it is to have some.
func (c *Config) startInGroups(cmd *exec.Cmd) (err error) {
	if c.Groups == "" {
		return cmd.Start()
	}
	making.Lock()
	defer making.Unlock()
	if c.Group, err = makeGroups(c.Groups, c.Name, c.Map); err != nil {
		return err
	}
	return InGroup(c.Group, cmd.SysProcAttr, cmd.Start)
}

// SweepGroups removes what environments that have ended left below parent.
func SweepGroups(parent string) error {
	making.Lock()
	defer making.Unlock()
	return sweepGroups(parent)
}

func sweepGroups(parent string) error {
	list, err := os.ReadDir(parent)
	if err != nil {
		return fmt.Errorf("cannot list control groups: %w", err)
	}
	for _, e := range list {
		dir := filepath.Join(parent, e.Name())
		if strings.HasPrefix(e.Name(), groupPrefix) && !populated(dir) && !anothers(e.Name()) {
			removeGroups(dir)
		}
	}
	return nil
}

// anothers says that a group is of another daemon that lives, and may be about to
// start an environment there.
func anothers(name string) bool {
	pid, err := strconv.Atoi(name[strings.LastIndexByte(name, '-')+1:])
	return err == nil && pid != os.Getpid() && !errors.Is(unix.Kill(pid, 0), unix.ESRCH)
}

// makeGroups makes the groups of the environment name below parent, for root of m.
func makeGroups(parent, name string, m ns.Map) (string, error) {
	if err := sweepGroups(parent); err != nil {
		return "", err
	}
	// Another daemon below parent may have an environment of the same name.
	dir := filepath.Join(parent, fmt.Sprintf("%s%s-%d", groupPrefix, name, os.Getpid()))
	for _, d := range []string{dir, filepath.Join(dir, GuestsGroup)} {
		if err := os.Mkdir(d, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return "", fmt.Errorf("cannot make a control group: %w", err)
		}
		if os.Geteuid() != 0 {
			continue // it is root's of the environment already
		}
		for _, file := range append(delegated, "cgroup.threads") {
			if err := os.Chown(filepath.Join(d, file), int(m.UID[0].Outside), int(m.GID[0].Outside)); err != nil {
				return "", fmt.Errorf("cannot delegate a control group: %w", err)
			}
		}
	}
	return dir, nil
}

// InGroup calls start, which makes a process with attr: in the group at dir, or
// in the caller's where dir is empty.
func InGroup(dir string, attr *syscall.SysProcAttr, start func() error) error {
	if dir == "" {
		return start()
	}
	g, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("cannot enter a control group: %w", err)
	}
	defer g.Close()
	attr.UseCgroupFD, attr.CgroupFD = true, int(g.Fd())
	return start()
}

// populated says whether a process is in the group or in one below.
func populated(dir string) bool {
	b, err := os.ReadFile(filepath.Join(dir, "cgroup.events"))
	return err == nil && bytes.Contains(b, []byte("populated 1"))
}

// removeGroups removes a group and those in it, but for what has processes.
func removeGroups(dir string) {
	list, _ := os.ReadDir(dir) // one that is gone has none
	for _, e := range list {
		if e.IsDir() {
			removeGroups(filepath.Join(dir, e.Name()))
		}
	}
	_ = unix.Rmdir(dir) // EBUSY: in use
}
