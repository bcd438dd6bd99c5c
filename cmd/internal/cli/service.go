package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/lxbridge/lx/cmd/internal/api"
	"github.com/lxbridge/lx/core/env"
	"github.com/lxbridge/lx/core/service"
	"github.com/lxbridge/lx/core/service/journal"
	"github.com/lxbridge/lx/core/service/supervisor"
)

// Exit codes of "lx service status", as systemctl(1) and LSB have them.
const (
	exitInactive = 3
	exitNoUnit   = 4
)

// services is the environment whose services a command is about.
type services struct{ env string }

// call asks the environment's supervisor. With start the environment is started if need be.
func (s services) call(ctx context.Context, start bool, r supervisor.Request, take func(supervisor.Answer) error) error {
	name, err := environment(s.env)
	if err != nil {
		return err
	}
	dirs, err := env.UserDirs()
	if err != nil {
		return err
	}
	heard := false
	ask := func() (struct{}, error) {
		c, err := env.DialServices(ctx, dirs, name)
		if err != nil {
			return struct{}{}, err
		}
		defer c.Close()
		err = supervisor.Call(ctx, c, r, func(a supervisor.Answer) error {
			heard = true
			return take(a)
		})
		// An environment that was about to end has not taken the request.
		if !heard && (errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)) {
			err = env.ErrNotRunning
		}
		return struct{}{}, err
	}
	if start {
		_, err = attach(ctx, runOptions{}, dirs, name, ask)
	} else {
		_, err = ask()
	}
	if inside := insideOf(name); inside != nil && err != nil && !heard {
		return inside
	}
	var missing supervisor.MissingError
	if errors.As(err, &missing) {
		return withHint(err, "`lx service list` shows those of environment "+name)
	}
	return err
}

// hold asks for enable, disable or remove, and tells the daemon whether the
// environment has to run whenever it does: one that has enabled units.
func (s services) hold(cmd *cobra.Command, r supervisor.Request) error {
	ctx := cmd.Context()
	kept, answered := false, false
	failed := s.call(ctx, true, r, func(a supervisor.Answer) error {
		kept, answered = a.Kept, true
		return nil
	})
	if !answered {
		return failed
	}
	name, err := environment(s.env)
	if err != nil {
		return errors.Join(failed, err)
	}
	dirs, err := env.UserDirs()
	if err != nil {
		return errors.Join(failed, err)
	}
	d, err := api.Connect(ctx, dirs, version)
	if err == nil {
		err = d.SetWanted(ctx, name, kept)
	}
	if err != nil {
		err = fmt.Errorf("cannot tell the daemon, which starts environment %s again: %w", name, err)
	}
	return errors.Join(failed, err)
}

// do is call for an answer without content but notes.
func (s services) do(cmd *cobra.Command, r supervisor.Request) error {
	return s.call(cmd.Context(), true, r, func(a supervisor.Answer) error {
		for _, n := range a.Notes {
			fmt.Fprintln(cmd.ErrOrStderr(), "lx: note:", printable(n))
		}
		if a.Path != "" && a.Error == "" {
			fmt.Fprintln(cmd.OutOrStdout(), plain(a.Path))
		}
		return nil
	})
}

// list asks for what is known of services.
func (s services) list(ctx context.Context, r supervisor.Request) (units []supervisor.Status, err error) {
	err = s.call(ctx, false, r, func(a supervisor.Answer) error {
		for _, n := range a.Notes {
			fmt.Fprintln(os.Stderr, "lx: note:", printable(n))
		}
		units = append(units, a.Units...)
		return nil
	})
	return units, err
}

func newService() *cobra.Command {
	s := &services{}
	cmd := &cobra.Command{
		Use:   "service COMMAND",
		Short: "Services: programs that live on without a console",
		Long: `service defines, runs and watches services of an environment. The environment's first
process supervises them: consoles, broker and daemon may come and go. An enabled
service comes up with its environment, and keeps it.

Unit files are TOML: below ~/.config/lx/services/ENVIRONMENT for the host environment,
/etc/lx/services inside of another. "add" and "import" write them.`,
		Example: `  lx service add web --enable -- python3 -m http.server 8080
  lx service import ssh.service && lx service enable ssh
  lx service status web; lx service logs -f web`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usageError{fmt.Errorf("%s needs a command", cmd.CommandPath())}
			}
			return usageError{fmt.Errorf("%s has no command %q", cmd.CommandPath(), args[0])}
		},
		RunE: func(*cobra.Command, []string) error { return nil },
	}
	cmd.PersistentFlags().StringVarP(&s.env, "environment", "d", "", "whose services (default: see lx default)")
	cmd.AddCommand(newServiceAdd(s, false), newServiceImport(s), newServiceEnable(s), newServiceDisable(s),
		newServiceVerb(s, supervisor.Start, "Start services with what they require, and wait until they are up"),
		newServiceVerb(s, supervisor.Stop, "Stop services, and first those that require them"),
		newServiceVerb(s, supervisor.Restart, "Stop and start services"),
		newServiceVerb(s, supervisor.Reload, "Have services read their configuration anew"),
		newServiceStatus(s), newServiceLogs(s), newServiceList(s, false), newServiceVerb(s, supervisor.Remove, "Stop and forget services, with their logs"),
		newServiceDoctor(s))
	return cmd
}

// needNames refuses a call without names as wrong usage.
func needNames(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return usageError{fmt.Errorf("%s needs a NAME", cmd.CommandPath())}
	}
	return nil
}

// complete offers the names of the environment's services.
func (s *services) complete(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
	units, err := s.list(cmd.Context(), supervisor.Request{Verb: supervisor.List})
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	var names []string
	for _, u := range units {
		names = append(names, u.Name)
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

func newServiceVerb(s *services, verb, short string) *cobra.Command {
	return &cobra.Command{
		Use:               verb + " NAME...",
		Short:             short,
		Example:           "  lx service " + verb + " web",
		Args:              needNames,
		ValidArgsFunction: s.complete,
		RunE: func(cmd *cobra.Command, args []string) error {
			r := supervisor.Request{Verb: verb, Names: args}
			if verb == supervisor.Remove {
				return s.hold(cmd, r)
			}
			return s.do(cmd, r)
		},
	}
}

func newServiceEnable(s *services) *cobra.Command {
	var later bool
	cmd := &cobra.Command{
		Use:               "enable NAME...",
		Short:             "Start services now and whenever the environment starts",
		Example:           "  lx service enable web",
		Args:              needNames,
		ValidArgsFunction: s.complete,
		RunE: func(cmd *cobra.Command, args []string) error {
			return s.hold(cmd, supervisor.Request{Verb: supervisor.Enable, Names: args, Now: !later})
		},
	}
	cmd.Flags().BoolVar(&later, "later", false, "do not start them now")
	return cmd
}

func newServiceDisable(s *services) *cobra.Command {
	var now bool
	cmd := &cobra.Command{
		Use:               "disable NAME...",
		Short:             "Do not start services with the environment any more",
		Example:           "  lx service disable --now web",
		Args:              needNames,
		ValidArgsFunction: s.complete,
		RunE: func(cmd *cobra.Command, args []string) error {
			return s.hold(cmd, supervisor.Request{Verb: supervisor.Disable, Names: args, Now: now})
		},
	}
	cmd.Flags().BoolVar(&now, "now", false, "stop them as well")
	return cmd
}

// addOptions are the flags that make a unit file.
type addOptions struct {
	unit      service.Unit
	env       []string
	typ       string
	restart   string
	ready     string
	listen    []string
	onDemand  bool
	health    string
	file      string
	enable    bool
	force     bool
	stopAfter time.Duration
	schedule  string
	every     time.Duration
}

func newServiceAdd(s *services, timer bool) *cobra.Command {
	var o addOptions
	cmd := &cobra.Command{
		Use:   "add NAME [flags] -- COMMAND [ARG...]",
		Short: "Define a service",
		Long: `add writes the unit file of a service that runs COMMAND. With --file it takes a unit
file as it is. The service is not started, unless with --enable.`,
		Example: `  lx service add web --enable --ready-port 8080 -- python3 -m http.server 8080
  lx service add worker --after web --requires web --restart always --env QUEUE=mail -- ./worker
  lx service add web --file web.toml`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return runServiceAdd(cmd, *s, o, args, timer)
		},
	}
	f := cmd.Flags()
	if timer {
		cmd.Use = "add NAME --schedule SCHEDULE|--every TIME [flags] -- COMMAND [ARG...]"
		cmd.Short = "Run a command at times"
		cmd.Long = `add makes a timer that runs COMMAND by a schedule as in crontab(5) (five fields, or
@hourly, @daily, @weekly, @monthly, @yearly, @reboot), in local time, or in intervals.
A timer is enabled at once; it keeps its environment. A run that was missed while
nothing ran is caught up, once.`
		cmd.Example = `  lx timer add backup --schedule "0 6 * * *" -- ./backup
  lx timer add poll --every 1h -- curl -fsS http://localhost/poll`
		f.StringVar(&o.schedule, "schedule", "", "when: minute, hour, day of month, month, day of week")
		f.DurationVar(&o.every, "every", 0, "in intervals, as 1h or 15m")
	} else {
		f.StringVar(&o.typ, "type", "", "simple, exec, forking, notify or oneshot")
		f.StringVar(&o.restart, "restart", "", "no, on-failure (the default), always, on-success, on-abnormal or on-abort")
		f.StringVar(&o.ready, "ready-port", "", "up when [ADDRESS:]PORT takes connections")
		f.StringArrayVar(&o.listen, "listen", nil, "open tcp/[ADDRESS:]PORT, udp/… or /path and pass it on (sd_listen_fds)")
		f.BoolVar(&o.onDemand, "on-demand", false, "with --listen: the first client starts the service")
		f.StringVar(&o.health, "health", "", "a shell command that has to succeed every 30 seconds")
		f.StringVar(&o.unit.PIDFile, "pid-file", "", "of a forking service")
		f.StringSliceVar(&o.unit.After, "after", nil, "start after these services")
		f.StringSliceVar(&o.unit.Requires, "requires", nil, "start these as well, and only if they are up")
		f.StringSliceVar(&o.unit.Wants, "wants", nil, "start these as well")
		f.StringVar(&o.file, "file", "", "a unit file instead of COMMAND and flags")
		f.BoolVar(&o.enable, "enable", false, "enable and start it")
	}
	f.StringVar(&o.unit.Description, "description", "", "what it is")
	f.StringArrayVar(&o.env, "env", nil, "NAME=VALUE for its environment")
	f.StringArrayVar(&o.unit.EnvFiles, "env-file", nil, "a file of such lines; a leading - allows its absence")
	f.StringVar(&o.unit.Dir, "dir", "", "its working directory")
	f.StringVar(&o.unit.User, "user", "", "whom it runs as (others than root need subuids)")
	f.DurationVar(&o.stopAfter, "stop-timeout", 0, "from SIGTERM to SIGKILL (default 10s)")
	f.BoolVar(&o.force, "force", false, "replace one of that name")
	return cmd
}

func runServiceAdd(cmd *cobra.Command, s services, o addOptions, args []string, timer bool) error {
	if len(args) == 0 {
		return usageError{fmt.Errorf("%s needs a NAME", cmd.CommandPath())}
	}
	name := args[0]
	text, err := o.text(name, args[1:], timer)
	if err != nil {
		return err
	}
	if err := s.do(cmd, supervisor.Request{Verb: supervisor.Add, Names: []string{name}, Unit: text, Force: o.force}); err != nil {
		return err
	}
	if !o.enable && !timer {
		return nil
	}
	return s.hold(cmd, supervisor.Request{Verb: supervisor.Enable, Names: []string{name}, Now: true})
}

// text is the unit file that the flags say.
func (o addOptions) text(name string, argv []string, timer bool) (string, error) {
	if o.file != "" {
		if len(argv) > 0 {
			return "", usageError{errors.New("--file and a COMMAND: want one of them")}
		}
		b, err := os.ReadFile(o.file)
		if err != nil {
			return "", fmt.Errorf("cannot read the unit: %w", err)
		}
		return string(b), nil
	}
	if len(argv) == 0 {
		return "", usageError{errors.New("add needs a COMMAND after --")}
	}
	if timer && (o.schedule == "") == (o.every == 0) {
		return "", usageError{errors.New("a timer needs either --schedule or --every")}
	}
	u := o.unit
	u.Name, u.Command = name, argv
	u.Type, u.Restart = service.Type(o.typ), service.Restart(o.restart)
	u.Schedule, u.Every, u.StopTimeout = o.schedule, service.Duration(o.every), service.Duration(o.stopAfter)
	u.Ready.Port = o.ready
	if strings.Contains(argv[0], "/") && !filepath.IsAbs(argv[0]) || u.Dir != "" && !filepath.IsAbs(u.Dir) {
		wd, err := os.Getwd()
		if err != nil {
			return "", fmt.Errorf("cannot tell where %s is: %w", argv[0], err)
		}
		if strings.Contains(argv[0], "/") && !filepath.IsAbs(argv[0]) {
			u.Command = append(service.Command{filepath.Join(wd, argv[0])}, argv[1:]...)
		}
		if u.Dir != "" && !filepath.IsAbs(u.Dir) {
			u.Dir = filepath.Join(wd, u.Dir)
		}
	}
	for _, e := range o.env {
		k, v, ok := strings.Cut(e, "=")
		if !ok {
			return "", usageError{fmt.Errorf("--env %q: want NAME=VALUE", e)}
		}
		if u.Env == nil {
			u.Env = map[string]string{}
		}
		u.Env[k] = v
	}
	for _, l := range o.listen {
		u.Sockets = append(u.Sockets, service.Socket{Listen: l, OnDemand: o.onDemand})
	}
	if o.onDemand && len(o.listen) == 0 {
		return "", usageError{errors.New("--on-demand needs --listen")}
	}
	if o.health != "" {
		u.Health = &service.Health{Command: service.Command{"/bin/sh", "-c", o.health}}
	}
	if err := u.Check(); err != nil {
		return "", usageError{err}
	}
	b, err := service.Marshal(u)
	return string(b), err
}

func newServiceImport(s *services) *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:   "import UNIT...",
		Short: "Make services of the environment's systemd units",
		Long: `import reads systemd service units of the environment with their drop-ins
(UNIT.d/*.conf, in the directories of systemd.unit(5) or beside the unit files of lx) and
writes unit files of lx. NAME@INSTANCE reads the template NAME@.service; a UNIT
with a slash is a file. Keys that lx does not have are named.`,
		Example: "  lx service import ssh.service\n  lx -d debian service import postgresql@15-main",
		Args:    needNames,
		RunE: func(cmd *cobra.Command, args []string) error {
			for i, a := range args {
				if strings.HasPrefix(a, ".") {
					p, err := filepath.Abs(a)
					if err != nil {
						return err
					}
					args[i] = p
				}
			}
			return s.do(cmd, supervisor.Request{Verb: supervisor.Import, Names: args, Force: force})
		},
	}
	cmd.Flags().BoolVar(&force, "force", false, "replace services of that name")
	return cmd
}

func newServiceList(s *services, timers bool) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:     "list [--json]",
		Short:   "List services with their state",
		Example: "  lx service list\n  lx -d debian service list --json",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			units, err := s.list(cmd.Context(), supervisor.Request{Verb: supervisor.List})
			if err != nil {
				return s.notRunning(err)
			}
			units = slices.DeleteFunc(units, func(u supervisor.Status) bool {
				if timers {
					return u.Timer == nil
				}
				return strings.HasPrefix(u.Name, "cron@")
			})
			if asJSON {
				return printJSON(cmd.OutOrStdout(), units)
			}
			if timers {
				return printTimers(cmd.OutOrStdout(), units)
			}
			return printServices(cmd.OutOrStdout(), units)
		},
	}
	if timers {
		cmd.Short, cmd.Example = "List timers with their next and last run", "  lx timer list\n  lx timer list --json"
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "as JSON")
	return cmd
}

// notRunning says what to type where the environment does not run.
func (s *services) notRunning(err error) error {
	if !errors.Is(err, env.ErrNotRunning) {
		return err
	}
	start := "lx true"
	if s.env != "" {
		start = "lx -d " + s.env + " true"
	}
	return withHint(err, "`"+start+"` starts it, with its enabled services")
}

func printServices(w io.Writer, units []supervisor.Status) error {
	if len(units) == 0 {
		return nil
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "NAME\tSTATE\tENABLED\tPID\tRESTARTS\tSINCE\tLAST END")
	for _, u := range units {
		enabled, pid := "no", "-"
		if u.Enabled {
			enabled = "yes"
		}
		if u.PID != 0 {
			pid = fmt.Sprint(u.PID)
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%d\t%s\t%s\n", plain(u.Name), stateWord(u), enabled, pid, u.Restarts, ago(u.Since), plain(firstLine(u.Why)))
	}
	return t.Flush()
}

// stateWord is the state in the table.
func stateWord(u supervisor.Status) string {
	switch {
	case u.Broken != "":
		return "broken"
	case u.Listening && u.State == service.Inactive:
		return "listening"
	case u.Timer != nil && u.Timer.Next != nil && u.State == service.Inactive:
		return "waiting for its time"
	}
	return plain(string(u.State))
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return line
}

// ago is how long t is past.
func ago(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return time.Since(t).Round(time.Second).String()
}

func newServiceStatus(s *services) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "status NAME... [--json]",
		Short: "Show services: state, why they ended, what they last wrote",
		Long: `status shows the state of services, why the last run ended, what may help, and the last
lines they wrote. Exit codes: 0 where all are up, 3 where one is not, 4 where one does
not exist.`,
		Example:           "  lx service status web",
		Args:              needNames,
		ValidArgsFunction: s.complete,
		RunE: func(cmd *cobra.Command, args []string) error {
			units, err := s.list(cmd.Context(), supervisor.Request{Verb: supervisor.Show, Names: args})
			var missing supervisor.MissingError
			switch {
			case errors.As(err, &missing):
				fmt.Fprintln(cmd.ErrOrStderr(), "lx:", printable(err.Error()))
				return exitCode(exitNoUnit)
			case errors.Is(err, env.ErrNotRunning):
				fmt.Fprintln(cmd.ErrOrStderr(), "lx:", printable(err.Error()))
				return exitCode(exitInactive)
			case err != nil:
				return err
			}
			if asJSON {
				err = printJSON(cmd.OutOrStdout(), units)
			} else {
				err = s.printStatus(cmd, units)
			}
			if err != nil {
				return err
			}
			if slices.ContainsFunc(units, func(u supervisor.Status) bool { return u.State != service.Active && !u.Listening }) {
				return exitCode(exitInactive)
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "as JSON")
	return cmd
}

// lastLines is how much of the log a status shows.
const lastLines = 10

func (s *services) printStatus(cmd *cobra.Command, units []supervisor.Status) error {
	w := cmd.OutOrStdout()
	for i, u := range units {
		if i > 0 {
			fmt.Fprintln(w)
		}
		head := plain(u.Name)
		if u.Description != "" {
			head += " - " + plain(u.Description)
		}
		fmt.Fprintln(w, head)
		row := func(name, format string, args ...any) {
			fmt.Fprintf(w, "%10s: %s\n", name, printable(fmt.Sprintf(format, args...)))
		}
		enabled := "not enabled"
		if u.Enabled {
			enabled = "enabled"
		}
		row("unit", "%s (%s)", u.Path, enabled)
		row("state", "%s since %s (%s ago)", stateWord(u), u.Since.Local().Format(time.DateTime), ago(u.Since))
		if u.Broken != "" {
			row("broken", "%s", u.Broken)
		}
		if u.PID != 0 {
			row("main pid", "%d, %d processes", u.PID, u.Processes)
		}
		if u.Restarts > 0 {
			row("restarts", "%d", u.Restarts)
		}
		if u.Says != "" {
			row("says", "%s", plain(u.Says))
		}
		if u.Why != "" {
			row("last end", "%s", plain(u.Why))
		}
		if u.Hint != "" {
			row("hint", "%s", u.Hint)
		}
		if t := u.Timer; t != nil {
			row("timer", "%s, next %s, last %s", t.Schedule, moment(t.Next), moment(t.Last))
		}
		fmt.Fprintln(w)
		if err := s.printLog(cmd, u.Name, journal.Query{Last: lastLines}); err != nil {
			return err
		}
	}
	return nil
}

func moment(t *time.Time) string {
	if t == nil {
		return "-"
	}
	return t.Local().Format(time.DateTime)
}

func (s *services) printLog(cmd *cobra.Command, name string, q journal.Query) error {
	w := cmd.OutOrStdout()
	return s.call(cmd.Context(), false, supervisor.Request{Verb: supervisor.Logs, Names: []string{name}, Log: q}, func(a supervisor.Answer) error {
		if e := a.Entry; e != nil {
			who := name
			if e.Stream == "lx" {
				who = "lx"
			}
			_, err := fmt.Fprintf(w, "%s %s: %s\n", e.Time.Local().Format("2006-01-02 15:04:05.000"), who, plain(e.Text))
			return err
		}
		return nil
	})
}

func newServiceLogs(s *services) *cobra.Command {
	var q journal.Query
	var since string
	var asJSON bool
	cmd := &cobra.Command{
		Use:               "logs NAME [-f] [-n LINES] [--since TIME] [--json]",
		Short:             "Show what a service wrote to standard output and error",
		Example:           "  lx service logs -f web\n  lx service logs --since 10m web\n  lx service logs --since '2026-01-31 06:00' web",
		ValidArgsFunction: s.complete,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usageError{errors.New("logs takes one NAME")}
			}
			if since != "" {
				t, err := parseSince(since, time.Now())
				if err != nil {
					return usageError{err}
				}
				q.Since = t
			}
			if !asJSON {
				err := s.printLog(cmd, args[0], q)
				if q.Follow && cmd.Context().Err() != nil {
					return nil
				}
				return s.notRunning(err)
			}
			var entries []journal.Entry
			err := s.call(cmd.Context(), false, supervisor.Request{Verb: supervisor.Logs, Names: args, Log: journal.Query{Since: q.Since, Last: q.Last}},
				func(a supervisor.Answer) error {
					if a.Entry != nil {
						entries = append(entries, *a.Entry)
					}
					return nil
				})
			if err != nil {
				return s.notRunning(err)
			}
			return printJSON(cmd.OutOrStdout(), entries)
		},
	}
	cmd.Flags().BoolVarP(&q.Follow, "follow", "f", false, "go on showing what is added")
	cmd.Flags().IntVarP(&q.Last, "lines", "n", 0, "so many lines, the last ones (default all)")
	cmd.Flags().StringVar(&since, "since", "", "from a time (2026-01-31 06:00, 06:00) or a span ago (10m) on")
	cmd.Flags().BoolVar(&asJSON, "json", false, "as JSON")
	return cmd
}

// parseSince reads a span ago or a local time.
func parseSince(s string, now time.Time) (time.Time, error) {
	if d, err := service.ParseDuration(s); err == nil && !strings.Contains(s, ":") {
		return now.Add(-d), nil
	}
	for _, layout := range []string{time.RFC3339, time.DateTime, "2006-01-02 15:04", time.DateOnly} {
		if t, err := time.ParseInLocation(layout, s, now.Location()); err == nil {
			return t, nil
		}
	}
	for _, layout := range []string{time.TimeOnly, "15:04"} {
		if t, err := time.ParseInLocation(layout, s, now.Location()); err == nil {
			y, m, d := now.Date()
			return time.Date(y, m, d, t.Hour(), t.Minute(), t.Second(), 0, now.Location()), nil
		}
	}
	return time.Time{}, fmt.Errorf("--since %q: want a time (2026-01-31 06:00, 06:00) or a span (10m)", s)
}

func newServiceDoctor(s *services) *cobra.Command {
	return &cobra.Command{
		Use:     "doctor",
		Short:   "Say which services would survive a logout and a reboot, and what is missing",
		Example: "  lx service doctor",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			units, err := s.list(cmd.Context(), supervisor.Request{Verb: supervisor.List})
			if err != nil {
				return s.notRunning(err)
			}
			findings := survival(units, hostLogin())
			for _, f := range findings {
				fmt.Fprintln(cmd.OutOrStdout(), f)
			}
			return nil
		},
	}
}

// login is what of the host decides over the life of a user's processes.
type login struct {
	systemd bool   // a systemd user manager may run
	linger  bool   // loginctl enable-linger
	user    string // the calling user's name
}

// hostLogin reads the host.
func hostLogin() login {
	l := login{user: env.UserName()}
	if _, err := os.Stat("/run/systemd/system"); err == nil {
		l.systemd = true
	}
	if _, err := os.Stat("/var/lib/systemd/linger/" + l.user); err == nil && l.user != "" {
		l.linger = true
	}
	return l
}

// survival says in lines what of the services lives on.
func survival(units []supervisor.Status, l login) []string {
	kinds := map[string][]string{}
	for _, u := range units {
		switch {
		case u.Broken != "":
			kinds["broken"] = append(kinds["broken"], u.Name)
		case u.Enabled:
			kinds["enabled"] = append(kinds["enabled"], u.Name)
		case u.State != service.Inactive && u.State != service.Failed:
			kinds["running"] = append(kinds["running"], u.Name)
		}
	}
	var out []string
	for _, k := range slices.Sorted(maps.Keys(kinds)) {
		names := plain(strings.Join(kinds[k], ", "))
		switch k {
		case "broken":
			out = append(out, "broken: "+names+": `lx service status` says why")
		case "enabled":
			out = append(out, "enabled: "+names+": live on without a console, come up with the environment")
		case "running":
			out = append(out, "running, not enabled: "+names+": live on without a console, do not come up again: `lx service enable NAME`")
		}
	}
	switch {
	case !l.systemd:
		out = append(out, "logout: survived (no systemd here that ends a user's processes)")
	case l.linger:
		out = append(out, "logout: survived ("+l.user+" lingers)")
	default:
		out = append(out, "logout: systemd may end a user's processes then; the line that keeps them:  loginctl enable-linger "+l.user)
	}
	return append(out, "reboot: enabled services come up with the daemon, which the first `lx service` or `lx list` starts; the line that starts it at boot, for crontab -e:  @reboot lx daemon start")
}
