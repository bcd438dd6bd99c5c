package mount

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/lxbridge/lx/integration/krb5test"
)

func TestKerberos(t *testing.T) {
	realm := krb5test.New(t)
	realm.Keytab(t, "nfs/server")
	files := map[string]string{kerberosConfig: realm.Config}
	read := func(path string) ([]byte, error) {
		if name, ok := files[path]; ok {
			return os.ReadFile(name)
		}
		return nil, fs.ErrNotExist
	}
	if _, err := kerberos(read, "", 0, 1000); !errors.Is(err, syscall.ENOKEY) || !strings.Contains(err.Error(), "kinit") {
		t.Errorf("without anything: %v", err)
	}
	files[kerberosKeytab] = realm.Keytab(t, "host/client")
	c, err := kerberos(read, "", 0, 1000)
	if err != nil {
		t.Fatal(err)
	}
	var dialer net.Dialer
	c.Dial = dialer.DialContext
	if _, _, err := c.Get(t.Context(), "nfs/server"); err != nil {
		t.Errorf("by the keytab: %v", err)
	}

	files["/tmp/krb5cc_1000"] = realm.Cache(t, "user")
	if c, err = kerberos(read, "", 0, 1000); err != nil {
		t.Fatal(err)
	}
	c.Dial = dialer.DialContext
	if _, _, err := c.Get(t.Context(), "nfs/server"); err != nil || c.Client() != "user" {
		t.Errorf("by the cache, as %s: %v", c.Client(), err)
	}
	files["/run/mine"] = realm.Cache(t, "other")
	for variable, want := range map[string]string{"FILE:/run/mine": "other", "/run/mine": "other", "KEYRING:persistent:1000": "user"} {
		if c, err = kerberos(read, variable, 0, 1000); err != nil || c.Client() != want {
			t.Errorf("KRB5CCNAME=%s: %v, %v", variable, c, err)
		}
	}
	// A cache that says it has 2^31 addresses would need all memory there is.
	cache, err := os.ReadFile(files["/tmp/krb5cc_1000"])
	if err != nil {
		t.Fatal(err)
	}
	if wellFormedCache(cache[:len(cache)-1]) {
		t.Error("a cache without its last byte passes")
	}
	if !wellFormedCache(cache) {
		t.Error("a real cache does not pass")
	}
	huge := []byte("\x05\x04\x00\x00" + strings.Repeat("\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00", 3) +
		"\x00\x12\x00\x00\x00\x00" + strings.Repeat("\x00", 21) + "\x7f\xff\xff\xff")
	if wellFormedCache(huge) {
		t.Error("a cache of 2^31 addresses passes")
	}
	files["/tmp/krb5cc_1000"] = realm.Config
	if _, err := kerberos(read, "", 0, 1000); err == nil || !strings.Contains(err.Error(), "krb5cc_1000") {
		t.Errorf("by a file that is no cache: %v", err)
	}
}

// FuzzKerberosFiles: no file of a guest's ends the broker.
func FuzzKerberosFiles(f *testing.F) {
	f.Add([]byte("\x05\x04\x00\x00\x00\x00"), "/tmp/krb5cc_0")
	f.Add([]byte("\x05\x02\x00\x00\x00\x08aaaaaaaa"), kerberosKeytab)
	f.Add([]byte("[realms]\nA = {\nkdc = a\nauth_to_local_names = {\nb = c\n}\n}\n"), kerberosConfig)
	f.Fuzz(func(_ *testing.T, text []byte, name string) {
		_, _ = kerberos(func(path string) ([]byte, error) {
			switch path {
			case name:
				return text, nil
			case kerberosConfig:
				return []byte("[libdefaults]\ndefault_realm = LX.TEST\n"), nil
			}
			return nil, fs.ErrNotExist
		}, "", 0)
	})
}
