// Package tlstest makes certificates for tests, and puts RPC over TLS (RFC 9289)
// before a server that does not speak it.
package tlstest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"sync"
	"testing"
	"time"
)

// CA is an authority of its own.
type CA struct {
	PEM  []byte // its certificate
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// New makes an authority.
func New(t testing.TB) *CA {
	t.Helper()
	c := &CA{cert: &x509.Certificate{Subject: pkix.Name{CommonName: "tlstest"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}}
	c.PEM, c.key = c.sign(t, c.cert)
	block, _ := pem.Decode(c.PEM)
	var err error
	if c.cert, err = x509.ParseCertificate(block.Bytes); err != nil {
		t.Fatal(err)
	}
	return c
}

// sign makes a certificate of what to says, signed by c or, before c has a key, by itself.
func (c *CA) sign(t testing.TB, to *x509.Certificate) (text []byte, key *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	to.SerialNumber = big.NewInt(time.Now().UnixNano())
	to.NotBefore, to.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	by := c.key
	if by == nil {
		by = key
	}
	der, err := x509.CreateCertificate(rand.Reader, to, c.cert, &key.PublicKey, by)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), key
}

// Issue makes a certificate for name, a host's or an address, and its key (PEM).
func (c *CA) Issue(t testing.TB, name string) (cert, key []byte) {
	t.Helper()
	to := &x509.Certificate{Subject: pkix.Name{CommonName: name}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
	if ip := net.ParseIP(name); ip != nil {
		to.IPAddresses = []net.IP{ip}
	} else {
		to.DNSNames = []string{name}
	}
	cert, k := c.sign(t, to)
	der, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return cert, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

// Front is RPC over TLS before a server.
type Front struct {
	Port   int
	config *tls.Config
	behind string
	l      net.Listener
	work   sync.WaitGroup

	mu    sync.Mutex // guards what follows
	conns map[net.Conn]bool
	names []string // of the clients' certificates
}

// NewFront serves on 127.0.0.1, as whom a certificate of c's is for, what the
// server behind has. With mutual clients must have a certificate of c's. It ends
// with the test.
func (c *CA) NewFront(t testing.TB, behind string, mutual bool) *Front {
	t.Helper()
	pair, err := tls.X509KeyPair(c.Issue(t, "127.0.0.1"))
	if err != nil {
		t.Fatal(err)
	}
	f := &Front{behind: behind, conns: map[net.Conn]bool{}, config: &tls.Config{Certificates: []tls.Certificate{pair}, NextProtos: []string{"sunrpc"}, MinVersion: tls.VersionTLS13}}
	if mutual {
		f.config.ClientAuth, f.config.ClientCAs = tls.RequireAndVerifyClientCert, x509.NewCertPool()
		f.config.ClientCAs.AddCert(c.cert)
	}
	if f.l, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	f.Port = f.l.Addr().(*net.TCPAddr).Port
	f.work.Go(func() {
		for {
			nc, err := f.l.Accept()
			if err != nil {
				return
			}
			f.work.Go(func() { f.serve(nc) })
		}
	})
	t.Cleanup(func() {
		f.l.Close()
		f.mu.Lock()
		for nc := range f.conns {
			nc.Close()
		}
		f.conns = nil
		f.mu.Unlock()
		f.work.Wait()
	})
	return f
}

// Clients are the names in the certificates that clients showed.
func (f *Front) Clients() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]string(nil), f.names...)
}

// keep has nc closed at the end; false where that has come.
func (f *Front) keep(nc net.Conn) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.conns == nil {
		nc.Close()
		return false
	}
	f.conns[nc] = true
	return true
}

func (f *Front) serve(nc net.Conn) {
	defer nc.Close()
	if !f.keep(nc) || invite(nc) != nil {
		return
	}
	t := tls.Server(nc, f.config)
	if t.Handshake() != nil {
		return
	}
	if shown := t.ConnectionState().PeerCertificates; len(shown) > 0 {
		f.mu.Lock()
		f.names = append(f.names, shown[0].Subject.CommonName)
		f.mu.Unlock()
	}
	server, err := net.Dial("tcp", f.behind)
	if err != nil || !f.keep(server) {
		return
	}
	defer server.Close()
	f.work.Go(func() {
		_, _ = io.Copy(server, t) // ends with either connection
		server.Close()
	})
	_, _ = io.Copy(t, server)
}

// invite answers the probe of RFC 9289 4.1: a NULL call with AUTH_TLS.
func invite(nc net.Conn) error {
	var mark [4]byte
	if _, err := io.ReadFull(nc, mark[:]); err != nil {
		return err
	}
	n := binary.BigEndian.Uint32(mark[:]) &^ (1 << 31)
	if n < 40 || n > 1024 {
		return fmt.Errorf("a first call of %d bytes", n)
	}
	call := make([]byte, n)
	if _, err := io.ReadFull(nc, call); err != nil {
		return err
	}
	const authTLS = 7
	if binary.BigEndian.Uint32(call[20:]) != 0 || binary.BigEndian.Uint32(call[24:]) != authTLS {
		return errors.New("the first call does not ask for TLS")
	}
	reply := binary.BigEndian.AppendUint32(nil, 1<<31|32)
	reply = append(reply, call[:4]...)
	for _, u := range []uint32{1, 0, 0, 8} { // a reply, accepted; a verifier without flavour
		reply = binary.BigEndian.AppendUint32(reply, u)
	}
	reply = append(reply, "STARTTLS"...)
	_, err := nc.Write(binary.BigEndian.AppendUint32(reply, 0))
	return err
}
