package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/lxbridge/lx/cmd/internal/api"
	"github.com/lxbridge/lx/cmd/internal/command"
	"github.com/lxbridge/lx/cmd/internal/daemon"
	"github.com/lxbridge/lx/core/config"
	"github.com/lxbridge/lx/core/env"
	"github.com/lxbridge/lx/core/updates"
)

func newUpdates() *cobra.Command {
	var name string
	var check, asJSON bool
	cmd := &cobra.Command{
		Use:   "updates [--check] [--json]",
		Short: "Packages of an environment that are behind",
		Long: `updates tells what the last check found: packages of which the distribution has a newer
version. With --check its servers are asked now, in the environment, which is started if
need be.

Imported environments that run are checked once a day, by apt, dnf, zypper, apk or pacman
inside, with lists of their own in /var/cache/lx: the system's stay as they are. The host
is left to its own tools, unless its section of config.toml says check-updates = true;
check-updates = false ends the checks of another. Nothing is installed, unless an imported
environment's section says auto-update = "security" or "all". zypper counts patches as
security updates; apk and pacman do not tell which updates those are.`,
		Example: "  lx -d debian updates\n  lx -d debian updates --check --json",
		Args:    command.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			name, err := environment(name)
			if err != nil {
				return err
			}
			d, err := connect(cmd.Context())
			if err != nil {
				return err
			}
			var r updates.Report
			if check {
				r, err = checkNow(cmd.Context(), d, name)
			} else {
				r, err = lastReport(cmd.Context(), d, name)
			}
			if err != nil {
				return err
			}
			if asJSON {
				e := json.NewEncoder(cmd.OutOrStdout())
				e.SetIndent("", "  ")
				err = e.Encode(r)
			} else {
				err = printUpdates(cmd.OutOrStdout(), name, r)
			}
			if err == nil && r.Error != "" {
				err = fmt.Errorf("the check of %s at %s failed: %s", name, moment(&r.Failed), plain(r.Error))
			}
			return err
		},
	}
	addEnv(cmd.Flags(), &name)
	cmd.Flags().BoolVar(&check, "check", false, "ask the distribution's servers now")
	cmd.Flags().BoolVar(&asJSON, "json", false, "as JSON")
	return cmd
}

// checkNow says on a terminal what it waits for.
func checkNow(ctx context.Context, d *api.Daemon, name string) (updates.Report, error) {
	if term.IsTerminal(2) {
		fmt.Fprintf(os.Stderr, "asking the servers of %s's distribution…", name)
		defer fmt.Fprint(os.Stderr, "\r\x1b[K")
	}
	return d.CheckUpdates(ctx, name)
}

// lastReport refuses a name that no environment has.
func lastReport(ctx context.Context, d *api.Daemon, name string) (r updates.Report, err error) {
	list, err := d.Environments(ctx)
	if err != nil {
		return r, err
	}
	for _, e := range list {
		if e.Name == name {
			at, err := storeDir()
			if err != nil {
				return r, err
			}
			return daemon.LastReport(at, name)
		}
	}
	return r, fmt.Errorf("%s: no such environment", name)
}

// printUpdates prints a report, which comes from inside.
func printUpdates(w io.Writer, name string, r updates.Report) error {
	switch line := r.Line(); {
	case r.Off:
		fmt.Fprintln(w, "the configuration wants no checks")
	case r.Checked.IsZero():
		if r.Error == "" {
			fmt.Fprintf(w, "not checked yet: lx -d %s updates --check\n", name)
		}
	case line == "":
		fmt.Fprintf(w, "nothing is behind; checked %s by %s\n", moment(&r.Checked), plain(r.Manager))
	default:
		fmt.Fprintf(w, "%s; checked %s by %s\n", line, moment(&r.Checked), plain(r.Manager))
	}
	if u := r.Update; u != nil {
		how := "installed"
		if u.Error != "" {
			how = "failed: " + plain(u.Error)
		}
		fmt.Fprintf(w, "auto-update of %s, %s: %s\n", plain(u.What), moment(&u.At), how)
	}
	if len(r.Packages) == 0 || r.Off {
		return nil
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "NAME\tINSTALLED\tAVAILABLE\tSECURITY")
	for _, p := range r.Packages {
		installed, security := "-", "-"
		if p.Installed != "" {
			installed = plain(p.Installed)
		}
		if p.Security {
			security = "yes"
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", plain(p.Name), installed, plain(p.Available), security)
	}
	return t.Flush()
}

// greet tells, before a shell, what the last check for updates found. It says
// whether the environment is checked by itself.
func greet(w io.Writer, dirs env.Dirs, name string) bool {
	s, err := config.Load(dirs.Config, name)
	if err != nil || !daemon.Checked(name, s) {
		return false // the start of the environment tells what is wrong
	}
	at, err := config.Store(dirs.Config)
	if err != nil {
		return false
	}
	// What cannot be read is not worth a failure here: the next check writes it anew.
	if r, err := daemon.LastReport(at, name); err == nil && r.Line() != "" {
		fmt.Fprintln(w, r.Line())
	}
	return true
}

// loginLimit is how long the daemon is spoken to of a login, beside the shell.
const loginLimit = 10 * time.Second

// tellLogin has the daemon begin a check that is due, while the shell goes on.
// Where no daemon is, none begins. wait ends and waits for what it began.
func tellLogin(ctx context.Context, dirs env.Dirs, name string) (wait func()) {
	ctx, cancel := context.WithTimeout(ctx, loginLimit)
	var wg sync.WaitGroup
	wg.Go(func() {
		if d, err := api.Dial(ctx, dirs); err == nil {
			_ = d.LoggedIn(ctx, name) // the daemon's log has why
		}
	})
	return func() {
		cancel()
		wg.Wait()
	}
}
