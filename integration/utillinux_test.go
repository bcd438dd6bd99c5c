package integration

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// newMount is mount(8) of Debian 13's util-linux, which uses the new mount
// API; umount(8) stands beside it.
func newMount(t testing.TB) string {
	t.Helper()
	dir, err := utilLinux()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, "mount-2.41")
}

// utilLinux fetches the packages once, unpacks them into the cache and makes
// commands of them in a directory that every user can reach.
var utilLinux = sync.OnceValues(func() (string, error) {
	cache, done, err := openCache()
	if err != nil {
		return "", err
	}
	defer done()
	root := filepath.Join(cache, "util-linux-trixie")
	if _, err := os.Stat(filepath.Join(root, "usr/bin/mount")); err != nil {
		if err := fetchUtilLinux(root); err != nil {
			return "", fmt.Errorf("cannot fetch util-linux 2.41 (it lies in Debian 13's package mount): %w", err)
		}
	}
	dir := filepath.Join(filepath.Dir(lxPath), "util-linux")
	script := `set -e
mkdir -p ` + dir + `/lib
cp "$1"/usr/bin/mount "$1"/usr/bin/umount ` + dir + `
cp "$1"/usr/lib/*-linux-gnu/*.so.* ` + dir + `/lib
for p in mount umount; do
	printf '#!/bin/sh\nexec %s --library-path %s %s "$@"\n' ` + dir + `/lib/ld-linux-*.so.* ` + dir + `/lib ` + dir + `/$p > ` + dir + `/$p-2.41
	chmod 755 ` + dir + `/$p-2.41
done`
	return dir, shell(script, root)
})

// fetchUtilLinux uses an apt of its own state, with the mirror of the host's.
func fetchUtilLinux(root string) error {
	work := root + ".fetch"
	script := `set -e
rm -rf "$2"; mkdir -p "$2"/state/lists/partial "$2"/cache/archives/partial "$2"/out
cd "$2"
mirror=$(apt-get indextargets --format '$(SITE) $(COMPONENT)' 'Created-By: Packages' | awk '$2 == "main" && !/security/ { print $1; exit }')
echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror trixie main" > sources.list
cat > apt.conf <<-EOF
	Dir::State "$2/state";
	Dir::State::status "/dev/null";
	Dir::Cache "$2/cache";
	Dir::Etc::sourcelist "$2/sources.list";
	Dir::Etc::sourceparts "-";
	APT::Sandbox::User "";
	Acquire::Languages "none";
	Acquire::Retries "3";
	Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
EOF
export APT_CONFIG="$2/apt.conf"
apt-get -q update
apt-get -q download mount libmount1 libblkid1 libselinux1 libpcre2-8-0 libc6 libsmartcols1
for p in *.deb; do dpkg -x "$p" out; done
rm -rf "$1"; mv out "$1"; cd /; rm -rf "$2"`
	return shell(script, root, work)
}

func shell(script string, args ...string) error {
	out, err := exec.Command("sh", append([]string{"-c", script, "sh"}, args...)...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w: %s", err, strings.TrimSpace(string(out)))
	}
	return nil
}
