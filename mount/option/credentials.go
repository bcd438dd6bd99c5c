package option

import (
	"fmt"
	"strings"
	"syscall"
)

// MaxCredentials is the largest credentials file that is read, in bytes.
const MaxCredentials = 64 << 10

// Login is who logs in and how. The Has fields tell an empty value from none.
type Login struct {
	User, Domain                    string
	Password, Password2             Secret
	HasUser, HasPassword, HasDomain bool
}

// ParseCredentials parses a credentials file (mount.cifs(8), credentials=):
// lines of username=, password=, password2= and domain=. Lines that are empty
// or begin with # are passed over, as are blanks before a name and a carriage
// return at the end. Blanks after "=" belong to a password, unless there are
// blanks before it as well. Errors name the line and never show it.
func ParseCredentials(text []byte) (Login, error) {
	var l Login
	bad := func(n int, why string) (Login, error) {
		return Login{}, &Error{"credentials", fmt.Sprintf("line %d: %s", n, why), syscall.EINVAL}
	}
	if len(text) > MaxCredentials {
		return Login{}, &Error{"credentials", fmt.Sprintf("the file has more than %d bytes", MaxCredentials), syscall.EFBIG}
	}
	n := 0
	for line := range strings.Lines(strings.TrimPrefix(string(text), "\ufeff")) {
		n++
		line = strings.TrimSuffix(strings.TrimSuffix(line, "\n"), "\r")
		if strings.ContainsRune(line, 0) {
			return bad(n, "a NUL in it")
		}
		line = strings.TrimLeft(line, " \t")
		if line == "" || line[0] == '#' {
			continue
		}
		key, value, ok := strings.Cut(line, "=")
		name := strings.TrimRight(key, " \t")
		if name != key {
			value = strings.TrimLeft(value, " \t")
		}
		switch name = strings.ToLower(name); {
		case !ok:
			return bad(n, "expected username=, password= or domain=")
		case name == "username" || name == "user":
			l.User, l.HasUser = strings.Trim(value, " \t"), true
		case name == "password" || name == "pass":
			l.Password, l.HasPassword = Secret(value), true
		case name == "password2" || name == "pass2":
			l.Password2 = Secret(value)
		case name == "domain" || name == "dom":
			l.Domain, l.HasDomain = strings.Trim(value, " \t"), true
		default:
			return bad(n, "expected username=, password= or domain=")
		}
	}
	return l, nil
}

// Fill takes from the file what the options left open.
func (l *Login) Fill(file Login) {
	if !l.HasUser {
		l.User, l.HasUser = file.User, file.HasUser
	}
	if !l.HasPassword {
		l.Password, l.HasPassword = file.Password, file.HasPassword
	}
	if l.Password2 == "" {
		l.Password2 = file.Password2
	}
	if !l.HasDomain {
		l.Domain, l.HasDomain = file.Domain, file.HasDomain
	}
}
