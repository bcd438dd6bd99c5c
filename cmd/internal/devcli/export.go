package devcli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/lxbridge/lx/cmd/internal/command"
	"github.com/lxbridge/lx/core/env"
	"github.com/lxbridge/lx/devices/usb/export"
	"github.com/lxbridge/lx/devices/usb/remote"
	"github.com/lxbridge/lx/devices/usb/secure"
	"github.com/lxbridge/lx/devices/usb/usbip"
)

// openKeys opens the user's keys for other machines.
func openKeys() (*secure.Store, error) {
	dirs, err := env.UserDirs()
	if err != nil {
		return nil, err
	}
	return secure.OpenStore(dirs.Keys())
}

// exportOptions are export's flags.
type exportOptions struct {
	listen             string
	plain, pair, stdio bool
}

func newExport() *cobra.Command {
	var o exportOptions
	cmd := &cobra.Command{
		Use:   "export RULE...",
		Short: "Give devices of this machine to other machines",
		Long: `export gives the USB devices that a RULE names to machines that were paired with,
until it is interrupted, and writes to its standard error who does what. A RULE is
vidpid=VVVV:PPPP (the product may be *), serial=TEXT, path=1-1.2, several of them
joined by commas, or any. Input devices, hubs and smart cards are given only where
vidpid= or serial= names them.

It listens on loopback unless --listen says otherwise: --listen :3242 is everywhere.
--pair prints a code, with which one machine may pair within two minutes. With --plain
whoever reaches the port has the devices, unencrypted: kernels and other clients of
USB/IP know nothing else. This user must be able to open the devices.`,
		Example: "  lxdev export --listen :3242 --pair vidpid=18d1:4ee7\n  lxdev export --plain path=1-1.2\n  lxdev export",
		RunE: func(cmd *cobra.Command, args []string) error {
			return runExport(cmd.Context(), o, args, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	cmd.Flags().StringVar(&o.listen, "listen", "", "where to listen (default 127.0.0.1:3242, with --plain 127.0.0.1:3240)")
	cmd.Flags().BoolVar(&o.plain, "plain", false, "speak USB/IP without encryption, to whoever comes")
	cmd.Flags().BoolVar(&o.pair, "pair", false, "let one machine pair")
	cmd.Flags().BoolVar(&o.stdio, "stdio", false, "speak to the one client at standard input and output, as ssh:// does")
	return cmd
}

func runExport(ctx context.Context, o exportOptions, args []string, out, errw io.Writer) error {
	devices := &export.Local{Sys: os.DirFS("/sys/bus/usb/devices"), Nodes: "/dev/bus/usb"}
	for _, a := range args {
		r, err := export.ParseRule(a)
		if err != nil {
			return command.Misused(err)
		}
		devices.Rules = append(devices.Rules, r)
	}
	if len(args) == 0 {
		return command.Misused(askForRule(devices))
	}
	server := &usbip.Server{Exports: devices, Log: slog.New(slog.NewTextHandler(errw, nil))}
	if o.stdio {
		if o.plain || o.pair || o.listen != "" {
			return command.Misused(errors.New("--stdio goes with no other flag"))
		}
		conn, err := newStdio()
		if err != nil {
			return err
		}
		server.ServeConn(ctx, conn)
		return nil
	}
	if o.plain && o.pair {
		return command.Misused(errors.New("--plain asks nobody who they are: nothing is paired"))
	}
	if !o.plain {
		door, err := newDoor(o, server.Log, out)
		if err != nil {
			return err
		}
		server.Welcome = door.Welcome
	}
	if o.listen == "" {
		o.listen = net.JoinHostPort("127.0.0.1", secure.DefaultPort)
		if o.plain {
			o.listen = net.JoinHostPort("127.0.0.1", strconv.Itoa(usbip.DefaultPort))
		}
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", o.listen)
	if err != nil {
		return fmt.Errorf("cannot listen: %w", err)
	}
	if a, ok := l.Addr().(*net.TCPAddr); o.plain && ok && !a.IP.IsLoopback() {
		server.Log.Warn("whoever reaches this address has the devices, and who is in between hears and says what he likes")
	}
	if _, err := fmt.Fprintf(out, "listening on %s\n", l.Addr()); err != nil {
		return errors.Join(err, l.Close())
	}
	return server.Serve(ctx, l)
}

// askForRule says what a rule could name.
func askForRule(devices *export.Local) error {
	list, err := export.Scan(devices.Sys)
	if err != nil {
		return err
	}
	text := []string{"export wants to know which devices; this machine has"}
	for _, d := range list {
		text = append(text, "  "+command.Printable(d.String()))
	}
	if len(list) == 0 {
		text = append(text, "  none")
	}
	return command.WithHint(errors.New(strings.Join(text, "\n")), "lxdev export path=BUSID")
}

func newDoor(o exportOptions, log *slog.Logger, out io.Writer) (*secure.Door, error) {
	store, err := openKeys()
	if err != nil {
		return nil, err
	}
	door := &secure.Door{Store: store, Paired: func(name string, f secure.Fingerprint) { log.Info("paired", "client", name, "key", f.String()) }}
	if !o.pair {
		peers, err := store.Peers()
		if err != nil {
			return nil, err
		}
		if !slices.ContainsFunc(peers, secure.Peer.IsClient) {
			return nil, command.WithHint(errors.New("no machine was paired with by lxdev export --pair, so none could come"), "lxdev export --pair RULE...")
		}
		return door, nil
	}
	if door.Offer, err = secure.NewOffer(); err != nil {
		return nil, err
	}
	_, err = fmt.Fprintf(out, "to pair, within two minutes, at the other machine: lxdev pair HOST %s\n", door.Offer.Code())
	return door, err
}

// stdio is standard input and output as a connection.
type stdio struct {
	in, out *os.File
}

// newStdio makes them interruptible where they are pipes or sockets.
func newStdio() (*stdio, error) {
	for fd := range 2 {
		if err := syscall.SetNonblock(fd, true); err != nil {
			return nil, fmt.Errorf("cannot use standard input and output: %w", err)
		}
	}
	return &stdio{os.NewFile(0, "stdin"), os.NewFile(1, "stdout")}, nil
}

func (s *stdio) Read(b []byte) (int, error)  { return s.in.Read(b) }
func (s *stdio) Write(b []byte) (int, error) { return s.out.Write(b) }
func (s *stdio) Close() error                { return errors.Join(s.in.Close(), s.out.Close()) }
func (s *stdio) LocalAddr() net.Addr         { return stdioAddr("lxdev") }

// RemoteAddr is who sshd(8) says is there.
func (s *stdio) RemoteAddr() net.Addr {
	client, _, _ := strings.Cut(os.Getenv("SSH_CLIENT"), " ")
	return stdioAddr(command.Printable(client))
}

func (s *stdio) SetDeadline(t time.Time) error {
	return errors.Join(s.SetReadDeadline(t), s.SetWriteDeadline(t))
}
func (s *stdio) SetReadDeadline(t time.Time) error  { return s.in.SetReadDeadline(t) }
func (s *stdio) SetWriteDeadline(t time.Time) error { return s.out.SetWriteDeadline(t) }

type stdioAddr string

func (stdioAddr) Network() string  { return "stdio" }
func (a stdioAddr) String() string { return string(a) }

func newPair() *cobra.Command {
	return &cobra.Command{
		Use:     "pair HOST[:PORT] CODE",
		Short:   "Know another machine by the code that its lxdev export --pair prints",
		Long:    "pair exchanges keys with lxdev export at HOST. From then on lx://HOST is that machine and no other.",
		Example: "  lxdev pair lab 1234-5678\n  lxdev attach lx://lab/1-1.2",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 2 {
				return command.Misused(errors.New("pair wants HOST and CODE"))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			a, err := remote.Parse(remote.Paired + "://" + strings.TrimPrefix(args[0], remote.Paired+"://"))
			if err != nil {
				return command.Misused(err)
			}
			store, err := openKeys()
			if err != nil {
				return err
			}
			f, err := store.Pair(cmd.Context(), a.Host, a.Port, args[1])
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "paired with %s, key %s\n", a.Host, f)
			return err
		},
	}
}

func newPeers() *cobra.Command {
	var asJSON bool
	var forget string
	cmd := &cobra.Command{
		Use:     "peers [--json] [--forget NAME]",
		Short:   "List the machines that were paired with, or forget one",
		Example: "  lxdev peers\n  lxdev peers --forget lab",
		Args:    command.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			store, err := openKeys()
			if err != nil {
				return err
			}
			if forget != "" {
				return store.Forget(forget)
			}
			peers, err := store.Peers()
			if err != nil {
				return err
			}
			type line struct {
				Name string `json:"name"`
				Key  string `json:"key"`
			}
			list := []line{}
			for _, p := range peers {
				list = append(list, line{p.Name, p.Fingerprint.String()})
			}
			if asJSON {
				return command.WriteJSON(cmd.OutOrStdout(), list)
			}
			w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 8, 2, ' ', 0)
			fmt.Fprintln(w, "NAME\tKEY")
			for _, p := range list {
				fmt.Fprintf(w, "%s\t%s\n", p.Name, p.Key)
			}
			return w.Flush()
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "as JSON")
	cmd.Flags().StringVar(&forget, "forget", "", "the machine to forget")
	return cmd
}
