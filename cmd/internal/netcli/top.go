package netcli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
	xterm "golang.org/x/term"

	"github.com/lxbridge/lx/cmd/internal/command"
	"github.com/lxbridge/lx/netns"
)

func newTop(t term) *cobra.Command {
	var o selection
	cmd := &cobra.Command{
		Use:     "top",
		Short:   "Show ports and what changes, full screen",
		Long:    "top shows what ports lists, kept up to date, above the latest changes. q ends it; up and down, page up and page down scroll.",
		Example: "  lxnet top\n  lxnet top -t --env debian",
		Args:    command.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			q, err := o.query()
			if err != nil {
				return err
			}
			in, inOK := t.in.(*os.File)
			if width, _ := screen(t.out); width == 0 || !inOK || !xterm.IsTerminal(int(in.Fd())) {
				return errors.New("top needs a terminal: elsewhere use lxnet ports --watch")
			}
			return runTop(cmd.Context(), t, in, o, q)
		},
	}
	o.register(cmd.Flags())
	return cmd
}

// Terminal sequences (xterm's ctlseqs).
const (
	enterScreen = "\x1b[?1049h\x1b[?25l"
	leaveScreen = "\x1b[?25h\x1b[?1049l"
	home        = "\x1b[H"
	clearLine   = "\x1b[K"
	clearBelow  = "\x1b[J"
)

func runTop(ctx context.Context, t term, in *os.File, o selection, q netns.Query) (err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	old, err := xterm.MakeRaw(int(in.Fd()))
	if err != nil {
		return fmt.Errorf("cannot set the terminal up: %w", err)
	}
	defer func() {
		_, werr := io.WriteString(t.out, leaveScreen)
		err = errors.Join(err, werr, xterm.Restore(int(in.Fd()), old))
	}()
	if _, err := io.WriteString(t.out, enterScreen); err != nil {
		return err
	}
	resized := make(chan os.Signal, 1)
	signal.Notify(resized, unix.SIGWINCH)
	defer signal.Stop(resized)
	keys := make(chan string)
	go readKeys(ctx, in, keys) // ends with the program, for nothing ends a read of a terminal

	type look struct {
		s      *netns.Snapshot
		events []netns.Event
	}
	looks := make(chan look)
	watched := make(chan error, 1)
	r := netns.NewReader()
	defer r.Close()
	go func() {
		watched <- netns.Watch(ctx, r, q, func(s *netns.Snapshot, events []netns.Event) error {
			select {
			case looks <- look{s, events}:
			case <-ctx.Done():
			}
			return nil
		})
	}()
	d := display{o: o, started: time.Now()}
	for {
		select {
		case l := <-looks:
			d.update(l.s, l.events)
		case <-resized:
		case key := <-keys:
			if d.press(key) {
				cancel()
			}
		case err := <-watched:
			return err
		}
		width, height := screen(t.out)
		if _, err := io.WriteString(t.out, d.frame(width, height)); err != nil {
			cancel()
			return errors.Join(err, <-watched)
		}
	}
}

func readKeys(ctx context.Context, in io.Reader, keys chan<- string) {
	b := make([]byte, 16)
	for {
		n, err := in.Read(b)
		key := string(b[:n])
		if err != nil {
			key = "q"
		}
		select {
		case keys <- key:
		case <-ctx.Done():
			return
		}
		if err != nil {
			return
		}
	}
}

// display is what top shows.
type display struct {
	o       selection
	started time.Time
	view    view
	recent  []netns.Event // the latest last
	offset  int           // of the first row shown
	page    int           // rows that fit
}

const keep = 100 // events

func (d *display) update(s *netns.Snapshot, events []netns.Event) {
	d.view = d.o.view(s)
	for _, e := range events {
		if d.o.wants(&e.Entry) {
			d.recent = append(d.recent, e)
		}
	}
	if len(d.recent) > keep {
		d.recent = d.recent[len(d.recent)-keep:]
	}
}

// press answers true for the end.
func (d *display) press(key string) bool {
	switch key {
	case "q", "Q", "\x03", "\x1b":
		return true
	case "\x1b[A", "k":
		d.offset--
	case "\x1b[B", "j":
		d.offset++
	case "\x1b[5~":
		d.offset -= d.page
	case "\x1b[6~", " ":
		d.offset += d.page
	}
	return false
}

// frame is the whole screen.
func (d *display) frame(width, height int) string {
	if d.view.Snapshot == nil || width < 20 || height < 5 {
		return home + "lxnet top" + clearLine + clearBelow
	}
	counts := map[netns.State]int{}
	for i := range d.view.Entries {
		counts[d.view.Entries[i].State]++
	}
	head := []string{bold.paint(shorten(fmt.Sprintf("lxnet top  %s   %d listening, %d receiving, %d bound, %d connected   %d shared   %d namespaces",
		time.Now().Format(time.TimeOnly), counts[netns.Listen], counts[netns.Close], counts[netns.Bound], counts[netns.Established],
		len(d.view.Shadows), len(d.view.Namespaces)), width), true)}
	head = append(head, shadowLines(d.view.Shadows, width, true)...)
	head = head[:min(len(head), height/3+1)]

	tail := d.tail(width, max(3, height/4))
	rows := portsTable(d.view, d.o.all, width).lines(width, true)
	head = append(head, rows[0])
	rows = rows[1:]
	d.page = max(1, height-len(head)-len(tail))
	d.offset = max(0, min(d.offset, len(rows)-d.page))
	rows = rows[d.offset:]
	rows = rows[:min(len(rows), d.page)]
	for len(rows) < d.page {
		rows = append(rows, "")
	}
	lines := append(append(head, rows...), tail...)
	return home + strings.Join(lines[:min(len(lines), height)], clearLine+"\r\n") + clearLine + clearBelow
}

// tail are the latest changes and what is not seen.
func (d *display) tail(width, lines int) []string {
	out := []string{bold.paint("CHANGES", true)}
	for _, e := range d.recent[max(0, len(d.recent)-lines):] {
		sign := "+"
		if e.Gone {
			sign = "-"
		}
		out = append(out, shorten(fmt.Sprintf("%s %s %s %s", e.At.Format(time.TimeOnly), sign, e.Protocol, clean(who(&e.Entry))), width))
	}
	for _, text := range d.view.Unseen {
		out = append(out, faint.paint(shorten("not seen: "+text, width), true))
	}
	return out
}
