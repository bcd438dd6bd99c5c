package env

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// keptFiles are files of the host that an environment with files of its own
// sees, kept in step while it runs.
var keptFiles = []struct {
	name, path string
	text       func(host []byte, hostname string) []byte
}{
	{"resolv.conf", "/etc/resolv.conf", func(b []byte, _ string) []byte { return b }},
	{"hosts", "/etc/hosts", ownHosts},
}

// ownHosts are the host's hosts(5) and the environment's own name.
func ownHosts(b []byte, hostname string) []byte {
	if len(b) > 0 && !bytes.HasSuffix(b, []byte("\n")) {
		b = append(b, '\n')
	}
	return append(b, "127.0.1.1\t"+hostname+"\n"...)
}

// WriteFiles brings the files below dir up to date with the host's.
func WriteFiles(dir, hostname string) error {
	for _, f := range keptFiles {
		b, err := os.ReadFile(f.path)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("cannot show %s inside: %w", f.path, err)
		}
		// Written in place: what is mounted inside is this very file.
		if err := os.WriteFile(filepath.Join(dir, f.name), f.text(b, hostname), 0o644); err != nil {
			return fmt.Errorf("cannot show %s inside: %w", f.path, err)
		}
	}
	return nil
}

// MountFiles shows the files below dir in the root file system at place, whose
// links lead nowhere but into itself. What is there and no file, as a link into
// /run, becomes one.
func MountFiles(dir, place string) error {
	root, err := unix.Open(place, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("cannot open the root file system: %w", err)
	}
	defer unix.Close(root)
	etc, err := unix.Openat2(root, "etc", &unix.OpenHow{Flags: unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT})
	if err != nil {
		return fmt.Errorf("cannot open /etc of the root file system: %w", err)
	}
	defer unix.Close(etc)
	for _, f := range keptFiles {
		if err := mountFile(filepath.Join(dir, f.name), etc, filepath.Base(f.path)); err != nil {
			return fmt.Errorf("cannot show %s inside: %w", f.path, err)
		}
	}
	return nil
}

func mountFile(from string, etc int, name string) error {
	var st unix.Stat_t
	err := unix.Fstatat(etc, name, &st, unix.AT_SYMLINK_NOFOLLOW)
	if err == nil && st.Mode&unix.S_IFMT != unix.S_IFREG {
		err = unix.Unlinkat(etc, name, 0)
		st = unix.Stat_t{}
	}
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return err
	}
	if st.Mode == 0 {
		if err := unix.Mknodat(etc, name, unix.S_IFREG|0o644, 0); err != nil {
			return err
		}
	}
	at, err := unix.Openat(etc, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(at)
	tree, err := unix.OpenTree(unix.AT_FDCWD, from, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return err
	}
	defer unix.Close(tree)
	return unix.MoveMount(tree, "", at, "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH)
}

// KeepFiles calls WriteFiles whenever one of the host's files changes, until
// ctx ends. tell gets failures.
func KeepFiles(ctx context.Context, dir, hostname string, tell func(error)) error {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return fmt.Errorf("cannot watch the host's files: %w", err)
	}
	watch := os.NewFile(uintptr(fd), "inotify")
	defer watch.Close()
	defer context.AfterFunc(ctx, func() { watch.Close() })()
	buf := make([]byte, 16<<10)
	for {
		// Directories, since files are replaced by renames; a link's target, since
		// resolvers keep theirs in /run. Watching one twice changes nothing.
		for _, f := range keptFiles {
			for _, p := range follow(f.path) {
				// A directory that is missing is watched when it is there.
				_, _ = unix.InotifyAddWatch(fd, filepath.Dir(p), unix.IN_CLOSE_WRITE|unix.IN_MOVED_TO|unix.IN_DELETE|unix.IN_CREATE)
			}
		}
		if err := WriteFiles(dir, hostname); err != nil {
			tell(err)
		}
		for {
			n, err := watch.Read(buf)
			if ctx.Err() != nil {
				return nil
			}
			if err != nil {
				return fmt.Errorf("cannot watch the host's files: %w", err)
			}
			if namesKept(buf[:n]) {
				break
			}
		}
	}
}

// follow is path and what it leads to by links.
func follow(path string) []string {
	all := []string{path}
	for range 8 {
		to, err := os.Readlink(path)
		if err != nil {
			break
		}
		if !filepath.IsAbs(to) {
			to = filepath.Join(filepath.Dir(path), to)
		}
		path = to
		all = append(all, path)
	}
	return all
}

// namesKept says whether inotify events name one of the files or a link's target.
func namesKept(events []byte) bool {
	for _, f := range keptFiles {
		for _, p := range follow(f.path) {
			if bytes.Contains(events, []byte(filepath.Base(p)+"\x00")) {
				return true
			}
		}
	}
	return false
}

// timeZone is the host's time zone as a TZ value that needs no database: the
// rule at the end of /etc/localtime (RFC 8536). Empty where it is UTC or unknown.
func timeZone() string {
	b, err := os.ReadFile("/etc/localtime")
	if err != nil || !bytes.HasPrefix(b, []byte("TZif")) {
		return ""
	}
	lines := strings.Split(strings.TrimSuffix(string(b), "\n"), "\n")
	rule := lines[len(lines)-1]
	if len(rule) > 64 || strings.ContainsFunc(rule, func(r rune) bool { return r < '!' || r > '~' }) {
		return ""
	}
	return rule
}
