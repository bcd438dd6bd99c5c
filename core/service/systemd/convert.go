package systemd

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/lxbridge/lx/core/service"
)

// harmless are keys that a service does without: they describe, or belong to
// what systemd does beside running it.
var harmless = []string{"Description", "Documentation", "WantedBy", "RequiredBy", "Alias", "Also", "DefaultInstance", "DefaultDependencies",
	"StandardOutput", "StandardError", "SyslogIdentifier", "SyslogFacility", "Slice", "NotifyAccess", "GuessMainPID", "SourcePath",
	"AssertPathExists", "StandardInput", "RestartMode", "FinalKillSignal", "IgnoreSIGPIPE", "SendSIGKILL", "RestartSteps", "CollectMode", "StopWhenUnneeded", "PartOf", "SendSIGHUP",
	"RequiresMountsFor", "ReloadPropagatedFrom", "PropagatesReloadTo"}

// refused are keys without which a service would do something else than it says.
var refused = map[string]string{
	"DynamicUser":    "a user made for one run",
	"RootDirectory":  "a root of its own",
	"RootImage":      "a root image",
	"BusName":        "a bus name",
	"LoadCredential": "credentials by systemd", "SetCredential": "credentials by systemd",
}

// converter reads entries in order into a unit.
type converter struct {
	full   string
	u      service.Unit
	notes  []string
	starts []service.Command // of ExecStart=
	limit  struct{ burst, interval string }
}

// convert makes a unit of the entries of a file and its drop-ins.
func convert(full string, entries []entry) (service.Unit, []string, error) {
	c := converter{full: full}
	c.u.Name = strings.TrimSuffix(full, ".service")
	c.u.Expand = true
	c.u.Restart = service.RestartNo
	c.u.StopTimeout = service.Duration(service.DefaultStartTimeout)
	for _, e := range entries {
		if strings.HasPrefix(e.section, "X-") || strings.HasPrefix(e.key, "X-") {
			continue
		}
		if !slices.Contains([]string{"Unit", "Service", "Install"}, e.section) {
			c.note("section [%s] is not supported", e.section)
			continue
		}
		v, err := specifiers(full, e.value)
		if err == nil {
			err = c.set(e.key, v)
		}
		if err != nil {
			return service.Unit{}, nil, fmt.Errorf("%s:%d: %s=: %w", e.file, e.line, e.key, err)
		}
	}
	if err := c.finish(); err != nil {
		return service.Unit{}, nil, err
	}
	return c.u, c.notes, nil
}

func (c *converter) note(format string, args ...any) {
	n := fmt.Sprintf(format, args...)
	if !slices.Contains(c.notes, n) {
		c.notes = append(c.notes, n)
	}
}

func (c *converter) finish() error {
	if n := len(c.starts); n > 0 {
		// Of several, which a oneshot may have, the last is the main one.
		c.u.Before = append(c.u.Before, c.starts[:n-1]...)
		c.u.Command = c.starts[n-1]
	}
	if c.u.Type == "" {
		c.u.Type = service.Simple
		if len(c.u.Command) == 0 {
			c.u.Type = service.Oneshot
		}
	}
	if len(c.u.Command) == 0 && c.u.Type == service.Oneshot && !c.u.RemainAfterExit && len(c.u.Before) == 0 {
		return errors.New("it has no ExecStart=")
	}
	if c.limit.burst != "" {
		n, err := strconv.Atoi(c.limit.burst)
		if err != nil {
			return fmt.Errorf("StartLimitBurst=%s: want a number", c.limit.burst)
		}
		c.u.StartLimit = &n
	}
	if c.limit.interval != "" {
		d, err := service.ParseDuration(c.limit.interval)
		if err != nil {
			return fmt.Errorf("StartLimitIntervalSec=: %w", err)
		}
		if d == 0 {
			none := 0
			c.u.StartLimit = &none
		}
		c.u.StartLimitWithin = service.Duration(d)
	}
	if c.u.Type == service.Oneshot && (c.u.Restart == service.RestartAlways || c.u.Restart == service.RestartOnSuccess) {
		c.note("Restart=%s: not with Type=oneshot", c.u.Restart)
		c.u.Restart = service.RestartNo
	}
	return c.u.Check()
}

func (c *converter) set(key, v string) error {
	u := &c.u
	switch key {
	case "Description":
		u.Description = v
	case "Type":
		switch v {
		case "idle":
			v = "simple"
		case "notify-reload":
			v = "notify"
		case "dbus":
			return errors.New("dbus is not supported: want simple, exec, forking, notify or oneshot")
		}
		u.Type = service.Type(v)
	case "ExecStart":
		return c.execStart(v)
	case "ExecStartPre", "ExecCondition":
		return c.exec(&u.Before, v)
	case "ExecStartPost":
		return c.exec(&u.Started, v)
	case "ExecStop":
		return c.exec(&u.Stop, v)
	case "ExecStopPost":
		return c.exec(&u.Stopped, v)
	case "ExecReload":
		return c.exec(&u.Reload, v)
	case "Environment":
		return c.environment(v)
	case "EnvironmentFile":
		return list(&u.EnvFiles, v)
	case "WorkingDirectory":
		u.Dir = v
	case "User":
		u.User = v
	case "Group":
		u.Group = v
	case "UMask":
		u.Umask = v
	case "PIDFile":
		if v != "" && !strings.HasPrefix(v, "/") {
			v = "/run/" + v
		}
		u.PIDFile = v
	case "RuntimeDirectory":
		return list(&u.RuntimeDirs, v)
	case "StateDirectory":
		return list(&u.StateDirs, v)
	case "LogsDirectory":
		return list(&u.LogDirs, v)
	case "CacheDirectory":
		return list(&u.CacheDirs, v)
	case "RuntimeDirectoryMode":
		u.DirMode = v
	case "ConditionPathExists", "ConditionPathIsDirectory", "ConditionFileNotEmpty", "ConditionFileIsExecutable":
		if v == "" {
			u.ConditionPaths = nil
			break
		}
		u.ConditionPaths = append(u.ConditionPaths, strings.TrimPrefix(v, "|"))
	case "After":
		return c.units(&u.After, v)
	case "Before":
		return c.units(&u.StartBefore, v)
	case "Requires", "BindsTo", "Requisite":
		return c.units(&u.Requires, v)
	case "Wants":
		return c.units(&u.Wants, v)
	case "Restart":
		if v == "on-watchdog" {
			c.note("Restart=on-watchdog: taken as no")
			v = "no"
		}
		u.Restart = service.Restart(v)
	case "RestartSec":
		if err := span(&u.RestartDelay, v); err != nil {
			return err
		}
		u.RestartDelayMax = max(u.RestartDelay, service.Duration(service.DefaultRestartDelayMax))
	case "TimeoutStartSec":
		return span(&u.StartTimeout, v)
	case "TimeoutStopSec":
		return span(&u.StopTimeout, v)
	case "TimeoutSec":
		return errors.Join(span(&u.StartTimeout, v), span(&u.StopTimeout, v))
	case "KillMode":
		mode, ok := map[string]service.KillMode{"control-group": service.KillGroup, "mixed": service.KillMixed, "process": service.KillProcess, "none": service.KillNone}[v]
		if !ok {
			return fmt.Errorf("%q: want control-group, mixed, process or none", v)
		}
		u.KillMode = mode
	case "KillSignal":
		u.StopSignal = v
	case "SuccessExitStatus":
		return list(&u.SuccessStatus, v)
	case "RestartPreventExitStatus":
		return list(&u.NoRestartStatus, v)
	case "RestartForceExitStatus":
		return list(&u.ForcedRestart, v)
	case "RemainAfterExit":
		b, err := boolean(v)
		u.RemainAfterExit = b
		return err
	case "NoNewPrivileges":
		b, err := boolean(v)
		u.Limits.NoNewPriv = b
		return err
	case "StartLimitBurst":
		c.limit.burst = v
	case "StartLimitIntervalSec", "StartLimitInterval":
		c.limit.interval = v
	case "LimitNOFILE":
		return rlimit(&u.Limits.Files, v)
	case "LimitNPROC":
		return rlimit(&u.Limits.Processes, v)
	case "LimitCORE":
		return rlimit(&u.Limits.Core, v)
	case "LimitAS":
		return rlimit(&u.Limits.Memory, v)
	case "LimitFSIZE":
		return rlimit(&u.Limits.FileSize, v)
	case "LimitMEMLOCK":
		return rlimit(&u.Limits.Locked, v)
	case "LimitCPU":
		return rlimit(&u.Limits.CPU, v)
	case "Nice":
		return number(&u.Limits.Nice, v)
	case "OOMScoreAdjust":
		return number(&u.Limits.OOMScore, v)
	default:
		if what, ok := refused[key]; ok {
			if no, err := boolean(v); v == "" || err == nil && !no {
				return nil
			}
			return fmt.Errorf("%s is not supported", what)
		}
		if !slices.Contains(harmless, key) {
			c.note("%s= is not supported: left out", key)
		}
	}
	return nil
}

func (c *converter) execStart(v string) error {
	if v == "" {
		c.starts = nil
		return nil
	}
	cmds, expand, notes, err := commands(v)
	if err != nil {
		return err
	}
	c.take(expand, notes)
	c.starts = append(c.starts, cmds...)
	return nil
}

func (c *converter) exec(to *[]service.Command, v string) error {
	if v == "" {
		*to = nil
		return nil
	}
	cmds, expand, notes, err := commands(v)
	if err != nil {
		return err
	}
	c.take(expand, notes)
	*to = append(*to, cmds...)
	return nil
}

func (c *converter) take(expand bool, notes []string) {
	c.u.Expand = c.u.Expand && expand
	for _, n := range notes {
		c.note("%s", n)
	}
}

func (c *converter) environment(v string) error {
	if v == "" {
		c.u.Env = nil
		return nil
	}
	ws, err := words(v)
	if err != nil {
		return err
	}
	for _, w := range ws {
		name, value, ok := strings.Cut(w, "=")
		if !ok {
			return fmt.Errorf("%q: want NAME=VALUE", w)
		}
		if c.u.Env == nil {
			c.u.Env = map[string]string{}
		}
		c.u.Env[name] = value
	}
	return nil
}

// units adds names of services; other units are systemd's own business.
func (c *converter) units(to *[]string, v string) error {
	if v == "" {
		*to = nil
		return nil
	}
	for _, n := range strings.Fields(v) {
		name, ok := strings.CutSuffix(n, ".service")
		if !ok || strings.HasPrefix(name, "systemd-") {
			continue
		}
		if err := service.CheckName(name); err != nil {
			return err
		}
		if !slices.Contains(*to, name) {
			*to = append(*to, name)
		}
	}
	return nil
}

func list(to *[]string, v string) error {
	if v == "" {
		*to = nil
		return nil
	}
	ws, err := words(v)
	*to = append(*to, ws...)
	return err
}

func span(to *service.Duration, v string) error {
	d, err := service.ParseDuration(v)
	*to = service.Duration(d)
	return err
}

func boolean(v string) (bool, error) {
	switch strings.ToLower(v) {
	case "1", "yes", "y", "true", "t", "on":
		return true, nil
	case "0", "no", "n", "false", "f", "off", "":
		return false, nil
	}
	return false, fmt.Errorf("%q: want yes or no", v)
}

// rlimit reads a resource limit: a number with K, M, G, T, or SOFT:HARD.
func rlimit(to **uint64, v string) error {
	soft, _, _ := strings.Cut(v, ":")
	n := ^uint64(0)
	if soft != "infinity" {
		shift := 0
		if n := len(soft); n > 1 {
			if i := strings.IndexByte("KMGTPE", soft[n-1]); i >= 0 {
				shift, soft = 10*(i+1), soft[:n-1]
			}
		}
		var err error
		if n, err = strconv.ParseUint(soft, 10, 64); err != nil || n<<shift>>shift != n {
			return fmt.Errorf("%q: want a number, with K, M, G or T, or infinity", v)
		}
		n <<= shift
	}
	*to = &n
	return nil
}

func number(to **int, v string) error {
	n, err := strconv.Atoi(v)
	if err != nil {
		return fmt.Errorf("%q: want a number", v)
	}
	*to = &n
	return nil
}
