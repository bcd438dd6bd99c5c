package devcli

import (
	"cmp"
	"errors"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/lxbridge/lx/cmd/internal/api"
	"github.com/lxbridge/lx/cmd/internal/command"
	"github.com/lxbridge/lx/core/env"
	"github.com/lxbridge/lx/devices/usb"
	"github.com/lxbridge/lx/devices/usb/remote"
	"github.com/lxbridge/lx/devices/usb/usbip"
)

func newStatus() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:     "status [--json]",
		Short:   "List the attachments, and the environments that see them",
		Example: "  lxdev status\n  lxdev status --json",
		Args:    command.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			dirs, err := env.UserDirs()
			if err != nil {
				return err
			}
			var s struct {
				Environments []string     `json:"environments"`
				Devices      []api.Device `json:"devices"`
			}
			s.Environments, s.Devices = []string{}, []api.Device{}
			hub, err := api.DialHub(cmd.Context(), dirs)
			switch {
			case errors.Is(err, env.ErrNotRunning):
			case err != nil:
				return err
			default:
				about, err := hub.Status(cmd.Context())
				if err != nil {
					return err
				}
				s.Environments = about.Environments
				if s.Devices, err = hub.Devices(cmd.Context()); err != nil {
					return err
				}
			}
			if asJSON {
				return command.WriteJSON(cmd.OutOrStdout(), s)
			}
			w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 8, 2, ' ', 0)
			fmt.Fprintln(w, "NAME\tADDRESS\tSTATE\tSINCE\tDEVICE")
			for _, d := range s.Devices {
				what := title(d)
				if d.State == api.DeviceAway {
					what = command.Printable(d.Error)
				}
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", cmp.Or(d.Name, "-"), d.Address, d.State, d.Since.Format(time.TimeOnly), what)
			}
			if err := w.Flush(); err != nil {
				return err
			}
			if len(s.Environments) > 0 {
				_, err = fmt.Fprintln(cmd.OutOrStdout(), "seen in:", strings.Join(s.Environments, ", "))
			}
			return err
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "as JSON")
	return cmd
}

func newStop() *cobra.Command {
	return &cobra.Command{
		Use:     "stop",
		Short:   "End all attachments, and the device hub",
		Example: "  lxdev stop",
		Args:    command.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			dirs, err := env.UserDirs()
			if err != nil {
				return err
			}
			return api.StopHub(cmd.Context(), dirs)
		},
	}
}

// exported is a line of list.
type exported struct {
	BusID   string `json:"busid"`
	Address string `json:"address"`
	Vendor  string `json:"vendor"`
	Product string `json:"product"`
	Speed   string `json:"speed"`
	Class   string `json:"class"`
}

func newList() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "list [--json] ADDRESS",
		Short: "List what a machine exports",
		Long: `list asks a machine for its devices. ADDRESS is HOST[:PORT] of a server of plain
USB/IP, lx://HOST of a paired one (lxdev pair), or ssh://HOST.`,
		Example: "  lxdev list lab\n  lxdev list --json lab:3240\n  lxdev list ssh://me@lab",
		Args:    command.OneArg("ADDRESS"),
		RunE: func(cmd *cobra.Command, args []string) error {
			server, err := remote.Parse(args[0])
			if err != nil {
				return command.Misused(err)
			}
			dial, err := server.Dialer(openKeys)
			if err != nil {
				return err
			}
			infos, err := usbip.List(cmd.Context(), dial)
			if err != nil {
				return fmt.Errorf("cannot list the devices of %s: %w", server, err)
			}
			list := make([]exported, 0, len(infos))
			for _, i := range infos {
				server.BusID = i.BusID
				list = append(list, exported{
					BusID: i.BusID, Address: server.String(), Speed: usb.Speed(i.Speed).String(),
					Vendor: fmt.Sprintf("%04x", i.Vendor), Product: fmt.Sprintf("%04x", i.Product),
					Class: fmt.Sprintf("%02x%02x%02x", i.Class, i.SubClass, i.Protocol),
				})
			}
			if asJSON {
				return command.WriteJSON(cmd.OutOrStdout(), list)
			}
			w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 8, 2, ' ', 0)
			fmt.Fprintln(w, "BUSID\tDEVICE\tCLASS\tMBIT/S\tADDRESS")
			for _, e := range list {
				fmt.Fprintf(w, "%s\t%s:%s\t%s\t%s\t%s\n", command.Printable(e.BusID), e.Vendor, e.Product, e.Class, e.Speed, command.Printable(e.Address))
			}
			return w.Flush()
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "as JSON")
	return cmd
}
