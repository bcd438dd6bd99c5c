package guest

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// Namespace ioctls (ioctl_nsfs(2)).
const (
	nsGetUserNS = 0xb701
	nsGetParent = 0xb702
)

// MayMount is mount(2)'s own question: nil when the thread has CAP_SYS_ADMIN
// in the user namespace that owns its mount namespace, else EPERM.
func (t Thread) MayMount() error {
	s, err := t.Status()
	if err != nil {
		return err
	}
	if s.CapEff&(1<<unix.CAP_SYS_ADMIN) == 0 {
		return unix.EPERM
	}
	user, err := openNS(t.proc("ns/user"))
	if err != nil {
		return err
	}
	defer unix.Close(user)
	mnt, err := openNS(t.proc("ns/mnt"))
	if err != nil {
		return err
	}
	defer unix.Close(mnt)
	owner, err := related(mnt, nsGetUserNS)
	if err != nil {
		return fmt.Errorf("cannot find the owner of the caller's mount namespace: %w", err)
	}
	for {
		same, err := sameNS(user, owner)
		if err != nil || same {
			unix.Close(owner)
			return err
		}
		parent, err := related(owner, nsGetParent)
		unix.Close(owner)
		if errors.Is(err, unix.EPERM) { // above our own: no ancestor was the caller's
			return unix.EPERM
		} else if err != nil {
			return fmt.Errorf("cannot find a user namespace's parent: %w", err)
		}
		owner = parent
	}
}

// inOurMap says whether ids mean the same to the thread and to us, so that
// its capabilities over files are ours: it is in our user namespace or in a
// child of it (U2, whose map is the identity; guests cannot make such a child).
func (t Thread) inOurMap() (bool, error) {
	user, err := openNS(t.proc("ns/user"))
	if err != nil {
		return false, err
	}
	defer unix.Close(user)
	ours, err := openNS("/proc/thread-self/ns/user")
	if err != nil {
		return false, err
	}
	defer unix.Close(ours)
	if same, err := sameNS(user, ours); err != nil || same {
		return same, err
	}
	parent, err := related(user, nsGetParent)
	if errors.Is(err, unix.EPERM) {
		return false, nil
	} else if err != nil {
		return false, fmt.Errorf("cannot find the caller's parent user namespace: %w", err)
	}
	defer unix.Close(parent)
	return sameNS(parent, ours)
}

// sharesNS says whether the thread is in the same namespace as we ("net", "mnt").
func (t Thread) sharesNS(name string) (bool, error) {
	var theirs, ours unix.Stat_t
	if err := unix.Stat(t.proc("ns/"+name), &theirs); err != nil {
		return false, fmt.Errorf("cannot read the caller's %s namespace: %w", name, err)
	}
	if err := unix.Stat("/proc/thread-self/ns/"+name, &ours); err != nil {
		return false, fmt.Errorf("cannot read our %s namespace: %w", name, err)
	}
	return theirs.Dev == ours.Dev && theirs.Ino == ours.Ino, nil
}

func openNS(path string) (int, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("cannot open %s: %w", path, err)
	}
	return fd, nil
}

// related opens the namespace that stands in a relation to ns.
func related(ns int, request uintptr) (int, error) {
	fd, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(ns), request, 0)
	if errno != 0 {
		return -1, errno
	}
	return int(fd), nil
}

func sameNS(a, b int) (bool, error) {
	var sa, sb unix.Stat_t
	if err := unix.Fstat(a, &sa); err != nil {
		return false, err
	}
	if err := unix.Fstat(b, &sb); err != nil {
		return false, err
	}
	return sa.Dev == sb.Dev && sa.Ino == sb.Ino, nil
}
