package updates

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"strings"
)

// parseAPT reads what `apt-get -s dist-upgrade` would do. A package is behind
// if another version of it is installed; what is new with the upgrade is not.
//
//	Inst libc6 [2.36-9+deb12u8] (2.36-9+deb12u9 Debian-Security:12/stable-security [amd64])
func parseAPT(out, _ []byte) (Listing, error) {
	l := Listing{Security: new(int)}
	for line := range strings.Lines(string(out)) {
		rest, ok := strings.CutPrefix(strings.TrimSpace(line), "Inst ")
		if !ok {
			continue
		}
		name, rest, ok := strings.Cut(rest, " ")
		if !ok || !isName(name) {
			return Listing{}, fmt.Errorf("cannot read apt-get's line %q", line)
		}
		rest, behind := strings.CutPrefix(rest, "[")
		if !behind {
			continue
		}
		installed, rest, ok := strings.Cut(rest, "] (")
		what, _, closed := strings.Cut(rest, ")")
		available, origins, _ := strings.Cut(what, " ")
		if !ok || !closed || installed == "" || available == "" {
			return Listing{}, fmt.Errorf("cannot read apt-get's line %q", line)
		}
		p := Package{Name: name, Installed: installed, Available: available, Security: strings.Contains(strings.ToLower(origins), "security")}
		if p.Security {
			*l.Security++
		}
		l.Packages = append(l.Packages, p)
	}
	return l, nil
}

// isName says whether a word can be a package's name: no option in any case.
func isName(s string) bool {
	return s != "" && (s[0] >= 'a' && s[0] <= 'z' || s[0] >= 'A' && s[0] <= 'Z' || s[0] >= '0' && s[0] <= '9' || s[0] == '_' || s[0] == '.')
}

// parseDNF reads the lists of `dnf check-update` and `dnf check-update
// --security`, which are alike in versions 4 and 5.
func parseDNF(out, security []byte) (Listing, error) {
	l := Listing{Packages: dnfList(out), Security: new(int)}
	// By name: what mends may be older than the newest, which mends it too.
	mended := map[string]bool{}
	for _, p := range dnfList(security) {
		mended[p.Name] = true
	}
	for i := range l.Packages {
		if p := &l.Packages[i]; mended[p.Name] {
			p.Security = true
			*l.Security++
		}
	}
	return l, nil
}

// dnfList reads lines NAME.ARCH VERSION REPOSITORY; version 4 breaks them after
// names that are long. What is obsoleted comes after a heading.
func dnfList(out []byte) (ps []Package) {
	var words []string
	for line := range strings.Lines(string(out)) {
		if strings.HasPrefix(line, "Obsoleting") {
			break
		}
		f := strings.Fields(line)
		if len(words) > 0 && (line[0] == ' ' || line[0] == '\t') {
			words = append(words, f...)
		} else {
			words = f
		}
		if len(words) < 3 {
			continue
		}
		i := strings.LastIndexByte(words[0], '.')
		if len(words) == 3 && i > 0 && isName(words[0]) && strings.ContainsAny(words[1], "0123456789") {
			ps = append(ps, Package{Name: words[0], Available: words[1]})
		}
		words = nil
	}
	return ps
}

// parseZypper reads the XML of `zypper list-updates` and of `zypper
// list-patches --category security`.
func parseZypper(out, security []byte) (Listing, error) {
	ps, err := zypperList(out, "package")
	if err != nil {
		return Listing{}, err
	}
	patches, err := zypperList(security, "patch")
	if err != nil {
		return Listing{}, err
	}
	n := len(patches)
	return Listing{Packages: ps, Security: &n}, nil
}

func zypperList(out []byte, kind string) (ps []Package, err error) {
	seen := map[Package]bool{}
	for dec := xml.NewDecoder(bytes.NewReader(out)); ; {
		tok, err := dec.Token()
		if errors.Is(err, io.EOF) {
			return ps, nil
		}
		if err != nil {
			return nil, fmt.Errorf("cannot read zypper's answer: %w", err)
		}
		e, ok := tok.(xml.StartElement)
		if !ok || e.Name.Local != "update" {
			continue
		}
		a := map[string]string{}
		for _, at := range e.Attr {
			a[at.Name.Local] = at.Value
		}
		p := Package{Name: a["name"], Installed: a["edition-old"], Available: a["edition"]}
		// Several repositories may offer the same.
		if a["kind"] == kind && p.Name != "" && !seen[p] {
			seen[p] = true
			ps = append(ps, p)
		}
	}
}

// parseAPK reads `apk version -l '<'`.
//
//	busybox-1.36.1-r5                       < 1.36.1-r7
func parseAPK(out, _ []byte) (l Listing, err error) {
	for line := range strings.Lines(string(out)) {
		f := strings.Fields(line)
		if len(f) < 3 || f[1] != "<" { // a fourth word is the repository's tag
			continue
		}
		// NAME-VERSION-rN
		i := strings.LastIndexByte(f[0], '-')
		if i > 0 {
			i = strings.LastIndexByte(f[0][:i], '-')
		}
		if i <= 0 {
			return Listing{}, fmt.Errorf("cannot read apk's line %q", line)
		}
		l.Packages = append(l.Packages, Package{Name: f[0][:i], Installed: f[0][i+1:], Available: f[2]})
	}
	return l, nil
}

// parsePacman reads `pacman -Qu`.
//
//	linux 6.6.1.arch1-1 -> 6.6.2.arch1-1
//	zfs 2.2.0-1 -> 2.2.1-1 [ignored]
func parsePacman(out, _ []byte) (l Listing, err error) {
	for line := range strings.Lines(string(out)) {
		f := strings.Fields(line)
		switch {
		case len(f) == 0 || len(f) == 5 && f[4] == "[ignored]":
			continue
		case len(f) != 4 || f[2] != "->":
			return Listing{}, fmt.Errorf("cannot read pacman's line %q", line)
		}
		l.Packages = append(l.Packages, Package{Name: f[0], Installed: f[1], Available: f[3]})
	}
	return l, nil
}
