package integration

import (
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/lxbridge/lx/integration/nfstest"
	"github.com/lxbridge/lx/integration/tlstest"
)

// RPC over TLS before ganesha: the server proves who it is, and with mtls the
// client does; who cannot is refused at once, with the reason.
func TestGaneshaTLS(t *testing.T) {
	w := newWorld(t)
	s := w.nfs(nfstest.Options{})
	w.hold()
	ca := tlstest.New(t)
	cert, key := ca.Issue(t, "the client")
	trusted, stranger := w.write("ca", string(ca.PEM)), w.write("other", string(tlstest.New(t).PEM))
	own := fmt.Sprintf("xprtsec=mtls,cert=%s,key=%s", w.write("cert", string(cert)), w.write("key", string(key)))
	plain, mutual := ca.NewFront(t, s.Addr(), false), ca.NewFront(t, s.Addr(), true)
	mountd := ca.NewFront(t, net.JoinHostPort(s.Host, strconv.Itoa(s.MountPort)), false)
	port := func(f *tlstest.Front) string { return fmt.Sprintf("port=%d,mountport=%d", f.Port, mountd.Port) }
	for _, version := range []string{"3", "4.2"} {
		dir := s.mount(nfstest.Data, version, port(plain), "xprtsec=tls", "cacert="+trusted)
		w.must("echo tls > " + dir + "/f-" + version)
		same(t, "the server's file", s.get(nfstest.Data, "f-"+version), "tls\n")
		dir = s.mount(nfstest.Data, version, port(mutual), own, "cacert="+trusted)
		same(t, "read by mtls", w.must("cat "+dir+"/f-"+version), "tls")
	}
	if names := mutual.Clients(); len(names) == 0 || slices.ContainsFunc(names, func(n string) bool { return n != "the client" }) {
		t.Errorf("clients %q", names)
	}
	dir := w.mkdir("mnt")
	for _, c := range []struct{ options, says, reason string }{
		{port(plain) + ",xprtsec=tls", "Permission denied", "authority"},
		{port(plain) + ",xprtsec=tls,cacert=" + stranger, "Permission denied", "authority"},
		{port(mutual) + ",xprtsec=tls,cacert=" + trusted, "Permission denied", "certificate required"},
		{"xprtsec=tls,cacert=" + trusted, "Permission denied", "does not offer it"},
		{"xprtsec=mtls", "Invalid argument", "cert=FILE"},
		{own + "x", "No such file or directory", "keyx"},
	} {
		r := w.sh(helper("mount") + " -t nfs " + s.source(nfstest.Data) + " " + dir + " -o " + s.options("4.2", c.options))
		if r.code == 0 || !strings.Contains(strings.ToLower(r.err), strings.ToLower(c.says)) || !strings.Contains(w.log(), c.reason) {
			t.Errorf("%s: want %q: %v\n%s", c.options, c.says, r, tail(w.log(), 3))
		}
	}
}
