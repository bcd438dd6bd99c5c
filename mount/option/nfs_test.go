package option

import (
	"errors"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestNFSNamesComplete(t *testing.T) {
	text, err := os.ReadFile("testdata/nfsnames")
	if err != nil {
		t.Fatal(err)
	}
	for name := range strings.Lines(string(text)) {
		if name = strings.TrimSpace(name); name[0] != '#' && nfsTable().find(name) == nil {
			t.Errorf("no row for %q", name)
		}
	}
}

var nfsSamples = map[string]sample{
	"source": {"", "nas:/srv"}, "addr": {"", "192.0.2.7"}, "port": {"", "20490"},
	"mountaddr": {"", "192.0.2.7"}, "mounthost": {"", "nas2"}, "mountport": {"", "20048"}, "mountproto": {"", "udp"},
	"vers": {"", "4.1"}, "v3": {}, "v4": {}, "v4.0": {}, "v4.1": {}, "v4.2": {}, "minorversion": {"", "1"},
	"proto": {"", "tcp6"}, "nconnect": {"", "4"}, "resvport": {}, "noresvport": {}, "xprtsec": {"", "tls"},
	"cacert": {"", "/ca"}, "cert": {"", "/cert"}, "key": {"", "/key"},
	"soft": {}, "softerr": {}, "hard": {"soft", ""}, "timeo": {"", "70"}, "retrans": {"", "5"},
	"sec": {"", "krb5p:sys"}, "idmap": {"", "4242"}, "lock": {"nolock", ""}, "nolock": {}, "local_lock": {"", "all"},
	"acl": {"noacl", ""}, "noacl": {}, "namlen": {"", "100"}, "rdirplus": {"nordirplus", ""}, "nordirplus": {},
	"ac": {"noac", ""}, "noac": {}, "acregmin": {"", "5"}, "acregmax": {"", "5"}, "acdirmin": {"", "5"}, "acdirmax": {"", "5"},
	"actimeo": {"", "5"}, "lookupcache": {"", "all"}, "cto": {"nocto", ""}, "nocto": {}, "rsize": {"", "65536"}, "wsize": {"", "65536"},
	"ro": {}, "rw": {"ro", ""}, "sync": {}, "async": {"sync", ""}, "dirsync": {}, "lazytime": {}, "nolazytime": {"lazytime", ""},
	"nosuid": {}, "suid": {"nosuid", ""}, "nodev": {}, "dev": {"nodev", ""}, "noexec": {}, "exec": {"noexec", ""},
	"noatime": {}, "relatime": {"noatime", ""}, "sloppy": {},
}

func TestEveryNFSOption(t *testing.T) {
	accepted := map[string]string{"mountvers": "3", "max_connect": "1", "write": "lazy", "fatal_neterrors": "none"}
	everyOption(t, NFSTable(), nfsSetters, nfsSamples, accepted, func() *NFS { return NewNFS("nfs") })
}

func parseNFS(fsType, source, data string) (*NFS, error) {
	params, err := SplitPlain(data)
	if err != nil {
		return nil, err
	}
	o := NewNFS(fsType)
	return o, Parse(o, source, params)
}

// What mount.nfs, mount.nfs4 and mount(8) without them send.
func TestParseNFS(t *testing.T) {
	o, err := parseNFS("nfs4", "nas:/srv", "vers=4.2,port=20490,addr=192.0.2.1,clientaddr=192.0.2.9,ro,sec=krb5:krb5:null")
	if err != nil {
		t.Fatal(err)
	}
	if o.Vers != "4.2" || o.Port != 20490 || o.Address != netip.MustParseAddr("192.0.2.1") || o.Host != "nas" || o.Path != "/srv" ||
		!o.Mount.ReadOnly || strings.Join(o.Flavours(), " ") != "krb5 none" {
		t.Errorf("%+v", o)
	}
	o, err = parseNFS("nfs", "[::1]:/", "nolock,addr=::1,vers=3,proto=tcp,port=2049,mountvers=3,mountproto=tcp,mountport=20048,timeo=7,rdirplus=none")
	if err != nil {
		t.Fatal(err)
	}
	if o.Vers != "3" || !o.LocalLocks || o.MountPort != 20048 || o.Timeo != 700*time.Millisecond || o.Host != "::1" || o.Path != "/" || !o.NoRdirPlus {
		t.Errorf("%+v", o)
	}
	for _, c := range []struct{ fsType, data, vers string }{
		{"nfs", "", ""}, {"nfs4", "", "4"}, {"nfs", "vers=4,minorversion=1", "4.1"}, {"nfs4", "minorversion=0", "4.0"},
		{"nfs", "nfsvers=4.0,minorversion=0", "4.0"}, {"nfs", "v3,v4.1", "4.1"},
	} {
		o, err := parseNFS(c.fsType, "nas:/", c.data)
		if err != nil || o.Vers != c.vers {
			t.Errorf("%s %q: %q, %v", c.fsType, c.data, o.Vers, err)
		}
	}
	for data, want := range map[string]string{
		"foo":                        `unknown option "foo"`,
		"v2":                         `option "v2": version 2 is spoken by no server of this decade`,
		"vers=2":                     `option "vers": version 2 is spoken by no server of this decade`,
		"vers=5":                     `option "vers": "5" is none of 3, 4, 4.0, 4.1, 4.2`,
		"minorversion=1":             `option "minorversion": goes with vers=4`,
		"vers=4.2,minorversion=1":    `option "minorversion": 1 contradicts vers=4.2`,
		"minorversion=3":             `option "minorversion": 3 is not between 0 and 2`,
		"proto=udp":                  `option "proto": the transport is TCP: tcp or tcp6`,
		"proto=rds":                  `option "proto": "rds" is none of tcp, tcp6`,
		"proto=tcp6,addr=192.0.2.1":  `option "addr": 192.0.2.1 is no address of IPv6, which proto=tcp6 asks for`,
		"fsc":                        `option "fsc": nothing is cached on local disks`,
		"fsc=x":                      `option "fsc": nothing is cached on local disks`,
		"sec=foo":                    `option "sec": "foo" is none of none, sys, krb5, krb5i, krb5p`,
		"sec=sys:lkey":               `option "sec": lkey is spoken by no server; none, sys, krb5, krb5i and krb5p are supported`,
		"sec=:":                      `option "sec": no flavour between the colons`,
		"timeo=0":                    `option "timeo": 0 is not between 1 and 2147483647`,
		"nconnect=17":                `option "nconnect": 17 is not between 1 and 16`,
		"mountvers=1":                `option "mountvers": only 3 is possible: the protocol of version 3's mountd: 3`,
		"local_lock=flock":           `option "local_lock": locks of flock(2) and fcntl(2) are kept in the same place: none or all`,
		"idmap=me":                   `option "idmap": "me" is none of host, guest, or a user id`,
		"rdirplus=force":             `option "rdirplus": force: the kernel asks for attributes when it wants them`,
		"soft=1":                     `option "soft": takes no value`,
		"rsize":                      `option "rsize": expected rsize=bytes`,
		"\x06\x00\x00":               `binary mount data; use mount.nfs of nfs-utils, or mount -i`,
		"=x":                         `an option without a name: expected name=value`,
		"xprtsec=ssl":                `option "xprtsec": "ssl" is none of none, tls, mtls`,
		"lookupcache=negative":       `option "lookupcache": "negative" is none of all, pos, positive, none`,
		"addr=nas":                   `option "addr": "nas" is no IP address`,
		"fatal_neterrors=ENETDOWN:x": `option "fatal_neterrors": only default, none are possible: no error of the network ends a mount: default, none`,
	} {
		if _, err := parseNFS("nfs", "nas:/", data); err == nil || err.Error() != want {
			t.Errorf("%q: %v\nwant %s", data, err, want)
		}
	}
	if _, err := parseNFS("nfs4", "nas:/", "vers=3"); !errors.Is(err, syscall.EINVAL) {
		t.Errorf("nfs4 with vers=3: %v", err)
	}
	if _, err := parseNFS("nfs", "nas:/", "sloppy,foo=1"); err != nil {
		t.Error(err)
	}
}

func TestParseExport(t *testing.T) {
	for s, want := range map[string][2]string{
		"nas:/srv/x": {"nas", "/srv/x"}, "192.0.2.1:/": {"192.0.2.1", "/"}, "[::1]:/x": {"::1", "/x"},
		"[fe80::1%eth0]:/x": {"fe80::1%eth0", "/x"}, "nas:/a:b": {"nas", "/a:b"}, "nas:/with space": {"nas", "/with space"},
		"nas://x": {"nas", "//x"},
	} {
		host, path, err := ParseExport(s)
		if err != nil || host != want[0] || path != want[1] {
			t.Errorf("%q: %q %q %v", s, host, path, err)
		}
	}
	for s, errno := range map[string]syscall.Errno{
		"": syscall.EINVAL, "nas": syscall.EINVAL, "nas:": syscall.EINVAL, "nas:srv": syscall.EINVAL, ":/x": syscall.EINVAL,
		"[::1:/x": syscall.EINVAL, "[nas]:/x": syscall.EINVAL, "a,b:/x": syscall.EOPNOTSUPP, "nfs://nas/x": syscall.EINVAL,
		"nas:/a/../b": syscall.EINVAL, "//nas/x": syscall.EINVAL, "::1:/x": syscall.EINVAL, "nas:/\xff": syscall.EINVAL,
		"nas:/" + strings.Repeat("x", 256): syscall.ENAMETOOLONG, "nas:/" + strings.Repeat("x/", 3000): syscall.EINVAL,
	} {
		if host, path, err := ParseExport(s); !errors.Is(err, errno) {
			t.Errorf("%.30q: %q %q %v", s, host, path, err)
		}
	}
}

// What a remount may say again, and what it cannot change.
func TestNFSSame(t *testing.T) {
	base, err := parseNFS("nfs", "nas:/srv", "vers=4.2")
	if err != nil {
		t.Fatal(err)
	}
	for data, same := range map[string]bool{"vers=4.2,addr=192.0.2.1,clientaddr=192.0.2.9,ro": true, "vers=4.2,soft": false, "vers=4.1": false} {
		o, err := parseNFS("nfs", "nas:/srv", data)
		if err != nil || o.Same(base) != same || base.Same(o) != same {
			t.Errorf("%q: %v", data, err)
		}
	}
	if base.Same(NewCIFS("cifs")) {
		t.Error("an NFS mount is the same as one of cifs")
	}
}
