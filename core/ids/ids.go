// Package ids answers the calls that change owners and ids in an environment
// whose map has the one id 0, which is the user outside. The kernel would
// refuse every other id; installers and archivers then give up, although
// nothing they need is missing. So the ids that do not exist are left out of
// the call and the rest of it is done.
package ids

import (
	"context"
	"errors"
	"path"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/lxbridge/lx/core/seccomp"
)

// Recorder keeps an owner that does not exist with an open file, for export.
// uid or gid is -1 where it stays.
type Recorder func(fd, uid, gid int)

// Handlers serve the rows of seccomp.FeatureIDs. record, if not nil, is told of
// owners that do not exist.
func Handlers(record Recorder) seccomp.Handlers {
	chown := func(ctx context.Context, t *seccomp.Trap, dirfd, name, uid, flags int) seccomp.Reply {
		return chown(ctx, t, record, dirfd, name, uid, flags)
	}
	h := seccomp.Handlers{
		"chown": {Serve: func(ctx context.Context, t *seccomp.Trap) seccomp.Reply { return chown(ctx, t, unix.AT_FDCWD, 0, 1, 0) }},
		"lchown": {Serve: func(ctx context.Context, t *seccomp.Trap) seccomp.Reply {
			return chown(ctx, t, unix.AT_FDCWD, 0, 1, unix.AT_SYMLINK_NOFOLLOW)
		}},
		"fchownat": {Serve: func(ctx context.Context, t *seccomp.Trap) seccomp.Reply {
			return chown(ctx, t, int(int32(t.Args[0])), 1, 2, int(t.Args[4]))
		}},
		"fchown": {Serve: func(_ context.Context, t *seccomp.Trap) seccomp.Reply { return fchown(t, record) }},
		"mknod":  {Serve: func(ctx context.Context, t *seccomp.Trap) seccomp.Reply { return mknod(ctx, t, unix.AT_FDCWD, 0) }},
		"mknodat": {Serve: func(ctx context.Context, t *seccomp.Trap) seccomp.Reply {
			return mknod(ctx, t, int(int32(t.Args[0])), 1)
		}},
	}
	for _, name := range []string{"setuid", "setgid", "setreuid", "setregid", "setresuid", "setresgid", "setgroups"} {
		h[name] = seccomp.Handler{Inline: change}
	}
	return h
}

// change answers a call that changes the caller's own ids: it keeps them. A
// namespace made inside has one id at most as well, by whatever number, which
// its processes have: they too lose nothing.
func change(*seccomp.Trap) (seccomp.Reply, bool) { return seccomp.Reply{}, true }

// mapped is id, or -1 where it does not exist.
func mapped(id uint64) int {
	if uint32(id) == 0 {
		return 0
	}
	return -1
}

func failure(err error) seccomp.Reply {
	var no syscall.Errno
	if errors.As(err, &no) {
		return seccomp.Reply{Errno: no}
	}
	return seccomp.Reply{Errno: unix.EINTR}
}

// at runs f in the caller's view with its descriptor dirfd and the path at argument arg.
func at(ctx context.Context, t *seccomp.Trap, dirfd, arg int, f func(dirfd int, name string) error) seccomp.Reply {
	name, err := t.ReadString(t.Args[arg], unix.PathMax)
	if err != nil {
		return failure(err)
	}
	if dirfd != unix.AT_FDCWD && !path.IsAbs(name) {
		if dirfd, err = t.GetFD(dirfd); err != nil {
			return failure(err)
		}
		defer unix.Close(dirfd)
	}
	if err := t.Valid(); err != nil {
		return failure(err)
	}
	if err := t.Do(ctx, func() error { return f(dirfd, name) }); err != nil {
		return failure(err)
	}
	return seccomp.Reply{}
}

func chown(ctx context.Context, t *seccomp.Trap, record Recorder, dirfd, name, uid, flags int) seccomp.Reply {
	if !ours(t) {
		return seccomp.Reply{Continue: true}
	}
	return at(ctx, t, dirfd, name, func(dirfd int, name string) error {
		if err := unix.Fchownat(dirfd, name, mapped(t.Args[uid]), mapped(t.Args[uid+1]), flags); err != nil || record == nil {
			return err
		}
		remember(record, dirfd, name, flags, int(int32(t.Args[uid])), int(int32(t.Args[uid+1])))
		return nil
	})
}

// remember records the owner of a file or directory; other kinds keep none.
func remember(record Recorder, dirfd int, name string, flags, uid, gid int) {
	if flags&unix.AT_EMPTY_PATH != 0 && name == "" {
		record(dirfd, uid, gid)
		return
	}
	follow := unix.O_NOFOLLOW
	if flags&unix.AT_SYMLINK_NOFOLLOW == 0 {
		follow = 0
	}
	var st unix.Stat_t
	if unix.Fstatat(dirfd, name, &st, flags&unix.AT_SYMLINK_NOFOLLOW) != nil || st.Mode&unix.S_IFMT != unix.S_IFREG && st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return
	}
	fd, err := unix.Openat(dirfd, name, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC|follow, 0)
	if err != nil {
		return
	}
	record(fd, uid, gid)
	unix.Close(fd)
}

func fchown(t *seccomp.Trap, record Recorder) seccomp.Reply {
	if !ours(t) {
		return seccomp.Reply{Continue: true}
	}
	fd, err := t.GetFD(int(int32(t.Args[0])))
	if err != nil {
		return failure(err)
	}
	defer unix.Close(fd)
	if err := unix.Fchown(fd, mapped(t.Args[1]), mapped(t.Args[2])); err != nil {
		return failure(err)
	}
	if record != nil {
		record(fd, int(int32(t.Args[1])), int(int32(t.Args[2])))
	}
	return seccomp.Reply{}
}

// mknod makes an empty file in the place of a device node, so that the name
// exists and carries its mode.
func mknod(ctx context.Context, t *seccomp.Trap, dirfd, name int) seccomp.Reply {
	st, err := t.Status()
	if err != nil {
		return failure(err)
	}
	mode := uint32(t.Args[name+1]) & 0o7777 &^ st.Umask
	return at(ctx, t, dirfd, name, func(dirfd int, name string) error {
		if err := unix.Mknodat(dirfd, name, unix.S_IFREG|mode, 0); err != nil {
			return err
		}
		// Our own umask took bits away.
		return unix.Fchmodat(dirfd, name, mode, 0)
	})
}
