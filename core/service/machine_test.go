package service

import (
	"errors"
	"strings"
	"syscall"
	"testing"
	"time"
)

// play drives a machine; the supervisor's answers are given by the test.
type play struct {
	t   *testing.T
	m   Machine
	now time.Time
	did []Do
	in  time.Duration // of the last timer
}

func newPlay(t *testing.T, text string) *play {
	t.Helper()
	return &play{t: t, m: Machine{Unit: parse(t, "x", text), State: Inactive}, now: time.Unix(1e9, 0)}
}

func (p *play) event(e Event, want State, did ...Do) {
	p.t.Helper()
	p.did = nil
	for _, a := range p.m.Handle(e, p.now) {
		if a.Do == SetTimer {
			p.in = a.After
			continue
		}
		p.did = append(p.did, a.Do)
	}
	if p.m.State != want {
		p.t.Fatalf("event %d led to %s, want %s (%s)", e.Kind, p.m.State, want, p.m.Why)
	}
	if len(did) != len(p.did) {
		p.t.Fatalf("event %d: did %v, want %v", e.Kind, p.did, did)
	}
	for i := range did {
		if did[i] != p.did[i] {
			p.t.Fatalf("event %d: did %v, want %v", e.Kind, p.did, did)
		}
	}
}

func (p *play) up() {
	p.t.Helper()
	p.event(Event{Kind: Start}, Preparing, RunBefore)
	p.run()
}

func (p *play) run() {
	p.t.Helper()
	p.event(Event{Kind: TasksDone}, Starting, Spawn)
	p.event(Event{Kind: IsReady}, Active)
}

// die ends the main process and cleans up.
func (p *play) die(e Exit, want State) {
	p.t.Helper()
	p.event(Event{Kind: Exited, Exit: e}, Stopping, Terminate)
	p.event(Event{Kind: Gone}, Cleaning, RunStopped)
	p.event(Event{Kind: TasksDone}, want)
}

func TestStartStop(t *testing.T) {
	p := newPlay(t, `command = ["x"]`)
	p.up()
	p.event(Event{Kind: Start}, Active)
	p.event(Event{Kind: Stop}, Stopping, Terminate)
	p.event(Event{Kind: Exited, Exit: Exit{Signal: syscall.SIGTERM}}, Stopping)
	p.event(Event{Kind: Gone}, Cleaning, RunStopped)
	p.event(Event{Kind: TasksDone}, Inactive)
	if p.m.Result != Success || p.m.Why != "stopped" {
		t.Errorf("%s %s", p.m.Result, p.m.Why)
	}
}

func TestStopStubborn(t *testing.T) {
	p := newPlay(t, "command = [\"x\"]\nstop = [[\"s\"]]\nstop-timeout = \"2s\"")
	p.up()
	p.event(Event{Kind: Stop}, Stopping, RunStop)
	if p.in != 2*time.Second {
		t.Errorf("kill delay %v", p.in)
	}
	p.event(Event{Kind: TasksDone, Err: errors.New("no")}, Stopping, Terminate)
	p.event(Event{Kind: TimedOut}, Killing, Kill)
	p.event(Event{Kind: Start}, Killing) // wanted again meanwhile
	p.event(Event{Kind: Exited, Exit: Exit{Signal: syscall.SIGKILL}}, Killing)
	p.event(Event{Kind: Gone}, Cleaning, RunStopped)
	p.event(Event{Kind: TasksDone}, Preparing, RunBefore)
}

func TestBackOff(t *testing.T) {
	p := newPlay(t, "command = [\"x\"]\nstart-limit = 0")
	p.up()
	var got []time.Duration
	for range 9 {
		p.die(Exit{Code: 1}, Waiting)
		got = append(got, p.in)
		p.event(Event{Kind: TimedOut}, Preparing, RunBefore)
		p.run()
	}
	want := []time.Duration{500 * time.Millisecond, time.Second, 2 * time.Second, 4 * time.Second, 8 * time.Second, 16 * time.Second, 30 * time.Second, 30 * time.Second, 30 * time.Second}
	for i := range want {
		if got[i] != want[i] {
			t.Fatalf("delays %v, want %v", got, want)
		}
	}
	p.now = p.now.Add(DefaultStableAfter)
	p.die(Exit{Signal: syscall.SIGKILL}, Waiting)
	if p.in != DefaultRestartDelay {
		t.Errorf("after a stable run the delay is %v", p.in)
	}
	if p.m.Restarts != 9 {
		t.Errorf("%d restarts", p.m.Restarts)
	}
	p.event(Event{Kind: Stop}, Inactive)
}

func TestStartLimit(t *testing.T) {
	p := newPlay(t, "command = [\"x\"]\nstart-limit = 3\nstart-limit-within = \"1m\"")
	p.up()
	for range 2 {
		p.die(Exit{Code: 7}, Waiting)
		p.event(Event{Kind: TimedOut}, Preparing, RunBefore)
		p.run()
	}
	p.die(Exit{Code: 7}, Waiting)
	p.event(Event{Kind: TimedOut}, Failed)
	if p.m.Result != StartLimit || !strings.Contains(p.m.Why, "3 times") || !strings.Contains(p.m.Why, "code 7") {
		t.Errorf("%s: %s", p.m.Result, p.m.Why)
	}
	p.event(Event{Kind: Start}, Preparing, RunBefore) // a person begins anew
	p.run()
	p.now = p.now.Add(time.Minute)
	p.die(Exit{Code: 7}, Waiting)
}

func TestRestartPolicy(t *testing.T) {
	ok, code, term, segv := Exit{}, Exit{Code: 1}, Exit{Signal: syscall.SIGTERM}, Exit{Signal: syscall.SIGSEGV}
	for _, c := range []struct {
		policy   string
		restarts []Exit
		stays    map[Exit]State
	}{
		{`restart = "no"`, nil, map[Exit]State{ok: Inactive, code: Failed, term: Inactive, segv: Failed}},
		{`restart = "always"`, []Exit{ok, code, term, segv}, nil},
		{`restart = "on-success"`, []Exit{ok, term}, map[Exit]State{code: Failed, segv: Failed}},
		{`restart = "on-failure"`, []Exit{code, segv}, map[Exit]State{ok: Inactive, term: Inactive}},
		{`restart = "on-abnormal"`, []Exit{segv}, map[Exit]State{ok: Inactive, code: Failed}},
		{"restart = \"on-failure\"\nno-restart-status = [\"1\"]", []Exit{segv}, map[Exit]State{code: Failed}},
		{"restart = \"no\"\nrestart-status = [\"SIGSEGV\"]", []Exit{segv}, map[Exit]State{code: Failed}},
		{"restart = \"on-failure\"\nsuccess-status = [\"1\", \"SEGV\"]", nil, map[Exit]State{code: Inactive, segv: Inactive}},
	} {
		for _, e := range c.restarts {
			p := newPlay(t, "command = [\"x\"]\n"+c.policy)
			p.up()
			p.die(e, Waiting)
		}
		for e, want := range c.stays {
			p := newPlay(t, "command = [\"x\"]\n"+c.policy)
			p.up()
			p.die(e, want)
		}
	}
}

func TestFailedStarts(t *testing.T) {
	p := newPlay(t, "command = [\"x\"]\nrestart = \"no\"\nstart-timeout = \"3s\"\ntype = \"notify\"")
	p.event(Event{Kind: Start}, Preparing, RunBefore)
	if p.in != 3*time.Second {
		t.Errorf("start timeout %v", p.in)
	}
	p.event(Event{Kind: TasksDone}, Starting, Spawn)
	p.event(Event{Kind: TimedOut}, Stopping, Terminate)
	p.event(Event{Kind: Exited, Exit: Exit{Signal: syscall.SIGTERM}}, Stopping)
	p.event(Event{Kind: Gone}, Cleaning, RunStopped)
	p.event(Event{Kind: TasksDone}, Failed)
	if p.m.Result != Timeout || p.m.Why != "not ready within 3s" {
		t.Errorf("%s: %s", p.m.Result, p.m.Why)
	}
	p = newPlay(t, "command = [\"x\"]\nrestart = \"no\"")
	p.event(Event{Kind: Start}, Preparing, RunBefore)
	p.event(Event{Kind: TasksDone}, Starting, Spawn)
	p.event(Event{Kind: NotMade, Err: errors.New("no such program")}, Stopping, Terminate)
	p.event(Event{Kind: Gone}, Cleaning, RunStopped)
	p.event(Event{Kind: TasksDone}, Failed)
	if p.m.Result != CannotStart || p.m.Why != "no such program" {
		t.Errorf("%s: %s", p.m.Result, p.m.Why)
	}
}

func TestOneshot(t *testing.T) {
	p := newPlay(t, "command = [\"x\"]\ntype = \"oneshot\"")
	p.event(Event{Kind: Start}, Preparing, RunBefore)
	p.event(Event{Kind: TasksDone}, Starting, Spawn)
	p.die(Exit{}, Inactive)
	p = newPlay(t, "command = [\"x\"]\ntype = \"oneshot\"\nremain-after-exit = true")
	p.event(Event{Kind: Start}, Preparing, RunBefore)
	p.event(Event{Kind: TasksDone}, Starting, Spawn)
	p.event(Event{Kind: Exited}, Active)
	p.event(Event{Kind: Stop}, Stopping, Terminate)
	p.event(Event{Kind: Gone}, Cleaning, RunStopped)
	p.event(Event{Kind: TasksDone}, Inactive)
}

func TestUnhealthy(t *testing.T) {
	p := newPlay(t, `command = ["x"]`)
	p.up()
	p.event(Event{Kind: Unwell, Err: errors.New("3 health checks failed")}, Stopping, Terminate)
	p.event(Event{Kind: Exited, Exit: Exit{}}, Stopping)
	p.event(Event{Kind: Gone}, Cleaning, RunStopped)
	p.event(Event{Kind: TasksDone}, Waiting)
	if p.m.Result != Unhealthy {
		t.Error(p.m.Result)
	}
}
