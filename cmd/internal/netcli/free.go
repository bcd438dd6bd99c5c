package netcli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/lxbridge/lx/cmd/internal/command"
	"github.com/lxbridge/lx/netns"
	"github.com/lxbridge/lx/portbroker"
)

func newFree(t term) *cobra.Command {
	var yes, force bool
	var patience time.Duration
	cmd := &cobra.Command{
		Use:   "free PORT",
		Short: "End the processes that hold a port, after asking",
		Long: `free asks, then ends the processes that hold PORT (SIGTERM), and waits until the port is
free. With --force those that are still there after the timeout are killed. Exit code 1:
the port is not free.`,
		Example: "  lxnet free 8080\n  lxnet free udp/5353 --yes",
		Args:    command.OneArg("PORT"),
		RunE: func(cmd *cobra.Command, args []string) error {
			p, err := parsePort(args[0])
			if err != nil {
				return err
			}
			return t.free(cmd.Context(), p, yes, force, patience)
		},
	}
	cmd.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	cmd.Flags().BoolVar(&force, "force", false, "kill what does not end in time")
	cmd.Flags().DurationVar(&patience, "timeout", 5*time.Second, "how long they may take to end")
	return cmd
}

// victim is a process to end. The pidfd names it even when its id is used again.
type victim struct {
	netns.Process
	fd int
}

func (t term) free(ctx context.Context, p port, yes, force bool, patience time.Duration) error {
	s, err := read(p.query(false))
	if err != nil {
		return err
	}
	own := s.Namespaces[0].Inode
	s.Entries = slices.DeleteFunc(s.Entries, func(e netns.Entry) bool { return e.Namespace != own })
	annotate(s)
	reserved := map[uint64]bool{} // which are not freed by the end of a process
	for _, e := range s.Entries {
		if strings.HasPrefix(e.Note, portbroker.ReservedNote) {
			reserved[e.Cookie] = true
			err = fmt.Errorf("cannot free %s: it is %s; lxnet release ends that", p, clean(e.Note))
		}
	}
	s.Entries = slices.DeleteFunc(s.Entries, func(e netns.Entry) bool { return reserved[e.Cookie] })
	if len(s.Entries) == 0 && err != nil {
		return err
	}
	if len(s.Entries) == 0 {
		_, err := fmt.Fprintf(t.out, "nobody has %s\n", p)
		t.unseen(s)
		return err
	}
	victims, err := findVictims(s)
	defer func() {
		for _, v := range victims {
			unix.Close(v.fd)
		}
	}()
	if err != nil {
		return fmt.Errorf("cannot free %s: %w", p, err)
	}
	for _, v := range victims {
		if _, err := fmt.Fprintf(t.out, "%s is held by %s (%d) of %s: %s\n", p, clean(v.Program()), v.PID, clean(v.User), clean(strings.Join(v.Args, " "))); err != nil {
			return err
		}
	}
	if !yes {
		fmt.Fprint(t.out, "End it? [y/N] ")
		answer, err := bufio.NewReader(t.in).ReadString('\n')
		if answer = strings.ToLower(strings.TrimSpace(answer)); answer != "y" && answer != "yes" {
			if err != nil && answer == "" {
				fmt.Fprintln(t.out)
			}
			return errors.New("left as it is")
		}
	}
	signals := []unix.Signal{unix.SIGTERM}
	if force {
		signals = append(signals, unix.SIGKILL)
	}
	for _, sig := range signals {
		for _, v := range victims {
			if err := unix.PidfdSendSignal(v.fd, sig, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
				return fmt.Errorf("cannot end %s (%d): %w", v.Program(), v.PID, err)
			}
		}
		err = awaitPort(ctx, p, false, reserved, patience)
		if !errors.Is(err, errTimeout) {
			break
		}
	}
	if errors.Is(err, errTimeout) {
		return fmt.Errorf("%s is still held after %s: see lxnet who %d; --force kills", p, patience, p.number)
	}
	if err == nil {
		_, err = fmt.Fprintf(t.out, "%s is free\n", p)
	}
	return err
}

// findVictims opens the holders, or says who cannot be ended.
func findVictims(s *netns.Snapshot) ([]victim, error) {
	var all []victim
	for i := range s.Entries {
		e := &s.Entries[i]
		if len(e.Owners) == 0 {
			return all, fmt.Errorf("%s is held by a process of %s that may not be seen", e.LocalString(), netns.UserName(e.UID))
		}
		for _, o := range e.Owners {
			if slices.ContainsFunc(all, func(v victim) bool { return v.PID == o.PID }) {
				continue
			}
			if o.PID == os.Getpid() || o.PID == 1 {
				return all, fmt.Errorf("it is held by process %d, which is not to be ended", o.PID)
			}
			fd, err := unix.PidfdOpen(o.PID, 0)
			if err != nil {
				return all, fmt.Errorf("%s (%d): %w", o.Program(), o.PID, err)
			}
			all = append(all, victim{*o.Process, fd})
			// The id may have been used again since the look.
			if now, err := netns.ReadProcess(o.PID); err != nil || !now.Started.Equal(o.Started) {
				return all, fmt.Errorf("%s (%d) has just ended: try again", o.Program(), o.PID)
			}
		}
	}
	return all, nil
}
