// Package runner is the step between the supervisor's fork and a service's
// program: it sets what only the process itself can set, then executes. It is
// this binary in a role of its own, so that the supervisor never runs code
// between fork and exec.
package runner

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/lxbridge/lx/core/service"
)

// Role is the argv[0] that makes the binary a runner.
const Role = "lx-service"

// Descriptors that a runner is born with; sockets to pass on follow.
const (
	specFD    = 3
	statusFD  = 4
	socketsFD = 5
)

// Spec is what to run and as whom.
type Spec struct {
	Argv    []string
	Env     []string
	Dir     string
	Umask   uint32
	Limits  service.Limits
	Creds   *Creds   // nil: as the supervisor
	Sockets []string // names of the sockets passed on (sd_listen_fds(3))
}

// Creds are ids to take.
type Creds struct {
	UID, GID uint32
	Groups   []int
}

// Process is a service's process that was made.
type Process struct {
	PID  int
	Exit <-chan syscall.WaitStatus
	// Executed gives nil when the program runs, else why it does not; once.
	Executed <-chan error
}

// Fork makes a process and gives a channel for how it ends.
type Fork func(path string, argv []string, attr *syscall.ProcAttr) (int, <-chan syscall.WaitStatus, error)

// Start makes a process that runs s, in a session of its own. The files stay
// the caller's. sys may be nil.
func Start(fork Fork, exe string, s Spec, stdin, stdout, stderr *os.File, sockets []*os.File, sys *syscall.SysProcAttr) (Process, error) {
	specR, specW, err := os.Pipe()
	if err != nil {
		return Process{}, err
	}
	defer specR.Close()
	statusR, statusW, err := os.Pipe()
	if err != nil {
		specW.Close()
		return Process{}, err
	}
	defer statusW.Close()
	if sys == nil {
		sys = &syscall.SysProcAttr{}
	}
	sys.Setsid = true
	attr := &syscall.ProcAttr{Dir: "/", Env: []string{"GOMAXPROCS=1"}, Sys: sys}
	for _, f := range append([]*os.File{stdin, stdout, stderr, specR, statusW}, sockets...) {
		attr.Files = append(attr.Files, f.Fd())
	}
	pid, exit, err := fork(exe, []string{Role}, attr)
	if err != nil {
		specW.Close()
		statusR.Close()
		return Process{}, fmt.Errorf("cannot make a process: %w", err)
	}
	executed := make(chan error, 1)
	go func() {
		defer specW.Close()
		defer statusR.Close()
		if err := json.NewEncoder(specW).Encode(s); err != nil {
			executed <- fmt.Errorf("cannot tell the process what to run: %w", err)
			return
		}
		specW.Close()
		why, err := io.ReadAll(io.LimitReader(statusR, 4096))
		if err == nil && len(why) > 0 {
			err = errors.New(string(why))
		}
		executed <- err
	}()
	return Process{PID: pid, Exit: exit, Executed: executed}, nil
}

// Main is the role. It answers an exit code where it could not execute.
func Main() int {
	runtime.LockOSThread()
	unix.CloseOnExec(specFD)
	// Sockets go to where the status comes from.
	fd, err := unix.FcntlInt(statusFD, unix.F_DUPFD_CLOEXEC, 256)
	if err != nil {
		return 125
	}
	unix.Close(statusFD)
	status := os.NewFile(uintptr(fd), "status")
	code, err := run()
	fmt.Fprint(status, err)
	return code
}

func run() (code int, err error) {
	const failed = 125
	var s Spec
	f := os.NewFile(specFD, "spec")
	if err := json.NewDecoder(f).Decode(&s); err != nil {
		return failed, fmt.Errorf("cannot read what to run: %w", err)
	}
	if err := limit(s.Limits); err != nil {
		return failed, err
	}
	unix.Umask(int(s.Umask))
	env := s.Env
	if n := len(s.Sockets); n > 0 {
		env = append(env, "LISTEN_PID="+strconv.Itoa(os.Getpid()), "LISTEN_FDS="+strconv.Itoa(n), "LISTEN_FDNAMES="+strings.Join(s.Sockets, ":"))
	}
	if err := become(s.Creds); err != nil {
		return failed, err
	}
	if err := enter(s.Dir); err != nil {
		return failed, err
	}
	path, err := find(s.Argv[0], env)
	if err != nil {
		return 127, err
	}
	if s.Limits.NoNewPriv {
		if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
			return failed, fmt.Errorf("cannot set no-new-privs: %w", err)
		}
	}
	if err := passSockets(len(s.Sockets)); err != nil {
		return failed, err
	}
	err = syscall.Exec(path, s.Argv, env)
	return 126, fmt.Errorf("cannot run %s: %w", s.Argv[0], err)
}

// passSockets moves the sockets to descriptors from 3 on.
func passSockets(n int) error {
	for i := range n {
		if err := unix.Dup3(socketsFD+i, 3+i, 0); err != nil {
			return fmt.Errorf("cannot pass sockets: %w", err)
		}
	}
	for fd := 3 + n; fd < socketsFD+n; fd++ {
		unix.CloseOnExec(fd)
	}
	return nil
}

func limit(l service.Limits) error {
	for _, r := range []struct {
		name     string
		resource int
		value    *uint64
	}{
		{"files", unix.RLIMIT_NOFILE, l.Files}, {"processes", unix.RLIMIT_NPROC, l.Processes}, {"core", unix.RLIMIT_CORE, l.Core},
		{"memory", unix.RLIMIT_AS, l.Memory}, {"file-size", unix.RLIMIT_FSIZE, l.FileSize}, {"locked", unix.RLIMIT_MEMLOCK, l.Locked}, {"cpu", unix.RLIMIT_CPU, l.CPU},
	} {
		if r.value == nil {
			continue
		}
		if err := unix.Setrlimit(r.resource, &unix.Rlimit{Cur: *r.value, Max: *r.value}); err != nil {
			var now unix.Rlimit
			if unix.Getrlimit(r.resource, &now) == nil && *r.value > now.Max {
				return fmt.Errorf("cannot set limits.%s = %d: the host allows %d", r.name, *r.value, now.Max)
			}
			return fmt.Errorf("cannot set limits.%s = %d: %w", r.name, *r.value, err)
		}
	}
	// A better place than others have is the host's root's to give. Services
	// of distributions ask for it and do without.
	if l.Nice != nil {
		if err := unix.Setpriority(unix.PRIO_PROCESS, 0, *l.Nice); err != nil {
			fmt.Fprintf(os.Stderr, "limits.nice = %d does not take effect: %v\n", *l.Nice, err)
		}
	}
	if l.OOMScore != nil {
		if err := os.WriteFile("/proc/self/oom_score_adj", []byte(strconv.Itoa(*l.OOMScore)), 0); err != nil {
			fmt.Fprintf(os.Stderr, "limits.oom-score = %d does not take effect: %v\n", *l.OOMScore, err)
		}
	}
	return nil
}

func become(c *Creds) error {
	if c == nil {
		return nil
	}
	if err := syscall.Setgroups(c.Groups); err != nil {
		return fmt.Errorf("cannot take the groups of user %d: %w", c.UID, err)
	}
	if err := syscall.Setresgid(int(c.GID), int(c.GID), int(c.GID)); err != nil {
		return fmt.Errorf("cannot take group %d: %w", c.GID, err)
	}
	if err := syscall.Setresuid(int(c.UID), int(c.UID), int(c.UID)); err != nil {
		return fmt.Errorf("cannot become user %d: %w", c.UID, err)
	}
	return nil
}

// enter changes to dir; a leading "-" allows that it is absent.
func enter(dir string) error {
	name, mayMiss := strings.CutPrefix(dir, "-")
	if name == "" {
		return nil
	}
	err := os.Chdir(name)
	if mayMiss && errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot enter dir = %q: %w", name, err)
	}
	return nil
}

// find looks the program up in PATH of env.
func find(name string, env []string) (string, error) {
	for _, e := range env {
		if v, ok := strings.CutPrefix(e, "PATH="); ok {
			if err := os.Setenv("PATH", v); err != nil {
				return "", err
			}
		}
	}
	path, err := exec.LookPath(name)
	if err != nil && !errors.Is(err, exec.ErrDot) {
		var ee *exec.Error
		if errors.As(err, &ee) {
			err = ee.Err
		}
		return "", fmt.Errorf("cannot run %s: %w", name, err)
	}
	return path, nil
}
