// Package netcli is the lxnet command: one file a subcommand.
package netcli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"

	"github.com/lxbridge/lx/netns"
	"github.com/lxbridge/lx/portbroker"
)

// Exit codes.
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

var version = "devel" // set by the linker

// Main runs lxnet with args and answers its exit code.
func Main(args []string) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	root := newRoot(os.Stdin, os.Stdout, os.Stderr)
	root.SetArgs(args)
	return report(os.Stderr, root.ExecuteContext(ctx))
}

// report prints err and answers the exit code for it.
func report(w io.Writer, err error) int {
	var code exitCode
	var usage usageError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &code):
		return int(code)
	case errors.As(err, &usage):
		fmt.Fprintln(w, "lxnet:", err)
		fmt.Fprintln(w, "Try 'lxnet --help'.")
		return exitUsage
	case errors.Is(err, syscall.EPIPE): // the reader has seen enough
		return exitFailure
	}
	fmt.Fprintln(w, "lxnet:", err)
	return exitFailure
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
				return usageError{fmt.Errorf("unknown command %q", args[0])}
			}
			return cmd.Help()
		},
	}
	root.SetOut(out)
	root.SetErr(errw)
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	t := term{in, out, errw}
	root.AddCommand(newPorts(t), newWho(t), newConflicts(t), newCheck(t), newFree(t), newWait(t), newTop(t), newHistory(t), newMan())
	return root
}

func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usageError{fmt.Errorf("%s takes no argument %q", cmd.CommandPath(), args[0])}
	}
	return nil
}

func oneArg(name string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) != 1 {
			return usageError{fmt.Errorf("%s needs one %s", cmd.CommandPath(), name)}
		}
		return nil
	}
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
		return port{}, usageError{err}
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

func printJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

func newMan() *cobra.Command {
	return &cobra.Command{
		Use:     "man DIRECTORY",
		Short:   "Write the man pages of all commands",
		Example: "  lxnet man /usr/local/share/man/man1",
		Args:    oneArg("DIRECTORY"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := os.MkdirAll(args[0], 0o755); err != nil {
				return fmt.Errorf("cannot write man pages: %w", err)
			}
			root := cmd.Root()
			root.DisableAutoGenTag = true
			if err := doc.GenManTree(root, &doc.GenManHeader{Section: "1", Source: "lx", Manual: "lx"}, args[0]); err != nil {
				return fmt.Errorf("cannot write man pages: %w", err)
			}
			return nil
		},
	}
}
