package guest_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/lxbridge/lx/core/seccomp"
	"github.com/lxbridge/lx/core/seccomp/seccomptest"
)

func TestMain(m *testing.M) {
	seccomptest.Confined(m, map[string]seccomptest.Program{
		"here":     here,
		"memory":   memory,
		"jail":     jail,
		"sealed":   sealed,
		"userns":   userns,
		"nocaps":   nocaps,
		"user":     user,
		"fd":       openFD,
		"hosts":    hosts,
		"exitnow":  exitNow,
		"unshared": unshared,
		"hung":     hung,
		"hanger":   hanger,
	})
}

// meet is where a guest stops for the test to look at it: a trapped call with
// the given arguments.
func meet(a0, a2, a3 uintptr) {
	if _, _, errno := unix.RawSyscall6(unix.SYS_UMOUNT2, a0, unix.MNT_FORCE, a2, a3, 0, 0); errno != 0 {
		panic(errno)
	}
}

// at runs a guest's program and look when it meets the test.
func at(t *testing.T, program string, args []string, look func(*seccomp.Trap)) {
	t.Helper()
	g := seccomptest.Start(t, seccomp.Options{Features: []string{seccomp.FeatureMount}}, program, args...)
	var met atomic.Bool
	l, err := seccomp.NewListener(g.Listener, seccomp.Handlers{
		"umount2": {Serve: func(ctx context.Context, tr *seccomp.Trap) seccomp.Reply {
			met.Store(true)
			look(tr)
			return seccomp.Reply{}
		}}}, nil, seccomptest.Log(t))
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- l.Serve(t.Context()) }()
	g.Run(t)
	if code := g.Wait(t); code != 0 {
		t.Errorf("the guest exits with %d", code)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if !met.Load() {
		t.Error("the guest did not call")
	}
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

func here([]string) int {
	meet(0, 0, 0)
	return 0
}

// memory passes a string that ends with a page before nothing, one that does
// not end there, and a place to write to.
func memory([]string) int {
	page := os.Getpagesize()
	m, err := unix.Mmap(-1, 0, 3*page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	must(err)
	_, _, errno := unix.Syscall(unix.SYS_MUNMAP, uintptr(unsafe.Pointer(&m[2*page])), uintptr(page), 0)
	if errno != 0 {
		panic(errno)
	}
	copy(m[2*page-6:], "whole\x00")
	whole := uintptr(unsafe.Pointer(&m[2*page-6]))
	place := uintptr(unsafe.Pointer(&m[page-3]))
	meet(whole, 0, place)
	if string(m[page-3:page+3]) != "wrote!" {
		return 1
	}
	m[2*page-1] = 'x'
	meet(whole, 1, place)
	return 0
}

// jail makes a file system of its own with a root below it: args[0] is a directory.
func jail(args []string) int {
	must(unix.Mount("none", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
	must(unix.Mount("jail", args[0], "tmpfs", 0, ""))
	must(os.MkdirAll(args[0]+"/root/work/target", 0o755))
	must(os.WriteFile(args[0]+"/root/work/file", []byte("inside"), 0o644))
	must(os.Symlink("/work/target", args[0]+"/root/link"))
	must(unix.Chroot(args[0] + "/root"))
	must(unix.Chdir("/work"))
	meet(0, 0, 0)
	if _, err := os.Stat("/work/target/mounted"); len(args) > 1 && err != nil {
		fmt.Fprintln(os.Stderr, "in the guest:", err)
		return 1
	}
	return 0
}

// sealed has a directory that nothing can be made in, and wants to find its files in it
// and what the test has placed.
func sealed([]string) int {
	must(unix.Mount("none", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
	must(unix.Mount("sealed", "/mnt", "tmpfs", 0, ""))
	must(os.MkdirAll("/mnt/dir/inner", 0o755))
	must(os.WriteFile("/mnt/file", []byte("inside"), 0o644))
	must(os.Symlink("dir", "/mnt/link"))
	must(unix.Mount("", "/mnt", "", unix.MS_REMOUNT|unix.MS_RDONLY, ""))
	meet(0, 0, 0)
	for _, name := range []string{"dir/inner", "link/inner", "file", "bus/usb/mounted"} {
		if _, err := os.Stat("/mnt/" + name); err != nil {
			fmt.Fprintln(os.Stderr, "in the guest:", err)
			return 1
		}
	}
	if b, err := os.ReadFile("/mnt/file"); err != nil || string(b) != "inside" {
		fmt.Fprintln(os.Stderr, "in the guest:", string(b), err)
		return 1
	}
	names, err := os.ReadDir("/mnt")
	must(err)
	return len(names) - 4
}

// userns looks from a further user namespace, args[0] with a mount namespace of its own.
func userns(args []string) int {
	flags := uintptr(unix.CLONE_NEWUSER)
	if args[0] == "mnt" {
		flags |= unix.CLONE_NEWNS
	}
	return child(flags, "here")
}

func child(flags uintptr, program string, args ...string) int {
	cmd, err := seccomptest.Child(flags, program, args...)
	must(err)
	if err := cmd.Run(); err != nil {
		fmt.Fprintln(os.Stderr, "child:", err)
		return 1
	}
	return 0
}

func unshared([]string) int { return child(unix.CLONE_NEWUSER|unix.CLONE_NEWNET, "here") }

// nocaps gives up all capabilities of its thread.
func nocaps([]string) int {
	var none [2]unix.CapUserData
	must(unix.Capset(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, &none[0]))
	meet(0, 0, 0)
	return 0
}

// user becomes uid args[0] with group args[1], supplementary args[2].
func user(args []string) int {
	id := func(i int) int {
		n, err := strconv.Atoi(args[i])
		must(err)
		return n
	}
	must(syscall.Setgroups([]int{id(2)}))
	must(syscall.Setresgid(id(1), id(1), id(1)))
	must(syscall.Setresuid(id(0), id(0), id(0)))
	unix.Umask(0o27)
	meet(0, 0, 0)
	return 0
}

// openFD has a pipe's ends and tells their numbers.
func openFD([]string) int {
	var p [2]int
	must(unix.Pipe2(p[:], unix.O_CLOEXEC))
	if _, err := unix.Write(p[1], []byte("piped")); err != nil {
		panic(err)
	}
	meet(uintptr(p[0]), uintptr(p[1]), 0)
	return 0
}

// hosts has resolver files of its own in directory args[0].
func hosts(args []string) int {
	must(unix.Mount("none", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
	must(unix.Mount("etc", "/etc", "tmpfs", 0, ""))
	must(os.WriteFile("/etc/hosts", []byte("127.0.0.1 nas # mine\n"), 0o644))
	must(os.WriteFile("/etc/nsswitch.conf", []byte("hosts: files\n"), 0o644))
	meet(0, 0, 0)
	return 0
}

// What hung and hanger tell the test with, in the third argument.
const (
	waitForHanger = iota + 1
	timed
	releaseHanger
	hanging
)

// hung calls while its child's call hangs in a mapping of file args[0]; 1 when
// the median of its calls takes more than 50 ms.
func hung(args []string) int {
	cmd, err := seccomptest.Child(0, "hanger", args...)
	must(err)
	must(cmd.Start())
	meet(0, waitForHanger, 0)
	var took []time.Duration
	for range 21 {
		begin := time.Now()
		meet(0, timed, 0)
		took = append(took, time.Since(begin))
	}
	meet(0, releaseHanger, 0)
	must(cmd.Wait())
	slices.Sort(took)
	if median := took[len(took)/2]; median > 50*time.Millisecond {
		fmt.Fprintln(os.Stderr, "beside a hung call others take", median)
		return 1
	}
	return 0
}

func hanger(args []string) int {
	f, err := os.Open(args[0])
	must(err)
	m, err := unix.Mmap(int(f.Fd()), 0, os.Getpagesize(), unix.PROT_READ, unix.MAP_PRIVATE)
	must(err)
	meet(uintptr(unsafe.Pointer(&m[0])), hanging, 0)
	return 0
}

func exitNow([]string) int {
	meet(0, 0, 0)
	return 0
}

// server listens on the test's loopback and says hello to all.
func server(t *testing.T) *net.TCPAddr {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err == nil {
				c.Close()
			}
		}
	}()
	t.Cleanup(func() {
		l.Close()
		<-done
	})
	return l.Addr().(*net.TCPAddr)
}
