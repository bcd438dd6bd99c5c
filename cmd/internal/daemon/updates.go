package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/lxbridge/lx/cmd/internal/api"
	"github.com/lxbridge/lx/core/config"
	"github.com/lxbridge/lx/core/env"
	"github.com/lxbridge/lx/core/store"
	"github.com/lxbridge/lx/core/updates"
)

// updateCheck is one that runs.
type updateCheck struct {
	asked bool
	done  chan struct{} // closed at its end, when the rest is set
	found updates.Report
	err   error
}

const (
	// updatesTick is how often environments are looked for whose check is due.
	updatesTick = 10 * time.Minute
	// checkLimit is how long a check may take, and updateLimit one that may
	// install as well. What installs then goes on by itself.
	checkLimit  = 10 * time.Minute
	updateLimit = time.Hour
	// maxReport bounds what a check answers, in bytes: it comes from inside.
	maxReport = 4 << 20
)

// keepChecked has environments that run checked once a day.
func (d *daemon) keepChecked(ctx context.Context) {
	tick := time.NewTicker(updatesTick)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		list, err := d.store.List()
		if err != nil {
			d.log.Warn("records", "err", err)
		}
		for _, r := range list {
			if pid, _ := d.dirs.Process(r.Name); pid != 0 {
				d.checkIfDue(r.Name, updates.Daily)
			}
		}
	}
}

// checkIfDue begins a check of the environment, which runs, if the last is
// older than age and the user lets it be checked.
func (d *daemon) checkIfDue(name string, age time.Duration) {
	s, err := config.Load(d.dirs.Config, name)
	if err != nil {
		d.log.Warn("no check for updates", "environment", name, "err", err)
		return
	}
	if !Checked(name, s) {
		return
	}
	last, err := LastReport(d.store.Dir(), name)
	if err != nil {
		d.log.Warn("updates", "err", err)
	}
	if last.Due(time.Now(), age) {
		d.check(name, s, false)
	}
}

// Checked says whether the environment is checked by itself: an imported one
// unless the user says no, the host's only if the user says so.
func Checked(name string, s config.Settings) bool {
	if s.CheckUpdates != nil {
		return *s.CheckUpdates
	}
	return !store.IsHost(name)
}

// LastReport is what the last check found; nothing before the first. dir is the
// store's; empty: the usual one.
func LastReport(dir, name string) (r updates.Report, err error) {
	b, err := store.Updates(dir, name)
	if err != nil || b == nil {
		return r, err
	}
	if err := json.Unmarshal(b, &r); err != nil {
		return updates.Report{}, fmt.Errorf("cannot read what is known of updates of %s: %w", name, err)
	}
	return r, nil
}

// check begins a check, or answers the one that runs: one at a time.
func (d *daemon) check(name string, s config.Settings, asked bool) *updateCheck {
	d.mu.Lock()
	defer d.mu.Unlock()
	if c := d.checks[name]; c != nil {
		return c
	}
	c := &updateCheck{asked: asked, done: make(chan struct{})}
	d.checks[name] = c
	d.wg.Go(func() {
		defer close(c.done)
		defer func() {
			d.mu.Lock()
			delete(d.checks, name)
			d.mu.Unlock()
		}()
		c.found, c.err = d.runCheck(name, s, asked)
		if c.err != nil && d.life.Err() == nil {
			d.log.Warn("check for updates", "environment", name, "err", c.err)
		}
	})
	return c
}

// runCheck has a process inside ask the environment's package manager, and
// keeps its answer.
func (d *daemon) runCheck(name string, s config.Settings, asked bool) (updates.Report, error) {
	limit := updateLimit
	if asked {
		limit = checkLimit
	}
	ctx, cancel := context.WithTimeout(d.life, limit)
	defer cancel()
	r := updates.Request{Dir: updates.InsideDir, Own: true, Check: s.CheckUpdates, Auto: s.AutoUpdate, Asked: asked}
	if store.IsHost(name) {
		r.Dir, r.Own, r.Auto = filepath.Join(d.dirs.State, "updates"), false, config.UpdateNone
	}
	found, err := d.askInside(ctx, name, r)
	if err != nil {
		return updates.Report{}, fmt.Errorf("cannot check %s for updates: %w", name, err)
	}
	last, err := LastReport(d.store.Dir(), name)
	if err != nil {
		d.log.Warn("updates", "err", err)
	}
	found = found.After(last)
	b, err := json.Marshal(found)
	if err != nil {
		return updates.Report{}, err
	}
	return found, d.store.PutUpdates(name, append(b, '\n'))
}

// askInside runs the process. It is given nothing of the daemon's, and what it
// answers may be made up.
func (d *daemon) askInside(ctx context.Context, name string, r updates.Request) (found updates.Report, err error) {
	arg, err := json.Marshal(r)
	if err != nil {
		return found, err
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return found, err
	}
	defer null.Close()
	out, w, err := os.Pipe()
	if err != nil {
		return found, err
	}
	defer out.Close()
	defer w.Close()
	spec := env.Spec{Argv: []string{"/proc/self/exe", string(arg)}, Arg0: updates.Role, Dir: "/", Umask: 0o022, Env: []string{env.EnvironmentVar + "=" + name}}
	if r.Own {
		spec.User = "root"
	} else {
		home, _ := env.UserHome()
		spec.Env = append(spec.Env, "HOME="+home, "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
	}
	se, err := env.Start(ctx, d.dirs, name, spec, [3]int{int(null.Fd()), int(w.Fd()), int(null.Fd())})
	if err != nil {
		return found, err
	}
	defer se.Close()
	w.Close()
	defer context.AfterFunc(ctx, func() { out.Close() })()
	b, err := io.ReadAll(io.LimitReader(out, maxReport+1))
	switch {
	case ctx.Err() != nil:
		return found, context.Cause(ctx)
	case err != nil:
		return found, err
	case len(b) > maxReport:
		return found, errors.New("the answer is too long")
	}
	if err := json.Unmarshal(b, &found); err != nil {
		return found, fmt.Errorf("cannot read the answer: %w", err)
	}
	return found, nil
}

// checkUpdates is the call of who wants to know now.
func (d *daemon) checkUpdates(r *http.Request) (any, error) {
	n, err := name(r)
	if err != nil {
		return nil, err
	}
	s, err := config.Load(d.dirs.Config, n)
	if err != nil {
		return nil, err
	}
	for try := 0; ; try++ {
		if err := d.launch(r.Context(), n, api.StartOptions{}); err != nil {
			return nil, err
		}
		c := d.check(n, s, true)
		select {
		case <-c.done:
		case <-r.Context().Done():
			return nil, context.Cause(r.Context())
		}
		// It may have ended just then, with its last session.
		if try < 3 && errors.Is(c.err, env.ErrNotRunning) {
			continue
		}
		if c.asked { // not one that ran already, by lists that may be of yesterday
			return c.found, c.err
		}
	}
}

// loggedIn is the call of who opens a shell.
func (d *daemon) loggedIn(r *http.Request) (any, error) {
	n, err := name(r)
	if err != nil {
		return nil, err
	}
	if pid, _ := d.dirs.Process(n); pid != 0 {
		d.checkIfDue(n, updates.Hourly)
	}
	return struct{}{}, nil
}
