package integration

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
)

// process is a line of the process table.
type process struct {
	pid, parent int
	state       byte
	began       string // in ticks; with pid it names the process for ever
}

// readProcess answers false for a process that is gone.
func readProcess(pid int) (process, bool) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return process{}, false
	}
	end := bytes.LastIndexByte(b, ')')
	f := strings.Fields(string(b[end+1:]))
	if end < 0 || len(f) < 20 {
		return process{}, false
	}
	parent, err := strconv.Atoi(f[1])
	if err != nil {
		return process{}, false
	}
	return process{pid, parent, f[0][0], f[19]}, true
}

// alive is false for zombies too: who adopted them may never wait for them.
func (p process) alive() bool {
	now, ok := readProcess(p.pid)
	return ok && now.began == p.began && now.state != 'Z'
}

func processes(t testing.TB) []process {
	t.Helper()
	names, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	var all []process
	for _, n := range names {
		if pid, err := strconv.Atoi(n.Name()); err == nil {
			if p, ok := readProcess(pid); ok {
				all = append(all, p)
			}
		}
	}
	return all
}

// tree is a process and all that descend from it.
func tree(t testing.TB, pid int) []process {
	t.Helper()
	children, self := map[int][]process{}, []process(nil)
	for _, p := range processes(t) {
		children[p.parent] = append(children[p.parent], p)
		if p.pid == pid {
			self = append(self, p)
		}
	}
	for i := 0; i < len(self); i++ {
		self = append(self, children[self[i].pid]...)
	}
	return self
}

// cmdline is the arguments with blanks between; empty where there are none.
func cmdline(pid int) string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(strings.ReplaceAll(string(b), "\x00", " "))
}
