package option

import (
	"maps"
	"net/netip"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// Options are what a mount asks for. Each type of file system has its own,
// made by its New function with the defaults.
type Options interface {
	// Set takes one option. A later one wins over an earlier one, as in the
	// kernel. The error is EINVAL for what cannot be and EOPNOTSUPP for what lx
	// cannot do.
	Set(Param) error
	// Finish checks what only the whole can tell.
	Finish() error
	// General is what options of every type have.
	General() *Common
	// Clone is a copy that Set does not share.
	Clone() Options
	// Same says whether other, of the same type, describes the same mount. What
	// does not count: flags, and how something was given.
	Same(other Options) bool
}

// Common is what options of every type have.
type Common struct {
	Type   string // as the caller said it
	Source string // as the caller said it
	Mount  Flags
	sloppy bool
}

// General is c; a type whose options embed Common has it so.
func (c *Common) General() *Common { return c }

// Flags are what every file system has.
type Flags struct {
	ReadOnly, Sync, DirSync, LazyTime bool   // of the superblock
	Attr                              uint64 // of the mount: MOUNT_ATTR_*
}

// Parse is Set on o for the source and each of params, and Finish.
func Parse(o Options, source string, params []Param) error {
	if err := o.Set(Param{"source", source, true}); err != nil {
		return err
	}
	for _, p := range params {
		if err := o.Set(p); err != nil {
			return err
		}
	}
	return o.Finish()
}

// grammar is how the options of one type are understood. setters are what takes
// each option that the table calls honoured, and the inherent ones that refuse
// some values, by the first of their names. empty are the options that say
// something by an empty value.
type grammar[T any] struct {
	table   func() *table
	setters map[string]func(*T, value) error
	empty   map[string]bool
}

// value is an option's value and the name under which it came.
type value struct {
	name, text string
	has        bool // name=text, not name
	row        *Row
}

func (g *grammar[T]) set(o *T, c *Common, p Param) error {
	row := g.table().find(p.Name)
	switch {
	case row == nil && c.sloppy:
		return nil
	case row == nil:
		return unknown(p.Name)
	case row.Verdict == Userspace:
		return nil
	case strings.ContainsRune(p.Value, 0):
		return invalid(p.Name, "a NUL in the value")
	case p.Has && row.Value == "flag":
		return invalid(p.Name, "takes no value")
	case !p.Has && row.takesValue():
		return invalid(p.Name, "expected %s=%s", p.Name, row.Value)
	case p.Has && p.Value == "" && !g.empty[row.Names[0]]:
		return invalid(p.Name, "expected a value")
	case row.Verdict == Refused:
		return unsupported(p.Name, row.Why)
	}
	set, ok := g.setters[row.Names[0]]
	if !ok { // inherent, whatever is said
		return nil
	}
	return set(o, value{p.Name, p.Value, p.Has, row})
}

// withFlags adds the setters of what every type has.
func withFlags[T any](common func(*T) *Common, setters map[string]func(*T, value) error) map[string]func(*T, value) error {
	flag := func(f func(*Flags)) func(*T, value) error {
		return func(o *T, _ value) error { f(&common(o).Mount); return nil }
	}
	maps.Copy(setters, map[string]func(*T, value) error{
		"ro":         flag(func(f *Flags) { f.ReadOnly = true }),
		"rw":         flag(func(f *Flags) { f.ReadOnly = false }),
		"sync":       flag(func(f *Flags) { f.Sync = true }),
		"async":      flag(func(f *Flags) { f.Sync = false }),
		"dirsync":    flag(func(f *Flags) { f.DirSync = true }),
		"lazytime":   flag(func(f *Flags) { f.LazyTime = true }),
		"nolazytime": flag(func(f *Flags) { f.LazyTime = false }),
		"sloppy":     func(o *T, _ value) error { common(o).sloppy = true; return nil },
	})
	for name, bit := range attrs {
		setters[name] = flag(func(f *Flags) { f.Attr |= bit })
	}
	for name, bit := range cleared {
		setters[name] = flag(func(f *Flags) { f.Attr &^= bit })
	}
	return setters
}

// attrs and cleared are the attributes that options set and take back.
var (
	attrs = map[string]uint64{
		"nosuid": unix.MOUNT_ATTR_NOSUID, "nodev": unix.MOUNT_ATTR_NODEV,
		"noexec": unix.MOUNT_ATTR_NOEXEC, "noatime": unix.MOUNT_ATTR_NOATIME,
	}
	cleared = map[string]uint64{
		"suid": unix.MOUNT_ATTR_NOSUID, "dev": unix.MOUNT_ATTR_NODEV,
		"exec": unix.MOUNT_ATTR_NOEXEC, "relatime": unix.MOUNT_ATTR_NOATIME,
	}
)

func on[T any](f func(*T)) func(*T, value) error {
	return func(o *T, _ value) error { f(o); return nil }
}

// only takes the one value that changes nothing.
func only[T any](text string) func(*T, value) error {
	return func(_ *T, v value) error {
		if v.text == text {
			return nil
		}
		if v.row.Value != "string" {
			if n, err := v.number(0, 1<<32-1); err != nil {
				return err
			} else if strconv.FormatUint(n, 10) == text {
				return nil
			}
		}
		return unsupported(v.name, "only "+text+" is possible: "+v.row.Why)
	}
}

// string takes text of at most max bytes.
func (v value) string(to *string, max int) error {
	switch {
	case len(v.text) > max:
		return invalid(v.name, "longer than %d bytes", max)
	case !utf8.ValidString(v.text):
		return invalid(v.name, "not UTF-8")
	}
	*to = v.text
	return nil
}

// secret is string for what no error may show: neither does string.
func (v value) secret(to *Secret) error {
	var s string
	if err := v.string(&s, 512); err != nil { // the kernel's CIFS_MAX_PASSWORD_LEN
		return err
	}
	*to = Secret(s)
	return nil
}

// number is the kernel's notation: 0x for hexadecimal, 0 for octal.
func (v value) number(min, max uint64) (uint64, error) {
	digits, base := v.text, 10
	if hex, ok := strings.CutPrefix(strings.ToLower(digits), "0x"); ok {
		digits, base = hex, 16
	} else if len(digits) > 1 && digits[0] == '0' {
		base = 8
	}
	n, err := strconv.ParseUint(digits, base, 64)
	if err != nil {
		return 0, invalid(v.name, "%q is no number", v.text)
	}
	if n < min || n > max {
		return 0, invalid(v.name, "%s is not between %d and %d", v.text, min, max)
	}
	return n, nil
}

func (v value) seconds(to *time.Duration, min, max uint64) error {
	n, err := v.number(min, max)
	if err == nil {
		*to = time.Duration(n) * time.Second
	}
	return err
}

func (v value) id(to *uint32) error { return v.bytes(to, 0, 1<<32-2) }

func (v value) mode(to *uint32) error {
	n, err := v.number(0, 0o7777)
	if err != nil {
		return invalid(v.name, "%q is no mode; expected octal digits such as 0755", v.text)
	}
	*to = uint32(n)
	return nil
}

func (v value) bytes(to *uint32, min, max uint64) error {
	n, err := v.number(min, max)
	if err == nil {
		*to = uint32(n)
	}
	return err
}

func (v value) address(to *netip.Addr) (err error) {
	if *to, err = netip.ParseAddr(strings.Trim(v.text, "[]")); err != nil {
		return invalid(v.name, "%q is no IP address", v.text)
	}
	return nil
}

func (v value) port(to *uint16) error {
	n, err := v.number(0, 65535)
	*to = uint16(n)
	return err
}
