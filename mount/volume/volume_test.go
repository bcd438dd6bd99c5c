package volume

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"
	"testing"
)

func TestErrno(t *testing.T) {
	for _, c := range []struct {
		err  error
		want syscall.Errno
	}{
		{nil, 0},
		{syscall.ENOSPC, syscall.ENOSPC},
		{&Error{Op: "open", Errno: syscall.ESTALE}, syscall.ESTALE},
		{&Error{Op: "open", Errno: syscall.EIO, Err: context.Canceled}, syscall.EIO},
		{fmt.Errorf("cannot list: %w", &Error{Op: "open", Errno: syscall.EACCES}), syscall.EACCES},
		{&os.PathError{Op: "open", Path: "x", Err: syscall.ENOTDIR}, syscall.ENOTDIR},
		{context.Canceled, syscall.EINTR},
		{fmt.Errorf("cannot read: %w", context.DeadlineExceeded), syscall.ETIMEDOUT},
		{os.ErrDeadlineExceeded, syscall.ETIMEDOUT},
		{fs.ErrNotExist, syscall.ENOENT},
		{fs.ErrExist, syscall.EEXIST},
		{fs.ErrPermission, syscall.EACCES},
		{io.ErrUnexpectedEOF, syscall.EIO},
	} {
		if got := Errno(c.err); got != c.want {
			t.Errorf("Errno(%v) = %v, want %v", c.err, got, c.want)
		}
	}
}

func TestError(t *testing.T) {
	cause := errors.New("connection reset")
	for _, c := range []struct {
		err  *Error
		want string
	}{
		{&Error{Op: "open", Name: "a b", Errno: syscall.ENOENT}, "cannot open a b: no such file or directory"},
		{&Error{Op: "connect", Errno: syscall.EIO, Err: cause}, "cannot connect: connection reset"},
		{&Error{Op: "open", Errno: syscall.EACCES, Reason: "STATUS_ACCESS_DENIED", Err: cause}, "cannot open: STATUS_ACCESS_DENIED"},
	} {
		if got := c.err.Error(); got != c.want {
			t.Errorf("%q, want %q", got, c.want)
		}
		if !errors.Is(c.err, c.err.Errno) || c.err.Err != nil && !errors.Is(c.err, cause) {
			t.Errorf("%v does not match what it wraps", c.err)
		}
	}
}
