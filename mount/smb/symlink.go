package smb

import (
	"context"
	"crypto/md5"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"syscall"

	"github.com/cloudsoda/go-smb2"

	"github.com/lxbridge/lx/mount/volume"
	"github.com/lxbridge/lx/mount/volume/pathtree"
)

// A Minshall+French symlink is a file of 1067 bytes: "XSym", the length of the
// target in four digits, its MD5 and itself, one to a line, filled up with a
// newline and spaces (mount.cifs(8), mfsymlinks).
const (
	mfSize   = 1067
	mfHead   = 5 + 5 + 33
	mfTarget = 1024
)

func encodeMF(target string) ([]byte, error) {
	if len(target) > mfTarget {
		return nil, syscall.ENAMETOOLONG
	}
	s := fmt.Sprintf("XSym\n%04d\n%x\n%s", len(target), md5.Sum([]byte(target)), target)
	if len(s) < mfSize {
		s += "\n"
	}
	return []byte(s + strings.Repeat(" ", mfSize-len(s))), nil
}

func decodeMF(b []byte) (target string, ok bool) {
	if len(b) != mfSize || string(b[:5]) != "XSym\n" || b[9] != '\n' || b[mfHead-1] != '\n' {
		return "", false
	}
	n, err := strconv.ParseUint(string(b[5:9]), 10, 16)
	if err != nil || n > mfTarget {
		return "", false
	}
	target = string(b[mfHead : mfHead+n])
	sum := md5.Sum([]byte(target))
	return target, hex.EncodeToString(sum[:]) == string(b[10:mfHead-1]) && validTarget(target)
}

func (v *Volume) maybeMF(fi *smb2.FileStat) bool {
	return v.cfg.MFSymlinks && fi.EndOfFile == mfSize && fi.FileAttributes&(attrDirectory|attrReparse) == 0
}

// readMF reads a file that may be a Minshall+French symlink.
func (v *Volume) readMF(l *link, path string) (target string, ok bool, err error) {
	f, err := l.share.OpenFile(path, os.O_RDONLY, 0o666)
	if err != nil {
		return "", false, nil //nolint:nilerr // what cannot be read is shown as a file, as cifs does
	}
	b := make([]byte, mfSize)
	n, err := f.ReadAt(b, 0)
	err = errors.Join(ignoreEOF(err), f.Close())
	if err != nil {
		return "", false, err
	}
	target, ok = decodeMF(b[:n])
	return target, ok, nil
}

func ignoreEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// Readlink implements volume.Readlinker.
func (v *Volume) Readlink(ctx context.Context, n volume.Node) (string, error) {
	node := n.(*pathtree.Node)
	return run(ctx, v, call[string]{op: "readlink", node: node, repeat: true, do: func(l *link) (string, error) {
		v.names.RLock()
		defer v.names.RUnlock()
		path, err := v.path(node)
		if err != nil {
			return "", err
		}
		fi, err := l.share.Lstat(path)
		if err != nil {
			return "", err
		}
		target, ok, err := v.target(l, path, fi.(*smb2.FileStat))
		if err == nil && !ok {
			err = syscall.EINVAL
		}
		return target, err
	}})
}

// Symlink implements volume.Symlinker: a Minshall+French file with mfsymlinks,
// else a reparse point, which Samba before 4.22 answers with EOPNOTSUPP.
func (v *Volume) Symlink(ctx context.Context, d volume.Node, name, target string) (volume.Node, volume.Attr, error) {
	dir := d.(*pathtree.Node)
	made, err := run(ctx, v, call[found]{op: "symlink", name: name, do: func(l *link) (found, error) {
		v.names.RLock()
		defer v.names.RUnlock()
		path, err := v.join(dir, name)
		if err != nil {
			return found{}, err
		}
		if v.cfg.MFSymlinks {
			err = v.writeMF(l, path, target)
		} else {
			err = v.writeReparse(l, path, target)
		}
		if err != nil {
			return found{}, err
		}
		return v.find(l, dir, name, path)
	}, undo: v.unfind})
	return made.node, made.attr, err
}

func (v *Volume) writeMF(l *link, path, target string) error {
	b, err := encodeMF(target)
	if err != nil {
		return err
	}
	f, err := l.share.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o666)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(b, 0)
	return errors.Join(err, f.Close())
}

func (v *Volume) writeReparse(l *link, path, target string) error {
	if strings.Contains(target, `\`) {
		return syscall.EINVAL // would come back as a slash
	}
	err := l.share.Symlink(target, path)
	switch {
	case isStatus(err, statusInvalidDeviceRequest), isStatus(err, statusNotSupported), isStatus(err, statusNotAReparsePoint):
		return &volume.Error{Op: "symlink", Name: target, Errno: syscall.EOPNOTSUPP, Err: err,
			Reason: "the server stores no symbolic links; mount with mfsymlinks"}
	}
	return err
}
