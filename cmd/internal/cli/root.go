// Package cli is the lx command: one file a subcommand.
package cli

import (
	"fmt"
	"io"
	"math"
	"os"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/lxbridge/lx/cmd/internal/command"
)

// Main runs lx with args and answers its exit code.
func Main(args []string) int {
	// What the shell left open is for no process that lx starts: an environment
	// must not come by a directory of the host.
	if err := unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return command.Report(os.Stderr, "lx", fmt.Errorf("cannot keep open files from environments: %w", err))
	}
	ctx, stop := command.Context()
	defer stop()
	root := newRoot(os.Stdout)
	root.SetArgs(args)
	return command.Report(os.Stderr, "lx", root.ExecuteContext(ctx))
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
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return command.Misused(err) })
	root.CompletionOptions.HiddenDefaultCmd = false
	root.Flags().SetInterspersed(false)
	o.register(root.Flags())
	root.AddCommand(newRun(), newList(), newImport(), newExport(), newCopy(), newDefault(), newRename(), newRemove(), newUsage(),
		newStop(), newShutdown(), newDaemon(), newMounts(), newDoctor(), newSyscalls(), newLog(), newUpdates(), newService(), newTimer(), newVersion(), command.NewMan("lx"))
	return root
}
