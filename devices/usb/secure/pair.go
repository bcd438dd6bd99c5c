package secure

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha512"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/lxbridge/lx/devices/usb/usbip"
)

const (
	offerTime  = 2 * time.Minute
	offerTries = 3
	codeDigits = 8
)

// ErrCode is the refusal of a pairing: the code is not the other side's, or somebody
// is in between.
var ErrCode = errors.New("the code is not right")

// Offer is an exporter's readiness to pair: with one client that knows the code, within
// offerTime, at offerTries guesses.
type Offer struct {
	code string
	end  time.Time

	mu   sync.Mutex // guards what follows
	left int
	used bool
}

// NewOffer begins one.
func NewOffer() (*Offer, error) {
	n, err := rand.Int(rand.Reader, big.NewInt(1e8))
	if err != nil {
		return nil, fmt.Errorf("cannot make a code: %w", err)
	}
	return &Offer{code: fmt.Sprintf("%0*d", codeDigits, n), end: time.Now().Add(offerTime), left: offerTries}, nil
}

// Code is for the person who pairs.
func (o *Offer) Code() string { return o.code[:4] + "-" + o.code[4:] }

// take takes one of the tries, before it is known whether it succeeds, and answers
// the code.
func (o *Offer) take() (string, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.left == 0 || time.Now().After(o.end) {
		return "", errors.New("the code has been used, guessed at too often, or is older than two minutes")
	}
	o.left--
	return o.code, nil
}

// use ends the offer; false: another was faster.
func (o *Offer) use() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.used {
		return false
	}
	o.left, o.used = 0, true
	return true
}

// run is what both sides know of one pairing: keys, and the TLS connection itself.
func run(conn *tls.Conn, client, server Fingerprint) (channel, sid []byte, err error) {
	state := conn.ConnectionState()
	if sid, err = state.ExportKeyingMaterial("EXPORTER-lx-pair", nil, 16); err != nil {
		return nil, nil, err
	}
	return concatenate([]byte(protocolPair), client[:], server[:]), sid, nil
}

func proof(key []byte, side string) []byte {
	m := hmac.New(sha512.New, key)
	m.Write([]byte(side))
	return m.Sum(nil)
}

// answer pairs with a client, whose key is then trusted; confirm is to follow.
func (o *Offer) answer(conn *tls.Conn, own Fingerprint) (Fingerprint, error) {
	client, err := peerOf(conn.ConnectionState())
	if err != nil {
		return client, err
	}
	code, err := o.take()
	if err != nil {
		return client, err
	}
	channel, sid, err := run(conn, client, own)
	if err != nil {
		return client, err
	}
	e := newExchange(code, channel, sid)
	theirs := make([]byte, len(e.share))
	if _, err := io.ReadFull(conn, theirs); err != nil {
		return client, err
	}
	key, err := e.key(theirs, theirs, nil, e.share, nil)
	if err != nil {
		return client, err
	}
	if _, err := conn.Write(e.share); err != nil {
		return client, err
	}
	tag := make([]byte, sha512.Size)
	if _, err := io.ReadFull(conn, tag); err != nil {
		return client, err
	}
	if !hmac.Equal(tag, proof(key, "client")) {
		return client, ErrCode
	}
	if !o.use() {
		return client, ErrCode
	}
	_, err = conn.Write(proof(key, "server"))
	return client, err
}

// confirmed is the last word: the server has kept the client's key.
const confirmed = 1

func confirm(conn net.Conn) error {
	_, err := conn.Write([]byte{confirmed})
	return err
}

// Pair pairs with the exporter at host by its code, and keeps its key under that name.
func (s *Store) Pair(ctx context.Context, host, port, code string) (Fingerprint, error) {
	digits := strings.Map(func(r rune) rune {
		if r == '-' || r == ' ' {
			return -1
		}
		return r
	}, code)
	if len(digits) != codeDigits {
		return Fingerprint{}, fmt.Errorf("%q is no code: expected %d digits", code, codeDigits)
	}
	conn, err := handshake(ctx, usbip.TCP(net.JoinHostPort(host, port)), s.config(protocolPair))
	if err != nil {
		return Fingerprint{}, fmt.Errorf("cannot reach %s: %w", host, err)
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.NetConn().Close() })()
	_ = conn.SetDeadline(time.Now().Add(handshakeTime)) // fails where reading will
	server, err := s.pair(conn, digits)
	if err != nil {
		return server, fmt.Errorf("cannot pair with %s: %w", host, err)
	}
	return server, s.Trust(server, host)
}

func (s *Store) pair(conn *tls.Conn, code string) (Fingerprint, error) {
	server, err := peerOf(conn.ConnectionState())
	if err != nil {
		return server, err
	}
	channel, sid, err := run(conn, s.own, server)
	if err != nil {
		return server, err
	}
	e := newExchange(code, channel, sid)
	if _, err := conn.Write(e.share); err != nil {
		return server, err
	}
	theirs := make([]byte, len(e.share))
	if _, err := io.ReadFull(conn, theirs); err != nil {
		return server, fmt.Errorf("it is not ready to: %w", err)
	}
	key, err := e.key(theirs, e.share, nil, theirs, nil)
	if err != nil {
		return server, err
	}
	if _, err := conn.Write(proof(key, "client")); err != nil {
		return server, err
	}
	last := make([]byte, sha512.Size+1)
	if _, err := io.ReadFull(conn, last); err != nil {
		return server, ErrCode
	}
	if !hmac.Equal(last[:sha512.Size], proof(key, "server")) || last[sha512.Size] != confirmed {
		return server, ErrCode
	}
	return server, nil
}
