package gss

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jcmturner/gokrb5/v8/config"
	"github.com/jcmturner/gokrb5/v8/credentials"
	"github.com/jcmturner/gokrb5/v8/crypto"
	"github.com/jcmturner/gokrb5/v8/iana/errorcode"
	"github.com/jcmturner/gokrb5/v8/iana/keyusage"
	"github.com/jcmturner/gokrb5/v8/iana/nametype"
	"github.com/jcmturner/gokrb5/v8/iana/patype"
	"github.com/jcmturner/gokrb5/v8/keytab"
	"github.com/jcmturner/gokrb5/v8/messages"
	"github.com/jcmturner/gokrb5/v8/types"
)

// Tickets gets tickets for services as one principal (RFC 4120), by tickets
// that were had before or by a key.
type Tickets struct {
	// Dial connects to distribution centres. It must be set before use.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)

	config *config.Config
	client *credentials.Credentials // with the keytab, if there is one
	turn   chan struct{}            // has one element while somebody gets a ticket
	have   map[string]ticket        // by the service's name; guarded by turn
}

// ticket is one, with what makes it ours.
type ticket struct {
	messages.Ticket
	key                      types.EncryptionKey
	begins, ends, renewsTill time.Time
}

const (
	centreTime   = 5 * time.Second // for the answer of one distribution centre
	centrePort   = "88"
	maxCentre    = 1 << 20 // bytes of an answer
	maxReferrals = 5
)

// errMalformed stands for a panic of the library, which does not check every
// length of what it is sent.
var errMalformed = fmt.Errorf("a malformed answer: %w", syscall.EPROTO)

func malformed(err *error) {
	if recover() != nil {
		*err = errMalformed
	}
}

// FromCache has the tickets of a credential cache.
func FromCache(cache *credentials.CCache, conf *config.Config) (*Tickets, error) {
	t := newTickets(cache.GetClientCredentials(), conf)
	for _, c := range cache.GetEntries() {
		have := ticket{key: c.Key, begins: c.AuthTime, ends: c.EndTime, renewsTill: c.RenewTill}
		if have.Unmarshal(c.Ticket) == nil {
			t.have[have.SName.PrincipalNameString()] = have
		}
	}
	if _, ok := t.have[granting(t.client.Domain()).PrincipalNameString()]; !ok {
		return nil, errors.New("it has no ticket-granting ticket")
	}
	return t, nil
}

// FromKeytab gets its tickets as name in realm by a key in keys.
func FromKeytab(name, realm string, keys *keytab.Keytab, conf *config.Config) *Tickets {
	return newTickets(credentials.New(name, realm).WithKeytab(keys), conf)
}

func newTickets(client *credentials.Credentials, conf *config.Config) *Tickets {
	conf.LibDefaults.NoAddresses = true // ours need not be the caller's
	return &Tickets{config: conf, client: client, turn: make(chan struct{}, 1), have: map[string]ticket{}}
}

// Client is the principal's name, without its realm.
func (t *Tickets) Client() string { return t.client.CName().PrincipalNameString() }

// granting is the service that grants tickets for realm.
func granting(realm string) types.PrincipalName {
	return types.PrincipalName{NameType: nametype.KRB_NT_SRV_INST, NameString: []string{"krbtgt", realm}}
}

func (t ticket) valid() bool { return time.Now().Before(t.ends) }

// aging says that a ticket is in the last sixth of its life.
func (t ticket) aging() bool { return time.Until(t.ends) < t.ends.Sub(t.begins)/6 }

// Get answers a ticket for the service principal, "nfs/host.name", with the key
// of its session.
func (t *Tickets) Get(ctx context.Context, principal string) (_ messages.Ticket, _ types.EncryptionKey, err error) {
	select {
	case t.turn <- struct{}{}:
		defer func() { <-t.turn }()
	case <-ctx.Done():
		return messages.Ticket{}, types.EncryptionKey{}, ctx.Err()
	}
	defer malformed(&err)
	have, err := t.get(ctx, principal)
	return have.Ticket, have.key, err
}

func (t *Tickets) get(ctx context.Context, principal string) (ticket, error) {
	have := t.have[principal]
	if have.valid() && !have.aging() {
		return have, nil
	}
	fresh, err := t.fresh(ctx, principal)
	if err != nil && have.valid() { // it is good for a while yet
		return have, nil
	}
	return fresh, err
}

func (t *Tickets) fresh(ctx context.Context, principal string) (ticket, error) {
	name := types.NewPrincipalName(nametype.KRB_NT_PRINCIPAL, principal)
	own, err := t.own(ctx)
	if err != nil {
		return ticket{}, err
	}
	host := name.NameString[len(name.NameString)-1]
	realm := cmp.Or(t.config.ResolveRealm(host), t.client.Domain())
	if realm == t.client.Domain() {
		return t.grant(ctx, name, realm, own, false)
	}
	there := granting(realm)
	by, ok := t.have[there.PrincipalNameString()]
	if !ok || !by.valid() {
		if by, err = t.grant(ctx, there, t.client.Domain(), own, false); err != nil {
			return ticket{}, err
		}
	}
	return t.grant(ctx, name, realm, by, false)
}

// own is the ticket-granting ticket of the client's realm.
func (t *Tickets) own(ctx context.Context) (ticket, error) {
	realm := t.client.Domain()
	name := granting(realm)
	have, ok := t.have[name.PrincipalNameString()]
	switch {
	case ok && have.valid() && !have.aging():
		return have, nil
	case t.client.HasKeytab():
		return t.login(ctx, name)
	case !have.valid():
		return ticket{}, fmt.Errorf("the tickets have expired: type  kinit  and mount again: %w", syscall.EKEYEXPIRED)
	case time.Now().Before(have.renewsTill):
		if renewed, err := t.grant(ctx, name, realm, have, true); err == nil {
			return renewed, nil
		} // as in get
	}
	return have, nil
}

// login gets the ticket-granting ticket by the key (RFC 4120 3.1).
func (t *Tickets) login(ctx context.Context, name types.PrincipalName) (ticket, error) {
	realm := t.client.Domain()
	req, err := messages.NewASReqForTGT(realm, t.config, t.client.CName())
	if err != nil {
		return ticket{}, err
	}
	answer, err := t.ask(ctx, realm, req.Marshal)
	var refusal messages.KRBError
	if errors.As(err, &refusal) && refusal.ErrorCode == errorcode.KDC_ERR_PREAUTH_REQUIRED {
		if req.PAData, err = t.proof(refusal.EData); err == nil {
			answer, err = t.ask(ctx, realm, req.Marshal)
		}
	}
	if err != nil {
		return ticket{}, err
	}
	var rep messages.ASRep
	if err := rep.Unmarshal(answer); err != nil {
		return ticket{}, err
	}
	if ok, err := rep.Verify(t.config, t.client, req); !ok {
		return ticket{}, fmt.Errorf("the distribution centre does not prove itself: %w: %w", err, syscall.EACCES)
	}
	return t.keep(name, rep.Ticket, rep.DecryptedEncPart), nil
}

// proof is the time encrypted with one of the keys that the centre knows of,
// by what it says in data (RFC 4120 5.2.7).
func (t *Tickets) proof(data []byte) (types.PADataSequence, error) {
	var told types.PADataSequence
	if err := told.Unmarshal(data); err != nil {
		return nil, err
	}
	for _, pa := range told {
		if pa.PADataType != patype.PA_ETYPE_INFO2 {
			continue
		}
		kinds, err := pa.GetETypeInfo2()
		if err != nil {
			return nil, err
		}
		for _, kind := range kinds {
			key, version, err := t.client.Keytab().GetEncryptionKey(t.client.CName(), t.client.Domain(), 0, kind.EType)
			if err != nil {
				continue // there is none of this kind
			}
			now, err := types.GetPAEncTSEncAsnMarshalled()
			if err != nil {
				return nil, err
			}
			sealed, err := crypto.GetEncryptedData(now, key, keyusage.AS_REQ_PA_ENC_TIMESTAMP, version)
			if err != nil {
				return nil, err
			}
			value, err := sealed.Marshal()
			return types.PADataSequence{{PADataType: patype.PA_ENC_TIMESTAMP, PADataValue: value}}, err
		}
	}
	return nil, fmt.Errorf("there is no key of a kind that the distribution centre takes: %w", syscall.ENOKEY)
}

// grant asks realm's centre for a ticket by another (RFC 4120 3.3), and those
// of other realms that it names (RFC 6806 8).
func (t *Tickets) grant(ctx context.Context, name types.PrincipalName, realm string, by ticket, renew bool) (ticket, error) {
	for range 1 + maxReferrals {
		req, err := messages.NewTGSReq(t.client.CName(), realm, t.config, by.Ticket, by.key, name, renew)
		if err != nil {
			return ticket{}, err
		}
		answer, err := t.ask(ctx, realm, req.Marshal)
		if err != nil {
			return ticket{}, err
		}
		var rep messages.TGSRep
		if err := rep.Unmarshal(answer); err != nil {
			return ticket{}, err
		}
		if err := rep.DecryptEncPart(by.key); err != nil {
			return ticket{}, fmt.Errorf("the distribution centre does not prove itself: %w: %w", err, syscall.EACCES)
		}
		if ok, err := rep.Verify(t.config, req); !ok {
			return ticket{}, fmt.Errorf("the distribution centre answers another request than ours: %w: %w", err, syscall.EACCES)
		}
		got := rep.Ticket.SName
		if got.Equal(name) || len(got.NameString) != 2 || got.NameString[0] != "krbtgt" {
			return t.keep(name, rep.Ticket, rep.DecryptedEncPart), nil
		}
		realm, by = got.NameString[1], t.keep(got, rep.Ticket, rep.DecryptedEncPart)
	}
	return ticket{}, fmt.Errorf("the distribution centres refer to each other: %w", syscall.ELOOP)
}

func (t *Tickets) keep(name types.PrincipalName, what messages.Ticket, part messages.EncKDCRepPart) ticket {
	begins := part.StartTime
	if begins.IsZero() {
		begins = part.AuthTime
	}
	have := ticket{what, part.Key, begins, part.EndTime, part.RenewTill}
	t.have[name.PrincipalNameString()] = have
	return have
}

// ask has a distribution centre of realm answer a request; a refusal is a
// messages.KRBError.
func (t *Tickets) ask(ctx context.Context, realm string, request func() ([]byte, error)) ([]byte, error) {
	req, err := request()
	if err != nil {
		return nil, err
	}
	centres, err := t.centres(ctx, realm)
	if err != nil {
		return nil, err
	}
	var errs []error
	for _, addr := range centres {
		answer, err := t.exchange(ctx, addr, req)
		if err == nil {
			var refusal messages.KRBError
			if refusal.Unmarshal(answer) == nil {
				return nil, refusal
			}
			return answer, nil
		}
		errs = append(errs, fmt.Errorf("distribution centre %s: %w", addr, err))
		if ctx.Err() != nil {
			break
		}
	}
	return nil, errors.Join(errs...)
}

// centres are the addresses of realm's distribution centres, as krb5.conf(5)
// has them, or else the name service where that is allowed (RFC 4120 7.2.3).
func (t *Tickets) centres(ctx context.Context, realm string) (addrs []string, err error) {
	for _, r := range t.config.Realms {
		if r.Realm != realm {
			continue
		}
		for _, addr := range r.KDC {
			if _, _, err := net.SplitHostPort(addr); err != nil {
				addr = net.JoinHostPort(strings.Trim(addr, "[]"), centrePort)
			}
			addrs = append(addrs, addr)
		}
	}
	if len(addrs) == 0 && t.config.LibDefaults.DNSLookupKDC {
		names := net.Resolver{PreferGo: true, Dial: t.Dial}
		_, found, err := names.LookupSRV(ctx, "kerberos", "tcp", realm)
		if err != nil {
			return nil, err
		}
		for _, s := range found {
			addrs = append(addrs, net.JoinHostPort(strings.TrimSuffix(s.Target, "."), strconv.Itoa(int(s.Port))))
		}
	}
	if len(addrs) == 0 {
		return nil, fmt.Errorf("krb5.conf names no kdc of realm %s: %w", realm, syscall.EINVAL)
	}
	return addrs, nil
}

// exchange is one request and its answer, by TCP (RFC 4120 7.2.2).
func (t *Tickets) exchange(ctx context.Context, addr string, req []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, centreTime)
	defer cancel()
	conn, err := t.Dial(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	answer, err := speak(conn, req)
	if err != nil && ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	return answer, err
}

func speak(conn io.ReadWriter, req []byte) ([]byte, error) {
	if _, err := conn.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(req))), req...)); err != nil {
		return nil, err
	}
	var size [4]byte
	if _, err := io.ReadFull(conn, size[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(size[:])
	if n > maxCentre {
		return nil, fmt.Errorf("an answer of %d bytes: %w", n, syscall.EMSGSIZE)
	}
	answer := make([]byte, n)
	_, err := io.ReadFull(conn, answer)
	return answer, err
}
