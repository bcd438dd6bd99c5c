package serve

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lxbridge/lx/mount/volume/volumetest"
)

// without are exceptions that have one reason.
func without(reason string, tests ...string) map[string]string {
	m := map[string]string{}
	for _, t := range tests {
		m[t] = reason
	}
	return m
}

func join(ms ...map[string]string) map[string]string {
	all := without("the server does not speak FUSE_TMPFILE", "OpenTmpfile")
	for _, m := range ms {
		maps.Copy(all, m)
	}
	return all
}

// TestKernel runs the conformance suite on real mounts of a volume in memory.
func TestKernel(t *testing.T) {
	for name, o := range map[string]volumetest.Options{
		"strict": {RealModes: true, Exceptions: join()},
		"none":   {RealModes: true, Exceptions: join()},
		"loose": {RealModes: true, Exceptions: join(
			without("the kernel writes when it likes and does not ask again what a file occupies", "Blocks", "FallocatePunchHole"))},
		"poor": {TimeGranularity: time.Second, Exceptions: join(
			without("no Symlinker", "HardLinkOfSymlink", "RenameSymlink", "Symlink", "SymlinkDangling", "SymlinkLong", "SymlinkLoop",
				"SymlinkNoFollow", "SymlinkOdd", "TimesSymlink"),
			without("no Linker", "HardLink", "HardLinkOpen", "RenameHardLinks"),
			without("no Mknoder", "Mknod", "Socket"),
			without("no Xattrer", "Xattr", "XattrLarge", "XattrMoves"),
			without("no Allocator", "Fallocate", "FallocateKeepSize", "FallocatePunchHole", "FallocateZeroRange"),
			without("no Seeker", "SeekHole"),
			without("a hidden file is in the directory until its last close, as with NFS", "UnlinkRmdirParent"))},
	} {
		t.Run(name, func(t *testing.T) { volumetest.Run(t, mounted(t, name), o) })
	}
}

// fewGetattrs is how many questions for attributes TestAskedLittle's server answers.
const fewGetattrs = 30

// TestAskedLittle: the kernel asks for a directory's attributes after each
// change, to check permissions. The server hears of it only where somebody
// looks at them, who is then told the truth.
func TestAskedLittle(t *testing.T) {
	dir := mounted(t, "asked little")
	modified := func() time.Time {
		t.Helper()
		fi, err := os.Stat(dir)
		if err != nil {
			t.Fatal(err)
		}
		return fi.ModTime()
	}
	last := modified()
	changed := func(what string) {
		t.Helper()
		if now := modified(); !now.After(last) {
			t.Errorf("after %s the directory is of %v still", what, now)
		} else {
			last = now
		}
	}
	files := make([]string, 50)
	for i := range files {
		files[i] = filepath.Join(dir, fmt.Sprint("f", i))
		if err := os.WriteFile(files[i], nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	changed("creating")
	for i, name := range files { // os.Rename looks first
		if err := unix.Rename(name, name+"x"); err != nil {
			t.Fatal(err)
		}
		files[i] += "x"
	}
	changed("renaming")
	for _, name := range files {
		if err := os.Remove(name); err != nil {
			t.Fatal(err)
		}
	}
	changed("removing")
}
