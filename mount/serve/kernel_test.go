package serve

import (
	"maps"
	"testing"
	"time"

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
