package netcli

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/lxbridge/lx/cmd/internal/command"
	"github.com/lxbridge/lx/core/env"
	"github.com/lxbridge/lx/netns"
	"github.com/lxbridge/lx/portbroker"
)

func newCheck(t term) *cobra.Command {
	var asJSON, reuseAddr, reusePort, v6only bool
	cmd := &cobra.Command{
		Use:   "check [tcp/|udp/][ADDRESS:]PORT",
		Short: "Tell whether a bind would succeed, and if not why",
		Long: `check tells whether you could bind to ADDRESS:PORT now and, for TCP, listen, and if not,
who is in the way. Without ADDRESS it is the wildcard of both families. Where it depends
on options of a holder that the kernel does not tell, the kernel itself is asked, by a
bind that is undone at once. Exit code 1: it would not succeed.`,
		Example: "  lxnet check 8080\n  lxnet check 127.0.0.1:8080 --reuseaddr\n  lxnet check udp/[::1]:53 --json",
		Args:    command.OneArg("ADDRESS:PORT"),
		RunE: func(_ *cobra.Command, args []string) error {
			p, addr, number, err := portbroker.ParseEndpoint(args[0])
			if err == nil && number == 0 {
				err = errors.New("port 0 is any free port: there is nothing to check")
			}
			if err != nil {
				return command.Misused(err)
			}
			dirs, err := env.UserDirs()
			if err != nil {
				return err
			}
			host, err := portbroker.ThisHost()
			if err != nil {
				return err
			}
			s, err := read(netns.Query{Protocols: []netns.Protocol{p}, Low: number, Connected: true})
			if err != nil {
				return err
			}
			r := portbroker.Request{Protocol: p, Addr: addr, Port: number, V6Only: v6only, ReuseAddr: reuseAddr, ReusePort: reusePort,
				UID: uint32(os.Getuid()), Privileged: portbroker.MayBindLow(), Freebind: host.Nonlocal(addr)}
			v := portbroker.Decide(host.Host, portbroker.Holders(s, dirs), r)
			if v.Uncertain {
				if v, err = ask(r, v); err != nil {
					return err
				}
			}
			if asJSON {
				err = command.WriteJSON(t.out, v)
			} else {
				err = t.printVerdict(args[0], v)
				t.unseen(s)
			}
			if err == nil && v.Errno != 0 {
				err = command.Failure
			}
			return err
		},
	}
	f := cmd.Flags()
	f.BoolVar(&asJSON, "json", false, "as JSON")
	f.BoolVar(&reuseAddr, "reuseaddr", false, "with SO_REUSEADDR")
	f.BoolVar(&reusePort, "reuseport", false, "with SO_REUSEPORT")
	f.BoolVar(&v6only, "v6only", false, "with IPV6_V6ONLY")
	return cmd
}

func (t term) printVerdict(what string, v portbroker.Verdict) error {
	colour := coloured(t.out)
	text := fmt.Sprintf("%s: %s", what, v.Kind)
	switch {
	case v.Errno != 0:
		text = fmt.Sprintf("%s: %s: %s (%s)", what, v.Kind, v.Why, v.Errno)
	case v.Why != "":
		text = fmt.Sprintf("%s: it would succeed, but %s", what, v.Why)
	}
	s := plainStyle
	if v.Kind != portbroker.OK {
		s = yellow
	}
	if _, err := fmt.Fprintln(t.out, s.paint(clean(text), colour)); err != nil {
		return err
	}
	if v.Hint != "" {
		if _, err := fmt.Fprintln(t.out, "hint:", v.Hint); err != nil {
			return err
		}
	}
	return nil
}

// ask settles an uncertain verdict v by the bind itself.
func ask(r portbroker.Request, v portbroker.Verdict) (portbroker.Verdict, error) {
	family, kind := unix.AF_INET6, unix.SOCK_STREAM
	if r.Addr.Is4() {
		family = unix.AF_INET
	}
	if r.Protocol.Space() != netns.TCP {
		kind = unix.SOCK_DGRAM
	}
	fd, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC, int(r.Protocol))
	if err != nil {
		return v, fmt.Errorf("cannot ask the kernel: %w", err)
	}
	defer unix.Close(fd)
	for _, o := range []struct {
		on            bool
		level, option int
	}{{r.ReuseAddr, unix.SOL_SOCKET, unix.SO_REUSEADDR}, {r.ReusePort, unix.SOL_SOCKET, unix.SO_REUSEPORT}, {r.V6Only, unix.SOL_IPV6, unix.IPV6_V6ONLY}} {
		if !o.on {
			continue
		}
		if err := unix.SetsockoptInt(fd, o.level, o.option, 1); err != nil {
			return v, fmt.Errorf("cannot ask the kernel: %w", err)
		}
	}
	var errno syscall.Errno
	if err := unix.Bind(fd, sockaddr(netip.AddrPortFrom(r.Addr, r.Port))); errors.As(err, &errno) {
		v.Errno, v.Uncertain, v.Hint = errno, false, "" // it is as feared
		return v, nil
	}
	return portbroker.Verdict{Kind: portbroker.Shadow, Holders: v.Holders, Why: v.Why + ", with the same option"}, nil
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Addr: a.Addr().As4(), Port: int(a.Port())}
	}
	return &unix.SockaddrInet6{Addr: a.Addr().As16(), Port: int(a.Port())}
}
