package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/lxbridge/lx/cmd/internal/api"
	"github.com/lxbridge/lx/cmd/internal/command"
	"github.com/lxbridge/lx/core/config"
	"github.com/lxbridge/lx/core/env"
	"github.com/lxbridge/lx/core/store"
)

// connect is the user's daemon, which is started if need be.
func connect(ctx context.Context) (*api.Daemon, error) {
	dirs, err := env.UserDirs()
	if err != nil {
		return nil, err
	}
	return api.Connect(ctx, dirs, version)
}

// openStore opens the user's store, where the configuration says it is.
func openStore() (*store.Store, error) {
	at, err := storeDir()
	if err != nil {
		return nil, err
	}
	return store.Open(at)
}

// defaultName is the default environment, whether or not there is a store.
func defaultName() (string, error) {
	at, err := storeDir()
	if err != nil {
		return "", err
	}
	return store.DefaultName(at)
}

func storeDir() (string, error) {
	dirs, err := env.UserDirs()
	if err != nil {
		return "", err
	}
	return config.Store(dirs.Config)
}

func newList() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:     "list [--json]",
		Short:   "List the environments",
		Example: "  lx list\n  lx list --json",
		Args:    command.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			d, err := connect(cmd.Context())
			if err != nil {
				return err
			}
			list, err := d.Environments(cmd.Context())
			if err != nil {
				return err
			}
			if asJSON {
				return command.WriteJSON(cmd.OutOrStdout(), list)
			}
			return printList(cmd.OutOrStdout(), list)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "as JSON")
	return cmd
}

func printList(w io.Writer, list []api.Environment) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	_, err := fmt.Fprintln(t, "NAME\tSTATE\tSOURCE")
	errs := []error{err}
	for _, e := range list {
		name, state, source := e.Name, "stopped", plain(e.Source)
		if e.Default {
			name += " *"
		}
		if e.Running {
			state = "running"
		}
		if source == "" {
			source = "the host's files"
		}
		_, err := fmt.Fprintf(t, "%s\t%s\t%s\n", name, state, source)
		errs = append(errs, err)
	}
	return errors.Join(append(errs, t.Flush())...)
}
