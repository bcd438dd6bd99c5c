package store

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lxbridge/lx/core/archive"
	"github.com/lxbridge/lx/core/ns"
)

// Source is where an environment's files come from.
type Source interface {
	// Layers are tar streams, the lowest first.
	Layers() []Layer
	// Env of programs inside.
	Env() []string
	String() string
}

// Layer is one tar stream.
type Layer struct {
	// ID is the digest of the stream ("sha256:…"), which its reader verifies.
	// Empty: the stream is the whole root, and shared with nobody.
	ID string
	// Open starts the stream, uncompressed. A read fails if the digest is wrong.
	Open func(context.Context) (io.ReadCloser, error)
}

// Import makes the environment name of the source's files. It is there when
// Import returns without an error, and no trace of it else.
func (s *Store) Import(ctx context.Context, name string, src Source, m ns.Map, limits archive.Limits) (r archive.Report, err error) {
	if err := CheckName(name); err != nil {
		return r, err
	}
	if IsHost(name) {
		return r, fmt.Errorf("%s: the name of the host's own files", name)
	}
	if _, err := s.Get(name); !errors.Is(err, ErrUnknown) {
		if err == nil {
			err = fmt.Errorf("%s: %w", name, ErrExists)
		}
		return r, err
	}
	s.Sweep(ctx)
	unlock, err := s.lock(unix.LOCK_SH)
	if err != nil {
		return r, err
	}
	defer unlock()
	tmp, release, err := s.scratch()
	if err != nil {
		return r, err
	}
	defer release()
	defer func() {
		// Not with ctx, whose end may be the reason.
		if rerr := s.remove(context.WithoutCancel(ctx), tmp, m); rerr != nil {
			err = errors.Join(err, rerr)
		}
	}()
	env := filepath.Join(tmp, "env")
	for _, d := range []string{env, env + "/root", env + "/work", env + "/mount"} {
		if err := os.Mkdir(d, 0o700); err != nil {
			return r, fmt.Errorf("cannot import: %w", err)
		}
	}
	if err := os.Chmod(env+"/root", 0o755); err != nil {
		return r, fmt.Errorf("cannot import: %w", err)
	}
	rec := Record{Name: name, Source: src.String(), Created: time.Now().UTC().Truncate(time.Second), Map: m.Kind, Env: src.Env()}
	im := &importer{s: s, tmp: tmp, m: m, limits: limits}
	layers := src.Layers()
	if shared := !slices.ContainsFunc(layers, func(l Layer) bool { return l.ID == "" }); shared && s.overlay(ctx, tmp, m) {
		rec.Layers, err = im.layers(ctx, layers)
	} else {
		err = im.flat(ctx, Root{Upper: env + "/root", Place: env + "/mount"}, layers)
	}
	if err != nil {
		return im.report, err
	}
	if err := writeRecord(env, rec); err != nil {
		return im.report, err
	}
	err = unix.Renameat2(unix.AT_FDCWD, env, unix.AT_FDCWD, s.path("environments", name), unix.RENAME_NOREPLACE)
	if errors.Is(err, unix.EEXIST) {
		err = fmt.Errorf("%s: %w", name, ErrExists)
	}
	return im.report, err
}

// overlay says whether layers can be shared here.
func (s *Store) overlay(ctx context.Context, tmp string, m ns.Map) bool {
	dir := filepath.Join(tmp, "probe")
	if os.Mkdir(dir, 0o700) != nil {
		return false
	}
	_, err := work(ctx, job{Op: "probe", Map: m, Dir: dir}, nil, nil)
	return err == nil
}

// importer unpacks layers.
type importer struct {
	s      *Store
	tmp    string // of its own
	m      ns.Map
	limits archive.Limits
	report archive.Report
}

// flat unpacks all layers into one tree.
func (im *importer) flat(ctx context.Context, root Root, layers []Layer) error {
	for i, l := range layers {
		if err := im.unpack(ctx, root, l, i == len(layers)-1); err != nil {
			return err
		}
	}
	return nil
}

// layers unpacks those that are not there yet, each on top of those below, as
// an overlay shows them, and answers their names.
func (im *importer) layers(ctx context.Context, layers []Layer) (names []string, err error) {
	chain := string(im.m.Kind)
	var below []string
	for i, l := range layers {
		sum := sha256.Sum256([]byte(chain + " " + l.ID))
		chain = hex.EncodeToString(sum[:])
		dir := im.s.path("layers", chain)
		if _, err := os.Stat(dir); errors.Is(err, os.ErrNotExist) {
			if err := im.layer(ctx, dir, i, below, l, i == len(layers)-1); err != nil {
				return nil, err
			}
		} else if err != nil {
			return nil, fmt.Errorf("cannot import: %w", err)
		}
		names, below = append(names, chain), append(below, dir)
	}
	return names, nil
}

func (im *importer) layer(ctx context.Context, dir string, i int, below []string, l Layer, last bool) error {
	at := filepath.Join(im.tmp, fmt.Sprint("layer", i))
	root := Root{Upper: at + "/root", Work: at + "/work", Place: at + "/mount", Lower: below}
	for _, d := range []string{at, root.Upper, root.Work, root.Place} {
		if err := os.Mkdir(d, 0o755); err != nil {
			return fmt.Errorf("cannot import: %w", err)
		}
	}
	if err := im.unpack(ctx, root, l, last); err != nil {
		return err
	}
	err := unix.Renameat2(unix.AT_FDCWD, root.Upper, unix.AT_FDCWD, dir, unix.RENAME_NOREPLACE)
	if errors.Is(err, unix.EEXIST) { // another import was faster
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot import: %w", err)
	}
	return nil
}

func (im *importer) unpack(ctx context.Context, root Root, l Layer, last bool) error {
	in, err := l.Open(ctx)
	if err != nil {
		return err
	}
	defer in.Close()
	left := im.limits
	if left.Bytes > 0 {
		left.Bytes = max(1, left.Bytes-im.report.Bytes)
	}
	if left.Entries > 0 {
		left.Entries = max(1, left.Entries-im.report.Entries)
	}
	inner := im.m.Inner()
	j := job{Op: "unpack", Map: im.m, Root: root, Partial: !last, Unpack: &archive.Options{Limits: left, Map: &inner, Layer: l.ID != ""}}
	r, err := work(ctx, j, in, nil)
	im.report.Bytes += r.Bytes
	im.report.Entries += r.Entries
	im.report.Recorded += r.Recorded
	im.report.Lost += r.Lost
	return err
}

// scratch is a directory below tmp that is locked as long as it is used.
func (s *Store) scratch() (dir string, release func(), err error) {
	unlock, err := lockFile(s.path("tmp"), unix.LOCK_EX) // against Sweep, until the new one is locked
	if err != nil {
		return "", nil, err
	}
	defer unlock()
	dir, err = os.MkdirTemp(s.path("tmp"), "x")
	if err != nil {
		return "", nil, fmt.Errorf("cannot use the store: %w", err)
	}
	release, err = lockFile(dir, unix.LOCK_EX)
	return dir, release, err
}

// Sweep removes what an ended lx left behind, and layers that nobody needs. What
// cannot be removed stays for the next time.
func (s *Store) Sweep(ctx context.Context) {
	m, err := ns.ChooseOwn("")
	if err != nil {
		return
	}
	for _, dir := range s.abandoned() {
		_ = s.remove(ctx, dir, m)
	}
	tmp, release, err := s.scratch()
	if err != nil {
		return
	}
	defer release()
	_ = s.dropLayers(tmp)
	if os.Remove(tmp) != nil { // something was dropped
		_ = s.remove(ctx, tmp, m)
	}
}

// abandoned are directories below tmp that nobody has locked.
func (s *Store) abandoned() (dirs []string) {
	unlock, err := lockFile(s.path("tmp"), unix.LOCK_EX)
	if err != nil {
		return nil
	}
	defer unlock()
	names, err := os.ReadDir(s.path("tmp"))
	if err != nil {
		return nil
	}
	for _, n := range names {
		dir := s.path("tmp", n.Name())
		if release, err := lockFile(dir, unix.LOCK_EX|unix.LOCK_NB); err == nil {
			release()
			// Only its owner would have locked it again, and is gone.
			dirs = append(dirs, dir)
		}
	}
	return dirs
}

// remove removes a directory whose files belong to ids of the map.
func (s *Store) remove(ctx context.Context, dir string, m ns.Map) error {
	_, err := work(ctx, job{Op: "remove", Map: m, Dir: dir}, nil, nil)
	return err
}

// Remove removes a stopped environment, and the layers that no other needs.
func (s *Store) Remove(ctx context.Context, name string) error {
	if IsHost(name) {
		return errors.New("the host environment cannot be removed")
	}
	rec, err := s.Get(name)
	if err != nil {
		return err
	}
	m, err := ns.ChooseOwn(rec.Map)
	if err != nil {
		return fmt.Errorf("cannot remove %s: %w", name, err)
	}
	tmp, release, err := s.scratch()
	if err != nil {
		return err
	}
	defer release()
	if err := s.takeOut(name, filepath.Join(tmp, "env")); err != nil {
		return fmt.Errorf("cannot remove %s: %w", name, err)
	}
	if err := s.dropLayers(tmp); err != nil {
		return err
	}
	return s.remove(ctx, tmp, m)
}

// takeOut moves an environment out of sight: half an environment is none.
func (s *Store) takeOut(name, to string) error {
	unlock, err := s.lockRecords()
	if err != nil {
		return err
	}
	defer unlock()
	if err := os.Rename(s.path("environments", name), to); err != nil {
		return err
	}
	if d, err := s.Default(); err == nil && d == name {
		return s.SetDefault(Host)
	}
	return nil
}

// dropLayers moves layers that no record names to tmp. While an import makes
// some, all stay: the next Sweep drops them.
func (s *Store) dropLayers(tmp string) error {
	unlock, err := s.lock(unix.LOCK_EX | unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return nil
	}
	if err != nil {
		return err
	}
	defer unlock()
	records, err := s.lockRecords()
	if err != nil {
		return err
	}
	defer records()
	list, err := s.List()
	if err != nil {
		return err // a record that cannot be read may need any of them
	}
	used := map[string]bool{}
	for _, r := range list {
		for _, l := range r.Layers {
			used[l] = true
		}
	}
	names, err := os.ReadDir(s.path("layers"))
	if err != nil {
		return fmt.Errorf("cannot drop layers: %w", err)
	}
	for _, n := range names {
		if used[n.Name()] {
			continue
		}
		if err := os.Rename(s.path("layers", n.Name()), filepath.Join(tmp, n.Name())); err != nil {
			return fmt.Errorf("cannot drop layers: %w", err)
		}
	}
	return nil
}

// Export writes the environment's files as a tar stream, with owners and
// devices as they were imported.
func (s *Store) Export(ctx context.Context, name string, w io.Writer) error {
	rec, m, err := s.mapped(name)
	if err != nil {
		return err
	}
	_, err = work(ctx, job{Op: "pack", Map: m, Root: s.Root(rec)}, nil, w)
	return err
}

// Use is what an environment takes on the disk, in bytes.
type Use struct {
	Own    int64 `json:"own"`    // what only it has
	Shared int64 `json:"shared"` // layers, which others may have too
}

// Usage measures an environment.
func (s *Store) Usage(ctx context.Context, name string) (Use, error) {
	rec, m, err := s.mapped(name)
	if err != nil {
		return Use{}, err
	}
	root := s.Root(rec)
	var u Use
	for i, dir := range append([]string{root.Upper}, root.Lower...) {
		r, err := work(ctx, job{Op: "usage", Map: m, Dir: dir}, nil, nil)
		if err != nil {
			return Use{}, fmt.Errorf("cannot measure %s: %w", name, err)
		}
		if i == 0 {
			u.Own = r.Bytes
		} else {
			u.Shared += r.Bytes
		}
	}
	return u, nil
}

func (s *Store) mapped(name string) (Record, ns.Map, error) {
	if IsHost(name) {
		return Record{}, ns.Map{}, errors.New("the host environment has no files of its own")
	}
	rec, err := s.Get(name)
	if err != nil {
		return Record{}, ns.Map{}, err
	}
	m, err := ns.ChooseOwn(rec.Map)
	return rec, m, err
}
