package mount

import (
	"fmt"
	"strings"
	"testing"

	"github.com/lxbridge/lx/mount/option"
)

// quote is s as one word of bash.
func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// A share with and without mount.cifs, relative targets, fstab twice.
func TestShare(t *testing.T) {
	port, user, password := login(t)
	w := newWorld(t)
	out := w.run(t, `
		set -e
		printf 'username=`+user+`\npassword=`+password+`\n' > /run/cred
		mkdir /mnt/d; cd /mnt
		mount -i -t cifs //127.0.0.1/data /mnt/d -o credentials=/run/cred,port=`+port+`
		findmnt -n /mnt/d; df /mnt/d
		echo hello > d/x; cat d/x; ls -n d
		umount d
		export PASSWD=`+quote(password)+`
		mount -t smb3 //127.0.0.1/data/ d -o port=`+port+`,username=`+user+`
		cat d/x; umount ./d
		mount -t cifs '\\127.0.0.1\data' d -o port=`+port+`,username=`+user+`
		cat d/x; umount ./d

		printf '//127.0.0.1/data /mnt/d cifs credentials=/run/cred,port=`+port+`,_netdev,nofail,x-a.b=c 0 0\n' > /run/fstab
		mount -T /run/fstab -a; mount -T /run/fstab -a
		grep -c ' /mnt/d ' /proc/self/mountinfo
		cat d/x; rm d/x
		mount -t cifs //127.0.0.1/data /mnt/d -o remount,ro,port=`+port+`,username=`+user+`; grep -o 'fuse.lx.cifs //127.0.0.1/data ro' /proc/self/mountinfo
		umount -l d; ls -A d | wc -l`)
	want(t, out, "/mnt/d //127.0.0.1/data fuse.lx.cifs rw,relatime,", "//127.0.0.1/data ", "1 0 0 6 ", "\n1\nhello\nfuse.lx.cifs //127.0.0.1/data ro\n0\n")
	if n := strings.Count(out, "hello"); n != 4 {
		t.Errorf("%d times hello:\n%s", n, out)
	}
	if strings.Contains(out, password) {
		t.Error("the password shows")
	}
}

// effects are options whose effect shows on a mounted share: what to run in
// it (as root of the guest) and what that prints.
var effects = []struct{ name, given, script, want string }{
	{"source", "", "findmnt -no SOURCE .", "//127.0.0.1/data"},
	{"unc", `unc=\\127.0.0.1\data`, "stat -c %F .", "directory"},
	{"unc", `unc=\\127.0.0.1\other`, "", `option "unc": names`},
	{"prefixpath", "prefixpath=there", "", `option "prefixpath"`},
	{"ip", "ip=127.0.0.2", "", "127.0.0.2"}, // nobody listens there
	{"port", "port=1", "", "port 1"},
	{"username", "username=nobody-such", "", "cannot"},
	{"password", "password=wrong", "", "password"},
	{"password2", "credentials=/run/two", "stat -c %F .", "directory"},
	{"credentials", "credentials=/run/bad", "", "line 1"},
	{"credentials", "credentials=/run/none", "", "/run/none"},
	{"sec", "sec=none", "", "cannot attach"}, // smbd lets nobody in there
	{"vers", "vers=2.1", "stat -c %F .", "directory"},
	{"vers", "vers=1.0", "", "SMB 1"},
	{"sign", "sign", "stat -c %F .", "directory"},
	{"seal", "seal", "", "encryption"}, // smbd does not ask for it there
	{"seal", "seal,vers=2.1", "", "cannot"},
	{"uid", "uid=0", "stat -c %u .", "0"},
	{"gid", "gid=0", "stat -c %g .", "0"},
	{"uid", "uid=4000000", "", `option "uid"`},
	{"file_mode", "file_mode=0640", "touch f; stat -c %a f; rm f", "640"},
	{"fmask", "fmask=0604", "touch f; stat -c %a f; rm f", "604"},
	{"dir_mode", "dir_mode=0750", "stat -c %a .", "750"},
	{"perm", "perm", "grep -c default_permissions /proc/self/mountinfo", "1"},
	{"noperm", "noperm", "grep -c default_permissions /proc/self/mountinfo", "0"},
	{"mapposix", "mapposix", "touch 'a:b'; ls; rm 'a:b'", "a:b"},
	{"mapchars", "mapchars", "touch 'a?b'; ls; rm 'a?b'", "a?b"},
	{"mfsymlinks", "mfsymlinks", "ln -s there l; readlink l; rm l", "there"},
	{"symlink", "symlink=mfsymlinks", "ln -s there l; readlink l; rm l", "there"},
	{"nodelete", "nodelete", "touch f; rm f 2>&1", "Permission denied"},
	{"nouser_xattr", "nouser_xattr", "touch f; setfattr -n user.x -v y f 2>&1; rm -f f", "not"},
	{"cache", "cache=none", "echo a > f; cat f; rm f", "a"},
	{"cache", "cache=loose", "echo a > f; cat f; rm f", "a"},
	{"nostrictsync", "nostrictsync", "dd if=/dev/zero of=f bs=1 count=1 conv=fsync status=none; stat -c %s f; rm f", "1"},
	{"rsize", "rsize=65536", "stat -c %o .", "65536"},
	{"ro", "ro", "touch f 2>&1", "Read-only"},
	{"sync", "sync", "findmnt -no FS-OPTIONS .", "sync"},
	{"dirsync", "dirsync", "findmnt -no FS-OPTIONS .", "dirsync"},
	{"lazytime", "lazytime", "findmnt -no FS-OPTIONS .", "lazytime"},
	{"nosuid", "nosuid", "findmnt -no VFS-OPTIONS .", "nosuid"},
	{"nodev", "nodev", "findmnt -no VFS-OPTIONS .", "nodev"},
	{"noexec", "noexec", "cp /bin/true t; ./t 2>&1; rm t", "Permission denied"},
	{"noatime", "noatime", "findmnt -no VFS-OPTIONS .", "noatime"},
}

// Every option is given in a mount: what is refused fails with its reason,
// all the rest mounts, and shows its effect where it has one that shows.
func TestMountWithEveryOption(t *testing.T) {
	port, user, password := login(t)
	var script strings.Builder
	fmt.Fprintf(&script, "mkdir /mnt/d; cd /mnt; echo rubbish > /run/bad; echo password=%[1]s > /run/good; printf 'password=wrong\\npassword2=%%s\\n' %[1]s > /run/two\n"+
		"try() { echo \"case $1\"; { mount -i -t cifs //127.0.0.1/data d -o \"credentials=/run/good,port=%[2]s,username=%[3]s,$2\" && "+
		"{ (cd d && eval \"$3\"); echo; umount d; }; } 2>&1 | cat; }\n", // a pipe: reasons are told there
		quote(password), port, user)
	type check struct{ name, want string }
	var checks []check
	add := func(name, given, run, want string) {
		fmt.Fprintf(&script, "try %d %s %s\n", len(checks), quote(given), quote(run))
		checks = append(checks, check{name, want})
	}
	for _, e := range effects {
		add(e.name, e.given, e.script, e.want)
	}
	values := map[string]string{"ver": "1", "max_channels": "1", "retrans": "1", "iocharset": "utf8", "reparse": "default", "closetimeo": "0"}
	for _, r := range option.CIFSTable() {
		for _, name := range r.Names {
			given := strings.Replace(name, "*", "y", 1)
			if v, ok := values[r.Names[0]]; ok {
				given += "=" + v
			} else if r.Value != "flag" {
				given += "=1"
			}
			switch r.Verdict {
			case option.Refused:
				add(name, given, "", r.Why)
			case option.Inherent, option.Userspace:
				add(name, given, "stat -c %F .", "directory")
			}
		}
	}
	w := newWorld(t)
	out := w.run(t, script.String())
	if strings.Contains(out, password) {
		t.Error("the password shows")
	}
	cases := strings.Split("\n"+out, "\ncase ")[1:]
	if len(cases) != len(checks) {
		t.Fatalf("%d cases, expected %d:\n%s", len(cases), len(checks), out)
	}
	for i, c := range checks {
		if !strings.Contains(cases[i], c.want) {
			t.Errorf("%s: no %q in: %s", c.name, c.want, cases[i])
		}
	}
}

// Mounts of processes in namespaces of their own belong to these and go with them.
func TestNamespaces(t *testing.T) {
	port, user, password := login(t)
	w := newWorld(t)
	out := w.run(t, `
		mkdir /mnt/d; printf 'username=`+user+`\npassword=`+password+`\n' > /run/cred
		mount() { /bin/mount -i -t cifs //127.0.0.1/data /mnt/d -o credentials=/run/cred,port=`+port+`,$1; }; export -f mount
		echo user; unshare -Urm --propagation private bash -c 'mount uid=0; touch /mnt/d/f; stat -c %u /mnt/d/f; rm /mnt/d/f; umount -f /mnt/d; echo umount $?'
		echo none; unshare -U bash -c 'mount rw 2>/dev/null; echo mount $?'
		echo mnt; unshare -m bash -c 'mount rw; grep -c /mnt/d /proc/self/mountinfo'
		echo net; unshare -n bash -c 'mount rw 2>&1 | cat'
		echo left; grep -c /mnt/d /proc/self/mountinfo || true`)
	want(t, out, "user\n0\numount 0\n", "none\nmount 32\n", "mnt\n1\n", "net\nlx: cannot mount", "network is unreachable", "left\n0\n")
	w.settle(t)
}
