package devcli

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/lxbridge/lx/cmd/internal/api"
	"github.com/lxbridge/lx/cmd/internal/command"
	"github.com/lxbridge/lx/core/env"
)

func newAttach() *cobra.Command {
	var host, busID string
	var early bool
	cmd := &cobra.Command{
		Use:   "attach ADDRESS | HOST BUSID | -r HOST -b BUSID",
		Short: "Have a device of another machine in all environments",
		Long: `attach returns when all running environments see the device. ADDRESS is

  usbip://HOST[:PORT]/BUSID   plain USB/IP: Linux's usbipd, usbipd-win
  lx://HOST[:PORT]/BUSID      lxdev export, encrypted, after lxdev pair
  ssh://[USER@]HOST/BUSID     lxdev on that machine, by ssh(1) and its configuration

With --early-out a program that sends one piece of data at a time, as older fastboot
does, need not wait a round trip for each: it is told that the device has the data
when the connection has. An error is then told with the next piece.`,
		Example: "  lxdev attach usbip://lab/1-1.2\n  lxdev attach ssh://me@lab/1-1.2\n  lxdev attach lab 1-1.2\n  lxdev attach -r lab -b 1-1.2",
		RunE: func(cmd *cobra.Command, args []string) error {
			address, err := attachAddress(args, host, busID)
			if err != nil {
				return command.Misused(err)
			}
			dirs, err := env.UserDirs()
			if err != nil {
				return err
			}
			hub, err := api.ConnectHub(cmd.Context(), dirs)
			if err != nil {
				return err
			}
			d, err := hub.Attach(cmd.Context(), api.AttachOptions{Address: address, EarlyOut: early})
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s is /dev/bus/usb/%03d/%03d: %s\n", d.Address, d.Bus, d.Number, title(d))
			return err
		},
	}
	cmd.Flags().StringVarP(&host, "remote", "r", "", "the machine, as usbip(8) has it")
	cmd.Flags().StringVarP(&busID, "busid", "b", "", "the device there, as usbip(8) has it")
	cmd.Flags().BoolVar(&early, "early-out", false, "do not let bulk data to the device wait for a round trip each")
	return cmd
}

// attachAddress is the address that the arguments mean.
func attachAddress(args []string, host, busID string) (string, error) {
	switch {
	case host != "" || busID != "":
		if host == "" || busID == "" || len(args) > 0 {
			return "", errors.New("attach wants both -r HOST and -b BUSID, and nothing else")
		}
		args = []string{host, busID}
		fallthrough
	case len(args) == 2:
		if strings.Count(args[0], ":") > 1 && !strings.HasPrefix(args[0], "[") {
			args[0] = "[" + args[0] + "]"
		}
		return "usbip://" + args[0] + "/" + args[1], nil
	case len(args) == 1:
		return args[0], nil
	}
	return "", errors.New("attach wants usbip://HOST[:PORT]/BUSID, or HOST BUSID")
}

// title is a device's name for people.
func title(d api.Device) string {
	text := d.Vendor + ":" + d.Product
	for _, s := range []string{d.Manufacturer, d.ProductName, d.Serial} {
		if s != "" {
			text += " " + s
		}
	}
	return command.Printable(strings.ReplaceAll(text, "\n", " "))
}

func newDetach() *cobra.Command {
	return &cobra.Command{
		Use:     "detach ADDRESS | NAME",
		Short:   "End an attachment",
		Long:    "detach takes an address as attach took it, or the device's name as status tells it.",
		Example: "  lxdev detach usbip://lab/1-1.2\n  lxdev detach 200-1",
		Args:    command.OneArg("ADDRESS or NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			dirs, err := env.UserDirs()
			if err != nil {
				return err
			}
			hub, err := api.DialHub(cmd.Context(), dirs)
			if errors.Is(err, env.ErrNotRunning) {
				return command.WithHint(fmt.Errorf("nothing is attached as %s", args[0]), "lxdev status")
			}
			if err != nil {
				return err
			}
			return hub.Detach(cmd.Context(), args[0])
		},
	}
}
