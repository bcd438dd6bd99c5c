// Package nstest runs the tests of a package in namespaces of their own.
package nstest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"

	"golang.org/x/sys/unix"
)

// Inside is the variable that is set in the environment of processes below
// those that Main starts; a test that makes an environment anew passes it on.
const Inside = "LX_TEST_INSIDE"

// IsInside reports whether Main has started this process, or one above it.
func IsInside() bool { return os.Getenv(Inside) != "" }

// Main runs the test binary once more, as root of a user namespace and in the
// new namespaces that flags name (CLONE_NEWNS, …), with env added, and answers
// its exit code. Of ids the namespace has, from root's on, as many as the
// caller may give: one, or where root asks for more, ids of them.
func Main(flags uintptr, ids int, env ...string) int {
	isRoot := os.Getuid() == 0
	if !isRoot {
		ids = 1
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(append(os.Environ(), Inside+"=1"), env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:                 unix.CLONE_NEWUSER | flags,
		UidMappings:                []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: ids}},
		GidMappings:                []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: ids}},
		GidMappingsEnableSetgroups: isRoot && ids > 1,
		Pdeathsig:                  unix.SIGKILL,
	}
	var exit *exec.ExitError
	switch err := cmd.Run(); {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		return max(exit.ExitCode(), 1) // -1: by a signal
	default:
		fmt.Fprintln(os.Stderr, "cannot test in a user namespace:", err)
		return 1
	}
}
