// Package daemon is the process, one per user, that knows which environments
// exist and which shall run. It may end and start at any time: environments
// are found again by what their keepers leave in the state directory.
package daemon

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
	"github.com/lxbridge/lx/core/config"
	"github.com/lxbridge/lx/core/env"
	"github.com/lxbridge/lx/core/store"
)

// Main is the detached daemon; it answers the exit code. version is lx's.
func Main(version string) int {
	return owner.Run(func(ctx context.Context, ready func()) error { return Serve(ctx, version, ready) })
}

type daemon struct {
	dirs    env.Dirs
	store   *store.Store
	program *os.File // sealed, and shared by all that it starts
	version string
	started time.Time
	managed bool
	log     *slog.Logger
	life    context.Context // ends with the daemon
	stop    context.CancelFunc
	reserve *reserver

	mu     sync.Mutex
	kept   map[string]bool         // wanted environments that are watched; true: look once more
	checks map[string]*updateCheck // that run
	wg     sync.WaitGroup
}

// Serve is the daemon in this process, until ctx ends; ready is called when it
// listens. It logs JSON lines to standard error.
func Serve(ctx context.Context, version string, ready func()) error {
	unix.Umask(0o077)
	log := slog.New(slog.NewJSONHandler(os.Stderr, nil)).With("process", "daemon")
	dirs, err := env.UserDirs()
	if err != nil {
		return err
	}
	// Held for life: one daemon per user, whatever becomes of its socket.
	lock, err := os.OpenFile(filepath.Join(dirs.State, "daemon.lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return fmt.Errorf("cannot lock the daemon's place: %w", err)
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return errors.New("the daemon runs already")
	}
	at, err := config.Store(dirs.Config)
	if err != nil {
		return err
	}
	st, err := store.Open(at)
	if err != nil {
		return err
	}
	program, err := env.SealedSelf()
	if err != nil {
		return err
	}
	defer program.Close()
	ctx, cancel := context.WithCancel(ctx)
	d := &daemon{program: program, dirs: dirs, store: st, version: version, started: time.Now(), log: log, life: ctx, stop: cancel, kept: map[string]bool{}, checks: map[string]*updateCheck{}}
	d.reserve = newReserver(d)
	d.managed = os.Getenv("NOTIFY_SOCKET") != ""
	defer d.wg.Wait()
	defer cancel()
	wake := make(chan os.Signal, 1)
	signal.Notify(wake, env.WakeSignal)
	if err := dirs.Announce(env.DaemonName); err != nil {
		return err
	}
	l, err := owner.Listen(dirs, env.DaemonName, log)
	if err != nil {
		return err
	}
	srv := &http.Server{Handler: d.routes(), BaseContext: func(net.Listener) context.Context { return ctx }, ReadHeaderTimeout: 10 * time.Second}
	serve := func(l net.Listener) {
		d.wg.Go(func() {
			if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, net.ErrClosed) {
				log.Error("listener ended", "err", err)
			}
		})
	}
	serve(l)
	ready()
	if err := notify("READY=1"); err != nil {
		log.Warn("cannot tell the service manager", "err", err)
	}
	log.Info("started", "pid", os.Getpid(), "version", version)
	d.store.Sweep(ctx)
	d.wg.Go(func() { d.reserve.run(ctx) })
	d.wg.Go(func() { d.keep(ctx) })
	d.wg.Go(func() { d.keepChecked(ctx) })
	for {
		select {
		case <-ctx.Done():
			log.Info("ends; environments go on")
			err := errors.Join(srv.Close(), os.Remove(dirs.Socket(env.DaemonName)), dirs.Withdraw(env.DaemonName))
			if errors.Is(err, os.ErrNotExist) { // the socket had vanished
				err = nil
			}
			return err
		case <-wake:
			if _, err := os.Stat(dirs.Socket(env.DaemonName)); err == nil {
				continue
			}
			again, err := owner.Listen(dirs, env.DaemonName, log)
			if err != nil {
				log.Error("unreachable", "err", err)
				continue
			}
			l.Close()
			l = again
			serve(l)
		}
	}
}

// notify is sd_notify(3).
func notify(state string) error {
	name := os.Getenv("NOTIFY_SOCKET")
	if name == "" {
		return nil
	}
	c, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: name, Net: "unixgram"})
	if err != nil {
		return err
	}
	defer c.Close()
	_, err = c.Write([]byte(state))
	return err
}
