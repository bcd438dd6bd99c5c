package mount

import (
	"crypto/x509"
	"io/fs"
	"strings"
	"testing"

	"github.com/lxbridge/lx/integration/tlstest"
	"github.com/lxbridge/lx/mount/option"
)

func TestTLSConfig(t *testing.T) {
	ca := tlstest.New(t)
	cert, key := ca.Issue(t, "client")
	_, otherKey := ca.Issue(t, "other")
	files := map[string][]byte{"/ca": ca.PEM, "/cert": cert, "/key": key, "/other": otherKey}
	read := func(path string) ([]byte, error) {
		text, ok := files[path]
		if !ok {
			return nil, &fs.PathError{Op: "open", Path: path, Err: fs.ErrNotExist}
		}
		return text, nil
	}
	for options, why := range map[string]string{
		"xprtsec=none":                                "",
		"xprtsec=tls":                                 "",
		"xprtsec=tls,cacert=/ca":                      "",
		"xprtsec=mtls,cert=/cert,key=/key":            "",
		"xprtsec=mtls,cacert=/ca,cert=/cert,key=/key": "",
		"xprtsec=mtls":                                "cert=FILE",
		"xprtsec=tls,cert=/cert,key=/key":             "mtls",
		"cacert=/ca":                                  "xprtsec=tls",
		"xprtsec=tls,cacert=/none":                    "/none",
		"xprtsec=tls,cacert=/key":                     "no certificate",
		"xprtsec=mtls,cert=/cert,key=/other":          "/other",
		"xprtsec=mtls,cert=/cert,key=/none":           "/none",
	} {
		params, err := option.SplitPlain(options)
		if err != nil {
			t.Fatal(err)
		}
		o := option.NewNFS("nfs")
		err = option.Parse(o, "nas:/srv", params)
		if err == nil {
			c, cerr := tlsConfig(o, read)
			if err = cerr; err == nil {
				switch {
				case (c == nil) != (o.Xprtsec == "none"):
					t.Errorf("%s: %v", options, c)
				case c == nil:
				case c.ServerName != "nas" || (c.RootCAs != nil) != (o.CACert != "") || (len(c.Certificates) == 1) != (o.Xprtsec == "mtls"):
					t.Errorf("%s: %+v", options, c)
				case len(c.Certificates) == 1:
					if leaf, err := x509.ParseCertificate(c.Certificates[0].Certificate[0]); err != nil || leaf.Subject.CommonName != "client" {
						t.Errorf("%s: %v, %v", options, leaf, err)
					}
				}
			}
		}
		if (err == nil) != (why == "") || err != nil && !strings.Contains(err.Error(), why) {
			t.Errorf("%s: %v, want %q", options, err, why)
		}
	}
}
