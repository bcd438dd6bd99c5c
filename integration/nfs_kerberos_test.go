package integration

import (
	"os"
	"strings"
	"testing"

	"github.com/lxbridge/lx/integration/krb5test"
	"github.com/lxbridge/lx/integration/nfstest"
)

// TestGaneshaKerberos: a mount with a ticket as kinit(1) leaves it, and none
// without. The environment gets a krb5.conf and a /tmp of its own for that.
func TestGaneshaKerberos(t *testing.T) {
	realm := krb5test.New(t)
	w := newWorld(t)
	s := w.nfs(nfstest.Options{Keytab: realm.Keytab(t, "nfs/127.0.0.1"), KerberosConfig: realm.Config})
	for name, from := range map[string]string{"krb5.conf": realm.Config, "cache": realm.Cache(t, "root/client.lx.test")} {
		b, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		w.write(name, string(b))
	}
	w.mkdir("tmp")
	mount := s.command(nfstest.Kerberos, "/mnt", "4.2", "sec=krb5p")
	got := w.must("set -e; cd " + w.dir + "; mount --bind krb5.conf /etc/krb5.conf; mount --bind tmp /tmp; " +
		"if " + mount + " 2>/dev/null; then exit 3; fi; cp cache /tmp/mine; KRB5CCNAME=FILE:/tmp/mine " + mount + "; umount /mnt; cp cache /tmp/krb5cc_0; " +
		mount + "; echo secret >/mnt/f; cat /mnt/f; umount /mnt; umount /tmp; umount /etc/krb5.conf")
	if log := w.log(); !strings.Contains(log, "kinit") {
		t.Errorf("why there is no mount without a ticket: %s", log)
	}
	same(t, "cat", got, "secret")
	same(t, "the server's file", s.get(nfstest.Kerberos, "f"), "secret\n")
}
