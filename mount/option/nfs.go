package option

import (
	"net/netip"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unicode/utf8"
)

// Recovery is what becomes of calls to a server that does not answer.
type Recovery string

const (
	Hard    Recovery = "hard"
	Soft    Recovery = "soft"
	SoftErr Recovery = "softerr"
)

// LookupCache says which answers to looking a name up are believed.
type LookupCache string

const (
	LookupAll      LookupCache = "all"
	LookupPositive LookupCache = "pos"
	LookupNone     LookupCache = "none"
)

// Ports says which of the client's own ports connections come from.
type Ports string

const (
	PortsAny      Ports = ""           // a reserved one where it can be had
	PortsReserved Ports = "resvport"   // only a reserved one
	PortsHigh     Ports = "noresvport" // no reserved one
)

// IDMap says whose ids AUTH_SYS carries.
type IDMap string

const (
	IDMapHost  IDMap = "host"  // the caller's, as the host sees them
	IDMapGuest IDMap = "guest" // the caller's, as it sees them itself
	IDMapFixed IDMap = "fixed" // NFS.FixedID
)

// NFS is what a mount of type nfs or nfs4 asks for. It is made by NewNFS and
// Set, completed by Finish, and may be compared with ==.
type NFS struct {
	Common // of type nfs or nfs4
	Host   string
	Path   string // from the server's root; begins with a slash

	Address    netip.Addr // not valid: Host is to be resolved
	Port       uint16     // 0: the default
	IPv6       bool       // addresses of IPv6 only
	MountHost  string     // empty: Host
	MountAddr  netip.Addr // not valid: of MountHost
	MountPort  uint16     // 0: the portmapper is asked
	MountProto string     // empty: TCP; tcp, tcp6, udp, udp6
	Vers       string     // empty: negotiated; 3, 4 (its minor version is negotiated), 4.0, 4.1, 4.2

	NConnect int
	Ports    Ports
	Xprtsec  string // none, tls or mtls
	CACert   string // a file with the authorities that sign the server's certificate; empty: the host's
	Cert     string // files with the client's certificate and its key, for mtls
	Key      string
	Recovery Recovery
	Timeo    time.Duration
	Retrans  int

	Sec     string // flavours between colons; empty: the first that the server names
	IDMap   IDMap
	FixedID uint32 // under IDMapFixed

	LocalLocks bool
	NoACL      bool
	NameMax    int // 0: the server says
	NoRdirPlus bool

	NoAC               bool
	ACRegMin, ACRegMax time.Duration
	ACDirMin, ACDirMax time.Duration
	Lookup             LookupCache
	NoCTO              bool
	RSize, WSize       uint32 // bytes; 0: the largest that both sides can

	minor int // of minorversion=; -1: not said
}

// NewNFS is the defaults for a file system of type fsType.
func NewNFS(fsType string) *NFS {
	o := &NFS{Common: Common{Type: fsType}, NConnect: 1, Xprtsec: "none", Recovery: Hard, Timeo: time.Minute, Retrans: 2,
		IDMap: IDMapHost, ACRegMax: time.Minute, ACDirMax: time.Minute, Lookup: LookupPositive, minor: -1}
	if fsType == "nfs4" {
		o.Vers = "4"
	}
	return o
}

var nfsGrammar = grammar[NFS]{table: nfsTable, setters: nfsSetters}

// Set implements Options.
func (o *NFS) Set(p Param) error { return nfsGrammar.set(o, &o.Common, p) }

// Clone implements Options.
func (o *NFS) Clone() Options { c := *o; return &c }

// Same implements Options.
func (o *NFS) Same(other Options) bool {
	p, ok := other.(*NFS)
	return ok && o.essence() == p.essence()
}

// essence is o without the flags, and without what mount.nfs found out.
func (o NFS) essence() NFS {
	o.Common, o.Address, o.MountAddr, o.MountProto = Common{Type: o.Type}, netip.Addr{}, netip.Addr{}, ""
	return o
}

var _ Options = (*NFS)(nil)

// Finish implements Options.
func (o *NFS) Finish() error {
	if o.Path == "" {
		return invalid("source", "missing: expected server:/directory")
	}
	if o.minor >= 0 {
		switch vers := "4." + strconv.Itoa(o.minor); o.Vers {
		case "4", vers:
			o.Vers = vers
		case "":
			return invalid("minorversion", "goes with vers=4")
		default:
			return invalid("minorversion", "%d contradicts vers=%s", o.minor, o.Vers)
		}
	}
	if o.Type == "nfs4" && o.Vers == "3" {
		return invalid("vers", "3 is not for type nfs4; use type nfs")
	}
	if o.IPv6 && o.Address.IsValid() && !o.Address.Is6() {
		return invalid("addr", "%v is no address of IPv6, which proto=tcp6 asks for", o.Address)
	}
	switch {
	case o.Xprtsec == "mtls" && (o.Cert == "" || o.Key == ""):
		return invalid("xprtsec", "mtls wants a certificate of the client's: give cert=FILE and key=FILE (PEM)")
	case o.Xprtsec != "mtls" && (o.Cert != "" || o.Key != ""):
		return invalid("cert", "and key go with xprtsec=mtls")
	case o.Xprtsec == "none" && o.CACert != "":
		return invalid("cacert", "goes with xprtsec=tls or mtls")
	}
	return nil
}

// Flavours are those of Sec.
func (o *NFS) Flavours() []string {
	return strings.FieldsFunc(o.Sec, func(r rune) bool { return r == ':' })
}

// ParseExport parses server:/directory. A server that is an IPv6 address stands
// in brackets; the answer has none.
func ParseExport(s string) (host, path string, err error) {
	bad := func(why string) (string, string, error) {
		return "", "", invalid("source", "%q: %s; expected server:/directory", s, why)
	}
	switch {
	case s == "":
		return bad("empty")
	case len(s) > maxUNC:
		return "", "", invalid("source", "longer than %d bytes", maxUNC)
	case !utf8.ValidString(s):
		return bad("not UTF-8")
	case strings.ContainsRune(s, 0):
		return bad("a NUL in it")
	case strings.HasPrefix(s, "nfs://"):
		return bad("a URL")
	}
	if rest, ok := strings.CutPrefix(s, "["); ok {
		var found bool
		if host, path, found = strings.Cut(rest, "]:"); !found {
			return bad("the bracket is not closed")
		}
		if a, err := netip.ParseAddr(host); err != nil || !a.Is6() {
			return bad("no IPv6 address in brackets")
		}
	} else {
		var found bool
		if host, path, found = strings.Cut(s, ":"); !found {
			return bad("the colon is missing")
		}
		switch {
		case host == "":
			return bad("the server's name is missing")
		case strings.ContainsAny(host, "/[]% \t\n"):
			return bad("no server has such a name")
		case strings.Contains(host, ","):
			return "", "", &Error{"source", "several servers: name the one to use", syscall.EOPNOTSUPP}
		}
	}
	if !strings.HasPrefix(path, "/") {
		return bad("the directory does not begin with a slash")
	}
	for name := range strings.SplitSeq(path, "/") {
		if name == "." || name == ".." {
			return bad("the directory has " + name + " in it")
		}
		if len(name) > 255 {
			return "", "", &Error{"source", "a name of more than 255 bytes", syscall.ENAMETOOLONG}
		}
	}
	return host, path, nil
}

// SplitPlain takes the data of mount(2) apart where commas cannot be doubled:
// for all types but cifs. A first byte that is no text is a structure of old
// mount programs.
func SplitPlain(data string) ([]Param, error) {
	if data != "" && (data[0] < ' ' || data[0] > '~') {
		return nil, &Error{"", "binary mount data; use mount.nfs of nfs-utils, or mount -i", syscall.EINVAL}
	}
	var params []Param
	for part := range strings.SplitSeq(data, ",") {
		if part == "" {
			continue
		}
		p := Param{}
		p.Name, p.Value, p.Has = strings.Cut(part, "=")
		if p.Name == "" {
			return nil, &Error{"", "an option without a name: expected name=value", syscall.EINVAL}
		}
		params = append(params, p)
	}
	return params, nil
}
