package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/lxbridge/lx/integration/nfstest"
)

// A walk over many files takes memory for some of them only, where the kernel
// can be made to forget (Linux 6.18); there are a million with LX_TEST_FULL.
func TestGaneshaTree(t *testing.T) {
	folders := 5 // of 200 files each
	if full() {
		folders = 5000
	}
	w := newWorld(t)
	s := w.nfs(nfstest.Options{})
	w.hold()
	for i := range folders {
		dir := filepath.Join(s.Path(nfstest.Data), fmt.Sprintf("%02d/%d", i%50, i))
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		for j := range 200 {
			if err := os.WriteFile(filepath.Join(dir, strconv.Itoa(j)), nil, 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	dir := s.mount(nfstest.Data, "4.2")
	broker := w.broker()
	before := resident(t, broker)
	began := time.Now()
	same(t, "files", w.mustWithin(10*time.Minute, "find "+dir+" -type f -printf '%s\n' | wc -l"), strconv.Itoa(folders*200))
	after := resident(t, broker)
	t.Logf("%d files in %v; the broker: %d MiB before, %d MiB after", folders*200, time.Since(began).Round(time.Millisecond), before>>20, after>>20)
	if more := (after - before) >> 20; more > 512 {
		t.Errorf("%d MiB more", more)
	}
}

// resident is how much memory a process has, in bytes.
func resident(t *testing.T, pid int) int {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		t.Fatal(err)
	}
	pages, err := strconv.Atoi(strings.Fields(string(b))[1])
	if err != nil {
		t.Fatal(err)
	}
	return pages * os.Getpagesize()
}
