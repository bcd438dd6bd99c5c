package netcli

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/lxbridge/lx/cmd/internal/command"
	"github.com/lxbridge/lx/netns"
)

func newConflicts(t term) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "conflicts",
		Short: "List which two want the same port",
		Long: `conflicts lists pairs of different programs that share a port, with who gets what.
Exit code 1: there are some.`,
		Example: "  lxnet conflicts\n  lxnet conflicts --json",
		Args:    command.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			s, err := read(netns.Query{})
			if err != nil {
				return err
			}
			v := (&selection{}).view(s)
			if asJSON {
				err = command.WriteJSON(t.out, v.Shadows)
			} else {
				width, _ := screen(t.out)
				for _, line := range shadowLines(v.Shadows, width, coloured(t.out)) {
					if _, err = fmt.Fprintln(t.out, line); err != nil {
						break
					}
				}
				t.unseen(s)
			}
			if err == nil && len(v.Shadows) > 0 {
				err = command.Failure
			}
			return err
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "as JSON")
	return cmd
}
