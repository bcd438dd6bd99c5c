package seccomp_test

import (
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/lxbridge/lx/core/seccomp"
	"github.com/lxbridge/lx/core/seccomp/seccomptest"
)

func TestMain(m *testing.M) {
	if os.Getenv(brokerEnv) != "" {
		os.Exit(broker())
	}
	seccomptest.Main(m, map[string]seccomptest.Program{
		"mount":     mount,
		"wait":      wait,
		"two":       twoThreads,
		"neighbour": neighbour,
		"fsopen":    fsopen,
		"fork":      fork,
		"exec":      execute,
		"nested":    nested,
		"bench":     bench,
	})
}

// tryMount calls mount(2) and answers its errno.
func tryMount(source string) int {
	return rawMount(source, "/mnt")
}

func rawMount(source, target string) int {
	s, _ := unix.BytePtrFromString(source)
	d, _ := unix.BytePtrFromString(target)
	f, _ := unix.BytePtrFromString("cifs")
	_, _, errno := unix.Syscall6(unix.SYS_MOUNT, uintptr(unsafe.Pointer(s)), uintptr(unsafe.Pointer(d)), uintptr(unsafe.Pointer(f)), 0, 0, 0)
	return int(errno)
}

// mount exits with the errno of mounting its argument, or 99 when other
// calls do not go as the kernel has them.
func mount(args []string) int {
	errno := tryMount(args[0])
	if err := unix.Unmount("/", unix.MNT_FORCE); err != unix.EINVAL && err != unix.EBUSY && err != unix.EPERM && err != nil {
		fmt.Fprintln(os.Stderr, "umount2:", err)
		return 99
	}
	return errno
}

// catch panics where seccomptest.Catch fails.
func catch(s unix.Signal, restart bool) {
	if err := seccomptest.Catch(s, restart); err != nil {
		panic(err)
	}
}

// wait mounts with SIGUSR1 caught: "restart" with SA_RESTART, else without.
func wait(args []string) int {
	catch(unix.SIGUSR1, len(args) > 0 && args[0] == "restart")
	return tryMount("//host/share")
}

// twoThreads mounts "//host/main" on the main thread and "//host/other" on
// another; it exits with the errno of both, as main*16+other.
func twoThreads([]string) int {
	catch(unix.SIGUSR1, false)
	other := make(chan int)
	go func() {
		runtime.LockOSThread()
		catch(unix.SIGUSR1, false)
		other <- tryMount("//host/other")
	}()
	errno := tryMount("//host/main")
	return errno*16 + <-other
}

// neighbour calls umount2 on one thread and, once told to by its argument's
// fifo, mounts on another: the mount's errno.
func neighbour(args []string) int {
	go func() {
		runtime.LockOSThread()
		unix.Unmount("/slow", unix.MNT_FORCE)
	}()
	if _, err := os.ReadFile(args[0]); err != nil {
		panic(err)
	}
	return tryMount("//host/share")
}

// fsopen reads what the descriptor it gets has to say.
func fsopen([]string) int {
	fd, err := unix.Fsopen("cifs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return int(err.(syscall.Errno))
	}
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
	if err != nil || flags != unix.FD_CLOEXEC {
		return 98
	}
	b := make([]byte, 16)
	if n, err := unix.Read(fd, b); err != nil || string(b[:n]) != "hello" {
		return 97
	}
	return 0
}

// fork mounts from many threads and processes: 0 when all got ENODEV.
func fork(args []string) int {
	n, _ := strconv.Atoi(args[0])
	var wg sync.WaitGroup
	bad := make(chan int, n)
	for range n {
		wg.Go(func() {
			for range 20 {
				if errno := tryMount("//host/share"); errno != int(unix.ENODEV) {
					bad <- errno
					return
				}
			}
		})
	}
	wg.Wait()
	if len(bad) > 0 {
		return <-bad
	}
	return 0
}

// execute runs a program in its place.
func execute(args []string) int {
	err := unix.Exec(args[0], args, os.Environ())
	fmt.Fprintln(os.Stderr, "exec:", err)
	return 96
}

// nested installs a second filter.
func nested([]string) int {
	arch, _ := seccomp.Native()
	prog, err := seccomp.Assemble(arch, seccomp.Options{Features: []string{seccomp.FeatureMount}})
	if err != nil {
		panic(err)
	}
	_, err = seccomp.Install(prog)
	if !errors.Is(err, seccomp.ErrNested) {
		fmt.Fprintln(os.Stderr, "second filter:", err)
		return 1
	}
	return 0
}

// bench writes the nanoseconds of one call, in the best of bursts of 1000 of
// the args[2] calls, to the file args[1].
func bench(args []string) int {
	n, _ := strconv.Atoi(args[2])
	call := getppid
	if args[0] == "umount2" {
		call = func() { unix.RawSyscall(unix.SYS_UMOUNT2, 0, unix.MNT_FORCE, 0) }
	}
	text := strconv.FormatFloat(bestBurst(n, call), 'f', 2, 64)
	if err := os.WriteFile(args[1], []byte(text), 0o644); err != nil {
		panic(err)
	}
	return 0
}

func getppid() { unix.RawSyscall(unix.SYS_GETPPID, 0, 0, 0) }

func bestBurst(n int, call func()) float64 {
	const burst = 1000
	best := math.Inf(1)
	for range max(n/burst, 1) {
		begin := time.Now()
		for range burst {
			call()
		}
		best = min(best, float64(time.Since(begin).Nanoseconds())/burst)
	}
	return best
}

const brokerEnv = "LX_SECCOMP_TEST_BROKER"

// broker serves the listener (descriptor 3) with the page of calls in flight
// (4) and tells on 5 when a handler runs; it hangs in handlers until killed.
func broker() int {
	page, err := seccomp.OpenInflight(4)
	if err != nil {
		panic(err)
	}
	hang := func() {
		unix.Write(5, []byte{1})
		select {}
	}
	l, err := seccomp.NewListener(3, hangingHandlers(os.Getenv(brokerEnv), hang), page, discard)
	if err != nil {
		panic(err)
	}
	if err := l.Serve(background); err != nil {
		panic(err)
	}
	return 0
}

// startBroker runs broker with mode "inline" or "serve" and answers when it
// hangs in a handler, having been released by run.
func startBroker(t *testing.T, mode string, listener, page int, run func()) *exec.Cmd {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	dup := func(fd int) *os.File {
		d, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		return os.NewFile(uintptr(d), "dup")
	}
	files := []*os.File{dup(listener), dup(page), w}
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), brokerEnv+"="+mode)
	cmd.ExtraFiles = files
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if cmd.ProcessState == nil {
			cmd.Process.Kill()
			cmd.Wait()
		}
	})
	for _, f := range files {
		f.Close()
	}
	run()
	if n, err := r.Read(make([]byte, 1)); n != 1 {
		t.Fatalf("the broker received no call: %v", err)
	}
	return cmd
}
