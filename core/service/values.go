package service

import (
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// spanUnits are the units of systemd.time(7), and Go's.
var spanUnits = map[string]time.Duration{
	"": time.Second, "s": time.Second, "sec": time.Second, "second": time.Second, "seconds": time.Second,
	"ns": time.Nanosecond, "nsec": time.Nanosecond, "us": time.Microsecond, "µs": time.Microsecond, "usec": time.Microsecond, "ms": time.Millisecond, "msec": time.Millisecond,
	"m": time.Minute, "min": time.Minute, "minute": time.Minute, "minutes": time.Minute,
	"h": time.Hour, "hr": time.Hour, "hour": time.Hour, "hours": time.Hour,
	"d": 24 * time.Hour, "day": 24 * time.Hour, "days": 24 * time.Hour,
	"w": 7 * 24 * time.Hour, "week": 7 * 24 * time.Hour, "weeks": 7 * 24 * time.Hour,
}

// Forever is the time span "infinity".
const Forever = time.Duration(1<<63 - 1)

// ParseDuration reads a time span: numbers with units, added; a bare number
// counts seconds.
func ParseDuration(s string) (time.Duration, error) {
	rest := strings.TrimSpace(s)
	if rest == "infinity" {
		return Forever, nil
	}
	bad := fmt.Errorf("time span %q: want numbers with units, as \"1h30m\" or \"90s\"", s)
	if rest == "" {
		return 0, bad
	}
	var sum float64
	for rest != "" {
		n := strings.IndexFunc(rest, func(r rune) bool { return (r < '0' || r > '9') && r != '.' })
		if n < 0 {
			n = len(rest)
		}
		v, err := strconv.ParseFloat(rest[:n], 64)
		if err != nil {
			return 0, bad
		}
		rest = strings.TrimLeft(rest[n:], " ")
		n = strings.IndexFunc(rest, func(r rune) bool { return r >= '0' && r <= '9' || r == ' ' || r == '.' })
		if n < 0 {
			n = len(rest)
		}
		unit, ok := spanUnits[rest[:n]]
		if !ok {
			return 0, bad
		}
		sum += v * float64(unit)
		rest = strings.TrimLeft(rest[n:], " ")
	}
	if sum >= float64(Forever) {
		return 0, fmt.Errorf("time span %q: too long", s)
	}
	return time.Duration(sum), nil
}

// Octal reads a file mode; def where s is empty.
func Octal(s string, def uint32) (uint32, error) {
	if s == "" {
		return def, nil
	}
	n, err := strconv.ParseUint(s, 8, 12)
	return uint32(n), err
}

// Signal reads a signal by name, with or without SIG, or number.
func Signal(s string) (syscall.Signal, error) {
	if n, err := strconv.Atoi(s); err == nil && n > 0 && n < 65 {
		return syscall.Signal(n), nil
	}
	if sig := unix.SignalNum("SIG" + strings.TrimPrefix(s, "SIG")); sig != 0 {
		return sig, nil
	}
	return 0, fmt.Errorf("signal %q: want a name as SIGTERM", s)
}

// parseStatus reads an exit code or a signal of a service's end.
func parseStatus(s string) (func(Exit) bool, error) {
	if n, err := strconv.Atoi(s); err == nil && n >= 0 && n < 256 {
		return func(e Exit) bool { return e.Signal == 0 && e.Code == n }, nil
	}
	sig, err := Signal(s)
	if err != nil {
		return nil, fmt.Errorf("exit status %q: want 0 to 255 or a signal", s)
	}
	return func(e Exit) bool { return e.Signal == sig }, nil
}

// statusIn reports whether a list of statuses has e.
func statusIn(list []string, e Exit) bool {
	for _, s := range list {
		if is, err := parseStatus(s); err == nil && is(e) {
			return true
		}
	}
	return false
}

// HostPort reads [ADDRESS:]PORT; without an address it is the loopback's.
func HostPort(s string) (string, error) {
	host, port := "127.0.0.1", s
	if strings.Contains(s, ":") {
		var err error
		if host, port, err = net.SplitHostPort(s); err != nil {
			return "", fmt.Errorf("%q: want [ADDRESS:]PORT", s)
		}
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return "", fmt.Errorf("%q: want a port from 1 to 65535", s)
	}
	return net.JoinHostPort(host, port), nil
}

// Address is what net.Listen takes. Without an address it is every one of the host's.
func (s Socket) Address() (network, address string, err error) {
	if strings.HasPrefix(s.Listen, "/") {
		return "unix", filepath.Clean(s.Listen), nil
	}
	network, address, ok := strings.Cut(s.Listen, "/")
	if !ok || network != "tcp" && network != "udp" {
		return "", "", fmt.Errorf("socket %q: want tcp/[ADDRESS:]PORT, udp/[ADDRESS:]PORT or an absolute path", s.Listen)
	}
	if !strings.Contains(address, ":") {
		address = ":" + address
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return "", "", fmt.Errorf("socket %q: %w", s.Listen, err)
	}
	if n, perr := strconv.ParseUint(port, 10, 16); perr != nil || n == 0 {
		return "", "", fmt.Errorf("socket %q: want a port from 1 to 65535", s.Listen)
	}
	if host != "" && net.ParseIP(host) == nil {
		return "", "", fmt.Errorf("socket %q: want an address in numbers", s.Listen)
	}
	return network, net.JoinHostPort(host, port), nil
}

// ErrUnterminated is a quote that does not end.
var ErrUnterminated = errors.New("a quote does not end")

// EnvironmentFile reads systemd.exec(5)'s EnvironmentFile=: NAME=VALUE lines,
// comments with # and ;, shell-like quotes, and a backslash that continues a line.
func EnvironmentFile(text string) (map[string]string, error) {
	env := map[string]string{}
	lines := strings.Split(strings.ReplaceAll(text, "\\\n", ""), "\n")
	for i, line := range lines {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' || line[0] == ';' {
			continue
		}
		name, value, ok := strings.Cut(line, "=")
		name = strings.TrimSpace(name)
		if !ok || !envName(name) {
			return nil, fmt.Errorf("line %d: want NAME=VALUE", i+1)
		}
		v, err := unquote(strings.TrimSpace(value))
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", i+1, err)
		}
		env[name] = v
	}
	return env, nil
}

// unquote takes shell quotes and backslashes off.
func unquote(s string) (string, error) {
	var b strings.Builder
	quote := rune(0)
	rs := []rune(s)
	for i := 0; i < len(rs); i++ {
		switch r := rs[i]; {
		case r == '\\' && quote != '\'' && i+1 < len(rs) && (quote == 0 || strings.ContainsRune("\"\\`$", rs[i+1])):
			i++
			b.WriteRune(rs[i])
		case quote == 0 && (r == '"' || r == '\''):
			quote = r
		case quote != 0 && r == quote:
			quote = 0
		default:
			b.WriteRune(r)
		}
	}
	if quote != 0 {
		return "", ErrUnterminated
	}
	return b.String(), nil
}

// envName reports whether s can be a variable's name.
func envName(s string) bool {
	for i, r := range s {
		if r != '_' && !(r >= 'a' && r <= 'z') && !(r >= 'A' && r <= 'Z') && (i == 0 || r < '0' || r > '9') {
			return false
		}
	}
	return s != ""
}

// Expand replaces variables in a command as systemd.service(5) does: ${NAME}
// anywhere, $NAME as a word of its own, which becomes as many words as its
// value has; $$ is a dollar sign. What is not set is empty.
func Expand(argv []string, env map[string]string) []string {
	var out []string
	for i, w := range argv {
		if name, ok := strings.CutPrefix(w, "$"); ok && i > 0 && envName(name) {
			out = append(out, strings.Fields(env[name])...)
			continue
		}
		var b strings.Builder
		for w != "" {
			d := strings.IndexByte(w, '$')
			if d < 0 || d+1 == len(w) {
				b.WriteString(w)
				break
			}
			b.WriteString(w[:d])
			w = w[d:]
			end := strings.IndexByte(w, '}')
			switch {
			case w[1] == '$':
				b.WriteByte('$')
				w = w[2:]
			case w[1] == '{' && end > 0 && envName(w[2:end]):
				b.WriteString(env[w[2:end]])
				w = w[end+1:]
			default:
				b.WriteByte('$')
				w = w[1:]
			}
		}
		out = append(out, b.String())
	}
	return out
}
