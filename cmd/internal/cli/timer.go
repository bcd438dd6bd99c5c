package cli

import (
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/lxbridge/lx/cmd/internal/command"
	"github.com/lxbridge/lx/core/service/supervisor"
)

func newTimer() *cobra.Command {
	s := &services{}
	cmd := &cobra.Command{
		Use:   "timer COMMAND",
		Short: "Timers: commands that run at times",
		Long: `timer runs commands in an environment by a schedule or in intervals. A timer is a unit
like a service: "lx service status" and "lx service logs" know it.

In an imported environment crontabs (/etc/crontab, /etc/cron.d, those of "crontab -e") run
without a cron daemon; "list" shows their entries. Users' crontabs keep the environment.`,
		Example: `  lx timer add backup --schedule "0 6 * * *" -- ./backup
  lx timer list`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return command.Misused(fmt.Errorf("%s needs a command", cmd.CommandPath()))
			}
			return command.Misused(fmt.Errorf("%s has no command %q", cmd.CommandPath(), args[0]))
		},
		RunE: func(*cobra.Command, []string) error { return nil },
	}
	cmd.PersistentFlags().StringVarP(&s.env, "environment", "d", "", "whose timers (default: see lx default)")
	run := newServiceVerb(s, supervisor.Start, "Run timers' commands now, and wait for their end")
	run.Use, run.Example = "run NAME...", "  lx timer run backup"
	enable, disable := newServiceEnable(s), newServiceDisable(s)
	enable.Short, enable.Example = "Have timers run at their times", "  lx timer enable backup"
	disable.Short, disable.Example = "Do not run timers any more", "  lx timer disable backup"
	remove := newServiceVerb(s, supervisor.Remove, "Forget timers, with their logs")
	remove.Example = "  lx timer remove backup"
	cmd.AddCommand(newServiceAdd(s, true), newServiceList(s, true), run, enable, disable, remove)
	return cmd
}

func printTimers(w io.Writer, units []supervisor.Status) error {
	if len(units) == 0 {
		return nil
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "NAME\tSCHEDULE\tNEXT\tLAST\tRESULT")
	for _, u := range units {
		result := "-"
		if u.Timer.Last != nil && u.Timer.Result != "" {
			result = plain(firstLine(u.Timer.Why))
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\n", plain(u.Name), plain(u.Timer.Schedule), moment(u.Timer.Next), moment(u.Timer.Last), result)
	}
	return t.Flush()
}
