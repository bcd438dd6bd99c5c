package mount

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"syscall"

	"github.com/lxbridge/lx/mount/option"
)

const maxCertificate = 64 << 10

// tlsConfig is what o says of TLS (RFC 9289); nil where there is to be none.
// read reads a file as who mounts.
func tlsConfig(o *option.NFS, read func(path string) ([]byte, error)) (*tls.Config, error) {
	if o.Xprtsec == "none" {
		return nil, nil
	}
	c := &tls.Config{ServerName: o.Host, MinVersion: tls.VersionTLS13}
	if o.CACert != "" {
		text, err := read(o.CACert)
		if err != nil {
			return nil, fmt.Errorf("cannot read the authorities of cacert: %w", err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(text) {
			return nil, fmt.Errorf("cannot use %s: it has no certificate (PEM): %w", o.CACert, syscall.EINVAL)
		}
	}
	if o.Xprtsec == "tls" {
		return c, nil
	}
	cert, err := read(o.Cert)
	if err != nil {
		return nil, fmt.Errorf("cannot read the certificate of cert: %w", err)
	}
	key, err := read(o.Key)
	if err != nil {
		return nil, fmt.Errorf("cannot read the key of key: %w", err)
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return nil, fmt.Errorf("cannot use %s with %s: %w: %w", o.Cert, o.Key, err, syscall.EINVAL)
	}
	c.Certificates = []tls.Certificate{pair}
	return c, nil
}
