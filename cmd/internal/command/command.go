// Package command is what the commands of lx have in common: exit codes, the
// way errors are told, man pages.
package command

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"reflect"
	"strconv"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
)

// Exit codes of commands that have none of their own.
const (
	Failure ExitCode = 1
	Usage   ExitCode = 2
)

// ExitCode is an error that only carries the code to exit with: what there is
// to say has been said.
type ExitCode int

func (c ExitCode) Error() string { return fmt.Sprintf("exit code %d", int(c)) }

// usageError is a call that cannot be understood.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// Misused is err as one of a call that cannot be understood: exit code 2.
func Misused(err error) error { return usageError{err} }

// IsMisuse reports whether err is one of a call that cannot be understood.
func IsMisuse(err error) bool { return errors.As(err, new(usageError)) }

// hinted is an error with a line for people.
type hinted struct {
	error
	hint string
}

func (h hinted) Unwrap() error { return h.error }

// Hint is what to type next.
func (h hinted) Hint() string { return h.hint }

// WithHint is err with a line that says what to do.
func WithHint(err error, hint string) error { return hinted{err, hint} }

// Context ends with SIGINT or SIGTERM, unless they were ignored when the
// program was started. The caller calls stop.
func Context() (ctx context.Context, stop context.CancelFunc) {
	var heard []os.Signal
	for _, sig := range []os.Signal{os.Interrupt, syscall.SIGTERM} {
		if !signal.Ignored(sig) {
			heard = append(heard, sig)
		}
	}
	if len(heard) == 0 { // NotifyContext without signals would hear all
		return context.WithCancel(context.Background())
	}
	return signal.NotifyContext(context.Background(), heard...)
}

// Report prints err and its hint as the program name's, and answers the exit
// code for it: an error may tell its own by a method ExitCode. A reader that has seen enough (EPIPE) is told nothing.
func Report(w io.Writer, name string, err error) int {
	var code ExitCode
	switch {
	case err == nil:
		return 0
	case errors.As(err, &code):
		return int(code)
	case errors.Is(err, syscall.EPIPE):
		return int(Failure)
	}
	fmt.Fprintf(w, "%s: %s\n", name, Printable(err.Error()))
	var hint interface{ Hint() string }
	if errors.As(err, &hint) {
		fmt.Fprintln(w, "hint:", Printable(hint.Hint()))
	}
	var own interface{ ExitCode() int }
	switch {
	case errors.As(err, &own):
		return own.ExitCode()
	case IsMisuse(err):
		fmt.Fprintf(w, "Try '%s --help'.\n", name)
		return int(Usage)
	}
	return int(Failure)
}

// Printable is text of one or more lines that cannot disturb the terminal: what
// a guest or a server chose may be in it.
func Printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' || strconv.IsPrint(r) {
			return r
		}
		return '\uFFFD'
	}, s)
}

// WriteJSON writes v as people read it; an empty list as [].
func WriteJSON(w io.Writer, v any) error {
	if r := reflect.ValueOf(v); r.Kind() == reflect.Slice && r.IsNil() {
		v = []struct{}{}
	}
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// NoArgs refuses arguments as wrong usage.
func NoArgs(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return Misused(fmt.Errorf("%s takes no argument %q", cmd.CommandPath(), args[0]))
	}
	return nil
}

// OneArg asks for one argument, which the usage line calls name.
func OneArg(name string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) != 1 {
			return Misused(fmt.Errorf("%s needs one %s", cmd.CommandPath(), name))
		}
		return nil
	}
}

// NewMan is the command that writes the man pages of the program it is in.
func NewMan(program string) *cobra.Command {
	return &cobra.Command{
		Use:     "man DIRECTORY",
		Short:   "Write the man pages of all commands",
		Example: "  " + program + " man /usr/local/share/man/man1",
		Args:    OneArg("DIRECTORY"),
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
