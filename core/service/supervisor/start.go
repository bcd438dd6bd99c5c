package supervisor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lxbridge/lx/core/regular"
	"github.com/lxbridge/lx/core/service"
	"github.com/lxbridge/lx/core/service/journal"
	"github.com/lxbridge/lx/core/service/runner"
)

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
				v.heard(p)
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

// process is one of the service's. said is closed when all that it wrote is in the log.
type process struct {
	runner.Process
	said <-chan struct{}
}

// lastWords is how long what a failed process wrote is waited for: others may
// have its output open for longer.
const lastWords = 100 * time.Millisecond

// heard waits for what a failed process wrote, which may tell why.
func (v *svc) heard(p process) {
	late := time.NewTimer(lastWords)
	defer late.Stop()
	select {
	case <-p.said:
	case <-late.C:
	case <-v.s.done:
	}
}

// start makes a process of the service.
func (v *svc) start(argv []string, sockets []*os.File) (p process, err error) {
	u := v.m.Unit
	owner, err := v.s.cfg.Owner(u.User, u.Group)
	if err != nil {
		return process{}, err
	}
	env, err := v.environment(owner)
	if err != nil {
		return process{}, err
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
		return process{}, err
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
		return process{}, err
	}
	defer stdin.Close()
	if sockets != nil {
		for _, so := range u.Sockets {
			spec.Sockets = append(spec.Sockets, cmpOr(so.Name, v.name))
		}
	}
	var said sync.WaitGroup
	out, err := v.pipe(journal.Stdout, &said)
	if err != nil {
		return process{}, err
	}
	defer out.Close()
	errs, err := v.pipe(journal.Stderr, &said)
	if err != nil {
		return process{}, err
	}
	defer errs.Close()
	var sys *syscall.SysProcAttr
	if owner.Attr != nil {
		sys = owner.Attr()
	}
	p.Process, err = runner.Start(v.s.cfg.Fork, v.s.cfg.Exe, spec, stdin, out, errs, sockets, sys)
	if err != nil {
		return process{}, err
	}
	v.sessions[p.PID] = true
	all := make(chan struct{})
	p.said = all
	v.s.wg.Go(func() {
		said.Wait()
		close(all)
	})
	return p, nil
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

// pipe is a stream of the service's that goes to its log; said counts it until its end.
func (v *svc) pipe(s journal.Stream, said *sync.WaitGroup) (*os.File, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	said.Add(1)
	v.s.wg.Go(func() {
		defer said.Done()
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
		if e != (service.Exit{}) {
			v.heard(p)
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
