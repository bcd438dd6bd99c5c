package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/lxbridge/lx/cmd/internal/command"
	"github.com/lxbridge/lx/core/env"
)

func newLog() *cobra.Command {
	var follow bool
	var name string
	cmd := &cobra.Command{
		Use:     "log [-f]",
		Short:   "Show what lx says of mounts and failures",
		Example: "  lx log\n  lx log -f",
		Args:    command.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			name, err := environment(name)
			if err != nil {
				return err
			}
			dirs, err := env.UserDirs()
			if err != nil {
				return err
			}
			return showLog(cmd.Context(), &terminalText{w: cmd.OutOrStdout()}, dirs.Log(name), follow)
		},
	}
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on showing what is added")
	addEnv(cmd.Flags(), &name)
	return cmd
}

// terminalText passes on what is printable of a stream of text.
type terminalText struct {
	w    io.Writer
	part []byte // of a character that has not come yet
}

func (t *terminalText) Write(p []byte) (int, error) {
	t.part = append(t.part, p...)
	whole := len(t.part)
	for i := 1; i < utf8.UTFMax && i <= len(t.part); i++ {
		if last := t.part[len(t.part)-i:]; utf8.RuneStart(last[0]) {
			if !utf8.FullRune(last) {
				whole -= i
			}
			break
		}
	}
	_, err := io.WriteString(t.w, command.Printable(string(t.part[:whole])))
	t.part = append(t.part[:0], t.part[whole:]...)
	return len(p), err
}

// showLog copies the log, and with follow goes on until ctx ends.
func showLog(ctx context.Context, w io.Writer, path string, follow bool) error {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return errors.New("cannot show the log: nothing has run yet")
	}
	if err != nil {
		return fmt.Errorf("cannot show the log: %w", err)
	}
	defer func() { f.Close() }()
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		if _, err := io.Copy(w, f); err != nil {
			return fmt.Errorf("cannot show the log: %w", err)
		}
		if !follow {
			return nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		// A new start may have begun a new file.
		if now, err := os.Stat(path); err == nil {
			if old, err := f.Stat(); err == nil && !os.SameFile(now, old) {
				next, err := os.Open(path)
				if err != nil {
					return fmt.Errorf("cannot show the log: %w", err)
				}
				f.Close()
				f = next
			}
		}
	}
}
