package integration

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// fakeAPK does what apk(8) does of it: an index is copied to the cache, and
// what is installed, NAME VERSION, compared with it.
const fakeAPK = `#!/bin/sh
cache=/var/cache/apk
while :; do
	case "$1" in
	--cache-dir) cache=$2; shift 2 ;;
	-q|-U|--no-progress|--no-network) shift ;;
	*) break ;;
	esac
done
echo "$1 $cache $(cut -d' ' -f19 /proc/$$/stat)" >>/srv/log
case "$1" in
update)
	if [ -e /srv/down ]; then
		echo "ERROR: https://mirror/main: temporary error (try again later)" >&2
		exit 1
	fi
	mkdir -p $cache && cp /srv/index $cache/index ;;
version)
	[ "$2$3" = "-l<" ] || exit 1
	echo "Installed:                                Available:"
	while read -r name version; do
		has=$(sed -n "s/^$name //p" /lib/apk/db/installed)
		[ "$has" = "$version" ] || printf '%-40s< %s \n' "$name-$has" "$version"
	done <$cache/index ;;
upgrade) cp /srv/index /lib/apk/db/installed ;;
*) exit 1 ;;
esac
`

// TestUpdates: what is behind is told, at login too, and installed by choice only.
func TestUpdates(t *testing.T) {
	w := newWorld(t)
	w.ok("import", "small", w.rootTar())
	w.write("home/apk", fakeAPK)
	w.ok("copy", "apk", "small:/bin/apk")
	w.ok("-d", "small", "sh", "-ec", `chmod 755 /bin/apk; mkdir -p /lib/apk/db /srv
printf 'busybox 1.36.1-r5\nmusl 1.2.4-r1\nzlib 1.3-r0\n' >/lib/apk/db/installed
printf 'busybox 1.36.1-r7\nmusl 1.2.4-r2\nzlib 1.3-r0\n' >/srv/index`)
	same(t, "before a check", w.ok("-d", "small", "updates"), "not checked yet: lx -d small updates --check")
	out := w.ok("updates", "-d", "small", "--check")
	if !strings.HasPrefix(out, "2 packages are behind; checked ") || !strings.Contains(out, "musl     1.2.4-r1   1.2.4-r2") {
		t.Errorf("a check: %s", out)
	}
	same(t, "what it did", w.ok("-d", "small", "sh", "-c", "cat /srv/log; ls /var/cache"), "update /var/cache/lx/updates/apk 19\nversion /var/cache/lx/updates/apk 19\nlx")
	same(t, "the last one", w.ok("-d", "small", "updates"), out)
	login := func(says string) {
		t.Helper()
		x := w.terminal(t, "-d", "small")
		if says != "" {
			x.expect(says)
		}
		x.typed("echo in; exit\n")
		x.expect("\nin")
		<-x.ended
		if says == "" && strings.Contains(x.out.String(), "behind") {
			t.Errorf("the login says %q", x.out.String())
		}
	}
	login("2 packages are behind")
	// The servers are away: that is told, with what was known.
	w.ok("-d", "small", "touch", "/srv/down")
	if r := w.lx("-d", "small", "updates", "--check"); r.code != 1 || !strings.Contains(r.err, "temporary error") || r.out != out+"\n" {
		t.Errorf("without servers: %v", r)
	}
	w.ok("-d", "small", "rm", "/srv/down")
	w.refused("no such environment", "-d", "other", "updates")
	w.refused("no such environment", "-d", "other", "updates", "--check")

	// A login has a check begin that is due. It is, once nothing is known.
	forget := func() {
		t.Helper()
		if err := os.Remove(w.path("home/.local/share/lx/environments/small/updates.json")); err != nil {
			t.Fatal(err)
		}
	}
	type report struct {
		Manager  string
		Packages []struct{ Name string }
		Update   *struct{ What, Error string }
	}
	until := func(ok func(report) bool) {
		t.Helper()
		eventually(t, bound, func() error {
			var r report
			if err := json.Unmarshal([]byte(w.ok("-d", "small", "updates", "--json")), &r); err != nil {
				t.Fatal(err)
			}
			if !ok(r) {
				return fmt.Errorf("%+v", r)
			}
			return nil
		})
	}
	loginAndWait := func(ok func(report) bool) {
		t.Helper()
		x := w.terminal(t, "-d", "small")
		x.typed("echo in\n")
		x.expect("\nin")
		until(ok)
		x.typed("exit\n")
		<-x.ended
	}
	forget()
	loginAndWait(func(r report) bool { return r.Manager == "apk" && len(r.Packages) == 2 })
	same(t, "what is installed", w.ok("-d", "small", "grep", "-c", "r5", "/lib/apk/db/installed"), "1")

	w.ok("-d", "small", "sh", "-c", `echo 'auto-update = "security"' >/etc/lx.toml`)
	forget()
	loginAndWait(func(r report) bool { return r.Update != nil && strings.Contains(r.Update.Error, "does not tell") })
	for _, d := range []string{"home/.config", "home/.config/lx"} {
		w.mkdir(d)
	}
	w.write("home/.config/lx/config.toml", "[environment.small]\nauto-update = \"all\"\n")
	w.ok("-d", "small", "updates", "--check")
	same(t, "who asks installs nothing", w.ok("-d", "small", "grep", "-c", "r5", "/lib/apk/db/installed"), "1")
	forget()
	loginAndWait(func(r report) bool {
		return len(r.Packages) == 0 && r.Update != nil && r.Update.What == "all" && r.Update.Error == ""
	})
	w.ok("-d", "small", "cmp", "/srv/index", "/lib/apk/db/installed")
	same(t, "how it was installed", w.ok("-d", "small", "grep", "upgrade", "/srv/log"), "upgrade /var/cache/apk "+w.ok("-d", "small", "sh", "-c", "cut -d' ' -f19 /proc/$$/stat"))
	login("")

	w.write("home/.config/lx/config.toml", "[environment.small]\ncheck-updates = false\n")
	w.ok("-d", "small", "sh", "-c", "echo 'busybox 1.37.0-r0' >/srv/index; rm /srv/log /etc/lx.toml")
	if out := w.ok("-d", "small", "updates", "--check"); !strings.HasPrefix(out, "1 package is behind") {
		t.Errorf("asked where none is wanted: %s", out)
	}
	login("")
	w.ok("stop", "small")
	w.ok("rename", "small", "tiny")
	if out := w.ok("-d", "tiny", "updates"); !strings.HasPrefix(out, "1 package is behind") {
		t.Errorf("after a rename: %s", out)
	}
}

// checkAPT compares a check with what apt says by its own lists, which have
// just been had, and sees that it left these alone.
func (w *world) checkAPT(name string) {
	w.t.Helper()
	// Not the blocks that files take, which change when they are written out.
	const state = `find /var/lib/apt /var/lib/dpkg /var/cache/apt -printf '%p %s %T@ %U %m\n' | sort`
	before := w.ok("-d", name, "sh", "-c", state)
	r := w.within(3*time.Minute, "-d", name, "updates", "--check", "--json")
	var found struct {
		Manager  string
		Security *int
		Packages []struct{ Name string }
	}
	if err := json.Unmarshal([]byte(r.out), &found); err != nil || r.code != 0 || found.Manager != "apt" || found.Security == nil {
		w.t.Fatalf("a check by apt: %v, %v", err, r)
	}
	if d := cmp.Diff(strings.Split(before, "\n"), strings.Split(w.ok("-d", name, "sh", "-c", state), "\n")); d != "" {
		w.t.Errorf("a check changed apt's own state: %s", d)
	}
	same(w.t, "packages that are behind", fmt.Sprint(len(found.Packages)), w.ok("-d", name, "sh", "-c", `apt-get -s dist-upgrade | grep -c '^Inst [^ ]* \[' || true`))
}
