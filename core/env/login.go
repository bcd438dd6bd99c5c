package env

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/lxbridge/lx/core/ns"
	"github.com/lxbridge/lx/core/regular"
)

// login completes a session of an environment with files of its own by what
// those say of its user: home, shell, variables. credential is nil for root.
func (in *initProcess) login(s *Spec) (credential *syscall.Credential, err error) {
	who := cmp.Or(s.User, in.cfg.Settings.User, "root")
	a, err := lookUser(who)
	if err != nil {
		return nil, err
	}
	if a.UID != 0 {
		if in.cfg.Map.Kind == ns.Single {
			return nil, fmt.Errorf("cannot run as %s: only root exists inside without subuids; see `lx doctor`", who)
		}
		credential = &syscall.Credential{Uid: a.UID, Gid: a.GID, Groups: append([]uint32{a.GID}, a.Groups...)}
	}
	own := []string{"PATH=" + defaultPath, "HOME=" + a.Home, "SHELL=" + a.Shell, "USER=" + a.Name, "LOGNAME=" + a.Name}
	if in.timeZone != "" {
		own = append(own, "TZ="+in.timeZone)
	}
	s.Env = mergeEnv(own, in.cfg.Env, s.Env)
	if len(s.Argv) == 0 {
		s.Argv, s.Arg0 = []string{a.Shell}, "-"+filepath.Base(a.Shell)
	}
	if s.Dir == "" {
		s.Dir = a.Home
	}
	return credential, nil
}

// mergeEnv joins lists of variables; later ones win.
func mergeEnv(lists ...[]string) (out []string) {
	at := map[string]int{}
	for _, l := range lists {
		for _, e := range l {
			name, _, _ := strings.Cut(e, "=")
			if i, ok := at[name]; ok {
				out[i] = e
				continue
			}
			at[name] = len(out)
			out = append(out, e)
		}
	}
	return out
}

// account is a user of an environment (passwd(5)).
type account struct {
	Name, Home, Shell string
	UID, GID          uint32
	Groups            []uint32
}

// maxAccounts bounds passwd(5) and group(5), in bytes.
const maxAccounts = 64 << 20

// lookUser finds a user by name or number in the environment's own files.
func lookUser(who string) (account, error) {
	b, err := regular.ReadFile("/etc/passwd", maxAccounts)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return account{}, fmt.Errorf("cannot find user %s: %w", who, err)
	}
	a, ok := parsePasswd(b, who)
	if !ok {
		if who == "root" || who == "0" {
			return account{Name: "root", Home: "/", Shell: "/bin/sh"}, nil
		}
		return account{}, fmt.Errorf("cannot find user %s: /etc/passwd of the environment has none", who)
	}
	b, err = regular.ReadFile("/etc/group", maxAccounts)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return account{}, fmt.Errorf("cannot find the groups of %s: %w", who, err)
	}
	a.Groups = parseGroups(b, a.Name)
	return a, nil
}

func parsePasswd(b []byte, who string) (account, bool) {
	for line := range strings.Lines(string(b)) {
		f := strings.Split(strings.TrimSuffix(line, "\n"), ":")
		if len(f) != 7 || f[0] != who && f[2] != who {
			continue
		}
		uid, err := strconv.ParseUint(f[2], 10, 32)
		gid, gerr := strconv.ParseUint(f[3], 10, 32)
		if err != nil || gerr != nil {
			continue
		}
		a := account{Name: f[0], UID: uint32(uid), GID: uint32(gid), Home: f[5], Shell: f[6]}
		if a.Shell == "" {
			a.Shell = "/bin/sh"
		}
		if a.Home == "" {
			a.Home = "/"
		}
		return a, true
	}
	return account{}, false
}

// parseGroups are the groups of group(5) that name the user.
func parseGroups(b []byte, user string) (gids []uint32) {
	for line := range strings.Lines(string(b)) {
		f := strings.Split(strings.TrimSuffix(line, "\n"), ":")
		if len(f) != 4 {
			continue
		}
		for m := range strings.SplitSeq(f[3], ",") {
			if gid, err := strconv.ParseUint(f[2], 10, 32); err == nil && m == user {
				gids = append(gids, uint32(gid))
			}
		}
	}
	return gids
}
