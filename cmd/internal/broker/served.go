package broker

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/lxbridge/lx/core/env"
	"github.com/lxbridge/lx/core/fuse"
	"github.com/lxbridge/lx/core/guest"
)

// visitor is a client that serves mounts of its own: they are made here, in the
// user namespace that has to own them, and put where init sees them.
type visitor struct {
	init     guest.Thread
	scratch  string
	own      bool  // the environment's files are its own
	contexts []int // of fsopen(2), configured
	mounts   []env.Mount
}

// goAhead takes init's process id.
func (b *broker) goAhead(m env.Message) error {
	pid, err := strconv.Atoi(m.Text)
	if err != nil {
		return err
	}
	b.init = guest.Thread{TID: pid}
	return nil
}

// serveVisitor answers a client until it leaves.
func (b *broker) serveVisitor(ctx context.Context, c *net.UnixConn) {
	b.wg.Go(func() {
		select {
		case <-b.prepared: // init has its files in place
		case <-ctx.Done():
			c.Close()
			return
		}
		v := &visitor{init: b.init, scratch: b.cfg.Dirs.Runtime, own: b.cfg.Root != nil}
		err := env.AnswerServed(ctx, c, v.prepare, func() error { return v.place(ctx) }, func(mounts []env.Mount) { b.removeAll(ctx, mounts) })
		v.close()
		if err != nil {
			b.log.Warn("mounts of another process", "err", err)
		}
	})
}

func (v *visitor) prepare(mounts []env.Mount) (devices []int, err error) {
	v.mounts = mounts
	for _, m := range mounts {
		context, device, err := fuse.OpenContext()
		if err == nil {
			v.contexts, devices = append(v.contexts, context), append(devices, device)
			err = fuse.Configure(context, device, fuse.MountConfig{Source: "lx", Subtype: m.Subtype, AllowOther: true, DefaultPermissions: true})
		}
		if err != nil {
			env.Message{FDs: devices}.Discard()
			return nil, err
		}
	}
	return devices, nil
}

// place puts the parts in place. They are taken from where the mount is reached by
// name for that long, for kernels before 6.15 clone no part of a mount that has none:
// the runtime directory, which guests see as another.
func (v *visitor) place(ctx context.Context) error {
	defer v.close()
	for i, m := range v.mounts {
		if err := v.placeOne(ctx, v.contexts[i], m); err != nil {
			return err
		}
	}
	return nil
}

func (v *visitor) placeOne(ctx context.Context, context int, m env.Mount) (err error) {
	mount, err := fuse.Fsmount(context, unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOEXEC)
	if err != nil {
		return err
	}
	defer unix.Close(mount)
	at, err := os.MkdirTemp(v.scratch, "served-")
	if err != nil {
		return fmt.Errorf("cannot make a place for a mount: %w", err)
	}
	defer func() { err = errors.Join(err, os.Remove(at)) }()
	if err := fuse.Attach(mount, at); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unix.Unmount(at, unix.MNT_DETACH)) }()
	for _, p := range m.Places {
		part, err := unix.OpenTree(unix.AT_FDCWD, filepath.Join(at, p.Part), unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
		if err != nil {
			return fmt.Errorf("cannot take %s of a mount: %w", p.Part, err)
		}
		err = v.init.Place(ctx, part, p.Target, v.own)
		unix.Close(part)
		if err != nil {
			return err
		}
	}
	return nil
}

func (v *visitor) close() {
	for _, fd := range v.contexts {
		unix.Close(fd)
	}
	v.contexts = nil
}

// removeAll takes away the mounts of a client that has left.
func (b *broker) removeAll(ctx context.Context, mounts []env.Mount) {
	var errs []error
	for _, m := range mounts {
		for _, p := range m.Places {
			if err := b.init.Remove(ctx, p.Target); !errors.Is(err, os.ErrNotExist) { // init has ended, and its mounts
				errs = append(errs, err)
			}
		}
	}
	if err := errors.Join(errs...); err != nil && ctx.Err() == nil {
		b.log.Warn("mounts of another process", "err", err)
	}
}
