package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/lxbridge/lx/cmd/internal/api"
	"github.com/lxbridge/lx/cmd/internal/command"
	"github.com/lxbridge/lx/core/env"
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
		return command.WithHint(err, "`lx service list` shows those of environment "+name)
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
			fmt.Fprintln(cmd.ErrOrStderr(), "lx: note:", command.Printable(n))
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
			fmt.Fprintln(os.Stderr, "lx: note:", command.Printable(n))
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
				return command.Misused(fmt.Errorf("%s needs a command", cmd.CommandPath()))
			}
			return command.Misused(fmt.Errorf("%s has no command %q", cmd.CommandPath(), args[0]))
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
		return command.Misused(fmt.Errorf("%s needs a NAME", cmd.CommandPath()))
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

// notRunning says what to type where the environment does not run.
func (s *services) notRunning(err error) error {
	if !errors.Is(err, env.ErrNotRunning) {
		return err
	}
	start := "lx true"
	if s.env != "" {
		start = "lx -d " + s.env + " true"
	}
	return command.WithHint(err, "`"+start+"` starts it, with its enabled services")
}
