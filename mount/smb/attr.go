package smb

import (
	"io/fs"
	"strings"
	"syscall"
	"time"

	"github.com/cloudsoda/go-smb2"

	"github.com/lxbridge/lx/mount/volume"
)

// File attributes (MS-FSCC 2.6).
const (
	attrReadonly  = 0x1
	attrDirectory = 0x10
	attrReparse   = 0x400
)

// attr is fi as stat(2) shows it: owner and mode come from the mount's
// options, without write permission where the read-only attribute is set. A
// reparse point counts as what its other attributes say; see symlinks.
func (v *Volume) attr(fi *smb2.FileStat) volume.Attr {
	a := volume.Attr{
		Size:      uint64(max(0, fi.EndOfFile)),
		Allocated: uint64(max(0, fi.AllocationSize)),
		Nlink:     1,
		UID:       v.cfg.UID, GID: v.cfg.GID,
		Mode:  syscall.S_IFREG | v.cfg.FileMode&0o7777,
		Atime: known100ns(fi.LastAccessTime), Mtime: known100ns(fi.LastWriteTime),
		Ctime: known100ns(fi.ChangeTime), Btime: known100ns(fi.CreationTime),
	}
	switch {
	case fi.FileAttributes&attrDirectory != 0:
		a.Mode, a.Nlink, a.Size = syscall.S_IFDIR|v.cfg.DirMode&0o7777, 2, 0
	case fi.FileAttributes&attrReadonly != 0:
		a.Mode &^= 0o222
	}
	if a.Ctime.IsZero() {
		a.Ctime = a.Mtime
	}
	if a.Atime.IsZero() {
		a.Atime = a.Mtime
	}
	return a
}

// noTime is what the transport makes of a FILETIME of zero, which means "not
// known": it overflows.
var noTime = func() time.Time {
	sinceUnix := int64(-116444736000000000) // 1601 in units of 100 ns
	return time.Unix(0, sinceUnix*100)
}()

func known100ns(t time.Time) time.Time {
	if t.Equal(noTime) {
		return time.Time{}
	}
	return t
}

// symlink is a, turned into that of a symbolic link to target.
func symlink(a volume.Attr, target string) volume.Attr {
	a.Mode, a.Size, a.Nlink = syscall.S_IFLNK|0o777, uint64(len(target)), 1
	return a
}

// lstat asks for the attributes of a path, links included.
func (v *Volume) lstat(l *link, path string) (volume.Attr, error) {
	fi, err := l.share.Lstat(path)
	if err != nil {
		return volume.Attr{}, err
	}
	st := fi.(*smb2.FileStat)
	a := v.attr(st)
	if target, ok, err := v.target(l, path, st); err != nil {
		return volume.Attr{}, err
	} else if ok {
		a = symlink(a, target)
	}
	return a, nil
}

// target is where fi leads if it is a symbolic link of either kind. Only its
// attributes say whether to ask: most files cost nothing.
func (v *Volume) target(l *link, path string, fi *smb2.FileStat) (target string, ok bool, err error) {
	switch {
	case fi.FileAttributes&attrReparse != 0:
		target, err := l.share.Readlink(path)
		if err != nil {
			// Another kind of reparse point, which the server opens as a file
			// or directory: deduplication, cloud files.
			return "", false, nil //nolint:nilerr
		}
		target = strings.ReplaceAll(target, `\`, "/")
		return target, validTarget(target), nil
	case v.maybeMF(fi):
		return v.readMF(l, path)
	}
	return "", false, nil
}

// validTarget refuses what symlink(7) cannot hold.
func validTarget(t string) bool {
	return t != "" && len(t) < 4096 && !strings.Contains(t, "\x00")
}

// fileType is the type bits of a stat(2) mode as package fs has them.
func fileType(mode uint32) fs.FileMode {
	switch mode & syscall.S_IFMT {
	case syscall.S_IFDIR:
		return fs.ModeDir
	case syscall.S_IFLNK:
		return fs.ModeSymlink
	}
	return 0
}
