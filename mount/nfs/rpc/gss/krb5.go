package gss

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"sync/atomic"
	"syscall"

	"github.com/jcmturner/gofork/encoding/asn1"
	"github.com/jcmturner/gokrb5/v8/asn1tools"
	"github.com/jcmturner/gokrb5/v8/crypto"
	"github.com/jcmturner/gokrb5/v8/crypto/etype"
	"github.com/jcmturner/gokrb5/v8/gssapi"
	"github.com/jcmturner/gokrb5/v8/iana/chksumtype"
	"github.com/jcmturner/gokrb5/v8/iana/etypeID"
	"github.com/jcmturner/gokrb5/v8/iana/flags"
	"github.com/jcmturner/gokrb5/v8/iana/keyusage"
	"github.com/jcmturner/gokrb5/v8/messages"
	"github.com/jcmturner/gokrb5/v8/types"
)

// Tokens (RFC 4121 4.1, 4.2.6).
const (
	tokenRequest = 0x0100
	tokenReply   = 0x0200
	tokenError   = 0x0300
	tokenMIC     = 0x0404
	tokenWrap    = 0x0504

	headerLen = 16

	flagAcceptor = 1 // sent by the acceptor
	flagSealed   = 2
	flagSubkey   = 4 // by the acceptor's subkey
)

// errForged is a message whose checksum is wrong.
var errForged = fmt.Errorf("a reply is not signed by the server: %w", syscall.EACCES)

// asked is a context that was asked for.
type asked struct {
	session types.EncryptionKey
	auth    types.Authenticator
}

// request makes the first token: a ticket for the service and the proof that
// it is ours (RFC 4121 4.1). The server is to prove itself too.
func request(ctx context.Context, tickets *Tickets, principal string) ([]byte, *asked, error) {
	ticket, session, err := tickets.Get(ctx, principal)
	if err != nil {
		return nil, nil, fmt.Errorf("no ticket for it: %w: %w", err, syscall.EKEYREJECTED)
	}
	auth, err := types.NewAuthenticator(tickets.client.Domain(), tickets.client.CName())
	if err != nil {
		return nil, nil, err
	}
	et, err := crypto.GetEtype(session.KeyType)
	if err != nil {
		return nil, nil, err
	}
	if err := auth.GenerateSeqNumberAndSubKey(et.GetETypeID(), et.GetKeyByteSize()); err != nil {
		return nil, nil, err
	}
	// The checksum field: no channel bindings, and the flags (RFC 4121 4.1.1).
	field := make([]byte, 24)
	binary.LittleEndian.PutUint32(field, 16)
	binary.LittleEndian.PutUint32(field[20:], gssapi.ContextFlagMutual|gssapi.ContextFlagConf|gssapi.ContextFlagInteg)
	auth.Cksum = types.Checksum{CksumType: chksumtype.GSSAPI, Checksum: field}
	req, err := messages.NewAPReq(ticket, session, auth)
	if err != nil {
		return nil, nil, err
	}
	types.SetFlag(&req.APOptions, flags.APOptionMutualRequired)
	body, err := req.Marshal()
	if err != nil {
		return nil, nil, err
	}
	token, err := asn1.Marshal(gssapi.OIDKRB5.OID())
	if err != nil {
		return nil, nil, err
	}
	token = append(binary.BigEndian.AppendUint16(token, tokenRequest), body...)
	return asn1tools.AddASNAppTag(token, 0), &asked{session, auth}, nil
}

// accepted checks the server's token and answers the context's keys.
func (a *asked) accepted(token []byte) (_ *keys, err error) {
	defer malformed(&err)
	var oid asn1.ObjectIdentifier
	rest, err := asn1.UnmarshalWithParams(token, &oid, "application,explicit,tag:0")
	if err != nil || !oid.Equal(gssapi.OIDKRB5.OID()) || len(rest) < 2 {
		return nil, fmt.Errorf("the server answers with something else than Kerberos: %w", syscall.EPROTO)
	}
	id, body := binary.BigEndian.Uint16(rest), rest[2:]
	switch id {
	case tokenReply:
	case tokenError:
		var e messages.KRBError
		if err := e.Unmarshal(body); err != nil {
			return nil, err
		}
		return nil, fmt.Errorf("the server refuses the ticket: %w: %w", e, syscall.EACCES)
	default:
		return nil, fmt.Errorf("the server answers with the unknown token %#x: %w", id, syscall.EPROTO)
	}
	var rep messages.APRep
	if err := rep.Unmarshal(body); err != nil {
		return nil, err
	}
	plain, err := crypto.DecryptEncPart(rep.EncPart, a.session, keyusage.AP_REP_ENCPART)
	if err != nil {
		return nil, fmt.Errorf("the server does not prove itself: %w: %w", err, syscall.EACCES)
	}
	var part messages.EncAPRepPart
	if err := part.Unmarshal(plain); err != nil {
		return nil, err
	}
	if part.CTime.Unix() != a.auth.CTime.Unix() || part.Cusec != a.auth.Cusec {
		return nil, fmt.Errorf("the server answers another request than ours: %w", syscall.EACCES)
	}
	key, flags := a.auth.SubKey, byte(0)
	if len(part.Subkey.KeyValue) > 0 {
		key, flags = part.Subkey, flagSubkey
	}
	return newKeys(key, flags, uint64(a.auth.SeqNumber))
}

// keys protect the messages of a context (RFC 4121 4.2).
type keys struct {
	etype etype.EType
	flags byte
	seq   atomic.Uint64 // of the next token

	ours, theirs direction
}

// direction is the keys of what one side sends, derived once (RFC 3961 5.3).
type direction struct{ mic, seal, integrity []byte }

func newKeys(key types.EncryptionKey, flags byte, seq uint64) (*keys, error) {
	et, err := crypto.GetEtype(key.KeyType)
	if err != nil {
		return nil, err
	}
	switch key.KeyType {
	case etypeID.AES128_CTS_HMAC_SHA1_96, etypeID.AES256_CTS_HMAC_SHA1_96:
	default:
		return nil, fmt.Errorf("the session key's encryption type %d is not supported, AES with SHA-1 is (RFC 3962): %w", key.KeyType, syscall.EPROTONOSUPPORT)
	}
	k := &keys{etype: et, flags: flags}
	k.seq.Store(seq)
	for to, usage := range map[*direction][2]uint32{
		&k.ours:   {keyusage.GSSAPI_INITIATOR_SIGN, keyusage.GSSAPI_INITIATOR_SEAL},
		&k.theirs: {keyusage.GSSAPI_ACCEPTOR_SIGN, keyusage.GSSAPI_ACCEPTOR_SEAL},
	} {
		for _, d := range []struct {
			to    *[]byte
			usage uint32
			kind  byte
		}{{&to.mic, usage[0], 0x99}, {&to.seal, usage[1], 0xaa}, {&to.integrity, usage[1], 0x55}} {
			if *d.to, err = et.DeriveKey(key.KeyValue, append(binary.BigEndian.AppendUint32(nil, d.usage), d.kind)); err != nil {
				return nil, err
			}
		}
	}
	return k, nil
}

// mac is the checksum of what is in parts (RFC 3962 6).
func (k *keys) mac(key []byte, parts ...[]byte) []byte {
	m := hmac.New(k.etype.GetHashFunc(), key)
	for _, p := range parts {
		m.Write(p) // never fails
	}
	return m.Sum(nil)[:k.etype.GetHMACBitLength()/8]
}

// sign makes a MIC token (RFC 4121 4.2.6.1).
func (k *keys) sign(p []byte) []byte {
	h := make([]byte, headerLen, headerLen+32)
	binary.BigEndian.PutUint16(h, tokenMIC)
	h[2] = k.flags
	copy(h[3:], []byte{0xff, 0xff, 0xff, 0xff, 0xff})
	binary.BigEndian.PutUint64(h[8:], k.seq.Add(1)-1)
	return append(h, k.mac(k.ours.mic, p, h)...)
}

// verify checks a MIC token of the server's.
func (k *keys) verify(p, token []byte) error {
	if len(token) < headerLen || binary.BigEndian.Uint16(token) != tokenMIC || token[2] != k.flags|flagAcceptor {
		return errForged
	}
	if !hmac.Equal(k.mac(k.theirs.mic, p, token[:headerLen]), token[headerLen:]) {
		return errForged
	}
	return nil
}

// wrap makes a sealed Wrap token (RFC 4121 4.2.6.2): the header in clear, then
// a confounder, p and the header once more, encrypted and signed (RFC 3961 5.3).
func (k *keys) wrap(p []byte) ([]byte, error) {
	var h [headerLen]byte
	binary.BigEndian.PutUint16(h[:], tokenWrap)
	h[2], h[3] = k.flags|flagSealed, 0xff
	binary.BigEndian.PutUint64(h[8:], k.seq.Add(1)-1)
	confounder := k.etype.GetConfounderByteSize()
	plain := make([]byte, confounder, confounder+len(p)+headerLen)
	rand.Read(plain) // never fails
	plain = append(append(plain, p...), h[:]...)
	_, sealed, err := k.etype.EncryptData(k.ours.seal, plain)
	if err != nil {
		return nil, err
	}
	token := append(make([]byte, 0, headerLen+len(sealed)+32), h[:]...)
	return append(append(token, sealed...), k.mac(k.ours.integrity, plain)...), nil
}

// unwrap opens a sealed Wrap token of the server's.
func (k *keys) unwrap(token []byte) ([]byte, error) {
	if len(token) < headerLen || binary.BigEndian.Uint16(token) != tokenWrap || token[2] != k.flags|flagAcceptor|flagSealed || token[3] != 0xff {
		return nil, errForged
	}
	h, sealed := token[:headerLen], token[headerLen:]
	extra, rotated := int(binary.BigEndian.Uint16(h[4:])), int(binary.BigEndian.Uint16(h[6:]))
	confounder, signature := k.etype.GetConfounderByteSize(), k.etype.GetHMACBitLength()/8
	if len(sealed) < confounder+headerLen+extra+signature {
		return nil, errForged
	}
	if rotated %= len(sealed); rotated != 0 { // RFC 4121 4.2.5
		sealed = append(append(make([]byte, 0, len(sealed)), sealed[rotated:]...), sealed[:rotated]...)
	}
	end := len(sealed) - signature
	plain, err := k.etype.DecryptData(k.theirs.seal, sealed[:end])
	if err != nil {
		return nil, errors.Join(errForged, err)
	}
	if len(plain) != end || !hmac.Equal(k.mac(k.theirs.integrity, plain), sealed[end:]) {
		return nil, errForged
	}
	// The header is sealed too, as it was before the rotation.
	inner := plain[end-headerLen:]
	if !bytes.Equal(inner[:6], h[:6]) || !bytes.Equal(inner[8:], h[8:]) {
		return nil, errForged
	}
	return plain[confounder : end-headerLen-extra], nil
}
