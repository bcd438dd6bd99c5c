package mount

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"strconv"
	"strings"

	"github.com/lxbridge/lx/core/guest"
	"github.com/lxbridge/lx/mount/nfs/nfs4"
	"github.com/lxbridge/lx/mount/option"
)

// accounts are the users of a passwd(5) file, or the groups of a group(5) file.
type accounts struct {
	ids   map[string]uint32
	names map[uint32]string
}

// parseAccounts takes of each name and id the first line; others are passed over.
func parseAccounts(text string) accounts {
	a := accounts{map[string]uint32{}, map[uint32]string{}}
	for line := range strings.Lines(text) {
		f := strings.Split(strings.TrimSuffix(line, "\n"), ":")
		if len(f) < 3 || f[0] == "" || strings.HasPrefix(f[0], "#") {
			continue
		}
		n, err := strconv.ParseUint(f[2], 10, 32)
		if err != nil {
			continue
		}
		if _, have := a.ids[f[0]]; !have {
			a.ids[f[0]] = uint32(n)
		}
		if _, have := a.names[uint32(n)]; !have {
			a.names[uint32(n)] = f[0]
		}
	}
	return a
}

func (a accounts) id(name string) (uint32, bool) { id, ok := a.ids[name]; return id, ok }
func (a accounts) name(id uint32) (string, bool) { name, ok := a.names[id]; return name, ok }

// parseDomain is the domain of owners' names that an idmapd.conf(5) sets.
func parseDomain(text string) string {
	section := ""
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "[") {
			section = strings.ToLower(strings.Trim(line, "[] \t"))
			continue
		}
		key, value, ok := strings.Cut(line, "=")
		if ok && section == "general" && strings.EqualFold(strings.TrimSpace(key), "Domain") {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// maxAccounts bounds a file that names users or groups, in bytes.
const maxAccounts = 4 << 20

// names relate owners that a server calls user@domain to the ids that it is
// told otherwise: the host's files do, with idmap=guest those of thread t. Other
// sources of nsswitch.conf(5) are not asked. Without a Domain in idmapd.conf(5)
// any is understood, and none sent.
func (w *owners) names(ctx context.Context, t guest.Thread) (*nfs4.Names, error) {
	if w.mode == option.IDMapFixed {
		return nil, nil // all are one
	}
	read := func(path string) ([]byte, error) { return os.ReadFile(path) }
	if w.mode == option.IDMapGuest {
		read = func(path string) ([]byte, error) { return t.ReadFile(ctx, path, maxAccounts) }
	}
	var errs []error
	text := func(path string) string {
		b, err := read(path)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
		return string(b)
	}
	users, groups := parseAccounts(text("/etc/passwd")), parseAccounts(text("/etc/group"))
	return &nfs4.Names{
		Domain: parseDomain(text("/etc/idmapd.conf")),
		UserID: users.id, GroupID: groups.id, UserName: users.name, GroupName: groups.name,
	}, errors.Join(errs...)
}
