package smb

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"syscall"

	"github.com/cloudsoda/go-smb2"

	"github.com/lxbridge/lx/mount/volume"
)

// status is an NTSTATUS (MS-ERREF 2.3.1).
type status uint32

const (
	statusLogonFailure     status = 0xC000006D
	statusBadNetworkName   status = 0xC00000CC
	statusMoreProcessing   status = 0xC0000016
	statusEndOfFile        status = 0xC0000011
	statusInvalidParameter status = 0xC000000D
	statusSharingViolation status = 0xC0000043

	statusNetworkNameDeleted status = 0xC00000C9
	statusUserSessionDeleted status = 0xC0000203
	statusSessionExpired     status = 0xC000035C

	// How servers say that they keep no symbolic links.
	statusInvalidDeviceRequest status = 0xC0000010
	statusNotSupported         status = 0xC00000BB
	statusNotAReparsePoint     status = 0xC0000275
)

// statuses are the codes a file server gives, the errno that Linux's cifs
// answers for each, and what it means where the name alone does not say it.
var statuses = map[status]struct {
	errno syscall.Errno
	name  string
	words string
}{
	0xC0000001:                 {syscall.EIO, "STATUS_UNSUCCESSFUL", ""},
	0xC0000002:                 {syscall.EOPNOTSUPP, "STATUS_NOT_IMPLEMENTED", ""},
	0xC0000008:                 {syscall.EBADF, "STATUS_INVALID_HANDLE", ""},
	statusInvalidParameter:     {syscall.EINVAL, "STATUS_INVALID_PARAMETER", ""},
	0xC000000E:                 {syscall.ENOENT, "STATUS_NO_SUCH_DEVICE", ""},
	0xC000000F:                 {syscall.ENOENT, "STATUS_NO_SUCH_FILE", ""},
	statusInvalidDeviceRequest: {syscall.EOPNOTSUPP, "STATUS_INVALID_DEVICE_REQUEST", ""},
	statusEndOfFile:            {syscall.ENODATA, "STATUS_END_OF_FILE", ""},
	0xC0000017:                 {syscall.ENOMEM, "STATUS_NO_MEMORY", ""},
	0xC0000022:                 {syscall.EACCES, "STATUS_ACCESS_DENIED", "the server denies access"},
	0xC0000033:                 {syscall.ENOENT, "STATUS_OBJECT_NAME_INVALID", "the server does not accept such a name"},
	0xC0000034:                 {syscall.ENOENT, "STATUS_OBJECT_NAME_NOT_FOUND", ""},
	0xC0000035:                 {syscall.EEXIST, "STATUS_OBJECT_NAME_COLLISION", ""},
	0xC0000039:                 {syscall.ENOENT, "STATUS_OBJECT_PATH_INVALID", ""},
	0xC000003A:                 {syscall.ENOENT, "STATUS_OBJECT_PATH_NOT_FOUND", ""},
	0xC000003B:                 {syscall.ENOENT, "STATUS_OBJECT_PATH_SYNTAX_BAD", ""},
	statusSharingViolation:     {syscall.EBUSY, "STATUS_SHARING_VIOLATION", "somebody has it open"},
	0xC0000044:                 {syscall.EDQUOT, "STATUS_QUOTA_EXCEEDED", ""},
	0xC000004F:                 {syscall.EOPNOTSUPP, "STATUS_EAS_NOT_SUPPORTED", ""},
	0xC0000054:                 {syscall.EACCES, "STATUS_FILE_LOCK_CONFLICT", "another client has locked it"},
	0xC0000055:                 {syscall.EACCES, "STATUS_LOCK_NOT_GRANTED", ""},
	0xC0000056:                 {syscall.ENOENT, "STATUS_DELETE_PENDING", "it is removed, but still open somewhere"},
	0xC0000061:                 {syscall.EPERM, "STATUS_PRIVILEGE_NOT_HELD", ""},
	0xC0000064:                 {syscall.EACCES, "STATUS_NO_SUCH_USER", "the server knows no such user"},
	0xC000006A:                 {syscall.EACCES, "STATUS_WRONG_PASSWORD", "the password is wrong"},
	0xC000006C:                 {syscall.EACCES, "STATUS_PASSWORD_RESTRICTION", ""},
	statusLogonFailure:         {syscall.EACCES, "STATUS_LOGON_FAILURE", "user or password is wrong"},
	0xC000006E:                 {syscall.EACCES, "STATUS_ACCOUNT_RESTRICTION", "the account may not log in this way"},
	0xC000006F:                 {syscall.EACCES, "STATUS_INVALID_LOGON_HOURS", "the account may not log in at this time"},
	0xC0000070:                 {syscall.EACCES, "STATUS_INVALID_WORKSTATION", "the account may not log in from here"},
	0xC0000071:                 {syscall.EKEYEXPIRED, "STATUS_PASSWORD_EXPIRED", "the password has expired"},
	0xC0000072:                 {syscall.EACCES, "STATUS_ACCOUNT_DISABLED", "the account is disabled"},
	0xC000007F:                 {syscall.ENOSPC, "STATUS_DISK_FULL", ""},
	0xC0000098:                 {syscall.EIO, "STATUS_FILE_INVALID", ""},
	0xC000009A:                 {syscall.EAGAIN, "STATUS_INSUFFICIENT_RESOURCES", ""},
	0xC00000A2:                 {syscall.EROFS, "STATUS_MEDIA_WRITE_PROTECTED", ""},
	0xC00000AC:                 {syscall.EBUSY, "STATUS_PIPE_NOT_AVAILABLE", ""},
	0xC00000B5:                 {syscall.ETIMEDOUT, "STATUS_IO_TIMEOUT", ""},
	0xC00000BA:                 {syscall.EISDIR, "STATUS_FILE_IS_A_DIRECTORY", ""},
	statusNotSupported:         {syscall.EOPNOTSUPP, "STATUS_NOT_SUPPORTED", "the server does not support it"},
	statusNetworkNameDeleted:   {syscall.ENOENT, "STATUS_NETWORK_NAME_DELETED", "the share is gone"},
	0xC00000CA:                 {syscall.EACCES, "STATUS_NETWORK_ACCESS_DENIED", ""},
	statusBadNetworkName:       {syscall.ENOENT, "STATUS_BAD_NETWORK_NAME", "the server has no such share"},
	0xC00000D0:                 {syscall.EIO, "STATUS_REQUEST_NOT_ACCEPTED", "the server takes no more connections"},
	0xC00000D4:                 {syscall.EXDEV, "STATUS_NOT_SAME_DEVICE", ""},
	0xC00000FB:                 {syscall.ENOTDIR, "STATUS_REDIRECTOR_NOT_STARTED", ""},
	0xC0000101:                 {syscall.ENOTEMPTY, "STATUS_DIRECTORY_NOT_EMPTY", ""},
	0xC0000103:                 {syscall.ENOTDIR, "STATUS_NOT_A_DIRECTORY", ""},
	0xC000011F:                 {syscall.EMFILE, "STATUS_TOO_MANY_OPENED_FILES", ""},
	0xC0000120:                 {syscall.EIO, "STATUS_CANCELLED", ""},
	0xC0000121:                 {syscall.EACCES, "STATUS_CANNOT_DELETE", ""},
	0xC0000128:                 {syscall.EIO, "STATUS_FILE_CLOSED", ""},
	0xC000014B:                 {syscall.EPIPE, "STATUS_PIPE_BROKEN", ""},
	0xC000015B:                 {syscall.EACCES, "STATUS_LOGON_TYPE_NOT_GRANTED", "the account may not log in over the network"},
	0xC0000193:                 {syscall.EKEYEXPIRED, "STATUS_ACCOUNT_EXPIRED", "the account has expired"},
	statusUserSessionDeleted:   {syscall.EIO, "STATUS_USER_SESSION_DELETED", "the server has ended the session"},
	0xC0000205:                 {syscall.ENOMEM, "STATUS_INSUFF_SERVER_RESOURCES", ""},
	0xC000020C:                 {syscall.EHOSTDOWN, "STATUS_CONNECTION_DISCONNECTED", ""},
	0xC0000224:                 {syscall.EKEYEXPIRED, "STATUS_PASSWORD_MUST_CHANGE", "the password must be changed"},
	0xC0000225:                 {syscall.ENOENT, "STATUS_NOT_FOUND", ""},
	0xC0000234:                 {syscall.EACCES, "STATUS_ACCOUNT_LOCKED_OUT", "the account is locked"},
	0xC0000257:                 {syscall.EREMOTE, "STATUS_PATH_NOT_COVERED", "it lies on another server (DFS), which is not supported"},
	statusNotAReparsePoint:     {syscall.ENODATA, "STATUS_NOT_A_REPARSE_POINT", ""},
	0xC0000279:                 {syscall.EIO, "STATUS_IO_REPARSE_TAG_NOT_HANDLED", ""},
	statusSessionExpired:       {syscall.EIO, "STATUS_NETWORK_SESSION_EXPIRED", "the session has expired"},
	0xC0000388:                 {syscall.EIO, "STATUS_DOWNGRADE_DETECTED", "somebody tampers with the negotiation"},
	0x8000002D:                 {syscall.EOPNOTSUPP, "STATUS_STOPPED_ON_SYMLINK", "a symbolic link leads out of the share"},
}

func (s status) errno() syscall.Errno {
	if e, ok := statuses[s]; ok {
		return e.errno
	}
	return syscall.EIO
}

// String is the status in words and by its name.
func (s status) String() string {
	e, ok := statuses[s]
	switch {
	case !ok:
		return fmt.Sprintf("NTSTATUS %#08x", uint32(s))
	case e.words == "":
		return e.name
	}
	return e.words + " (" + e.name + ")"
}

// failure is err as the caller of the volume gets it.
func failure(op, name string, err error) error {
	if err == nil {
		return nil
	}
	var known *volume.Error
	if errors.As(err, &known) {
		return err
	}
	e := &volume.Error{Op: op, Name: name, Err: err}
	var response *smb2.ResponseError
	var transport *smb2.TransportError
	var internal *smb2.InternalError
	switch {
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("cannot %s %s: %w", op, name, err)
	case errors.As(err, &response):
		e.Errno, e.Reason = status(response.Code).errno(), status(response.Code).String()
	case errors.As(err, &transport):
		e.Errno = syscall.EHOSTDOWN
	case errors.As(err, &internal) && internal.Message == "Too many levels of symbolic links":
		e.Errno = syscall.ELOOP
	case errors.Is(err, fs.ErrNotExist):
		e.Errno = syscall.ENOENT
	case errors.Is(err, fs.ErrExist):
		e.Errno = syscall.EEXIST
	case errors.Is(err, fs.ErrPermission):
		e.Errno = syscall.EACCES
	default:
		e.Errno = volume.Errno(err)
	}
	return e
}

// lostSession reports whether the server has ended the session or the
// attachment below a connection that otherwise lives: only logging in again helps.
func lostSession(err error) bool {
	return isStatus(err, statusUserSessionDeleted) || isStatus(err, statusSessionExpired) || isStatus(err, statusNetworkNameDeleted)
}

// isStatus reports whether the server answered s.
func isStatus(err error, s status) bool {
	var r *smb2.ResponseError
	return errors.As(err, &r) && status(r.Code) == s
}
