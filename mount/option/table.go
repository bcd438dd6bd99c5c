// Package option is the grammar of mount options: what mount(2)'s data and
// fsconfig(2)'s parameters say, as typed values. It decides what is honoured
// and refuses the rest by name; it does no I/O.
package option

import (
	_ "embed"
	"fmt"
	"strings"
	"sync"
)

// Verdict is what becomes of an option.
type Verdict string

const (
	Honoured  Verdict = "honoured"  // it changes what is mounted
	Inherent  Verdict = "inherent"  // what it asks for holds already
	Refused   Verdict = "refused"   // with Row.Why
	Userspace Verdict = "userspace" // for mount(8) alone
)

// Row is one option of a file system type.
type Row struct {
	Names   []string `json:"names"` // the first is the one that kernel and man page prefer; "x-*" stands for all with that beginning
	Value   string   `json:"value"`
	Group   string   `json:"group"`
	Verdict Verdict  `json:"verdict"`
	Why     string   `json:"why"`
}

// takesValue says whether the option must be written name=value.
func (r *Row) takesValue() bool { return r.Value != "flag" && r.Value != "maybe" }

// The options of each type of file system.
var (
	//go:embed cifs.table
	cifsText string
	//go:embed nfs.table
	nfsText string
)

// CIFSTable is every option of the types cifs and smb3.
func CIFSTable() []Row { return cifsTable().rows }

// NFSTable is every option of the types nfs and nfs4.
func NFSTable() []Row { return nfsTable().rows }

type table struct {
	rows   []Row
	byName map[string]*Row
}

var (
	cifsTable = sync.OnceValue(func() *table { return mustParse(cifsText) })
	nfsTable  = sync.OnceValue(func() *table { return mustParse(nfsText) })
)

func mustParse(text string) *table {
	t, err := parseTable(text)
	if err != nil {
		panic(err) // the text is part of the program
	}
	return t
}

func parseTable(text string) (*table, error) {
	t := &table{byName: map[string]*Row{}}
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		f := strings.Split(line, "|")
		if len(f) != 5 {
			return nil, fmt.Errorf("option table: %d columns, expected 5: %q", len(f), line)
		}
		for i := range f {
			f[i] = strings.TrimSpace(f[i])
		}
		t.rows = append(t.rows, Row{strings.Fields(f[0]), f[1], f[2], Verdict(f[3]), f[4]})
	}
	for i := range t.rows {
		for _, name := range t.rows[i].Names {
			if t.byName[name] != nil {
				return nil, fmt.Errorf("option table: %q twice", name)
			}
			t.byName[name] = &t.rows[i]
		}
	}
	return t, nil
}

// find is the row of an option by any of its names; nil where there is none.
func (t *table) find(name string) *Row {
	if r := t.byName[name]; r != nil && !strings.HasSuffix(name, "*") {
		return r
	}
	if len(name) > 2 {
		return t.byName[name[:2]+"*"]
	}
	return nil
}
