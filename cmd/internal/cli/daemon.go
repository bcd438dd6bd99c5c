package cli

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/lxbridge/lx/cmd/internal/api"
	"github.com/lxbridge/lx/cmd/internal/command"
	"github.com/lxbridge/lx/cmd/internal/daemon"
	"github.com/lxbridge/lx/core/env"
)

// DaemonMain is the detached daemon's main function.
func DaemonMain() int { return daemon.Main(version) }

func newDaemon() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "daemon start|status|stop|logs",
		Short: "Start, stop and ask the daemon, which knows the environments",
		Long: `The daemon keeps the list of environments and runs those with enabled services. It
is started by the first command that needs it. Environments go on without it.`,
		Example: "  lx daemon status\n  lx daemon logs",
		Args:    command.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return command.Misused(errors.New("daemon wants start, status, stop or logs"))
		},
	}
	cmd.AddCommand(daemonStart(), daemonStatus(), daemonStop(), daemonLogs())
	return cmd
}

func daemonStart() *cobra.Command {
	var foreground bool
	cmd := &cobra.Command{
		Use:   "start [--foreground]",
		Short: "Start the daemon, and the environments with enabled services",
		Long: `start succeeds where the daemon runs already. After a reboot it brings up what is
enabled: a line "@reboot lx daemon start" in a crontab, or a systemd user unit with
lingering, does so without a login.`,
		Example: "  lx daemon start\n  lx daemon start --foreground",
		Args:    command.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !foreground {
				_, err := connect(cmd.Context())
				return err
			}
			ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGTERM, syscall.SIGINT)
			defer stop()
			return daemon.Serve(ctx, version, func() {})
		},
	}
	cmd.Flags().BoolVar(&foreground, "foreground", false, "in this process, for a service manager (Type=notify)")
	return cmd
}

func daemonStatus() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:     "status [--json]",
		Short:   "Tell whether the daemon runs; exit code 1 where not",
		Example: "  lx daemon status",
		Args:    command.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			dirs, err := env.UserDirs()
			if err != nil {
				return err
			}
			d, err := api.Dial(cmd.Context(), dirs)
			if errors.Is(err, env.ErrNotRunning) {
				fmt.Fprintln(cmd.OutOrStdout(), "the daemon does not run")
				return command.Failure
			}
			if err != nil {
				return err
			}
			s, err := d.Status(cmd.Context())
			if err != nil {
				return err
			}
			if asJSON {
				return json.NewEncoder(cmd.OutOrStdout()).Encode(s)
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "the daemon runs: process %d, since %s, lx %s, interface %d, service manager: %s\n",
				s.PID, s.Started.Format(time.DateTime), s.Version, s.API, s.Manager)
			return err
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "as JSON")
	return cmd
}

func daemonStop() *cobra.Command {
	return &cobra.Command{
		Use:     "stop",
		Short:   "End the daemon; environments go on",
		Example: "  lx daemon stop",
		Args:    command.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			dirs, err := env.UserDirs()
			if err != nil {
				return err
			}
			return stopDaemon(cmd.Context(), dirs)
		},
	}
}

func daemonLogs() *cobra.Command {
	var asJSON, follow bool
	cmd := &cobra.Command{
		Use:     "logs [-f] [--json]",
		Short:   "Show what the daemon says",
		Example: "  lx daemon logs -f",
		Args:    command.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			dirs, err := env.UserDirs()
			if err != nil {
				return err
			}
			if asJSON {
				return showLog(cmd.Context(), cmd.OutOrStdout(), dirs.Log(env.DaemonName), follow)
			}
			return showPlainLog(cmd.Context(), cmd.OutOrStdout(), dirs.Log(env.DaemonName), follow)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "as JSON, a line each")
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on showing what is added")
	return cmd
}

// showPlainLog is showLog for a log of JSON lines.
func showPlainLog(ctx context.Context, w io.Writer, path string, follow bool) error {
	r, pw, err := os.Pipe()
	if err != nil {
		return err
	}
	done := make(chan error, 1)
	go func() {
		defer r.Close()
		for s := bufio.NewScanner(r); s.Scan(); {
			if _, err := fmt.Fprintln(w, plainLine(s.Text())); err != nil {
				done <- err
				return
			}
		}
		done <- nil
	}()
	err = showLog(ctx, pw, path, follow)
	pw.Close()
	return errors.Join(err, <-done)
}

// plainLine is a line of JSON as time, message and the rest; others stay as they are.
func plainLine(line string) string {
	var m map[string]any
	if json.Unmarshal([]byte(line), &m) != nil {
		return line
	}
	var b strings.Builder
	for _, k := range []string{"time", "level", "msg"} {
		fmt.Fprintf(&b, "%v ", m[k])
		delete(m, k)
	}
	delete(m, "process")
	for _, k := range slices.Sorted(maps.Keys(m)) {
		fmt.Fprintf(&b, "%s=%q ", k, fmt.Sprint(m[k]))
	}
	return strings.TrimSpace(b.String())
}
