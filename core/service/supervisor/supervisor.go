// Package supervisor runs the services of one environment. It lives in the
// environment's first process, so that it ends with nothing else.
package supervisor

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/lxbridge/lx/core/regular"
	"github.com/lxbridge/lx/core/service"
	"github.com/lxbridge/lx/core/service/journal"
	"github.com/lxbridge/lx/core/service/runner"
)

// Config is what the supervisor is given by the process that it lives in.
type Config struct {
	// Units has a NAME.toml for each service, and "enabled" with a link for
	// each that comes up with the environment. Logs and State are the
	// supervisor's own; Run is for sockets. They are made when needed.
	Units, Logs, State, Run string
	Syslog                  string // the socket of syslog(3); empty: none is made
	Crontabs                string // the root below which crontabs are honoured; empty: none are
	// Fixed are units without a file, by what they are of, that come up first
	// and do not keep the environment; Enabled comes up besides what is enabled.
	Fixed   map[string][]service.Unit
	Enabled []string
	Notes   []string       // what is wrong with the configuration, for who asks
	Limits  service.Limits // for what a unit does not limit itself
	Env     []string       // what each service's environment begins with
	Exe     string         // this binary, for runner.Role
	Fork    runner.Fork
	// Adopted gives how a process ends that was not made by Fork but became
	// a child: the main process of a forking service. False where it is none.
	Adopted func(pid int) (<-chan syscall.WaitStatus, bool)
	// Owner finds the ids of a user and group; an error says why a service cannot have them.
	Owner func(user, group string) (Owner, error)
	// Wanted is told once what is enabled has been seen, and whenever it changes,
	// whether something is to live on. It must not block.
	Wanted func(bool)
}

// Owner is whom a service runs as.
type Owner struct {
	Name, Home, Shell string
	Creds             *runner.Creds               // nil: as the supervisor
	UID, GID          int                         // owner of its directories
	Attr              func() *syscall.SysProcAttr // nil: nothing special
}

// Supervisor runs services. All its state belongs to the goroutine of Run.
type Supervisor struct {
	cfg    Config
	called chan struct{} // calls has some
	reaped chan struct{}
	done   chan struct{}

	services map[string]*svc
	jobs     map[string]*job
	wanted   bool
	told     bool // of wanted
	closing  bool
	tick     *time.Timer // of the timers
	begun    chan struct{}
	first    []string // the fixed units that have not been tried yet
	// cronErrors are what is wrong with crontabs.
	cronErrors []string
	wg         sync.WaitGroup
	ctx        context.Context

	mu    sync.Mutex
	calls []func() // for the goroutine of Run
}

// job is a start that waits for others.
type job struct {
	waits, needs []string
	begun        bool
}

// New makes a supervisor; Run has to be called.
func New(cfg Config) *Supervisor {
	return &Supervisor{cfg: cfg, called: make(chan struct{}, 1), reaped: make(chan struct{}, 1), done: make(chan struct{}), begun: make(chan struct{}), services: map[string]*svc{}, jobs: map[string]*job{}}
}

// Run starts the enabled services and supervises until ctx ends; processes
// are not ended by that (see Shutdown).
func (s *Supervisor) Run(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	defer s.wg.Wait()
	defer close(s.done)
	defer cancel()
	s.ctx = ctx
	if s.cfg.Syslog != "" {
		if err := s.listenSyslog(ctx); err != nil {
			s.cfg.Notes = append(s.cfg.Notes, err.Error())
		}
	}
	s.boot()
	if s.cfg.Crontabs != "" {
		s.loadCrontabs(true)
		if err := s.watchCrontabs(ctx); err != nil {
			s.cronErrors = append(s.cronErrors, err.Error())
		}
	}
	for {
		s.settle()
		select {
		case <-s.called:
			s.mu.Lock()
			calls := s.calls
			s.calls = nil
			s.mu.Unlock()
			for _, f := range calls {
				f()
			}
		case <-s.reaped:
			s.recheck()
		case <-ctx.Done():
			return
		}
	}
}

// post has f run by the owner of the state, which may call it too, as long as
// the supervisor lives.
func (s *Supervisor) post(f func()) {
	s.mu.Lock()
	s.calls = append(s.calls, f)
	s.mu.Unlock()
	select {
	case s.called <- struct{}{}:
	default:
	}
}

// errOver answers who calls a supervisor that has ended.
var errOver = errors.New("the environment ends")

// ask is post, and waits for f's end.
func (s *Supervisor) ask(f func() error) error {
	answer := make(chan error, 1)
	s.post(func() { answer <- f() })
	select {
	case err := <-answer:
		return err
	case <-s.done:
		return errOver
	}
}

// Reaped has to be called when a process of the environment has ended.
func (s *Supervisor) Reaped() {
	select {
	case s.reaped <- struct{}{}:
	default: // one look for several
	}
}

// boot starts what is enabled. What cannot be planned fails by itself: one
// broken unit does not keep the others down.
func (s *Supervisor) boot() {
	s.reload()
	var roots, first []string
	for origin, list := range s.cfg.Fixed {
		for _, u := range list {
			v := s.newService(u.Name)
			v.next, v.m.Unit, v.origin, v.background = u, u, origin, true
			s.services[u.Name] = v
			first = append(first, u.Name)
			roots = append(roots, u.Name)
		}
	}
	units := s.units()
	for _, name := range slices.Concat(s.enabled(), s.cfg.Enabled) {
		v, ok := s.services[name]
		if !ok {
			continue
		}
		if v.broken != nil {
			v.m.Fail(service.CannotStart, v.broken.Error(), time.Now())
			continue
		}
		if v.m.Unit.Timer() || v.m.Unit.OnDemand() {
			s.arm(v)
			continue
		}
		if _, err := service.NewPlan(units, name); err != nil {
			v.fail(service.Dependency, err.Error())
			continue
		}
		roots = append(roots, name)
	}
	// By their numbers.
	slices.SortFunc(first, func(a, b string) int { return cmp.Or(len(a)-len(b), strings.Compare(a, b)) })
	plan, err := service.NewPlan(units, roots...)
	if err != nil { // a cycle that only all of them together have
		for _, name := range roots {
			s.services[name].fail(service.Dependency, err.Error())
		}
		return
	}
	for i, name := range first {
		plan.Waits[name] = slices.Concat(plan.Waits[name], first[:i])
	}
	for _, name := range plan.Order {
		if !slices.Contains(first, name) {
			plan.Waits[name] = slices.Concat(plan.Waits[name], first)
		}
	}
	s.enqueue(plan)
	s.first = first
	s.schedule()
}

// Begun is closed when each of the fixed units has been tried once.
func (s *Supervisor) Begun() <-chan struct{} { return s.begun }

// tellBegun closes begun, once, when it is true.
func (s *Supervisor) tellBegun() {
	s.first = slices.DeleteFunc(s.first, func(name string) bool { return s.jobs[name] == nil })
	if len(s.first) > 0 {
		return
	}
	select {
	case <-s.begun:
	default:
		close(s.begun)
	}
}

// enqueue makes jobs of a plan for what is not up.
func (s *Supervisor) enqueue(plan service.Plan) {
	for _, name := range plan.Order {
		v := s.services[name]
		if v == nil || v.m.Up() || v.m.State == service.Preparing || v.m.State == service.Starting {
			continue
		}
		if _, ok := s.jobs[name]; !ok {
			s.jobs[name] = &job{waits: plan.Waits[name], needs: plan.Needs[name]}
		}
	}
}

// settle starts the jobs whose time has come, and tells who waits.
func (s *Supervisor) settle() {
	for again := true; again; {
		again = false
		for _, name := range slices.Sorted(maps.Keys(s.jobs)) {
			j, v := s.jobs[name], s.services[name]
			if v == nil {
				delete(s.jobs, name)
				continue
			}
			if j.begun {
				if v.m.Settled() || v.m.State == service.Waiting {
					delete(s.jobs, name)
					again = true
				}
				continue
			}
			if s.pending(j) {
				continue
			}
			again = true
			if why := s.missing(j); why != "" {
				delete(s.jobs, name)
				v.fail(service.Dependency, why)
				continue
			}
			j.begun = true
			v.handle(service.Event{Kind: service.Start})
		}
	}
	for _, v := range s.services {
		v.tellWaiters()
	}
	s.tellWanted()
	s.tellBegun()
}

func (s *Supervisor) pending(j *job) bool {
	for _, w := range j.waits {
		if _, ok := s.jobs[w]; ok {
			return true
		}
		if v := s.services[w]; v != nil && slices.Contains(j.needs, w) && !v.m.Settled() {
			return true
		}
	}
	return false
}

// missing says which required unit is not up.
func (s *Supervisor) missing(j *job) string {
	for _, n := range j.needs {
		v := s.services[n]
		if v == nil {
			return fmt.Sprintf("requires %s, which does not exist", n)
		}
		if !slices.Contains(j.waits, n) || v.m.Up() || v.m.Unit.Type == service.Oneshot && v.m.Result == service.Success {
			continue
		}
		return fmt.Sprintf("requires %s, which is not up: %s", n, v.m.Why)
	}
	return ""
}

// tellWanted says whether the environment has to live on.
func (s *Supervisor) tellWanted() {
	wanted := len(s.jobs) > 0
	for _, v := range s.services {
		wanted = wanted || !stopped(&v.m) && !(v.background && (v.m.Up() || v.m.State == service.Waiting)) || v.armed && !v.background
	}
	wanted = wanted && !s.closing
	if wanted != s.wanted || !s.told {
		s.wanted, s.told = wanted, true
		s.cfg.Wanted(wanted)
	}
}

// units are the unit files that can be read.
func (s *Supervisor) units() map[string]service.Unit {
	m := map[string]service.Unit{}
	for name, v := range s.services {
		if v.broken == nil {
			m[name] = v.m.Unit
		}
	}
	return m
}

// reload reads the unit files anew. A service that runs goes on with what it
// was started with until its next start.
func (s *Supervisor) reload() {
	names, err := ListUnits(s.cfg.Units)
	if err != nil {
		return // none
	}
	for name, v := range s.services {
		if v.origin == "" && !slices.Contains(names, name) && stopped(&v.m) {
			v.disarm()
			delete(s.services, name)
		}
	}
	for _, name := range names {
		v, ok := s.services[name]
		if !ok {
			v = s.newService(name)
			s.services[name] = v
		}
		b, err := regular.ReadFile(s.unitPath(name), maxFile)
		var u service.Unit
		if err == nil {
			u, err = service.Parse(name, b)
		}
		v.broken = err
		if err == nil {
			v.next = u
			if stopped(&v.m) {
				v.m.Unit = u
			}
		}
	}
}

func (s *Supervisor) newService(name string) *svc {
	return &svc{s: s, name: name, log: journal.New(filepath.Join(s.cfg.Logs, name+".log")),
		m: service.Machine{State: service.Inactive, Since: time.Now()}, sessions: map[int]bool{}}
}

func (s *Supervisor) unitPath(name string) string { return filepath.Join(s.cfg.Units, name+".toml") }

func (s *Supervisor) enabledPath(name string) string {
	return filepath.Join(s.cfg.Units, enabledDir, name)
}

// maxFile bounds a file that is read, in bytes.
const maxFile = 1 << 20

// enabledDir has a link for each enabled unit.
const enabledDir = "enabled"

// ListUnits are the names of the unit files in dir.
func ListUnits(dir string) ([]string, error) {
	list, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range list {
		if name, ok := strings.CutSuffix(e.Name(), ".toml"); ok && service.CheckName(name) == nil {
			names = append(names, name)
		}
	}
	return names, nil
}

// ListEnabled are the names of the units in root, a folder of unit files, that
// come up with their environment. Links in it are not followed.
func ListEnabled(root fs.FS) ([]string, error) {
	list, err := fs.ReadDir(root, enabledDir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot list enabled services: %w", err)
	}
	var names []string
	for _, e := range list {
		if service.CheckName(e.Name()) == nil {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

func (s *Supervisor) enabled() []string {
	names, err := ListEnabled(os.DirFS(s.cfg.Units))
	if err != nil {
		return nil
	}
	return names
}

// Shutdown stops all services, those that need others first, and returns when
// they are gone or ctx ends. Nothing is started any more.
func (s *Supervisor) Shutdown(ctx context.Context) {
	all := make(chan struct{})
	s.post(func() {
		s.closing = true
		s.jobs = map[string]*job{}
		left := 0
		for _, v := range s.services {
			v.disarm()
			if v.m.State == service.Inactive || v.m.State == service.Failed {
				continue
			}
			left++
			v.waiters = append(v.waiters, waiter{until: stopped, tell: func() {
				if left--; left == 0 {
					close(all)
				}
			}})
		}
		if left == 0 {
			close(all)
		}
		s.stopInOrder()
	})
	select {
	case <-all:
	case <-ctx.Done():
	case <-s.done:
	}
}

// stopInOrder stops what runs as soon as what started after it is gone.
func (s *Supervisor) stopInOrder() {
	units := s.units()
	plan, err := service.NewPlan(units, slices.Sorted(maps.Keys(units))...)
	after := map[string][]string{} // who has to be gone before
	if err == nil {
		for name, waits := range plan.Waits {
			for _, w := range waits {
				after[w] = append(after[w], name)
			}
		}
	}
	for name, v := range s.services {
		if v.m.State == service.Inactive || v.m.State == service.Failed {
			continue
		}
		left := 1
		stop := func() {
			if left--; left == 0 {
				v.handle(service.Event{Kind: service.Stop})
			}
		}
		for _, other := range after[name] {
			if o := s.services[other]; o != nil && o.m.State != service.Inactive && o.m.State != service.Failed {
				left++
				o.waiters = append(o.waiters, waiter{until: stopped, tell: stop})
			}
		}
		stop()
	}
}
