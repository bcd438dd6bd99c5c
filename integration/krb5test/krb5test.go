// Package krb5test is a Kerberos realm for tests: a real krb5kdc on loopback,
// with everything that it needs in a directory of its own.
//
// Needed from Debian 12: krb5-kdc, krb5-admin-server, krb5-user.
package krb5test

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/lxbridge/lx/integration/freeport"
)

// Name of the realm.
const Name = "LX.TEST"

// Realm is a running key distribution centre. It ends with the test.
type Realm struct {
	// Config is the file krb5.conf, for KRB5_CONFIG.
	Config string
	dir    string
	env    []string
}

// New starts a realm without principals.
func New(t testing.TB) *Realm {
	t.Helper()
	dir := t.TempDir()
	r := &Realm{Config: filepath.Join(dir, "krb5.conf"), dir: dir}
	port, err := freeport.One()
	if err != nil {
		t.Fatal(err)
	}
	replace := strings.NewReplacer("DIR", dir, "PORT", strconv.Itoa(port), "REALM", Name)
	for name, text := range map[string]string{"krb5.conf": clientConfig, "kdc.conf": serverConfig} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(replace.Replace(text)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	r.env = append(os.Environ(), "KRB5_CONFIG="+r.Config, "KRB5_KDC_PROFILE="+filepath.Join(dir, "kdc.conf"))
	r.run(t, "kdb5_util", "create", "-s", "-P", "master", "-r", Name)

	var said bytes.Buffer
	kdc := exec.Command("krb5kdc", "-n", "-r", Name)
	kdc.Env, kdc.Stdout, kdc.Stderr = r.env, &said, &said
	started, ended := make(chan error), make(chan struct{})
	go func() {
		runtime.LockOSThread() // it ends with this thread, at the latest
		defer close(ended)
		kdc.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		err := kdc.Start()
		started <- err
		if err == nil {
			_ = kdc.Wait() // it is killed
		}
		runtime.UnlockOSThread()
	}()
	if err := <-started; err != nil {
		t.Fatalf("%v; install krb5-kdc", err)
	}
	t.Cleanup(func() {
		if err := kdc.Process.Kill(); err != nil {
			t.Errorf("krb5kdc has ended: %v: %s", err, &said)
		}
		<-ended
	})
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(20 * time.Second); ; <-tick.C {
		c, err := net.Dial("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		if err == nil {
			c.Close()
			return r
		}
		if time.Now().After(end) {
			t.Fatalf("krb5kdc does not answer: %v", err)
		}
	}
}

// Keytab makes a principal and answers a file with its key.
func (r *Realm) Keytab(t testing.TB, principal string) string {
	t.Helper()
	file := filepath.Join(r.dir, strings.ReplaceAll(principal, "/", "_")+".keytab")
	r.run(t, "kadmin.local", "-r", Name, "addprinc", "-randkey", principal)
	r.run(t, "kadmin.local", "-r", Name, "ktadd", "-k", file, principal)
	return file
}

// Cache makes a principal and answers a credential cache with a ticket of its.
func (r *Realm) Cache(t testing.TB, principal string) string {
	t.Helper()
	file := filepath.Join(r.dir, strings.ReplaceAll(principal, "/", "_")+".cache")
	r.run(t, "kinit", "-c", "FILE:"+file, "-k", "-t", r.Keytab(t, principal), principal)
	return file
}

func (r *Realm) run(t testing.TB, name string, args ...string) {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Env = r.env
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatal(fmt.Errorf("%s %s: %w: %s; install krb5-kdc, krb5-admin-server and krb5-user", name, strings.Join(args, " "), err, out))
	}
}

const clientConfig = `[libdefaults]
	default_realm = REALM
	dns_lookup_kdc = false
	dns_lookup_realm = false
	dns_canonicalize_hostname = false
	rdns = false
	udp_preference_limit = 1
	ignore_acceptor_hostname = true
[realms]
	REALM = {
		kdc = 127.0.0.1:PORT
	}
`

const serverConfig = `[kdcdefaults]
	kdc_listen = 127.0.0.1:PORT
	kdc_tcp_listen = 127.0.0.1:PORT
[realms]
	REALM = {
		database_name = DIR/principal
		key_stash_file = DIR/stash
		admin_keytab = DIR/kadm5.keytab
		acl_file = DIR/kadm5.acl
		supported_enctypes = aes256-cts-hmac-sha1-96:normal aes128-cts-hmac-sha1-96:normal
	}
[logging]
	kdc = FILE:DIR/kdc.log
	default = FILE:DIR/kdc.log
`
