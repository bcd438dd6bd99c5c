// Package systemd reads systemd's unit files into lx's model. What it cannot
// take over is told by name.
package systemd

import (
	"bufio"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/lxbridge/lx/core/service"
)

// entry is one assignment.
type entry struct {
	section, key, value string
	line                int
	file                string
}

// parse reads a unit file or a drop-in (systemd.syntax(7)).
func parse(file, text string) ([]entry, error) {
	var out []entry
	section, pending, at := "", "", 0
	sc := bufio.NewScanner(strings.NewReader(text))
	sc.Buffer(nil, maxLine)
	for n := 1; sc.Scan(); n++ {
		line := strings.TrimSpace(sc.Text())
		if line != "" && (line[0] == '#' || line[0] == ';') {
			continue // also within a continued line
		}
		if pending == "" {
			at = n
		}
		if rest, ok := strings.CutSuffix(line, `\`); ok {
			pending += rest + " "
			continue
		}
		line, pending = pending+line, ""
		switch {
		case line == "":
		case line[0] == '[':
			name, ok := strings.CutSuffix(line[1:], "]")
			if !ok {
				return nil, fmt.Errorf("%s:%d: want [SECTION], got %q", file, at, line)
			}
			section = name
		default:
			key, value, ok := strings.Cut(line, "=")
			if !ok || section == "" {
				return nil, fmt.Errorf("%s:%d: want KEY=VALUE in a section, got %q", file, at, line)
			}
			out = append(out, entry{section, strings.TrimSpace(key), strings.TrimSpace(value), at, file})
		}
	}
	if err := sc.Err(); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	if pending != "" {
		return nil, fmt.Errorf("%s:%d: the last line is continued", file, at)
	}
	return out, nil
}

// maxLine bounds a line, as systemd does.
const maxLine = 1 << 20

// words splits a value at white space outside of quotes, and reads C escapes
// (systemd.syntax(7), "Quoting").
func words(s string) ([]string, error) {
	var out []string
	for {
		s = strings.TrimLeft(s, " \t")
		if s == "" {
			return out, nil
		}
		var b strings.Builder
		quote := byte(0)
	word:
		for s != "" {
			c := s[0]
			switch {
			case quote == 0 && (c == ' ' || c == '\t'):
				break word
			case c == '\\':
				r, n, err := escape(s)
				if err != nil {
					return nil, err
				}
				b.WriteString(r)
				s = s[n:]
				continue
			case quote == 0 && (c == '"' || c == '\''):
				quote = c
			case quote != 0 && c == quote:
				quote = 0
			default:
				b.WriteByte(c)
			}
			s = s[1:]
		}
		if quote != 0 {
			return nil, service.ErrUnterminated
		}
		out = append(out, b.String())
	}
}

var escapes = map[byte]string{'a': "\a", 'b': "\b", 'f': "\f", 'n': "\n", 'r': "\r", 't': "\t", 'v': "\v", '\\': "\\", '"': "\"", '\'': "'", 's': " ", ';': ";"}

// escape reads the one that s begins with, and says how long it is.
func escape(s string) (text string, n int, err error) {
	if len(s) < 2 {
		return "", 0, errors.New("a backslash at the end")
	}
	if t, ok := escapes[s[1]]; ok {
		return t, 2, nil
	}
	digits, base, from := 0, 16, 2
	switch c := s[1]; {
	case c == 'x':
		digits = 2
	case c == 'u':
		digits = 4
	case c == 'U':
		digits = 8
	case c >= '0' && c <= '7':
		digits, base, from = 3, 8, 1
	default:
		return "", 0, fmt.Errorf("unknown escape %q", s[:2])
	}
	if len(s) < from+digits {
		return "", 0, fmt.Errorf("escape %q is too short", s)
	}
	v, err := strconv.ParseUint(s[from:from+digits], base, 32)
	if err != nil || v == 0 {
		return "", 0, fmt.Errorf("escape %q is none", s[:from+digits])
	}
	if s[1] == 'u' || s[1] == 'U' {
		if !utf8.ValidRune(rune(v)) {
			return "", 0, fmt.Errorf("escape %q is no character", s[:from+digits])
		}
		return string(rune(v)), from + digits, nil
	}
	return string([]byte{byte(v)}), from + digits, nil
}

// commands reads the value of an Exec key: commands, each behind its prefixes,
// separated by a lone ";".
func commands(value string) (out []service.Command, expand bool, notes []string, err error) {
	ws, err := words(value)
	if err != nil {
		return nil, false, nil, err
	}
	expand = true
	var cur []string
	flush := func() {
		if len(cur) > 0 {
			out = append(out, service.Command(cur))
		}
		cur = nil
	}
	first, mayFail := true, false
	for i, w := range ws {
		if w == ";" && !first {
			flush()
			first, mayFail = true, false
			continue
		}
		if first {
			arg0 := false
		prefix:
			for w != "" {
				switch w[0] {
				case '-':
					mayFail = true
				case '@':
					arg0 = true
				case ':':
					expand = false
				case '+', '!':
					notes = append(notes, fmt.Sprintf("prefix %q: privileges are the service's own", w[:1]))
				default:
					break prefix
				}
				w = w[1:]
			}
			if w == "" {
				return nil, false, nil, fmt.Errorf("command %d is empty", len(out)+1)
			}
			if arg0 {
				// The next word is the program's own name for itself.
				if i+1 >= len(ws) {
					return nil, false, nil, errors.New("prefix \"@\" needs a second word")
				}
				return nil, false, nil, errors.New("prefix \"@\" (a name of its own for the program) is not supported")
			}
			if mayFail {
				cur = append(cur, "-")
			}
			first = false
		}
		cur = append(cur, w)
	}
	flush()
	return out, expand, notes, nil
}
