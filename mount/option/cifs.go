package option

import (
	"net/netip"
	"strings"
	"syscall"
	"time"
)

// Sec is how to log in, of the flavours of sec= those that are honoured.
type Sec string

const (
	NTLMSSP   Sec = "ntlmssp"
	Anonymous Sec = "none"
)

// MapChars says how characters that Windows cannot hold in names are carried.
type MapChars string

const (
	MapPosix MapChars = "mapposix"
	MapSFU   MapChars = "mapchars"
	MapNone  MapChars = "nomapposix"
)

// Cache is the value of cache=.
type Cache string

const (
	CacheStrict Cache = "strict"
	CacheNone   Cache = "none"
	CacheLoose  Cache = "loose"
)

// CIFS is what a mount of type cifs or smb3 asks for. It is made by NewCIFS
// and Set, completed by Finish, and may be compared with ==.
type CIFS struct {
	Common // of type cifs or smb3
	UNC
	Address     netip.Addr // not valid: Server is to be resolved
	Port        uint16     // 0: the default
	Workstation string

	Login
	Credentials string // path of the file that completes Login, as the caller sees it; may be empty
	Guest       bool
	Sec         Sec
	Vers        string // "default" or as vers= has it: 2.0, 2.1, 3, 3.0, 3.02, 3.1.1
	Sign, Seal  bool

	EchoInterval time.Duration // 0: the default
	Hard         bool

	UID, GID          uint32 // in the caller's user namespace
	HasUID, HasGID    bool
	FileMode, DirMode uint32
	Perm              bool // modes are checked even where they refuse nobody anything
	NoPerm            bool

	MapChars                     MapChars
	NoCase, MFSymlinks, NoDelete bool

	Cache        Cache
	ACRegMax     time.Duration // how long attributes of files are believed
	ACDirMax     time.Duration // and those of directories, and names
	NoStrictSync bool
	RSize, WSize uint32 // bytes; 0: the largest that both sides can
	BSize        uint32
	RASize       uint32 // 0: the default
	unc, prefix  string // from mount.cifs
	hasAC        bool   // acregmax or acdirmax stood there
}

// NewCIFS is the kernel's defaults for a file system of type fsType.
func NewCIFS(fsType string) *CIFS {
	return &CIFS{Common: Common{Type: fsType}, Sec: NTLMSSP, Vers: "default", FileMode: 0o755, DirMode: 0o755,
		MapChars: MapPosix, Cache: CacheStrict, ACRegMax: time.Second, ACDirMax: time.Second}
}

// Set implements Options.
func (o *CIFS) Set(p Param) error { return cifsGrammar.set(o, &o.Common, p) }

// Clone implements Options.
func (o *CIFS) Clone() Options { c := *o; return &c }

var _ Options = (*CIFS)(nil)

var cifsGrammar = grammar[CIFS]{cifsTable, setters,
	map[string]bool{"username": true, "password": true, "password2": true, "domain": true, "prefixpath": true}}

// Finish implements Options.
func (o *CIFS) Finish() error {
	if o.Share == "" {
		return invalid("source", "missing: expected //server/share")
	}
	if o.unc != "" {
		u, err := ParseUNC(o.unc)
		if err != nil {
			return invalid("unc", "malformed")
		}
		if !strings.EqualFold(u.Server, o.Server) || !strings.EqualFold(u.Share, o.Share) {
			return invalid("unc", "names %v, the source %v", u, o.UNC)
		}
	}
	if o.prefix != "" {
		u, err := ParseUNC("//s/s/" + o.prefix)
		if err != nil || u.Prefix != o.Prefix {
			return invalid("prefixpath", "names another directory than the source %v", o.UNC)
		}
	}
	if o.Type == "smb3" && (o.Vers == "2.0") {
		return invalid("vers", "2.0 is not for type smb3; use type cifs")
	}
	if o.Sign && o.Sec == Anonymous {
		return &Error{"sign", "an anonymous session has no key to sign with", syscall.EINVAL}
	}
	return nil
}

// Ready completes the login by the credentials file and says what is missing.
// file is the zero Login where no file is named.
func (o *CIFS) Ready(file Login) error {
	o.Login.Fill(file)
	switch {
	case o.Sec == Anonymous || o.HasUser && o.User == "":
		// An empty name is an anonymous login in the kernel, too.
		o.Sec, o.User, o.Password = Anonymous, "", ""
	case o.Guest && !o.HasUser:
		o.Sec = Anonymous
	case !o.HasUser:
		return &Error{"", "no user name: give username=NAME, credentials=FILE or guest", syscall.EINVAL}
	case o.Guest && !o.HasPassword:
	case !o.HasPassword:
		return &Error{"", "no password: give credentials=FILE (lines username=, password=), or install cifs-utils, whose mount.cifs asks for it", syscall.EINVAL}
	}
	if o.Sign && o.Sec == Anonymous {
		return &Error{"sign", "an anonymous session has no key to sign with", syscall.EINVAL}
	}
	return nil
}

// Same implements Options.
func (o *CIFS) Same(other Options) bool {
	p, ok := other.(*CIFS)
	return ok && o.essence() == p.essence()
}

// essence is o without the flags, and without how an address, a login or an
// id was come by.
func (o CIFS) essence() CIFS {
	o.Common, o.unc, o.prefix, o.Credentials, o.Address = Common{Type: o.Type}, "", "", "", netip.Addr{}
	o.HasUID, o.HasGID, o.hasAC = false, false, false
	return o
}
