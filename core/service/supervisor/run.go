package supervisor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lxbridge/lx/core/regular"
	"github.com/lxbridge/lx/core/service"
	"github.com/lxbridge/lx/core/service/journal"
	"github.com/lxbridge/lx/core/service/runner"
)

// svc is one service as it runs.
type svc struct {
	s      *Supervisor
	name   string
	m      service.Machine
	next   service.Unit // as the unit file is now
	broken error        // why the unit file cannot be read
	log    *journal.Log

	run      int          // counts tasks and processes: what belongs to an older one is not heard
	mark     string       // INVOCATION_ID of this run, by which its processes are known
	sessions map[int]bool // of the processes made in this run
	began    time.Time
	// beganTicks is the same in the kernel's ticks since boot.
	beganTicks uint64
	main       int // pid of the main process; 0 where there is none
	cancel     context.CancelFunc
	timer      *time.Timer
	status     string // STATUS= of sd_notify(3)
	hint       string // why a failure may have been, for people
	sockets    []*os.File
	unlisten   context.CancelFunc // of the sockets that a client may start it by
	armed      bool               // a timer or a socket waits to start it
	due        time.Time          // the timer's next run
	waiters    []waiter

	origin     string // what it is of, where there is no unit file: a crontab, a configuration
	input      string // standard input of its command
	ranCron    timerState
	background bool // its time does not keep the environment
}

// waiter is told once, when until is true of the machine.
type waiter struct {
	until func(*service.Machine) bool
	tell  func()
}

func stopped(m *service.Machine) bool {
	return m.State == service.Inactive || m.State == service.Failed
}

func (v *svc) tellWaiters() {
	if _, ok := v.s.jobs[v.name]; ok {
		return
	}
	var left []waiter
	was := v.waiters
	v.waiters = nil
	for _, w := range was {
		if w.until(&v.m) {
			w.tell()
		} else {
			left = append(left, w)
		}
	}
	v.waiters = append(left, v.waiters...)
}

// note writes the supervisor's own line into the service's log.
func (v *svc) note(format string, args ...any) {
	if err := os.MkdirAll(v.s.cfg.Logs, 0o700); err != nil {
		v.status = err.Error()
		return
	}
	if err := v.log.Write(journal.Note, fmt.Sprintf(format, args...)); err != nil {
		v.status = err.Error()
	}
}

func (v *svc) fail(r service.Result, why string) {
	v.m.Fail(r, why, time.Now())
	v.note("%s", why)
}

// handle gives the machine an event and does what it says.
func (v *svc) handle(e service.Event) {
	before := v.m.State
	if e.Kind == service.Start && stopped(&v.m) {
		if v.broken != nil {
			v.fail(service.CannotStart, v.broken.Error())
			return
		}
		v.m.Unit = v.next
	}
	actions := v.m.Handle(e, time.Now())
	v.transition(before)
	for _, a := range actions {
		v.do(a)
	}
}

// transition says in the log what has become of the service.
func (v *svc) transition(before service.State) {
	now := v.m.State
	if now == before {
		return
	}
	switch now {
	case service.Preparing:
		v.hint, v.status = "", ""
	case service.Active:
		v.note("up")
		v.watchHealth()
	case service.Stopping:
		if before == service.Active || before == service.Starting || before == service.Preparing {
			v.note("%s", v.m.Why)
		}
	case service.Killing:
		v.note("%s: SIGKILL", v.m.Why)
	case service.Waiting:
		v.hint = v.explain()
		v.note("starts again in %v", v.m.Delay())
	case service.Failed:
		v.hint = v.explain()
		v.note("failed: %s", v.m.Why)
	case service.Inactive:
		v.note("ended")
	}
	if stopped(&v.m) || now == service.Waiting {
		v.endRun()
	}
	if stopped(&v.m) && v.m.Unit.Timer() {
		v.s.ran(v)
	}
	if stopped(&v.m) && v.armed && v.m.Unit.OnDemand() && !v.s.closing {
		v.s.listen(v)
	}
}

// endRun forgets what belongs to a run.
func (v *svc) endRun() {
	if v.cancel != nil {
		v.cancel()
		v.cancel = nil
	}
	v.main, v.sessions = 0, map[int]bool{}
	if stopped(&v.m) && !v.armed {
		v.closeSockets()
	}
}

func (v *svc) do(a service.Action) {
	u := v.m.Unit
	switch a.Do {
	case service.SetTimer:
		v.setTimer(a.After)
	case service.RunBefore:
		v.begin()
	case service.Spawn:
		v.spawn()
	case service.RunStarted:
		v.tasks(u.Started)
	case service.RunStop:
		v.tasks(u.Stop)
	case service.Terminate:
		v.terminate()
	case service.Kill:
		v.signal(unix.SIGKILL, u.KillMode == service.KillMixed)
		v.checkGone()
	case service.RunStopped:
		v.tasks(u.Stopped)
	}
}

func (v *svc) setTimer(d time.Duration) {
	if v.timer != nil {
		v.timer.Stop()
		v.timer = nil
	}
	if d == 0 {
		return
	}
	var t *time.Timer
	t = time.AfterFunc(d, func() {
		v.s.post(func() {
			if v.timer == t {
				v.handle(service.Event{Kind: service.TimedOut})
			}
		})
	})
	v.timer = t
}

// later makes f's event one of this run: it is not heard when the run is over.
func (v *svc) later(e service.Event, run int) {
	v.s.post(func() {
		if v.run == run {
			v.handle(e)
		}
	})
}

// begin prepares a run: conditions, directories, sockets, the notify socket;
// then start-before.
func (v *svc) begin() {
	v.mark, v.began, v.beganTicks = newMark(), time.Now(), ticksNow()
	ctx, cancel := context.WithCancel(v.s.ctx)
	v.cancel = cancel
	if err := v.prepare(ctx); err != nil {
		v.run++
		v.later(service.Event{Kind: service.TasksDone, Err: err}, v.run)
		return
	}
	v.tasks(v.m.Unit.Before)
}

func (v *svc) prepare(ctx context.Context) error {
	u := v.m.Unit
	for _, c := range u.ConditionPaths {
		path, not := strings.CutPrefix(c, "!")
		if _, err := os.Stat(path); (err == nil) == not {
			return fmt.Errorf("condition-paths: %q does not hold", c)
		}
	}
	owner, err := v.s.cfg.Owner(u.User, u.Group)
	if err != nil {
		return err
	}
	mode, err := service.Octal(u.DirMode, 0o755)
	if err != nil {
		return err
	}
	for base, list := range map[string][]string{"/run": u.RuntimeDirs, "/var/lib": u.StateDirs, "/var/log": u.LogDirs, "/var/cache": u.CacheDirs} {
		for _, d := range list {
			if err := makeDir(filepath.Join(base, d), os.FileMode(mode), owner); err != nil {
				return err
			}
		}
	}
	if err := v.openSockets(); err != nil {
		return err
	}
	if u.Type == service.Notify {
		return v.listenNotify(ctx, owner)
	}
	return nil
}

// makeDir makes a directory of the service's.
func makeDir(path string, mode os.FileMode, o Owner) error {
	err := os.MkdirAll(path, mode)
	if errors.Is(err, unix.EACCES) || errors.Is(err, unix.EROFS) {
		return fmt.Errorf("cannot make %s, which the service wants: the folder above is not yours (it is the host's root's)", path)
	}
	if err != nil {
		return fmt.Errorf("cannot make %s: %w", path, err)
	}
	if o.Creds == nil {
		return nil
	}
	if err := os.Chmod(path, mode); err != nil {
		return fmt.Errorf("cannot make %s: %w", path, err)
	}
	if err := os.Chown(path, o.UID, o.GID); err != nil {
		return fmt.Errorf("cannot give %s to %s: %w", path, o.Name, err)
	}
	return nil
}

// tasks runs commands one after the other; then TasksDone.
func (v *svc) tasks(list []service.Command) {
	v.run++
	run := v.run
	var next func(i int)
	next = func(i int) {
		if v.run != run {
			return
		}
		if i == len(list) {
			v.handle(service.Event{Kind: service.TasksDone})
			return
		}
		argv, mayFail := list[i].Split()
		fail := func(err error) {
			if mayFail {
				v.s.post(func() { next(i + 1) })
				return
			}
			v.later(service.Event{Kind: service.TasksDone, Err: fmt.Errorf("%s: %w", strings.Join(argv, " "), err)}, run)
		}
		p, err := v.start(argv, nil)
		if err != nil {
			fail(err)
			return
		}
		v.s.wg.Go(func() {
			err := <-p.Executed
			ws, ok := v.wait(p.Exit)
			if !ok {
				return
			}
			if e := service.ExitOf(ws); err == nil && (e.Code != 0 || e.Signal != 0) {
				err = errors.New(e.String())
			}
			if err != nil {
				fail(err)
				return
			}
			v.s.post(func() { next(i + 1) })
		})
	}
	if len(list) == 0 {
		// Not at once: the machine is in the middle of an event.
		v.later(service.Event{Kind: service.TasksDone}, run)
		return
	}
	next(0)
}

// wait waits for an exit; false when the supervisor ends before.
func (v *svc) wait(exit <-chan syscall.WaitStatus) (syscall.WaitStatus, bool) {
	select {
	case ws := <-exit:
		return ws, true
	case <-v.s.done:
		return 0, false
	}
}

// start makes a process of the service.
func (v *svc) start(argv []string, sockets []*os.File) (runner.Process, error) {
	u := v.m.Unit
	owner, err := v.s.cfg.Owner(u.User, u.Group)
	if err != nil {
		return runner.Process{}, err
	}
	env, err := v.environment(owner)
	if err != nil {
		return runner.Process{}, err
	}
	if u.Expand {
		vars := map[string]string{}
		for _, e := range env {
			k, val, _ := strings.Cut(e, "=")
			vars[k] = val
		}
		argv = service.Expand(argv, vars)
	}
	umask, err := service.Octal(u.Umask, 0o022)
	if err != nil {
		return runner.Process{}, err
	}
	spec := runner.Spec{Argv: argv, Env: env, Dir: u.Dir, Umask: umask, Limits: u.Limits.Or(v.s.cfg.Limits), Creds: owner.Creds}
	switch spec.Dir {
	case "~":
		spec.Dir = owner.Home
	case "-~":
		spec.Dir = "-" + owner.Home
	}
	stdin, err := stdinOf(v.input)
	if err != nil {
		return runner.Process{}, err
	}
	defer stdin.Close()
	if sockets != nil {
		for _, so := range u.Sockets {
			spec.Sockets = append(spec.Sockets, cmpOr(so.Name, v.name))
		}
	}
	out, err := v.pipe(journal.Stdout)
	if err != nil {
		return runner.Process{}, err
	}
	defer out.Close()
	errs, err := v.pipe(journal.Stderr)
	if err != nil {
		return runner.Process{}, err
	}
	defer errs.Close()
	var sys *syscall.SysProcAttr
	if owner.Attr != nil {
		sys = owner.Attr()
	}
	p, err := runner.Start(v.s.cfg.Fork, v.s.cfg.Exe, spec, stdin, out, errs, sockets, sys)
	if err == nil {
		v.sessions[p.PID] = true
	}
	return p, err
}

// stdinOf is what a process reads: a file in memory, or nothing.
func stdinOf(text string) (*os.File, error) {
	if text == "" {
		return os.Open(os.DevNull)
	}
	fd, err := unix.MemfdCreate("stdin", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("cannot prepare standard input: %w", err)
	}
	f := os.NewFile(uintptr(fd), "stdin")
	_, err = f.WriteString(text)
	if err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("cannot prepare standard input: %w", err)
	}
	return f, nil
}

func cmpOr(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// pipe is a stream of the service's that goes to its log.
func (v *svc) pipe(s journal.Stream) (*os.File, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	v.s.wg.Go(func() {
		defer r.Close()
		defer context.AfterFunc(v.s.ctx, func() { r.Close() })()
		if err := v.log.Copy(s, r); err != nil {
			v.s.post(func() { v.status = err.Error() })
		}
	})
	return w, nil
}

// environment is that of the service's processes.
func (v *svc) environment(o Owner) ([]string, error) {
	u := v.m.Unit
	vars := map[string]string{}
	for _, e := range v.s.cfg.Env {
		k, val, _ := strings.Cut(e, "=")
		vars[k] = val
	}
	vars["HOME"], vars["USER"], vars["LOGNAME"], vars["SHELL"] = o.Home, o.Name, o.Name, o.Shell
	vars["INVOCATION_ID"] = v.mark
	if u.Type == service.Notify {
		vars["NOTIFY_SOCKET"] = v.notifyPath()
	}
	if v.main != 0 {
		vars["MAINPID"] = strconv.Itoa(v.main)
	}
	for name, list := range map[string][]string{"RUNTIME_DIRECTORY": u.RuntimeDirs, "STATE_DIRECTORY": u.StateDirs, "LOGS_DIRECTORY": u.LogDirs, "CACHE_DIRECTORY": u.CacheDirs} {
		base := map[string]string{"RUNTIME_DIRECTORY": "/run/", "STATE_DIRECTORY": "/var/lib/", "LOGS_DIRECTORY": "/var/log/", "CACHE_DIRECTORY": "/var/cache/"}[name]
		if len(list) > 0 {
			vars[name] = base + strings.Join(list, ":"+base)
		}
	}
	for k, val := range u.Env {
		vars[k] = val
	}
	for _, f := range u.EnvFiles {
		path, mayMiss := strings.CutPrefix(f, "-")
		b, err := regular.ReadFile(path, maxFile)
		if errors.Is(err, os.ErrNotExist) && mayMiss {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("env-files: %w", err)
		}
		more, err := service.EnvironmentFile(string(b))
		if err != nil {
			return nil, fmt.Errorf("env-files: %s: %w", path, err)
		}
		for k, val := range more {
			vars[k] = val
		}
	}
	if v.m.Exit != nil {
		vars["SERVICE_RESULT"] = string(v.m.Result)
	}
	env := make([]string, 0, len(vars))
	for k, val := range vars {
		env = append(env, k+"="+val)
	}
	slices.Sort(env)
	return env, nil
}

// spawn starts the main process and waits for it to be ready as its type says.
func (v *svc) spawn() {
	v.run++
	run, u := v.run, v.m.Unit
	argv, mayFail := u.Command.Split()
	if len(argv) == 0 { // a oneshot of start-before alone
		v.later(service.Event{Kind: service.Exited}, run)
		return
	}
	p, err := v.start(argv, v.sockets)
	if err != nil {
		v.later(service.Event{Kind: service.NotMade, Err: err}, run)
		return
	}
	v.main = p.PID
	v.note("started, pid %d", p.PID)
	v.s.wg.Go(func() {
		if err := <-p.Executed; err != nil {
			if _, ok := v.wait(p.Exit); ok {
				v.s.post(func() {
					if v.run == run {
						v.main = 0
						v.handle(service.Event{Kind: service.NotMade, Err: err})
					}
				})
			}
			return
		}
		if u.Type == service.Simple || u.Type == service.Exec || u.Type == service.Forking {
			v.s.post(func() {
				if v.run == run && u.Type != service.Forking {
					v.awaitReady(run)
				}
			})
		}
		ws, ok := v.wait(p.Exit)
		if !ok {
			return
		}
		e := service.ExitOf(ws)
		if mayFail {
			e = service.Exit{}
		}
		v.s.post(func() {
			if v.main != p.PID {
				return
			}
			v.main = 0
			if u.Type == service.Forking && v.m.State == service.Starting && e == (service.Exit{}) {
				v.adopt(run)
				return
			}
			v.handle(service.Event{Kind: service.Exited, Exit: e})
			v.checkGone()
		})
	})
}

// awaitReady tells the machine when the unit's own proof holds; at once where it has none.
func (v *svc) awaitReady(run int) {
	r := v.m.Unit.Ready
	if r.Port == "" && len(r.Command) == 0 {
		v.handle(service.Event{Kind: service.IsReady})
		return
	}
	ctx, cancel := context.WithCancel(v.s.ctx)
	stop := v.cancel
	v.cancel = func() { cancel(); stop() }
	v.s.wg.Go(func() {
		for delay := 10 * time.Millisecond; ; delay = min(2*delay, 250*time.Millisecond) {
			if v.isReady(ctx, r) {
				v.s.post(func() {
					if v.main != 0 && v.m.State == service.Starting {
						v.handle(service.Event{Kind: service.IsReady})
					}
				})
				return
			}
			select {
			case <-ctx.Done():
				return
			case <-time.After(delay):
			}
		}
	})
}

func (v *svc) isReady(ctx context.Context, r service.Ready) bool {
	if r.Port != "" {
		addr, err := service.HostPort(r.Port)
		if err != nil {
			return false
		}
		var d net.Dialer
		c, err := d.DialContext(ctx, "tcp", addr)
		if err != nil {
			return false
		}
		c.Close()
	}
	if len(r.Command) > 0 {
		return v.command(ctx, r.Command, 10*time.Second) == nil
	}
	return true
}

// command runs a probe to its end. It is called outside of the owner.
func (v *svc) command(ctx context.Context, c service.Command, limit time.Duration) error {
	var p runner.Process
	err := v.s.ask(func() (err error) {
		p, err = v.start(c, nil)
		return err
	})
	if err != nil {
		return err
	}
	if err := <-p.Executed; err != nil {
		v.wait(p.Exit)
		return err
	}
	late := time.NewTimer(limit)
	defer late.Stop()
	select {
	case ws := <-p.Exit:
		if e := service.ExitOf(ws); e != (service.Exit{}) {
			return errors.New(e.String())
		}
		return nil
	case <-ctx.Done():
	case <-late.C:
		err = fmt.Errorf("did not end within %v", limit)
	}
	_ = unix.Kill(-p.PID, unix.SIGKILL) // it may have ended just now
	v.wait(p.Exit)
	return errors.Join(ctx.Err(), err)
}

// adopt finds the main process of a forking service whose first has ended.
func (v *svc) adopt(run int) {
	u := v.m.Unit
	pid, err := 0, error(nil)
	if u.PIDFile != "" {
		pid, err = v.readPIDFile()
	} else if left := v.members(); len(left) > 0 {
		pid = slices.Min(left)
	}
	if err != nil {
		if v.m.State == service.Starting && len(v.members()) > 0 {
			// It may write the file a moment later.
			time.AfterFunc(20*time.Millisecond, func() {
				v.s.post(func() {
					if v.run == run && v.m.State == service.Starting {
						v.adopt(run)
					}
				})
			})
			return
		}
		v.handle(service.Event{Kind: service.NotMade, Err: err})
		return
	}
	if pid == 0 {
		v.handle(service.Event{Kind: service.NotMade, Err: errors.New("its first process ended and left none behind (type = \"forking\")")})
		return
	}
	exit, ok := v.s.cfg.Adopted(pid)
	if !ok {
		v.handle(service.Event{Kind: service.NotMade, Err: fmt.Errorf("process %d of %s is not there", pid, u.PIDFile)})
		return
	}
	v.follow(pid, exit)
	v.awaitReady(run)
}

// settling is how long after its start a daemon is looked at once more.
const settling = 500 * time.Millisecond

// follow makes pid the main process.
func (v *svc) follow(pid int, exit <-chan syscall.WaitStatus) {
	v.main = pid
	// A daemon may be on its way to a session of its own.
	time.AfterFunc(settling, func() {
		v.s.post(func() {
			if v.main == pid {
				v.members()
			}
		})
	})
	v.s.wg.Go(func() {
		ws, ok := v.wait(exit)
		if !ok {
			return
		}
		v.s.post(func() {
			if v.main != pid {
				return
			}
			v.main = 0
			v.handle(service.Event{Kind: service.Exited, Exit: service.ExitOf(ws)})
			v.checkGone()
		})
	})
}

// readPIDFile believes the file only if the process can be the service's: its
// writer may be an unprivileged user. Daemons leave their session, and some
// write over their environment, by which they would be known; they are init's
// then, and younger than the run.
func (v *svc) readPIDFile() (int, error) {
	path := v.m.Unit.PIDFile
	b, err := regular.ReadFile(path, maxFile)
	if err != nil {
		return 0, fmt.Errorf("cannot read pid-file: %w", err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(firstLine(string(b))))
	if err != nil || pid <= 1 {
		return 0, fmt.Errorf("pid-file %s does not hold a process id", path)
	}
	if slices.Contains(v.members(), pid) {
		return pid, nil
	}
	p, ok := stat(pid)
	if !ok || p.parent != os.Getpid() || p.began < v.beganTicks {
		return 0, fmt.Errorf("process %d of %s is none of the service's", pid, path)
	}
	return pid, nil
}

// firstLine of a PID file: PostgreSQL's has more.
func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return line
}

func (v *svc) terminate() {
	v.run++
	u := v.m.Unit
	sig := syscall.Signal(unix.SIGTERM)
	if u.StopSignal != "" {
		if s, err := service.Signal(u.StopSignal); err == nil {
			sig = s
		}
	}
	v.signal(sig, false)
	if sig != unix.SIGKILL {
		v.signal(unix.SIGCONT, false)
	}
	v.checkGone()
}

// signal sends sig to whom kill-mode names, or to all.
func (v *svc) signal(sig syscall.Signal, all bool) {
	mode := v.m.Unit.KillMode
	if mode == service.KillNone {
		return
	}
	send := func(pid int) { _ = unix.Kill(pid, sig) } // whom it does not find has ended
	if v.main != 0 {
		send(v.main)
	}
	if mode == service.KillGroup || all || v.main == 0 && mode == service.KillMixed {
		for _, pid := range v.members() {
			if pid != v.main {
				send(pid)
			}
		}
	}
}

// checkGone tells the machine when those are gone whom a stop ends.
func (v *svc) checkGone() {
	if v.m.State != service.Stopping && v.m.State != service.Killing || v.main != 0 {
		return
	}
	mode := v.m.Unit.KillMode
	if (mode == service.KillGroup || mode == service.KillMixed) && len(v.members()) > 0 {
		if mode == service.KillMixed && v.m.State == service.Stopping {
			v.signal(unix.SIGKILL, true) // the main process has ended: the rest goes with it
		}
		return
	}
	v.run++
	v.later(service.Event{Kind: service.Gone}, v.run)
}

// recheck looks at the services that wait for their last process.
func (s *Supervisor) recheck() {
	for _, v := range s.services {
		v.checkGone()
	}
}

// watchHealth runs the health command while the service is up.
func (v *svc) watchHealth() {
	h := v.m.Unit.Health
	if h == nil {
		return
	}
	ctx, cancel := context.WithCancel(v.s.ctx)
	stop := v.cancel
	v.cancel = func() { cancel(); stop() }
	mark := v.mark
	v.s.wg.Go(func() {
		t := time.NewTicker(time.Duration(h.Interval))
		defer t.Stop()
		for failures := 0; ; {
			select {
			case <-ctx.Done():
				return
			case <-t.C:
			}
			err := v.command(ctx, h.Command, time.Duration(h.Timeout))
			if err == nil || ctx.Err() != nil {
				failures = 0
				continue
			}
			if failures++; failures < h.Retries {
				continue
			}
			v.s.post(func() {
				if v.mark == mark {
					v.handle(service.Event{Kind: service.Unwell, Err: fmt.Errorf("%d health checks in a row failed: %w", failures, err)})
				}
			})
			return
		}
	})
}
