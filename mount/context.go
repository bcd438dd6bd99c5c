package mount

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/lxbridge/lx/core/feature"
	"github.com/lxbridge/lx/core/guest"
	"github.com/lxbridge/lx/core/seccomp"
	"github.com/lxbridge/lx/mount/option"
)

// fsContext is a context of the new mount API that a guest holds (fsopen(2),
// fspick(2)) and we hold too. It is a real one of type fuse, so that
// fsmount(2) and move_mount(2) are the kernel's business; what the guest tells
// it by fsconfig(2) we keep back until it is to be created.
//
//	collecting ──CREATE──▶ forgotten: the kernel's
//	    └──CREATE failed──▶ failed: everything is EBUSY
//
// One from fspick(2) stays: it may be reconfigured any number of times. There
// the guest's is a new one, too, since only such a one lets us write into its
// log; the one to reconfigure is ours alone.
type fsContext struct {
	file    *os.File // kept open by Control while it is in use
	unwatch context.CancelFunc
	fsType  string
	picked  *picked // from fspick(2)

	use     chan struct{} // holds one element while the fields below are in use
	source  string        // for people
	driver  *driver       // nil: creating fails
	options option.Options
	given   []option.Param
	failed  bool
}

const maxContexts = 256

// register keeps a context until the process of its opener ends. When there
// are too many the oldest goes. After an error the context is to be closed.
func (b *Broker) register(t guest.Thread, c *fsContext) error {
	ctx, cancel := context.WithCancel(b.ctx)
	c.unwatch, c.use = cancel, make(chan struct{}, 1)
	exited, err := t.Exit(ctx)
	if err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.draining {
		return fmt.Errorf("the environment is about to end: %w", syscall.ESHUTDOWN)
	}
	if len(b.contexts) == maxContexts {
		b.contexts[0].close()
		b.contexts = b.contexts[1:]
	}
	b.contexts = append(b.contexts, c)
	b.open.Store(int32(len(b.contexts)))
	b.wg.Go(func() {
		select {
		case <-exited:
			b.forget(c)
		case <-ctx.Done():
		}
	})
	return nil
}

// forget drops a context; it may be dropped already.
func (b *Broker) forget(c *fsContext) {
	b.mu.Lock()
	b.contexts = slices.DeleteFunc(slices.Clone(b.contexts), func(o *fsContext) bool { return o == c })
	b.open.Store(int32(len(b.contexts)))
	b.mu.Unlock()
	c.close()
}

// close may be called more than once.
func (c *fsContext) close() {
	c.unwatch()
	_ = c.file.Close() // a context has nothing to lose; closed twice is closed
	if c.picked != nil {
		_ = c.picked.file.Close()
	}
}

// with runs f on the guest's context, which stays open meanwhile.
func (c *fsContext) with(f func(fd int) error) error { return with(c.file, f) }

func with(file *os.File, f func(fd int) error) error {
	raw, err := file.SyscallConn()
	if err != nil {
		return err
	}
	if cerr := raw.Control(func(fd uintptr) { err = f(int(fd)) }); cerr != nil {
		return fmt.Errorf("the context is gone: %w", syscall.EBADF)
	}
	return err
}

// contextOf finds our context behind the thread's descriptor; nil where there
// is none.
func (b *Broker) contextOf(t guest.Thread, fd int) *fsContext {
	b.mu.Lock()
	contexts := slices.Clone(b.contexts)
	b.mu.Unlock()
	for _, c := range slices.Backward(contexts) {
		same := false
		err := c.with(func(ours int) (err error) {
			same, err = t.SameFile(fd, ours)
			return err
		})
		if err == nil && same {
			return c
		}
	}
	return nil
}

// explain puts a reason into the log of the context, from which mount(8) of
// util-linux 2.40 and later reads it. The kernel writes there what it does not
// understand, so it is given the reason as the name of an option.
func (c *fsContext) explain(reason error) {
	text := []byte(reason.Error())
	if len(text) > maxParam {
		text = append(text[:maxParam-3], "..."...)
	}
	for i := range text {
		if text[i] < ' ' {
			text[i] = ' '
		}
	}
	// It is refused: that is the point.
	_ = c.with(func(fd int) error { return unix.FsconfigSetFlag(fd, string(text)) })
}

// fsopen answers fsopen(2).
func (b *Broker) fsopen(ctx context.Context, t *seccomp.Trap) seccomp.Reply {
	if feature.Missing(feature.NewMountAPI) { // libmount then uses mount(2), but for remounts
		return seccomp.Reply{Errno: syscall.ENOSYS}
	}
	fsType, err := t.ReadString(t.Args[0], maxType)
	if err != nil || strings.HasPrefix(fsType, "fuse.") {
		return goOn
	}
	d, ok := b.ours(fsType)
	if !ok {
		return goOn
	}
	flags := uint32(t.Args[1])
	if flags&^unix.FSOPEN_CLOEXEC != 0 {
		return seccomp.Reply{Errno: syscall.EINVAL}
	}
	if err := t.MayMount(); err != nil {
		return fail(err)
	}
	c, err := newContext(d, fsType, "none")
	if err != nil {
		return fail(err)
	}
	return b.give(t, c, flags&unix.FSOPEN_CLOEXEC != 0)
}

func newContext(d *driver, fsType, source string) (*fsContext, error) {
	fd, err := unix.Fsopen("fuse", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("cannot make a context: %w", err)
	}
	c := &fsContext{file: os.NewFile(uintptr(fd), "fscontext"), fsType: fsType, source: source, driver: d}
	if d != nil {
		c.options = d.options(fsType)
	}
	return c, nil
}

// give registers a context and puts it into the caller's process. It is
// registered first: the caller may use it at once.
func (b *Broker) give(t *seccomp.Trap, c *fsContext, cloexec bool) seccomp.Reply {
	if err := b.register(t.Thread, c); err != nil {
		c.close()
		return fail(err)
	}
	err := c.with(func(fd int) error {
		_, err := t.AddFDSend(fd, cloexec)
		return err
	})
	if err != nil {
		b.forget(c)
		return fail(err)
	}
	return seccomp.Reply{} // gone out already
}

// fsconfigNone answers fsconfig(2) while there is no context of ours.
func (b *Broker) fsconfigNone(*seccomp.Trap) (seccomp.Reply, bool) {
	return goOn, b.open.Load() == 0
}

// fsconfig answers fsconfig(2).
func (b *Broker) fsconfig(ctx context.Context, t *seccomp.Trap) seccomp.Reply {
	c := b.contextOf(t.Thread, int(int32(t.Args[0])))
	if c == nil {
		return goOn
	}
	select {
	case c.use <- struct{}{}:
		defer func() { <-c.use }()
	case <-ctx.Done():
		return fail(context.Cause(ctx))
	}
	if c.failed {
		return seccomp.Reply{Errno: syscall.EBUSY}
	}
	var err error
	cmd, key, val, aux := uint32(t.Args[1]), t.Args[2], t.Args[3], uint32(t.Args[4])
	switch cmd {
	case unix.FSCONFIG_SET_FLAG, unix.FSCONFIG_SET_STRING:
		if key == 0 || aux != 0 || (val == 0) != (cmd == unix.FSCONFIG_SET_FLAG) {
			return seccomp.Reply{Errno: syscall.EINVAL}
		}
		var p option.Param
		if p, err = readParam(t, cmd); err != nil {
			return fail(err)
		}
		err = c.set(p)
	case unix.FSCONFIG_SET_BINARY, unix.FSCONFIG_SET_PATH, unix.FSCONFIG_SET_PATH_EMPTY, unix.FSCONFIG_SET_FD:
		var name string
		if name, err = t.ReadString(key, maxParam); err != nil {
			return fail(err)
		}
		err = &option.Error{Name: name, Reason: "expected text as its value", Errno: syscall.EINVAL}
	case unix.FSCONFIG_CMD_CREATE, cmdCreateExcl, unix.FSCONFIG_CMD_RECONFIGURE:
		if key != 0 || val != 0 || aux != 0 {
			return seccomp.Reply{Errno: syscall.EINVAL}
		}
		if (c.picked != nil) != (cmd == unix.FSCONFIG_CMD_RECONFIGURE) {
			return seccomp.Reply{Errno: syscall.EBUSY} // as the kernel's phases
		}
		if c.picked != nil {
			err = c.picked.reconfigure()
		} else {
			err = b.create(ctx, t, c)
		}
	default:
		return seccomp.Reply{Errno: syscall.EOPNOTSUPP}
	}
	if err != nil {
		b.log(ctx, "fsconfig(2)", "tid", t.TID, "source", c.source, "err", err)
		c.explain(err)
		return fail(err)
	}
	return seccomp.Reply{}
}

// cmdCreateExcl is FSCONFIG_CMD_CREATE_EXCL: every superblock of ours is new.
const cmdCreateExcl = 8

// readParam reads the key, and value, of a FSCONFIG_SET_FLAG or _STRING.
func readParam(t *seccomp.Trap, cmd uint32) (p option.Param, err error) {
	if p.Name, err = readShort(t, t.Args[2]); err != nil || cmd == unix.FSCONFIG_SET_FLAG {
		return p, err
	}
	p.Has = true
	p.Value, err = readShort(t, t.Args[3])
	return p, err
}

// readShort is a string for fsconfig(2), which takes none that is too long.
func readShort(t *seccomp.Trap, addr uint64) (string, error) {
	s, err := t.ReadString(addr, maxParam)
	if errors.Is(err, syscall.ENAMETOOLONG) {
		err = syscall.EINVAL
	}
	return s, err
}

// set takes one parameter. What is wrong with it is told at once.
func (c *fsContext) set(p option.Param) error {
	if p.Name == "source" {
		c.source = p.Value
	}
	switch {
	case c.picked != nil:
		return c.picked.set(p)
	case c.driver == nil:
		return nil
	}
	if err := c.options.Set(p); err != nil {
		return err
	}
	if p.Name != "source" {
		c.given = append(c.given, p)
	}
	return nil
}

// create answers FSCONFIG_CMD_CREATE: it connects, and gives the guest's
// context the superblock. A caller that was interrupted may try again.
func (b *Broker) create(ctx context.Context, t *seccomp.Trap, c *fsContext) (err error) {
	defer func() {
		if err == nil {
			return
		}
		err = fmt.Errorf("cannot mount %s: %w", c.source, err)
		c.failed = ctx.Err() == nil
	}()
	if c.driver == nil {
		return errUnsupported(c.fsType)
	}
	o := c.options.Clone()
	if err := o.Finish(); err != nil {
		return err
	}
	if o.General().Mount.Attr != 0 {
		return &option.Error{Reason: "nosuid, nodev, noexec and noatime are attributes of the mount: give them to fsmount(2)", Errno: syscall.EINVAL}
	}
	f, err := b.establish(ctx, t.Thread, request{driver: c.driver, options: o, given: c.given})
	if err != nil {
		return err
	}
	defer f.close()
	if err := t.Commit(); err != nil {
		return err
	}
	if err := c.with(func(fd int) error { return f.sb.share(fd, f.conn) }); err != nil {
		return err
	}
	b.forget(c)
	b.cfg.Log.Info("created", "source", f.Source)
	return nil
}
