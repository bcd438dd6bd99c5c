// Package crontab reads crontab(5) files, so that what they say runs without a
// cron daemon.
package crontab

import (
	"errors"
	"fmt"
	"maps"
	"strings"

	"github.com/lxbridge/lx/core/service"
)

// Entry is a command and when it runs.
type Entry struct {
	Line     int
	Schedule string
	User     string // of system crontabs only
	Command  string // for the shell
	Input    string // what it reads from standard input
	Env      map[string]string
}

// maxEntries bounds a file.
const maxEntries = 1000

// Parse reads a crontab; system ones name a user before the command. Lines
// that are wrong are told, and the others read.
func Parse(text string, system bool) ([]Entry, error) {
	var out []Entry
	var errs []error
	env := map[string]string{}
	for i, line := range strings.Split(text, "\n") {
		line = strings.TrimLeft(line, " \t")
		if strings.TrimRight(line, " \t\r") == "" || line[0] == '#' {
			continue
		}
		if name, value, ok := assignment(line); ok {
			env[name] = value
			continue
		}
		e, err := parseEntry(line, system)
		if err != nil {
			errs = append(errs, fmt.Errorf("line %d: %w", i+1, err))
			continue
		}
		if len(out) == maxEntries {
			errs = append(errs, fmt.Errorf("line %d: more than %d entries", i+1, maxEntries))
			break
		}
		e.Line, e.Env = i+1, maps.Clone(env)
		out = append(out, e)
	}
	return out, errors.Join(errs...)
}

// assignment reads NAME=VALUE, with spaces around the sign and quotes.
func assignment(line string) (name, value string, ok bool) {
	name, value, ok = strings.Cut(line, "=")
	name, value = unquote(strings.TrimSpace(name)), unquote(strings.TrimSpace(value))
	if !ok || name == "" || strings.ContainsAny(name, " \t*,/@\x00") || strings.ContainsRune(value, 0) || name[0] >= '0' && name[0] <= '9' {
		return "", "", false
	}
	return name, value, true
}

func unquote(s string) string {
	if n := len(s); n >= 2 && (s[0] == '"' || s[0] == '\'') && s[n-1] == s[0] {
		return s[1 : n-1]
	}
	return s
}

func parseEntry(line string, system bool) (e Entry, err error) {
	fields := 5
	if line[0] == '@' {
		fields = 1
	}
	var parts []string
	rest := line
	for range fields {
		word, after := cutWord(rest)
		parts = append(parts, word)
		rest = after
	}
	e.Schedule = strings.Join(parts, " ")
	if _, err := service.ParseSchedule(e.Schedule); err != nil {
		return e, err
	}
	if system {
		if e.User, rest = cutWord(rest); e.User == "" {
			return e, errors.New("want a user before the command")
		}
	}
	e.Command, e.Input = percent(strings.TrimRight(rest, "\r"))
	if strings.TrimSpace(e.Command) == "" {
		return e, errors.New("want a command")
	}
	if strings.ContainsRune(rest, 0) {
		return e, errors.New("the command contains a NUL byte")
	}
	return e, nil
}

// cutWord cuts the first word off.
func cutWord(s string) (word, rest string) {
	s = strings.TrimLeft(s, " \t")
	n := strings.IndexAny(s, " \t")
	if n < 0 {
		return s, ""
	}
	return s[:n], strings.TrimLeft(s[n:], " \t")
}

// percent splits a command at its first bare %: what follows is standard
// input, in which further ones are newlines; \% is a %.
func percent(s string) (command, input string) {
	var b strings.Builder
	split := false
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '\\' && i+1 < len(s) && s[i+1] == '%':
			i++
			b.WriteByte('%')
		case s[i] == '%' && !split:
			command, split = b.String(), true
			b.Reset()
		case s[i] == '%':
			b.WriteByte('\n')
		default:
			b.WriteByte(s[i])
		}
	}
	if !split {
		return b.String(), ""
	}
	return command, b.String() + "\n"
}
