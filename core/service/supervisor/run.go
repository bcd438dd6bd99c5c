package supervisor

import (
	"context"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lxbridge/lx/core/service"
	"github.com/lxbridge/lx/core/service/journal"
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
