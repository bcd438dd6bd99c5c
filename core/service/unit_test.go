package service

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func parse(t testing.TB, name, text string) Unit {
	t.Helper()
	u, err := Parse(name, []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func TestParse(t *testing.T) {
	u := parse(t, "web", `
command = ["python3", "-m", "http.server"]
restart = "always"
restart-delay = "1s"
after = ["db"]
env = {A = "b"}
[ready]
port = "8080"
[[socket]]
listen = "tcp/8080"
on-demand = true
[health]
command = ["true"]
[limits]
files = 64
`)
	if u.Type != Simple || u.KillMode != KillGroup || time.Duration(u.RestartDelay) != time.Second || u.Health.Retries != 3 || *u.Limits.Files != 64 || !u.OnDemand() {
		t.Errorf("%+v", u)
	}
	b, err := Marshal(u)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(u, parse(t, "web", string(b))); d != "" {
		t.Errorf("written and read again:\n%s\n%s", d, b)
	}
	if u := parse(t, "job", "command = [\"true\"]\nschedule = \"@daily\""); u.Type != Oneshot || u.Restart != RestartNo || !u.Timer() {
		t.Errorf("a timer: %+v", u)
	}
}

func TestParseRefuses(t *testing.T) {
	for text, want := range map[string]string{
		"command = [\"x\"]\nrestrat = \"no\"":                       `line 2: unknown key "restrat"`,
		"command = [\"x\"]\n[health]\ncommand = [\"y\"]\nevery = 1": `line 4: unknown key "health.every"`,
		"command = [\"x\"":                       "line 1",
		"command = \"x\"":                        "line 1",
		"restart = \"always\"":                   "command is missing",
		"command = [\"x\"]\nrestart = \"often\"": `restart = "often": want one of`,
		"command = [\"x\"]\ntype = \"oneshot\"\nrestart = \"always\"":         "not with type",
		"command = [\"x\"]\numask = \"9\"":                                    `umask = "9"`,
		"command = [\"x\"]\nstop-signal = \"SIGWHAT\"":                        "SIGWHAT",
		"command = [\"x\"]\ndir = \"tmp\"":                                    "absolute",
		"command = [\"x\"]\nruntime-dirs = [\"../x\"]":                        "..",
		"command = [\"x\"]\nafter = [\"../x\"]":                               "service name",
		"command = [\"x\"]\nschedule = \"61 * * * *\"":                        "minute",
		"command = [\"x\"]\nschedule = \"@daily\"\nevery = \"1h\"":            "want one of them",
		"command = [\"x\"]\nstart-timeout = \"soon\"":                         "time span",
		"command = [\"x\"]\n[[socket]]\nlisten = \"8080\"":                    "tcp/",
		"command = [\"x\"]\n[ready]\nport = \"0\"":                            "port",
		"command = [\"x\"]\nsuccess-status = [\"300\"]":                       "300",
		"command = [\"x\"]\nstart-limit = -1":                                 "start-limit",
		"command = [\"a\\u0000b\"]":                                           "NUL",
		"command = [\"x\"]\nstart-before = [[\"-\"], []]":                     "empty command",
		"command = [\"x\"]\nkill-mode = \"all\"":                              "kill-mode",
		"command = [\"x\"]\npid-file = \"x.pid\"":                             "pid-file",
		"command = [\"x\"]\n[[socket]]\nlisten = \"tcp/localhost:80\"":        "numbers",
		"command = [\"x\"]\n[[socket]]\nlisten = \"/run/x\"\nmode = \"rwx\"":  "octal",
		"command = [\"x\"]\nevery = \"1ms\"":                                  "1s or more",
		"command = [\"x\"]\n[health]\ninterval = \"1s\"":                      "health.command",
		"command = [\"x\"]\ndir-mode = \"8\"\nno-restart-status = [\"SIGX\"]": "SIGX",
	} {
		if _, err := Parse("x", []byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
	for _, name := range []string{"", "../x", ".x", "a/b", "-x", "@x", strings.Repeat("x", 129)} {
		if CheckName(name) == nil {
			t.Errorf("name %q passed", name)
		}
	}
}

func TestParseDuration(t *testing.T) {
	for s, want := range map[string]time.Duration{"90": 90 * time.Second, "1min 30s": 90 * time.Second, "1h30m": 90 * time.Minute, "500ms": 500 * time.Millisecond,
		"1.5s": 1500 * time.Millisecond, "2 weeks": 14 * 24 * time.Hour, "infinity": Forever, "0": 0} {
		if d, err := ParseDuration(s); err != nil || d != want {
			t.Errorf("%q: %v, %v", s, d, err)
		}
	}
	for _, s := range []string{"", "x", "1 fortnight", "-1s", "1..2s", "999999999999h"} {
		if d, err := ParseDuration(s); err == nil {
			t.Errorf("%q: %v", s, d)
		}
	}
}

func TestExpand(t *testing.T) {
	env := map[string]string{"OPTS": "-a  -b", "ONE": "x y", "EMPTY": ""}
	got := Expand([]string{"prog", "$OPTS", "${ONE}", "$EMPTY", "a${ONE}b", "$$x", "${NOT", "$UNSET", "${UNSET}", "a$ONE", "$"}, env)
	want := []string{"prog", "-a", "-b", "x y", "ax yb", "$x", "${NOT", "", "a$ONE", "$"}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func TestEnvironmentFile(t *testing.T) {
	env, err := EnvironmentFile("# c\n; c\nA=1\nB = \"two words\" \nC='$x'\\''y'\nD=a\\\nb\nE=\n")
	if d := cmp.Diff(map[string]string{"A": "1", "B": "two words", "C": "$x'y", "D": "ab", "E": ""}, env); d != "" || err != nil {
		t.Error(err, d)
	}
	for _, s := range []string{"A", "1A=b", "A=\"b", "=x"} {
		if _, err := EnvironmentFile(s); err == nil {
			t.Errorf("%q passed", s)
		}
	}
}

func TestPlan(t *testing.T) {
	units := map[string]Unit{
		"web": {Requires: []string{"db"}, After: []string{"db", "cache"}, Wants: []string{"cache", "absent"}},
		"db":  {StartBefore: []string{"cache"}}, "cache": {}, "other": {},
		"a": {After: []string{"b"}}, "b": {Requires: []string{"c"}}, "c": {After: []string{"a"}, Wants: []string{"a"}},
		"broken": {Requires: []string{"nowhere"}},
	}
	p, err := NewPlan(units, "web")
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]string{"db", "cache", "web"}, p.Order); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff([]string{"cache", "db"}, p.Waits["web"]); d != "" {
		t.Error(d)
	}
	if _, err := NewPlan(units, "a", "b"); !errors.Is(err, ErrCycle) || !strings.Contains(err.Error(), "a waits for b waits for c waits for a") {
		t.Errorf("a cycle: %v", err)
	}
	for root, want := range map[string]string{"broken": `service broken requires "nowhere", which does not exist`, "absent": `no service "absent"`} {
		if _, err := NewPlan(units, root); err == nil || err.Error() != want {
			t.Errorf("%s: %v, want %s", root, err, want)
		}
	}
	units["front"] = Unit{Requires: []string{"web"}}
	if d := cmp.Diff([]string{"front", "web"}, Dependents(units, "db")); d != "" {
		t.Error(d)
	}
}

func TestSchedule(t *testing.T) {
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	const layout = "2006-01-02 15:04 -0700"
	for _, c := range []struct{ schedule, from, want string }{
		{"0 6 * * *", "2026-11-25 05:59 +0100", "2026-11-25 06:00 +0100"},
		{"0 6 * * *", "2026-11-25 06:00 +0100", "2026-11-26 06:00 +0100"},
		{"*/15 * * * *", "2026-11-25 06:01 +0100", "2026-11-25 06:15 +0100"},
		{"5/20 8-9 * * *", "2026-11-25 08:46 +0100", "2026-11-25 09:05 +0100"},
		{"0 0 29 2 *", "2026-01-01 00:00 +0100", "2028-02-29 00:00 +0100"},
		{"0 0 30 2 *", "2026-01-01 00:00 +0100", ""},
		{"0 0 13 * fri", "2026-11-25 00:00 +0100", "2026-11-27 00:00 +0100"}, // either day field
		{"0 0 */13 * 5", "2026-11-25 00:00 +0100", "2026-11-27 00:00 +0100"}, // both: the 27th is a Friday
		{"0 0 * * 7", "2026-11-25 00:00 +0100", "2026-11-29 00:00 +0100"},
		{"0 0 1 jan-mar/2 *", "2026-01-15 00:00 +0100", "2026-03-01 00:00 +0100"},
		{"@monthly", "2026-11-25 00:00 +0100", "2026-12-01 00:00 +0100"},
		// The clock goes from 02:00 to 03:00 on 2026-03-29 and back on 2026-10-25.
		{"30 2 * * *", "2026-03-28 03:00 +0100", "2026-03-29 03:00 +0200"},
		{"30 2 * * *", "2026-03-29 03:00 +0200", "2026-03-30 02:30 +0200"},
		{"30 2 * * *", "2026-10-24 03:00 +0200", "2026-10-25 02:30 +0200"},
		{"30 2 * * *", "2026-10-25 02:30 +0200", "2026-10-26 02:30 +0100"},
		{"30 * * * *", "2026-10-25 02:30 +0200", "2026-10-25 02:30 +0100"},
		{"30 * * * *", "2026-03-29 01:30 +0100", "2026-03-29 03:30 +0200"},
	} {
		s, err := ParseSchedule(c.schedule)
		if err != nil {
			t.Errorf("%s: %v", c.schedule, err)
			continue
		}
		from, err := time.Parse(layout, c.from)
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		if n := s.Next(from.In(berlin)); !n.IsZero() {
			got = n.Format(layout)
		}
		if got != c.want {
			t.Errorf("%s after %s: %s, want %s", c.schedule, c.from, got, c.want)
		}
	}
	for _, bad := range []string{"", "* * * *", "60 * * * *", "* 24 * * *", "* * 0 * *", "* * * 13 *", "* * * * 8", "*/0 * * * *", "5-1 * * * *", "a * * * *", "@often", "1,, * * * *"} {
		if _, err := ParseSchedule(bad); err == nil {
			t.Errorf("%q passed", bad)
		}
	}
}

// FuzzParse: whatever a unit file says, it is refused or a unit that passes
// its own check again when written out.
func FuzzParse(f *testing.F) {
	f.Add([]byte("command = [\"x\"]\nrestart = \"always\"\n[ready]\nport = \"80\"\n"))
	f.Add([]byte("command = [\"x\"]\nschedule = \"*/5 1-3 * jan mon\"\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		u, err := Parse("x", data)
		if err != nil {
			return
		}
		b, err := Marshal(u)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Parse("x", b); err != nil {
			t.Errorf("%v\n%s", err, b)
		}
	})
}

// FuzzSchedule: a schedule that parses has its next run after now, on a minute.
func FuzzSchedule(f *testing.F) {
	f.Add("*/5 1-3 * jan mon", int64(1_700_000_000))
	f.Add("30 2 * * *", int64(1_774_742_400))
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, text string, unix int64) {
		s, err := ParseSchedule(text)
		if err != nil || unix < 0 || unix > 4e9 {
			return
		}
		now := time.Unix(unix, 0).In(berlin)
		n := s.Next(now)
		if !n.IsZero() && (!n.After(now) || n.Second() != 0) {
			t.Errorf("%q after %v: %v", text, now, n)
		}
	})
}
