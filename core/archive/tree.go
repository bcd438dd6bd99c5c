// Package archive writes file trees from tar streams and reads them back
// (tar(5), POSIX.1-2001 pax). Neither leaves the tree, whatever its links say
// and whoever changes them meanwhile.
package archive

import (
	"errors"
	"fmt"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// Extended attributes that keep what an id map cannot show, for export.
const (
	ownerXattr  = "user.lx.owner"  // "UID:GID"
	deviceXattr = "user.lx.device" // "c:MAJOR:MINOR", or b; on an empty file
)

// RecordOwner keeps an owner that does not exist here with an open file or
// directory; an id of -1 stays what it was. A file system that takes no
// attributes keeps none.
func RecordOwner(fd, uid, gid int) {
	var was [2]int
	value := make([]byte, 32)
	if n, err := unix.Fgetxattr(fd, ownerXattr, value); err == nil {
		if _, err := fmt.Sscanf(string(value[:n]), "%d:%d", &was[0], &was[1]); err != nil {
			was = [2]int{}
		}
	}
	if uid == -1 {
		uid = was[0]
	}
	if gid == -1 {
		gid = was[1]
	}
	_ = unix.Fsetxattr(fd, ownerXattr, fmt.Appendf(nil, "%d:%d", uint32(uid), uint32(gid)), 0)
}

// Tree is a directory in which names are looked up as if it were the root.
type Tree struct {
	fd int
	// The directory last looked up: entries of a stream lie side by side.
	dir   string
	dirFD int
}

// OpenTree opens the directory dir; the caller closes the tree.
func OpenTree(dir string) (*Tree, error) {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("cannot open %s: %w", dir, err)
	}
	return &Tree{fd: fd, dirFD: -1}, nil
}

// Close gives the descriptors back.
func (t *Tree) Close() {
	t.forget()
	unix.Close(t.fd)
}

// forget drops the directory last looked up, which may not be it any more.
func (t *Tree) forget() {
	if t.dirFD >= 0 {
		unix.Close(t.dirFD)
	}
	t.dirFD = -1
}

// open opens name below the tree's root; links are followed inside of it.
func (t *Tree) open(name string, flags int) (int, error) {
	for {
		fd, err := unix.Openat2(t.fd, name, &unix.OpenHow{
			Flags:   uint64(flags | unix.O_CLOEXEC),
			Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
		})
		if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) { // a rename passed by: openat2(2)
			continue
		}
		return fd, err
	}
}

// parent is the directory that name lies in, made where it is missing, and
// the last part of name. The descriptor stays the tree's, until the next call.
func (t *Tree) parent(name string) (fd int, base string, err error) {
	dir, base := path.Split(name)
	dir = path.Clean(dir)
	if t.dirFD >= 0 && t.dir == dir {
		return t.dirFD, base, nil
	}
	t.forget()
	fd, err = t.open(dir, unix.O_RDONLY|unix.O_DIRECTORY)
	if errors.Is(err, unix.ENOENT) && dir != "." {
		up, last, uerr := t.parent(dir)
		if uerr != nil {
			return -1, "", uerr
		}
		if merr := unix.Mkdirat(up, last, 0o755); merr != nil {
			return -1, "", merr
		}
		t.forget()
		fd, err = t.open(dir, unix.O_RDONLY|unix.O_DIRECTORY)
	}
	if err != nil {
		return -1, "", err
	}
	t.dir, t.dirFD = dir, fd
	return fd, base, nil
}

// clean is an archive's name below the root, or why it is refused.
func clean(name string) (string, error) {
	switch {
	case name == "":
		return "", errors.New("an entry without a name")
	case len(name) > unix.PathMax:
		return "", fmt.Errorf("%.40q…: name too long", name)
	case strings.ContainsRune(name, 0):
		return "", fmt.Errorf("%q: a NUL in a name", name)
	case path.IsAbs(name):
		return "", fmt.Errorf("%q: an absolute name (tar -P?): names must be relative to the root", name)
	}
	for part := range strings.SplitSeq(name, "/") {
		if part == ".." {
			return "", fmt.Errorf("%q: a name that leaves the root", name)
		}
	}
	return path.Clean(name), nil
}

// removeAll removes base and what is below, without following links.
func removeAll(dirFD int, base string) error {
	err := unix.Unlinkat(dirFD, base, 0)
	if err == nil || errors.Is(err, unix.ENOENT) {
		return nil
	}
	if !errors.Is(err, unix.EISDIR) && !errors.Is(err, unix.EPERM) {
		return err
	}
	fd, oerr := unix.Openat(dirFD, base, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if errors.Is(oerr, unix.EACCES) { // a directory of the user's own, closed to itself
		if cerr := unix.Fchmodat(dirFD, base, 0o700, unix.AT_SYMLINK_NOFOLLOW); cerr == nil {
			fd, oerr = unix.Openat(dirFD, base, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		}
	}
	if oerr != nil {
		return errors.Join(err, oerr)
	}
	if err := empty(fd, nil); err != nil {
		return err
	}
	return unix.Unlinkat(dirFD, base, unix.AT_REMOVEDIR)
}

// empty removes what the directory holds but for names that keep says yes to,
// and closes it.
func empty(fd int, keep func(name string) bool) error {
	names, err := list(fd)
	if err != nil {
		unix.Close(fd)
		return err
	}
	defer unix.Close(fd)
	for _, n := range names {
		if keep != nil && keep(n) {
			continue
		}
		if err := removeAll(fd, n); err != nil {
			return fmt.Errorf("%s: %w", n, err)
		}
	}
	return nil
}

// list reads a directory's names; the descriptor stays the caller's.
func list(fd int) ([]string, error) {
	if _, err := unix.Seek(fd, 0, 0); err != nil {
		return nil, err
	}
	var names []string
	buf := make([]byte, 32<<10)
	for {
		n, err := unix.ReadDirent(fd, buf)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if n <= 0 {
			return names, nil
		}
		_, _, names = unix.ParseDirent(buf[:n], -1, names)
	}
}

// Remove removes the directory dir and all that it holds.
func Remove(dir string) error {
	dir = path.Clean(dir)
	up, err := unix.Open(path.Dir(dir), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("cannot remove %s: %w", dir, err)
	}
	defer unix.Close(up)
	if err := removeAll(up, path.Base(dir)); err != nil {
		return fmt.Errorf("cannot remove %s: %w", dir, err)
	}
	return nil
}

// Usage is what the files below dir take on the disk, in bytes, and how many
// there are. A file of several names counts once.
func Usage(dir string) (bytes, entries int64, err error) {
	t, err := OpenTree(dir)
	if err != nil {
		return 0, 0, err
	}
	defer t.Close()
	seen := map[[2]uint64]bool{}
	err = t.walk(false, func(e entry) error {
		entries++
		key := [2]uint64{uint64(e.st.Dev), e.st.Ino}
		if e.st.Nlink > 1 && !e.isDir() {
			if seen[key] {
				return nil
			}
			seen[key] = true
		}
		bytes += e.st.Blocks * 512
		return nil
	})
	return bytes, entries, err
}
