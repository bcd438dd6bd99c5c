package mount

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// mountPoints finds in the text of a mountinfo file (proc_pid_mountinfo(5))
// where the file systems of device numbers are mounted, the last one first.
func mountPoints(text string) map[uint64][]string {
	points := map[uint64][]string{}
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) < 5 {
			continue
		}
		majorText, minorText, _ := strings.Cut(f[2], ":")
		major, err1 := strconv.ParseUint(majorText, 10, 32)
		minor, err2 := strconv.ParseUint(minorText, 10, 32)
		if err1 != nil || err2 != nil {
			continue
		}
		dev := unix.Mkdev(uint32(major), uint32(minor))
		points[dev] = append([]string{unescape(f[4])}, points[dev]...)
	}
	return points
}

// unescape undoes the kernel's \ooo for blanks, newlines and backslashes.
func unescape(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// targets finds where guests see file systems, in every mount namespace that a
// process of ours is in. Processes that end meanwhile are passed over.
func targets() (map[uint64]string, error) {
	procs, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("cannot list processes: %w", err)
	}
	found, seen := map[uint64]string{}, map[string]bool{}
	for _, p := range procs {
		if _, err := strconv.Atoi(p.Name()); err != nil {
			continue
		}
		ns, err := os.Readlink("/proc/" + p.Name() + "/ns/mnt")
		if err != nil || seen[ns] {
			continue
		}
		seen[ns] = true
		text, err := os.ReadFile("/proc/" + p.Name() + "/mountinfo")
		if err != nil {
			seen[ns] = false
			continue
		}
		for dev, points := range mountPoints(string(text)) {
			if _, ok := found[dev]; !ok {
				found[dev] = points[0]
			}
		}
	}
	return found, nil
}
