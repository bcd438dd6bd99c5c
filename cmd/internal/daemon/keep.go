package daemon

import (
	"context"
	"os"
	"time"

	"github.com/lxbridge/lx/cmd/internal/api"
	"github.com/lxbridge/lx/core/config"
	"github.com/lxbridge/lx/core/env"
	"github.com/lxbridge/lx/core/store"
)

// keep starts the wanted environments, and starts one again whose keeper has
// crashed; one that was stopped stays so until the next start of the daemon.
func (d *daemon) keep(ctx context.Context) {
	list, err := d.store.List()
	if err != nil {
		d.log.Warn("records", "err", err)
	}
	for _, r := range list {
		if d.wanted(r) {
			d.watch(ctx, r.Name, true)
		}
	}
	if err := d.follow(ctx); err != nil {
		d.log.Error("cannot follow environments", "err", err)
	}
}

// wanted says whether the environment runs whenever the daemon does: it has
// enabled services, or the configuration names some or an init of its own.
func (d *daemon) wanted(r store.Record) bool {
	if r.Wanted {
		return true
	}
	s, err := config.Load(d.dirs.Config, r.Name)
	if err != nil {
		d.log.Warn("configuration", "err", err)
	}
	return s.Init != "" || len(s.Services) > 0
}

// follow watches environments that somebody else starts.
func (d *daemon) follow(ctx context.Context) error {
	return d.dirs.Follow(ctx, func() {
		d.reserve.poke()
		list, err := d.store.List()
		if err != nil {
			d.log.Warn("records", "err", err)
		}
		for _, r := range list {
			if d.wanted(r) {
				d.watch(ctx, r.Name, false)
			}
		}
	})
}

// watch has the environment looked after, and started first if start says so.
func (d *daemon) watch(ctx context.Context, name string, start bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, watched := d.kept[name]; watched {
		d.kept[name] = true // it may be about to look away
		return
	}
	d.kept[name] = false
	d.wg.Go(func() {
		for again := true; again; start = false {
			d.lookAfter(ctx, name, start)
			again = d.lookAway(ctx, name)
		}
	})
}

// lookAway ends a watch, unless it was asked for once more meanwhile.
func (d *daemon) lookAway(ctx context.Context, name string) (again bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if again = d.kept[name] && ctx.Err() == nil; again {
		d.kept[name] = false
	} else {
		delete(d.kept, name)
	}
	return again
}

func (d *daemon) lookAfter(ctx context.Context, name string, start bool) {
	delay := firstDelay
	for {
		if start {
			if err := d.launch(ctx, name, api.StartOptions{}); err != nil && ctx.Err() == nil {
				d.log.Error("cannot start", "environment", name, "err", err)
			}
		}
		began := time.Now()
		pid, _ := d.dirs.Process(name)
		if err := d.dirs.Ended(ctx, name, pid); err != nil && ctx.Err() == nil {
			d.log.Warn("cannot watch", "environment", name, "err", err)
			return
		}
		if group, err := env.DelegatedGroup(os.Getpid()); err == nil {
			if err := env.SweepGroups(group); err != nil {
				d.log.Warn("left behind", "environment", name, "err", err)
			}
		}
		r, err := d.store.Get(name)
		if _, crashed := d.dirs.Process(name); ctx.Err() != nil || err != nil || !d.wanted(r) || !crashed {
			return
		}
		if time.Since(began) > stable {
			delay = firstDelay
		}
		d.log.Warn("crashed: starts again", "environment", name, "after", delay.String())
		select {
		case <-ctx.Done():
			return
		case <-time.After(delay):
		}
		delay, start = min(2*delay, maxDelay), true
	}
}

// An environment that crashes again and again is started less and less often.
const (
	firstDelay = 200 * time.Millisecond
	maxDelay   = 30 * time.Second
	stable     = 10 * time.Second
)

// launch starts an environment of the store, or the host's.
func (d *daemon) launch(ctx context.Context, name string, o api.StartOptions) error {
	if o.Home == "" {
		o.Home, o.Shell = env.UserHome()
	}
	return Launch(ctx, d.dirs, d.store, d.program, name, o)
}
