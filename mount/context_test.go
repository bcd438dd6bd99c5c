package mount

import (
	"context"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/lxbridge/lx/core/feature"
	"github.com/lxbridge/lx/core/fuse"
	"github.com/lxbridge/lx/mount/option"
)

// newAPI is a guest that uses the new mount API. It exits with 0 when all
// went as it should, and else says what did not.
func newAPI(args []string) int {
	failed := false
	expect := func(what string, err error, want syscall.Errno) {
		got, _ := err.(syscall.Errno)
		if got != want || err != nil && got == 0 {
			fmt.Fprintf(os.Stderr, "%s: %v, want %v\n", what, err, want)
			failed = true
		}
	}
	if feature.Missing(feature.NewMountAPI) {
		_, err := unix.Fsopen("cifs", 0)
		expect("fsopen", err, unix.ENOSYS)
		if failed {
			return 1
		}
		return 0
	}
	must := func(what string, err error) { expect(what, err, 0) }
	open := func() int {
		fd, err := unix.Fsopen("cifs", unix.FSOPEN_CLOEXEC)
		must("fsopen", err)
		return fd
	}
	logged := func(fd int, text string) {
		lines, err := fuse.ContextLog(fd)
		if all := strings.Join(lines, "\n"); err != nil || !strings.Contains(all, text) {
			fmt.Fprintf(os.Stderr, "log %q, %v: want %q\n", all, err, text)
			failed = true
		}
	}
	set := func(fd int, key, value string, want syscall.Errno) {
		expect(key, unix.FsconfigSetString(fd, key, value), want)
	}

	// Others are the kernel's.
	_, err := unix.Fsopen("nosuchfs", 0)
	expect("fsopen(nosuchfs)", err, unix.ENODEV)
	tmpfs, err := unix.Fsopen("tmpfs", 0)
	must("fsopen(tmpfs)", err)
	_, err = unix.Fsopen("cifs", 4)
	expect("fsopen with flags", err, unix.EINVAL)

	fd := open()
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
	if err != nil || flags&unix.FD_CLOEXEC == 0 {
		expect("close-on-exec", unix.EBADF, 0)
	}
	must("tmpfs size", unix.FsconfigSetString(tmpfs, "size", "1m"))
	set(fd, "nonsense", "1", unix.EINVAL)
	logged(fd, `unknown option "nonsense"`)
	set(fd, "sec", "krb5", unix.EOPNOTSUPP)
	logged(fd, "Kerberos")
	set(fd, "password", strings.Repeat("x", 256), unix.EINVAL)
	expect("flag with a value", unix.FsconfigSetFlag(fd, "password"), unix.EINVAL)
	expect("binary", unix.FsconfigSetBinary(fd, "password", []byte("x")), unix.EINVAL)
	expect("reconfigure", unix.FsconfigReconfigure(fd), unix.EBUSY)
	expect("create", unix.FsconfigCreate(fd), unix.EINVAL)
	logged(fd, "source")
	expect("failed", unix.FsconfigSetString(fd, "source", "//nas/photos"), unix.EBUSY)

	// A failure has its reason; a value with commas and newlines is one value.
	fd = open()
	set(fd, "source", "//nas/photos", 0)
	set(fd, "username", "bad,uid=7\nguest", 0)
	set(fd, "password", "hunter2", 0)
	expect("create", unix.FsconfigCreate(fd), unix.EACCES)
	logged(fd, "the password is wrong")

	// Two threads, a copy of the descriptor, a read-only superblock.
	fd = open()
	copied, err := unix.Dup(fd)
	must("dup", err)
	done := make(chan error)
	go func() { done <- unix.FsconfigSetString(copied, "source", "//nas/photos") }()
	must("source", <-done)
	set(fd, "username", "me", 0)
	set(fd, "password", "hunter2", 0)
	must("ro", unix.FsconfigSetFlag(fd, "ro"))
	must("create", unix.FsconfigCreate(fd))
	mnt, err := unix.Fsmount(copied, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_NOEXEC)
	must("fsmount", err)
	must("move_mount", unix.MoveMount(mnt, "", unix.AT_FDCWD, args[0], unix.MOVE_MOUNT_F_EMPTY_PATH))
	expect("mkdir", unix.Mkdir(args[0]+"/d", 0o700), unix.EROFS)

	// Remount, by path and by descriptor.
	pick, err := unix.Fspick(unix.AT_FDCWD, args[0], unix.FSPICK_CLOEXEC)
	must("fspick", err)
	must("rw", unix.FsconfigSetFlag(pick, "rw"))
	set(pick, "username", "me", 0)
	must("reconfigure", unix.FsconfigReconfigure(pick))
	expect("mkdir", unix.Mkdir(args[0]+"/d", 0o700), unix.ENOSYS)
	set(pick, "username", "you", 0)
	expect("reconfigure", unix.FsconfigReconfigure(pick), unix.EINVAL)
	logged(pick, `option "username": a remount cannot change it`)
	expect("create", unix.FsconfigCreate(pick), unix.EBUSY)
	_, err = unix.Fspick(mnt, "", unix.FSPICK_EMPTY_PATH)
	must("fspick by descriptor", err)
	other, err := unix.Fspick(unix.AT_FDCWD, "/proc", 0)
	must("fspick of another", err)
	expect("reconfigure", unix.FsconfigReconfigure(other), unix.EPERM)
	must("close", unix.Close(mnt))
	must("umount", unix.Unmount(args[0], 0))

	if failed {
		return 1
	}
	return 0
}

func TestNewAPI(t *testing.T) {
	w := newWorld(t)
	s := w.fake(t)
	s.dial = func(_ context.Context, o *option.CIFS) error {
		if o.User == "bad,uid=7\nguest" && o.Password == "hunter2" && !o.HasUID && !o.Guest {
			return errPassword
		}
		return nil
	}
	g := w.guest(t, "api", t.TempDir())
	if code := g.Wait(t); code != 0 {
		t.Errorf("exit code %d", code)
	}
	w.settle(t)
	// Contexts go with their opener.
	for w.open.Load() != 0 {
		if t.Context().Err() != nil {
			t.Fatal("contexts are left")
		}
	}
	if feature.Missing(feature.NewMountAPI) {
		return
	}
	if s.closed.Load() != 1 || s.dials.Load() != 2 {
		t.Errorf("%d dials, %d closed", s.dials.Load(), s.closed.Load())
	}
}
