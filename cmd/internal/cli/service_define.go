package cli

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/lxbridge/lx/cmd/internal/command"
	"github.com/lxbridge/lx/core/service"
	"github.com/lxbridge/lx/core/service/supervisor"
)

func newServiceEnable(s *services) *cobra.Command {
	var later bool
	cmd := &cobra.Command{
		Use:               "enable NAME...",
		Short:             "Start services now and whenever the environment starts",
		Example:           "  lx service enable web",
		Args:              needNames,
		ValidArgsFunction: s.complete,
		RunE: func(cmd *cobra.Command, args []string) error {
			return s.hold(cmd, supervisor.Request{Verb: supervisor.Enable, Names: args, Now: !later})
		},
	}
	cmd.Flags().BoolVar(&later, "later", false, "do not start them now")
	return cmd
}

func newServiceDisable(s *services) *cobra.Command {
	var now bool
	cmd := &cobra.Command{
		Use:               "disable NAME...",
		Short:             "Do not start services with the environment any more",
		Example:           "  lx service disable --now web",
		Args:              needNames,
		ValidArgsFunction: s.complete,
		RunE: func(cmd *cobra.Command, args []string) error {
			return s.hold(cmd, supervisor.Request{Verb: supervisor.Disable, Names: args, Now: now})
		},
	}
	cmd.Flags().BoolVar(&now, "now", false, "stop them as well")
	return cmd
}

// addOptions are the flags that make a unit file.
type addOptions struct {
	unit      service.Unit
	env       []string
	typ       string
	restart   string
	ready     string
	listen    []string
	onDemand  bool
	health    string
	file      string
	enable    bool
	force     bool
	stopAfter time.Duration
	schedule  string
	every     time.Duration
}

func newServiceAdd(s *services, timer bool) *cobra.Command {
	var o addOptions
	cmd := &cobra.Command{
		Use:   "add NAME [flags] -- COMMAND [ARG...]",
		Short: "Define a service",
		Long: `add writes the unit file of a service that runs COMMAND. With --file it takes a unit
file as it is. The service is not started, unless with --enable.`,
		Example: `  lx service add web --enable --ready-port 8080 -- python3 -m http.server 8080
  lx service add worker --after web --requires web --restart always --env QUEUE=mail -- ./worker
  lx service add web --file web.toml`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return runServiceAdd(cmd, *s, o, args, timer)
		},
	}
	f := cmd.Flags()
	if timer {
		cmd.Use = "add NAME --schedule SCHEDULE|--every TIME [flags] -- COMMAND [ARG...]"
		cmd.Short = "Run a command at times"
		cmd.Long = `add makes a timer that runs COMMAND by a schedule as in crontab(5) (five fields, or
@hourly, @daily, @weekly, @monthly, @yearly, @reboot), in local time, or in intervals.
A timer is enabled at once; it keeps its environment. A run that was missed while
nothing ran is caught up, once.`
		cmd.Example = `  lx timer add backup --schedule "0 6 * * *" -- ./backup
  lx timer add poll --every 1h -- curl -fsS http://localhost/poll`
		f.StringVar(&o.schedule, "schedule", "", "when: minute, hour, day of month, month, day of week")
		f.DurationVar(&o.every, "every", 0, "in intervals, as 1h or 15m")
	} else {
		f.StringVar(&o.typ, "type", "", "simple, exec, forking, notify or oneshot")
		f.StringVar(&o.restart, "restart", "", "no, on-failure (the default), always, on-success, on-abnormal or on-abort")
		f.StringVar(&o.ready, "ready-port", "", "up when [ADDRESS:]PORT takes connections")
		f.StringArrayVar(&o.listen, "listen", nil, "open tcp/[ADDRESS:]PORT, udp/… or /path and pass it on (sd_listen_fds)")
		f.BoolVar(&o.onDemand, "on-demand", false, "with --listen: the first client starts the service")
		f.StringVar(&o.health, "health", "", "a shell command that has to succeed every 30 seconds")
		f.StringVar(&o.unit.PIDFile, "pid-file", "", "of a forking service")
		f.StringSliceVar(&o.unit.After, "after", nil, "start after these services")
		f.StringSliceVar(&o.unit.Requires, "requires", nil, "start these as well, and only if they are up")
		f.StringSliceVar(&o.unit.Wants, "wants", nil, "start these as well")
		f.StringVar(&o.file, "file", "", "a unit file instead of COMMAND and flags")
		f.BoolVar(&o.enable, "enable", false, "enable and start it")
	}
	f.StringVar(&o.unit.Description, "description", "", "what it is")
	f.StringArrayVar(&o.env, "env", nil, "NAME=VALUE for its environment")
	f.StringArrayVar(&o.unit.EnvFiles, "env-file", nil, "a file of such lines; a leading - allows its absence")
	f.StringVar(&o.unit.Dir, "dir", "", "its working directory")
	f.StringVar(&o.unit.User, "user", "", "whom it runs as (others than root need subuids)")
	f.DurationVar(&o.stopAfter, "stop-timeout", 0, "from SIGTERM to SIGKILL (default 10s)")
	f.BoolVar(&o.force, "force", false, "replace one of that name")
	return cmd
}

func runServiceAdd(cmd *cobra.Command, s services, o addOptions, args []string, timer bool) error {
	if len(args) == 0 {
		return command.Misused(fmt.Errorf("%s needs a NAME", cmd.CommandPath()))
	}
	name := args[0]
	text, err := o.text(name, args[1:], timer)
	if err != nil {
		return err
	}
	if err := s.do(cmd, supervisor.Request{Verb: supervisor.Add, Names: []string{name}, Unit: text, Force: o.force}); err != nil {
		return err
	}
	if !o.enable && !timer {
		return nil
	}
	return s.hold(cmd, supervisor.Request{Verb: supervisor.Enable, Names: []string{name}, Now: true})
}

// text is the unit file that the flags say.
func (o addOptions) text(name string, argv []string, timer bool) (string, error) {
	if o.file != "" {
		if len(argv) > 0 {
			return "", command.Misused(errors.New("--file and a COMMAND: want one of them"))
		}
		b, err := os.ReadFile(o.file)
		if err != nil {
			return "", fmt.Errorf("cannot read the unit: %w", err)
		}
		return string(b), nil
	}
	if len(argv) == 0 {
		return "", command.Misused(errors.New("add needs a COMMAND after --"))
	}
	if timer && (o.schedule == "") == (o.every == 0) {
		return "", command.Misused(errors.New("a timer needs either --schedule or --every"))
	}
	u := o.unit
	u.Name, u.Command = name, argv
	u.Type, u.Restart = service.Type(o.typ), service.Restart(o.restart)
	u.Schedule, u.Every, u.StopTimeout = o.schedule, service.Duration(o.every), service.Duration(o.stopAfter)
	u.Ready.Port = o.ready
	if strings.Contains(argv[0], "/") && !filepath.IsAbs(argv[0]) || u.Dir != "" && !filepath.IsAbs(u.Dir) {
		wd, err := os.Getwd()
		if err != nil {
			return "", fmt.Errorf("cannot tell where %s is: %w", argv[0], err)
		}
		if strings.Contains(argv[0], "/") && !filepath.IsAbs(argv[0]) {
			u.Command = append(service.Command{filepath.Join(wd, argv[0])}, argv[1:]...)
		}
		if u.Dir != "" && !filepath.IsAbs(u.Dir) {
			u.Dir = filepath.Join(wd, u.Dir)
		}
	}
	for _, e := range o.env {
		k, v, ok := strings.Cut(e, "=")
		if !ok {
			return "", command.Misused(fmt.Errorf("--env %q: want NAME=VALUE", e))
		}
		if u.Env == nil {
			u.Env = map[string]string{}
		}
		u.Env[k] = v
	}
	for _, l := range o.listen {
		u.Sockets = append(u.Sockets, service.Socket{Listen: l, OnDemand: o.onDemand})
	}
	if o.onDemand && len(o.listen) == 0 {
		return "", command.Misused(errors.New("--on-demand needs --listen"))
	}
	if o.health != "" {
		u.Health = &service.Health{Command: service.Command{"/bin/sh", "-c", o.health}}
	}
	if err := u.Check(); err != nil {
		return "", command.Misused(err)
	}
	b, err := service.Marshal(u)
	return string(b), err
}

func newServiceImport(s *services) *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:   "import UNIT...",
		Short: "Make services of the environment's systemd units",
		Long: `import reads systemd service units of the environment with their drop-ins
(UNIT.d/*.conf, in the directories of systemd.unit(5) or beside the unit files of lx) and
writes unit files of lx. A socket unit becomes its service, which the first client
starts. NAME@INSTANCE reads the template NAME@.service; a UNIT
with a slash is a file. Keys that lx does not have are named.`,
		Example: "  lx service import ssh.service\n  lx service import cups.socket\n  lx -d debian service import postgresql@15-main",
		Args:    needNames,
		RunE: func(cmd *cobra.Command, args []string) error {
			for i, a := range args {
				if strings.HasPrefix(a, ".") {
					p, err := filepath.Abs(a)
					if err != nil {
						return err
					}
					args[i] = p
				}
			}
			return s.do(cmd, supervisor.Request{Verb: supervisor.Import, Names: args, Force: force})
		},
	}
	cmd.Flags().BoolVar(&force, "force", false, "replace services of that name")
	return cmd
}
