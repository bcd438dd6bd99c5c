package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"

	"github.com/lxbridge/lx/core/env"
	"github.com/lxbridge/lx/core/feature"
	"github.com/lxbridge/lx/core/ns"
	"github.com/lxbridge/lx/core/seccomp"
)

// environmentVar tells sessions which environment they are in.
const environmentVar = "LX_ENVIRONMENT"

// hostEnv is the environment of the host's own files.
const hostEnv = "host"

type runOptions struct {
	env        string
	fresh      bool
	asUser     bool
	ioUring    bool
	privileged bool
	idMap      string
}

func (o *runOptions) register(f *pflag.FlagSet) {
	f.StringVarP(&o.env, "environment", "d", hostEnv, "the environment to join or start")
	f.BoolVar(&o.fresh, "new", false, "start another environment instead of joining the running one")
	f.BoolVar(&o.asUser, "as-user", false, "run as yourself instead of root")
	f.BoolVar(&o.ioUring, "io-uring", false, "at start: allow io_uring, whose requests lx cannot see")
	f.BoolVar(&o.privileged, "privileged", false, "at start, by root: no user namespaces; guests are the real root")
	f.StringVar(&o.idMap, "map", "", "at start: which ids exist inside: single, subuid or root (default: what the host offers)")
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
				return usageError{errors.New("run needs a COMMAND")}
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
	if err := checkName(o.env); err != nil {
		return usageError{err}
	}
	dirs, err := env.UserDirs()
	if err != nil {
		return &env.ExitError{Code: env.ExitFailed, Err: err}
	}
	name := o.env
	if o.fresh {
		name = freeName(ctx, dirs, name)
	}
	if flag := o.startOnly(); flag != "" && env.Running(ctx, dirs, name) {
		return usageError{fmt.Errorf("%s counts when an environment starts, and %s runs already: use --new, or `lx stop` before", flag, name)}
	}
	spec := sessionSpec(o, argv, dirs, name)
	// An environment may end just while it is joined: then the next is started.
	for try := 0; ; try++ {
		ws, err := env.Run(ctx, dirs, name, spec)
		if err == nil {
			return status(ws)
		}
		if !errors.Is(err, env.ErrNotRunning) || try == 3 {
			return asFailure(err)
		}
		if err := startEnv(ctx, o, dirs, name); err != nil {
			return asFailure(err)
		}
	}
}

func startEnv(ctx context.Context, o runOptions, dirs env.Dirs, name string) error {
	if o.privileged && os.Geteuid() != 0 {
		return usageError{errors.New("--privileged is for root")}
	}
	if err := feature.Check(); err != nil {
		return usageError{err}
	}
	m, err := ns.Choose(ns.Kind(o.idMap))
	if err != nil {
		return err
	}
	home, shell := userHome()
	return env.Launch(ctx, env.Config{
		Name:       name,
		Map:        m,
		Filter:     seccomp.Options{Features: features(m), AllowIOUring: o.ioUring},
		Privileged: o.privileged,
		Dirs:       dirs,
		Home:       home,
		Shell:      shell,
	})
}

// features are what the environment's filter traps for.
func features(m ns.Map) []string {
	fs := []string{seccomp.FeatureMount}
	if m.Kind == ns.Single {
		fs = append(fs, seccomp.FeatureIDs)
	}
	return fs
}

// insideOf is the error for whom the environment is not to be reached since
// the caller is in it; nil elsewhere.
func insideOf(name string) error {
	if os.Getenv(environmentVar) != name {
		return nil
	}
	return withHint(fmt.Errorf("environment %s cannot be managed from inside", name),
		"type it outside of the environment; findmnt -t fuse.lx.cifs lists mounts here")
}

func asFailure(err error) error {
	var ee *env.ExitError
	var ue usageError
	if errors.As(err, &ee) || errors.As(err, &ue) {
		return err
	}
	return &env.ExitError{Code: env.ExitFailed, Err: err}
}

// status is the error that exits lx as the command ended.
func status(ws syscall.WaitStatus) error {
	switch {
	case ws.Signaled():
		return exitCode(128 + int(ws.Signal()))
	case ws.ExitStatus() != 0:
		return exitCode(ws.ExitStatus())
	}
	return nil
}

func sessionSpec(o runOptions, argv []string, dirs env.Dirs, name string) env.Spec {
	s := env.Spec{Argv: argv, Env: append(os.Environ(), environmentVar+"="+name, env.RuntimeVar+"="+dirs.Runtime)}
	if len(argv) == 0 {
		_, shell := userHome()
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

func checkName(name string) error {
	for _, r := range name {
		if !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("._-", r)) {
			return fmt.Errorf("environment name %q: want letters, digits, '.', '_' and '-'", name)
		}
	}
	if name == "" || strings.HasPrefix(name, ".") || strings.HasPrefix(name, "-") || len(name) > 64 {
		return fmt.Errorf("environment name %q: want 1 to 64 characters that begin with a letter or digit", name)
	}
	return nil
}

// freeName is name with the first number that no running environment has.
func freeName(ctx context.Context, d env.Dirs, name string) string {
	for n := 2; env.Running(ctx, d, name); n++ {
		name = strings.TrimRight(strings.TrimRight(name, "0123456789"), "-") + "-" + strconv.Itoa(n)
	}
	return name
}

// userHome are the home and login shell of the calling user.
func userHome() (home, shell string) {
	home, shell = "/", "/bin/sh"
	if f, err := os.Open("/etc/passwd"); err == nil {
		defer f.Close()
		uid := strconv.Itoa(os.Getuid())
		for s := bufio.NewScanner(f); s.Scan(); {
			if p := strings.Split(s.Text(), ":"); len(p) == 7 && p[2] == uid {
				home, shell = p[5], p[6]
			}
		}
	}
	if h := os.Getenv("HOME"); h != "" {
		home = h
	}
	if s := os.Getenv("SHELL"); s != "" {
		shell = s
	}
	return home, shell
}
