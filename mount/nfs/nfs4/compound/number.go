// Package compound encodes and decodes NFS version 4 compounds: the operations
// of RFC 7530 (4.0), RFC 8881 (4.1), RFC 7862 (4.2) and RFC 8276 (extended
// attributes) that a client sends, and the callbacks that it answers.
package compound

// Program, versions and procedures (RFC 8881, section 4 of RFC 5662).
const (
	Program         = 100003
	Version         = 4
	ProcNull        = 0
	ProcCompound    = 1
	CallbackProgram = 0x40000000
	CallbackVersion = 1
)

// Op is an operation's number.
type Op uint32

// Operations of the fore channel.
const (
	OpAccess             Op = 3
	OpClose              Op = 4
	OpCommit             Op = 5
	OpCreate             Op = 6
	OpDelegReturn        Op = 8
	OpGetAttr            Op = 9
	OpGetFH              Op = 10
	OpLink               Op = 11
	OpLock               Op = 12
	OpLockT              Op = 13
	OpLockU              Op = 14
	OpLookup             Op = 15
	OpLookupP            Op = 16
	OpNVerify            Op = 17
	OpOpen               Op = 18
	OpOpenConfirm        Op = 20
	OpPutFH              Op = 22
	OpPutRootFH          Op = 24
	OpRead               Op = 25
	OpReadDir            Op = 26
	OpReadLink           Op = 27
	OpRemove             Op = 28
	OpRename             Op = 29
	OpRenew              Op = 30
	OpRestoreFH          Op = 31
	OpSaveFH             Op = 32
	OpSecInfo            Op = 33
	OpSetAttr            Op = 34
	OpSetClientID        Op = 35
	OpSetClientIDConfirm Op = 36
	OpVerify             Op = 37
	OpWrite              Op = 38
	OpReleaseLockOwner   Op = 39
	OpBindConnToSession  Op = 41
	OpExchangeID         Op = 42
	OpCreateSession      Op = 43
	OpDestroySession     Op = 44
	OpFreeStateID        Op = 45
	OpSecInfoNoName      Op = 52
	OpSequence           Op = 53
	OpTestStateID        Op = 55
	OpDestroyClientID    Op = 57
	OpReclaimComplete    Op = 58
	OpAllocate           Op = 59
	OpCopy               Op = 60
	OpDeallocate         Op = 62
	OpOffloadCancel      Op = 66
	OpOffloadStatus      Op = 67
	OpSeek               Op = 69
	OpClone              Op = 71
	OpGetXattr           Op = 72
	OpSetXattr           Op = 73
	OpListXattrs         Op = 74
	OpRemoveXattr        Op = 75
)

// Operations of the backchannel.
const (
	OpCBGetAttr    Op = 3
	OpCBRecall     Op = 4
	OpCBRecallAny  Op = 8
	OpCBRecallSlot Op = 10
	OpCBSequence   Op = 11
	OpCBNotifyLock Op = 13
	OpCBOffload    Op = 15
	OpCBIllegal    Op = 10044
)

// ACCESS4_* bits (RFC 8881, section 18.1; the last three RFC 8276).
const (
	AccessRead    = 0x01
	AccessLookup  = 0x02
	AccessModify  = 0x04
	AccessExtend  = 0x08
	AccessDelete  = 0x10
	AccessExecute = 0x20
)

// OPEN4_SHARE_* (RFC 8881, section 18.16).
const (
	ShareRead  = 1
	ShareWrite = 2
	ShareBoth  = 3

	WantNoDelegation = 0x400
)

// Results of OPEN.
const (
	ResultConfirm    = 2
	ResultLockNotify = 0x20
)

// Delegation types that an OPEN answers.
const (
	DelegateNone    = 0
	DelegateRead    = 1
	DelegateWrite   = 2
	DelegateNoneExt = 3
)

// Claim is how an OPEN names its file.
type Claim uint32

// Claims.
const (
	ClaimNull     Claim = 0
	ClaimPrevious Claim = 1
	ClaimFH       Claim = 4
)

// How a CREATE or OPEN makes a file.
const (
	CreateUnchecked    = 0
	CreateGuarded      = 1
	CreateExclusive    = 2
	CreateExclusive4_1 = 3
)

// Lock types.
const (
	LockRead       = 1
	LockWrite      = 2
	LockReadWait   = 3
	LockWriteWait  = 4
	WriteUnstable  = 0
	WriteFileSync  = 2
	SeekData       = 0
	SeekHole       = 1
	SetXattrEither = 0
	SetXattrCreate = 1
	SetXattrSwap   = 2
)

// Object types (nfs_ftype4).
const (
	TypeRegular   = 1
	TypeDirectory = 2
	TypeBlock     = 3
	TypeChar      = 4
	TypeLink      = 5
	TypeSocket    = 6
	TypeFIFO      = 7
	TypeAttrDir   = 8
	TypeNamedAttr = 9
)

// SEQ4_STATUS_* flags (RFC 8881, section 18.46).
const (
	SeqCBPathDown            = 0x001
	SeqExpiredAllRevoked     = 0x008
	SeqExpiredSomeRevoked    = 0x010
	SeqAdminRevoked          = 0x020
	SeqRecallableRevoked     = 0x040
	SeqLeaseMoved            = 0x080
	SeqRestartReclaimNeeded  = 0x100
	SeqCBPathDownSession     = 0x200
	SeqBackchannelFault      = 0x400
	SeqRevoked               = SeqExpiredAllRevoked | SeqExpiredSomeRevoked | SeqAdminRevoked | SeqRecallableRevoked
	SeqBackchannelLost       = SeqCBPathDown | SeqCBPathDownSession | SeqBackchannelFault
	exchgUseNonPNFS          = 0x00010000
	exchgSuppMovedRefer      = 0x00000001
	exchgBindPrinc           = 0x00000100
	exchgConfirmed           = 0x80000000
	CreateSessionPersist     = 1
	CreateSessionBackchannel = 2
	bindForeOrBoth           = 0x3
)
