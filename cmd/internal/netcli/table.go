package netcli

import (
	"fmt"
	"io"
	"os"
	"strings"
	"unicode/utf8"

	"golang.org/x/sys/unix"
	xterm "golang.org/x/term"
)

// column of a table. A right one is a number.
type column struct {
	title    string
	right    bool
	flexible bool // shortened where the line would be too long
}

// table is text in columns that fits the width of a terminal.
type table struct {
	columns []column
	rows    [][]string
	styles  []style // one a row
}

// style is an SGR sequence's number (ECMA-48); 0 is plain.
type style int

const (
	plainStyle style = 0
	bold       style = 1
	faint      style = 2
	yellow     style = 33
	cyan       style = 36
)

func (s style) paint(text string, colour bool) string {
	if s == plainStyle || !colour {
		return text
	}
	return fmt.Sprintf("\x1b[%dm%s\x1b[0m", int(s), text)
}

func (t *table) add(s style, cells ...string) {
	for i := range cells {
		cells[i] = clean(cells[i])
	}
	t.rows, t.styles = append(t.rows, cells), append(t.styles, s)
}

// clean is text that cannot disturb a terminal: names of processes are
// anybody's.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 || r == utf8.RuneError {
			return '?'
		}
		return r
	}, s)
}

const least = 8 // runes that a flexible column keeps

// lines are the table's, the first its title; width 0 is any.
func (t *table) lines(width int, colour bool) []string {
	widths := make([]int, len(t.columns))
	for i, c := range t.columns {
		widths[i] = utf8.RuneCountInString(c.title)
	}
	total := 2 * (len(widths) - 1)
	for _, row := range t.rows {
		for i, cell := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	for _, w := range widths {
		total += w
	}
	for width > 0 && total > width {
		widest := -1
		for i, c := range t.columns {
			if c.flexible && widths[i] > least && (widest < 0 || widths[i] > widths[widest]) {
				widest = i
			}
		}
		if widest < 0 {
			break
		}
		widths[widest]--
		total--
	}
	titles := make([]string, len(t.columns))
	for i, c := range t.columns {
		titles[i] = c.title
	}
	lines := []string{bold.paint(t.line(titles, widths), colour)}
	for i, row := range t.rows {
		lines = append(lines, t.styles[i].paint(t.line(row, widths), colour))
	}
	return lines
}

func (t *table) line(cells []string, widths []int) string {
	var b strings.Builder
	for i, cell := range cells {
		if i > 0 {
			b.WriteString("  ")
		}
		cell = shorten(cell, widths[i])
		pad := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell))
		if t.columns[i].right {
			b.WriteString(pad + cell)
		} else {
			b.WriteString(cell + pad)
		}
	}
	return strings.TrimRight(b.String(), " ")
}

func shorten(s string, width int) string {
	if utf8.RuneCountInString(s) <= width {
		return s
	}
	return string([]rune(s)[:width-1]) + "…"
}

// screen is the width and height of the terminal that w is; 0 where it is none.
func screen(w io.Writer) (width, height int) {
	f, ok := w.(*os.File)
	if !ok {
		return 0, 0
	}
	width, height, err := xterm.GetSize(int(f.Fd()))
	if err != nil {
		return 0, 0
	}
	return width, height
}

// coloured says whether w is a terminal that colours are for (no-color.org).
func coloured(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok || os.Getenv("NO_COLOR") != "" || os.Getenv("TERM") == "dumb" {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}
