package netcli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/lxbridge/lx/cmd/internal/command"
	"github.com/lxbridge/lx/core/env"
	"github.com/lxbridge/lx/netns"
	"github.com/lxbridge/lx/portbroker"
)

// selection are the flags that choose sockets.
type selection struct {
	tcp, udp, listening, all bool
	env, port                string
}

func (o *selection) register(f *pflag.FlagSet) {
	f.BoolVarP(&o.tcp, "tcp", "t", false, "TCP, MPTCP and SCTP")
	f.BoolVarP(&o.udp, "udp", "u", false, "UDP and UDP-Lite")
	f.BoolVarP(&o.listening, "listening", "l", false, "only those that receive: not what is bound and does not listen")
	f.BoolVarP(&o.all, "all", "a", false, "connections as well")
	f.StringVar(&o.env, "env", "", "only of this environment of lx")
	f.StringVar(&o.port, "port", "", "only this [tcp/|udp/]PORT")
}

func (o *selection) query() (netns.Query, error) {
	q := netns.Query{Connected: o.all}
	if o.port != "" {
		p, err := parsePort(o.port)
		if err != nil {
			return q, err
		}
		q = p.query(o.all)
	}
	if o.tcp {
		q.Protocols = append(q.Protocols, netns.TCP, netns.SCTP)
	}
	if o.udp {
		q.Protocols = append(q.Protocols, netns.UDP, netns.UDPLite)
	}
	if o.listening && o.all {
		return q, command.Misused(fmt.Errorf("-l and -a exclude each other"))
	}
	return q, nil
}

func (o *selection) wants(e *netns.Entry) bool {
	if o.listening && e.State == netns.Bound {
		return false
	}
	return o.env == "" || slices.ContainsFunc(e.Owners, func(w netns.Owner) bool { return w.Environment == o.env })
}

// shadow is a pair of sockets whose users may be surprised.
type shadow struct {
	One   *netns.Entry `json:"one"`
	Other *netns.Entry `json:"other"`
	Why   string       `json:"why"`
}

// view is what ports prints.
type view struct {
	Shadows []shadow `json:"shadows"`
	*netns.Snapshot
}

// view filters a snapshot and finds its shadows.
func (o *selection) view(s *netns.Snapshot) view {
	v := view{Shadows: []shadow{}, Snapshot: s}
	s.Entries = slices.DeleteFunc(s.Entries, func(e netns.Entry) bool { return !o.wants(&e) })
	if s.Entries == nil {
		s.Entries = []netns.Entry{}
	}
	v.Shadows = append(v.Shadows, shadows(s.Entries)...)
	annotate(s)
	return v
}

// annotate adds what lx knows of sockets, which is not needed to list them.
func annotate(s *netns.Snapshot) {
	dirs, err := env.UserDirs()
	if err == nil {
		err = portbroker.Annotate(s, dirs)
	}
	if err != nil {
		s.Unseen = append(s.Unseen, "what is reserved or remapped: "+err.Error())
	}
}

// shadows finds pairs of different programs; entries are sorted by port.
func shadows(entries []netns.Entry) []shadow {
	var all []shadow
	for i := range entries {
		for j := i + 1; j < len(entries) && entries[j].Local.Port() == entries[i].Local.Port() && entries[j].Protocol.Space() == entries[i].Protocol.Space(); j++ {
			a, b := &entries[i], &entries[j]
			if together(a, b) {
				continue
			}
			if why := portbroker.Shadows(&portbroker.Holder{Entry: *a}, &portbroker.Holder{Entry: *b}); why != "" {
				all = append(all, shadow{a, b, why})
			}
		}
	}
	return all
}

// together says whether two sockets are likely one service's: the same program
// of the same user, which shares a port with itself on purpose.
func together(a, b *netns.Entry) bool {
	if a.Hidden || b.Hidden {
		return a.Hidden == b.Hidden && a.UID == b.UID
	}
	for _, x := range a.Owners {
		for _, y := range b.Owners {
			if x.PID == y.PID || x.UID == y.UID && x.Program() == y.Program() {
				return true
			}
		}
	}
	return false
}

func newPorts(t term) *cobra.Command {
	var o selection
	var asJSON, watch bool
	cmd := &cobra.Command{
		Use:   "ports",
		Short: "List who holds which port, the surprising ones first",
		Long: `ports lists the sockets that hold ports, in every network namespace that may be seen:
those that listen, receive, or are bound. Pairs of different programs that share a
port come first, with who gets what. With --watch it goes on with what changes.`,
		Example: "  lxnet ports\n  lxnet ports -t -l\n  lxnet ports --env debian --json\n  lxnet ports --port 8080 --watch",
		Args:    command.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			q, err := o.query()
			if err != nil {
				return err
			}
			if watch {
				return watchPorts(cmd.Context(), t, o, q, asJSON)
			}
			s, err := read(q)
			if err != nil {
				return err
			}
			v := o.view(s)
			if asJSON {
				return command.WriteJSON(t.out, v)
			}
			return t.printView(v, o.all)
		},
	}
	o.register(cmd.Flags())
	cmd.Flags().BoolVar(&asJSON, "json", false, "as JSON; with --watch one object a line")
	cmd.Flags().BoolVarP(&watch, "watch", "w", false, "go on with what appears and ends")
	return cmd
}

func (t term) printView(v view, connections bool) error {
	width, _ := screen(t.out)
	colour := coloured(t.out)
	lines := append(shadowLines(v.Shadows, width, colour), portsTable(v, connections, width).lines(width, colour)...)
	if _, err := io.WriteString(t.out, strings.Join(lines, "\n")+"\n"); err != nil {
		return err
	}
	t.unseen(v.Snapshot)
	return nil
}

// shadowLines tell of each pair, then leave a line free.
func shadowLines(all []shadow, width int, colour bool) []string {
	var lines []string
	for _, s := range all {
		text := fmt.Sprintf("%s %d: %s and %s: %s", s.One.Protocol.Space(), s.One.Local.Port(), who(s.One), who(s.Other), s.Why)
		for _, line := range wrap(clean(text), width) {
			lines = append(lines, yellow.paint(line, colour))
		}
	}
	if len(lines) > 0 {
		lines = append(lines, "")
	}
	return lines
}

// who is a socket's end and holder.
func who(e *netns.Entry) string {
	return e.LocalString() + " of " + (&portbroker.Holder{Entry: *e}).Name()
}

// wrap breaks text at blanks, and indents what follows.
func wrap(text string, width int) []string {
	if width <= 0 {
		return []string{text}
	}
	var lines []string
	line := ""
	for word := range strings.FieldsSeq(text) {
		switch {
		case line == "":
			line = word
		case len([]rune(line))+1+len([]rune(word)) <= width:
			line += " " + word
		default:
			lines, line = append(lines, line), "  "+word
		}
	}
	return append(lines, line)
}

// wide is the width from which on queues are shown.
const wide = 110

func portsTable(v view, connections bool, width int) *table {
	queues := width == 0 || width >= wide
	spaces := slices.ContainsFunc(v.Entries, func(e netns.Entry) bool { return e.Namespace != v.Namespaces[0].Inode })
	t := &table{columns: []column{{title: "NETID"}, {title: "STATE"}}}
	if queues {
		t.columns = append(t.columns, column{title: "RECV-Q", right: true}, column{title: "SEND-Q", right: true})
	}
	t.columns = append(t.columns, column{title: "LOCAL", flexible: true})
	if connections {
		t.columns = append(t.columns, column{title: "PEER", flexible: true})
	}
	t.columns = append(t.columns, column{title: "USER"}, column{title: "PROCESS", flexible: true}, column{title: "WHERE", flexible: true})
	if spaces {
		t.columns = append(t.columns, column{title: "NETNS", flexible: true})
	}
	shadowed := map[*netns.Entry]bool{}
	for _, s := range v.Shadows {
		shadowed[s.One], shadowed[s.Other] = true, true
	}
	row := func(e *netns.Entry, s style) {
		cells := []string{e.Protocol.String(), e.State.String()}
		if queues {
			cells = append(cells, strconv.Itoa(int(e.RecvQ)), strconv.Itoa(int(e.SendQ)))
		}
		cells = append(cells, e.LocalString())
		if connections {
			cells = append(cells, e.RemoteString())
		}
		cells = append(cells, netns.UserName(e.UID), processes(e), where(e))
		if spaces {
			cells = append(cells, namespaceName(v.Snapshot, e.Namespace))
		}
		t.add(s, cells...)
	}
	for i := range v.Entries {
		if shadowed[&v.Entries[i]] {
			row(&v.Entries[i], yellow)
		}
	}
	for i := range v.Entries {
		if e := &v.Entries[i]; !shadowed[e] {
			s := plainStyle
			if e.State == netns.Bound || e.Inode == 0 {
				s = faint
			} else if where(e) != "" {
				s = cyan
			}
			row(e, s)
		}
	}
	return t
}

// processes names the holders: "nginx/12,13 (2 more)".
func processes(e *netns.Entry) string {
	if e.Hidden {
		return "(hidden)"
	}
	var parts []string
	seen := map[int]bool{}
	names := map[string][]string{}
	var order []string
	for i := range e.Owners {
		o := &e.Owners[i]
		if seen[o.PID] {
			continue
		}
		seen[o.PID] = true
		name := o.Program()
		if names[name] == nil {
			order = append(order, name)
		}
		names[name] = append(names[name], strconv.Itoa(o.PID))
	}
	const shown = 3
	for _, name := range order {
		pids := names[name]
		more := ""
		if len(pids) > shown {
			more = fmt.Sprintf(" and %d more", len(pids)-shown)
			pids = pids[:shown]
		}
		parts = append(parts, name+"/"+strings.Join(pids, ",")+more)
	}
	return strings.Join(parts, " ")
}

// where is the environment or container of the holder, and what is noted.
func where(e *netns.Entry) string {
	place := ""
	if o := e.Owner(); o != nil && o.Environment != "" {
		place = o.Environment
	} else if o != nil {
		place = o.Container.String()
	}
	if e.Note != "" && place != "" {
		return place + ", " + e.Note
	}
	return place + e.Note
}

func namespaceName(s *netns.Snapshot, inode uint64) string {
	for i, n := range s.Namespaces {
		switch {
		case n.Inode != inode:
		case i == 0:
			return ""
		case n.Name != "":
			return n.Name
		}
	}
	if inode == 0 {
		return "(hidden)"
	}
	return strconv.FormatUint(inode, 10)
}

// watchPorts prints the table, then a line for each change, until ctx ends.
func watchPorts(ctx context.Context, t term, o selection, q netns.Query, asJSON bool) error {
	r := netns.NewReader()
	defer r.Close()
	first := true
	return netns.Watch(ctx, r, q, func(s *netns.Snapshot, events []netns.Event) error {
		if first {
			first = false
			if asJSON {
				return printLine(t, o.view(s))
			}
			return t.printView(o.view(s), o.all)
		}
		for _, e := range events {
			if !o.wants(&e.Entry) {
				continue
			}
			if asJSON {
				if err := printLine(t, e); err != nil {
					return err
				}
				continue
			}
			sign := "+"
			if e.Gone {
				sign = "-"
			}
			if _, err := fmt.Fprintf(t.out, "%s %s %s %s\n", e.At.Format("15:04:05.000"), sign, e.Protocol, clean(who(&e.Entry))); err != nil {
				return err
			}
		}
		return nil
	})
}

// printLine prints v as JSON on one line.
func printLine(t term, v any) error { return json.NewEncoder(t.out).Encode(v) }
