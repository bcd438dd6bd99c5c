package archive

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// entry is a file that walk found: base below the directory fd.
type entry struct {
	fd   int
	base string
	name string // from the root
	st   unix.Stat_t
}

func (e entry) isDir() bool { return e.st.Mode&unix.S_IFMT == unix.S_IFDIR }

// walk visits the tree in the order of names, a directory before what it
// holds, without following links. With oneFS it stays on the root's file
// system, and shows where others are mounted as empty directories.
func (t *Tree) walk(oneFS bool, visit func(entry) error) error {
	var st unix.Stat_t
	if err := unix.Fstat(t.fd, &st); err != nil {
		return err
	}
	if err := visit(entry{t.fd, ".", ".", st}); err != nil {
		return err
	}
	return walkDir(t.fd, "", func(e entry) (bool, error) {
		return !oneFS || e.st.Dev == st.Dev, visit(e)
	})
}

func walkDir(fd int, dir string, visit func(entry) (enter bool, err error)) error {
	names, err := list(fd)
	if err != nil {
		return err
	}
	slices.Sort(names)
	for _, n := range names {
		e := entry{fd: fd, base: n, name: path.Join(dir, n)}
		err := unix.Fstatat(fd, n, &e.st, unix.AT_SYMLINK_NOFOLLOW)
		if errors.Is(err, unix.ENOENT) { // just removed
			continue
		}
		if err != nil {
			return fmt.Errorf("%s: %w", e.name, err)
		}
		enter, err := visit(e)
		if err != nil {
			return fmt.Errorf("%s: %w", e.name, err)
		}
		if !e.isDir() || !enter {
			continue
		}
		sub, err := unix.Openat(fd, n, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
			continue // swapped meanwhile: what took its place was not promised
		}
		if err != nil {
			return fmt.Errorf("%s: %w", e.name, err)
		}
		err = walkDir(sub, e.name, visit)
		unix.Close(sub)
		if err != nil {
			return err
		}
	}
	return nil
}

// PackOptions say how a tree becomes a stream.
type PackOptions struct {
	// Owner, if not nil, changes the owners that the stream tells.
	Owner func(uid, gid uint32) (uint32, uint32)
	// Xattrs keeps extended attributes.
	Xattrs bool
}

// Pack writes the tree as a tar stream.
func (t *Tree) Pack(ctx context.Context, w io.Writer, opt PackOptions) error {
	p := &packer{ctx: ctx, w: tar.NewWriter(w), opt: opt, links: map[[2]uint64]string{}, buf: make([]byte, 128<<10)}
	if err := t.walk(true, p.add); err != nil {
		return fmt.Errorf("cannot pack %w", err)
	}
	return p.w.Close()
}

// PackOne writes the file or tree at name, which links may lead to, under the name as.
func (t *Tree) PackOne(ctx context.Context, w io.Writer, name, as string, opt PackOptions) error {
	p := &packer{ctx: ctx, w: tar.NewWriter(w), opt: opt, links: map[[2]uint64]string{}, buf: make([]byte, 128<<10)}
	fd, err := t.open(name, unix.O_PATH)
	if err != nil {
		return fmt.Errorf("cannot copy %s: %w", name, err)
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return fmt.Errorf("cannot copy %s: %w", name, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		// To open another kind could wait for ever, or wake a device.
		if st.Mode&unix.S_IFMT != unix.S_IFREG {
			return fmt.Errorf("cannot copy %s: neither a file nor a directory", name)
		}
		// The file that was looked at, opened again by its descriptor.
		f, err := os.Open(fmt.Sprintf("/proc/self/fd/%d", fd))
		if err != nil {
			return fmt.Errorf("cannot copy %s: %w", name, errors.Unwrap(err))
		}
		defer f.Close()
		h := p.header(entry{name: as, st: st}, tar.TypeReg)
		h.Size = st.Size
		if err := p.body(h, f); err != nil {
			return fmt.Errorf("cannot copy %s: %w", name, err)
		}
		return p.w.Close()
	}
	sub, err := t.open(name, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return fmt.Errorf("cannot copy %s: %w", name, err)
	}
	tree := &Tree{fd: sub, dirFD: -1}
	defer tree.Close()
	err = tree.walk(true, func(e entry) error {
		e.name = path.Join(as, e.name)
		return p.add(e)
	})
	if err != nil {
		return fmt.Errorf("cannot copy %s: %w", name, err)
	}
	return p.w.Close()
}

type packer struct {
	ctx   context.Context
	w     *tar.Writer
	opt   PackOptions
	links map[[2]uint64]string
	buf   []byte
}

func (p *packer) header(e entry, flag byte) *tar.Header {
	uid, gid := e.st.Uid, e.st.Gid
	if p.opt.Owner != nil {
		uid, gid = p.opt.Owner(uid, gid)
	}
	h := &tar.Header{
		Typeflag: flag, Name: e.name, Mode: int64(e.st.Mode & 0o7777), Uid: int(uid), Gid: int(gid),
		ModTime: time.Unix(e.st.Mtim.Unix()), Format: tar.FormatPAX,
	}
	if flag == tar.TypeDir && h.Name != "." {
		h.Name += "/"
	}
	return h
}

func (p *packer) add(e entry) error {
	if err := p.ctx.Err(); err != nil {
		return err
	}
	switch e.st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		h := p.header(e, tar.TypeDir)
		p.xattrs(h, e)
		return p.w.WriteHeader(h)
	case unix.S_IFLNK:
		h := p.header(e, tar.TypeSymlink)
		buf := make([]byte, unix.PathMax)
		n, err := unix.Readlinkat(e.fd, e.base, buf)
		if err != nil {
			return err
		}
		h.Linkname = string(buf[:n])
		return p.w.WriteHeader(h)
	case unix.S_IFSOCK:
		return nil // a socket is nothing without its process
	case unix.S_IFIFO:
		return p.w.WriteHeader(p.header(e, tar.TypeFifo))
	case unix.S_IFCHR, unix.S_IFBLK:
		flag := byte(tar.TypeChar)
		if e.st.Mode&unix.S_IFMT == unix.S_IFBLK {
			flag = tar.TypeBlock
		}
		h := p.header(e, flag)
		h.Devmajor, h.Devminor = int64(unix.Major(uint64(e.st.Rdev))), int64(unix.Minor(uint64(e.st.Rdev)))
		return p.w.WriteHeader(h)
	}
	return p.file(e)
}

func (p *packer) file(e entry) error {
	h := p.header(e, tar.TypeReg)
	if e.st.Nlink > 1 {
		key := [2]uint64{uint64(e.st.Dev), e.st.Ino}
		if first, ok := p.links[key]; ok {
			h.Typeflag, h.Linkname = tar.TypeLink, first
			return p.w.WriteHeader(h)
		}
		p.links[key] = e.name
	}
	fd, err := unix.Openat(e.fd, e.base, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), e.name)
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if st.Ino != e.st.Ino || st.Dev != e.st.Dev {
		return errors.New("changed while it was read")
	}
	h.Size = st.Size
	p.xattrs(h, e)
	if h.Typeflag != tar.TypeReg {
		h.Size = 0
		return p.w.WriteHeader(h)
	}
	return p.body(h, f)
}

// body writes the header and exactly as many bytes as it says: a file that
// grows meanwhile is cut, one that shrinks is filled with zeros.
func (p *packer) body(h *tar.Header, f *os.File) error {
	if err := p.w.WriteHeader(h); err != nil {
		return err
	}
	n, err := io.CopyBuffer(p.w, io.LimitReader(f, h.Size), p.buf)
	for err == nil && n < h.Size {
		var m int
		m, err = p.w.Write(zeros[:min(hole, h.Size-n)])
		n += int64(m)
	}
	return err
}

// xattrs adds the attributes, and turns what was recorded into what it is.
func (p *packer) xattrs(h *tar.Header, e entry) {
	if !p.opt.Xattrs {
		return
	}
	file := fdPath(e.fd, e.base)
	names := make([]byte, 64<<10)
	n, err := unix.Llistxattr(file, names)
	if err != nil || n == 0 {
		return
	}
	for name := range strings.SplitSeq(strings.TrimSuffix(string(names[:n]), "\x00"), "\x00") {
		value := make([]byte, 64<<10)
		n, err := unix.Lgetxattr(file, name, value)
		if err != nil || strings.HasPrefix(name, "user.overlay.") {
			continue
		}
		switch v := string(value[:n]); name {
		case ownerXattr:
			var uid, gid int
			if _, err := fmt.Sscanf(v, "%d:%d", &uid, &gid); err == nil {
				h.Uid, h.Gid = uid, gid
			}
		case deviceXattr:
			var kind rune
			var major, minor int64
			if _, err := fmt.Sscanf(v, "%c:%d:%d", &kind, &major, &minor); err == nil {
				h.Typeflag, h.Devmajor, h.Devminor = tar.TypeChar, major, minor
				if kind == 'b' {
					h.Typeflag = tar.TypeBlock
				}
			}
		default:
			if h.PAXRecords == nil {
				h.PAXRecords = map[string]string{}
			}
			h.PAXRecords["SCHILY.xattr."+name] = v
		}
	}
}
