package compound

import (
	"fmt"
	"syscall"
)

// Status is an nfsstat4. As an error it carries the errno that the kernel's
// client answers.
type Status uint32

// Statuses that the client acts upon.
const (
	OK                 Status = 0
	ErrPerm            Status = 1
	ErrNoEnt           Status = 2
	ErrIO              Status = 5
	ErrNXIO            Status = 6
	ErrAccess          Status = 13
	ErrExist           Status = 17
	ErrXDev            Status = 18
	ErrNoSpc           Status = 28
	ErrNotDir          Status = 20
	ErrIsDir           Status = 21
	ErrInval           Status = 22
	ErrNotSupp         Status = 10004
	ErrBadHandle       Status = 10001
	ErrBadCookie       Status = 10003
	ErrTooSmall        Status = 10005
	ErrServerFault     Status = 10006
	ErrDelay           Status = 10008
	ErrSame            Status = 10009
	ErrDenied          Status = 10010
	ErrExpired         Status = 10011
	ErrLocked          Status = 10012
	ErrGrace           Status = 10013
	ErrFHExpired       Status = 10014
	ErrShareDenied     Status = 10015
	ErrWrongSec        Status = 10016
	ErrClientIDInUse   Status = 10017
	ErrResource        Status = 10018
	ErrNoFileHandle    Status = 10020
	ErrMoved           Status = 10019
	ErrMinorMismatch   Status = 10021
	ErrStaleClientID   Status = 10022
	ErrStaleStateID    Status = 10023
	ErrOldStateID      Status = 10024
	ErrBadStateID      Status = 10025
	ErrBadSeqID        Status = 10026
	ErrNotSame         Status = 10027
	ErrLockRange       Status = 10028
	ErrSymlink         Status = 10029
	ErrAttrNotSupp     Status = 10032
	ErrNoGrace         Status = 10033
	ErrReclaimBad      Status = 10034
	ErrReclaimConflict Status = 10035
	ErrBadXDR          Status = 10036
	ErrLocksHeld       Status = 10037
	ErrOpenMode        Status = 10038
	ErrBadOwner        Status = 10039
	ErrBadChar         Status = 10040
	ErrBadName         Status = 10041
	ErrLockNotSupp     Status = 10043
	ErrOpIllegal       Status = 10044
	ErrDeadlock        Status = 10045
	ErrFileOpen        Status = 10046
	ErrAdminRevoked    Status = 10047
	ErrCBPathDown      Status = 10048
	ErrBadIOMode       Status = 10049
	ErrBadSession      Status = 10052
	ErrBadSlot         Status = 10053
	ErrCompleteAlready Status = 10054
	ErrConnNotBound    Status = 10055
	ErrSeqMisordered   Status = 10063
	ErrReqTooBig       Status = 10065
	ErrRepTooBig       Status = 10066
	ErrRepTooBigCache  Status = 10067
	ErrRetryUncached   Status = 10068
	ErrTooManyOps      Status = 10070
	ErrOpNotInSession  Status = 10071
	ErrClientIDBusy    Status = 10074
	ErrSeqFalseRetry   Status = 10076
	ErrBadHighSlot     Status = 10077
	ErrDeadSession     Status = 10078
	ErrDelegRevoked    Status = 10087
	ErrOffloadDenied   Status = 10091
	ErrUnionNotSupp    Status = 10090
	ErrWrongType       Status = 10083
	ErrNoXattr         Status = 10095
	ErrXattr2Big       Status = 10096
)

// statuses is each nfsstat4 with its name and the errno of the system call that
// it fails (RFC 8881, section 15.1, and what the kernel's client makes of it).
var statuses = map[Status]struct {
	name  string
	errno syscall.Errno
}{
	ErrPerm: {"PERM", syscall.EPERM}, ErrNoEnt: {"NOENT", syscall.ENOENT}, ErrIO: {"IO", syscall.EIO},
	ErrNXIO: {"NXIO", syscall.ENXIO}, ErrAccess: {"ACCESS", syscall.EACCES}, ErrExist: {"EXIST", syscall.EEXIST},
	ErrXDev: {"XDEV", syscall.EXDEV}, 19: {"NODEV", syscall.ENODEV}, ErrNotDir: {"NOTDIR", syscall.ENOTDIR}, ErrIsDir: {"ISDIR", syscall.EISDIR},
	ErrInval: {"INVAL", syscall.EINVAL}, 27: {"FBIG", syscall.EFBIG}, ErrNoSpc: {"NOSPC", syscall.ENOSPC},
	30: {"ROFS", syscall.EROFS}, 31: {"MLINK", syscall.EMLINK}, 63: {"NAMETOOLONG", syscall.ENAMETOOLONG},
	66: {"NOTEMPTY", syscall.ENOTEMPTY}, 69: {"DQUOT", syscall.EDQUOT}, 70: {"STALE", syscall.ESTALE},
	ErrBadHandle: {"BADHANDLE", syscall.ESTALE}, ErrBadCookie: {"BAD_COOKIE", syscall.EIO},
	ErrNotSupp: {"NOTSUPP", syscall.EOPNOTSUPP}, ErrTooSmall: {"TOOSMALL", syscall.EIO},
	ErrServerFault: {"SERVERFAULT", syscall.EIO}, 10007: {"BADTYPE", syscall.EINVAL}, ErrDelay: {"DELAY", syscall.EAGAIN},
	ErrSame: {"SAME", syscall.EIO}, ErrDenied: {"DENIED", syscall.EAGAIN}, ErrExpired: {"EXPIRED", syscall.EIO},
	ErrLocked: {"LOCKED", syscall.EAGAIN}, ErrGrace: {"GRACE", syscall.EAGAIN}, ErrFHExpired: {"FHEXPIRED", syscall.ESTALE},
	ErrShareDenied: {"SHARE_DENIED", syscall.EACCES}, ErrWrongSec: {"WRONGSEC", syscall.EPERM},
	ErrClientIDInUse: {"CLID_INUSE", syscall.EACCES}, ErrResource: {"RESOURCE", syscall.EREMOTEIO}, ErrMoved: {"MOVED", syscall.EREMOTE},
	ErrNoFileHandle: {"NOFILEHANDLE", syscall.EIO}, ErrMinorMismatch: {"MINOR_VERS_MISMATCH", syscall.EPROTONOSUPPORT},
	ErrStaleClientID: {"STALE_CLIENTID", syscall.EIO}, ErrStaleStateID: {"STALE_STATEID", syscall.EIO},
	ErrOldStateID: {"OLD_STATEID", syscall.EIO}, ErrBadStateID: {"BAD_STATEID", syscall.EIO}, ErrBadSeqID: {"BAD_SEQID", syscall.EIO},
	ErrNotSame: {"NOT_SAME", syscall.EIO}, ErrLockRange: {"LOCK_RANGE", syscall.EINVAL}, ErrSymlink: {"SYMLINK", syscall.ELOOP},
	10030: {"RESTOREFH", syscall.EIO}, ErrAttrNotSupp: {"ATTRNOTSUPP", syscall.EOPNOTSUPP}, ErrNoGrace: {"NO_GRACE", syscall.EIO},
	ErrReclaimBad: {"RECLAIM_BAD", syscall.EIO}, ErrReclaimConflict: {"RECLAIM_CONFLICT", syscall.EIO}, ErrBadXDR: {"BADXDR", syscall.EREMOTEIO},
	ErrLocksHeld: {"LOCKS_HELD", syscall.EIO}, ErrOpenMode: {"OPENMODE", syscall.EBADF}, ErrBadOwner: {"BADOWNER", syscall.EINVAL},
	ErrBadChar: {"BADCHAR", syscall.EINVAL}, ErrBadName: {"BADNAME", syscall.EINVAL}, 10042: {"BAD_RANGE", syscall.EINVAL},
	ErrLockNotSupp: {"LOCK_NOTSUPP", syscall.EOPNOTSUPP}, ErrOpIllegal: {"OP_ILLEGAL", syscall.EOPNOTSUPP}, ErrDeadlock: {"DEADLOCK", syscall.EDEADLK},
	ErrFileOpen: {"FILE_OPEN", syscall.EBUSY}, ErrAdminRevoked: {"ADMIN_REVOKED", syscall.EIO}, ErrCBPathDown: {"CB_PATH_DOWN", syscall.EIO},
	ErrBadIOMode: {"BADIOMODE", syscall.EIO}, 10050: {"BADLAYOUT", syscall.EIO}, 10051: {"BAD_SESSION_DIGEST", syscall.EIO},
	ErrBadSession: {"BADSESSION", syscall.EIO}, ErrBadSlot: {"BADSLOT", syscall.EIO}, ErrCompleteAlready: {"COMPLETE_ALREADY", syscall.EIO},
	ErrConnNotBound: {"CONN_NOT_BOUND_TO_SESSION", syscall.EIO}, ErrSeqMisordered: {"SEQ_MISORDERED", syscall.EIO}, 10064: {"SEQUENCE_POS", syscall.EIO},
	ErrReqTooBig: {"REQ_TOO_BIG", syscall.EIO}, ErrRepTooBig: {"REP_TOO_BIG", syscall.EIO}, ErrRepTooBigCache: {"REP_TOO_BIG_TO_CACHE", syscall.EIO},
	ErrRetryUncached: {"RETRY_UNCACHED_REP", syscall.EIO}, 10069: {"UNSAFE_COMPOUND", syscall.EIO}, ErrTooManyOps: {"TOO_MANY_OPS", syscall.EIO},
	ErrOpNotInSession: {"OP_NOT_IN_SESSION", syscall.EIO}, 10072: {"HASH_ALG_UNSUPP", syscall.EOPNOTSUPP}, ErrClientIDBusy: {"CLIENTID_BUSY", syscall.EBUSY},
	10075: {"PNFS_IO_HOLE", syscall.EIO}, ErrSeqFalseRetry: {"SEQ_FALSE_RETRY", syscall.EIO}, ErrBadHighSlot: {"BAD_HIGH_SLOT", syscall.EIO},
	ErrDeadSession: {"DEADSESSION", syscall.EIO}, 10079: {"ENCR_ALG_UNSUPP", syscall.EOPNOTSUPP}, 10080: {"PNFS_NO_LAYOUT", syscall.EIO},
	10081: {"NOT_ONLY_OP", syscall.EIO}, 10082: {"WRONG_CRED", syscall.EACCES}, ErrWrongType: {"WRONG_TYPE", syscall.EINVAL},
	10084: {"DIRDELEG_UNAVAIL", syscall.EOPNOTSUPP}, 10085: {"REJECT_DELEG", syscall.EIO}, 10086: {"RETURNCONFLICT", syscall.EIO},
	ErrDelegRevoked: {"DELEG_REVOKED", syscall.EIO}, 10088: {"PARTNER_NOTSUPP", syscall.EOPNOTSUPP}, 10089: {"PARTNER_NO_AUTH", syscall.EACCES},
	ErrUnionNotSupp: {"UNION_NOTSUPP", syscall.EOPNOTSUPP}, ErrOffloadDenied: {"OFFLOAD_DENIED", syscall.EOPNOTSUPP}, 10092: {"WRONG_LFS", syscall.EINVAL},
	10093: {"BADLABEL", syscall.EINVAL}, 10094: {"OFFLOAD_NO_REQS", syscall.EOPNOTSUPP}, ErrNoXattr: {"NOXATTR", syscall.ENODATA}, ErrXattr2Big: {"XATTR2BIG", syscall.E2BIG},
}

func (s Status) Error() string {
	if s == OK {
		return "NFS4_OK"
	}
	if e, ok := statuses[s]; ok {
		return "NFS4ERR_" + e.name
	}
	return fmt.Sprintf("NFS status %d", uint32(s))
}

// Unwrap is the errno, so that errors.As and volume.Errno find it.
func (s Status) Unwrap() error { return s.Errno() }

// Errno is what the system call fails with.
func (s Status) Errno() syscall.Errno {
	if s == OK {
		return 0
	}
	if e, ok := statuses[s]; ok {
		return e.errno
	}
	return syscall.EIO
}

// Class is what the client does about a status.
type Class int

// Classes.
const (
	Final   Class = iota // the caller is told
	Later                // the same again after a while
	Session              // the session is gone: make another, then again
	State                // the state id is no longer good: open again, then again
)

// Class of a status.
func (s Status) Class() Class {
	switch s {
	case ErrDelay, ErrGrace:
		return Later
	case ErrBadSession, ErrDeadSession, ErrStaleClientID, ErrConnNotBound, ErrBadSlot, ErrBadHighSlot, ErrSeqMisordered, ErrSeqFalseRetry:
		return Session
	case ErrExpired, ErrStaleStateID, ErrBadStateID, ErrAdminRevoked, ErrDelegRevoked, ErrOldStateID:
		return State
	}
	return Final
}
