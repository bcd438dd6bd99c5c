// Package store keeps the environments that have files of their own, and the
// image layers that several of them stand on.
//
//	environments/NAME/   record.json; root, what was written; work; mount; updates.json
//	layers/CHAIN/        a layer unpacked, never changed afterwards
//	tmp/                 what is being made or removed
//	default              the name of the default environment
package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lxbridge/lx/core/ns"
)

// Host is the environment of the host's own files, which always exists.
const Host = "host"

// Store is a directory of the user's alone.
type Store struct{ dir string }

// Record is what is known of an environment.
type Record struct {
	Version int       `json:"version"`
	Name    string    `json:"-"`
	Source  string    `json:"source"`
	Created time.Time `json:"created"`
	// Map is the kind of the id map by which the files got their owners.
	Map ns.Kind `json:"map"`
	// Layers below root, the lowest first. Empty: root has everything.
	Layers []string `json:"layers,omitempty"`
	// Env of the image.
	Env []string `json:"env,omitempty"`
	// Wanted environments run whenever the daemon does.
	Wanted bool `json:"wanted,omitempty"`
}

// recordVersion is the one that this program writes and reads.
const recordVersion = 1

var (
	// ErrUnknown says that no environment has the name.
	ErrUnknown = errors.New("no such environment")
	// ErrExists says that the name is taken.
	ErrExists = errors.New("the name is in use")
)

// DefaultDir is where the store lies by default (XDG Base Directory).
func DefaultDir() (string, error) {
	data := os.Getenv("XDG_DATA_HOME")
	if data == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return "", fmt.Errorf("cannot find the store: %w", err)
		}
		data = filepath.Join(home, ".local", "share")
	}
	return filepath.Join(data, "lx"), nil
}

// Open opens the store at dir, or at DefaultDir where dir is empty, and makes it if
// need be. It is refused unless it is the user's alone and on a file system
// that keeps owners and links as they are.
func Open(dir string) (*Store, error) {
	if dir == "" {
		var err error
		if dir, err = DefaultDir(); err != nil {
			return nil, err
		}
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("cannot find the store: %w", err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("cannot make the store: %w", err)
	}
	var st syscall.Stat_t
	if err := syscall.Stat(dir, &st); err != nil {
		return nil, fmt.Errorf("cannot use the store %s: %w", dir, err)
	}
	if int(st.Uid) != os.Getuid() || st.Mode&0o077 != 0 {
		return nil, fmt.Errorf("cannot use the store %s: it must belong to you alone (owner %d, mode %#o)", dir, st.Uid, st.Mode&0o777)
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return nil, fmt.Errorf("cannot use the store %s: %w", dir, err)
	}
	if name, bad := remote[int64(fs.Type)]; bad {
		return nil, fmt.Errorf("cannot use the store %s: %s keeps no owners of other users; set store = \"DIR\" to a local directory in config.toml", dir, name)
	}
	s := &Store{dir}
	for _, d := range []string{"environments", "layers", "tmp"} {
		if err := os.Mkdir(s.path(d), 0o700); err != nil && !errors.Is(err, os.ErrExist) {
			return nil, fmt.Errorf("cannot make the store: %w", err)
		}
	}
	return s, nil
}

// remote are file systems that a store cannot lie on (statfs(2)).
var remote = map[int64]string{
	unix.NFS_SUPER_MAGIC: "NFS", unix.SMB_SUPER_MAGIC: "SMB", unix.CIFS_SUPER_MAGIC: "SMB", unix.SMB2_SUPER_MAGIC: "SMB",
	unix.FUSE_SUPER_MAGIC: "FUSE", unix.V9FS_MAGIC: "9p", unix.AFS_SUPER_MAGIC: "AFS", unix.CEPH_SUPER_MAGIC: "Ceph", unix.MSDOS_SUPER_MAGIC: "FAT",
}

// Dir is where the store lies.
func (s *Store) Dir() string { return s.dir }

func (s *Store) path(parts ...string) string {
	return filepath.Join(append([]string{s.dir}, parts...)...)
}

// Get reads the record of an environment.
func (s *Store) Get(name string) (Record, error) {
	if err := CheckName(name); err != nil {
		return Record{}, err
	}
	b, err := os.ReadFile(s.path("environments", name, "record.json"))
	if errors.Is(err, os.ErrNotExist) {
		if IsHost(name) {
			return Record{Version: recordVersion, Name: name}, nil
		}
		return Record{}, fmt.Errorf("%s: %w", name, ErrUnknown)
	}
	if err != nil {
		return Record{}, fmt.Errorf("cannot read the record of %s: %w", name, err)
	}
	r := Record{Name: name}
	if err := json.Unmarshal(b, &r); err != nil {
		return Record{}, fmt.Errorf("cannot read the record of %s: %w", name, err)
	}
	if r.Version != recordVersion {
		return Record{}, fmt.Errorf("cannot read the record of %s: written by another lx (version %d)", name, r.Version)
	}
	for _, l := range r.Layers {
		if l != filepath.Base(l) {
			return Record{}, fmt.Errorf("cannot read the record of %s: a layer %q", name, l)
		}
	}
	return r, nil
}

// put writes a record, whole or not at all.
func (s *Store) put(r Record) error {
	dir := s.path("environments", r.Name)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("cannot write the record of %s: %w", r.Name, err)
	}
	return writeRecord(dir, r)
}

func writeRecord(dir string, r Record) error {
	r.Version = recordVersion
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	if err := replace(filepath.Join(dir, "record.json"), append(b, '\n')); err != nil {
		return fmt.Errorf("cannot write the record of %s: %w", r.Name, err)
	}
	return nil
}

// replace writes a file anew, so that readers see the old or the new one.
func replace(path string, b []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}

// PutUpdates keeps what a check for updates found, whole or not at all, until
// the environment is removed.
func (s *Store) PutUpdates(name string, b []byte) error {
	dir := s.path("environments", name)
	var err error
	if IsHost(name) { // it has a directory only for what is kept of it
		err = os.MkdirAll(dir, 0o700)
	}
	if err == nil {
		err = replace(filepath.Join(dir, "updates.json"), b)
	}
	if err != nil {
		return fmt.Errorf("cannot keep what is known of updates of %s: %w", name, err)
	}
	return nil
}

// Updates is what PutUpdates kept in the store at dir, or at DefaultDir where
// dir is empty; nil where there is nothing.
func Updates(dir, name string) ([]byte, error) {
	if dir == "" {
		var err error
		if dir, err = DefaultDir(); err != nil {
			return nil, err
		}
	}
	b, err := os.ReadFile((&Store{dir}).path("environments", name, "updates.json"))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read what is known of updates of %s: %w", name, err)
	}
	return b, nil
}

// List are all environments, the host's first, then by name. Records that
// cannot be read are told of in err beside those that can.
func (s *Store) List() ([]Record, error) {
	names, err := os.ReadDir(s.path("environments"))
	if err != nil {
		return nil, fmt.Errorf("cannot list environments: %w", err)
	}
	host, err := s.Get(Host)
	errs := []error{err}
	list := []Record{host}
	for _, n := range names {
		if n.Name() == Host {
			continue
		}
		r, err := s.Get(n.Name())
		if err != nil {
			errs = append(errs, err)
			continue
		}
		list = append(list, r)
	}
	return list, errors.Join(errs...)
}

// SetWanted says whether the environment shall run whenever the daemon does.
func (s *Store) SetWanted(name string, wanted bool) error {
	unlock, err := s.lockRecords()
	if err != nil {
		return err
	}
	defer unlock()
	r, err := s.Get(name)
	if err != nil {
		return err
	}
	r.Wanted = wanted
	return s.put(r)
}

// Default is the environment that is meant where none is named.
func (s *Store) Default() (string, error) {
	b, err := os.ReadFile(s.path("default"))
	if errors.Is(err, os.ErrNotExist) {
		return Host, nil
	}
	if err != nil {
		return "", fmt.Errorf("cannot read the default environment: %w", err)
	}
	name := strings.TrimSpace(string(b))
	if err := CheckName(name); err != nil {
		return "", fmt.Errorf("cannot read the default environment: %w", err)
	}
	return name, nil
}

// DefaultName is Default of the store at dir, or at DefaultDir where dir is
// empty; it need not exist.
func DefaultName(dir string) (string, error) {
	if dir == "" {
		var err error
		if dir, err = DefaultDir(); err != nil {
			return "", err
		}
	}
	return (&Store{dir}).Default()
}

// IsHost says whether the name is of an environment of the host's own files:
// "host", and "host-2" and so on, which exist while they run.
func IsHost(name string) bool {
	rest, ok := strings.CutPrefix(name, Host)
	if !ok || rest == "" {
		return ok
	}
	n, ok := strings.CutPrefix(rest, "-")
	return ok && n != "" && strings.Trim(n, "0123456789") == ""
}

// SetDefault makes the environment the default.
func (s *Store) SetDefault(name string) error {
	if _, err := s.Get(name); err != nil {
		return err
	}
	if err := replace(s.path("default"), []byte(name+"\n")); err != nil {
		return fmt.Errorf("cannot write the default environment: %w", err)
	}
	return nil
}

// Rename gives a stopped environment another name.
func (s *Store) Rename(from, to string) error {
	if err := CheckName(to); err != nil {
		return err
	}
	if IsHost(from) || IsHost(to) {
		return fmt.Errorf("cannot rename %s to %s: that name is of the host's own files", from, to)
	}
	unlock, err := s.lockRecords()
	if err != nil {
		return err
	}
	defer unlock()
	if _, err := s.Get(from); err != nil {
		return err
	}
	err = unix.Renameat2(unix.AT_FDCWD, s.path("environments", from), unix.AT_FDCWD, s.path("environments", to), unix.RENAME_NOREPLACE)
	if errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("cannot rename %s to %s: %w", from, to, ErrExists)
	}
	if err != nil {
		return fmt.Errorf("cannot rename %s to %s: %w", from, to, err)
	}
	if d, err := s.Default(); err == nil && d == from {
		return s.SetDefault(to)
	}
	return nil
}

// lockRecords is held while the records of environments change.
func (s *Store) lockRecords() (unlock func(), err error) {
	return lockFile(s.path("environments"), unix.LOCK_EX)
}

// lock is the layers': shared while some are made that no record names yet,
// exclusive while some are dropped.
func (s *Store) lock(how int) (unlock func(), err error) {
	f, err := os.OpenFile(s.path("lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("cannot lock the store: %w", err)
	}
	f.Close()
	return lockFile(f.Name(), how)
}

// lockFile locks a file or directory (flock(2)).
func lockFile(path string, how int) (unlock func(), err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("cannot lock the store: %w", err)
	}
	for {
		err := unix.Flock(int(f.Fd()), how)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			f.Close()
			return nil, fmt.Errorf("cannot lock the store: %w", err)
		}
		return func() { f.Close() }, nil
	}
}

// reserved are names that files beside the environments' have.
var reserved = []string{"daemon", "hub"}

// CheckName says what is wrong with the name of an environment.
func CheckName(name string) error {
	for _, r := range name {
		if !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("._-", r)) {
			return fmt.Errorf("environment name %q: want letters, digits, '.', '_' and '-'", name)
		}
	}
	if name == "" || strings.HasPrefix(name, ".") || strings.HasPrefix(name, "-") || len(name) > 64 {
		return fmt.Errorf("environment name %q: want 1 to 64 characters that begin with a letter or digit", name)
	}
	if slices.Contains(reserved, name) {
		return fmt.Errorf("environment name %q: lx has that name for itself", name)
	}
	return nil
}
