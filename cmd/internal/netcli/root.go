// Package netcli is the lxnet command: one file a subcommand.
package netcli

import (
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/lxbridge/lx/cmd/internal/command"
	"github.com/lxbridge/lx/netns"
	"github.com/lxbridge/lx/portbroker"
)

var version = "devel" // set by the linker

// Main runs lxnet with args and answers its exit code.
func Main(args []string) int {
	ctx, stop := command.Context()
	defer stop()
	root := newRoot(os.Stdin, os.Stdout, os.Stderr)
	root.SetArgs(args)
	return command.Report(os.Stderr, "lxnet", root.ExecuteContext(ctx))
}

// term is where a command reads and writes.
type term struct {
	in       io.Reader
	out, err io.Writer
}

func newRoot(in io.Reader, out, errw io.Writer) *cobra.Command {
	root := &cobra.Command{
		Use:   "lxnet COMMAND",
		Short: "Tell who has which port, and why another cannot",
		Long: `lxnet shows the sockets of every network namespace that you may see, with the
processes, environments and containers that hold them, and explains each conflict.
It needs no privilege and says what it may not see.

PORT is [tcp/|udp/]NUMBER. Exit codes: 0, 1 for no (nobody there, would not succeed,
not free in time) or a failure, 2 for wrong usage.`,
		Example: `  lxnet ports
  lxnet who 8080
  lxnet check 127.0.0.1:8080`,
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
	t := term{in, out, errw}
	root.AddCommand(newPorts(t), newWho(t), newConflicts(t), newCheck(t), newFree(t), newWait(t), newTop(t), newHistory(t), newPolicy(t), newReserve(t), newRelease(t), newForward(t), newCounters(t), newMetrics(t), command.NewMan("lxnet"))
	return root
}

// port is an argument [tcp/|udp/]NUMBER. Without a protocol it is of all.
type port struct {
	protocols []netns.Protocol // none: all
	number    uint16
}

func (p port) query(connected bool) netns.Query {
	return netns.Query{Protocols: p.protocols, Low: p.number, Connected: connected}
}

func (p port) String() string {
	if len(p.protocols) == 1 {
		return fmt.Sprintf("%s port %d", p.protocols[0], p.number)
	}
	return fmt.Sprintf("port %d", p.number)
}

func parsePort(text string) (port, error) {
	proto, addr, number, err := portbroker.ParseEndpoint(text)
	if err == nil && (!addr.IsUnspecified() || number == 0 || strings.Contains(text, ":")) {
		err = fmt.Errorf("%q is no port: expected [tcp/|udp/]NUMBER from 1 to 65535", text)
	}
	if err != nil {
		return port{}, command.Misused(err)
	}
	p := port{number: number}
	if strings.Contains(text, "/") {
		p.protocols = []netns.Protocol{proto}
	}
	return p, nil
}

// read takes one look.
func read(q netns.Query) (*netns.Snapshot, error) {
	r := netns.NewReader()
	defer r.Close()
	return r.Read(q)
}

// unseen says what a command could not take into account.
func (t term) unseen(s *netns.Snapshot) {
	for _, text := range s.Unseen {
		fmt.Fprintln(t.err, "not seen:", text)
	}
}
