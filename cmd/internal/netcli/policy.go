package netcli

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/lxbridge/lx/cmd/internal/command"
	"github.com/lxbridge/lx/core/config"
	"github.com/lxbridge/lx/core/env"
	"github.com/lxbridge/lx/core/store"
	"github.com/lxbridge/lx/portbroker"
)

// rule is a line of what policy lists.
type rule struct {
	Environment string `json:"environment"`
	config.PortRule
	Source string `json:"source"` // who said so
}

// Sources of rules.
const (
	fromConfig = "config.toml"
	fromLxnet  = "lxnet"
)

func newPolicy(t term) *cobra.Command {
	var asJSON, remove bool
	var r config.PortRule
	cmd := &cobra.Command{
		Use:   "policy [ENVIRONMENT [POLICY] [PORT]]",
		Short: "Say what becomes of an environment's binds, port by port",
		Long: `policy sets, or without POLICY lists, what becomes of the ports that programs of an
environment ask for. PORT is [tcp/|udp/]NUMBER[-NUMBER], or every port where it is left
out; the rule for the fewest ports counts, and lxnet's before one of config.toml
([[environment.NAME.port]] with port, policy, to, why). It counts from the next bind on,
and until it is removed.

  share    the kernel decides: what Linux always does, and the default
  deny     the program gets EACCES
  wait     bind waits until the port is free
  remap    where the port is held outside of the environment, or privileged: another one
           (127.0.0.1: an address of the environment's own; 8080: 18080; 80: 8080), or
           --to; the program's terminal and lxnet tell which
  reserve  held for the environment even while it does not run (lxnet reserve)`,
		Example: `  lxnet policy
  lxnet policy debian remap
  lxnet policy debian remap tcp/8080-8089 --to 9080
  lxnet policy debian deny 25 --why "mail goes through the host"
  lxnet policy debian --remove 25`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 3 || remove && len(args) > 2 {
				return command.Misused(errors.New("lxnet policy takes ENVIRONMENT, POLICY and PORT, with --remove ENVIRONMENT and PORT"))
			}
			return nil
		},
		ValidArgsFunction: completePolicy,
		RunE: func(cmd *cobra.Command, args []string) error {
			dirs, err := env.UserDirs()
			if err != nil {
				return err
			}
			name := ""
			if len(args) > 0 {
				if name = args[0]; store.CheckName(name) != nil {
					return command.Misused(store.CheckName(name))
				}
			}
			if len(args) < 2 && !remove {
				return t.listRules(dirs, name, asJSON)
			}
			text := ""
			if rest := args[1:]; remove && len(rest) > 0 {
				text = rest[0]
			} else if len(rest) > 1 {
				text = rest[1]
			}
			if r.Ports, err = config.ParsePorts(text); err != nil {
				return command.Misused(err)
			}
			if remove {
				return removeRule(cmd.Context(), dirs, name, r.Ports, "")
			}
			r.Policy = args[1]
			if err := r.Check(); err != nil {
				return command.Misused(err)
			}
			_, err = setRule(cmd.Context(), dirs, name, r)
			return err
		},
	}
	f := cmd.Flags()
	f.BoolVar(&asJSON, "json", false, "list as JSON")
	f.BoolVar(&remove, "remove", false, "forget what lxnet was told of PORT")
	f.Uint16Var(&r.To, "to", 0, "remap: to this port, the first of as many")
	f.StringVar(&r.Why, "why", "", "the reason, which who is refused is told")
	return cmd
}

func completePolicy(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	switch len(args) {
	case 0:
		dirs, err := env.UserDirs()
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		names, err := dirs.Names()
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	case 1:
		return config.PortPolicies(), cobra.ShellCompDirectiveNoFileComp
	}
	return nil, cobra.ShellCompDirectiveNoFileComp
}

// readRules are the rules of one environment, or with no name of all.
func readRules(dirs env.Dirs, name string) ([]rule, error) {
	settings, err := config.Environments(dirs.Config)
	if err != nil {
		return nil, err
	}
	names := slices.Collect(maps.Keys(settings))
	paths, err := filepath.Glob(dirs.Policy("*"))
	if err != nil {
		return nil, fmt.Errorf("cannot find policies: %w", err)
	}
	for _, path := range paths {
		names = append(names, strings.TrimSuffix(filepath.Base(path), filepath.Ext(path)))
	}
	slices.Sort(names)
	all := []rule{}
	for _, n := range slices.Compact(names) {
		if name != "" && n != name {
			continue
		}
		told, err := portbroker.ReadRules(dirs.Policy(n))
		if err != nil {
			return nil, err
		}
		for _, r := range config.MergePorts(told, settings[n].Ports) {
			source := fromConfig
			if slices.Contains(told, r) {
				source = fromLxnet
			}
			all = append(all, rule{n, r, source})
		}
	}
	return all, nil
}

func (t term) listRules(dirs env.Dirs, name string, asJSON bool) error {
	all, err := readRules(dirs, name)
	if err != nil {
		return err
	}
	if asJSON {
		return command.WriteJSON(t.out, all)
	}
	tb := &table{columns: []column{{title: "ENVIRONMENT", flexible: true}, {title: "PORT"}, {title: "POLICY"}, {title: "TO"}, {title: "BY"}, {title: "WHY", flexible: true}}}
	for _, r := range all {
		where, to := r.Ports.String(), ""
		if where == "" || strings.HasSuffix(where, "/") {
			where += "*"
		}
		if r.To != 0 {
			to = fmt.Sprint(r.To)
		}
		tb.add(plainStyle, r.Environment, where, r.Policy, to, r.Source, r.Why)
	}
	width, _ := screen(t.out)
	for _, line := range tb.lines(width, coloured(t.out)) {
		if _, err := fmt.Fprintln(t.out, line); err != nil {
			return err
		}
	}
	return nil
}

// setRule puts a rule in the place of what lxnet was told of the same ports.
func setRule(ctx context.Context, dirs env.Dirs, name string, r config.PortRule) ([]portbroker.Reservation, error) {
	err := portbroker.ChangeRules(dirs.Policy(name), func(rules []config.PortRule) ([]config.PortRule, error) {
		rules = slices.DeleteFunc(rules, func(o config.PortRule) bool { return o.Ports == r.Ports })
		return append(rules, r), nil
	})
	if err != nil {
		return nil, err
	}
	return renew(ctx, dirs, name, r.Policy == config.PortReserve)
}

// removeRule forgets what lxnet was told of the ports: one with the policy, where
// that is not empty.
func removeRule(ctx context.Context, dirs env.Dirs, name string, ports config.PortRange, policy string) error {
	err := portbroker.ChangeRules(dirs.Policy(name), func(rules []config.PortRule) ([]config.PortRule, error) {
		less := slices.DeleteFunc(slices.Clone(rules), func(o config.PortRule) bool {
			return o.Ports == ports && (policy == "" || o.Policy == policy)
		})
		if len(less) == len(rules) {
			return nil, fmt.Errorf("lxnet was told nothing of that about port %q of %s: see lxnet policy %s", ports, name, name)
		}
		return less, nil
	})
	if err == nil {
		_, err = renew(ctx, dirs, name, false)
	}
	return err
}
