package cli

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/lxbridge/lx/cmd/internal/command"
	"github.com/lxbridge/lx/core/env"
)

func newStop() *cobra.Command {
	var name string
	cmd := &cobra.Command{
		Use:   "stop [ENVIRONMENT]",
		Short: "End an environment: its processes, then its mounts",
		Long: `stop ends the environment (by default what lx default tells). Its processes get SIGTERM, and after
five seconds SIGKILL; what was written to its mounts is brought to the servers, or
the failure is told. It succeeds where nothing runs.`,
		Example: "  lx stop\n  lx stop host-2",
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 1 {
				return command.Misused(fmt.Errorf("stop takes one environment, not %d", len(args)))
			}
			if len(args) == 1 {
				name = args[0]
			}
			name, err := environment(name)
			if err != nil {
				return err
			}
			dirs, err := env.UserDirs()
			if err != nil {
				return err
			}
			err = env.Stop(cmd.Context(), dirs, name)
			if errors.Is(err, env.ErrNotRunning) {
				return insideOf(name)
			}
			return err
		},
	}
	addEnv(cmd.Flags(), &name)
	return cmd
}
