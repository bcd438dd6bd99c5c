package seccomp

import (
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/lxbridge/lx/core/feature"
)

// ErrNested tells that the process already runs under a filter with a
// listener: the kernel takes no second one, and the outer one serves.
var ErrNested = errors.New("already inside lx: an outer listener serves the calls")

// Install sets the filter on every thread of the process and answers the
// listener's descriptor (close-on-exec). From then on the process's own calls
// are trapped too, and its children's. It needs CAP_SYS_ADMIN in the user
// namespace or no_new_privs; a filter cannot be removed.
func Install(program []unix.SockFilter) (listener int, err error) {
	if len(program) == 0 {
		return -1, errors.New("cannot install a filter without instructions")
	}
	const flags = unix.SECCOMP_FILTER_FLAG_NEW_LISTENER | unix.SECCOMP_FILTER_FLAG_TSYNC | unix.SECCOMP_FILTER_FLAG_TSYNC_ESRCH
	fd, errno := uintptr(0), syscall.EINVAL
	if !feature.Missing(feature.WaitKillable) {
		fd, errno = setFilter(program, flags|unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV)
	}
	if errno == unix.EINVAL { // a kernel before 5.19: any signal takes a call back
		fd, errno = setFilter(program, flags)
	}
	switch errno {
	case 0:
		return int(fd), nil
	case unix.EBUSY:
		return -1, ErrNested
	case unix.EACCES:
		return -1, fmt.Errorf("cannot install the filter without CAP_SYS_ADMIN in the user namespace or no_new_privs: %w", errno)
	case unix.ESRCH:
		return -1, fmt.Errorf("cannot install the filter on a thread that has one of its own: %w", errno)
	}
	return -1, fmt.Errorf("cannot install the filter: %w", errno)
}

func setFilter(program []unix.SockFilter, flags uintptr) (uintptr, syscall.Errno) {
	prog := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	fd, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, flags, uintptr(unsafe.Pointer(&prog)))
	runtime.KeepAlive(program)
	return fd, errno
}

// addFDFlagSend is SECCOMP_ADDFD_FLAG_SEND.
const addFDFlagSend = unix.SECCOMP_ADDFD_FLAG_SEND

// notifSize is sizeof(struct seccomp_notif).
const notifSize = 80

// notification is struct seccomp_notif.
type notification struct {
	id    uint64
	tid   uint32
	flags uint32
	nr    int32
	arch  uint32
	ip    uint64
	args  [6]uint64
}

// decode reads struct seccomp_notif.
func decode(b []byte) (n notification, err error) {
	if len(b) < notifSize {
		return n, fmt.Errorf("a notification of %d bytes: expected %d", len(b), notifSize)
	}
	le := binary.LittleEndian
	n.id = le.Uint64(b)
	n.tid, n.flags = le.Uint32(b[8:]), le.Uint32(b[12:])
	n.nr, n.arch = int32(le.Uint32(b[16:])), le.Uint32(b[20:])
	n.ip = le.Uint64(b[24:])
	for i := range n.args {
		n.args[i] = le.Uint64(b[32+8*i:])
	}
	return n, nil
}

func ioctl(fd int, request uintptr, arg unsafe.Pointer) (int, syscall.Errno) {
	v, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, uintptr(arg))
	return int(v), errno
}

// receive fills the zeroed b with the next notification. There must be one: Go's
// scheduler is not told that the thread might block.
func receive(fd int, b *[notifSize]byte) syscall.Errno {
	_, _, errno := unix.RawSyscall(unix.SYS_IOCTL, uintptr(fd), unix.SECCOMP_IOCTL_NOTIF_RECV, uintptr(unsafe.Pointer(b)))
	return errno
}

// response is struct seccomp_notif_resp.
type response struct {
	id    uint64
	val   int64
	errno int32
	flags uint32
}

// respond answers a notification. ENOENT: its caller is gone; EINPROGRESS: it
// has been answered.
func respond(fd int, id uint64, r Reply) syscall.Errno {
	resp := response{id: id}
	switch {
	case r.Continue:
		resp.flags = unix.SECCOMP_USER_NOTIF_FLAG_CONTINUE
	case r.Errno != 0:
		resp.errno = -int32(r.Errno)
	default:
		resp.val = r.Val
	}
	_, _, errno := unix.RawSyscall(unix.SYS_IOCTL, uintptr(fd), unix.SECCOMP_IOCTL_NOTIF_SEND, uintptr(unsafe.Pointer(&resp)))
	return errno
}

// idValid is 0 while the notification waits for its answer, else ENOENT.
func idValid(fd int, id uint64) syscall.Errno {
	_, errno := ioctl(fd, unix.SECCOMP_IOCTL_NOTIF_ID_VALID, unsafe.Pointer(&id))
	return errno
}

// addFD is SECCOMP_IOCTL_NOTIF_ADDFD. A signal in the middle of one that also
// answers would leave the caller with descriptor 0 for an answer, so none is
// let in.
func addFD(fd int, id uint64, ours int, cloexec bool, flags uint32) (int, syscall.Errno) {
	add := struct {
		id                        uint64
		flags, src, new, newFlags uint32
	}{id: id, flags: flags, src: uint32(ours)}
	if cloexec {
		add.newFlags = unix.O_CLOEXEC
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var all, old unix.Sigset_t
	for i := range all.Val {
		all.Val[i] = ^all.Val[i]
	}
	if err := unix.PthreadSigmask(unix.SIG_SETMASK, &all, &old); err != nil {
		return -1, err.(syscall.Errno)
	}
	theirs, errno := ioctl(fd, unix.SECCOMP_IOCTL_NOTIF_ADDFD, unsafe.Pointer(&add))
	if err := unix.PthreadSigmask(unix.SIG_SETMASK, &old, nil); err != nil {
		return -1, err.(syscall.Errno)
	}
	return theirs, errno
}

// syncWakeup asks the kernel to run waiter and receiver on one CPU, which
// saves a round trip most of its time (6.6); without it nothing else changes.
func syncWakeup(fd int) error {
	if feature.Missing(feature.SyncWakeup) {
		return nil
	}
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SECCOMP_IOCTL_NOTIF_SET_FLAGS, unix.SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP)
	if errno != 0 && errno != unix.EINVAL && errno != unix.ENOTTY {
		return fmt.Errorf("cannot set the listener's flags: %w", errno)
	}
	return nil
}
