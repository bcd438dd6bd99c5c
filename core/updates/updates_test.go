package updates

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/lxbridge/lx/core/config"
)

func count(n int) *int { return &n }

const aptOut = `NOTE: This is only a simulation!
      apt-get needs root privileges for real execution.
      Keep also in mind that locking is deactivated,
      so don't depend on the relevance to the real current situation!
Reading package lists...
Building dependency tree...
Reading state information...
Calculating upgrade...
The following NEW packages will be installed:
  linux-image-6.1.0-32-amd64
The following packages will be upgraded:
  base-files libc-bin libc6 libgnutls30 libssl3:i386
5 upgraded, 1 newly installed, 0 to remove and 0 not upgraded.
Inst base-files [12.4+deb12u9] (12.4+deb12u10 Debian:12.10/stable [amd64])
Conf base-files (12.4+deb12u10 Debian:12.10/stable [amd64])
Inst libc-bin [2.36-9+deb12u8] (2.36-9+deb12u10 Debian:12.10/stable, Debian-Security:12/stable-security [amd64]) []
Inst libc6 [2.36-9+deb12u8] (2.36-9+deb12u10 Debian:12.10/stable, Debian-Security:12/stable-security [amd64]) [libc-bin:amd64 ]
Conf libc6 (2.36-9+deb12u10 Debian:12.10/stable, Debian-Security:12/stable-security [amd64])
Inst libgnutls30 [3.7.3-4ubuntu1.5] (3.7.3-4ubuntu1.6 Ubuntu:22.04/jammy-updates, Ubuntu:22.04/jammy-security [amd64])
Inst libssl3:i386 [3.0.15-1~deb12u1] (3.0.16-1~deb12u1 Debian:12.10/stable [i386])
Inst linux-image-6.1.0-32-amd64 (6.1.129-1 Debian-Security:12/stable-security [amd64])
Remv oldlib [1.0]
`

// As versions 4 and 5 print it.
const dnfOut = `
bind-libs.x86_64                      32:9.16.23-18.el9_4.6             appstream
kernel.x86_64                         5.14.0-427.24.1.el9_4             baseos   
gnome-settings-daemon-devel-and-more.noarch
                                      40.0.1-16.el9_4                   appstream
openssl.x86_64                        1:3.0.7-28.el9_4                  baseos   
Obsoleting Packages
grub2-tools.x86_64                    1:2.06-80.el9                     baseos   
    grub2-tools.x86_64                1:2.06-70.el9                     @baseos  
`

const dnfSecurity = `
bind-libs.x86_64  32:9.16.23-18.el9_4.6  appstream
openssl.x86_64    1:3.0.7-27.el9_4       baseos
Security: kernel-core-5.14.0-427.24.1.el9_4.x86_64 is an installed security update
Security: kernel-core-5.14.0-427.20.1.el9_4.x86_64 is the currently running version
`

const zypperOut = `<?xml version='1.0'?>
<stream>
<message type="info">Loading repository data...</message>
<message type="info">Reading installed packages...</message>
<update-status version="0.6">
<update-list>
  <update kind="package" name="bash" edition="4.4-150400.27.1" arch="x86_64" edition-old="4.4-150400.25.22"><summary>The GNU Bourne-Again Shell</summary><description>Bash &lt;sh-compatible&gt;</description><license></license><source url="obs:update" alias="repo-sle-update"/></update>
  <update kind="package" name="bash" edition="4.4-150400.27.1" arch="x86_64" edition-old="4.4-150400.25.22"><source url="obs:update2" alias="other"/></update>
  <update kind="package" name="libzypp" edition="17.31.2-1" arch="x86_64" edition-old="17.31.0-1"/>
</update-list>
</update-status>
</stream>
`

const zypperSecurity = `<?xml version='1.0'?>
<stream>
<update-status version="0.6">
<update-list>
  <update kind="patch" name="SUSE-2024-1234" edition="1" arch="noarch" status="needed" category="security" severity="important" pkgmanager="false" restart="false" interactive="false"><summary>Security update for bash</summary></update>
</update-list>
<blocked-update-list>
</blocked-update-list>
</update-status>
</stream>
`

const apkOut = `Installed:                                Available:
alpine-baselayout-3.4.3-r1              < 3.4.3-r2 
busybox-1.36.1-r5                       < 1.36.1-r7 
font-dejavu-2.37-r3                     < 2.37-r5 @edge
py3-foo-1.0_git20230101-r0              < 1.0_git20230301-r0
`

const pacmanOut = `archlinux-keyring 20231113-1 -> 20231130-1
linux 6.6.1.arch1-1 -> 6.6.3.arch1-1
zfs-dkms 2.2.0-1 -> 2.2.1-1 [ignored]
`

func TestParse(t *testing.T) {
	for _, c := range []struct {
		name          string
		out, security string
		want          Listing
		fails         bool
	}{
		{name: "apt", out: aptOut, want: Listing{Security: count(3), Packages: []Package{
			{"base-files", "12.4+deb12u9", "12.4+deb12u10", false},
			{"libc-bin", "2.36-9+deb12u8", "2.36-9+deb12u10", true},
			{"libc6", "2.36-9+deb12u8", "2.36-9+deb12u10", true},
			{"libgnutls30", "3.7.3-4ubuntu1.5", "3.7.3-4ubuntu1.6", true},
			{"libssl3:i386", "3.0.15-1~deb12u1", "3.0.16-1~deb12u1", false},
		}}},
		{name: "apt", out: "Reading package lists...\n", want: Listing{Security: count(0)}},
		{name: "apt", out: "Inst -o [1] (2 Debian [amd64])\n", fails: true},
		{name: "apt", out: "Inst x [1] 2\n", fails: true},
		{name: "dnf", out: dnfOut, security: dnfSecurity, want: Listing{Security: count(2), Packages: []Package{
			{"bind-libs.x86_64", "", "32:9.16.23-18.el9_4.6", true},
			{"kernel.x86_64", "", "5.14.0-427.24.1.el9_4", false},
			{"gnome-settings-daemon-devel-and-more.noarch", "", "40.0.1-16.el9_4", false},
			{"openssl.x86_64", "", "1:3.0.7-28.el9_4", true},
		}}},
		{name: "dnf", want: Listing{Security: count(0)}},
		{name: "zypper", out: zypperOut, security: zypperSecurity, want: Listing{Security: count(1), Packages: []Package{
			{"bash", "4.4-150400.25.22", "4.4-150400.27.1", false},
			{"libzypp", "17.31.0-1", "17.31.2-1", false},
		}}},
		{name: "zypper", out: "<stream><update kind=", fails: true},
		{name: "apk", out: apkOut, want: Listing{Packages: []Package{
			{"alpine-baselayout", "3.4.3-r1", "3.4.3-r2", false},
			{"busybox", "1.36.1-r5", "1.36.1-r7", false},
			{"font-dejavu", "2.37-r3", "2.37-r5", false},
			{"py3-foo", "1.0_git20230101-r0", "1.0_git20230301-r0", false},
		}}},
		{name: "apk", out: "odd < 2\n", fails: true},
		{name: "pacman", out: pacmanOut, want: Listing{Packages: []Package{
			{"archlinux-keyring", "20231113-1", "20231130-1", false},
			{"linux", "6.6.1.arch1-1", "6.6.3.arch1-1", false},
		}}},
		{name: "pacman"},
		{name: "pacman", out: "error: x\n", fails: true},
	} {
		got, err := named(t, c.name).parse([]byte(c.out), []byte(c.security))
		if (err != nil) != c.fails {
			t.Errorf("%s: %v", c.name, err)
		}
		if d := cmp.Diff(c.want, got); d != "" {
			t.Errorf("%s: %s", c.name, d)
		}
	}
}

func named(t testing.TB, name string) *manager {
	for i := range managers {
		if managers[i].name == name {
			return &managers[i]
		}
	}
	t.Fatalf("no manager %s", name)
	return nil
}

// FuzzParse: whatever a manager prints, it is refused or a listing that counts
// no more than there is, and whose security updates can be named to apt.
func FuzzParse(f *testing.F) {
	for _, s := range []string{aptOut, dnfOut, dnfSecurity, zypperOut, zypperSecurity, apkOut, pacmanOut} {
		f.Add([]byte(s), []byte(dnfSecurity))
	}
	f.Add([]byte(zypperOut), []byte(zypperSecurity))
	f.Fuzz(func(t *testing.T, out, security []byte) {
		for _, m := range managers {
			l, err := m.parse(out, security)
			if err != nil {
				continue
			}
			if l.Security != nil && m.name != "zypper" && *l.Security > len(l.Packages) {
				t.Errorf("%s: %d security updates of %d", m.name, *l.Security, len(l.Packages))
			}
			for _, p := range l.Packages {
				if m.name == "apt" && strings.HasPrefix(p.Name, "-") {
					t.Errorf("an option for a name: %q", p.Name)
				}
			}
			Report{Listing: l}.Line()
		}
	})
}

func TestReport(t *testing.T) {
	now := time.Now()
	two := Listing{Packages: make([]Package, 2), Security: count(1)}
	for want, r := range map[string]Report{
		"2 packages are behind (1 security)": {Listing: two},
		"2 packages are behind":              {Listing: Listing{Packages: two.Packages}},
		"1 package is behind":                {Listing: Listing{Packages: two.Packages[:1], Security: count(0)}},
		"":                                   {Off: true, Listing: two},
	} {
		if got := r.Line(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	old := Report{Manager: "apt", Listing: two, Checked: now.Add(-Daily), Update: &Update{What: config.UpdateAll}}
	failed := Report{Error: "no route", Failed: now}.After(old)
	if failed.Line() != old.Line() || failed.Error != "no route" || !failed.Checked.Equal(old.Checked) {
		t.Errorf("%+v", failed)
	}
	good := Report{Manager: "apt", Checked: now}.After(failed)
	if good.Error != "" || good.Line() != "" || good.Update == nil {
		t.Errorf("%+v", good)
	}
	for _, c := range []struct {
		r    Report
		age  time.Duration
		want bool
	}{
		{Report{}, Daily, true}, {old, Daily, true}, {good, Hourly, false}, {failed, Daily, false},
		{Report{Error: "x", Failed: now.Add(-Hourly)}, Daily, true},
		{Report{Checked: now.Add(-Hourly)}, Hourly, true}, {Report{Checked: now.Add(-Hourly)}, Daily, false},
		{Report{Checked: now.Add(Hourly)}, Daily, true},
	} {
		if got := c.r.Due(now, c.age); got != c.want {
			t.Errorf("%+v after %v: %v", c.r, c.age, got)
		}
	}
}

// TestCheck: a manager is asked with its private directory; lists are had anew
// once a day, or when somebody asks.
func TestCheck(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "lists")
	sh := func(script string) command { return command{argv: []string{"sh", "-c", script}} }
	m := manager{name: "fake", refresh: sh("echo x >>{}/asked"), list: sh("cat {}/asked; exit 3").accepts(3), parse: func(list, security []byte) (Listing, error) {
		return Listing{Packages: make([]Package, strings.Count(string(list), "x"))}, nil
	}}
	check := func(fresh bool, want int) {
		t.Helper()
		r, err := m.check(dir, fresh)
		if err != nil || len(r.Packages) != want || time.Since(r.Refreshed) > Daily || r.Manager != "fake" {
			t.Errorf("%+v, %v; want %d", r, err, want)
		}
	}
	check(false, 1)
	check(false, 1)
	check(true, 2)
	yesterday := time.Now().Add(-Daily)
	if err := os.Chtimes(filepath.Join(dir, "refreshed"), yesterday, yesterday); err != nil {
		t.Fatal(err)
	}
	check(false, 3)
	m.list = sh("echo broken >&2; exit 4")
	if _, err := m.check(dir, false); err == nil || !strings.Contains(err.Error(), "broken") {
		t.Error(err)
	}
	m.list = sh("exit 4")
	m.list.none = 4
	check(false, 0)
	m.list = sh("head -c 9000000 /dev/zero")
	if _, err := m.check(dir, false); err == nil || !strings.Contains(err.Error(), "more than") {
		t.Error(err)
	}
}

// TestInstall: what auto-update runs, and that it installs no more than was asked for.
func TestInstall(t *testing.T) {
	l := Listing{Packages: []Package{{Name: "a"}, {Name: "b", Security: true}}, Security: count(1)}
	cs := named(t, "apt").updateSecurity(l)
	if got := strings.Join(cs[len(cs)-1].argv, " "); !strings.HasSuffix(got, " --only-upgrade install -- b") {
		t.Errorf("apt would run %s", got)
	}
	for _, name := range []string{"apk", "pacman"} {
		if err := named(t, name).install(config.UpdateSecurity, l); err == nil || !strings.Contains(err.Error(), "does not tell") {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, c := range []struct {
		auto     string
		security *int
		want     bool
	}{
		{"", count(1), false}, {config.UpdateNone, count(1), false}, {config.UpdateAll, count(0), true},
		{config.UpdateSecurity, count(0), false}, {config.UpdateSecurity, count(1), true}, {config.UpdateSecurity, nil, true},
	} {
		if got := (Report{Listing: Listing{Packages: l.Packages, Security: c.security}}).wants(c.auto); got != c.want {
			t.Errorf("%+v: %v", c, got)
		}
	}
}

func TestCommandName(t *testing.T) {
	for _, m := range managers {
		for _, c := range []command{m.refresh, m.list} {
			if s := c.String(); !strings.HasPrefix(s, m.program) || strings.Contains(s, "{}") {
				t.Errorf("%q", s)
			}
		}
	}
}

func TestPreparePacman(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "db.lck"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := preparePacman(dir); err != nil {
			t.Fatal(err)
		}
	}
	to, err := os.Readlink(filepath.Join(dir, "local"))
	if _, left := os.Stat(filepath.Join(dir, "db.lck")); err != nil || to != "/var/lib/pacman/local" || left == nil {
		t.Errorf("%s, %v, %v", to, err, left)
	}
}

// TestJSON: a report is told as it was kept.
func TestJSON(t *testing.T) {
	r := Report{Manager: "apt", Listing: Listing{Packages: []Package{{Name: "a", Available: "2"}}, Security: count(0)}, Checked: time.Now().UTC().Round(0)}
	b, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	var back Report
	if err := json.Unmarshal(b, &back); err != nil || !cmp.Equal(r, back) {
		t.Errorf("%s, %v", b, err)
	}
}
