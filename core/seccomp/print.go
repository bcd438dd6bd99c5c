package seccomp

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
)

// WriteText prints the table for a terminal.
func WriteText(w io.Writer) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "CALL\tAMD64\tI386\tARM64\tFEATURE\tACTION\tONLY\tWHAT IT DOES")
	for _, r := range table {
		fmt.Fprintln(tw, strings.Join(append(r.cells(), r.Does), "\t"))
	}
	return tw.Flush()
}

// WriteMarkdown prints the table as a page of the documentation.
func WriteMarkdown(w io.Writer) error {
	var b strings.Builder
	b.WriteString("| call | amd64 | i386 | arm64 | feature | action | only | what it does | why it is trapped |\n")
	b.WriteString("|---|---|---|---|---|---|---|---|---|\n")
	for _, r := range table {
		cells := append(r.cells(), r.Does, r.Why)
		b.WriteString("| " + strings.Join(cells, " | ") + " |\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// cells are a row's columns up to its condition.
func (r *Row) cells() []string {
	only := r.Only
	if only == "" {
		only = "–"
	}
	return []string{r.Name, r.number(AMD64), r.number(I386), r.number(ARM64), r.Feature, r.Action.String(), only}
}

func (r *Row) number(a Arch) string {
	s := "–"
	if r.NR[a] >= 0 {
		s = strconv.Itoa(r.NR[a])
	}
	if r.NR16[a] >= 0 {
		s += "/" + strconv.Itoa(r.NR16[a])
	}
	return s
}
