package service

import (
	"fmt"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// State is where a service is in its life.
//
//	          start                 tasks done            ready
//	inactive ───────► preparing ──────────────► starting ──────► active ─┐
//	   ▲ ▲                │ failed                 │ failed        │      │ reload
//	   │ │                │                        │               │ end,  │
//	   │ │                ▼                        ▼               ▼ stop ◄┘
//	   │ │             cleaning ◄── gone ───────── stopping ──► killing
//	   │ │                │  │                        stop-timeout   │ gone
//	   │ └── no failure ──┘  │        ▲────────────────────────────┘
//	   │                     ├── failure, restart ──► waiting ── delay over ──► preparing
//	   └───── start ─ failed ◄┘ failure, or too many starts
//
// A stop leads to inactive from everywhere.
type State string

const (
	Inactive  State = "inactive"
	Preparing State = "preparing" // start-before runs
	Starting  State = "starting"  // the command runs and is not yet ready
	Active    State = "active"
	Stopping  State = "stopping" // stop commands, then the stop signal
	Killing   State = "killing"  // SIGKILL was sent
	Cleaning  State = "cleaning" // stop-after runs
	Waiting   State = "waiting"  // for the restart delay
	Failed    State = "failed"
)

// Exit is how a process ended.
type Exit struct {
	Code   int            `json:"code"`
	Signal syscall.Signal `json:"signal,omitempty"`
	Core   bool           `json:"core,omitempty"`
}

// ExitOf reads wait4(2)'s status.
func ExitOf(ws syscall.WaitStatus) Exit {
	if ws.Signaled() {
		return Exit{Signal: ws.Signal(), Core: ws.CoreDump()}
	}
	return Exit{Code: ws.ExitStatus()}
}

func (e Exit) String() string {
	switch {
	case e.Signal != 0 && e.Core:
		return fmt.Sprintf("killed by %s (core dumped)", unix.SignalName(e.Signal))
	case e.Signal != 0:
		return fmt.Sprintf("killed by %s", unix.SignalName(e.Signal))
	}
	return fmt.Sprintf("exited with code %d", e.Code)
}

// Result is how the last run ended, in a word.
type Result string

const (
	Success     Result = "success"
	ExitCode    Result = "exit-code"
	BySignal    Result = "signal"
	Timeout     Result = "timeout"
	Unhealthy   Result = "unhealthy"
	CannotStart Result = "cannot-start" // no process came to be
	StartLimit  Result = "start-limit"
	Dependency  Result = "dependency"
)

// Kind of an Event.
type Kind int

const (
	Start     Kind = iota // by a person, a dependency, a schedule or a client
	Stop                  // by a person, or a required unit that stops
	TasksDone             // of preparing, of start-after (active), of stop (stopping), of cleaning; Err where one failed
	NotMade               // the command's process did not come to be: Err
	IsReady               // the command is up
	Exited                // the main process ended: Exit
	Gone                  // and none of the others that KillMode names is left
	TimedOut              // what Action.Timer set
	Unwell                // the health check failed too often: Err
)

// Event is what happens to a service.
type Event struct {
	Kind Kind
	Err  error
	Exit Exit
}

// Do is what the supervisor has to do.
type Do int

const (
	RunBefore  Do = iota // start-before; answered by TasksDone
	Spawn                // the command; answered by IsReady, NotMade or Exited
	RunStarted           // start-after; answered by TasksDone
	RunStop              // stop; answered by TasksDone
	Terminate            // the stop signal to those whom KillMode names; answered by Gone
	Kill                 // SIGKILL to the same; answered by Gone
	RunStopped           // stop-after; answered by TasksDone
	SetTimer             // call with TimedOut after After; it replaces the one before, 0 takes it away
)

// Action is one thing to do, in order.
type Action struct {
	Do    Do
	After time.Duration
}

// Machine is the state of one service. It is a pure function of its events;
// its owner calls Handle for one at a time.
type Machine struct {
	Unit   Unit
	State  State
	Since  time.Time
	Result Result // of the last run; empty before the first
	Why    string // the same in words
	Exit   *Exit  // of the main process, when it has ended

	Restarts int // since a person's start
	delay    time.Duration
	starts   []time.Time
	upSince  time.Time
	stopped  bool // a stop is wanted
	again    bool // and a start after it
}

// Up reports whether others may rely on the service.
func (m *Machine) Up() bool { return m.State == Active }

// Settled reports whether nothing more happens by itself.
func (m *Machine) Settled() bool {
	return m.State == Active || m.State == Inactive || m.State == Failed
}

// Delay is the restart delay that is being waited for.
func (m *Machine) Delay() time.Duration { return m.delay }

// Handle takes an event and says what is to be done.
func (m *Machine) Handle(e Event, now time.Time) []Action {
	switch e.Kind {
	case Start:
		return m.start(now)
	case Stop:
		return m.stop(now)
	}
	switch m.State {
	case Preparing:
		return m.preparing(e, now)
	case Starting:
		return m.starting(e, now)
	case Active:
		return m.active(e, now)
	case Stopping, Killing:
		return m.stopping(e, now)
	case Cleaning:
		if e.Kind == TasksDone || e.Kind == TimedOut {
			return m.cleaned(now)
		}
	case Waiting:
		if e.Kind == TimedOut {
			m.Restarts++
			return m.begin(now)
		}
	}
	return nil
}

// Fail puts a service that does not run into the failed state: what it needs is not there.
func (m *Machine) Fail(r Result, why string, now time.Time) {
	m.Result, m.Why = r, why
	m.to(Failed, now)
}

func (m *Machine) to(s State, now time.Time) { m.State, m.Since = s, now }

func (m *Machine) start(now time.Time) []Action {
	switch m.State {
	case Inactive, Failed, Waiting:
		m.starts, m.delay, m.Restarts, m.stopped, m.again = nil, 0, 0, false, false
		return m.begin(now)
	case Stopping, Killing, Cleaning:
		m.again = true
	}
	return nil
}

// begin starts a run, unless there were too many.
func (m *Machine) begin(now time.Time) []Action {
	within := time.Duration(m.Unit.StartLimitWithin)
	for len(m.starts) > 0 && now.Sub(m.starts[0]) >= within {
		m.starts = m.starts[1:]
	}
	if n := m.limit(); n > 0 && len(m.starts) >= n {
		last := m.Why
		m.Fail(StartLimit, fmt.Sprintf("started %d times within %v, the limit; last: %s", n, within, last), now)
		return []Action{{Do: SetTimer}}
	}
	m.starts = append(m.starts, now)
	m.to(Preparing, now)
	m.Exit = nil
	return []Action{{Do: SetTimer, After: timer(m.Unit.StartTimeout)}, {Do: RunBefore}}
}

func (m *Machine) limit() int {
	if m.Unit.StartLimit == nil {
		return DefaultStartLimit
	}
	return *m.Unit.StartLimit
}

// timer is d, or no timer where it is endless.
func timer(d Duration) time.Duration {
	if time.Duration(d) == Forever {
		return 0
	}
	return time.Duration(d)
}

func (m *Machine) stop(now time.Time) []Action {
	m.stopped, m.again = true, false
	switch m.State {
	case Waiting:
		m.to(Inactive, now)
		return []Action{{Do: SetTimer}}
	case Failed:
		m.to(Inactive, now)
	case Preparing:
		m.Result, m.Why = Success, "stopped"
		return m.terminate(now)
	case Starting, Active:
		m.Result, m.Why = Success, "stopped"
		return m.leave(now)
	}
	return nil
}

// leave ends a service that runs: its stop commands first.
func (m *Machine) leave(now time.Time) []Action {
	if m.Exit == nil && len(m.Unit.Stop) > 0 {
		m.to(Stopping, now)
		return []Action{{Do: SetTimer, After: timer(m.Unit.StopTimeout)}, {Do: RunStop}}
	}
	return m.terminate(now)
}

func (m *Machine) terminate(now time.Time) []Action {
	m.to(Stopping, now)
	return []Action{{Do: SetTimer, After: timer(m.Unit.StopTimeout)}, {Do: Terminate}}
}

func (m *Machine) preparing(e Event, now time.Time) []Action {
	switch {
	case e.Kind == TimedOut:
		m.Result, m.Why = Timeout, fmt.Sprintf("start-before did not end within %v", time.Duration(m.Unit.StartTimeout))
		return m.terminate(now)
	case e.Kind == TasksDone && e.Err != nil:
		m.Result, m.Why = ExitCode, e.Err.Error()
		return m.terminate(now)
	case e.Kind == TasksDone:
		m.to(Starting, now)
		return []Action{{Do: Spawn}}
	}
	return nil
}

func (m *Machine) starting(e Event, now time.Time) []Action {
	switch e.Kind {
	case NotMade:
		m.Result, m.Why = CannotStart, e.Err.Error()
		return m.terminate(now)
	case TimedOut:
		m.Result, m.Why = Timeout, fmt.Sprintf("not ready within %v", time.Duration(m.Unit.StartTimeout))
		return m.terminate(now)
	case Exited:
		m.ended(e.Exit)
		if m.Unit.Type == Oneshot && m.Result == Success && m.Unit.RemainAfterExit {
			return m.up(now)
		}
		if m.Unit.Type == Oneshot && m.Result == Success && len(m.Unit.Started) > 0 {
			m.to(Active, now)
			m.upSince = now
			return []Action{{Do: SetTimer}, {Do: RunStarted}}
		}
		return m.terminate(now)
	case IsReady:
		return m.up(now)
	}
	return nil
}

func (m *Machine) up(now time.Time) []Action {
	m.to(Active, now)
	m.upSince = now
	as := []Action{{Do: SetTimer}}
	if len(m.Unit.Started) > 0 {
		as = append(as, Action{Do: RunStarted})
	}
	return as
}

func (m *Machine) active(e Event, now time.Time) []Action {
	switch {
	case e.Kind == Exited:
		m.ended(e.Exit)
		return m.terminate(now)
	case e.Kind == Unwell:
		m.Result, m.Why = Unhealthy, e.Err.Error()
		return m.leave(now)
	case e.Kind == TasksDone && e.Err != nil:
		m.Result, m.Why = ExitCode, e.Err.Error()
		return m.leave(now)
	case e.Kind == TasksDone && m.Exit != nil && !m.Unit.RemainAfterExit: // of a oneshot
		return m.terminate(now)
	}
	return nil
}

// ended takes the main process's end.
func (m *Machine) ended(e Exit) {
	m.Exit = &e
	switch {
	case e.Signal == 0 && e.Code == 0, statusIn(m.Unit.SuccessStatus, e):
		m.Result = Success
	case m.Unit.Type != Oneshot && cleanSignal(e.Signal):
		m.Result = Success
	case e.Signal != 0:
		m.Result = BySignal
	default:
		m.Result = ExitCode
	}
	m.Why = e.String()
}

// cleanSignal reports whether a service that dies of s is taken to have been
// asked to (systemd.service(5), SuccessExitStatus=).
func cleanSignal(s syscall.Signal) bool {
	return s == unix.SIGHUP || s == unix.SIGINT || s == unix.SIGTERM || s == unix.SIGPIPE
}

func (m *Machine) stopping(e Event, now time.Time) []Action {
	switch e.Kind {
	case TasksDone: // stop commands; what is left gets the signal
		return []Action{{Do: Terminate}}
	case Exited:
		m.Exit = &e.Exit
		if m.State == Killing {
			m.Why += "; " + e.Exit.String()
		}
	case TimedOut:
		if m.State == Killing {
			// The kernel ends the rest when it can: nothing else helps.
			return m.clean(now)
		}
		m.to(Killing, now)
		m.Why += fmt.Sprintf("; did not end within %v", time.Duration(m.Unit.StopTimeout))
		return []Action{{Do: SetTimer, After: DefaultStopTimeout}, {Do: Kill}}
	case Gone:
		return m.clean(now)
	}
	return nil
}

func (m *Machine) clean(now time.Time) []Action {
	m.to(Cleaning, now)
	return []Action{{Do: SetTimer, After: timer(m.Unit.StopTimeout)}, {Do: RunStopped}}
}

// cleaned decides what comes after a run.
func (m *Machine) cleaned(now time.Time) []Action {
	if m.again {
		m.stopped, m.again = false, false
		m.starts, m.delay = nil, 0
		return m.begin(now)
	}
	if m.stopped {
		m.stopped = false
		m.to(Inactive, now)
		return []Action{{Do: SetTimer}}
	}
	if m.restarts() {
		m.delay = m.nextDelay(now)
		m.to(Waiting, now)
		return []Action{{Do: SetTimer, After: max(m.delay, time.Nanosecond)}}
	}
	if m.Result == Success {
		m.to(Inactive, now)
	} else {
		m.to(Failed, now)
	}
	return []Action{{Do: SetTimer}}
}

// restarts is the restart policy (the table of Restart= in systemd.service(5)).
func (m *Machine) restarts() bool {
	if m.Exit != nil && (m.Result == Success || m.Result == ExitCode || m.Result == BySignal) {
		if statusIn(m.Unit.NoRestartStatus, *m.Exit) {
			return false
		}
		if statusIn(m.Unit.ForcedRestart, *m.Exit) {
			return true
		}
	}
	switch m.Unit.Restart {
	case RestartAlways:
		return true
	case RestartOnSuccess:
		return m.Result == Success
	case RestartOnFailure:
		return m.Result != Success
	case RestartOnAbnormal:
		return m.Result == BySignal || m.Result == Timeout || m.Result == Unhealthy
	case RestartOnAbort:
		return m.Result == BySignal
	}
	return false
}

// nextDelay doubles the delay up to its limit; a service that was up long
// enough begins anew.
func (m *Machine) nextDelay(now time.Time) time.Duration {
	first, last := time.Duration(m.Unit.RestartDelay), time.Duration(m.Unit.RestartDelayMax)
	stable := !m.upSince.IsZero() && now.Sub(m.upSince) >= time.Duration(m.Unit.StableAfter)
	m.upSince = time.Time{}
	if m.delay == 0 || stable {
		return first
	}
	return min(2*m.delay, last)
}
