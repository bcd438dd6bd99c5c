package env

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lxbridge/lx/core/config"
	"github.com/lxbridge/lx/core/ns"
	"github.com/lxbridge/lx/core/seccomp"
	"github.com/lxbridge/lx/core/service/supervisor"
)

// InitConfig is what the keeper tells init.
type InitConfig struct {
	Map    ns.Map
	Filter seccomp.Options
	// Home and Shell of the user outside: root's inside, where root is the user.
	Home, Shell string
	// With an own root file system, which is mounted on the working directory:
	OwnRoot  bool
	Hostname string
	Env      []string // of the environment, or its image
	// User, UID and GID are the user outside; ids only where they are one inside.
	User     string
	UID, GID uint32
	// Name of the environment, its runtime directory and its services'.
	Name, Runtime string
	Services      ServiceDirs
	// Settings are the user's.
	Settings config.Settings
}

// Descriptors that the keeper gives to init.
const (
	initSocketFD = 3 // SEQPACKET: to and from the keeper
	initConfigFD = 4 // InitConfig as JSON
)

// stopGrace is how long processes have between SIGTERM and SIGKILL.
const stopGrace = 5 * time.Second

// killGrace is how long processes may take to end by SIGKILL.
const killGrace = time.Second

// Init is the first process of an environment. It prepares the mount namespace,
// installs the filter that all its descendants inherit, opens sessions, and
// reaps. It ends when the keeper says so or is gone; the kernel then ends every
// process of its pid namespace. It returns an exit code.
func Init() int {
	link, err := OpenLink(initSocketFD)
	if err != nil {
		return 1
	}
	in := &initProcess{keeper: link, empty: make(chan struct{}, 1), children: map[int]child{}}
	listener, err := in.prepare()
	switch {
	case errors.Is(err, seccomp.ErrNested):
		err = in.keeper.Send(InitNested, "")
	case err != nil:
		if in.keeper.Send(InitFailed, err.Error()) != nil {
			return 2
		}
		return 1
	default:
		err = in.keeper.Send(InitListener, "", listener)
		unix.Close(listener)
	}
	if err != nil {
		return 1
	}
	// Guests may send signals to it, and no default action is to follow. Ignored
	// ones would be ignored in every session too.
	signal.Notify(make(chan os.Signal, 1))
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	if in.cfg.Settings.Init != "" {
		// The broker serves by now what that mounts.
		own, err := in.boot()
		if err != nil {
			_ = in.keeper.Send(InitFailed, err.Error()) // a keeper that is gone needs no reason
			return 1
		}
		go in.followOwnInit(own)
	}
	in.startServices(ctx)
	go in.reap()
	return in.serve(ctx)
}

type initProcess struct {
	keeper   *Link
	cfg      InitConfig
	timeZone string // the host's, as TZ has it
	services *supervisor.Supervisor
	notes    []string      // what is wrong with the environment's own configuration
	empty    chan struct{} // has a token once no process was left

	mu       sync.Mutex
	children map[int]child // whose end somebody waits for
	served   int           // connections whose session is open or over
	opening  int           // connections that may still fork
	wanted   bool          // services have to live on
	own      *ownInit      // the distribution's, where it is booted

	telling sync.WaitGroup // clients to be told how their command ended
}

// child is a process that is waited for.
type child struct {
	done    chan syscall.WaitStatus
	telling bool // its client is told before init ends
}

func (in *initProcess) prepare() (listener int, err error) {
	var cfg InitConfig
	f := os.NewFile(initConfigFD, "config")
	defer f.Close()
	if err := json.NewDecoder(f).Decode(&cfg); err != nil {
		return -1, fmt.Errorf("cannot read the environment's configuration: %w", err)
	}
	in.cfg = cfg
	if cfg.OwnRoot {
		in.timeZone = timeZone()
		err := enterRoot(cfg)
		if err != nil {
			return -1, err
		}
		in.configure()
		if kind := in.cfg.Settings.Init; kind != "" {
			if err := checkOwnInit(kind); err != nil {
				return -1, err
			}
		}
	} else if err := setupMounts(cfg); err != nil {
		return -1, err
	}
	arch, err := seccomp.Native()
	if err != nil {
		return -1, err
	}
	filter, err := seccomp.Assemble(arch, cfg.Filter)
	if err != nil {
		return -1, err
	}
	return seccomp.Install(filter)
}

// serve takes connections from the keeper until it says stop or is gone.
func (in *initProcess) serve(ctx context.Context) int {
	for {
		m, err := in.keeper.Receive()
		if err != nil {
			return 0
		}
		switch m.Letter {
		case LinkStop:
			in.end()
			return 0
		case LinkConn:
			c, err := m.Conn()
			in.mu.Lock()
			in.opening++
			in.mu.Unlock()
			if err != nil {
				in.opened()
				continue
			}
			if m.Text == string(rune(ToServices)) {
				go in.control(ctx, c)
				continue
			}
			go in.session(c)
		}
	}
}

// end stops services and processes, and returns when clients know.
func (in *initProcess) end() {
	in.stopServices()
	in.powerOff()
	in.stopAll()
	in.telling.Wait()
}

// opened counts a connection that will not fork any more and tells the keeper
// when nothing is left to do.
func (in *initProcess) opened() {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.opening--
	in.served++
	in.tellIdle()
}

// tellIdle needs mu.
func (in *initProcess) tellIdle() {
	if in.opening > 0 || len(in.children) > 0 || in.wanted {
		return
	}
	var si unix.Siginfo
	// ECHILD: no process is left. WNOWAIT leaves zombies to reap.
	if err := unix.Waitid(unix.P_ALL, 0, &si, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil); errors.Is(err, unix.ECHILD) {
		// A keeper that is gone is seen by serve.
		_ = in.keeper.Send(InitIdle, fmt.Sprint(in.served))
		select {
		case in.empty <- struct{}{}:
		default:
		}
	}
}

// stopAll gives all processes SIGTERM and time to follow it.
func (in *initProcess) stopAll() {
	select {
	case <-in.empty:
	default:
	}
	kill(-1, unix.SIGTERM)
	kill(-1, unix.SIGCONT)
	in.mu.Lock()
	in.tellIdle()
	in.mu.Unlock()
	select {
	case <-in.empty:
		return
	case <-time.After(stopGrace):
	}
	kill(-1, unix.SIGKILL)
	select {
	case <-in.empty:
	case <-time.After(killGrace): // the kernel kills the rest when it can
	}
}

// reap waits for every child, own and adopted.
func (in *initProcess) reap() {
	sigs := make(chan os.Signal, 1)
	signal.Notify(sigs, unix.SIGCHLD)
	for {
		for {
			in.mu.Lock()
			var ws syscall.WaitStatus
			pid, err := syscall.Wait4(-1, &ws, syscall.WNOHANG, nil)
			if errors.Is(err, syscall.EINTR) {
				in.mu.Unlock()
				continue
			}
			if err != nil || pid == 0 {
				in.tellIdle()
				in.mu.Unlock()
				break
			}
			if c, ok := in.children[pid]; ok {
				delete(in.children, pid)
				if c.telling {
					in.telling.Add(1)
				}
				c.done <- ws
			}
			in.mu.Unlock()
			in.services.Reaped()
		}
		<-sigs
	}
}

// kill sends a signal; whom it does not find has ended.
func kill(pid int, sig syscall.Signal) { _ = unix.Kill(pid, sig) }

// answer tells a client, which may be gone.
func answer(c *net.UnixConn, e event) error { return json.NewEncoder(c).Encode(e) }

// session runs one command for a client.
func (in *initProcess) session(c *net.UnixConn) {
	defer c.Close()
	s, files, err := readSpec(c)
	if err != nil {
		_ = answer(c, event{Error: err.Error(), Code: ExitFailed})
		in.opened() // not before: the environment may end then
		return
	}
	pid, done, err := in.start(s, files)
	closeAll(files)
	if err != nil {
		_ = answer(c, event{Error: err.Error(), Code: execCode(err)})
		in.opened()
		return
	}
	in.opened()
	if answer(c, event{PID: pid}) != nil {
		kill(-pid, unix.SIGHUP)
		<-done
		in.telling.Done()
		return
	}
	// The client's commands end with the client; a session that outlives its
	// client is hung up, as a terminal would do it.
	ended := make(chan struct{})
	go func() {
		dec := json.NewDecoder(c)
		for {
			var cmd command
			if err := dec.Decode(&cmd); err != nil {
				break
			}
			if cmd.Signal > 0 {
				kill(-pid, cmd.Signal)
			}
		}
		select {
		case <-ended:
		default:
			kill(-pid, unix.SIGHUP)
			kill(-pid, unix.SIGCONT)
		}
	}()
	ws := <-done
	close(ended)
	_ = answer(c, event{Exited: true, Status: int(ws)})
	in.telling.Done()
}

func execCode(err error) int {
	switch {
	case errors.Is(err, exec.ErrNotFound), errors.Is(err, unix.ENOENT):
		return ExitNotFound
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.ENOEXEC), errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.EISDIR):
		return ExitCannotExec
	}
	return ExitFailed
}

// start forks the session's command.
func (in *initProcess) start(s Spec, files []*os.File) (pid int, done <-chan syscall.WaitStatus, err error) {
	var credential *syscall.Credential
	if in.cfg.OwnRoot {
		if credential, err = in.login(&s); err != nil {
			return 0, nil, err
		}
	}
	s.Env = mergeEnv(in.cfg.Env, s.Env, in.variables())
	dir := s.Dir
	if unix.Access(dir, unix.X_OK) != nil {
		dir = "/"
	}
	in.awaitOwnInit()
	in.awaitMounts()
	if len(s.Argv) == 0 {
		return 0, nil, errors.New("cannot start the session: no command")
	}
	path, err := lookPath(s.Argv[0], dir, s.Env)
	if err != nil {
		return 0, nil, err
	}
	argv := s.Argv
	if s.Arg0 != "" {
		argv = append([]string{s.Arg0}, s.Argv[1:]...)
	}
	attr := &syscall.ProcAttr{Dir: dir, Env: s.Env, Sys: &syscall.SysProcAttr{Setsid: true, Credential: credential}}
	for _, f := range files {
		attr.Files = append(attr.Files, f.Fd())
	}
	if s.Terminal {
		attr.Sys.Setctty, attr.Sys.Ctty = true, 0
	}
	if s.UID != 0 {
		if err := asUser(attr.Sys, s.UID, s.GID); err != nil {
			return 0, nil, err
		}
	}
	pid, end, err := in.fork(path, argv, attr, s.Umask, true)
	if err != nil {
		return 0, nil, fmt.Errorf("cannot run %s: %w", s.Argv[0], err)
	}
	return pid, end, nil
}

// fork makes a process, which is known before it can be reaped.
func (in *initProcess) fork(path string, argv []string, attr *syscall.ProcAttr, umask int, telling bool) (int, <-chan syscall.WaitStatus, error) {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.forkIn(in.own, path, argv, attr, umask, telling)
}

// forkIn needs mu. With own, the process is made in the distribution's namespaces.
func (in *initProcess) forkIn(own *ownInit, path string, argv []string, attr *syscall.ProcAttr, umask int, telling bool) (pid int, ended <-chan syscall.WaitStatus, err error) {
	done := make(chan syscall.WaitStatus, 1)
	fork := func() {
		old := unix.Umask(umask)
		pid, err = syscall.ForkExec(path, argv, attr)
		unix.Umask(old)
	}
	if own == nil {
		fork()
	} else if !own.do(fork) {
		err = fmt.Errorf("%s boots again", own.kind)
	}
	if err != nil {
		return 0, nil, err
	}
	in.children[pid] = child{done: done, telling: telling}
	if telling { // a service's are set by its runner
		limitProcess(pid, in.cfg.Settings.Limits)
	}
	return pid, done, nil
}

// asUser puts the command into a user namespace where uid is what root is here.
func asUser(attr *syscall.SysProcAttr, uid, gid uint32) error {
	read := func(path string) ([]ns.Extent, error) {
		f, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		return ns.ParseMap(f)
	}
	us, err := read("/proc/self/uid_map")
	if err != nil {
		return err
	}
	gs, err := read("/proc/self/gid_map")
	if err != nil {
		return err
	}
	attr.Cloneflags |= unix.CLONE_NEWUSER
	attr.UidMappings, attr.GidMappings = ns.Map{UID: us, GID: gs}.Keep(uid, gid).SysProcIDMaps()
	return nil
}

// defaultPath is root's PATH where none is given.
const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// lookPath finds the program as execvp(3) would with env's PATH, from dir.
func lookPath(name, dir string, env []string) (string, error) {
	if strings.Contains(name, "/") {
		return name, nil
	}
	path := defaultPath
	for _, e := range env {
		if v, ok := strings.CutPrefix(e, "PATH="); ok {
			path = v
		}
	}
	denied := false
	for _, d := range filepath.SplitList(path) {
		p := filepath.Join(d, name)
		if !filepath.IsAbs(p) {
			p = filepath.Join(dir, p)
		}
		st, err := os.Stat(p)
		switch {
		case err != nil || st.IsDir():
		case unix.Access(p, unix.X_OK) != nil:
			denied = true
		default:
			return p, nil
		}
	}
	if denied {
		return "", fmt.Errorf("cannot run %s: %w", name, unix.EACCES)
	}
	return "", fmt.Errorf("cannot run %s: %w", name, exec.ErrNotFound)
}
