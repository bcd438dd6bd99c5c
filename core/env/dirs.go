// Package env is an environment's life: where its sockets are, its first
// process, the sessions that are opened in it, and the console that shows them.
package env

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// Dirs are the places where lx keeps state of the calling user.
type Dirs struct {
	Runtime string // sockets and locks; gone with the login or the machine
	State   string // logs
	Config  string // what the user writes; it may not exist
}

// EnvironmentVar tells sessions and services which environment they are in.
const EnvironmentVar = "LX_ENVIRONMENT"

// RuntimeVar is the environment variable that names the runtime directory.
// Sessions get it: inside, that place is empty, for environments nested there.
const RuntimeVar = "LX_RUNTIME_DIR"

// UserDirs finds and makes the user's directories (XDG Base Directory). The
// runtime directory is refused unless it belongs to the user alone. A user
// without a home has the state beside the sockets.
func UserDirs() (Dirs, error) {
	uid := os.Getuid()
	runtime, xdg := os.Getenv(RuntimeVar), os.Getenv("XDG_RUNTIME_DIR")
	switch {
	case runtime != "":
	case xdg != "" && checkPrivate(xdg, uid) == nil:
		runtime = filepath.Join(xdg, "lx")
	default:
		runtime = filepath.Join(os.TempDir(), "lx-"+strconv.Itoa(uid))
	}
	if err := makePrivate(runtime, uid); err != nil {
		return Dirs{}, err
	}
	return dirsOf(uid, runtime)
}

// Keys is the directory of this machine's key for other machines, and of theirs.
func (d Dirs) Keys() string { return filepath.Join(d.State, "keys") }

// MakeRuntime makes the runtime directory where it has vanished. Where others may
// make one in its place, as below /tmp, theirs is refused.
func (d Dirs) MakeRuntime() error { return makePrivate(d.Runtime, os.Getuid()) }

func makePrivate(dir string, uid int) error {
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("cannot make the runtime directory: %w", err)
	}
	return checkPrivate(dir, uid)
}

// dirsOf adds the state directory, and makes it.
func dirsOf(uid int, runtime string) (Dirs, error) {
	state := os.Getenv("XDG_STATE_HOME")
	if home := homeDir(uid); state == "" && home != "" {
		state = filepath.Join(home, ".local", "state")
	} else if state == "" {
		state = filepath.Join(runtime, "state")
	}
	state = filepath.Join(state, "lx")
	if err := os.MkdirAll(state, 0o700); err != nil {
		return Dirs{}, fmt.Errorf("cannot make the state directory: %w", err)
	}
	return Dirs{Runtime: runtime, State: state, Config: configDir(uid, state)}, nil
}

// configDir is beside the state for a user without a home.
func configDir(uid int, state string) string {
	if dir := os.Getenv("XDG_CONFIG_HOME"); dir != "" {
		return filepath.Join(dir, "lx")
	}
	if home := homeDir(uid); home != "" {
		return filepath.Join(home, ".config", "lx")
	}
	return filepath.Join(state, "config")
}

// homeDir is HOME, else what passwd(5) says, else empty.
func homeDir(uid int) string {
	if home := os.Getenv("HOME"); home != "" {
		return home
	}
	u, err := user.LookupId(strconv.Itoa(uid))
	if err != nil {
		return ""
	}
	return u.HomeDir
}

func checkPrivate(dir string, uid int) error {
	var st syscall.Stat_t
	if err := syscall.Lstat(dir, &st); err != nil {
		return fmt.Errorf("cannot use %s: %w", dir, err)
	}
	switch {
	case st.Mode&syscall.S_IFMT != syscall.S_IFDIR:
		return fmt.Errorf("cannot use %s: not a directory", dir)
	case int(st.Uid) != uid:
		return fmt.Errorf("cannot use %s: owned by user %d", dir, st.Uid)
	case st.Mode&0o077 != 0:
		return fmt.Errorf("cannot use %s: open to others (mode %#o)", dir, st.Mode&0o777)
	}
	return nil
}

// Socket is the control socket of the environment name.
func (d Dirs) Socket(name string) string { return filepath.Join(d.Runtime, name+".sock") }

// Lock is held while an environment is started.
func (d Dirs) Lock(name string) string { return filepath.Join(d.Runtime, name+".lock") }

// Log is what keeper and broker of the environment write.
func (d Dirs) Log(name string) string { return filepath.Join(d.State, name+".log") }

// Ports is the ledger of the ports that the environment's programs asked for.
func (d Dirs) Ports(name string) string { return filepath.Join(d.State, name+".ports") }

// Policy are the rules for its ports that lxnet was told.
func (d Dirs) Policy(name string) string { return filepath.Join(d.State, name+".policy") }

// Reservations is the list of ports that the daemon holds for environments.
func (d Dirs) Reservations() string { return filepath.Join(d.State, "reservations.json") }

// UserHome are the home and login shell of the calling user.
func UserHome() (home, shell string) {
	home, shell = "/", "/bin/sh"
	if f, err := os.Open("/etc/passwd"); err == nil {
		defer f.Close()
		uid := strconv.Itoa(os.Getuid())
		for s := bufio.NewScanner(f); s.Scan(); {
			if p := strings.Split(s.Text(), ":"); len(p) == 7 && p[2] == uid {
				home, shell = p[5], p[6]
			}
		}
	}
	if h := os.Getenv("HOME"); h != "" {
		home = h
	}
	if s := os.Getenv("SHELL"); s != "" {
		shell = s
	}
	return home, shell
}

// UserName is the calling user's; empty where it has none.
func UserName() string {
	u, err := user.Current()
	if err != nil {
		return ""
	}
	return u.Username
}
