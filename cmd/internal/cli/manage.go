package cli

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/lxbridge/lx/cmd/internal/api"
	"github.com/lxbridge/lx/cmd/internal/command"
	"github.com/lxbridge/lx/core/env"
	"github.com/lxbridge/lx/core/store"
)

// exactly refuses another number of arguments as wrong usage.
func exactly(n int, what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) != n {
			return command.Misused(fmt.Errorf("%s wants %s", cmd.CommandPath(), what))
		}
		return nil
	}
}

func newDefault() *cobra.Command {
	return &cobra.Command{
		Use:     "default [NAME]",
		Short:   "Tell or set the environment that is meant where none is named",
		Example: "  lx default\n  lx default debian\n  lx default host",
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				name, err := defaultName()
				if err == nil {
					_, err = fmt.Fprintln(cmd.OutOrStdout(), name)
				}
				return err
			}
			if err := exactly(1, "one NAME")(cmd, args); err != nil {
				return err
			}
			d, err := connect(cmd.Context())
			if err != nil {
				return err
			}
			return d.SetDefault(cmd.Context(), args[0])
		},
	}
}

func newRename() *cobra.Command {
	return &cobra.Command{
		Use:     "rename NAME NEW",
		Short:   "Give a stopped environment another name",
		Example: "  lx rename debian old",
		Args:    exactly(2, "NAME and NEW"),
		RunE: func(cmd *cobra.Command, args []string) error {
			d, err := connect(cmd.Context())
			if err != nil {
				return err
			}
			return d.Rename(cmd.Context(), args[0], args[1])
		},
	}
}

func newRemove() *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:   "remove NAME [--force]",
		Short: "Remove an imported environment with its files",
		Long: `remove deletes an environment and all that was written in it. One that runs is
refused, or stopped first with --force.`,
		Example: "  lx remove debian",
		Args:    exactly(1, "one NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			d, err := connect(cmd.Context())
			if err != nil {
				return err
			}
			return d.Remove(cmd.Context(), args[0], force)
		},
	}
	cmd.Flags().BoolVar(&force, "force", false, "stop it first if it runs")
	return cmd
}

func newUsage() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "usage [NAME...]",
		Short: "Tell what imported environments take on the disk",
		Long: `usage measures what was written in each environment, and the layers of its image,
which it may share with others.`,
		Example: "  lx usage\n  lx usage debian --json",
		RunE: func(cmd *cobra.Command, args []string) error {
			st, err := openStore()
			if err != nil {
				return err
			}
			if len(args) == 0 {
				list, err := st.List()
				if err != nil {
					return err
				}
				for _, r := range list[1:] {
					args = append(args, r.Name)
				}
			}
			type line struct {
				Name string `json:"name"`
				store.Use
			}
			lines := []line{}
			for _, name := range args {
				u, err := st.Usage(cmd.Context(), name)
				if err != nil {
					return err
				}
				lines = append(lines, line{name, u})
			}
			if asJSON {
				return command.WriteJSON(cmd.OutOrStdout(), lines)
			}
			t := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
			_, err = fmt.Fprintln(t, "NAME\tOWN\tSHARED")
			errs := []error{err}
			for _, l := range lines {
				_, err := fmt.Fprintf(t, "%s\t%s\t%s\n", l.Name, size(uint64(l.Own)), size(uint64(l.Shared)))
				errs = append(errs, err)
			}
			return errors.Join(append(errs, t.Flush())...)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "as JSON, in bytes")
	return cmd
}

func newShutdown() *cobra.Command {
	return &cobra.Command{
		Use:     "shutdown",
		Short:   "Stop all environments, the daemon and the device hub",
		Example: "  lx shutdown",
		Args:    command.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			dirs, err := env.UserDirs()
			if err != nil {
				return err
			}
			return shutdown(cmd.Context(), dirs)
		},
	}
}

func shutdown(ctx context.Context, dirs env.Dirs) error {
	// The daemon first: it starts again what it finds crashed.
	err := stopDaemon(ctx, dirs)
	names, nerr := dirs.Names()
	errs := append([]error{err, nerr, api.StopHub(ctx, dirs)}, make([]error, len(names))...)
	var wg sync.WaitGroup
	for i, n := range names {
		wg.Go(func() {
			if err := env.Stop(ctx, dirs, n); !errors.Is(err, env.ErrNotRunning) {
				errs[3+i] = err
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

func stopDaemon(ctx context.Context, dirs env.Dirs) error {
	d, err := api.Dial(ctx, dirs)
	if errors.Is(err, env.ErrNotRunning) {
		return nil
	}
	if err != nil {
		return err
	}
	pid, _ := dirs.Process(env.DaemonName)
	if err := d.Stop(ctx); err != nil {
		return err
	}
	return dirs.Ended(ctx, env.DaemonName, pid)
}
