package rpc_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"math/big"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lxbridge/lx/mount/nfs/rpc"
	"github.com/lxbridge/lx/mount/nfs/rpc/rpctest"
)

// certificate is a self-signed one for name, and a pool that trusts it.
func certificate(t *testing.T, name string) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(parsed)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pool
}

func TestTLS(t *testing.T) {
	own, trustServer := certificate(t, "nas")
	client, trustClient := certificate(t, "client")
	_, stranger := certificate(t, "nas")
	serverSide := func() *tls.Config {
		return &tls.Config{Certificates: []tls.Certificate{own}, NextProtos: []string{"sunrpc"}}
	}
	mutual := serverSide()
	mutual.ClientAuth, mutual.ClientCAs = tls.RequireAndVerifyClientCert, trustClient
	other := serverSide()
	other.NextProtos = nil

	for name, c := range map[string]struct {
		server, client *tls.Config
		refused        string // part of the error
	}{
		"tls":            {serverSide(), &tls.Config{RootCAs: trustServer, ServerName: "nas"}, ""},
		"mtls":           {mutual, &tls.Config{RootCAs: trustServer, ServerName: "nas", Certificates: []tls.Certificate{client}}, ""},
		"not offered":    {nil, &tls.Config{RootCAs: trustServer, ServerName: "nas"}, "does not offer it"},
		"not trusted":    {serverSide(), &tls.Config{RootCAs: stranger, ServerName: "nas"}, "certificate"},
		"another name":   {serverSide(), &tls.Config{RootCAs: trustServer, ServerName: "other"}, "other"},
		"no ALPN":        {other, &tls.Config{RootCAs: trustServer, ServerName: "nas"}, "ALPN"},
		"TLS is wanted":  {serverSide(), nil, "stronger"},
		"no certificate": {mutual, &tls.Config{RootCAs: trustServer, ServerName: "nas"}, "certificate"},
	} {
		t.Run(name, func(t *testing.T) {
			s := rpctest.NewTLS(t, c.server, serve)
			cl, err := rpc.Dial(t.Context(), rpc.Config{
				Dial: rpctest.Dial, Network: "tcp", Addr: s.Addr, TLS: c.client, Program: 100003, Version: 3, Conns: 2,
				Recovery: rpc.Soft, Timeout: 500 * time.Millisecond, Retrans: 1,
			})
			if err == nil {
				defer cl.Close()
				if c.refused == "" {
					concurrently(t, cl)
					return
				}
				err = echo(t.Context(), cl, []byte("x"))
			}
			if c.refused == "" || err == nil || !strings.Contains(err.Error(), c.refused) {
				t.Errorf("%v, want %q", err, c.refused)
			}
		})
	}
}

// concurrently makes calls of all sizes at once.
func concurrently(t *testing.T, c *rpc.Client) {
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for _, n := range []int{1, 1000 * i, 300_000} {
				if err := errors.Join(echo(t.Context(), c, make([]byte, n)), read(t.Context(), c, n)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
}
