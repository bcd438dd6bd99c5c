// Package devcli is the lxdev command: one file a subcommand.
package devcli

import (
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/lxbridge/lx/cmd/internal/command"
	"github.com/lxbridge/lx/cmd/internal/hub"
)

var version = "devel" // set by the linker

// Main runs lxdev with args and answers its exit code.
func Main(args []string) int {
	ctx, stop := command.Context()
	defer stop()
	root := newRoot(os.Stdout, os.Stderr)
	root.SetArgs(args)
	return command.Report(os.Stderr, "lxdev", root.ExecuteContext(ctx))
}

// HubMain is the device hub's main function.
func HubMain() int { return hub.Main(version) }

func newRoot(out, errw io.Writer) *cobra.Command {
	root := &cobra.Command{
		Use:   "lxdev COMMAND",
		Short: "Bring USB devices of other machines into environments",
		Long: `lxdev attaches USB devices that another machine exports by USB/IP (Linux's usbipd,
usbipd-win). Programs in all running environments, and in those that are started
later, then see them as they see devices of this machine: lsusb, adb, fastboot,
dfu-util, whatever uses libusb. Neither root nor a driver is needed.

An attachment stays until it is detached: a device that goes is looked for until it
is there again. USB/IP itself is neither encrypted nor authenticated.

Exit codes: 0, 1 for a failure, 2 for wrong usage.`,
		Example: `  lxdev list lab
  lxdev attach usbip://lab/1-1.2
  lx lsusb
  lxdev detach usbip://lab/1-1.2`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Version:       version,
		Args:          cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return command.Misused(fmt.Errorf("unknown command %q", args[0]))
			}
			return cmd.Help()
		},
	}
	root.SetOut(out)
	root.SetErr(errw)
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return command.Misused(err) })
	root.AddCommand(newList(), newAttach(), newDetach(), newStatus(), newStop(), newExport(), newPair(), newPeers(), command.NewMan("lxdev"))
	return root
}
