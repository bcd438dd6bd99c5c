package netcli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/lxbridge/lx/cmd/internal/api"
	"github.com/lxbridge/lx/cmd/internal/command"
	"github.com/lxbridge/lx/core/config"
	"github.com/lxbridge/lx/core/env"
	"github.com/lxbridge/lx/core/store"
	"github.com/lxbridge/lx/portbroker"
)

func newReserve(t term) *cobra.Command {
	var asJSON bool
	var why string
	cmd := &cobra.Command{
		Use:   "reserve [ENVIRONMENT PORT]",
		Short: "Hold a port for an environment, or list what is held",
		Long: `reserve holds PORT, [tcp/|udp/]NUMBER[-NUMBER], for an environment from now on, whether
it runs or not: everybody else gets "address in use", and lxnet tells why. Programs of
the environment bind to it as if it were free. The daemon holds it; a port that
somebody has now is held once it is free (exit code 1: some are not yet).`,
		Example: "  lxnet reserve debian 8080 --why \"the shop\"\n  lxnet reserve debian tcp/9000-9009\n  lxnet reserve --json",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 0 && len(args) != 2 {
				return command.Misused(errors.New("lxnet reserve takes ENVIRONMENT and PORT, or nothing"))
			}
			return nil
		},
		ValidArgsFunction: completePolicy,
		RunE: func(cmd *cobra.Command, args []string) error {
			dirs, err := env.UserDirs()
			if err != nil {
				return err
			}
			if len(args) == 0 {
				all, err := portbroker.ReadReservations(dirs.Reservations())
				if err != nil {
					return err
				}
				return t.printReservations(all, asJSON)
			}
			name, ports, err := parseReservation(args)
			if err != nil {
				return err
			}
			r := config.PortRule{Ports: ports, Policy: config.PortReserve, Why: why}
			if err := r.Check(); err != nil {
				return command.Misused(err)
			}
			all, err := setRule(cmd.Context(), dirs, name, r)
			if err != nil {
				return err
			}
			missing := false
			for _, v := range all {
				if v.Environment == name && ports.Contains(v.Protocol, v.Port) && v.Socket == 0 {
					missing = true
					fmt.Fprintf(t.err, "lxnet: %s is not held yet: %s; see lxnet who %s\n", v.Place, v.Missing, v.Place)
				}
			}
			if missing {
				return command.Failure
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "list as JSON")
	cmd.Flags().StringVar(&why, "why", "", "the reason, which who is refused is told")
	return cmd
}

func newRelease(term) *cobra.Command {
	return &cobra.Command{
		Use:     "release ENVIRONMENT PORT",
		Short:   "Hold a port no more",
		Long:    "release ends what reserve began. Programs that are bound stay so.",
		Example: "  lxnet release debian 8080",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 2 {
				return command.Misused(errors.New("lxnet release needs ENVIRONMENT and PORT"))
			}
			return nil
		},
		ValidArgsFunction: completePolicy,
		RunE: func(cmd *cobra.Command, args []string) error {
			dirs, err := env.UserDirs()
			if err != nil {
				return err
			}
			name, ports, err := parseReservation(args)
			if err != nil {
				return err
			}
			return removeRule(cmd.Context(), dirs, name, ports, config.PortReserve)
		},
	}
}

func parseReservation(args []string) (string, config.PortRange, error) {
	if err := store.CheckName(args[0]); err != nil {
		return "", config.PortRange{}, command.Misused(err)
	}
	ports, err := config.ParsePorts(args[1])
	if err != nil {
		return "", ports, command.Misused(err)
	}
	return args[0], ports, nil
}

func (t term) printReservations(all []portbroker.Reservation, asJSON bool) error {
	if asJSON {
		return command.WriteJSON(t.out, append([]portbroker.Reservation{}, all...))
	}
	tb := &table{columns: []column{{title: "NETID"}, {title: "PORT", right: true}, {title: "ENVIRONMENT", flexible: true}, {title: "HELD", flexible: true}, {title: "WHY", flexible: true}}}
	for _, r := range all {
		s, held := plainStyle, "yes"
		if r.Socket == 0 {
			s, held = yellow, "not yet: "+r.Missing
		}
		tb.add(s, r.Protocol, strconv.Itoa(int(r.Port)), r.Environment, held, r.Why)
	}
	width, _ := screen(t.out)
	for _, line := range tb.lines(width, coloured(t.out)) {
		if _, err := fmt.Fprintln(t.out, line); err != nil {
			return err
		}
	}
	return nil
}

// renew has the rules count in the environment, where it runs, and in the daemon,
// which is started where it has to hold a port. It answers what is reserved.
func renew(ctx context.Context, dirs env.Dirs, name string, reserves bool) ([]portbroker.Reservation, error) {
	if _, err := api.New(dirs, name).RenewPolicy(ctx); err != nil && !errors.Is(err, env.ErrNotRunning) {
		return nil, err
	}
	d, err := api.Dial(ctx, dirs)
	if errors.Is(err, env.ErrNotRunning) {
		if !reserves {
			return nil, nil
		}
		if err := startDaemon(ctx); err != nil {
			return nil, err
		}
		d, err = api.Dial(ctx, dirs)
	}
	if err != nil {
		return nil, err
	}
	return d.RenewReservations(ctx)
}

// startDaemon asks the lx beside this program, or in PATH.
func startDaemon(ctx context.Context) error {
	program := "lx"
	if exe, err := os.Executable(); err == nil {
		beside := filepath.Join(filepath.Dir(exe), "lx")
		if _, err := os.Stat(beside); err == nil {
			program = beside
		}
	}
	out, err := exec.CommandContext(ctx, program, "daemon", "start").CombinedOutput()
	if err != nil {
		return fmt.Errorf("cannot start the daemon, which holds the port: %w: %s", err, strings.TrimSpace(string(out)))
	}
	return nil
}
