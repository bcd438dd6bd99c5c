package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"github.com/lxbridge/lx/cmd/internal/api"
	"github.com/lxbridge/lx/cmd/internal/command"
	"github.com/lxbridge/lx/cmd/internal/daemon"
	"github.com/lxbridge/lx/core/env"
	"github.com/lxbridge/lx/core/feature"
	"github.com/lxbridge/lx/core/ns"
	"github.com/lxbridge/lx/core/store"
)

type runOptions struct {
	env        string
	fresh      bool
	asUser     bool
	ioUring    bool
	privileged bool
	idMap      string
	user       string
}

func (o *runOptions) register(f *pflag.FlagSet) {
	addEnv(f, &o.env)
	f.StringVarP(&o.user, "user", "u", "", "in an imported environment: the user inside to run as (default root)")
	f.BoolVar(&o.fresh, "new", false, "start another environment instead of joining the running one")
	f.BoolVar(&o.asUser, "as-user", false, "run as yourself instead of root")
	f.BoolVar(&o.ioUring, "io-uring", false, "at start: allow io_uring, whose requests lx cannot see")
	f.BoolVar(&o.privileged, "privileged", false, "at start, by root: no user namespaces; guests are the real root")
	f.StringVar(&o.idMap, "map", "", "at start: which ids exist inside: single, subuid or root (default: what the host offers)")
}

// addEnv is the flag that all commands about an environment have.
func addEnv(f *pflag.FlagSet, name *string) {
	f.StringVarP(name, "environment", "d", "", "which environment (default: see lx default)")
}

// environment is the one that was named, or the default.
func environment(name string) (string, error) {
	if name == "" {
		def, err := defaultName()
		if err != nil {
			return "", err
		}
		name = def
	}
	if err := store.CheckName(name); err != nil {
		return "", command.Misused(err)
	}
	return name, nil
}

// startOnly names the first flag given that matters only at an environment's start.
func (o *runOptions) startOnly() string {
	switch {
	case o.ioUring:
		return "--io-uring"
	case o.privileged:
		return "--privileged"
	case o.idMap != "":
		return "--map"
	}
	return ""
}

func newRun() *cobra.Command {
	var o runOptions
	cmd := &cobra.Command{
		Use:     "run [flags] [--] COMMAND [ARG...]",
		Short:   "Run a command, whatever its name",
		Example: "  lx run mounts --help",
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return command.Misused(errors.New("run needs a COMMAND"))
			}
			return runSession(cmd.Context(), o, args)
		},
	}
	cmd.Flags().SetInterspersed(false)
	o.register(cmd.Flags())
	return cmd
}

// runSession runs argv, or a login shell, in the environment, which it starts
// if need be.
func runSession(ctx context.Context, o runOptions, argv []string) error {
	name, err := environment(o.env)
	if err != nil {
		return asFailure(err)
	}
	dirs, err := env.UserDirs()
	if err != nil {
		return asFailure(err)
	}
	switch {
	case !store.IsHost(name) && (o.asUser || o.fresh || o.privileged):
		return command.Misused(fmt.Errorf("--as-user, --new and --privileged are for the host environment, not %s", name))
	case store.IsHost(name) && o.user != "":
		return command.Misused(fmt.Errorf("--user is for imported environments; in %s --as-user runs as yourself", name))
	}
	if o.fresh {
		name = freeName(ctx, dirs, name)
	}
	if flag := o.startOnly(); flag != "" && env.Running(ctx, dirs, name) {
		return command.Misused(fmt.Errorf("%s counts when an environment starts, and %s runs already: use --new, or `lx stop` before", flag, name))
	}
	spec := sessionSpec(o, argv, dirs, name)
	tell := len(argv) == 0 && term.IsTerminal(0) && greet(os.Stderr, dirs, name)
	ws, err := attach(ctx, o, dirs, name, func() (syscall.WaitStatus, error) {
		if tell {
			defer tellLogin(ctx, dirs, name)()
		}
		return env.Run(ctx, dirs, name, spec)
	})
	if err != nil {
		return asFailure(err)
	}
	return status(ws)
}

// attach calls join, and starts the environment if need be. One may end just
// while it is joined: then the next is started.
func attach[T any](ctx context.Context, o runOptions, dirs env.Dirs, name string, join func() (T, error)) (T, error) {
	for try := 0; ; try++ {
		v, err := join()
		if !errors.Is(err, env.ErrNotRunning) || try == 3 {
			return v, err
		}
		if err := startEnv(ctx, o, dirs, name); err != nil {
			return v, err
		}
	}
}

// startEnv starts the environment. One of the host's own files is started by
// this process, with its namespaces and limits, unless a service manager would
// end it with the login session; all others are the daemon's.
func startEnv(ctx context.Context, o runOptions, dirs env.Dirs, name string) error {
	if o.privileged && os.Geteuid() != 0 {
		return command.Misused(errors.New("--privileged is for root"))
	}
	if err := feature.Check(); err != nil {
		return command.Misused(err)
	}
	opt := api.StartOptions{Map: ns.Kind(o.idMap), IOUring: o.ioUring, Privileged: o.privileged, Environ: os.Environ()}
	opt.Home, opt.Shell = env.UserHome()
	if store.IsHost(name) && !api.Manager() {
		if err := daemon.Launch(ctx, dirs, nil, nil, name, opt); err != nil {
			return err
		}
	} else {
		d, err := api.Connect(ctx, dirs, version)
		if err != nil {
			return err
		}
		if err := d.Start(ctx, name, opt); err != nil {
			return err
		}
	}
	if err := awaitDevices(ctx, dirs, name); err != nil {
		fmt.Fprintf(os.Stderr, "lx: devices are not shown in %s: %s\n", name, command.Printable(err.Error()))
	}
	return nil
}

// devicesTime is how long an environment may take to show devices.
const devicesTime = 5 * time.Second

// awaitDevices returns when an environment that has just started shows the devices of the
// hub, if there is one.
func awaitDevices(ctx context.Context, dirs env.Dirs, name string) error {
	hub, err := api.DialHub(ctx, dirs)
	if errors.Is(err, env.ErrNotRunning) {
		return nil
	}
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, devicesTime)
	defer cancel()
	return hub.Enter(ctx, name)
}

// insideOf is the error for whom the environment is not to be reached since
// the caller is in it; nil elsewhere.
func insideOf(name string) error {
	if os.Getenv(env.EnvironmentVar) != name {
		return nil
	}
	return command.WithHint(fmt.Errorf("environment %s cannot be managed from inside", name),
		"type it outside of the environment; findmnt -t fuse.lx.cifs lists mounts here")
}

func asFailure(err error) error {
	var ee *env.ExitError
	if errors.As(err, &ee) || command.IsMisuse(err) {
		return err
	}
	return &env.ExitError{Code: env.ExitFailed, Err: err}
}

// status is the error that exits lx as the command ended.
func status(ws syscall.WaitStatus) error {
	switch {
	case ws.Signaled():
		return command.ExitCode(128 + int(ws.Signal()))
	case ws.ExitStatus() != 0:
		return command.ExitCode(ws.ExitStatus())
	}
	return nil
}

func sessionSpec(o runOptions, argv []string, dirs env.Dirs, name string) env.Spec {
	s := env.Spec{Argv: argv, Umask: 0o022}
	if !store.IsHost(name) {
		s.User = o.user
		for _, e := range os.Environ() {
			k, _, _ := strings.Cut(e, "=")
			if k == "TERM" || k == "COLORTERM" || k == "LANG" || strings.HasPrefix(k, "LC_") {
				s.Env = append(s.Env, e)
			}
		}
		s.Env = append(s.Env, env.EnvironmentVar+"="+name)
		return s
	}
	s.Env = append(os.Environ(), env.EnvironmentVar+"="+name, env.RuntimeVar+"="+dirs.Runtime)
	if len(argv) == 0 {
		_, shell := env.UserHome()
		s.Argv, s.Arg0 = []string{shell}, "-"+filepath.Base(shell)
	}
	if dir, err := os.Getwd(); err == nil {
		s.Dir = dir
	} else {
		s.Dir = "/"
	}
	s.Umask = unix.Umask(0)
	unix.Umask(s.Umask)
	if o.asUser {
		s.UID, s.GID = uint32(os.Getuid()), uint32(os.Getgid())
	}
	return s
}

// freeName is name with the first number that no running environment has.
func freeName(ctx context.Context, d env.Dirs, name string) string {
	for n := 2; env.Running(ctx, d, name); n++ {
		name = strings.TrimRight(strings.TrimRight(name, "0123456789"), "-") + "-" + strconv.Itoa(n)
	}
	return name
}
