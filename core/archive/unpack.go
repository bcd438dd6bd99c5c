package archive

import (
	"archive/tar"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lxbridge/lx/core/ns"
)

// Limits bound what an archive may bring. Zero is no bound, but for Names.
type Limits struct {
	Bytes   int64 // of all files together
	Entries int64
	Names   int64 // bytes of all names together, which are kept in memory; 0: maxNames
}

// maxNames is more than any distribution has: names of 2 million files.
const maxNames = 256 << 20

// Options say how a stream becomes a tree.
type Options struct {
	Limits
	// Map says which ids exist; others are recorded and the file is root's.
	// Without a map all files belong to the caller, and are neither devices
	// nor setuid: for streams out of an environment.
	Map *ns.Map
	// Layer says that the stream is a layer of an OCI image, whose whiteouts
	// remove what the tree had before.
	Layer bool
}

// Report is what an unpacking came to.
type Report struct {
	Bytes, Entries int64
	// Recorded counts owners and devices that the map cannot show; Lost those
	// that the file system could not record either, and attributes it refused.
	Recorded, Lost int64
}

// Whiteouts (OCI image specification, layer.md).
const (
	whiteout = ".wh."
	opaque   = ".wh..wh..opq"
)

type unpacker struct {
	*Tree
	opt    Options
	report Report
	names  int64 // bytes
	buf    []byte
	// Directories get their times when nothing more is put into them.
	dirs []dirTime
	// made are the names of this layer, which its whiteouts leave alone.
	made map[string]bool
}

type dirTime struct {
	name  string
	times []unix.Timespec
}

// Unpack puts the stream into the tree. A failure leaves it half done: the
// caller unpacks where nobody looks yet.
func (t *Tree) Unpack(ctx context.Context, r io.Reader, opt Options) (Report, error) {
	u := &unpacker{Tree: t, opt: opt, buf: make([]byte, 128<<10), made: map[string]bool{}}
	end := &endReader{r: r}
	tr := tar.NewReader(end)
	for {
		if err := ctx.Err(); err != nil {
			return u.report, err
		}
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if errors.Is(err, io.ErrUnexpectedEOF) {
			return u.report, errors.New("cannot read the archive: it ends too early (truncated?)")
		}
		if err != nil {
			return u.report, fmt.Errorf("cannot read the archive: %w", err)
		}
		if err := u.entry(h, tr); err != nil {
			if errors.Is(err, io.ErrUnexpectedEOF) {
				err = errors.New("the archive ends too early (truncated?)")
			}
			return u.report, fmt.Errorf("cannot unpack %s: %w", h.Name, err)
		}
	}
	if !end.marked() {
		return u.report, errors.New("cannot read the archive: it has no end mark (truncated?)")
	}
	// A stream may go on after the mark (tar's blocking factor): the writer
	// wants it read, and a digest is of all of it.
	if _, err := io.Copy(io.Discard, end); err != nil {
		return u.report, fmt.Errorf("cannot read the archive: %w", err)
	}
	for i := len(u.dirs) - 1; i >= 0; i-- {
		d := u.dirs[i]
		fd, err := u.open(d.name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW)
		if err != nil {
			continue // a later entry took its place
		}
		err = unix.UtimesNanoAt(fd, ".", d.times, 0)
		unix.Close(fd)
		if err != nil {
			return u.report, fmt.Errorf("cannot set the time of %s: %w", d.name, err)
		}
	}
	return u.report, nil
}

func (u *unpacker) entry(h *tar.Header, r io.Reader) error {
	switch h.Typeflag {
	case tar.TypeXGlobalHeader:
		return nil
	case tar.TypeReg, tar.TypeDir, tar.TypeSymlink, tar.TypeLink, tar.TypeFifo, tar.TypeChar, tar.TypeBlock, tar.TypeGNUSparse, tar.TypeCont:
	default:
		return fmt.Errorf("an entry of the unknown type %q", h.Typeflag)
	}
	u.report.Entries++
	u.report.Bytes += h.Size
	if u.opt.Entries > 0 && u.report.Entries > u.opt.Entries {
		return fmt.Errorf("more than %d entries: see --max-entries", u.opt.Entries)
	}
	if h.Size < 0 || u.report.Bytes < 0 || u.opt.Bytes > 0 && u.report.Bytes > u.opt.Bytes {
		return fmt.Errorf("more than %d bytes: see --max-size", u.opt.Bytes)
	}
	name, err := clean(h.Name)
	if err != nil {
		return err
	}
	u.names += int64(len(name))
	if limit := cmp.Or(u.opt.Names, maxNames); u.names > limit {
		return fmt.Errorf("more than %d bytes of names", limit)
	}
	if u.opt.Layer && strings.HasPrefix(path.Base(name), whiteout) {
		return u.white(name)
	}
	if name == "." {
		if h.Typeflag != tar.TypeDir {
			return errors.New("the root is no directory")
		}
		return u.finish(u.fd, ".", name, h)
	}
	dir, base, err := u.parent(name)
	if err != nil {
		return err
	}
	if u.opt.Layer {
		u.made[name] = true
	}
	if h.Typeflag == tar.TypeDir {
		return u.directory(dir, base, name, h)
	}
	if err := u.make(dir, base, h, r); err != nil {
		return err
	}
	if h.Typeflag == tar.TypeLink {
		return nil // its inode has all from the first name
	}
	return u.finish(dir, base, name, h)
}

// white removes what earlier layers put there.
func (u *unpacker) white(name string) error {
	dir, base := path.Split(name)
	u.forget()
	fd, err := u.open(path.Clean(dir), unix.O_RDONLY|unix.O_DIRECTORY)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return err
	}
	if base == opaque {
		return empty(fd, func(n string) bool { return u.made[path.Join(dir, n)] })
	}
	defer unix.Close(fd)
	target := strings.TrimPrefix(base, whiteout)
	if target == "" || target == "." || target == ".." {
		return errors.New("a whiteout of nothing")
	}
	if u.made[path.Join(dir, target)] {
		return nil
	}
	return removeAll(fd, target)
}

// directory makes one, or keeps one that is there.
func (u *unpacker) directory(dir int, base, name string, h *tar.Header) error {
	var st unix.Stat_t
	err := unix.Fstatat(dir, base, &st, unix.AT_SYMLINK_NOFOLLOW)
	if err != nil || st.Mode&unix.S_IFMT != unix.S_IFDIR {
		if err := removeAll(dir, base); err != nil {
			return err
		}
		if err := unix.Mkdirat(dir, base, 0o700); err != nil {
			return err
		}
	}
	u.dirs = append(u.dirs, dirTime{name, times(h)})
	return u.finish(dir, base, name, h)
}

// make makes the file in the place of what is there.
func (u *unpacker) make(dir int, base string, h *tar.Header, r io.Reader) error {
	if h.Typeflag == tar.TypeLink {
		return u.link(dir, base, h)
	}
	if err := removeAll(dir, base); err != nil {
		return err
	}
	switch h.Typeflag {
	case tar.TypeSymlink:
		return unix.Symlinkat(h.Linkname, dir, base)
	case tar.TypeFifo:
		return unix.Mknodat(dir, base, unix.S_IFIFO|0o600, 0)
	}
	fd, err := unix.Openat(dir, base, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	if h.Typeflag == tar.TypeChar || h.Typeflag == tar.TypeBlock {
		return unix.Close(fd)
	}
	return errors.Join(u.fill(fd, r, h.Size), unix.Close(fd))
}

// link gives a file of the tree another name.
func (u *unpacker) link(dir int, base string, h *tar.Header) error {
	to, err := clean(strings.TrimPrefix(h.Linkname, "/"))
	if err != nil {
		return fmt.Errorf("a hard link to %w", err)
	}
	toDir, toBase := path.Split(to)
	fd, err := u.open(path.Clean(toDir), unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return fmt.Errorf("a hard link to %s: %w", to, err)
	}
	defer unix.Close(fd)
	var from, here unix.Stat_t
	if err := unix.Fstatat(fd, toBase, &from, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("a hard link to %s: %w", to, err)
	}
	if unix.Fstatat(dir, base, &here, unix.AT_SYMLINK_NOFOLLOW) == nil && here.Ino == from.Ino && here.Dev == from.Dev {
		return nil
	}
	if err := removeAll(dir, base); err != nil {
		return err
	}
	if err := unix.Linkat(fd, toBase, dir, base, 0); err != nil {
		return fmt.Errorf("a hard link to %s: %w", to, err)
	}
	return nil
}

// hole is the size of the blocks that are not written when they are zero.
const hole = 4096

var zeros [hole]byte

// fill writes size bytes, leaving holes where there is nothing.
func (u *unpacker) fill(fd int, r io.Reader, size int64) error {
	var off int64
	sparse := false
	for off < size {
		want := min(int64(len(u.buf)), size-off)
		n, err := io.ReadFull(r, u.buf[:want])
		if err != nil {
			return io.ErrUnexpectedEOF
		}
		for b := u.buf[:n]; len(b) > 0; {
			piece := b[:min(hole, len(b))]
			b = b[len(piece):]
			sparse = bytes.Equal(piece, zeros[:len(piece)])
			for !sparse && len(b) > 0 && !bytes.Equal(b[:min(hole, len(b))], zeros[:min(hole, len(b))]) {
				piece = piece[:len(piece)+min(hole, len(b))]
				b = b[min(hole, len(b)):]
			}
			if !sparse {
				if err := writeAt(fd, piece, off); err != nil {
					return err
				}
			}
			off += int64(len(piece))
		}
	}
	if sparse {
		return unix.Ftruncate(fd, size)
	}
	return nil
}

func writeAt(fd int, b []byte, off int64) error {
	for len(b) > 0 {
		n, err := unix.Pwrite(fd, b, off)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return err
		}
		b, off = b[n:], off+int64(n)
	}
	return nil
}

// finish gives the file its owner, mode, attributes and time.
func (u *unpacker) finish(dir int, base, name string, h *tar.Header) error {
	isLink := h.Typeflag == tar.TypeSymlink
	mode := uint32(h.Mode) & 0o7777
	if u.opt.Map == nil {
		mode &= 0o777
	} else if err := u.own(dir, base, h, isLink); err != nil {
		return err
	}
	if !isLink {
		if err := unix.Fchmodat(dir, base, mode, 0); err != nil {
			return err
		}
	}
	if u.opt.Map != nil {
		for k, v := range h.PAXRecords {
			if attr, ok := strings.CutPrefix(k, "SCHILY.xattr."); ok && attr != ownerXattr && attr != deviceXattr {
				if err := u.setxattr(dir, base, attr, v); err != nil {
					u.report.Lost++
				}
			}
		}
	}
	if h.Typeflag == tar.TypeDir {
		return nil
	}
	return unix.UtimesNanoAt(dir, base, times(h), unix.AT_SYMLINK_NOFOLLOW)
}

// own changes the owner, or records what the map does not have.
func (u *unpacker) own(dir int, base string, h *tar.Header, isLink bool) error {
	uid, okUID := shown(u.opt.Map.UID, h.Uid)
	gid, okGID := shown(u.opt.Map.GID, h.Gid)
	if err := unix.Fchownat(dir, base, uid, gid, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	record := func(name, value string) {
		if isLink || u.setxattr(dir, base, name, value) != nil {
			u.report.Lost++
			return
		}
		u.report.Recorded++
	}
	if !okUID || !okGID {
		record(ownerXattr, fmt.Sprintf("%d:%d", h.Uid, h.Gid))
	}
	switch h.Typeflag {
	case tar.TypeChar:
		record(deviceXattr, fmt.Sprintf("c:%d:%d", h.Devmajor, h.Devminor))
	case tar.TypeBlock:
		record(deviceXattr, fmt.Sprintf("b:%d:%d", h.Devmajor, h.Devminor))
	}
	return nil
}

// shown is the id if the map has it, else root's.
func shown(es []ns.Extent, id int) (int, bool) {
	for _, e := range es {
		if id >= int(e.Inside) && id-int(e.Inside) < int(e.Size) {
			return id, true
		}
	}
	return 0, false
}

// setxattr does not follow a link at base: it is reached below the directory's
// descriptor, which nobody can swap.
func (u *unpacker) setxattr(dir int, base, name, value string) error {
	return unix.Lsetxattr(fdPath(dir, base), name, []byte(value), 0)
}

func fdPath(dir int, base string) string { return fmt.Sprintf("/proc/self/fd/%d/%s", dir, base) }

func times(h *tar.Header) []unix.Timespec {
	at := func(t time.Time) unix.Timespec {
		ts, err := unix.TimeToTimespec(t)
		if err != nil || t.IsZero() {
			return unix.Timespec{Nsec: unix.UTIME_OMIT}
		}
		return ts
	}
	m := at(h.ModTime)
	if a := at(h.AccessTime); !h.AccessTime.IsZero() {
		return []unix.Timespec{a, m}
	}
	return []unix.Timespec{m, m}
}

// endReader knows whether the last block read was the end mark, which is zero.
type endReader struct {
	r    io.Reader
	last [512]byte
	n    int64
}

func (e *endReader) Read(p []byte) (int, error) {
	n, err := e.r.Read(p)
	for b := p[:n]; len(b) > 0; {
		c := copy(e.last[e.n%512:], b)
		b, e.n = b[c:], e.n+int64(c)
	}
	return n, err
}

func (e *endReader) marked() bool { return e.n >= 512 && e.n%512 == 0 && e.last == [512]byte{} }
