// Package seccomptest runs guests for tests: the test binary again, in a user
// and mount namespace of its own, under the filter whose listener the test gets.
package seccomptest

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/lxbridge/lx/core/seccomp"
)

// Program is what a guest does; it runs on the guest's main thread. Its
// result is the exit code.
type Program func(args []string) int

const env = "LX_SECCOMPTEST"

// guest is what a guest is told to do.
type guest struct {
	Program string
	Args    []string
	Options seccomp.Options
}

// A guest's main goroutine stays on the main thread: signals for a process go there.
func init() {
	if os.Getenv(env) != "" {
		runtime.LockOSThread()
	}
}

// Confined is Main with the tests themselves in a user and mount namespace of
// their own (U1), where they are root: as root with the ids 0 to 65535, else
// with the one id there is.
func Confined(m *testing.M, programs map[string]Program) {
	if os.Getenv(env) != "" || os.Getenv(confinedEnv) != "" {
		Main(m, programs)
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), confinedEnv+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	ids := 1
	if os.Getuid() == 0 {
		ids = 65536
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:                 unix.CLONE_NEWUSER | unix.CLONE_NEWNS,
		UidMappings:                []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: ids}},
		GidMappings:                []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: ids}},
		GidMappingsEnableSetgroups: ids > 1,
		Pdeathsig:                  unix.SIGKILL,
	}
	runtime.LockOSThread() // Pdeathsig is the thread's
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		die(err)
	}
	os.Exit(cmd.ProcessState.ExitCode())
}

// IDs is how many ids the tests' user namespace maps: 1 or 65536.
func IDs() int {
	if text, err := os.ReadFile("/proc/self/uid_map"); err == nil {
		var inside, outside, n int
		if _, err := fmt.Sscan(string(text), &inside, &outside, &n); err == nil {
			return min(n, 65536)
		}
	}
	return 1
}

const confinedEnv = "LX_SECCOMPTEST_CONFINED"

// Main is a test binary's TestMain: it runs the tests, or, in a guest, the
// program that Start asked for.
func Main(m *testing.M, programs map[string]Program) {
	text := os.Getenv(env)
	if text == "" {
		os.Exit(m.Run())
	}
	var g guest
	if err := json.Unmarshal([]byte(text), &g); err != nil {
		die(err)
	}
	if err := blockSignals(); err != nil {
		die(err)
	}
	program, ok := programs[g.Program]
	if !ok {
		die(fmt.Errorf("no program %q", g.Program))
	}
	if os.Getenv(childEnv) == "" {
		if err := handOver(g.Options); err != nil {
			die(err)
		}
	}
	os.Exit(program(g.Args))
}

// Child is a command with which a guest starts another program of Main's map
// under the same filter, in the namespaces that flags ask for. A new user
// namespace maps root to root.
func Child(flags uintptr, program string, args ...string) (*exec.Cmd, error) {
	text, err := json.Marshal(guest{Program: program, Args: args})
	if err != nil {
		return nil, err
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), env+"="+string(text), childEnv+"=1", stageEnv+"=")
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: flags}
	if flags&unix.CLONE_NEWUSER != 0 {
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{Size: 1}}
	}
	return cmd, nil
}

const (
	childEnv = "LX_SECCOMPTEST_CHILD"
	stageEnv = "LX_SECCOMPTEST_STAGE"
)

// blockSignals starts the guest once more with SIGUSR1 and SIGUSR2
// blocked, for a signal of the process must find the thread that Catch was
// called on, and none of Go's own.
func blockSignals() error {
	if os.Getenv(stageEnv) != "" {
		return nil
	}
	var set unix.Sigset_t
	for _, s := range []unix.Signal{unix.SIGUSR1, unix.SIGUSR2} {
		set.Val[0] |= 1 << (s - 1)
	}
	if err := unix.PthreadSigmask(unix.SIG_BLOCK, &set, nil); err != nil {
		return err
	}
	if err := os.Setenv(stageEnv, "2"); err != nil {
		return err
	}
	return unix.Exec("/proc/self/exe", os.Args, os.Environ())
}

// saRestart is SA_RESTART.
const saRestart = 0x10000000

// Catch lets the calling OS thread of a guest receive s (SIGUSR1 or
// SIGUSR2), to be caught by a handler that does nothing but end or restart
// the call that it interrupts.
func Catch(s unix.Signal, restart bool) error {
	// struct sigaction of the kernel, on amd64 and arm64. Go's handler stays.
	var a struct {
		handler, flags, restorer uintptr
		mask                     uint64
	}
	if _, _, errno := unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(s), 0, uintptr(unsafe.Pointer(&a)), 8, 0, 0); errno != 0 {
		return errno
	}
	a.flags &^= saRestart
	if restart {
		a.flags |= saRestart
	}
	if _, _, errno := unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(s), uintptr(unsafe.Pointer(&a)), 0, 8, 0, 0); errno != 0 {
		return errno
	}
	var set unix.Sigset_t
	set.Val[0] = 1 << (s - 1)
	return unix.PthreadSigmask(unix.SIG_UNBLOCK, &set, nil)
}

func die(err error) {
	fmt.Fprintln(os.Stderr, "guest:", err)
	os.Exit(125)
}

// channel is the guest's end of the socket over which the listener goes.
const channel = 3

// handOver installs the filter, sends the listener and waits until the test
// has it.
func handOver(o seccomp.Options) error {
	arch, err := seccomp.Native()
	if err != nil {
		return err
	}
	filter, err := seccomp.Assemble(arch, o)
	if err != nil {
		return err
	}
	fd, err := seccomp.Install(filter)
	if err != nil {
		return err
	}
	if err := unix.Sendmsg(channel, []byte{0}, unix.UnixRights(fd), nil, 0); err != nil {
		return fmt.Errorf("cannot send the listener: %w", err)
	}
	if err := unix.Close(fd); err != nil {
		return err
	}
	if n, err := unix.Read(channel, make([]byte, 1)); n != 1 || err != nil {
		return fmt.Errorf("the test did not start the guest: %w", err)
	}
	return unix.Close(channel)
}

// Guest is a running guest.
type Guest struct {
	Listener int // closed by the test's cleanup
	Process  *os.Process
	cmd      *exec.Cmd
	ours     int // our end of the channel; -1 once the program runs
}

// Start makes a guest that waits, under the filter, for Run. It is killed at
// the end of the test.
func Start(t testing.TB, o seccomp.Options, program string, args ...string) *Guest {
	t.Helper()
	ends, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	theirs := os.NewFile(uintptr(ends[1]), "channel")
	defer theirs.Close()
	text, err := json.Marshal(guest{program, args, o})
	if err != nil {
		t.Fatal(err)
	}
	g := &Guest{ours: ends[0], Listener: -1}
	g.cmd = exec.Command("/proc/self/exe")
	// The race detector sleeps for a second before it ends a process.
	// Without SIGURG, by which Go stops its goroutines: no call is interrupted
	// but by who means to.
	g.cmd.Env = append(os.Environ(), env+"="+string(text), "GORACE=atexit_sleep_ms=0", "GODEBUG=asyncpreemptoff=1")
	g.cmd.ExtraFiles = []*os.File{theirs}
	g.cmd.Stdout, g.cmd.Stderr = os.Stderr, os.Stderr
	g.cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWUSER | unix.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}},
	}
	if os.Getenv(confinedEnv) != "" { // the identity, as U2 has it
		g.cmd.SysProcAttr.UidMappings[0].Size = IDs()
		g.cmd.SysProcAttr.GidMappings[0].Size = IDs()
		g.cmd.SysProcAttr.GidMappingsEnableSetgroups = IDs() > 1
	}
	if err := g.cmd.Start(); err != nil {
		unix.Close(g.ours)
		t.Fatalf("cannot start a guest: %v", err)
	}
	g.Process = g.cmd.Process
	t.Cleanup(func() { g.end() })
	oob := make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := unix.Recvmsg(g.ours, make([]byte, 1), oob, unix.MSG_CMSG_CLOEXEC)
	if err != nil || n == 0 {
		t.Fatalf("no listener came from the guest: %v", err)
	}
	msgs, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil {
		t.Fatal(err)
	}
	fds, err := unix.ParseUnixRights(&msgs[0])
	if err != nil {
		t.Fatal(err)
	}
	g.Listener = fds[0]
	return g
}

// Run lets the program begin.
func (g *Guest) Run(t testing.TB) {
	t.Helper()
	if _, err := unix.Write(g.ours, []byte{0}); err != nil {
		t.Fatal(err)
	}
}

// Wait answers the program's exit code, -1 for a death by a signal.
func (g *Guest) Wait(t testing.TB) int {
	t.Helper()
	err := g.cmd.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return g.cmd.ProcessState.ExitCode()
}

func (g *Guest) end() {
	if g.cmd.ProcessState == nil {
		g.Process.Kill()
		g.cmd.Wait()
	}
	if g.Listener >= 0 {
		unix.Close(g.Listener)
	}
	unix.Close(g.ours)
}

// Log is a logger into the test's output.
func Log(t testing.TB) *slog.Logger {
	return slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
}
