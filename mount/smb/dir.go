package smb

import (
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"sync"
	"syscall"

	"github.com/cloudsoda/go-smb2"

	"github.com/lxbridge/lx/mount/volume"
	"github.com/lxbridge/lx/mount/volume/pathtree"
)

// found is a node and its attributes, each one counted.
type found struct {
	node volume.Node
	attr volume.Attr
}

// find looks at path and counts the node of name in dir. names must be held.
func (v *Volume) find(l *link, dir *pathtree.Node, name, path string) (found, error) {
	a, err := v.lstat(l, path)
	if err != nil {
		return found{}, err
	}
	return found{v.child(dir, name, a), a}, nil
}

func (v *Volume) unfind(f found) { v.Forget(f.node) }

// name is what to call n in an error.
func (v *Volume) name(n *pathtree.Node) string {
	p, err := v.tree.Path(n)
	if err != nil {
		return "a removed file"
	}
	return v.cfg.unc() + "/" + p
}

// Lookup implements volume.Volume.
func (v *Volume) Lookup(ctx context.Context, d volume.Node, name string) (volume.Node, volume.Attr, error) {
	dir := d.(*pathtree.Node)
	f, err := run(ctx, v, call[found]{op: "find", name: name, repeat: true, undo: v.unfind, do: func(l *link) (found, error) {
		v.names.RLock()
		defer v.names.RUnlock()
		path, err := v.join(dir, name)
		if err == syscall.EINVAL || err == syscall.EILSEQ {
			err = syscall.ENOENT // what cannot be is not there
		}
		if err != nil {
			return found{}, err
		}
		return v.find(l, dir, name, path)
	}})
	return f.node, f.attr, err
}

// Mkdir implements volume.Volume. The mode is the mount's.
func (v *Volume) Mkdir(ctx context.Context, d volume.Node, name string, _ uint32) (volume.Node, volume.Attr, error) {
	dir := d.(*pathtree.Node)
	f, err := run(ctx, v, call[found]{op: "mkdir", name: name, undo: v.unfind, do: func(l *link) (found, error) {
		v.names.RLock()
		defer v.names.RUnlock()
		path, err := v.join(dir, name)
		if err != nil {
			return found{}, err
		}
		if err := l.share.Mkdir(path, 0o777); err != nil {
			return found{}, err
		}
		return v.find(l, dir, name, path)
	}})
	return f.node, f.attr, err
}

// Unlink implements volume.Volume. Handles of this volume are closed first,
// and stale afterwards.
func (v *Volume) Unlink(ctx context.Context, dir volume.Node, name string) error {
	return v.remove(ctx, "unlink", dir.(*pathtree.Node), name, false)
}

// Rmdir implements volume.Volume.
func (v *Volume) Rmdir(ctx context.Context, dir volume.Node, name string) error {
	return v.remove(ctx, "rmdir", dir.(*pathtree.Node), name, true)
}

func (v *Volume) remove(ctx context.Context, op string, dir *pathtree.Node, name string, wantDir bool) error {
	return exec(ctx, v, call[struct{}]{op: op, name: name}, func(l *link) error {
		v.names.RLock()
		err := v.removeFrom(l, dir, name, wantDir)
		v.names.RUnlock()
		if !isStatus(err, statusSharingViolation) {
			return err
		}
		// Somebody of us opened it meanwhile. Now nobody can.
		v.names.Lock()
		defer v.names.Unlock()
		return v.removeFrom(l, dir, name, wantDir)
	})
}

func (v *Volume) removeFrom(l *link, dir *pathtree.Node, name string, wantDir bool) error {
	path, err := v.join(dir, name)
	if err != nil {
		return err
	}
	n := v.tree.Child(dir, name)
	defer v.Forget(n)
	// The server removes files and empty directories with the same request.
	mode := v.knownOf(n).mode
	if mode == 0 {
		a, err := v.lstat(l, path)
		if err != nil {
			return err
		}
		mode = a.Mode
	}
	switch isDir := mode&syscall.S_IFMT == syscall.S_IFDIR; {
	case isDir && !wantDir:
		return syscall.EISDIR
	case !isDir && wantDir:
		return syscall.ENOTDIR
	}
	defer v.park(n)()
	if err := l.share.Remove(path); err != nil {
		return err
	}
	v.tree.Remove(dir, name)
	return nil
}

// Rename implements volume.Volume. The transport always replaces, so that
// RENAME_NOREPLACE, which it cannot promise, gives EINVAL like the other flags.
func (v *Volume) Rename(ctx context.Context, d volume.Node, name string, nd volume.Node, newName string, flags uint32) error {
	dir, newDir := d.(*pathtree.Node), nd.(*pathtree.Node)
	if flags != 0 {
		return failure("rename", name, syscall.EINVAL)
	}
	return exec(ctx, v, call[struct{}]{op: "rename", name: name}, func(l *link) error {
		v.names.Lock()
		defer v.names.Unlock()
		from, err := v.join(dir, name)
		if err != nil {
			return err
		}
		to, err := v.join(newDir, newName)
		if err != nil {
			return err
		}
		if from == to {
			_, err := l.share.Lstat(from)
			return err
		}
		if strings.HasPrefix(to, from+`\`) {
			return syscall.EINVAL
		}
		n, over := v.tree.Child(dir, name), v.tree.Child(newDir, newName)
		defer v.Forget(n)
		defer v.Forget(over)
		defer v.park(n, over)()
		if err := v.rename(l, from, to); err != nil {
			return err
		}
		return v.tree.Rename(dir, name, newDir, newName)
	})
}

// rename replaces what is at to as rename(2) does: SMB replaces files only.
func (v *Volume) rename(l *link, from, to string) error {
	err := l.share.Rename(from, to)
	if err == nil || !errors.Is(err, os.ErrExist) && !errors.Is(err, os.ErrPermission) {
		return err
	}
	src, e := v.lstat(l, from)
	if e != nil {
		return err
	}
	dst, e := v.lstat(l, to)
	if e != nil {
		return err
	}
	switch srcDir, dstDir := src.Mode&syscall.S_IFDIR != 0, dst.Mode&syscall.S_IFDIR != 0; {
	case dstDir && !srcDir:
		return syscall.EISDIR
	case srcDir && !dstDir:
		return syscall.ENOTDIR
	case !srcDir && dst.Mode&0o222 != 0:
		return err
	}
	// An empty directory, or a file whose read-only attribute protects it.
	if err := l.share.Remove(to); err != nil {
		return err
	}
	return l.share.Rename(from, to)
}

// openBelow is what is open at or below nodes.
func (v *Volume) openBelow(nodes []*pathtree.Node) []parker {
	var roots []string
	for _, n := range nodes {
		if p, err := v.tree.Path(n); err == nil {
			roots = append(roots, p)
		}
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	var list []parker
	for o := range v.open {
		p, err := v.tree.Path(o.at())
		if err != nil {
			continue
		}
		for _, r := range roots {
			if p == r || strings.HasPrefix(p, r+"/") {
				list = append(list, o)
				break
			}
		}
	}
	return list
}

// batch is how many entries one Next answers at most.
const batch = 1024

// listing is a directory being read. The server is asked for as much as one
// answer holds (1 MiB, about 8,000 names).
type listing struct {
	v   *Volume
	dir *pathtree.Node

	mu   sync.Mutex // held during requests
	on   *link
	f    *smb2.File // on that link; nil once all is read
	rest []os.FileInfo
	err  error // what ended reading early
}

// ReadDir implements volume.Volume.
func (v *Volume) ReadDir(ctx context.Context, d volume.Node) (volume.DirStream, error) {
	dir := d.(*pathtree.Node)
	ls, err := run(ctx, v, call[*listing]{op: "list", node: dir, repeat: true, do: func(l *link) (*listing, error) {
		v.names.RLock()
		defer v.names.RUnlock()
		if !v.is(dir, syscall.S_IFDIR) {
			return nil, syscall.ENOTDIR
		}
		path, err := v.path(dir)
		if err != nil {
			return nil, err
		}
		f, err := l.share.OpenFile(path, os.O_RDONLY, 0o666)
		if err != nil {
			return nil, err
		}
		ls := &listing{v: v, dir: dir, on: l, f: f}
		if err := ls.fill(); err != nil {
			return nil, err
		}
		if ls.f != nil {
			v.track(ls)
		}
		return ls, nil
	}, undo: func(ls *listing) { _ = ls.Close() }})
	if err != nil {
		return nil, err
	}
	return ls, nil
}

// fill reads a batch, and closes the server's handle after the last. mu must be held.
func (s *listing) fill() error {
	infos, err := s.read(batch)
	s.rest = append(s.rest, infos...)
	if err == nil && len(infos) == batch {
		return nil
	}
	err = errors.Join(ignoreEOF(err), s.f.Close())
	s.f = nil
	s.v.untrack(s)
	if err != nil && !s.on.alive() {
		err = s.on.failure("list")
	}
	return err
}

// read asks again where the server had fewer credits to give than the question costs.
func (s *listing) read(n int) (infos []os.FileInfo, err error) {
	for range 8 {
		infos, err = s.f.Readdir(n)
		if !isStatus(err, statusInvalidParameter) {
			break
		}
	}
	return infos, err
}

// Next implements volume.DirStream.
func (s *listing) Next(ctx context.Context) ([]volume.DirEntry, error) {
	list, err := run(ctx, s.v, call[[]volume.DirEntry]{op: "list", node: s.dir, do: func(l *link) ([]volume.DirEntry, error) {
		for {
			infos, err := s.take()
			if err != nil || len(infos) == 0 {
				return nil, err
			}
			if list := s.entries(l, infos); len(list) > 0 {
				return list, nil
			}
		}
	}, undo: func(list []volume.DirEntry) {
		for _, e := range list {
			if e.Node != nil {
				s.v.Forget(e.Node)
			}
		}
	}})
	if err == nil && len(list) == 0 {
		err = io.EOF
	}
	return list, err
}

// take is the next batch; none after the last.
func (s *listing) take() ([]os.FileInfo, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.rest) == 0 && s.f != nil && s.err == nil {
		s.err = s.fill()
	}
	if len(s.rest) == 0 {
		return nil, s.err
	}
	infos := s.rest[:min(batch, len(s.rest))]
	s.rest = s.rest[len(infos):]
	return infos, nil
}

// entries are the names that may be shown, each counted like a Lookup. What
// may be a symbolic link is asked for its target.
func (s *listing) entries(l *link, infos []os.FileInfo) []volume.DirEntry {
	list := make([]volume.DirEntry, 0, len(infos))
	for _, info := range infos {
		fi := info.(*smb2.FileStat)
		name, ok := s.v.cfg.MapChars.decode(fi.FileName)
		if !ok {
			continue
		}
		a := s.v.attr(fi)
		if fi.FileAttributes&attrReparse != 0 || s.v.maybeMF(fi) {
			s.resolve(l, name, fi, &a)
		}
		list = append(list, volume.DirEntry{Name: name, Type: fileType(a.Mode), Attr: a, Node: s.v.child(s.dir, name, a)})
	}
	return list
}

// resolve turns a into a symbolic link's where fi is one. What cannot be
// asked stays what its attributes say.
func (s *listing) resolve(l *link, name string, fi *smb2.FileStat, a *volume.Attr) {
	s.v.names.RLock()
	defer s.v.names.RUnlock()
	path, err := s.v.join(s.dir, name)
	if err != nil {
		return
	}
	if target, ok, err := s.v.target(l, path, fi); err == nil && ok {
		*a = symlink(*a, target)
	}
}

func (s *listing) at() *pathtree.Node { return s.dir }

// park reads the rest, since a listing cannot be taken up again.
func (s *listing) park() (resume func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.f != nil && s.err == nil {
		s.err = s.fill()
	}
	return func() {}
}

// Close implements volume.DirStream.
func (s *listing) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.f == nil {
		return nil
	}
	defer s.v.untrack(s)
	f := s.f
	s.f = nil
	if !s.on.alive() {
		return nil
	}
	_, err := guarded(s.on, func(*link) (struct{}, error) { return struct{}{}, f.Close() })
	return failure("close", s.v.name(s.dir), err)
}
