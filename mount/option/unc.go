package option

import (
	"net/netip"
	"strings"
	"unicode/utf8"
)

// UNC names what is mounted.
type UNC struct {
	Server string // a name, or an IP address without brackets
	Share  string
	Prefix string // directory below the share, separated by slashes; may be empty
}

func (u UNC) String() string {
	server := u.Server
	if strings.Contains(server, ":") {
		server = "[" + server + "]"
	}
	s := "//" + server + "/" + u.Share
	if u.Prefix != "" {
		s += "/" + u.Prefix
	}
	return s
}

const maxUNC = 4095 // PATH_MAX without its NUL

// ParseUNC parses //server/share[/directory…], with slashes or backslashes
// (mount.cifs(8), SERVICE FORMATTING AND DELIMITERS). The server may be an
// IPv6 address as such, in brackets, or with dashes below ipv6-literal.net.
func ParseUNC(s string) (UNC, error) {
	bad := func(why string) (UNC, error) {
		return UNC{}, invalid("source", "%q: %s; expected //server/share", s, why)
	}
	isDelim := func(c byte) bool { return c == '/' || c == '\\' }
	switch scheme, _, ok := strings.Cut(s, "://"); {
	case s == "":
		return bad("empty")
	case len(s) > maxUNC:
		return UNC{}, invalid("source", "longer than %d bytes", maxUNC)
	case ok && (scheme == "smb" || scheme == "cifs"):
		return bad("a URL")
	case !utf8.ValidString(s):
		return bad("not UTF-8")
	case strings.ContainsRune(s, 0):
		return bad("a NUL in it")
	case len(s) < 3 || !isDelim(s[0]) || !isDelim(s[1]) || isDelim(s[2]):
		return bad("it does not begin with two slashes")
	}
	parts := strings.FieldsFunc(s[2:], func(r rune) bool { return r == '/' || r == '\\' })
	server, rest := parts[0], s[2+len(parts[0]):]
	if rest == "" || len(parts) < 2 || len(rest) > 1 && isDelim(rest[1]) {
		return bad("the share's name is missing")
	}
	for _, name := range parts[2:] {
		if name == "." || name == ".." {
			return bad("its directory has " + name + " in it")
		}
	}
	server, err := parseServer(server)
	if err != "" {
		return bad(err)
	}
	return UNC{server, parts[1], strings.Join(parts[2:], "/")}, nil
}

// parseServer answers the server without decoration, or what is wrong with it.
func parseServer(s string) (server, why string) {
	if inner, ok := strings.CutPrefix(s, "["); ok {
		inner, ok = strings.CutSuffix(inner, "]")
		ip, err := netip.ParseAddr(inner)
		if !ok || err != nil || !ip.Is6() {
			return "", "the server's IPv6 address is malformed (a port goes into port=)"
		}
		return ip.String(), ""
	}
	if inner, ok := cutSuffixFold(s, ".ipv6-literal.net"); ok {
		// 's' stands for the zone's '%' there.
		text := strings.ReplaceAll(inner, "-", ":")
		if i := strings.IndexByte(text, 's'); i >= 0 {
			text = text[:i] + "%" + text[i+1:]
		}
		ip, err := netip.ParseAddr(text)
		if err != nil || !ip.Is6() {
			return "", "the server's IPv6 address is malformed"
		}
		return ip.String(), ""
	}
	if strings.Contains(s, ":") {
		ip, err := netip.ParseAddr(s)
		if err != nil {
			return "", "the server's name has a colon in it (a port goes into port=)"
		}
		return ip.String(), ""
	}
	for _, r := range s {
		if r <= ' ' || r == 0x7f || strings.ContainsRune(`@%"<>|*?`, r) {
			return "", "the server's name has a character that none can have"
		}
	}
	if len(s) > 253 {
		return "", "the server's name is longer than 253 bytes"
	}
	return s, ""
}

func cutSuffixFold(s, suffix string) (string, bool) {
	if len(s) < len(suffix) || !strings.EqualFold(s[len(s)-len(suffix):], suffix) {
		return s, false
	}
	return s[:len(s)-len(suffix)], true
}
