package mount

import (
	"context"
	"errors"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lxbridge/lx/core/seccomp"
)

const umountFlags = unix.MNT_FORCE | unix.MNT_DETACH | unix.UMOUNT_NOFOLLOW

// umount answers umount2(2) with MNT_FORCE: on a mount of ours everything that
// waits ends with EIO, as does what comes later; then it is unmounted.
func (b *Broker) umount(ctx context.Context, t *seccomp.Trap) seccomp.Reply {
	flags := uint32(t.Args[1])
	target, err := t.ReadString(t.Args[0], maxPath)
	if err != nil || flags&^umountFlags != 0 || target == "" {
		return goOn
	}
	m, at, err := b.find(ctx, t.Thread, unix.AT_FDCWD, target, noFollow(flags&unix.UMOUNT_NOFOLLOW))
	switch {
	case ctx.Err() != nil:
		return fail(context.Cause(ctx))
	case err != nil || m == nil:
		return goOn
	}
	unix.Close(at) // it would keep the mount busy
	if err := t.MayMount(); err != nil {
		return fail(err)
	}
	if err := t.Commit(); err != nil {
		return fail(err)
	}
	b.cfg.Log.Info("unmounting by force", "source", m.Source, "target", target)
	m.abort()
	return fail(unmount(ctx, t, target, int(flags)&^unix.MNT_FORCE))
}

// leaveTime is how long those who waited on a mount may take to leave it.
const leaveTime = 500 * time.Millisecond

// unmount unmounts target in the thread's view, once nobody is on it any more.
func unmount(ctx context.Context, t *seccomp.Trap, target string, flags int) error {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	late := time.After(leaveTime)
	for {
		err := t.Do(ctx, func() error { return unix.Unmount(target, flags) })
		if !errors.Is(err, unix.EBUSY) {
			return err
		}
		select {
		case <-tick.C:
		case <-late:
			return err
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
