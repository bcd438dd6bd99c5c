package smb

import (
	"strings"
	"syscall"
	"unicode/utf16"
	"unicode/utf8"
)

// nameMax is the longest name of Windows and Samba file systems, in UTF-16 units.
const nameMax = 255

// posixMap is the Services for Mac mapping to the private use area that
// mapposix uses, by position from U+F020.
const posixMap = `"*:<>?\|`

// private is what r is carried as, or r itself.
func (m MapChars) private(r rune, last bool) rune {
	switch m {
	case MapPosix:
		if r < 0x20 {
			return 0xF000 + r
		}
		if i := strings.IndexRune(posixMap, r); i >= 0 {
			return 0xF020 + rune(i)
		}
		if last && r == ' ' {
			return 0xF028
		}
		if last && r == '.' {
			return 0xF029
		}
	case MapSFU:
		if strings.ContainsRune(`*:<>?\|`, r) {
			return 0xF000 + r
		}
	}
	return r
}

// public undoes private.
func (m MapChars) public(r rune) rune {
	switch {
	case m == MapPosix && r > 0xF000 && r < 0xF020:
		return r - 0xF000
	case m == MapPosix && r >= 0xF020 && r < 0xF028:
		return rune(posixMap[r-0xF020])
	case m == MapPosix && r == 0xF028:
		return ' '
	case m == MapPosix && r == 0xF029:
		return '.'
	case m == MapSFU && r > 0xF000 && r < 0xF080 && strings.ContainsRune(`*:<>?\|`, r-0xF000):
		return r - 0xF000
	}
	return r
}

// encode is a name as the server is told: EINVAL where no name can be so,
// EILSEQ where it is not UTF-8, ENAMETOOLONG beyond nameMax.
func (m MapChars) encode(name string) (string, error) {
	switch {
	case name == "" || name == "." || name == ".." || strings.ContainsAny(name, "/\x00"):
		return "", syscall.EINVAL
	case !utf8.ValidString(name):
		return "", syscall.EILSEQ
	}
	runes := []rune(name)
	units := 0
	for i, r := range runes {
		runes[i] = m.private(r, i == len(runes)-1)
		if runes[i] == '\\' {
			return "", syscall.EINVAL
		}
		units += utf16.RuneLen(runes[i])
	}
	if units > nameMax {
		return "", syscall.ENAMETOOLONG
	}
	return string(runes), nil
}

// decode is a name that the server told; ok is false for what cannot be a name
// here and must not reach the kernel.
func (m MapChars) decode(wire string) (name string, ok bool) {
	if strings.ContainsAny(wire, `/\`) {
		return "", false
	}
	name = strings.Map(m.public, wire)
	switch {
	case name == "" || name == "." || name == ".." || strings.ContainsAny(name, "/\x00"):
		return "", false
	case len(name) > 4*nameMax:
		return "", false
	}
	return name, true
}

// path encodes a slash-separated path, "" for the root.
func (m MapChars) path(p string) (string, error) {
	if p == "" {
		return "", nil
	}
	names := strings.Split(p, "/")
	for i, name := range names {
		wire, err := m.encode(name)
		if err != nil {
			return "", err
		}
		names[i] = wire
	}
	return strings.Join(names, `\`), nil
}
