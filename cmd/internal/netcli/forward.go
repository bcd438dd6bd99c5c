package netcli

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/lxbridge/lx/cmd/internal/command"
	"github.com/lxbridge/lx/netns"
	"github.com/lxbridge/lx/portbroker"
)

func newForward(t term) *cobra.Command {
	var proxy bool
	cmd := &cobra.Command{
		Use:   "forward [ADDRESS:]PORT TARGET:PORT",
		Short: "Pass TCP connections on to another place",
		Long: `forward listens at ADDRESS:PORT, without ADDRESS at 127.0.0.1, and passes each
connection on to TARGET:PORT, until it is ended. With --proxy-protocol the target is
told first who the client is, by a line that nginx, HAProxy and others understand.`,
		Example: "  lxnet forward 8080 localhost:18080\n  lxnet forward '*:8443' 127.124.3.145:443 --proxy-protocol",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 2 {
				return command.Misused(errors.New("lxnet forward needs [ADDRESS:]PORT and TARGET:PORT"))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			at, err := listenAddr(args[0])
			if err != nil {
				return command.Misused(err)
			}
			if _, _, err := net.SplitHostPort(args[1]); err != nil {
				return command.Misused(fmt.Errorf("%q is no target: expected HOST:PORT", args[1]))
			}
			ctx := cmd.Context()
			l, err := new(net.ListenConfig).Listen(ctx, "tcp", at.String())
			if errors.Is(err, unix.EADDRINUSE) {
				return command.WithHint(fmt.Errorf("cannot forward: %w", err), "lxnet check "+args[0])
			}
			if err != nil {
				return fmt.Errorf("cannot forward: %w", err)
			}
			f := &portbroker.Forwarder{Proxy: proxy, Log: slog.New(slog.NewTextHandler(t.err, nil)), Dial: func(ctx context.Context) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, "tcp", args[1])
			}}
			return f.Serve(ctx, l)
		},
	}
	cmd.Flags().BoolVar(&proxy, "proxy-protocol", false, "tell the target who the client is")
	return cmd
}

// listenAddr reads [ADDRESS:]PORT; without an address it is not for others.
func listenAddr(text string) (netip.AddrPort, error) {
	p, addr, number, err := portbroker.ParseEndpoint(text)
	switch {
	case err != nil:
		return netip.AddrPort{}, err
	case p != netns.TCP || number == 0:
		return netip.AddrPort{}, fmt.Errorf("cannot forward %q: expected a port of TCP from 1 to 65535", text)
	}
	if _, perr := parsePort(text); perr == nil {
		addr = netip.AddrFrom4([4]byte{127, 0, 0, 1})
	}
	return netip.AddrPortFrom(addr, number), nil
}
