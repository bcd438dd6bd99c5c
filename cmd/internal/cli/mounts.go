package cli

import (
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/lxbridge/lx/cmd/internal/api"
	"github.com/lxbridge/lx/cmd/internal/command"
	"github.com/lxbridge/lx/core/env"
	"github.com/lxbridge/lx/mount"
)

func newMounts() *cobra.Command {
	var asJSON bool
	var dir string
	var name string
	cmd := &cobra.Command{
		Use:   "mounts [--json] | mounts --expose DIR TARGET",
		Short: "List what is mounted through lx, or show a mount to the host",
		Long: `mounts lists source, target, type, state, traffic, mean latency of a request and the
last error of each file system that is mounted through lx.

With --expose the file system mounted on TARGET inside is shown on the host's DIR as
well, until "fusermount3 -u DIR" or its unmount inside. It needs fusermount3.`,
		Example: "  lx mounts\n  lx mounts --json\n  lx mounts --expose ~/photos /mnt",
		RunE: func(cmd *cobra.Command, args []string) error {
			name, err := environment(name)
			if err != nil {
				return err
			}
			dirs, err := env.UserDirs()
			if err != nil {
				return err
			}
			if dir != "" {
				if len(args) != 1 || asJSON {
					return command.Misused(errors.New("--expose DIR needs one TARGET"))
				}
				return expose(cmd.Context(), dirs, name, args[0], dir)
			}
			if err := command.NoArgs(cmd, args); err != nil {
				return err
			}
			list, err := api.New(dirs, name).Mounts(cmd.Context())
			if errors.Is(err, env.ErrNotRunning) {
				err = insideOf(name)
			}
			if err != nil {
				return err
			}
			if asJSON {
				return command.WriteJSON(cmd.OutOrStdout(), list)
			}
			return printMounts(cmd.OutOrStdout(), list)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "as JSON")
	cmd.Flags().StringVar(&dir, "expose", "", "the directory of the host to show TARGET on")
	addEnv(cmd.Flags(), &name)
	return cmd
}

func printMounts(w io.Writer, list []mount.Info) error {
	if len(list) == 0 {
		return nil
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "SOURCE\tTARGET\tTYPE\tSTATE\tREAD\tWRITTEN\tREQUESTS\tLATENCY\tLAST ERROR")
	for _, m := range list {
		state := string(m.State)
		if m.Note != "" {
			state += ", " + m.Note
		}
		last := m.LastError
		if last != "" && !m.LastErrorAt.IsZero() {
			last = m.LastErrorAt.Format(time.TimeOnly) + " " + last
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%d\t%s\t%s\n", plain(m.Source), plain(m.Target), m.Type, state,
			size(m.BytesRead), size(m.BytesWritten), m.Requests, m.Latency.Round(time.Microsecond), plain(last))
	}
	return t.Flush()
}

// plain is text that cannot disturb the table or the terminal.
func plain(s string) string {
	q := strconv.Quote(s)
	return strings.ReplaceAll(q[1:len(q)-1], `\"`, `"`)
}

// size is n bytes as ls -h shows them.
func size(n uint64) string {
	const units = "KMGTPE"
	if n < 1024 {
		return strconv.FormatUint(n, 10)
	}
	v, i := float64(n)/1024, 0
	for ; v >= 1023.95 && i < len(units)-1; i++ {
		v /= 1024
	}
	return fmt.Sprintf("%.1f%c", v, units[i])
}
