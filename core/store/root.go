package store

import (
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/lxbridge/lx/core/feature"
)

// Root is the root file system of an environment: directories of the host.
type Root struct {
	Upper string   // takes what is written; all of the root where Lower is empty
	Lower []string `json:",omitempty"` // the lowest first
	Work  string   // overlayfs's own
	Place string   // an empty directory to mount it on
}

// Root is the environment's root file system.
func (s *Store) Root(r Record) Root {
	dir := s.path("environments", r.Name)
	root := Root{Upper: dir + "/root", Work: dir + "/work", Place: dir + "/mount"}
	for _, l := range r.Layers {
		root.Lower = append(root.Lower, s.path("layers", l))
	}
	return root
}

// Mount puts the root on its place, in the calling thread's mount namespace,
// whose user namespace has the map of the files.
func (r Root) Mount() error {
	if len(r.Lower) == 0 {
		if err := unix.Mount(r.Upper, r.Place, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
			return fmt.Errorf("cannot mount the root file system %s: %w", r.Upper, err)
		}
		return nil
	}
	return mountOverlay(r.Place, r.Lower, r.Upper, r.Work)
}

// View mounts the root read-only, whether or not it is in use.
func (r Root) View() error {
	if len(r.Lower) == 0 {
		return r.Mount()
	}
	return mountOverlay(r.Place, append(r.Lower[:len(r.Lower):len(r.Lower)], r.Upper), "", "")
}

// mountOverlay names the directories by descriptors: their names may hold
// what overlayfs reads as separators, and be longer together than a page.
func mountOverlay(place string, lower []string, upper, work string) error {
	if feature.Missing(feature.Overlay) {
		return fmt.Errorf("cannot mount an overlay: %w", unix.ENODEV)
	}
	var fds []int
	defer func() {
		for _, fd := range fds {
			unix.Close(fd)
		}
	}()
	var failed error
	open := func(dir string) string {
		fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			failed = errors.Join(failed, fmt.Errorf("cannot open %s: %w", dir, err))
			return ""
		}
		fds = append(fds, fd)
		return fmt.Sprintf("/proc/self/fd/%d", fd)
	}
	names := make([]string, len(lower))
	for i, l := range lower {
		names[len(lower)-1-i] = open(l)
	}
	options := "userxattr,lowerdir=" + strings.Join(names, ":")
	if upper != "" {
		options += ",upperdir=" + open(upper) + ",workdir=" + open(work)
	}
	if failed != nil {
		return failed
	}
	if err := unix.Mount("lx", place, "overlay", 0, options); err != nil {
		return fmt.Errorf("cannot mount an overlay: %w", err)
	}
	return nil
}
