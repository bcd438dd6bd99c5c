package netns

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/user"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Process is a holder of sockets, or an ancestor of one.
type Process struct {
	PID         int       `json:"pid"`
	PPID        int       `json:"ppid"`
	UID         uint32    `json:"uid"`
	User        string    `json:"user"`
	Command     string    `json:"command"`
	Args        []string  `json:"args,omitempty"`
	Cgroup      string    `json:"cgroup,omitempty"`
	Container   Container `json:"container,omitzero"`
	Environment string    `json:"environment,omitempty"` // of lx
	Started     time.Time `json:"started,omitzero"`
}

// Program is the command as people call it: the file's name of a script's
// interpreter where the kernel's 15 letters cut it short.
func (p *Process) Program() string {
	if len(p.Command) == 15 && len(p.Args) > 0 {
		name := p.Args[0][strings.LastIndexByte(p.Args[0], '/')+1:]
		if strings.HasPrefix(name, p.Command) {
			return name
		}
	}
	return p.Command
}

// EnvironmentVar names the lx environment that a session's processes live in.
const EnvironmentVar = "LX_ENVIRONMENT"

// The names of lx's own processes, by which an environment is recognised.
const initName = "lx-init"

// ReadProcess tells what may be told of a process, by the id of any of its
// threads; os.ErrNotExist when it is gone.
func ReadProcess(pid int) (Process, error) {
	p := Process{PID: pid}
	dir := "/proc/" + strconv.Itoa(pid)
	status, err := os.ReadFile(dir + "/status")
	if errors.Is(err, unix.ESRCH) {
		err = os.ErrNotExist
	}
	if err != nil {
		return p, fmt.Errorf("cannot read process %d: %w", pid, err)
	}
	for line := range bytes.Lines(status) {
		key, value, _ := strings.Cut(strings.TrimSpace(string(line)), ":")
		field := strings.Fields(value)
		if len(field) == 0 {
			continue
		}
		switch key {
		case "Tgid":
			if n, err := strconv.Atoi(field[0]); err == nil && n != pid {
				return ReadProcess(n)
			}
		case "Name":
			p.Command = strings.TrimSpace(value)
		case "PPid":
			p.PPID, _ = strconv.Atoi(field[0]) // the kernel's own number
		case "Uid":
			n, _ := strconv.ParseUint(field[0], 10, 32)
			p.UID = uint32(n)
		}
	}
	p.User = UserName(p.UID)
	// The rest is not told of everybody's processes, or not of those that end.
	if b, err := os.ReadFile(dir + "/cmdline"); err == nil && len(b) > 0 {
		p.Args = strings.Split(strings.TrimRight(string(b), "\x00"), "\x00")
	}
	if b, err := os.ReadFile(dir + "/cgroup"); err == nil {
		p.Cgroup = parseCgroup(string(b))
		p.Container = containerOf(p.Cgroup)
	}
	if b, err := os.ReadFile(dir + "/environ"); err == nil {
		p.Environment = lookup(b, EnvironmentVar)
	}
	if b, err := os.ReadFile(dir + "/stat"); err == nil {
		p.Started = parseStart(string(b))
	}
	return p, nil
}

// lookup finds a variable in the text of an environment.
func lookup(environ []byte, name string) string {
	for entry := range bytes.SplitSeq(environ, []byte{0}) {
		if value, ok := bytes.CutPrefix(entry, []byte(name+"=")); ok {
			return string(value)
		}
	}
	return ""
}

// parseCgroup chooses from /proc/PID/cgroup: cgroup2's path, else the first
// other that is not the root.
func parseCgroup(text string) string {
	best := ""
	for line := range strings.Lines(text) {
		part := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(part) < 3 || part[2] == "/" {
			continue
		}
		if part[0] == "0" {
			return part[2]
		}
		if best == "" {
			best = part[2]
		}
	}
	return best
}

var boot = sync.OnceValue(func() time.Time {
	var now unix.Timespec
	if unix.ClockGettime(unix.CLOCK_BOOTTIME, &now) != nil {
		return time.Time{}
	}
	return time.Now().Add(-time.Duration(now.Nano())).Round(0) // no monotonic part
})

// parseStart is field 22 of /proc/PID/stat, in ticks of 10 ms since boot.
func parseStart(stat string) time.Time {
	i := strings.LastIndexByte(stat, ')') // the command may have blanks
	field := strings.Fields(stat[i+1:])
	if i < 0 || len(field) < 20 {
		return time.Time{}
	}
	ticks, err := strconv.ParseInt(field[19], 10, 64)
	if err != nil || boot().IsZero() {
		return time.Time{}
	}
	return boot().Add(time.Duration(ticks) * 10 * time.Millisecond)
}

var userNames sync.Map // uint32 to string

// UserName is the user's name, else its number.
func UserName(uid uint32) string {
	if name, ok := userNames.Load(uid); ok {
		return name.(string)
	}
	name := strconv.FormatUint(uint64(uid), 10)
	if u, err := user.LookupId(name); err == nil {
		name = u.Username
	}
	userNames.Store(uid, name)
	return name
}

// Ancestry is the process and its parents, the nearest first.
func Ancestry(pid int) []Process {
	var all []Process
	for pid > 0 && len(all) < 64 {
		p, err := ReadProcess(pid)
		if err != nil {
			break
		}
		all = append(all, p)
		pid = p.PPID
	}
	return all
}

// settle finds the environment of a process whose variables do not tell it:
// an ancestor's, or that it descends from an environment's init.
func (p *Process) settle() {
	if p.Environment != "" {
		return
	}
	for _, a := range Ancestry(p.PPID) {
		if a.Environment != "" {
			p.Environment = a.Environment
			return
		}
		if len(a.Args) > 0 && a.Args[0] == initName {
			p.Environment = "lx"
			return
		}
	}
}
