package netns

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/user"
	"slices"
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

// Program is the command as people call it: by the first argument where the
// kernel's 15 letters cut it short, or have only a descriptor's number.
func (p *Process) Program() string {
	if len(p.Args) == 0 {
		return p.Command
	}
	name := p.Args[0][strings.LastIndexByte(p.Args[0], '/')+1:]
	_, err := strconv.Atoi(p.Command)
	if err == nil && name != "" || len(p.Command) == 15 && strings.HasPrefix(name, p.Command) {
		return name
	}
	return p.Command
}

// EnvironmentVar names the lx environment that a session's processes live in.
const EnvironmentVar = "LX_ENVIRONMENT"

// initName is the first argument of an environment's first process; the second
// is the environment's name.
const initName = "lx-init"

// ReadName tells the id, user and program of a process, by the id of any of
// its threads; os.ErrNotExist when it is gone. It is the cheap part of
// ReadProcess.
func ReadName(pid int) (Process, error) {
	p := Process{PID: pid}
	status, err := readFile("/proc/" + strconv.Itoa(pid) + "/status")
	if errors.Is(err, unix.ESRCH) {
		err = os.ErrNotExist
	}
	if err != nil {
		return p, fmt.Errorf("cannot read process %d: %w", pid, err)
	}
	for line := range bytes.Lines(status) {
		key, value, _ := bytes.Cut(line, []byte(":"))
		value = bytes.TrimSpace(value)
		first, _, _ := bytes.Cut(value, []byte("\t"))
		n, nerr := strconv.ParseUint(string(first), 10, 32)
		switch string(key) {
		case "Name":
			p.Command = string(value)
		case "Tgid":
			if nerr == nil && int(n) != pid {
				return ReadName(int(n))
			}
		case "PPid":
			p.PPID = int(n)
		case "Uid":
			p.UID = uint32(n)
			p.User = UserName(p.UID)
			if b, err := readFile("/proc/" + strconv.Itoa(pid) + "/cmdline"); err == nil && len(b) > 0 {
				p.Args = strings.Split(strings.TrimRight(string(b), "\x00"), "\x00")
			}
			return p, nil // the rest of the file is long
		}
	}
	return p, fmt.Errorf("cannot read process %d: malformed status", pid)
}

// ReadProcess tells what may be told of a process, by the id of any of its
// threads; os.ErrNotExist when it is gone.
func ReadProcess(pid int) (Process, error) {
	p, err := ReadName(pid)
	if err != nil {
		return p, err
	}
	dir := "/proc/" + strconv.Itoa(p.PID)
	// The rest is not told of everybody's processes, or not of those that end.
	if b, err := readFile(dir + "/cgroup"); err == nil {
		p.Cgroup = parseCgroup(string(b))
		p.Container = containerOf(p.Cgroup)
	}
	if b, err := readFile(dir + "/environ"); err == nil {
		p.Environment = lookup(b, EnvironmentVar)
	}
	if b, err := readFile(dir + "/stat"); err == nil {
		p.Started = parseStart(string(b))
	}
	return p, nil
}

// readFile is os.ReadFile for the small files of /proc, without the poller.
func readFile(path string) ([]byte, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	b := make([]byte, 0, 4096)
	for {
		n, err := unix.Read(fd, b[len(b):cap(b)])
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return nil, &os.PathError{Op: "read", Path: path, Err: err}
		case n == 0:
			return b, nil
		}
		if b = b[:len(b)+n]; len(b) == cap(b) {
			b = slices.Grow(b, len(b))
		}
	}
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
// an ancestor's, or that it descends from an environment's init. known are
// processes that were read, to which it adds.
func (p *Process) settle(known map[int]*Process) {
	pid := p.PPID
	for range 64 {
		if p.Environment != "" || pid <= 1 {
			return
		}
		a, ok := known[pid]
		if !ok {
			read, err := ReadProcess(pid)
			if err != nil {
				return
			}
			a = &read
			if a.Environment == "" && len(a.Args) == 2 && a.Args[0] == initName {
				a.Environment = a.Args[1]
			}
			known[pid] = a
		}
		p.Environment, pid = a.Environment, a.PPID
	}
}
