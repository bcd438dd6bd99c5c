package netcli

import (
	"cmp"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/lxbridge/lx/cmd/internal/command"
	"github.com/lxbridge/lx/core/env"
	"github.com/lxbridge/lx/portbroker"
)

func newHistory(t term) *cobra.Command {
	var environment, portText string
	var asJSON, failed bool
	var last int
	cmd := &cobra.Command{
		Use:   "history",
		Short: "Show who asked for which port in environments, and what was answered",
		Long: `history lists the binds and listens of programs in your environments, the latest last,
with what the kernel answered and, where it refused, who was in the way at that time.`,
		Example: "  lxnet history\n  lxnet history --failed --env debian\n  lxnet history --port 8080 --json",
		Args:    command.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			var p port
			if portText != "" {
				var err error
				if p, err = parsePort(portText); err != nil {
					return err
				}
			}
			dirs, err := env.UserDirs()
			if err != nil {
				return err
			}
			all, err := readHistory(dirs, func(r portbroker.Record) bool {
				return (environment == "" || r.Environment == environment) && (!failed || r.Error != "") &&
					(p.number == 0 || r.Wanted.Port() == p.number || r.Local.Port() == p.number)
			})
			if err != nil {
				return err
			}
			if last > 0 {
				all = all[max(0, len(all)-last):]
			}
			if asJSON {
				return command.WriteJSON(t.out, all)
			}
			return t.printHistory(all)
		},
	}
	f := cmd.Flags()
	f.StringVar(&environment, "env", "", "only of this environment")
	f.StringVar(&portText, "port", "", "only of this PORT")
	f.BoolVar(&failed, "failed", false, "only what was refused")
	f.IntVarP(&last, "lines", "n", 0, "only the last so many")
	f.BoolVar(&asJSON, "json", false, "as JSON")
	return cmd
}

// readHistory reads the ledgers of all environments, in the order of time.
func readHistory(dirs env.Dirs, wanted func(portbroker.Record) bool) ([]portbroker.Record, error) {
	all := []portbroker.Record{}
	paths, err := filepath.Glob(dirs.Ports("*"))
	if err != nil {
		return nil, fmt.Errorf("cannot find ledgers: %w", err)
	}
	for _, path := range paths {
		err := portbroker.ReadLedger(path, func(r portbroker.Record) {
			if wanted(r) {
				all = append(all, r)
			}
		})
		if err != nil {
			return nil, err
		}
	}
	slices.SortStableFunc(all, func(a, b portbroker.Record) int {
		return cmp.Or(a.At.Compare(b.At), cmp.Compare(a.PID, b.PID))
	})
	return all, nil
}

func (t term) printHistory(all []portbroker.Record) error {
	tb := &table{columns: []column{{title: "TIME"}, {title: "ENVIRONMENT", flexible: true}, {title: "PROCESS", flexible: true}, {title: "CALL"},
		{title: "NETID"}, {title: "ADDRESS"}, {title: "ANSWER", flexible: true}}}
	for _, r := range all {
		s, address, answer := plainStyle, r.Local.String(), "ok"
		if r.Error != "" {
			s, answer = yellow, r.Error
			if r.Why != "" {
				answer += ": " + r.Why
			}
			if r.Hint != "" {
				answer += "; " + r.Hint
			}
		}
		if r.Error != "" && r.Wanted.IsValid() || !r.Local.IsValid() {
			address = r.Wanted.String()
		}
		tb.add(s, r.At.Local().Format(time.DateTime), r.Environment, r.Command+"/"+strconv.Itoa(r.PID), r.Call, r.Protocol, address, answer)
	}
	width, _ := screen(t.out)
	for _, line := range tb.lines(width, coloured(t.out)) {
		if _, err := fmt.Fprintln(t.out, line); err != nil {
			return err
		}
	}
	return nil
}
