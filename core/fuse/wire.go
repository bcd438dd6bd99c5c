package fuse

// The protocol's numbers and structures as include/uapi/linux/fuse.h has them.
// Every structure is a multiple of 8 bytes and in the host's byte order.

const (
	protoMajor    = 7
	protoMinor    = 45 // newest minor whose structures are known here
	protoMinorMin = 31 // oldest that is spoken
)

// Opcodes.
const (
	opLookup          = 1
	opForget          = 2
	opGetattr         = 3
	opSetattr         = 4
	opReadlink        = 5
	opSymlink         = 6
	opMknod           = 8
	opMkdir           = 9
	opUnlink          = 10
	opRmdir           = 11
	opRename          = 12
	opLink            = 13
	opOpen            = 14
	opRead            = 15
	opWrite           = 16
	opStatfs          = 17
	opRelease         = 18
	opFsync           = 20
	opSetxattr        = 21
	opGetxattr        = 22
	opListxattr       = 23
	opRemovexattr     = 24
	opFlush           = 25
	opInit            = 26
	opOpendir         = 27
	opReaddir         = 28
	opReleasedir      = 29
	opFsyncdir        = 30
	opGetlk           = 31
	opSetlk           = 32
	opSetlkw          = 33
	opAccess          = 34
	opCreate          = 35
	opInterrupt       = 36
	opBmap            = 37
	opDestroy         = 38
	opIoctl           = 39
	opPoll            = 40
	opNotifyReply     = 41
	opBatchForget     = 42
	opFallocate       = 43
	opReaddirplus     = 44
	opRename2         = 45
	opLseek           = 46
	opCopyFileRange   = 47
	opSetupMapping    = 48
	opRemoveMapping   = 49
	opSyncfs          = 50
	opTmpfile         = 51
	opStatx           = 52
	opCopyFileRange64 = 53
	opCount           = 54
)

// Flags of INIT. Bits from 32 on travel in flags2.
const (
	initAsyncRead         = 1 << 0
	initPosixLocks        = 1 << 1
	initAtomicOTrunc      = 1 << 3
	initBigWrites         = 1 << 5
	initDontMask          = 1 << 6
	initFlockLocks        = 1 << 10
	initIoctlDir          = 1 << 11
	initAutoInvalData     = 1 << 12
	initReaddirplus       = 1 << 13
	initReaddirplusAuto   = 1 << 14
	initAsyncDIO          = 1 << 15
	initWritebackCache    = 1 << 16
	initNoOpen            = 1 << 17
	initParallelDirops    = 1 << 18
	initPosixACL          = 1 << 20
	initAbortError        = 1 << 21
	initMaxPages          = 1 << 22
	initCacheSymlinks     = 1 << 23
	initNoOpendir         = 1 << 24
	initExplicitInvalData = 1 << 25
	initHandleKillprivV2  = 1 << 28
	initSetxattrExt       = 1 << 29
	initExt               = 1 << 30
	initExpireOnly        = 1 << 35
	initDirectIOMmap      = 1 << 36
	initResend            = 1 << 39
)

// Bits of SetAttrIn.Valid.
const (
	FATTR_MODE         = 1 << 0
	FATTR_UID          = 1 << 1
	FATTR_GID          = 1 << 2
	FATTR_SIZE         = 1 << 3
	FATTR_ATIME        = 1 << 4
	FATTR_MTIME        = 1 << 5
	FATTR_FH           = 1 << 6
	FATTR_ATIME_NOW    = 1 << 7
	FATTR_MTIME_NOW    = 1 << 8
	FATTR_LOCKOWNER    = 1 << 9
	FATTR_CTIME        = 1 << 10
	FATTR_KILL_SUIDGID = 1 << 11
)

// Bits of OpenOut.Flags.
const (
	FOPEN_DIRECT_IO              = 1 << 0 // no page cache for this open file
	FOPEN_KEEP_CACHE             = 1 << 1 // cached data stays valid
	FOPEN_NONSEEKABLE            = 1 << 2
	FOPEN_CACHE_DIR              = 1 << 3 // the kernel may cache the listing
	FOPEN_STREAM                 = 1 << 4 // no file position at all
	FOPEN_NOFLUSH                = 1 << 5 // no FLUSH at close, unless writeback
	FOPEN_PARALLEL_DIRECT_WRITES = 1 << 6
)

// Flags of single requests.
const (
	FUSE_WRITE_CACHE        = 1 << 0 // Write: from the page cache, fh is a guess
	FUSE_WRITE_KILL_SUIDGID = 1 << 2 // Write: clear setuid and setgid bits

	FUSE_IOCTL_COMPAT       = 1 << 0
	FUSE_IOCTL_UNRESTRICTED = 1 << 1
	FUSE_IOCTL_32BIT        = 1 << 3
	FUSE_IOCTL_DIR          = 1 << 4

	FUSE_RELEASE_FLUSH        = 1 << 0 // Release: the lock owner's locks go
	FUSE_RELEASE_FLOCK_UNLOCK = 1 << 1 // Release: so does the flock(2) lock

	getattrFH   = 1 << 0
	lkFlock     = 1 << 0
	pollNotify  = 1 << 0
	fsyncData   = 1 << 0
	expireOnly  = 1 << 0
	uniqueAgain = 1 << 63 // FUSE_UNIQUE_RESEND
)

// Codes of notifications.
const (
	notifyPoll       = 1
	notifyInvalInode = 2
	notifyInvalEntry = 3
	notifyStore      = 4
	notifyDelete     = 6
	notifyResend     = 7
	notifyPrune      = 9 // since 7.45
)

type inHeader struct {
	Len      uint32
	Opcode   uint32
	Unique   uint64
	Node     uint64
	UID, GID uint32
	PID      uint32
	ExtLen   uint16 // of the extensions at the end, in units of 8 bytes
	_        uint16
}

type outHeader struct {
	Len    uint32
	Error  int32
	Unique uint64
}

type wireAttr struct {
	Ino, Size, Blocks                uint64
	Atime, Mtime, Ctime              uint64
	AtimeNsec, MtimeNsec, CtimeNsec  uint32
	Mode, Nlink, UID, GID, Rdev, Blk uint32
	Flags                            uint32
}

type entryOut struct {
	Node, Generation          uint64
	EntryValid, AttrValid     uint64
	EntryValidNs, AttrValidNs uint32
	Attr                      wireAttr
}

type attrOut struct {
	Valid   uint64
	ValidNs uint32
	_       uint32
	Attr    wireAttr
}

type initIn struct {
	Major, Minor, MaxReadahead, Flags uint32
	Flags2                            uint32
	_                                 [11]uint32
}

type initOut struct {
	Major, Minor, MaxReadahead, Flags  uint32
	MaxBackground, CongestionThreshold uint16
	MaxWrite, TimeGran                 uint32
	MaxPages, MapAlignment             uint16
	Flags2, MaxStackDepth              uint32
	_                                  [6]uint32
}

type (
	forgetIn      struct{ N uint64 }
	batchForgetIn struct{ Count, _ uint32 }
	forgetOne     struct{ Node, N uint64 }
	interruptIn   struct{ Unique uint64 }
	getattrIn     struct {
		Flags, _ uint32
		FH       uint64
	}
	setattrIn struct {
		Valid, _                        uint32
		FH, Size, LockOwner             uint64
		Atime, Mtime, Ctime             uint64
		AtimeNsec, MtimeNsec, CtimeNsec uint32
		Mode, _, UID, GID, _            uint32
	}
	mknodIn   struct{ Mode, Rdev, Umask, _ uint32 }
	mkdirIn   struct{ Mode, Umask uint32 }
	renameIn  struct{ NewDir uint64 }
	rename2In struct {
		NewDir   uint64
		Flags, _ uint32
	}
	linkIn   struct{ Node uint64 }
	openIn   struct{ Flags, OpenFlags uint32 }
	createIn struct{ Flags, Mode, Umask, OpenFlags uint32 }
	openOut  struct {
		FH    uint64
		Flags uint32
		_     uint32
	}
	createOut struct {
		Entry entryOut
		Open  openOut
	}
	releaseIn struct {
		FH                  uint64
		Flags, ReleaseFlags uint32
		LockOwner           uint64
	}
	flushIn struct {
		FH        uint64
		_, _      uint32
		LockOwner uint64
	}
	// readIn and writeIn are one structure.
	readIn struct {
		FH, Offset uint64
		Size, RW   uint32 // RW: read_flags, write_flags
		LockOwner  uint64
		Flags, _   uint32
	}
	writeOut  struct{ Size, _ uint32 }
	statfsOut struct {
		Blocks, Bfree, Bavail, Files, Ffree uint64
		Bsize, Namelen, Frsize              uint32
		_                                   [7]uint32
	}
	fsyncIn struct {
		FH       uint64
		Flags, _ uint32
	}
	setxattrIn    struct{ Size, Flags uint32 }
	setxattrExtIn struct {
		setxattrIn
		SetxattrFlags, _ uint32
	}
	getxattrIn  struct{ Size, _ uint32 }
	getxattrOut struct{ Size, _ uint32 }
	fileLock    struct {
		Start, End uint64
		Type, PID  uint32
	}
	lkIn struct {
		FH, Owner uint64
		Lk        fileLock
		Flags, _  uint32
	}
	lkOut    struct{ Lk fileLock }
	accessIn struct{ Mask, _ uint32 }
	ioctlIn  struct {
		FH              uint64
		Flags, Cmd      uint32
		Arg             uint64
		InSize, OutSize uint32
	}
	ioctlOut struct {
		Result                 int32
		Flags, InIovs, OutIovs uint32
	}
	pollIn struct {
		FH, KH        uint64
		Flags, Events uint32
	}
	pollOut     struct{ Revents, _ uint32 }
	fallocateIn struct {
		FH, Offset, Length uint64
		Mode, _            uint32
	}
	lseekIn struct {
		FH, Offset uint64
		Whence, _  uint32
	}
	lseekOut        struct{ Offset uint64 }
	copyFileRangeIn struct {
		FHIn, OffIn            uint64
		NodeOut, FHOut, OffOut uint64
		Len, Flags             uint64
	}
	copyFileRangeOut struct{ N uint64 }
	dirent           struct {
		Ino, Off      uint64
		Namelen, Type uint32
	}
	direntPlus struct {
		Entry  entryOut
		Dirent dirent
	}
)

type (
	pollWakeup struct{ KH uint64 }
	invalInode struct {
		Node     uint64
		Off, Len int64
	}
	invalEntry struct {
		Parent         uint64
		Namelen, Flags uint32
	}
	deleteEntry struct {
		Parent, Child uint64
		Namelen, _    uint32
	}
	storeOut struct {
		Node, Off uint64
		Size, _   uint32
	}
)

// Sizes in bytes.
const (
	inHeaderSize   = 40
	outHeaderSize  = 16
	writeInSize    = 40
	direntSize     = 24
	direntPlusSize = 152
	entryOutSize   = 128
)

func align8(n int) int { return (n + 7) &^ 7 }
