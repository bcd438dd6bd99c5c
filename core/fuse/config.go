package fuse

import (
	"fmt"
	"runtime"
	"time"

	"github.com/lxbridge/lx/core/feature"
)

// Config is how a Server speaks to the kernel. The zero value is good.
type Config struct {
	// Readers is how many goroutines at most take quick requests; 0 means as
	// many as processors, at least 2. More are started while operations wait, so
	// that a hung one never stops others.
	Readers int
	// MaxWrite bounds one read or write, in bytes; 0 and more than 1 MiB mean 1 MiB.
	MaxWrite int
	// MaxReadahead in bytes; 0 takes what the kernel offers.
	MaxReadahead uint32
	// MaxBackground bounds asynchronous requests in flight; 0 means 128.
	MaxBackground uint16
	// TimeGran is the granularity of stored times; 0 means 1 ns.
	TimeGran time.Duration

	// Timeout bounds a request, SETLKW excepted: its context ends then, and
	// where the FileSystem has not returned Grace later the caller gets
	// ETIMEDOUT and the late answer is dropped. 0 means no bound.
	Timeout time.Duration
	// Grace is how long a FileSystem may take to obey its context; 0 means 1 s.
	Grace time.Duration
	// InterruptDelay is how long a request goes on after its caller has a
	// signal pending. The kernel tells of every caught signal (SIGCHLD, Go's
	// SIGURG) and an interrupted call is not restarted, so a call that would
	// soon be done had better end. SETLKW is interrupted at once. 0 means
	// 250 ms, less than 0 at once.
	InterruptDelay time.Duration

	Writeback       bool // FUSE_WRITEBACK_CACHE: the kernel gathers writes
	ReaddirplusAuto bool // plain READDIR where attributes seem not to be wanted
	NoOpen          bool // answer OPEN with ENOSYS: no more of them come
	NoOpendir       bool // the same for OPENDIR
	CacheSymlinks   bool // the kernel keeps the targets of symbolic links
	AutoInval       bool // a changed mtime or size drops cached pages
	ExplicitInval   bool // only NotifyInvalInode drops cached pages
	HandleKillpriv  bool // FUSE_HANDLE_KILLPRIV_V2: the FileSystem clears setuid bits
	PosixACL        bool // the kernel checks POSIX ACLs; needs xattrs
}

const maxTransfer = 1 << 20

func (c Config) withDefaults() Config {
	if c.Readers <= 0 {
		c.Readers = max(2, runtime.GOMAXPROCS(0))
	}
	if c.MaxWrite <= 0 || c.MaxWrite > maxTransfer {
		c.MaxWrite = maxTransfer
	}
	c.MaxWrite = max(c.MaxWrite, 4096)
	if c.MaxBackground == 0 {
		c.MaxBackground = 128
	}
	if c.TimeGran <= 0 || c.TimeGran > time.Second {
		c.TimeGran = 1
	}
	if c.Grace <= 0 {
		c.Grace = time.Second
	}
	if c.InterruptDelay == 0 {
		c.InterruptDelay = 250 * time.Millisecond
	}
	return c
}

// Negotiated is what INIT settled: all that another Server needs to take over a
// running connection (Resume). It survives encoding/json.
type Negotiated struct {
	Minor               uint32 // of protocol 7
	Offered             uint64 // the kernel's flags, flags2 from bit 32
	Flags               uint64 // those taken
	MaxReadahead        uint32
	MaxWrite            uint32
	MaxPages            uint16
	MaxBackground       uint16
	CongestionThreshold uint16
	TimeGran            uint32
}

// CanResend says whether the kernel gives requests that a dead server had read
// to the next one (FUSE_NOTIFY_RESEND, Linux 6.9). Where it cannot, a connection
// whose server died can only be aborted.
func (n Negotiated) CanResend() bool {
	return n.Offered&initResend != 0 && !feature.Missing(feature.FuseResend)
}

// negotiate answers the kernel's INIT for a file system with abilities a.
func negotiate(in *initIn, c Config, a *abilities) (Negotiated, error) {
	if in.Major != protoMajor || in.Minor < protoMinorMin {
		return Negotiated{}, fmt.Errorf("cannot speak FUSE %d.%d: expected %d.%d or newer", in.Major, in.Minor, protoMajor, protoMinorMin)
	}
	offered := uint64(in.Flags)
	if offered&initExt != 0 {
		offered |= uint64(in.Flags2) << 32
	}
	want := uint64(initAsyncRead | initAtomicOTrunc | initBigWrites | initDontMask | initIoctlDir |
		initAsyncDIO | initParallelDirops | initAbortError | initMaxPages | initSetxattrExt |
		initExt | initExpireOnly | initDirectIOMmap | initResend)
	for flag, on := range map[uint64]bool{
		initPosixLocks | initFlockLocks: a.locker != nil,
		initReaddirplus:                 a.readDirPluser != nil,
		initReaddirplusAuto:             a.readDirPluser != nil && a.readDirer != nil && c.ReaddirplusAuto,
		initWritebackCache:              c.Writeback && !feature.Missing(feature.FuseWriteback),
		initNoOpen:                      c.NoOpen,
		initNoOpendir:                   c.NoOpendir,
		initCacheSymlinks:               c.CacheSymlinks,
		initAutoInvalData:               c.AutoInval && !c.ExplicitInval,
		initExplicitInvalData:           c.ExplicitInval,
		initHandleKillprivV2:            c.HandleKillpriv,
		initPosixACL:                    c.PosixACL,
	} {
		if on {
			want |= flag
		}
	}
	n := Negotiated{
		Minor:               min(in.Minor, protoMinor),
		Offered:             offered,
		Flags:               want & offered,
		MaxReadahead:        in.MaxReadahead,
		MaxWrite:            uint32(c.MaxWrite),
		MaxPages:            uint16((c.MaxWrite + 4095) / 4096),
		MaxBackground:       c.MaxBackground,
		CongestionThreshold: c.MaxBackground / 4 * 3,
		TimeGran:            uint32(c.TimeGran),
	}
	if c.MaxReadahead != 0 {
		n.MaxReadahead = min(n.MaxReadahead, c.MaxReadahead)
	}
	return n, nil
}

func (n Negotiated) reply() initOut {
	return initOut{
		Major: protoMajor, Minor: n.Minor,
		MaxReadahead: n.MaxReadahead,
		Flags:        uint32(n.Flags), Flags2: uint32(n.Flags >> 32),
		MaxBackground: n.MaxBackground, CongestionThreshold: n.CongestionThreshold,
		MaxWrite: n.MaxWrite, MaxPages: n.MaxPages, TimeGran: n.TimeGran,
	}
}
