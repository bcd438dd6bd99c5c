package supervisor

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/lxbridge/lx/core/regular"
	"github.com/lxbridge/lx/core/service"
)

// timerState is what a timer remembers over the ends of its environment.
type timerState struct {
	Since  time.Time      `json:"since"` // it was enabled
	Last   time.Time      `json:"last"`  // it ran
	Result service.Result `json:"result,omitempty"`
	Why    string         `json:"why,omitempty"`
}

// maxSleep bounds how long a clock that was set goes unnoticed.
const maxSleep = time.Minute

func (s *Supervisor) statePath(name string) string { return filepath.Join(s.cfg.State, name+".json") }

// loadTimer reads what is remembered; nothing where that is lost or broken.
func (s *Supervisor) loadTimer(name string) (t timerState) {
	if v := s.services[name]; v != nil && v.origin != "" {
		return v.ranCron // cron does not catch up
	}
	b, err := regular.ReadFile(s.statePath(name), maxFile)
	if err == nil && json.Unmarshal(b, &t) != nil {
		return timerState{}
	}
	return t
}

func (v *svc) saveTimer(t timerState) {
	if v.origin != "" {
		v.ranCron = t
		return
	}
	b, err := json.Marshal(t)
	if err == nil {
		err = replaceFile(v.s.statePath(v.name), b, 0o600)
	}
	if err != nil {
		v.note("cannot remember the timer's runs: %v", err)
	}
}

// replaceFile writes a file whole or not at all.
func replaceFile(path string, b []byte, mode os.FileMode) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	err = errors.Join(err, f.Chmod(mode), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, ignoreMissing(os.Remove(f.Name())))
	}
	return nil
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// arm has a timer or a client start the unit from now on.
func (s *Supervisor) arm(v *svc) {
	if v.armed || v.broken != nil {
		return
	}
	v.armed = true
	if stopped(&v.m) {
		v.m.Unit = v.next
	}
	if v.m.Unit.OnDemand() && stopped(&v.m) {
		s.listen(v)
	}
	if !v.next.Timer() {
		return
	}
	t := s.loadTimer(v.name)
	now := time.Now()
	if t.Since.IsZero() {
		t.Since = now
		v.saveTimer(t)
	}
	if v.next.Schedule == "@reboot" {
		v.due = now
	} else {
		// What was missed while nothing ran is caught up, once.
		v.due = nextRun(v.next, t)
	}
	s.schedule()
}

// nextRun is when a timer with these memories is due, which may be past; zero for never.
func nextRun(u service.Unit, t timerState) time.Time {
	from := t.Since
	if t.Last.After(from) {
		from = t.Last
	}
	if u.Every != 0 {
		return from.Add(time.Duration(u.Every))
	}
	sc, err := service.ParseSchedule(u.Schedule)
	if err != nil {
		return time.Time{}
	}
	return sc.Next(from.Local())
}

func (v *svc) disarm() {
	v.armed, v.due = false, time.Time{}
	if v.unlisten != nil {
		v.unlisten()
		v.unlisten = nil
	}
	if stopped(&v.m) {
		v.closeSockets()
	}
}

// schedule sets the clock for the next timer that is due.
func (s *Supervisor) schedule() {
	if s.tick != nil {
		s.tick.Stop()
		s.tick = nil
	}
	wait := maxSleep
	any := false
	for _, v := range s.services {
		if v.armed && !v.due.IsZero() {
			any = true
			wait = min(wait, max(0, time.Until(v.due.Round(0))))
		}
	}
	if any && !s.closing {
		s.tick = time.AfterFunc(wait, func() { s.post(s.runDue) })
	}
}

// runDue starts the timers whose time has come.
func (s *Supervisor) runDue() {
	now := time.Now()
	for _, v := range s.services {
		if !v.armed || v.due.IsZero() || v.due.After(now) {
			continue
		}
		t := s.loadTimer(v.name)
		if t.Since.IsZero() {
			t.Since = now
		}
		t.Last = now
		v.saveTimer(t)
		v.due = nextRun(v.next, t)
		if v.next.Schedule == "@reboot" {
			v.due = time.Time{}
		}
		if stopped(&v.m) { // else the run before goes on
			v.handle(service.Event{Kind: service.Start})
		}
	}
	s.schedule()
}

// ran remembers how a timer's run ended.
func (s *Supervisor) ran(v *svc) {
	t := s.loadTimer(v.name)
	t.Result, t.Why = v.m.Result, v.m.Why
	if t.Last.IsZero() {
		t.Last = time.Now()
	}
	v.saveTimer(t)
}
