package rpc

import (
	"context"
	"fmt"
	"syscall"

	"github.com/lxbridge/lx/mount/nfs/xdr"
)

// Flavor is how a call says whom it is made for (RFC 5531 8.2).
type Flavor uint32

const (
	FlavorNone Flavor = 0
	FlavorSys  Flavor = 1
	FlavorGSS  Flavor = 6
	FlavorTLS  Flavor = 7 // RFC 9289
)

// Auth makes the credentials of calls and checks the verifiers of replies. It
// is safe for concurrent use.
type Auth interface {
	// Seal appends credential, verifier and arguments to head, which holds the
	// call's header from the transaction id to the procedure after a record
	// mark of 4 bytes. It is asked anew for each transmission; seq is handed to Open.
	Seal(head, args *xdr.Encoder) (seq uint32, err error)
	// Open checks the verifier of an accepted reply to transmission seq and
	// leaves d at the results, their protection taken off.
	Open(seq uint32, flavor Flavor, verifier []byte, d *xdr.Decoder) error
	// Plain says that the results are not protected, so that Open only looks at
	// the verifier.
	Plain() bool
	// Refused is told that the server has refused the credential of transmission
	// seq; if it answers nil a new one was got and the call is sent again.
	Refused(ctx context.Context, seq uint32, why *Error) error
}

// None is AUTH_NONE.
var None Auth = none{}

type none struct{}

func (none) Seal(head, args *xdr.Encoder) (uint32, error) {
	head.Uint64(0)
	head.Uint64(0)
	head.Join(args)
	return 0, nil
}

func (none) Open(uint32, Flavor, []byte, *xdr.Decoder) error       { return nil }
func (none) Plain() bool                                           { return true }
func (none) Refused(_ context.Context, _ uint32, why *Error) error { return why }

// Sys is AUTH_SYS (RFC 5531 appendix A): ids that the server believes. It does
// not change once it is made.
type Sys struct{ body []byte }

// maxGroups is how many groups AUTH_SYS holds besides the first.
const maxGroups = 16

// NewSys makes a credential; of groups those are sent that fit, the first 16.
// It may be kept and used for many calls.
func NewSys(machine string, uid, gid uint32, groups []uint32) *Sys {
	var e xdr.Encoder
	e.Uint32(uint32(FlavorSys))
	n := e.Hold()
	e.Uint32(0) // stamp: any
	e.String(machine[:min(len(machine), 255)])
	e.Uint32(uid)
	e.Uint32(gid)
	groups = groups[:min(len(groups), maxGroups)]
	e.Uint32(uint32(len(groups)))
	for _, g := range groups {
		e.Uint32(g)
	}
	e.Set(n, uint32(e.Since(n)))
	e.Uint64(0) // verifier: none
	return &Sys{e.Bytes()}
}

func (s *Sys) Seal(head, args *xdr.Encoder) (uint32, error) {
	head.Fixed(s.body)
	head.Join(args)
	return 0, nil
}

// Open takes any verifier: servers may answer AUTH_SHORT, which is not used.
func (s *Sys) Open(uint32, Flavor, []byte, *xdr.Decoder) error       { return nil }
func (s *Sys) Plain() bool                                           { return true }
func (s *Sys) Refused(_ context.Context, _ uint32, why *Error) error { return why }

var _, _ Auth = none{}, (*Sys)(nil)

// Status is how a server refuses a call (RFC 5531 9).
type Status uint32

const (
	ProgUnavail  Status = 1
	ProgMismatch Status = 2
	ProcUnavail  Status = 3
	GarbageArgs  Status = 4
	SystemErr    Status = 5
	// Denied before the procedure was looked at:
	RPCMismatch Status = 100
	AuthError   Status = 101
)

// AuthStat is why a credential is refused (RFC 5531 9, RFC 2203 5).
type AuthStat uint32

const (
	AuthBadCred       AuthStat = 1
	AuthRejectedCred  AuthStat = 2
	AuthBadVerf       AuthStat = 3
	AuthRejectedVerf  AuthStat = 4
	AuthTooWeak       AuthStat = 5
	AuthInvalidResp   AuthStat = 6
	AuthFailed        AuthStat = 7
	GSSCredProblem    AuthStat = 13
	GSSContextProblem AuthStat = 14
)

// Error is a call that the server refused. It wraps the errno that Linux's
// client gives.
type Error struct {
	Status    Status
	Auth      AuthStat // why, of AuthError
	Low, High uint32   // the versions there are, of ProgMismatch and RPCMismatch
}

func (e *Error) Error() string {
	switch e.Status {
	case ProgUnavail:
		return "the server does not offer this program"
	case ProgMismatch:
		return fmt.Sprintf("the server offers versions %d to %d of this program only", e.Low, e.High)
	case ProcUnavail:
		return "the server does not know this procedure"
	case GarbageArgs:
		return "the server does not understand the arguments"
	case RPCMismatch:
		return fmt.Sprintf("the server speaks ONC RPC versions %d to %d", e.Low, e.High)
	case AuthError:
		switch e.Auth {
		case AuthBadCred, AuthRejectedCred:
			return "the server refuses the credential"
		case AuthBadVerf, AuthRejectedVerf:
			return "the server refuses the verifier"
		case AuthTooWeak:
			return "the server wants a stronger security flavour, or a reserved source port"
		case GSSCredProblem:
			return "the server has no GSS context for the credential"
		case GSSContextProblem:
			return "the GSS context has expired"
		}
		return fmt.Sprintf("the server refuses the caller (auth_stat %d)", e.Auth)
	}
	return "the server has an internal error"
}

func (e *Error) Unwrap() error {
	switch e.Status {
	case ProgUnavail:
		return syscall.EPFNOSUPPORT
	case ProgMismatch, RPCMismatch:
		return syscall.EPROTONOSUPPORT
	case ProcUnavail:
		return syscall.EOPNOTSUPP
	case AuthError:
		return syscall.EACCES
	}
	return syscall.EIO
}
