// Package mount answers the mount calls of guests: it recognises the types of
// file systems that lx serves, connects to their servers and puts FUSE mounts
// where the guest asked. All other calls go on to the kernel.
package mount

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/lxbridge/lx/core/seccomp"
	"github.com/lxbridge/lx/mount/volume"
)

// Holder keeps FUSE connections alive beyond the broker: the keeper.
type Holder interface {
	// Hold keeps a copy of fd and what a next broker needs to know of it; a
	// later Hold of the same key replaces it.
	Hold(key string, fd int, blob []byte) error
	// Drop lets it go. A key that is not held is no error.
	Drop(key string) error
}

// Config of a Broker. All fields must be set.
type Config struct {
	Holder Holder
	Log    *slog.Logger
}

// Broker serves the mounts of one environment. It must run in the user
// namespace that owns them (U1), outside the guests' own.
type Broker struct {
	cfg     Config
	drivers map[string]*driver // by type; tests have others

	ctx    context.Context // of what serves; ends with Drain
	cancel context.CancelFunc
	ending chan struct{}  // closed when Drain begins
	wg     sync.WaitGroup // lives of mounts and contexts

	mu       sync.Mutex // guards what follows
	mounts   map[string]*mounted
	contexts []*fsContext // oldest first
	draining bool
	told     telling // the last reason written to a terminal

	open atomic.Int32 // len(contexts), read without mu
}

// New makes a Broker without mounts.
func New(cfg Config) *Broker {
	ctx, cancel := context.WithCancel(context.Background())
	return &Broker{cfg: cfg, drivers: drivers, ending: make(chan struct{}), ctx: ctx, cancel: cancel, mounts: map[string]*mounted{}}
}

// Handlers are for seccomp.NewListener.
func (b *Broker) Handlers() seccomp.Handlers {
	return seccomp.Handlers{
		"mount":    {Serve: b.mount},
		"umount2":  {Serve: b.umount},
		"fsopen":   {Serve: b.fsopen},
		"fsconfig": {Inline: b.fsconfigNone, Serve: b.fsconfig},
		"fspick":   {Inline: b.fspickNone, Serve: b.fspick},
	}
}

var goOn = seccomp.Reply{Continue: true}

// fail is the reply for err. What the context of a handler ended with is EINTR.
func fail(err error) seccomp.Reply {
	if errors.Is(err, seccomp.ErrCallerGone) {
		return seccomp.Reply{Errno: syscall.EINTR}
	}
	return seccomp.Reply{Errno: volume.Errno(err)}
}

// log tells of a failed call; that it was interrupted is no news.
func (b *Broker) log(ctx context.Context, call string, args ...any) {
	level := slog.LevelWarn
	if ctx.Err() != nil {
		level = slog.LevelDebug
	}
	b.cfg.Log.Log(ctx, level, call, args...)
}

// lookup finds the mounted file system with a device number; nil where it is
// not ours. The kernel gives the number of one that is unmounted to others.
func (b *Broker) lookup(dev uint64) *mounted {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, m := range b.mounts {
		if m.Dev == dev && m.state() != Unmounted {
			return m
		}
	}
	return nil
}

// Drain ends the broker's work: what is still mounted answers EIO, everything
// is written out and servers are logged off. What has not ended with ctx is
// told in the error and let go. No mount is made from the beginning of Drain
// on. Mounts that outlive it end with the process.
func (b *Broker) Drain(ctx context.Context) error {
	b.mu.Lock()
	if !b.draining {
		b.draining = true
		close(b.ending)
	}
	all := make([]*mounted, 0, len(b.mounts))
	for _, m := range b.mounts {
		all = append(all, m)
	}
	contexts := b.contexts
	b.contexts = nil
	b.open.Store(0)
	b.mu.Unlock()
	for _, c := range contexts {
		c.close()
	}
	var errs []error
	for _, m := range all {
		select {
		case <-m.gone:
			errs = append(errs, m.lost)
		case <-ctx.Done():
			errs = append(errs, fmt.Errorf("cannot write out %s: %w", m.Source, context.Cause(ctx)))
		}
	}
	b.cancel()
	if ctx.Err() == nil {
		b.wg.Wait()
	}
	return errors.Join(errs...)
}
