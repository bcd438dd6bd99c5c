package cli

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/lxbridge/lx/cmd/internal/command"
	"github.com/lxbridge/lx/core/env"
	"github.com/lxbridge/lx/core/service"
	"github.com/lxbridge/lx/core/service/journal"
	"github.com/lxbridge/lx/core/service/supervisor"
)

func newServiceList(s *services, timers bool) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:     "list [--json]",
		Short:   "List services with their state",
		Example: "  lx service list\n  lx -d debian service list --json",
		Args:    command.NoArgs,
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
				return command.WriteJSON(cmd.OutOrStdout(), units)
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
				fmt.Fprintln(cmd.ErrOrStderr(), "lx:", command.Printable(err.Error()))
				return command.ExitCode(exitNoUnit)
			case errors.Is(err, env.ErrNotRunning):
				fmt.Fprintln(cmd.ErrOrStderr(), "lx:", command.Printable(err.Error()))
				return command.ExitCode(exitInactive)
			case err != nil:
				return err
			}
			if asJSON {
				err = command.WriteJSON(cmd.OutOrStdout(), units)
			} else {
				err = s.printStatus(cmd, units)
			}
			if err != nil {
				return err
			}
			if slices.ContainsFunc(units, func(u supervisor.Status) bool { return u.State != service.Active && !u.Listening }) {
				return command.ExitCode(exitInactive)
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
			fmt.Fprintf(w, "%10s: %s\n", name, command.Printable(fmt.Sprintf(format, args...)))
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
				return command.Misused(errors.New("logs takes one NAME"))
			}
			if since != "" {
				t, err := parseSince(since, time.Now())
				if err != nil {
					return command.Misused(err)
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
			return command.WriteJSON(cmd.OutOrStdout(), entries)
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
		Args:    command.NoArgs,
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
