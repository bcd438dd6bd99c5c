// Package smb is a volume on an SMB 2 or 3 server (MS-SMB2). Its transport is
// github.com/cloudsoda/go-smb2, which only the files link.go, attr.go, file.go
// and dir.go know; what it cannot do is told by Unsupported.
//
// The transport never sets FILE_SHARE_DELETE, so a server refuses to rename or
// remove what is open. Rename and Unlink therefore close the handles of this
// volume in their way, wait for their transfers first, and open them again
// when next used ("parking").
package smb

import (
	"context"
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"
	"time"

	"github.com/lxbridge/lx/mount/volume"
)

// Dialect is a protocol revision as it stands on the wire (MS-SMB2 2.2.3).
type Dialect uint16

// The dialects, by the names that mount.cifs(8) gives them in vers=.
const (
	SMB202 Dialect = 0x0202 // 2.0
	SMB210 Dialect = 0x0210 // 2.1
	SMB300 Dialect = 0x0300 // 3.0
	SMB302 Dialect = 0x0302 // 3.02
	SMB311 Dialect = 0x0311 // 3.1.1
)

func (d Dialect) String() string {
	switch d {
	case SMB202:
		return "2.0"
	case SMB210:
		return "2.1"
	case SMB300:
		return "3.0"
	case SMB302:
		return "3.02"
	case SMB311:
		return "3.1.1"
	}
	return fmt.Sprintf("%#04x", uint16(d))
}

// Secret is text that never prints itself: every way of formatting, marshalling
// and logging shows a placeholder.
type Secret string

const hidden = "[secret]"

// Format implements fmt.Formatter for all verbs.
func (Secret) Format(s fmt.State, _ rune) { _, _ = io.WriteString(s, hidden) }

// MarshalText implements encoding.TextMarshaler.
func (Secret) MarshalText() ([]byte, error) { return []byte(hidden), nil }

// MapChars says how characters that a Windows name cannot hold are carried.
type MapChars int

const (
	MapPosix MapChars = iota // Services for Mac: " * : < > ? | \, trailing dot and space
	MapSFU                   // Services for Unix (mapchars): * : < > ? | \
	MapNone                  // nomapposix: sent as they are, \ refused
)

// Sec is a security flavour as sec= names it.
type Sec string

const (
	NTLMSSP   Sec = "ntlmssp" // the default: NTLMv2 in SPNEGO
	Anonymous Sec = "none"    // a null session, as guest gives
	Kerberos  Sec = "krb5"
	NTLM      Sec = "ntlm"
	NTLMv2    Sec = "ntlmv2"
)

// Config describes a mount. Server, Share and Dial have no default.
type Config struct {
	Server  string // name, as in the UNC; also sent to the server
	Address string // IP address to connect to where it is not Server (ip=)
	Port    int    // default 445
	Share   string
	Prefix  string // directory below the share that is mounted, by slashes

	User, Domain string
	Password     Secret
	Workstation  string // netbiosname=; may be empty
	Sec          Sec    // default NTLMSSP
	Guest        bool   // as Sec Anonymous

	// Dialects that are acceptable; empty: 2.1 and all above, as the kernel's default.
	Dialects []Dialect
	Sign     bool // refuse a connection whose messages are not signed
	Seal     bool // refuse a connection whose messages are not encrypted

	MapChars   MapChars
	NoCase     bool // names that differ in case only are the same
	MFSymlinks bool // symlinks as Minshall+French files
	UID, GID   uint32
	FileMode   uint32 // permission bits shown for files, default 0755
	DirMode    uint32 // and for directories, default 0755
	MaxRead    int    // rsize=, bytes; 0: the largest of server and transport
	MaxWrite   int    // wsize=

	// EchoInterval: a server that is silent this long is asked whether it
	// lives, and given up after the same time again. Default 60 s.
	EchoInterval time.Duration
	// DialTimeout bounds connecting and logging in. Default 20 s, as the
	// kernel's limit for negotiation, or twice EchoInterval if that is less.
	DialTimeout time.Duration
	// Hard: calls wait for a dead server until their context ends. Soft, the
	// default, they fail with EHOSTDOWN once a reconnect has failed.
	Hard bool
	// Dial makes the connection, in the caller's network namespace.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
	// Log takes reasons that no call's error carries; may be nil.
	Log func(error)
}

// Unsupported answers why the transport cannot honour c: an error with errno
// EOPNOTSUPP whose reason names the option, or nil.
func Unsupported(c *Config) error {
	no := func(option, why string) error {
		return &volume.Error{Op: "mount with", Name: option, Errno: syscall.EOPNOTSUPP, Reason: why}
	}
	switch c.Sec {
	case "", NTLMSSP, Anonymous:
	case Kerberos:
		return no("sec="+string(c.Sec), "this transport logs in with NTLMv2 (sec=ntlmssp) only")
	default:
		return no("sec="+string(c.Sec), "only ntlmssp and none are implemented; NTLM outside SPNEGO is insecure and refused by servers")
	}
	for _, d := range c.Dialects {
		switch d {
		case SMB202, SMB210, SMB300, SMB302, SMB311:
		default:
			return no("vers="+d.String(), "the transport speaks 2.0, 2.1, 3.0, 3.02 and 3.1.1")
		}
	}
	if c.Sign && (c.Guest || c.Sec == Anonymous) {
		return no("sign", "a guest's session has no key to sign with")
	}
	return nil
}

// normal is c with its defaults, or what is wrong with it (EINVAL).
func (c Config) normal() (*Config, error) {
	bad := func(what string) (*Config, error) {
		return nil, &volume.Error{Op: "mount", Name: c.unc(), Errno: syscall.EINVAL, Reason: what}
	}
	switch {
	case c.Server == "" || strings.ContainsAny(c.Server, `\/`):
		return bad("the server's name is missing or holds a slash")
	case c.Share == "" || strings.ContainsAny(c.Share, `\/`):
		return bad("the share's name is missing or holds a slash")
	case c.Dial == nil:
		return bad("no dialer")
	case c.Port < 0 || c.Port > 65535:
		return bad("the port is not between 1 and 65535")
	}
	if err := Unsupported(&c); err != nil {
		return nil, err
	}
	set(&c.Port, 445)
	set(&c.Address, c.Server)
	set(&c.FileMode, 0o755)
	set(&c.DirMode, 0o755)
	set(&c.EchoInterval, 60*time.Second)
	set(&c.DialTimeout, min(20*time.Second, 2*c.EchoInterval))
	if c.Log == nil {
		c.Log = func(error) {}
	}
	c.Guest = c.Guest || c.Sec == Anonymous
	if len(c.Dialects) == 0 {
		c.Dialects = []Dialect{SMB311, SMB302, SMB300, SMB210}
	}
	return &c, nil
}

func set[T comparable](p *T, to T) {
	var zero T
	if *p == zero {
		*p = to
	}
}

func (c *Config) unc() string { return "//" + c.Server + "/" + c.Share }
