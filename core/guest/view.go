package guest

import (
	"context"
	"fmt"
	"io"
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

// Do runs f where the thread stands: in its mount namespace, below its root,
// in its working directory, on an OS thread of its own. f must do its work
// itself (another goroutine would stand elsewhere) and finds no /proc/self.
// When ctx ends first its cause is returned and f is left to end by itself,
// however late: what it did must then be undone by f.
func (t Thread) Do(ctx context.Context, f func() error) error {
	return onThread(ctx, func() error {
		if err := t.enterView(); err != nil {
			return err
		}
		return f()
	})
}

// enterView moves the calling OS thread; there is no way back.
func (t Thread) enterView() error {
	v, err := t.openView()
	if err != nil {
		return err
	}
	defer v.close()
	return v.enter()
}

// view is where a thread stands, by descriptors.
type view struct{ ns, root, cwd int }

func (t Thread) openView() (view, error) {
	v := view{-1, -1, -1}
	for _, f := range []struct {
		fd    *int
		name  string
		flags int
	}{
		{&v.ns, "ns/mnt", unix.O_RDONLY},
		{&v.root, "root", unix.O_PATH | unix.O_DIRECTORY},
		{&v.cwd, "cwd", unix.O_PATH | unix.O_DIRECTORY},
	} {
		fd, err := unix.Open(t.proc(f.name), f.flags|unix.O_CLOEXEC, 0)
		if err != nil {
			v.close()
			return view{}, fmt.Errorf("cannot open the caller's %s: %w", f.name, err)
		}
		*f.fd = fd
	}
	return v, nil
}

func (v view) close() {
	for _, fd := range []int{v.ns, v.root, v.cwd} {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
}

// enter moves the calling OS thread there.
func (v view) enter() error {
	for _, step := range []struct {
		what string
		do   func() error
	}{
		{"leave the broker's root", func() error { return unix.Unshare(unix.CLONE_FS) }},
		{"enter the caller's mount namespace", func() error { return unix.Setns(v.ns, unix.CLONE_NEWNS) }},
		{"reach the caller's root", func() error { return unix.Fchdir(v.root) }},
		{"take the caller's root", func() error { return unix.Chroot(".") }},
		{"enter the caller's working directory", func() error { return unix.Fchdir(v.cwd) }},
	} {
		if err := step.do(); err != nil {
			return fmt.Errorf("cannot %s: %w", step.what, err)
		}
	}
	return nil
}

// DoAs is Do with the thread's file system ids, groups and, unless it has
// them itself, without the capabilities that override permissions.
func (t Thread) DoAs(ctx context.Context, f func() error) error {
	return onThread(ctx, func() error {
		s, err := t.Status()
		if err != nil {
			return err
		}
		trusted, err := t.inOurMap()
		if err != nil {
			return err
		}
		if !trusted {
			s.CapEff = 0
		}
		if err := t.enterView(); err != nil {
			return err
		}
		if err := assume(s); err != nil {
			return err
		}
		return f()
	})
}

// dacCaps let a file be reached that its mode denies.
var dacCaps = []int{unix.CAP_DAC_OVERRIDE, unix.CAP_DAC_READ_SEARCH, unix.CAP_FOWNER, unix.CAP_SYS_PTRACE}

// assume gives the calling OS thread s's ids for files. The order matters:
// groups and gid need CAP_SETGID; changing fsuid from 0 drops the file
// capabilities by itself, which are set last to what s may.
func assume(s Status) error {
	have, err := unix.Getgroups()
	if err != nil {
		return fmt.Errorf("cannot read the broker's groups: %w", err)
	}
	if !sameGroups(have, s.Groups) {
		if err := setgroups(s.Groups); err != nil {
			return fmt.Errorf("cannot take the caller's groups %v: %w", s.Groups, err)
		}
	}
	keep, err := capabilities()
	if err != nil {
		return err
	}
	if _ = unix.Setfsgid(int(s.FSGID)); fsid(unix.SetfsgidRetGid) != s.FSGID {
		return fmt.Errorf("cannot take the caller's group %d: %w", s.FSGID, unix.EPERM)
	}
	if _ = unix.Setfsuid(int(s.FSUID)); fsid(unix.SetfsuidRetUid) != s.FSUID {
		return fmt.Errorf("cannot take the caller's user %d: %w", s.FSUID, unix.EPERM)
	}
	for _, c := range dacCaps {
		if s.CapEff&(1<<c) == 0 {
			keep[c/32].Effective &^= 1 << (c % 32)
			keep[c/32].Permitted &^= 1 << (c % 32)
			keep[c/32].Inheritable &^= 1 << (c % 32)
		}
	}
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	if err := unix.Capset(&hdr, &keep[0]); err != nil {
		return fmt.Errorf("cannot drop capabilities: %w", err)
	}
	return nil
}

// fsid reads a file system id: setting an impossible one changes nothing and
// answers the present.
func fsid(set func(int) (int, error)) uint32 {
	id, err := set(-1)
	if err != nil {
		return ^uint32(0)
	}
	return uint32(id)
}

func capabilities() (data [2]unix.CapUserData, err error) {
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	if err := unix.Capget(&hdr, &data[0]); err != nil {
		return data, fmt.Errorf("cannot read capabilities: %w", err)
	}
	return data, nil
}

func sameGroups(have []int, want []uint32) bool {
	a := make([]uint32, len(have))
	for i, g := range have {
		a[i] = uint32(g)
	}
	slices.Sort(a)
	b := slices.Sorted(slices.Values(want))
	return slices.Equal(slices.Compact(a), slices.Compact(b))
}

// setgroups sets the calling OS thread's groups, but for those that are not
// mapped: what they were cannot be told.
func setgroups(want []uint32) error {
	groups := []int{}
	for _, g := range want {
		if g != overflowID {
			groups = append(groups, int(g))
		}
	}
	return unix.Setgroups(groups)
}

// overflowID is what an id that is not mapped shows as.
const overflowID = 65534

// ReadFile reads a regular file named by the thread, in its view and with its
// rights, of at most limit bytes: larger is EFBIG, not regular EINVAL.
// /proc/self and /dev/fd name nothing here.
func (t Thread) ReadFile(ctx context.Context, path string, limit int64) ([]byte, error) {
	var content []byte
	err := t.DoAs(ctx, func() error {
		fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		f := os.NewFile(uintptr(fd), path)
		defer f.Close()
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil {
			return err
		}
		if st.Mode&unix.S_IFMT != unix.S_IFREG {
			return fmt.Errorf("not a regular file: %w", unix.EINVAL)
		}
		b, err := io.ReadAll(io.LimitReader(f, limit+1))
		if err != nil {
			return err
		}
		if int64(len(b)) > limit {
			return fmt.Errorf("more than %d bytes: %w", limit, unix.EFBIG)
		}
		content = b
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", path, err)
	}
	return content, nil
}

// Attach puts the mount at target as the thread would reach it, following
// symbolic links and automounts. The error wraps mount(2)'s errno: ENOENT,
// ENOTDIR, ELOOP, EACCES. mount stays the caller's to close. commit, unless
// nil, is called just before (Trap.Commit): its error leaves all undone, so
// that nothing is attached for a caller that went away while the path hung.
func (t Thread) Attach(ctx context.Context, mount int, target string, commit func() error) error {
	fd, err := unix.FcntlInt(uintptr(mount), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("cannot hold the mount: %w", err)
	}
	return t.DoAs(ctx, func() error {
		defer unix.Close(fd)
		at, err := unix.Open(target, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(at)
		if commit != nil {
			if err := commit(); err != nil {
				return err
			}
		}
		return unix.MoveMount(fd, "", at, "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH)
	})
}
