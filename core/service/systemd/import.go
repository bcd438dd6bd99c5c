package systemd

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/lxbridge/lx/core/regular"
	"github.com/lxbridge/lx/core/service"
)

// Dirs are where unit files lie, the first one wins (systemd.unit(5)).
var Dirs = []string{"/etc/systemd/system", "/run/systemd/system", "/usr/local/lib/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system"}

// Imported is a unit, the files it was read from, and what of them is not
// taken over.
type Imported struct {
	Unit  service.Unit
	Files []string
	Notes []string
}

// Import reads the service unit name (with or without ".service"; or a path) with
// its drop-ins. A socket unit is imported as its service, which the first client
// starts.
func Import(dirs []string, name string) (Imported, error) {
	full := name
	if strings.Contains(name, "/") {
		var dir string
		dir, full = filepath.Split(name)
		dirs = append([]string{filepath.Clean(dir)}, dirs...)
	}
	if base, ok := strings.CutSuffix(full, ".socket"); ok {
		return importSocket(dirs, base)
	}
	if !strings.HasSuffix(full, ".service") {
		if ext := filepath.Ext(full); slices.Contains([]string{".timer", ".target", ".mount", ".path", ".slice", ".scope", ".device", ".swap", ".automount"}, ext) {
			return Imported{}, fmt.Errorf("cannot import %s: only .service and .socket units can be; a timer is made with `lx timer add`", full)
		}
		full += ".service"
	}
	entries, files, err := load(dirs, full)
	if err != nil {
		return Imported{}, fmt.Errorf("cannot import %s: %w", full, err)
	}
	u, notes, err := convert(full, entries)
	if err != nil {
		return Imported{}, fmt.Errorf("cannot import %s: %w", full, err)
	}
	return Imported{Unit: u, Files: files, Notes: notes}, nil
}

func importSocket(dirs []string, base string) (Imported, error) {
	full := base + ".socket"
	entries, files, err := load(dirs, full)
	if err != nil {
		return Imported{}, fmt.Errorf("cannot import %s: %w", full, err)
	}
	sockets, service, notes, err := convertSocket(full, entries)
	if err != nil {
		return Imported{}, fmt.Errorf("cannot import %s: %w", full, err)
	}
	im, err := Import(dirs, service)
	if err != nil {
		return Imported{}, err
	}
	im.Unit.Sockets, im.Files, im.Notes = sockets, append(files, im.Files...), append(notes, im.Notes...)
	if err := im.Unit.Check(); err != nil {
		return Imported{}, fmt.Errorf("cannot import %s: %w", full, err)
	}
	return im, nil
}

// load reads a unit's file and drop-ins.
func load(dirs []string, full string) (entries []entry, files []string, err error) {
	if err := service.CheckName(strings.TrimSuffix(full, filepath.Ext(full))); err != nil {
		return nil, nil, err
	}
	names := []string{full}
	if prefix, inst, ok := instance(full); ok && inst != "" {
		names = append(names, prefix+"@"+filepath.Ext(full))
	} else if ok {
		return nil, nil, fmt.Errorf("it is a template, name an instance as %s@NAME%s", prefix, filepath.Ext(full))
	}
	for _, n := range names {
		path, text, err := find(dirs, n)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, nil, err
		}
		if entries, err = parse(path, text); err != nil {
			return nil, nil, err
		}
		files = append(files, path)
		break
	}
	if len(files) == 0 {
		return nil, nil, fmt.Errorf("no such unit in %s", strings.Join(dirs, ", "))
	}
	for _, path := range dropIns(dirs, names) {
		b, err := readUnit(path)
		if err != nil {
			return nil, nil, err
		}
		more, err := parse(path, string(b))
		if err != nil {
			return nil, nil, err
		}
		entries = append(entries, more...)
		files = append(files, path)
	}
	return entries, files, nil
}

// instance takes NAME@INSTANCE.service apart.
func instance(full string) (prefix, inst string, ok bool) {
	return strings.Cut(strings.TrimSuffix(full, filepath.Ext(full)), "@")
}

// maxUnit bounds a file, in bytes.
const maxUnit = 1 << 20

// readUnit reads a file; a link to /dev/null is an empty one (systemd.unit(5)).
func readUnit(path string) ([]byte, error) {
	if to, err := filepath.EvalSymlinks(path); err == nil && to == os.DevNull {
		return nil, nil
	}
	return regular.ReadFile(path, maxUnit)
}

func find(dirs []string, name string) (path, text string, err error) {
	for _, d := range dirs {
		path := filepath.Join(d, name)
		b, err := readUnit(path)
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			return "", "", err
		case len(b) == 0:
			return "", "", fmt.Errorf("%s is masked (empty)", path)
		default:
			return path, string(b), nil
		}
	}
	return "", "", fs.ErrNotExist
}

// dropIns are the NAME.d/*.conf of all directories in the order of their base
// names; of equal names the first directory's.
func dropIns(dirs, names []string) []string {
	found := map[string]string{}
	for _, n := range names {
		for _, d := range dirs {
			// The pattern is a directory's: an error would be its syntax.
			list, _ := filepath.Glob(filepath.Join(escapeGlob(filepath.Join(d, n+".d")), "*.conf"))
			for _, p := range list {
				if _, ok := found[filepath.Base(p)]; !ok {
					found[filepath.Base(p)] = p
				}
			}
		}
	}
	var out []string
	for _, base := range slices.Sorted(maps.Keys(found)) {
		out = append(out, found[base])
	}
	return out
}

func escapeGlob(s string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(s)
}

// specifiers replaces %-specifiers (systemd.unit(5)) for a system unit.
func specifiers(full, s string) (string, error) {
	if !strings.Contains(s, "%") {
		return s, nil
	}
	base := strings.TrimSuffix(full, filepath.Ext(full))
	prefix, inst, _ := strings.Cut(base, "@")
	last := prefix[strings.LastIndexByte(prefix, '-')+1:]
	values := map[byte]string{
		'n': full, 'N': base, 'p': prefix, 'P': unescape(prefix), 'i': inst, 'I': unescape(inst), 'j': last, 'J': unescape(last),
		'f': "/" + unescape(inst), 't': "/run", 'S': "/var/lib", 'C': "/var/cache", 'L': "/var/log", 'E': "/etc", 'T': "/tmp", 'V': "/var/tmp",
		'h': "/root", 'u': "root", 'U': "0", 'g': "root", 'G': "0", 's': "/bin/sh", '%': "%",
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '%' {
			b.WriteByte(s[i])
			continue
		}
		i++
		if i == len(s) {
			return "", errors.New("a % at the end")
		}
		v, ok := values[s[i]]
		if !ok {
			return "", fmt.Errorf("specifier %%%c is not supported", s[i])
		}
		b.WriteString(v)
	}
	return b.String(), nil
}

// unescape reads a name as systemd-escape(1) -u does.
func unescape(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '-':
			b.WriteByte('/')
		case s[i] == '\\' && i+3 < len(s) && s[i+1] == 'x':
			if t, n, err := escape(s[i:]); err == nil {
				b.WriteString(t)
				i += n - 1
				continue
			}
			b.WriteByte(s[i])
		default:
			b.WriteByte(s[i])
		}
	}
	return b.String()
}
