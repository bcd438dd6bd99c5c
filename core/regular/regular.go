// Package regular reads files at places where guests may have put anything: a
// FIFO that nobody writes to, a device, a file without an end.
package regular

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// ErrNotRegular says that a name is of something else than a regular file.
var ErrNotRegular = errors.New("no regular file")

// ReadFile reads the regular file at path, which links may lead to, and refuses
// one of more than limit bytes (EFBIG). It never waits for anybody.
func ReadFile(path string, limit int64) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	fail := func(err error) ([]byte, error) { return nil, &fs.PathError{Op: "read", Path: path, Err: err} }
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() {
		return fail(ErrNotRegular)
	}
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(b)) > limit {
		return fail(fmt.Errorf("%w: more than %d bytes", unix.EFBIG, limit))
	}
	return b, nil
}
