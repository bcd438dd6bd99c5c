package integration

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// soPeerPidfd is SO_PEERPIDFD of asm-generic/socket.h (Linux 6.5).
const soPeerPidfd = 77

// probe tries to reach KEEPER and BROKER, numbered as the host does, and the
// control socket in RUNTIME, through every root in ROOTS and every socket that
// a process of the environment holds.
func probe(args []string) error {
	var reached []string
	got := func(format string, a ...any) { reached = append(reached, fmt.Sprintf(format, a...)) }
	roots := append([]string{"/"}, args[3:]...)
	for _, root := range roots {
		for _, dir := range []string{"proc", "home/proc", "root/proc"} {
			for _, pid := range args[:2] {
				probeFiles(filepath.Join(root, dir, pid), got)
			}
		}
		for _, dir := range []string{args[2], "mnt/lx", "lx"} {
			names, err := os.ReadDir(filepath.Join(root, dir))
			if err == nil && len(names) > 0 {
				got("names in %s/%s: %v", root, dir, names)
			}
		}
	}
	for _, arg := range args[:2] {
		pid, err := strconv.Atoi(arg)
		if err != nil {
			return err
		}
		probePID(pid, got)
	}
	probeSockets(got)
	if len(reached) > 0 {
		return errors.New("within reach:\n" + strings.Join(reached, "\n"))
	}
	fmt.Println("nothing within reach")
	return nil
}

// probeFiles tries the private files of a process directory of procfs. Only a
// directory of lx counts: numbers inside may be those of others.
func probeFiles(dir string, got func(string, ...any)) {
	name, err := os.ReadFile(filepath.Join(dir, "cmdline"))
	if err != nil || !strings.HasPrefix(string(name), "lx-") {
		return
	}
	for _, file := range []string{"mem", "environ", "auxv", "maps", "syscall", "stack", "io"} {
		f, err := os.Open(filepath.Join(dir, file))
		if err != nil {
			continue
		}
		b := make([]byte, 64)
		if n, err := f.Read(b); err == nil && n > 0 || file == "mem" {
			got("%s/%s can be opened", dir, file)
		}
		f.Close()
	}
	if f, err := os.OpenFile(filepath.Join(dir, "mem"), os.O_WRONLY, 0); err == nil {
		f.Close()
		got("%s/mem can be written", dir)
	}
	links := []string{"root", "cwd", "exe", "ns/mnt", "ns/user"}
	// Where lx was started by root its guests may list the numbers: what is
	// behind them is what counts.
	if names, err := os.ReadDir(filepath.Join(dir, "fd")); err == nil {
		for _, n := range names {
			links = append(links, "fd/"+n.Name())
		}
	}
	for _, link := range links {
		if to, err := os.Readlink(filepath.Join(dir, link)); err == nil {
			got("%s/%s is %s", dir, link, to)
		}
		if f, err := os.Open(filepath.Join(dir, link)); err == nil {
			f.Close()
			got("%s/%s can be opened", dir, link)
		}
	}
}

// probePID tries what takes a process number; it is counted in our namespace,
// so a process that it hits is none of lx.
func probePID(pid int, got func(string, ...any)) {
	name, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err == nil && !strings.HasPrefix(string(name), "lx-") {
		return
	}
	if unix.Kill(pid, 0) == nil {
		got("process %d takes signals", pid)
	}
	if unix.PtraceAttach(pid) == nil {
		got("process %d can be traced", pid)
	}
	if fd, err := unix.PidfdOpen(pid, 0); err == nil {
		probePidfd(fd, fmt.Sprintf("process %d", pid), got)
		unix.Close(fd)
	}
}

func probePidfd(fd int, what string, got func(string, ...any)) {
	for n := range 64 {
		if stolen, err := unix.PidfdGetfd(fd, n, 0); err == nil {
			unix.Close(stolen)
			got("descriptor %d of %s", n, what)
		}
	}
	if unix.PidfdSendSignal(fd, 0, nil, 0) == nil {
		got("%s takes signals", what)
	}
	if unix.Setns(fd, unix.CLONE_NEWUSER) == nil || unix.Setns(fd, unix.CLONE_NEWNS) == nil {
		got("the namespaces of %s", what)
	}
}

// probeSockets goes from every socket of init and of ourselves to its peer.
func probeSockets(got func(string, ...any)) {
	for _, pid := range []int{1, os.Getpid()} {
		pidfd, err := unix.PidfdOpen(pid, 0)
		if err != nil {
			continue
		}
		for n := range 64 {
			fd, err := unix.PidfdGetfd(pidfd, n, 0)
			if err != nil {
				continue
			}
			peer, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, soPeerPidfd)
			if err == nil {
				probeForeign(peer, fmt.Sprintf("the peer of descriptor %d of process %d", n, pid), got)
				unix.Close(peer)
			}
			unix.Close(fd)
		}
		unix.Close(pidfd)
	}
}

// probeForeign is probePidfd for a process that is not in our pid namespace.
func probeForeign(pidfd int, what string, got func(string, ...any)) {
	info, err := os.ReadFile(fmt.Sprintf("/proc/self/fdinfo/%d", pidfd))
	if err != nil {
		return
	}
	for line := range strings.Lines(string(info)) {
		// 0: it has no number here.
		if v, ok := strings.CutPrefix(line, "Pid:"); ok && strings.TrimSpace(v) != "0" {
			return
		}
	}
	probePidfd(pidfd, what, got)
}

// overwrite succeeds when FILE cannot be written to.
func overwrite(args []string) error {
	f, err := os.OpenFile(args[0], os.O_WRONLY, 0)
	if err != nil {
		return nil
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte("#!/bin/sh\n"), 0); err == nil {
		return fmt.Errorf("%s can be written to", args[0])
	}
	if err := f.Truncate(0); err == nil {
		return fmt.Errorf("%s can be truncated", args[0])
	}
	return nil
}

// impersonate sends the keeper messages of all letters, and none that it
// should believe, from init's own socket.
func impersonate([]string) error {
	pidfd, err := unix.PidfdOpen(1, 0)
	if err != nil {
		return err
	}
	for n := range 64 {
		fd, err := unix.PidfdGetfd(pidfd, n, 0)
		if err != nil {
			continue
		}
		kind, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE)
		if err != nil || kind != unix.SOCK_SEQPACKET {
			unix.Close(fd)
			continue
		}
		for letter := range 256 {
			for _, text := range []string{"", "1", "999999999999999999999", strings.Repeat("\x00", 100), "key\x00blob"} {
				for _, fds := range [][]int{nil, {0}, {0, 1, 2}} {
					if letter == 'E' { // init failed: ends the environment, as it may
						continue
					}
					var oob []byte
					if fds != nil {
						oob = unix.UnixRights(fds...)
					}
					_ = unix.Sendmsg(fd, append([]byte{byte(letter)}, text...), oob, nil, unix.MSG_DONTWAIT)
				}
			}
		}
		return nil
	}
	return errors.New("init has no socket to the keeper")
}

// fsconfig mounts on DIR by the new mount API with KEY=VALUE or FLAG each in a
// call of its own.
func fsconfig(args []string) error {
	fd, err := unix.Fsopen("cifs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return err
	}
	for _, a := range args[1:] {
		if key, value, ok := strings.Cut(a, "="); ok {
			err = unix.FsconfigSetString(fd, key, value)
		} else {
			err = unix.FsconfigSetFlag(fd, key)
		}
		if err != nil {
			return fmt.Errorf("%q: %w", a, err)
		}
	}
	if err := unix.FsconfigCreate(fd); err != nil {
		return fmt.Errorf("create: %w", err)
	}
	m, err := unix.Fsmount(fd, unix.FSMOUNT_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("fsmount: %w", err)
	}
	return unix.MoveMount(m, "", unix.AT_FDCWD, args[0], unix.MOVE_MOUNT_F_EMPTY_PATH)
}

// hang maps FILE, waits for a line, and makes CALL with a string or an address in it.
func hang(args []string) error {
	f, err := os.Open(args[1])
	if err != nil {
		return err
	}
	m, err := unix.Mmap(int(f.Fd()), 0, 8192, unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return err
	}
	fmt.Println("mapped")
	if _, err := bufio.NewReader(os.Stdin).ReadString('\n'); err != nil {
		return err
	}
	fmt.Println("calling")
	text := uintptr(unsafe.Pointer(unsafe.SliceData(m)))
	kind := append([]byte("cifs"), 0)
	good := uintptr(unsafe.Pointer(unsafe.SliceData(kind)))
	var errno unix.Errno
	switch args[0] {
	case "mount":
		_, _, errno = unix.Syscall6(unix.SYS_MOUNT, text, text, good, 0, text, 0)
	case "fsopen":
		_, _, errno = unix.Syscall(unix.SYS_FSOPEN, text, 0, 0)
	case "umount":
		_, _, errno = unix.Syscall(unix.SYS_UMOUNT2, text, unix.MNT_FORCE, 0)
	case "bind":
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		_, _, errno = unix.Syscall(unix.SYS_BIND, uintptr(fd), text, unix.SizeofSockaddrInet4)
	case "fspick":
		_, _, errno = unix.Syscall(unix.SYS_FSPICK, ^uintptr(99), text, 0) // AT_FDCWD
	case "fsconfig":
		fd, err := unix.Fsopen("cifs", 0)
		if err != nil {
			return err
		}
		_, _, errno = unix.Syscall6(unix.SYS_FSCONFIG, uintptr(fd), unix.FSCONFIG_SET_STRING, text, text, 0, 0)
	}
	fmt.Println(errno)
	return nil
}

// latency makes COUNT trapped calls of each kind: they take less than 50 ms,
// but for one in twenty that a busy machine may hold up for a moment.
func latency(args []string) error {
	count, err := strconv.Atoi(args[0])
	if err != nil {
		return err
	}
	calls := map[string]func() error{
		"fsopen": func() error {
			fd, err := unix.Fsopen("tmpfs", unix.FSOPEN_CLOEXEC)
			if err == nil {
				err = unix.Close(fd)
			}
			return err
		},
		"mount": func() error {
			if err := unix.Mount("none", "/no/such/target", "tmpfs", 0, ""); !errors.Is(err, unix.ENOENT) {
				return err
			}
			return nil
		},
		"bind": func() error {
			fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				return err
			}
			return errors.Join(unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}), unix.Close(fd))
		},
	}
	var took []time.Duration
	for range count {
		for name, call := range calls {
			began := time.Now()
			if err := call(); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			took = append(took, time.Since(began))
		}
	}
	slices.Sort(took)
	most, worst := took[len(took)*19/20], took[len(took)-1]
	if most > 50*time.Millisecond || worst > time.Second {
		return fmt.Errorf("of %d calls one in twenty took more than %v, the longest %v", len(took), most, worst)
	}
	fmt.Printf("of %d calls nineteen in twenty took less than %v, the longest %v\n", len(took), most, worst)
	return nil
}
