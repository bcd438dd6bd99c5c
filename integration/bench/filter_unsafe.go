package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// What the kernel itself takes for a filter and for a trap, beside lx's.

// filtered executes argv below a filter that allows everything.
func filtered(argv []string) error {
	runtime.LockOSThread() // the filter is the thread's, which executes
	if _, err := installFilter(0, []unix.SockFilter{ret(unix.SECCOMP_RET_ALLOW)}); err != nil {
		return err
	}
	path, err := exec.LookPath(argv[0])
	if err != nil {
		return err
	}
	return fmt.Errorf("cannot execute %s: %w", path, unix.Exec(path, argv, os.Environ()))
}

func ret(v uint32) unix.SockFilter { return unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: v} }

func installFilter(flags uintptr, program []unix.SockFilter) (fd int, err error) {
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return -1, err
	}
	prog := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	r, _, no := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, flags, uintptr(unsafe.Pointer(&prog)))
	if no != 0 {
		return -1, fmt.Errorf("cannot install a filter: %w", no)
	}
	return int(r), nil
}

// bareTrap is what setresuid(2) takes a caller in another session when a thread
// that does nothing else answers: the least that any listener can cost.
func bareTrap([]string) (float64, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(pair[0])
	theirs := os.NewFile(uintptr(pair[1]), "pair")
	guest := exec.Command("/proc/self/exe", "workload", "trapped")
	guest.ExtraFiles = []*os.File{theirs}
	guest.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	var figure strings.Builder
	guest.Stdout, guest.Stderr = &figure, os.Stderr
	err = guest.Start()
	theirs.Close()
	if err != nil {
		return 0, err
	}
	if err := errors.Join(answerAll(pair[0]), guest.Wait()); err != nil {
		return 0, err
	}
	return strconv.ParseFloat(strings.TrimSpace(figure.String()), 64)
}

// answerAll answers 0 to what is trapped below the listener that comes over
// the socket, until nobody is left.
func answerAll(socket int) error {
	oob := make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := unix.Recvmsg(socket, make([]byte, 1), oob, unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		return err
	}
	messages, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil || len(messages) == 0 {
		return errors.Join(errors.New("no listener came"), err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil {
		return err
	}
	listener := fds[0]
	defer unix.Close(listener)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := unix.IoctlSetInt(listener, unix.SECCOMP_IOCTL_NOTIF_SET_FLAGS, unix.SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP); err != nil && err != unix.EINVAL && err != unix.ENOTTY {
		return err
	}
	ioctl := func(request uintptr, p unsafe.Pointer) unix.Errno {
		_, _, no := unix.RawSyscall(unix.SYS_IOCTL, uintptr(listener), request, uintptr(p))
		return no
	}
	poll := []unix.PollFd{{Fd: int32(listener), Events: unix.POLLIN}}
	for {
		if _, err := unix.Poll(poll, -1); err == unix.EINTR {
			continue
		} else if err != nil || poll[0].Revents&unix.POLLIN == 0 {
			return err
		}
		var notif [10]uint64 // struct seccomp_notif
		if no := ioctl(unix.SECCOMP_IOCTL_NOTIF_RECV, unsafe.Pointer(&notif)); no != 0 && no != unix.ENOENT {
			return no
		}
		answer := [3]uint64{notif[0]} // struct seccomp_notif_resp
		if no := ioctl(unix.SECCOMP_IOCTL_NOTIF_SEND, unsafe.Pointer(&answer)); no != 0 && no != unix.ENOENT {
			return no
		}
	}
}

// trapped is bareTrap's guest; descriptor 3 takes its listener.
func trapped([]string) (float64, error) {
	runtime.LockOSThread()
	listener, err := installFilter(unix.SECCOMP_FILTER_FLAG_NEW_LISTENER, []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: 1, K: unix.SYS_SETRESUID},
		ret(unix.SECCOMP_RET_USER_NOTIF), ret(unix.SECCOMP_RET_ALLOW)})
	if err != nil {
		return 0, err
	}
	err = unix.Sendmsg(3, []byte{0}, unix.UnixRights(listener), nil, 0)
	unix.Close(listener)
	if err != nil {
		return 0, err
	}
	return perCall(setresuid)
}
