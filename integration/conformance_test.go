package integration

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/lxbridge/lx/integration/smbtest"
	"github.com/lxbridge/lx/mount/volume/volumetest"
)

// conformanceVar makes the test binary, inside, the conformance suite on the
// directory that it names.
const conformanceVar = "LX_TEST_CONFORMANCE"

// shareExceptions are the tests that a share cannot pass, by the reason.
var shareExceptions = map[string][]string{
	"the transport knows no hard links (FileLinkInformation)":            {"HardLink", "HardLinkOfSymlink", "HardLinkOpen", "RenameHardLinks"},
	"the transport knows no extended attributes (FileFullEaInformation)": {"Xattr", "XattrLarge", "XattrMoves"},
	"the transport knows no FSCTL for holes and ranges":                  {"Fallocate", "FallocateKeepSize", "FallocatePunchHole", "FallocateZeroRange", "SeekHole"},
	"SMB has neither FIFOs nor sockets; the kernel's cifs says EPERM":    {"Mknod", "Socket"},
	"SMB tells no number of links of directories":                        {"DirectoryLinks"},
	"names are Unicode":                                            {"NameBytes"},
	"the server does not speak FUSE_TMPFILE":                       {"OpenTmpfile"},
	"SMB exchanges no names":                                       {"RenameExchange"},
	"the transport's rename always replaces, so this is refused":   {"RenameNoReplace"},
	"a Minshall+French link holds 1024 bytes":                      {"SymlinkLong"},
	"a removed open file is in the directory until its last close": {"UnlinkRmdirParent"},
}

// TestConformance runs the suite that every volume passes inside lx, on a
// mount of a real server. Inside, it is the suite.
func TestConformance(t *testing.T) {
	if dir := os.Getenv(conformanceVar); dir != "" {
		o := volumetest.Options{TimeGranularity: 100 * time.Nanosecond, Stale: true, Limit: 5 * time.Minute, Exceptions: map[string]string{}}
		for reason, tests := range shareExceptions {
			for _, test := range tests {
				o.Exceptions[test] = reason
			}
		}
		volumetest.Run(t, dir, o)
		return
	}
	t.Parallel() // most of it waits for the server
	w := newWorld(t)
	s := w.share(smbtest.Options{})
	dir := s.mount("mfsymlinks")
	r := w.within(8*time.Minute, "sh", "-c", conformanceVar+"="+dir+" "+helperPath+" -test.run '^TestConformance$' -test.v")
	if r.code != 0 {
		t.Errorf("exit code %d\n%s", r.code, r.err)
	}
	for line := range strings.Lines(r.out) {
		if r.code != 0 && !strings.Contains(line, "=== RUN") && !strings.Contains(line, "--- PASS") {
			t.Log(strings.TrimSuffix(line, "\n"))
		}
	}
	w.must("umount " + dir)
}
