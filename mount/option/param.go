package option

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"syscall"
)

// Secret is text that never prints itself: every way of formatting and
// marshalling shows a placeholder.
type Secret string

const hidden = "[secret]"

// Format implements fmt.Formatter for all verbs.
func (Secret) Format(s fmt.State, _ rune) { _, _ = io.WriteString(s, hidden) }

// MarshalText implements encoding.TextMarshaler.
func (Secret) MarshalText() ([]byte, error) { return []byte(hidden), nil }

// Param is one option as it came. Has tells "name=" from "name".
type Param struct {
	Name, Value string
	Has         bool
}

// secrets are the options whose value nobody may see.
var secrets = []string{"password", "pass", "password2", "pass2"}

// String hides the value of a password.
func (p Param) String() string {
	switch {
	case !p.Has:
		return p.Name
	case slices.Contains(secrets, p.Name):
		return p.Name + "=" + hidden
	}
	return p.Name + "=" + p.Value
}

// Error is an option that was refused.
type Error struct {
	Name   string // the option's; empty for what concerns no single option
	Reason string // ends the sentence; never shows a secret
	Errno  syscall.Errno
}

func (e *Error) Error() string {
	if e.Name == "" {
		return e.Reason
	}
	return fmt.Sprintf("option %q: %s", e.Name, e.Reason)
}

func (e *Error) Unwrap() error { return e.Errno }

// unknown is the refusal of a name that the table does not have. One that can
// be no option's is not shown: it is likely to follow a comma in a password.
func unknown(name string) error {
	plain := func(r rune) bool {
		return r == '_' || r == '-' || r == '.' || r >= '0' && r <= '9' || r|0x20 >= 'a' && r|0x20 <= 'z'
	}
	if len(name) > 64 || strings.IndexFunc(name, func(r rune) bool { return !plain(r) }) >= 0 {
		return &Error{"", "an option whose name is none; put a password with a comma in it into credentials=FILE", syscall.EINVAL}
	}
	return &unknownError{name}
}

type unknownError struct{ name string }

func (e *unknownError) Error() string { return fmt.Sprintf("unknown option %q", e.name) }
func (e *unknownError) Unwrap() error { return syscall.EINVAL }

// invalid is a value that cannot be.
func invalid(name, format string, args ...any) error {
	return &Error{name, fmt.Sprintf(format, args...), syscall.EINVAL}
}

// unsupported is a wish that cannot be granted.
func unsupported(name, reason string) error { return &Error{name, reason, syscall.EOPNOTSUPP} }

// MaxData is the longest data of mount(2), in bytes: a page with its NUL.
const MaxData = 4095

// Split takes the data of mount(2) apart: name[=value] between commas. A
// comma that belongs to a value is doubled. "sep=" and a character at the
// very start make that character stand for the comma. Empty parts are passed over.
func Split(data string) ([]Param, error) {
	if len(data) > MaxData {
		return nil, &Error{"", fmt.Sprintf("%d bytes of options, at most %d are possible", len(data), MaxData), syscall.EINVAL}
	}
	sep := byte(',')
	if rest, ok := strings.CutPrefix(data, "sep="); ok {
		if rest == "" {
			return nil, invalid("sep", "expected a character")
		}
		sep, data = rest[0], rest[1:]
	}
	var params []Param
	for len(data) > 0 {
		var part string
		part, data = cut(data, sep)
		if part == "" {
			continue
		}
		p := Param{Name: part}
		p.Name, p.Value, p.Has = strings.Cut(part, "=")
		if p.Name == "" {
			return nil, &Error{"", "an option without a name: expected name=value", syscall.EINVAL}
		}
		params = append(params, p)
	}
	return params, nil
}

// cut takes what stands before the first single sep. A sep at the very start
// is single: the kernel sees an empty part there.
func cut(data string, sep byte) (part, rest string) {
	if data[0] == sep {
		return "", data[1:]
	}
	var b strings.Builder
	for i := 0; i < len(data); i++ {
		if data[i] != sep {
			b.WriteByte(data[i])
			continue
		}
		if i+1 == len(data) || data[i+1] != sep {
			return b.String(), data[i+1:]
		}
		b.WriteByte(sep)
		i++
	}
	return b.String(), ""
}
