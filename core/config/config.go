// Package config reads the two configuration files: the user's
// (~/.config/lx/config.toml), which has a section for each environment, and an
// environment's own (/etc/lx.toml inside). A key that does not exist is
// refused by name, with its line.
package config

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2"
	"golang.org/x/sys/unix"

	"github.com/lxbridge/lx/core/regular"
	"github.com/lxbridge/lx/core/service"
)

// Settings are what can be said of an environment.
type Settings struct {
	// User is who sessions of an imported environment run as.
	User string `toml:"user,omitempty"`
	// Env are variables for sessions and services.
	Env map[string]string `toml:"env,omitempty"`
	// Mounts are made when the environment starts, in order.
	Mounts []Mount `toml:"mount,omitempty"`
	// Services come up with the environment as if they were enabled.
	Services []string `toml:"services,omitempty"`
	// Limits are for each process of the environment.
	Limits service.Limits `toml:"limits,omitempty"`
	// Crontabs says whether crontabs are honoured; by default those of imported
	// environments are, and the host's left to its own cron.
	Crontabs *bool `toml:"crontabs,omitempty"`
	// CheckUpdates says whether packages that are behind are looked for; by
	// default in imported environments, and the host is left to its own tools.
	CheckUpdates *bool `toml:"check-updates,omitempty"`
	// AutoUpdate is what of them is installed in an imported environment:
	// UpdateNone, the default, UpdateSecurity or UpdateAll.
	AutoUpdate string `toml:"auto-update,omitempty"`
	// Host is what an imported environment sees of the host's files: "home", "ro"
	// or "rw". The user alone can say it.
	Host string `toml:"host,omitempty"`
	// Init is the first process of an imported environment: lx's own, or that of
	// the distribution (InitSystemd, InitOpenRC). The user alone can say it.
	Init string `toml:"init,omitempty"`
	// Ports are the policies of its ports. The user alone can say them.
	Ports []PortRule `toml:"port,omitempty"`
}

// Values of Settings.Init.
const (
	InitSystemd = "systemd"
	InitOpenRC  = "openrc" // or another that needs no control groups: BusyBox's, sysvinit
)

// Values of Settings.AutoUpdate.
const (
	UpdateNone     = "none"
	UpdateSecurity = "security"
	UpdateAll      = "all"
)

// Mount is one as of mount(8).
type Mount struct {
	Source  string `toml:"source"`
	Target  string `toml:"target"`
	Type    string `toml:"type"`
	Options string `toml:"options,omitempty"`
}

// File is the user's configuration.
type File struct {
	// Store is the directory of imported environments; empty: the usual one.
	Store        string              `toml:"store,omitempty"`
	Environments map[string]Settings `toml:"environment"`
}

// reserved are keys to come: they are refused as such.
var reserved = []string{"network"}

// Inside is the path of an environment's own configuration.
const Inside = "/etc/lx.toml"

// maxFile bounds a file, in bytes.
const maxFile = 1 << 20

// Load is what the user says of the environment; nothing where there is no file.
func Load(dir, name string) (Settings, error) {
	f, err := load(dir)
	return f.Environments[name], err
}

// Environments is what the user says of each environment.
func Environments(dir string) (map[string]Settings, error) {
	f, err := load(dir)
	return f.Environments, err
}

// Store is the user's place for imported environments; empty: the usual one.
func Store(dir string) (string, error) {
	f, err := load(dir)
	return f.Store, err
}

func load(dir string) (File, error) {
	path := filepath.Join(dir, "config.toml")
	b, err := read(path)
	if err != nil || b == nil {
		return File{}, err
	}
	f, err := Parse(b)
	if err != nil {
		return File{}, fmt.Errorf("cannot read %s: %w", path, err)
	}
	return f, nil
}

// LoadInside is what the environment says of itself. It has to be called inside.
func LoadInside() (Settings, error) {
	b, err := read(Inside)
	if err != nil || b == nil {
		return Settings{}, err
	}
	s, err := ParseSettings(b)
	if err != nil {
		return Settings{}, fmt.Errorf("cannot read %s: %w", Inside, err)
	}
	return s, nil
}

// read answers nil where there is no file.
func read(path string) ([]byte, error) {
	b, err := regular.ReadFile(path, maxFile)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read the configuration: %w", err)
	}
	return b, nil
}

// Parse reads the user's configuration.
func Parse(b []byte) (File, error) {
	var f File
	if err := decode(b, &f); err != nil {
		return File{}, err
	}
	var errs []error
	if f.Store != "" && !filepath.IsAbs(f.Store) {
		errs = append(errs, fmt.Errorf("store %q: want an absolute path", f.Store))
	}
	for _, name := range slices.Sorted(maps.Keys(f.Environments)) {
		if auto := f.Environments[name].AutoUpdate; name == "host" && auto != "" && auto != UpdateNone {
			errs = append(errs, errors.New("environment host: auto-update is for imported environments: the host's packages are its root's"))
		}
		if err := f.Environments[name].check(); err != nil {
			errs = append(errs, fmt.Errorf("environment %s: %w", name, err))
		}
	}
	return f, errors.Join(errs...)
}

// ParseSettings reads an environment's own configuration.
func ParseSettings(b []byte) (Settings, error) {
	var s Settings
	if err := decode(b, &s); err != nil {
		return Settings{}, err
	}
	for key, value := range map[string]string{"host": s.Host, "init": s.Init} {
		if value != "" {
			return Settings{}, notInside(key)
		}
	}
	if s.Ports != nil {
		return Settings{}, notInside("port")
	}
	return s, s.check()
}

func notInside(key string) error {
	return fmt.Errorf("%s is not for an environment to say: it is a key of the user's config.toml", key)
}

func decode(b []byte, into any) error {
	err := toml.NewDecoder(bytes.NewReader(b)).DisallowUnknownFields().Decode(into)
	var strict *toml.StrictMissingError
	if !errors.As(err, &strict) {
		if err != nil {
			return service.DescribeTOML(err)
		}
		return nil
	}
	var errs []error
	for _, e := range strict.Errors {
		key := e.Key()
		row, _ := e.Position()
		what := "unknown key"
		if slices.Contains(reserved, key[len(key)-1]) {
			what = "not supported yet:"
		}
		errs = append(errs, fmt.Errorf("line %d: %s %q", row, what, strings.Join(key, ".")))
	}
	return errors.Join(errs...)
}

func (s Settings) check() error {
	var errs []error
	wrong := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if !slices.Contains([]string{"", "home", "ro", "rw"}, s.Host) {
		wrong(`host %q: want "home", "ro" or "rw"`, s.Host)
	}
	if s.Init != "" && s.Init != InitSystemd && s.Init != InitOpenRC {
		wrong("init %q: want %q or %q", s.Init, InitSystemd, InitOpenRC)
	}
	if !slices.Contains([]string{"", UpdateNone, UpdateSecurity, UpdateAll}, s.AutoUpdate) {
		wrong(`auto-update %q: want "none", "security" or "all"`, s.AutoUpdate)
	}
	for i, m := range s.Mounts {
		switch {
		case m.Source == "" || m.Type == "":
			wrong("mount %d: want source, target and type", i+1)
		case !filepath.IsAbs(m.Target):
			wrong("mount %d: target %q: want an absolute path", i+1, m.Target)
		case secret(m.Options):
			wrong("mount %d: options: a password would show in arguments of processes: want credentials=FILE", i+1)
		case strings.ContainsRune(m.Source+m.Target+m.Type+m.Options, 0):
			wrong("mount %d: contains a NUL byte", i+1)
		}
	}
	for _, n := range s.Services {
		if err := service.CheckName(n); err != nil {
			errs = append(errs, err)
		}
	}
	for k, v := range s.Env {
		if k == "" || strings.ContainsAny(k, "=\x00") || strings.ContainsRune(v, 0) {
			wrong("env: %q is no variable", k)
		}
	}
	if err := CheckPorts(s.Ports); err != nil {
		errs = append(errs, err)
	}
	if strings.ContainsAny(s.User, ":\n\x00") {
		wrong("user = %q: want a name", s.User)
	}
	return errors.Join(errs...)
}

// secret reports whether mount options hold a password.
func secret(options string) bool {
	return slices.ContainsFunc(strings.Split(options, ","), func(o string) bool {
		k, _, _ := strings.Cut(o, "=")
		return slices.Contains([]string{"password", "pass", "password2"}, strings.TrimSpace(k))
	})
}

// Merge is s with what inside says added: the user's word counts where both
// say something, mounts and services are those of both, and limits only get
// tighter.
func (s Settings) Merge(inside Settings) Settings {
	if s.User == "" {
		s.User = inside.User
	}
	env := maps.Clone(inside.Env)
	if env == nil {
		env = map[string]string{}
	}
	maps.Copy(env, s.Env)
	s.Env = env
	s.Mounts = slices.Concat(s.Mounts, inside.Mounts)
	s.Services = slices.Concat(s.Services, inside.Services)
	if s.Crontabs == nil {
		s.Crontabs = inside.Crontabs
	}
	if s.CheckUpdates == nil {
		s.CheckUpdates = inside.CheckUpdates
	}
	if s.AutoUpdate == "" {
		s.AutoUpdate = inside.AutoUpdate
	}
	for _, l := range []struct{ own, theirs **uint64 }{
		{&s.Limits.Files, &inside.Limits.Files}, {&s.Limits.Processes, &inside.Limits.Processes}, {&s.Limits.Core, &inside.Limits.Core},
		{&s.Limits.Memory, &inside.Limits.Memory}, {&s.Limits.FileSize, &inside.Limits.FileSize}, {&s.Limits.Locked, &inside.Limits.Locked}, {&s.Limits.CPU, &inside.Limits.CPU},
	} {
		if *l.theirs != nil && (*l.own == nil || **l.theirs < **l.own) {
			*l.own = *l.theirs
		}
	}
	return s
}
