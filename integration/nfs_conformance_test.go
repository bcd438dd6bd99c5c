package integration

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/lxbridge/lx/integration/nfstest"
	"github.com/lxbridge/lx/mount/volume/volumetest"
)

// conformance runs the suite of all volumes in a directory: DIR OPTIONS.
func conformance(args []string) error {
	var o volumetest.Options
	if err := json.Unmarshal([]byte(args[1]), &o); err != nil {
		return err
	}
	var failed error
	volumetest.Check(args[0], o, func(name string, failures []string) {
		for _, f := range failures {
			fmt.Printf("%s: %s\n", name, f)
			failed = exitCode(1)
		}
	})
	return failed
}

// conforms runs the suite inside, in a new directory of a mount.
func (w *world) conforms(dir string, o volumetest.Options) {
	w.t.Helper()
	if err := os.Chmod(w.dir, 0o755); err != nil { // other users run in it
		w.t.Fatal(err)
	}
	text, err := json.Marshal(o)
	if err != nil {
		w.t.Fatal(err)
	}
	r := w.within(4*time.Minute, "sh", "-ec", fmt.Sprintf("mkdir %[1]s/suite; %[2]s %[1]s/suite %[3]s", dir, helper("conformance"), quote(string(text))))
	if r.code != 0 {
		w.t.Error(r)
	}
}

// quote makes text one word of the shell's.
func quote(text string) string { return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'" }

// nfsOptions are what the suite may expect of a version.
func nfsOptions(version string) volumetest.Options {
	o := volumetest.Options{RealModes: true, TimeGranularity: 100 * time.Nanosecond, Exceptions: map[string]string{
		"OpenTmpfile":        "FUSE_TMPFILE is not spoken",
		"UnlinkRmdirParent":  "a removed file that is open keeps a hidden name until its last close, as with the kernel's client",
		"RenameExchange":     "the protocol has no flags for renaming",
		"RenameNoReplace":    "the protocol has no flags for renaming",
		"FallocateKeepSize":  "the protocol allocates what lies within a file's size",
		"FallocateZeroRange": "the protocol has no way",
		"RenameOverStorm":    "a file that was replaced between looking it up and opening it is stale, twice: the VFS tries again once",
		"TimesSymlink":       "ganesha sets no times of symbolic links",
		"Xattr":              "ganesha 4 has none", "XattrLarge": "ganesha 4 has none", "XattrMoves": "ganesha 4 has none",
	}}
	if version != "4.2" {
		for _, name := range []string{"Fallocate", "FallocatePunchHole", "SeekHole"} {
			o.Exceptions[name] = "the version knows no holes"
		}
	}
	if runAs.uid != 0 {
		for _, name := range []string{"Chown", "Permission", "Setgid", "Sticky"} {
			o.Exceptions[name] = "there is one user only"
		}
	}
	return o
}

func TestGaneshaConformance(t *testing.T) {
	for _, version := range nfsVersions {
		for _, export := range []string{nfstest.Data, nfstest.RootSquash} {
			if export != nfstest.Data && version != "4.2" && os.Getenv("LX_TEST_FULL") == "" {
				continue
			}
			t.Run(version+" "+export, func(t *testing.T) {
				w := newWorld(t)
				s := w.nfs(nfstest.Options{})
				w.hold()
				o := nfsOptions(version)
				if os.Getenv("LX_TEST_FULL") == "" {
					o.Only = quick
				}
				w.conforms(s.mount(export, version), o)
			})
		}
	}
}

// quick are tests of all that versions and exports may differ in; LX_TEST_FULL=1
// runs the others, too.
var quick = []string{"OpenTruncate", "OpenExclusive", "OpenAppend", "OpenErrors", "UnlinkOpen", "UnlinkHidden", "Rename", "RenameOverOpen",
	"RenameSave", "RenameDirectory", "RenameHardLinks", "HardLink", "HardLinkOpen", "Symlink", "Mknod", "Socket", "ReaddirTypes", "Seekdir",
	"ReaddirWhileDeleting", "Model", "Truncate", "TruncateZeroes", "ReadEnd", "Vectors", "Sparse", "CopyFileRange", "Fallocate", "SeekHole",
	"MmapShared", "MmapGrow", "TimesSet", "InodeNumbers", "Statx", "Chmod", "SetuidWrite", "Umask", "NameLong", "WorkingDirectory",
	"LockPosix", "LockPosixWait", "LockPosixDeath", "LockOFD", "Statfs", "Exec"}
