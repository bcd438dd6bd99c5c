// Package cli is the lx command: one file a subcommand.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/lxbridge/lx/core/env"
)

// Exit codes of subcommands; those of sessions are in core/env.
const (
	exitFailure = 1
	exitUsage   = 2
)

// exitCode is an error that only carries the code to exit with.
type exitCode int

func (c exitCode) Error() string { return fmt.Sprintf("exit code %d", int(c)) }

// usageError is a call that cannot be understood.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// hinted is an error with a line for people that says what to do.
type hinted struct {
	error
	hint string
}

func (h hinted) Unwrap() error { return h.error }

// Hint is what to type next.
func (h hinted) Hint() string { return h.hint }

func withHint(err error, hint string) error { return hinted{err, hint} }

// Main runs lx with args and answers its exit code.
func Main(args []string) int {
	// What the shell left open is for no process that lx starts: an environment
	// must not come by a directory of the host.
	if err := unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return report(os.Stderr, fmt.Errorf("cannot keep open files from environments: %w", err))
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	for _, sig := range []os.Signal{os.Interrupt, syscall.SIGTERM} {
		if !signal.Ignored(sig) {
			var stop context.CancelFunc
			ctx, stop = signal.NotifyContext(ctx, sig)
			defer stop()
		}
	}
	root := newRoot(os.Stdout)
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	return report(os.Stderr, err)
}

// report prints err with its hint and answers the exit code for it.
func report(w io.Writer, err error) int {
	if err == nil {
		return 0
	}
	var code exitCode
	if errors.As(err, &code) {
		return int(code)
	}
	fmt.Fprintln(w, "lx:", printable(err.Error()))
	var hint interface{ Hint() string }
	if errors.As(err, &hint) {
		fmt.Fprintln(w, "hint:", printable(hint.Hint()))
	}
	var ee *env.ExitError
	var ue usageError
	switch {
	case errors.As(err, &ee):
		return ee.Code
	case errors.As(err, &ue):
		fmt.Fprintln(w, "Try 'lx --help'.")
		return exitUsage
	}
	return exitFailure
}

func newRoot(out io.Writer) *cobra.Command {
	var o runOptions
	root := &cobra.Command{
		Use:   "lx [flags] [--] [COMMAND [ARG...]]",
		Short: "Run Linux programs where mount, devices and ports work, without root",
		Long: `lx opens a shell, or runs COMMAND, in an environment that has the host's files and
runs at native speed, and in which mount -t cifs works as it does for root. The
environment is shared by all consoles of the user; it ends with its last process
unless something is mounted in it, and then with "lx stop". Distributions that
were imported (lx import) are environments with files of their own: lx -d NAME.

The first word after the flags is a subcommand if it is listed below, else a
command; after -- , and after "lx run", it is always a command.

Exit codes: the command's own (128+N where signal N ended it); 125 where lx itself
failed, 126 where COMMAND cannot be executed, 127 where it is not found. Subcommands:
1 for a failure, 2 for wrong usage.`,
		Example: `  lx                                       a shell
  lx make -j4                              one command
  lx -d debian cat /etc/os-release         in an imported distribution
  lx --as-user id                          as yourself instead of root
  lx -- mounts                             a program that is called like a subcommand
  lx sh -c 'mount -t cifs //nas/photos /mnt -o credentials=$HOME/.nas && ls /mnt'`,
		Args:          cobra.ArbitraryArgs,
		SilenceErrors: true,
		SilenceUsage:  true,
		RunE: func(cmd *cobra.Command, args []string) error {
			return runSession(cmd.Context(), o, args)
		},
	}
	root.SetOut(out)
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	root.CompletionOptions.HiddenDefaultCmd = false
	root.Flags().SetInterspersed(false)
	o.register(root.Flags())
	root.AddCommand(newRun(), newList(), newImport(), newExport(), newCopy(), newDefault(), newRename(), newRemove(), newUsage(),
		newStop(), newShutdown(), newDaemon(), newMounts(), newDoctor(), newSyscalls(), newLog(), newUpdates(), newService(), newTimer(), newVersion(), newMan())
	return root
}

// noArgs refuses arguments as wrong usage.
func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usageError{fmt.Errorf("%s takes no argument %q", cmd.CommandPath(), args[0])}
	}
	return nil
}
