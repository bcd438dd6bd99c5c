package secure

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/lxbridge/lx/devices/usb/usbip"
)

// DefaultPort is that of exporters.
const DefaultPort = "3242"

// What is spoken inside (ALPN).
const (
	protocolUSBIP = "lx-usbip/1"
	protocolPair  = "lx-pair/1"
)

// handshakeTime is how long a peer may take to come to the point.
const handshakeTime = 10 * time.Second

// ErrNotPaired is the refusal of a peer that was not paired with.
var ErrNotPaired = errors.New("the machines are not paired")

func (s *Store) config(protocols ...string) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{s.certificate}, NextProtos: protocols,
		SessionTicketsDisabled: true,
		// Keys are compared instead: names and authorities mean nothing here.
		InsecureSkipVerify: true, ClientAuth: tls.RequireAnyClientCert,
	}
}

func peerOf(state tls.ConnectionState) (Fingerprint, error) {
	if len(state.PeerCertificates) == 0 {
		return Fingerprint{}, errors.New("the peer has no key")
	}
	return fingerprintOf(state.PeerCertificates[0]), nil
}

// Dial reaches the exporter that was paired with as host.
func (s *Store) Dial(host, port string) usbip.Dialer {
	config := s.config(protocolUSBIP)
	config.VerifyConnection = func(state tls.ConnectionState) error {
		f, err := peerOf(state)
		if err != nil {
			return err
		}
		ok, err := s.trusts(f, host)
		if !ok && err == nil {
			err = fmt.Errorf("%w, or %s has another key than then: %s", ErrNotPaired, host, f)
		}
		return err
	}
	dial := usbip.TCP(net.JoinHostPort(host, port))
	return func(ctx context.Context) (net.Conn, error) { return handshake(ctx, dial, config) }
}

func handshake(ctx context.Context, dial usbip.Dialer, config *tls.Config) (*tls.Conn, error) {
	raw, err := dial(ctx)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, handshakeTime)
	defer cancel()
	conn := tls.Client(raw, config)
	if err := conn.HandshakeContext(ctx); err != nil {
		raw.Close()
		return nil, err
	}
	return conn, nil
}

// Door lets clients of an exporter in: it is for a usbip.Server's Welcome. Offer, where
// there is one, is for those that come to pair.
type Door struct {
	Store *Store
	Offer *Offer // nil: nobody may pair
	// Paired is told who has been paired with; nil: nobody.
	Paired func(name string, f Fingerprint)
}

// Welcome does the handshake. A connection that was for pairing is done with: it
// answers nil.
func (d *Door) Welcome(ctx context.Context, raw net.Conn) (net.Conn, error) {
	config := d.Store.config(protocolUSBIP, protocolPair)
	config.VerifyConnection = func(state tls.ConnectionState) error {
		f, err := peerOf(state)
		if err != nil {
			return err
		}
		switch state.NegotiatedProtocol {
		case protocolPair:
			if d.Offer == nil {
				return errors.New("nobody has asked to pair")
			}
			return nil
		case protocolUSBIP:
			ok, err := d.Store.trusts(f, "")
			if !ok && err == nil {
				err = fmt.Errorf("%w: its key is %s", ErrNotPaired, f)
			}
			return err
		}
		return errors.New("it does not say what it comes for")
	}
	ctx, cancel := context.WithTimeout(ctx, handshakeTime)
	defer cancel()
	conn := tls.Server(raw, config)
	if err := conn.HandshakeContext(ctx); err != nil {
		return nil, err
	}
	if conn.ConnectionState().NegotiatedProtocol != protocolPair {
		return conn, nil
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { raw.Close() })()
	f, err := d.Offer.answer(conn, d.Store.own)
	if err != nil {
		return nil, err
	}
	name, _, err := net.SplitHostPort(raw.RemoteAddr().String())
	if err != nil {
		name = raw.RemoteAddr().Network()
	}
	if err := d.Store.Trust(f, name+clientMark+f.String()[:8]); err != nil {
		return nil, err
	}
	if d.Paired != nil {
		d.Paired(name, f)
	}
	return nil, confirm(conn)
}
