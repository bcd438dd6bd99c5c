package netcli

import (
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/lxbridge/lx/cmd/internal/command"
	"github.com/lxbridge/lx/netns"
	"github.com/lxbridge/lx/portbroker"
)

// holding is what who tells of one socket.
type holding struct {
	netns.Entry
	Ancestry [][]netns.Process `json:"ancestry"` // of each process that holds it, the nearest first
	Free     string            `json:"free"`     // what it takes
}

func newWho(t term) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "who PORT",
		Short: "Tell who has a port, since when, and what it takes to free it",
		Long: `who tells of each socket on PORT: the processes that hold it and their ancestors, its
environment or container, since when, and what it takes to free the port. Exit code 1:
nobody has it.`,
		Example: "  lxnet who 8080\n  lxnet who udp/53 --json",
		Args:    command.OneArg("PORT"),
		RunE: func(_ *cobra.Command, args []string) error {
			p, err := parsePort(args[0])
			if err != nil {
				return err
			}
			s, err := read(p.query(true))
			if err != nil {
				return err
			}
			annotate(s)
			all := []holding{}
			for _, e := range s.Entries {
				all = append(all, describe(e))
			}
			if asJSON {
				err = command.WriteJSON(t.out, all)
			} else {
				err = t.printHoldings(s, p, all)
			}
			if err == nil && len(all) == 0 {
				err = command.Failure
			}
			return err
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "as JSON")
	return cmd
}

func describe(e netns.Entry) holding {
	h := holding{Entry: e, Ancestry: [][]netns.Process{}, Free: toFree(&e)}
	seen := map[int]bool{}
	for _, o := range e.Owners {
		if !seen[o.PID] {
			seen[o.PID] = true
			h.Ancestry = append(h.Ancestry, netns.Ancestry(o.PID))
		}
	}
	return h
}

// toFree says what it takes that the port is free.
func toFree(e *netns.Entry) string {
	o := e.Owner()
	switch {
	case strings.HasPrefix(e.Note, portbroker.ReservedNote):
		return "lxnet release, with the environment and the port as lxnet reserve lists them"
	case e.State == netns.TimeWait:
		return "nothing: it ends by itself within a minute, and SO_REUSEADDR on both sides need not wait"
	case e.Inode == 0:
		return "nothing: no process has it any more, it ends with its connection"
	case o == nil && os.Getuid() == 0:
		return "its process is outside this pid namespace: end it there"
	case o == nil:
		return "ask root: the process may not be seen"
	case o.Container.ID != "":
		return fmt.Sprintf("stop container %s, or: lxnet free %d", o.Container, e.Local.Port())
	case o.UID != uint32(os.Getuid()) && os.Getuid() != 0:
		return fmt.Sprintf("ask %s or root to end process %d", o.User, o.PID)
	}
	return fmt.Sprintf("lxnet free %s/%d", e.Protocol.Space(), e.Local.Port())
}

func (t term) printHoldings(s *netns.Snapshot, p port, all []holding) error {
	colour := coloured(t.out)
	var b strings.Builder
	for _, h := range all {
		peer := ""
		if h.Remote.Port() != 0 {
			peer = " with " + h.RemoteString()
		}
		fmt.Fprintln(&b, bold.paint(fmt.Sprintf("%s %s %s%s", h.Protocol, h.LocalString(), h.State, peer), colour))
		if h.Note != "" {
			fmt.Fprintln(&b, " ", clean(h.Note))
		}
		if n := namespaceName(s, h.Namespace); n != "" {
			fmt.Fprintln(&b, "  network namespace", n)
		}
		if h.Hidden {
			fmt.Fprintf(&b, "  held by a process of %s that you may not see\n", netns.UserName(h.UID))
		}
		for _, line := range h.Ancestry {
			for depth, a := range line {
				fmt.Fprintf(&b, "  %s%s (%d) %s\n", strings.Repeat("  ", depth), clean(a.Program()), a.PID, clean(a.User))
				if depth > 0 {
					continue
				}
				if len(a.Args) > 0 {
					fmt.Fprintf(&b, "    command      %s\n", clean(strings.Join(a.Args, " ")))
				}
				if !a.Started.IsZero() {
					fmt.Fprintf(&b, "    runs since   %s (%s)\n", a.Started.Format(time.DateTime), age(time.Since(a.Started)))
				}
				if a.Container.ID != "" {
					fmt.Fprintf(&b, "    container    %s\n", a.Container)
				}
				if o := h.Owner(); o.Environment != "" {
					fmt.Fprintf(&b, "    environment  %s\n", clean(o.Environment))
				}
				if a.Cgroup != "" {
					fmt.Fprintf(&b, "    cgroup       %s\n", clean(a.Cgroup))
				}
				if len(line) > 1 {
					fmt.Fprintln(&b, "    started by")
				}
			}
		}
		fmt.Fprintf(&b, "  to free it: %s\n", h.Free)
	}
	if len(all) == 0 {
		fmt.Fprintf(&b, "nobody has %s\n", p)
	}
	_, err := fmt.Fprint(t.out, b.String())
	t.unseen(s)
	return err
}

// age is a duration as people say it.
func age(d time.Duration) string {
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%d s", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%d min", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h", int(d.Hours()))
	}
	return fmt.Sprintf("%d days", int(d.Hours()/24))
}
