package supervisor

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/lxbridge/lx/core/service"
	"github.com/lxbridge/lx/core/service/journal"
	"github.com/lxbridge/lx/core/service/systemd"
)

// errMissing is a service that does not exist.
var errMissing = errors.New("no such service")

func (s *Supervisor) answer(ctx context.Context, r Request, send func(Answer) error) (a Answer, err error) {
	if r.Version > Version {
		return a, fmt.Errorf("the environment speaks version %d of the service messages, not %d: it was started by an older lx; `lx stop` and start it again", Version, r.Version)
	}
	for _, n := range r.Names {
		if r.Verb == Import {
			break
		}
		if err := service.CheckName(n); err != nil {
			return a, err
		}
	}
	switch r.Verb {
	case List:
		err = s.ask(func() error {
			s.reload()
			for _, name := range slices.Sorted(maps.Keys(s.services)) {
				a.Units = append(a.Units, s.status(s.services[name]))
			}
			a.Notes = slices.Concat(s.cfg.Notes, s.cronErrors)
			return nil
		})
	case Show:
		err = s.each(r.Names, func(v *svc) error {
			a.Units = append(a.Units, s.status(v))
			return nil
		})
	case Add:
		a, err = s.add(r)
	case Import:
		a, err = s.imports(r)
	case Enable:
		err = s.enable(ctx, r)
		a.Kept = len(s.enabled()) > 0
	case Disable:
		err = s.each(r.Names, func(v *svc) error {
			if v.origin != "" {
				return v.notUnit()
			}
			v.disarm()
			s.schedule()
			return ignoreMissing(os.Remove(s.enabledPath(v.name)))
		})
		if err == nil && r.Now {
			err = s.stop(ctx, r.Names)
		}
		a.Kept = len(s.enabled()) > 0
	case Start:
		err = s.start(ctx, r.Names)
	case Stop:
		err = s.stop(ctx, r.Names)
	case Restart:
		err = s.restart(ctx, r.Names)
	case Reload:
		err = s.reloads(ctx, r.Names)
	case Remove:
		err = s.remove(ctx, r.Names)
		a.Kept = len(s.enabled()) > 0
	case Logs:
		err = s.logs(ctx, r, send)
	default:
		err = fmt.Errorf("the environment does not know %q: it was started by an older lx; `lx stop` and start it again", r.Verb)
	}
	return a, err
}

// each calls f for each service named, in the owner.
func (s *Supervisor) each(names []string, f func(*svc) error) error {
	return s.ask(func() error {
		s.reload()
		var errs []error
		for _, n := range names {
			v, ok := s.services[n]
			if !ok {
				errs = append(errs, fmt.Errorf("%w: %s", errMissing, n))
				continue
			}
			if err := f(v); err != nil {
				errs = append(errs, err)
			}
		}
		return errors.Join(errs...)
	})
}

// notUnit refuses to change what has no unit file.
func (v *svc) notUnit() error {
	return fmt.Errorf("%s has no unit file: change %s", v.name, v.origin)
}

func (s *Supervisor) status(v *svc) Status {
	u := v.m.Unit
	if stopped(&v.m) && v.broken == nil {
		u = v.next
	}
	st := Status{Name: v.name, Description: u.Description, Path: s.unitPath(v.name), State: v.m.State, Enabled: s.isEnabled(v.name), Since: v.m.Since,
		PID: v.main, Restarts: v.m.Restarts, Result: v.m.Result, Why: v.m.Why, Exit: v.m.Exit, Hint: v.hint, Says: v.status, Listening: v.armed && u.OnDemand(), Origin: v.origin}
	if v.origin != "" {
		st.Path, st.Enabled = v.origin, true
	}
	if v.broken != nil {
		st.Broken = v.broken.Error()
	}
	if !stopped(&v.m) {
		st.Processes = len(v.members())
	}
	if u.Timer() {
		t := s.loadTimer(v.name)
		ts := &TimerStatus{Schedule: u.Schedule, Result: t.Result, Why: t.Why}
		if u.Every != 0 {
			ts.Schedule = "every " + time.Duration(u.Every).String()
		}
		if v.armed && !v.due.IsZero() {
			due := v.due
			ts.Next = &due
		}
		if !t.Last.IsZero() {
			ts.Last = &t.Last
		}
		st.Timer = ts
	}
	return st
}

func (s *Supervisor) isEnabled(name string) bool {
	_, err := os.Lstat(s.enabledPath(name))
	return err == nil
}

// add writes a unit file.
func (s *Supervisor) add(r Request) (Answer, error) {
	if len(r.Names) != 1 {
		return Answer{}, errors.New("add takes one name")
	}
	u, err := service.Parse(r.Names[0], []byte(r.Unit))
	if err != nil {
		return Answer{}, err
	}
	return s.write(u.Name, []byte(r.Unit), r.Force)
}

func (s *Supervisor) write(name string, text []byte, force bool) (a Answer, err error) {
	a.Path = s.unitPath(name)
	return a, s.ask(func() error {
		s.reload()
		if _, ok := s.services[name]; ok && !force {
			return fmt.Errorf("service %s exists (%s): --force replaces it", name, a.Path)
		}
		if err := replaceFile(a.Path, text, 0o644); err != nil {
			return fmt.Errorf("cannot write the unit: %w", err)
		}
		s.reload()
		return nil
	})
}

// imports reads systemd units of the environment.
func (s *Supervisor) imports(r Request) (a Answer, err error) {
	for _, name := range r.Names {
		im, err := systemd.Import(append(append(r.Dirs, s.cfg.Units), systemd.Dirs...), name)
		if err != nil {
			return a, err
		}
		b, err := service.Marshal(im.Unit)
		if err != nil {
			return a, err
		}
		head := "# from " + strings.Join(im.Files, ", ") + "\n"
		one, err := s.write(im.Unit.Name, append([]byte(head), b...), r.Force)
		if err != nil {
			return a, err
		}
		a.Path = one.Path
		for _, n := range im.Notes {
			a.Notes = append(a.Notes, im.Unit.Name+": "+n)
		}
		if _, err := s.cfg.Owner(im.Unit.User, im.Unit.Group); err != nil {
			a.Notes = append(a.Notes, im.Unit.Name+": "+err.Error())
		}
	}
	return a, nil
}

func (s *Supervisor) enable(ctx context.Context, r Request) error {
	var start []string
	err := s.each(r.Names, func(v *svc) error {
		if v.origin != "" {
			return v.notUnit()
		}
		if v.broken != nil {
			return v.broken
		}
		if _, err := s.cfg.Owner(v.next.User, v.next.Group); err != nil {
			return fmt.Errorf("service %s: %w", v.name, err)
		}
		if err := os.MkdirAll(filepath.Dir(s.enabledPath(v.name)), 0o755); err != nil {
			return fmt.Errorf("cannot enable %s: %w", v.name, err)
		}
		if err := os.Symlink("../"+v.name+".toml", s.enabledPath(v.name)); err != nil && !errors.Is(err, os.ErrExist) {
			return fmt.Errorf("cannot enable %s: %w", v.name, err)
		}
		if v.next.Timer() || v.next.OnDemand() {
			s.arm(v)
			if v.m.State == service.Failed {
				return fmt.Errorf("service %s: %s", v.name, v.m.Why)
			}
		} else if r.Now {
			start = append(start, v.name)
		}
		return nil
	})
	if err != nil || len(start) == 0 {
		return err
	}
	return s.start(ctx, start)
}

// start starts services with what they need and waits until each is up or has failed.
func (s *Supervisor) start(ctx context.Context, names []string) error {
	return s.await(ctx, names, func(m *service.Machine) bool { return m.Settled() || m.State == service.Waiting }, func() error {
		plan, err := service.NewPlan(s.units(), names...)
		if err != nil {
			return err
		}
		for _, n := range plan.Order {
			if v := s.services[n]; v.m.State == service.Waiting { // now, not later
				v.handle(service.Event{Kind: service.Stop})
			}
		}
		s.enqueue(plan)
		return nil
	}, s.verdict)
}

// verdict is the error of a service that did not come up.
func (s *Supervisor) verdict(v *svc) error {
	switch {
	case v.m.State == service.Waiting:
		return fmt.Errorf("service %s failed: %s (it is tried again)%s", v.name, v.m.Why, v.advice())
	case v.m.State == service.Failed:
		return fmt.Errorf("service %s failed: %s%s", v.name, v.m.Why, v.advice())
	}
	return nil
}

func (v *svc) advice() string {
	if v.hint == "" {
		return ""
	}
	return "\n" + v.hint
}

// stop stops services and those that require them.
func (s *Supervisor) stop(ctx context.Context, names []string) error {
	return s.await(ctx, names, stopped, func() error {
		units := s.units()
		for _, n := range names {
			for _, d := range append(service.Dependents(units, n), n) {
				delete(s.jobs, d)
				if v := s.services[d]; v != nil {
					v.handle(service.Event{Kind: service.Stop})
				}
			}
		}
		return nil
	}, func(*svc) error { return nil })
}

func (s *Supervisor) restart(ctx context.Context, names []string) error {
	if err := s.each(names, func(v *svc) error { return v.broken }); err != nil {
		return err
	}
	// Those that require them stay: they get their service back.
	err := s.await(ctx, names, stopped, func() error {
		for _, n := range names {
			s.services[n].handle(service.Event{Kind: service.Stop})
		}
		return nil
	}, func(*svc) error { return nil })
	if err != nil {
		return err
	}
	return s.start(ctx, names)
}

// reloads runs the reload commands.
func (s *Supervisor) reloads(ctx context.Context, names []string) error {
	for _, n := range names {
		var v *svc
		err := s.each([]string{n}, func(one *svc) error {
			if v = one; !v.m.Up() {
				return fmt.Errorf("service %s is not up", n)
			}
			if len(v.m.Unit.Reload) == 0 {
				return fmt.Errorf("service %s has no reload command: `lx service restart %s`", n, n)
			}
			return nil
		})
		if err != nil {
			return err
		}
		for _, c := range v.m.Unit.Reload {
			argv, mayFail := c.Split()
			if err := v.command(ctx, argv, service.DefaultStartTimeout); err != nil && !mayFail {
				return fmt.Errorf("cannot reload %s: %s: %w", n, strings.Join(argv, " "), err)
			}
		}
	}
	return nil
}

// remove stops and forgets services, with their logs.
func (s *Supervisor) remove(ctx context.Context, names []string) error {
	err := s.each(names, func(v *svc) error {
		if v.origin != "" {
			return v.notUnit()
		}
		v.disarm()
		return nil
	})
	if err != nil {
		return err
	}
	if err := s.stop(ctx, names); err != nil {
		return err
	}
	return s.each(names, func(v *svc) error {
		err := errors.Join(v.log.Close(), os.Remove(s.unitPath(v.name)), ignoreMissing(os.Remove(s.enabledPath(v.name))),
			ignoreMissing(os.Remove(s.statePath(v.name))))
		for _, suffix := range []string{".log", ".log.1"} {
			err = errors.Join(err, ignoreMissing(os.Remove(filepath.Join(s.cfg.Logs, v.name+suffix))))
		}
		delete(s.services, v.name)
		s.schedule()
		return err
	})
}

// await does begin in the owner and returns when until holds for each service
// named, with what check says of them.
func (s *Supervisor) await(ctx context.Context, names []string, until func(*service.Machine) bool, begin func() error, check func(*svc) error) error {
	all := make(chan error, 1)
	err := s.ask(func() error {
		if s.closing {
			return errOver
		}
		s.reload()
		for _, n := range names {
			if s.services[n] == nil {
				return fmt.Errorf("%w: %s", errMissing, n)
			}
		}
		for _, n := range names {
			if v := s.services[n]; v.broken != nil && stopped(&v.m) {
				return v.broken
			}
		}
		if err := begin(); err != nil {
			return err
		}
		left, errs := len(names), []error(nil)
		for _, n := range names {
			v := s.services[n]
			v.waiters = append(v.waiters, waiter{until: until, tell: func() {
				errs = append(errs, check(v))
				if left--; left == 0 {
					all <- errors.Join(errs...)
				}
			}})
		}
		if left == 0 {
			all <- nil
		}
		return nil
	})
	if err != nil {
		return err
	}
	select {
	case err := <-all:
		return err
	case <-ctx.Done():
		return ctx.Err()
	case <-s.done:
		return errOver
	}
}

func (s *Supervisor) logs(ctx context.Context, r Request, send func(Answer) error) error {
	if len(r.Names) != 1 {
		return errors.New("logs takes one name")
	}
	var l *journal.Log
	if err := s.each(r.Names, func(v *svc) error { l = v.log; return nil }); err != nil {
		return err
	}
	return l.Read(ctx, r.Log, func(e journal.Entry) error { return send(Answer{Entry: &e}) })
}
