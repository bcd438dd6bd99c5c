package volumetest

import (
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The verdicts of Run are those of the kernel's own file systems: the one that
// has the temporary directory (ext4 as a rule), and tmpfs.

func TestRunOnDisk(t *testing.T) { runOn(t, os.TempDir()) }

func TestRunOnTmpfs(t *testing.T) { runOn(t, "/dev/shm") }

func runOn(t *testing.T, parent string) {
	dir, err := os.MkdirTemp(parent, "volumetest")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		t.Fatal(err)
	}
	o := Options{RealModes: true}
	if st.Type == unix.TMPFS_MAGIC {
		o.Exceptions = map[string]string{"FallocateZeroRange": "tmpfs allocates and punches holes, no more (shmem_fallocate)"}
	}
	Run(t, dir, o)
}

func TestVerdict(t *testing.T) {
	for _, c := range []struct {
		failures []string
		reason   string
		excepted bool
		want     int
	}{
		{nil, "", false, 0},
		{[]string{"a", "b"}, "", false, 2},
		{[]string{"a", "b"}, "the protocol has no links", true, 0},
		{nil, "the protocol has no links", true, 1},
		{[]string{"a"}, "", true, 1},
	} {
		if got := verdict(c.failures, c.reason, c.excepted); len(got) != c.want {
			t.Errorf("%+v is blamed for %q", c, got)
		}
	}
}

// TestRunOfOne: failures are kept with their line, a fatal one ends the test,
// what is to be done at the end is done, and a test that hangs is given up.
func TestRunOfOne(t *testing.T) {
	ended := 0
	failures := run(t.TempDir(), Options{}, func(t *T) {
		t.atEnd(func() { ended++ })
		t.Errorf("one")
		t.must("two", os.ErrNotExist)
		t.Errorf("three")
	})
	want := regexp.MustCompile(`^suite_test.go:\d+: one,suite_test.go:\d+: two: file does not exist$`)
	if !want.MatchString(strings.Join(failures, ",")) || ended != 1 {
		t.Errorf("failures %q; ended %d times", failures, ended)
	}
	hang := make(chan struct{})
	defer close(hang)
	if got := run(t.TempDir(), Options{Limit: time.Nanosecond}, func(*T) { <-hang }); len(got) == 0 {
		t.Errorf("a test that hangs: %q", got)
	}
}
