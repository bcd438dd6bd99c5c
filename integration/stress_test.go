package integration

import (
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/lxbridge/lx/integration/smbtest"
)

// stressFailures are the stressors of stress-ng's file system class that fail
// on a share, and why. Those that find a feature missing skip themselves.
var stressFailures = map[string]string{
	"access":  "modes are those of file_mode and dir_mode: SMB without POSIX extensions carries none",
	"symlink": "SMB has no symbolic links unless mfsymlinks stores them in files",
	"fsize":   "it writes beyond what the server's file system can hold, and the late refusal reaches its truncate",
}

// TestStress runs the file system class of stress-ng on a share.
func TestStress(t *testing.T) {
	t.Parallel() // it takes a second for each stressor, most of it on one core
	w := newWorld(t)
	s := w.share(smbtest.Options{})
	dir := s.mount()
	broker := w.broker()
	r := w.within(4*time.Minute, "sh", "-c", "cd "+dir+"; stress-ng --class filesystem --sequential 1 --timeout 1s --temp-path "+dir+" --verify 2>&1; sync -f .; ls -A")
	if !strings.Contains(r.out, "run completed") {
		t.Fatalf("stress-ng did not complete: %v", r)
	}
	for _, m := range regexp.MustCompile(`process \[\d+\] \((.*?)\) terminated with an error`).FindAllStringSubmatch(r.out, -1) {
		if why, known := stressFailures[m[1]]; known {
			t.Logf("%s fails: %s", m[1], why)
			continue
		}
		t.Errorf("stressor %s failed:\n%s", m[1], strings.Join(regexp.MustCompile(`.*`+m[1]+`: .*`).FindAllString(r.out, -1), "\n"))
	}
	same(t, "broker", w.broker(), broker)
	if last := tail(r.out, 2); !strings.Contains(last, "completed") {
		t.Errorf("files are left: %s", last)
	}
	w.must("umount " + dir)
}
