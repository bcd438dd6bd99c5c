package netcli

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/lxbridge/lx/cmd/internal/command"
	"github.com/lxbridge/lx/netns"
)

func newCounters(t term) *cobra.Command {
	var asJSON, all bool
	cmd := &cobra.Command{
		Use:     "counters [NAME]",
		Short:   "Show the kernel's counters of network protocols",
		Long:    "counters shows what netstat -s and nstat do, of names that contain NAME in whatever case; those that are 0 with --all alone.",
		Example: "  lxnet counters\n  lxnet counters tcp\n  lxnet counters listen --all --json",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			list, err := netns.Counters()
			if err != nil {
				return err
			}
			part := strings.ToLower(strings.Join(args, ""))
			list = slices.DeleteFunc(list, func(c netns.Counter) bool {
				return !strings.Contains(strings.ToLower(c.Name), part) || c.Value == 0 && !all
			})
			if asJSON {
				return command.WriteJSON(t.out, append([]netns.Counter{}, list...))
			}
			tb := &table{columns: []column{{title: "NAME"}, {title: "VALUE", right: true}}}
			for _, c := range list {
				tb.add(plainStyle, c.Name, strconv.FormatInt(c.Value, 10))
			}
			width, _ := screen(t.out)
			for _, line := range tb.lines(width, coloured(t.out)) {
				if _, err := fmt.Fprintln(t.out, line); err != nil {
					return err
				}
			}
			return nil
		},
	}
	cmd.Flags().BoolVarP(&all, "all", "a", false, "those that are 0 as well")
	cmd.Flags().BoolVar(&asJSON, "json", false, "as JSON")
	return cmd
}
