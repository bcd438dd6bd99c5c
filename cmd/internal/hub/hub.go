// Package hub is the process, one per user, that has the connections to devices and
// serves them to all environments. It runs in the host's user namespace, where it may
// reach the memory of guests' transfers. Daemon and brokers may end and start meanwhile.
package hub

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lxbridge/lx/cmd/internal/owner"
	"github.com/lxbridge/lx/core/env"
	"github.com/lxbridge/lx/devices/usb/host"
)

// idleTime is how long a hub without attachments waits for the next.
const idleTime = 10 * time.Second

// Main is the hub; it answers the exit code. version is lx's.
func Main(version string) int {
	return owner.Run(func(ctx context.Context, ready func()) error { return serve(ctx, version, ready) })
}

type hub struct {
	dirs    env.Dirs
	version string
	started time.Time
	log     *slog.Logger
	host    *host.Host
	life    context.Context // ends with the hub
	stop    context.CancelFunc
	wg      sync.WaitGroup

	mu          sync.Mutex // guards what follows
	attachments []*attachment
	idle        *time.Timer // ends the hub; nil while there are attachments
	entered     map[string]*entry
}

// serve is the hub in this process, until ctx ends; ready is called when it listens.
func serve(ctx context.Context, version string, ready func()) (err error) {
	unix.Umask(0o077)
	log := slog.New(slog.NewTextHandler(os.Stderr, nil)).With("process", "hub")
	dirs, err := env.UserDirs()
	if err != nil {
		return err
	}
	// Held for life: one hub per user, whatever becomes of its socket.
	lock, err := os.OpenFile(filepath.Join(dirs.State, "hub.lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return fmt.Errorf("cannot lock the hub's place: %w", err)
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return errors.New("the device hub runs already")
	}
	usb, err := host.New(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, usb.Close()) }()
	ctx, cancel := context.WithCancel(ctx)
	h := &hub{dirs: dirs, version: version, started: time.Now(), log: log, host: usb, life: ctx, stop: cancel, entered: map[string]*entry{}}
	defer h.wg.Wait()
	defer cancel()
	wake := make(chan os.Signal, 1)
	signal.Notify(wake, env.WakeSignal)
	if err := dirs.Announce(env.HubName); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dirs.Withdraw(env.HubName)) }()
	l, err := owner.Listen(dirs, env.HubName, log)
	if err != nil {
		return err
	}
	srv := &http.Server{Handler: h.routes(), BaseContext: func(net.Listener) context.Context { return ctx }, ReadHeaderTimeout: 10 * time.Second}
	answer := func(l net.Listener) {
		h.wg.Go(func() {
			if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, net.ErrClosed) {
				log.Error("listener ended", "err", err)
			}
		})
	}
	answer(l)
	h.rest()
	h.wg.Go(func() {
		if err := dirs.Follow(ctx, h.enterAll); err != nil {
			log.Error("environments", "err", err)
		}
	})
	h.enterAll()
	ready()
	for {
		select {
		case <-ctx.Done():
			// What is answered is answered yet; then nobody finds the socket.
			last, cancel := context.WithTimeout(context.Background(), time.Second)
			defer cancel()
			err := errors.Join(srv.Shutdown(last), os.Remove(dirs.Socket(env.HubName)))
			if errors.Is(err, os.ErrNotExist) || errors.Is(err, context.DeadlineExceeded) {
				err = srv.Close()
			}
			return err
		case <-wake:
			if _, err := os.Stat(dirs.Socket(env.HubName)); err == nil {
				continue
			}
			again, err := owner.Listen(dirs, env.HubName, log)
			if err != nil {
				log.Error("unreachable", "err", err)
				continue
			}
			l.Close()
			l = again
			answer(l)
		}
	}
}

// rest ends the hub in a while, unless there are attachments.
func (h *hub) rest() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.attachments) == 0 && h.idle == nil {
		h.idle = time.AfterFunc(idleTime, func() {
			h.mu.Lock()
			defer h.mu.Unlock()
			if len(h.attachments) == 0 {
				h.stop()
			}
		})
	}
}
