// Package service is the model of services: what a unit file says, in which
// order units start, and the states that a service goes through. It touches no
// process; core/service/supervisor does.
package service

import (
	"bytes"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/pelletier/go-toml/v2"
)

// Type says when a started service counts as up (systemd.service(5)).
type Type string

const (
	Simple  Type = "simple"  // when its process was made
	Exec    Type = "exec"    // when its program runs
	Forking Type = "forking" // when its first process has ended; PIDFile names the one that stays
	Notify  Type = "notify"  // when it says READY=1 (sd_notify(3))
	Oneshot Type = "oneshot" // when its command has ended well
)

// Restart says after which ends a service is started again.
type Restart string

const (
	RestartNo         Restart = "no"
	RestartAlways     Restart = "always"
	RestartOnSuccess  Restart = "on-success"
	RestartOnFailure  Restart = "on-failure"  // exit code, signal, timeout, health
	RestartOnAbnormal Restart = "on-abnormal" // signal, timeout, health
	RestartOnAbort    Restart = "on-abort"    // signal that nobody sent on purpose
)

// KillMode says whom a stop ends.
type KillMode string

const (
	KillGroup   KillMode = "group"   // all processes of the service
	KillMixed   KillMode = "mixed"   // SIGTERM to the first, SIGKILL to all
	KillProcess KillMode = "process" // the first alone
	KillNone    KillMode = "none"    // nobody: the stop command does it
)

// Duration is a time span as Go ("1m30s") or systemd ("1min 30s", "90") write it.
type Duration time.Duration

// UnmarshalText reads a time span.
func (d *Duration) UnmarshalText(b []byte) error {
	v, err := ParseDuration(string(b))
	*d = Duration(v)
	return err
}

// MarshalText writes it as Go does.
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// Command is a program with its arguments. A first word "-" says that its
// failure does not matter.
type Command []string

// Split takes the "-" off.
func (c Command) Split() (argv []string, mayFail bool) {
	if len(c) > 1 && c[0] == "-" {
		return c[1:], true
	}
	return c, false
}

// Unit is one unit file: a service, or a timer where it has a schedule.
type Unit struct {
	Name        string `toml:"-" json:"name"`
	Description string `toml:"description,omitempty" json:"description,omitempty"`

	Type    Type      `toml:"type,omitempty" json:"type"`
	Command Command   `toml:"command,omitempty" json:"command"`
	Before  []Command `toml:"start-before,omitempty" json:"-"` // run before the command, one after the other
	Started []Command `toml:"start-after,omitempty" json:"-"`  // run when it is up
	Stop    []Command `toml:"stop,omitempty" json:"-"`         // run before the signal
	Stopped []Command `toml:"stop-after,omitempty" json:"-"`   // run when it has ended
	Reload  []Command `toml:"reload,omitempty" json:"-"`
	// Expand says that $NAME and ${NAME} in commands stand for environment
	// variables, as in systemd.service(5).
	Expand bool `toml:"expand,omitempty" json:"-"`

	Env              map[string]string `toml:"env,omitempty" json:"-"`
	EnvFiles         []string          `toml:"env-files,omitempty" json:"-"` // a leading "-": may be absent
	Dir              string            `toml:"dir,omitempty" json:"-"`       // a leading "-": "/" where it is absent
	User             string            `toml:"user,omitempty" json:"user,omitempty"`
	Group            string            `toml:"group,omitempty" json:"-"`
	Umask            string            `toml:"umask,omitempty" json:"-"` // octal
	RuntimeDirs      []string          `toml:"runtime-dirs,omitempty" json:"-"`
	StateDirs        []string          `toml:"state-dirs,omitempty" json:"-"`
	LogDirs          []string          `toml:"log-dirs,omitempty" json:"-"`
	CacheDirs        []string          `toml:"cache-dirs,omitempty" json:"-"`
	DirMode          string            `toml:"dir-mode,omitempty" json:"-"` // octal, of the runtime directories
	ConditionPaths   []string          `toml:"condition-paths,omitempty" json:"-"`
	PIDFile          string            `toml:"pid-file,omitempty" json:"-"`
	RemainAfterExit  bool              `toml:"remain-after-exit,omitempty" json:"-"`
	SuccessStatus    []string          `toml:"success-status,omitempty" json:"-"`    // exit codes and signals that are no failure
	NoRestartStatus  []string          `toml:"no-restart-status,omitempty" json:"-"` // those that prevent a restart
	ForcedRestart    []string          `toml:"restart-status,omitempty" json:"-"`    // those that force one
	After            []string          `toml:"after,omitempty" json:"after,omitempty"`
	StartBefore      []string          `toml:"before,omitempty" json:"before,omitempty"`
	Requires         []string          `toml:"requires,omitempty" json:"requires,omitempty"`
	Wants            []string          `toml:"wants,omitempty" json:"wants,omitempty"`
	Restart          Restart           `toml:"restart,omitempty" json:"restart"`
	RestartDelay     Duration          `toml:"restart-delay,omitempty" json:"-"`      // first delay; it doubles
	RestartDelayMax  Duration          `toml:"restart-delay-max,omitempty" json:"-"`  // up to this
	StableAfter      Duration          `toml:"stable-after,omitempty" json:"-"`       // up for so long: the delay begins anew
	StartLimit       *int              `toml:"start-limit,omitempty" json:"-"`        // at most so many starts; 0: no limit
	StartLimitWithin Duration          `toml:"start-limit-within,omitempty" json:"-"` // within this time
	StartTimeout     Duration          `toml:"start-timeout,omitempty" json:"-"`
	StopTimeout      Duration          `toml:"stop-timeout,omitempty" json:"-"` // from SIGTERM to SIGKILL
	StopSignal       string            `toml:"stop-signal,omitempty" json:"-"`
	KillMode         KillMode          `toml:"kill-mode,omitempty" json:"-"`

	Ready   Ready    `toml:"ready,omitempty" json:"-"`
	Sockets []Socket `toml:"socket,omitempty" json:"-"`
	Health  *Health  `toml:"health,omitempty" json:"-"`
	Limits  Limits   `toml:"limits,omitempty" json:"-"`

	Schedule string   `toml:"schedule,omitempty" json:"schedule,omitempty"` // crontab(5)'s five fields, or @daily and kin
	Every    Duration `toml:"every,omitempty" json:"every,omitempty"`
}

// Ready says how it shows that the service is up, beyond its type.
type Ready struct {
	Port    string  `toml:"port,omitempty"`    // [ADDRESS:]PORT that takes a connection
	Command Command `toml:"command,omitempty"` // that ends well
}

// Socket is one that is opened before the service and passed to it
// (sd_listen_fds(3)).
type Socket struct {
	Listen   string `toml:"listen"` // tcp/[ADDRESS:]PORT, udp/[ADDRESS:]PORT or /path
	Name     string `toml:"name,omitempty"`
	Mode     string `toml:"mode,omitempty"`      // octal, of a path
	OnDemand bool   `toml:"on-demand,omitempty"` // the first client starts the service
}

// Health is a command that has to end well while the service is up.
type Health struct {
	Command  Command  `toml:"command"`
	Interval Duration `toml:"interval,omitempty"`
	Timeout  Duration `toml:"timeout,omitempty"`
	Retries  int      `toml:"retries,omitempty"` // so many failures in a row restart the service
}

// Limits bound the processes of a service: setrlimit(2)'s for each.
type Limits struct {
	Files     *uint64 `toml:"files,omitempty"`     // RLIMIT_NOFILE
	Processes *uint64 `toml:"processes,omitempty"` // RLIMIT_NPROC
	Core      *uint64 `toml:"core,omitempty"`      // RLIMIT_CORE, bytes
	Memory    *uint64 `toml:"memory,omitempty"`    // RLIMIT_AS, bytes
	FileSize  *uint64 `toml:"file-size,omitempty"` // RLIMIT_FSIZE, bytes
	Locked    *uint64 `toml:"locked,omitempty"`    // RLIMIT_MEMLOCK, bytes
	CPU       *uint64 `toml:"cpu,omitempty"`       // RLIMIT_CPU, seconds
	Nice      *int    `toml:"nice,omitempty"`      // setpriority(2)
	OOMScore  *int    `toml:"oom-score,omitempty"` // /proc/PID/oom_score_adj
	NoNewPriv bool    `toml:"no-new-privs,omitempty"`
}

// Or is l with the limits of m where l has none.
func (l Limits) Or(m Limits) Limits {
	for _, p := range []struct{ own, other **uint64 }{
		{&l.Files, &m.Files}, {&l.Processes, &m.Processes}, {&l.Core, &m.Core}, {&l.Memory, &m.Memory}, {&l.FileSize, &m.FileSize}, {&l.Locked, &m.Locked}, {&l.CPU, &m.CPU},
	} {
		if *p.own == nil {
			*p.own = *p.other
		}
	}
	return l
}

// Defaults of a unit file.
const (
	DefaultRestartDelay     = 500 * time.Millisecond
	DefaultRestartDelayMax  = 30 * time.Second
	DefaultStableAfter      = 60 * time.Second
	DefaultStartLimit       = 10
	DefaultStartLimitWithin = 5 * time.Minute
	DefaultStartTimeout     = 90 * time.Second
	DefaultStopTimeout      = 10 * time.Second
	defaultHealthInterval   = 30 * time.Second
	defaultHealthTimeout    = 10 * time.Second
	defaultHealthRetries    = 3
)

// Parse reads a unit file. A key that does not exist is an error that names
// it and its line. The unit is checked, and what it does not say is filled in.
func Parse(name string, data []byte) (Unit, error) {
	var u Unit
	dec := toml.NewDecoder(bytes.NewReader(data)).DisallowUnknownFields()
	if err := dec.Decode(&u); err != nil {
		return Unit{}, fmt.Errorf("cannot read unit %s: %w", name, DescribeTOML(err))
	}
	u.Name = name
	if err := u.Check(); err != nil {
		return Unit{}, fmt.Errorf("unit %s: %w", name, err)
	}
	u.fill()
	return u, nil
}

// DescribeTOML is a decoder's error with line numbers and the names of unknown
// keys, each once.
func DescribeTOML(err error) error {
	var strict *toml.StrictMissingError
	if errors.As(err, &strict) {
		var errs []error
		for _, e := range strict.Errors {
			row, _ := e.Position()
			errs = append(errs, fmt.Errorf("line %d: unknown key %q", row, strings.Join(e.Key(), ".")))
		}
		return errors.Join(errs...)
	}
	var de *toml.DecodeError
	if errors.As(err, &de) {
		row, _ := de.Position()
		return fmt.Errorf("line %d: %s", row, strings.TrimPrefix(de.Error(), "toml: "))
	}
	return err
}

// Marshal writes u as a unit file.
func Marshal(u Unit) ([]byte, error) {
	var b bytes.Buffer
	enc := toml.NewEncoder(&b)
	enc.SetTablesInline(false)
	if err := enc.Encode(u); err != nil {
		return nil, fmt.Errorf("cannot write unit %s: %w", u.Name, err)
	}
	return b.Bytes(), nil
}

// CheckName refuses what is no name of a unit.
func CheckName(name string) error {
	for _, r := range name {
		if !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("._-@:\\", r)) {
			return fmt.Errorf("service name %q: want letters, digits, '.', '_', '-', '@'", name)
		}
	}
	if name == "" || len(name) > 128 || strings.ContainsRune(".-@", rune(name[0])) {
		return fmt.Errorf("service name %q: want 1 to 128 characters that begin with a letter or digit", name)
	}
	return nil
}

// Timer reports whether a schedule starts the unit.
func (u Unit) Timer() bool { return u.Schedule != "" || u.Every != 0 }

// OnDemand reports whether a client of its sockets starts the unit.
func (u Unit) OnDemand() bool {
	return slices.ContainsFunc(u.Sockets, func(s Socket) bool { return s.OnDemand })
}

// Check says what is wrong with u.
func (u Unit) Check() error {
	var errs []error
	wrong := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	oneOf := func(key, v string, known ...string) {
		if v != "" && !slices.Contains(known, v) {
			wrong("%s = %q: want one of %s", key, v, strings.Join(known, ", "))
		}
	}
	if err := CheckName(u.Name); err != nil {
		errs = append(errs, err)
	}
	oneOf("type", string(u.Type), "simple", "exec", "forking", "notify", "oneshot")
	oneOf("restart", string(u.Restart), "no", "always", "on-success", "on-failure", "on-abnormal", "on-abort")
	oneOf("kill-mode", string(u.KillMode), "group", "mixed", "process", "none")
	if argv, _ := u.Command.Split(); len(argv) == 0 && u.Type != Oneshot {
		wrong("command is missing")
	}
	for key, list := range map[string][]Command{"start-before": u.Before, "start-after": u.Started, "stop": u.Stop, "stop-after": u.Stopped, "reload": u.Reload} {
		for _, c := range list {
			if argv, _ := c.Split(); len(argv) == 0 {
				wrong("%s has an empty command", key)
			}
		}
	}
	for _, c := range append([]Command{u.Command, u.Ready.Command}, u.Before...) {
		for _, w := range c {
			if strings.ContainsRune(w, 0) {
				wrong("a command contains a NUL byte")
			}
		}
	}
	if u.Type == Oneshot && (u.Restart == RestartAlways || u.Restart == RestartOnSuccess) {
		wrong("restart = %q: not with type = \"oneshot\"", u.Restart)
	}
	for key, v := range map[string]string{"umask": u.Umask, "dir-mode": u.DirMode} {
		if _, err := Octal(v, 0); err != nil {
			wrong("%s = %q: want an octal number", key, v)
		}
	}
	if _, err := Signal(u.StopSignal); u.StopSignal != "" && err != nil {
		wrong("stop-signal: %w", err)
	}
	for key, list := range map[string][]string{"success-status": u.SuccessStatus, "no-restart-status": u.NoRestartStatus, "restart-status": u.ForcedRestart} {
		for _, s := range list {
			if _, err := parseStatus(s); err != nil {
				wrong("%s: %w", key, err)
			}
		}
	}
	if dir := strings.TrimPrefix(u.Dir, "-"); dir != "" && dir != "~" && !filepath.IsAbs(dir) {
		wrong("dir = %q: want an absolute path", u.Dir)
	}
	if u.PIDFile != "" && !filepath.IsAbs(u.PIDFile) {
		wrong("pid-file = %q: want an absolute path", u.PIDFile)
	}
	for _, d := range slices.Concat(u.RuntimeDirs, u.StateDirs, u.LogDirs, u.CacheDirs) {
		if !filepath.IsLocal(d) {
			wrong("directory %q: want a relative path without \"..\"", d)
		}
	}
	for _, s := range u.Sockets {
		if _, _, err := s.Address(); err != nil {
			errs = append(errs, err)
		}
		if _, err := Octal(s.Mode, 0); err != nil {
			wrong("socket mode = %q: want an octal number", s.Mode)
		}
	}
	if u.Ready.Port != "" {
		if _, err := HostPort(u.Ready.Port); err != nil {
			wrong("ready.port: %w", err)
		}
	}
	if u.Health != nil && len(u.Health.Command) == 0 {
		wrong("health.command is missing")
	}
	if u.StartLimit != nil && *u.StartLimit < 0 {
		wrong("start-limit = %d: want 0 or more", *u.StartLimit)
	}
	for key, d := range map[string]Duration{"restart-delay": u.RestartDelay, "restart-delay-max": u.RestartDelayMax, "stable-after": u.StableAfter,
		"start-limit-within": u.StartLimitWithin, "start-timeout": u.StartTimeout, "stop-timeout": u.StopTimeout, "every": u.Every} {
		if d < 0 {
			wrong("%s = %q: want no negative time", key, time.Duration(d))
		}
	}
	switch {
	case u.Schedule != "" && u.Every != 0:
		wrong("schedule and every: want one of them")
	case u.Every != 0 && time.Duration(u.Every) < time.Second:
		wrong("every = %q: want 1s or more", time.Duration(u.Every))
	case u.Schedule != "":
		if _, err := ParseSchedule(u.Schedule); err != nil {
			wrong("schedule: %w", err)
		}
	}
	for _, n := range slices.Concat(u.After, u.StartBefore, u.Requires, u.Wants) {
		if err := CheckName(n); err != nil {
			errs = append(errs, err)
		}
	}
	slices.SortStableFunc(errs, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
	return errors.Join(errs...)
}

// fill puts defaults where u says nothing.
func (u *Unit) fill() {
	def := func(d *Duration, v time.Duration) {
		if *d == 0 {
			*d = Duration(v)
		}
	}
	if u.Type == "" {
		u.Type = Simple
		if u.Timer() {
			u.Type = Oneshot
		}
	}
	if u.Restart == "" {
		u.Restart = RestartOnFailure
		if u.Type == Oneshot {
			u.Restart = RestartNo
		}
	}
	if u.KillMode == "" {
		u.KillMode = KillGroup
	}
	def(&u.RestartDelay, DefaultRestartDelay)
	def(&u.RestartDelayMax, max(DefaultRestartDelayMax, time.Duration(u.RestartDelay)))
	def(&u.StableAfter, DefaultStableAfter)
	def(&u.StartLimitWithin, DefaultStartLimitWithin)
	if u.Type != Oneshot {
		def(&u.StartTimeout, DefaultStartTimeout)
	}
	def(&u.StopTimeout, DefaultStopTimeout)
	if u.StartLimit == nil {
		n := DefaultStartLimit
		u.StartLimit = &n
	}
	if u.Health != nil {
		h := *u.Health
		def(&h.Interval, defaultHealthInterval)
		def(&h.Timeout, defaultHealthTimeout)
		if h.Retries == 0 {
			h.Retries = defaultHealthRetries
		}
		u.Health = &h
	}
}
