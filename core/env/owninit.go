package env

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lxbridge/lx/core/config"
)

// A distribution's own init has to be the first process of a pid namespace. Lx's
// stays the first of the environment, opens sessions and reaps; the
// distribution's is the first of a pid namespace below, with a mount namespace of
// its own and, for systemd, the delegated control group as the root of a cgroup
// namespace. One thread of lx's init lives in these, and forks all sessions and
// services into them.

// RoleBoot is the step between that fork and the distribution's init.
const RoleBoot = "lx-boot"

// bootStatusFD takes why a boot failed, from RoleBoot; nothing where it did not.
const bootStatusFD = 3

// ownInit is the distribution's init that runs.
type ownInit struct {
	kind  string
	calls chan func()   // done by the thread inside
	left  chan struct{} // closed: that thread ends
	up    chan struct{} // closed when it has come up, or does not say
	pid   int
	done  <-chan syscall.WaitStatus
	gone  chan struct{} // closed when done has been heard
}

// do has f done by the thread inside; false where that has ended.
func (o *ownInit) do(f func()) bool {
	over := make(chan struct{})
	select {
	case o.calls <- func() { f(); close(over) }:
		<-over
		return true
	case <-o.left:
		return false
	}
}

// boot starts the distribution's init.
func (in *initProcess) boot() (*ownInit, error) {
	o := &ownInit{kind: in.cfg.Settings.Init, calls: make(chan func()), left: make(chan struct{}), up: make(chan struct{}), gone: make(chan struct{})}
	go func() {
		runtime.LockOSThread() // for ever: nothing else may run where this thread has been
		for {
			select {
			case f := <-o.calls:
				f()
			case <-o.left:
				return
			}
		}
	}()
	var err error
	o.do(func() { err = o.enter() })
	if err == nil {
		err = in.forkOwnInit(o)
	}
	if err != nil {
		close(o.left)
		return nil, fmt.Errorf("cannot boot %s: %w", o.kind, err)
	}
	in.mu.Lock()
	in.own = o
	in.mu.Unlock()
	return o, nil
}

// enter moves the calling thread to namespaces of the distribution's own.
func (o *ownInit) enter() error {
	if err := unix.Unshare(unix.CLONE_NEWNS | unix.CLONE_NEWCGROUP); err != nil {
		return fmt.Errorf("cannot make namespaces: %w", err)
	}
	if o.kind != config.InitSystemd {
		return nil
	}
	if err := unix.Mount("cgroup2", "/sys/fs/cgroup", "cgroup2", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("cannot mount control groups: %w", err)
	}
	return nil
}

// forkOwnInit makes the process and has what is forked later follow it.
func (in *initProcess) forkOwnInit(o *ownInit) error {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer null.Close()
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	env := bootEnv(o.kind)
	if o.kind == config.InitSystemd {
		if err := o.listen(in.cfg.Services.Run); err != nil {
			return err
		}
		env = append(env, "NOTIFY_SOCKET="+filepath.Join(in.cfg.Services.Run, bootSocket))
	} else {
		close(o.up)
	}
	attr := &syscall.ProcAttr{Dir: "/", Env: env, Files: []uintptr{null.Fd(), null.Fd(), null.Fd(), w.Fd()},
		Sys: &syscall.SysProcAttr{Setsid: true, Cloneflags: unix.CLONE_NEWPID}}
	in.mu.Lock()
	o.pid, o.done, err = in.forkIn(o, "/proc/self/exe", []string{RoleBoot}, attr, 0o022, false)
	in.mu.Unlock()
	w.Close()
	if err != nil {
		return err
	}
	// Not before the pid namespace has its first process.
	o.do(func() {
		var fd int
		if fd, err = unix.PidfdOpen(o.pid, 0); err == nil {
			err = errors.Join(unix.Setns(fd, unix.CLONE_NEWPID), unix.Close(fd))
		}
	})
	if err != nil {
		return fmt.Errorf("cannot enter its namespace: %w", err)
	}
	why, err := io.ReadAll(io.LimitReader(r, 4096))
	if err == nil && len(why) > 0 {
		err = errors.New(string(why))
	}
	return err
}

// bootSocket is where systemd says that it is up, in the directory of notify sockets.
const bootSocket = "boot"

// listen has up closed when systemd has started all that it starts (sd_notify(3)).
func (o *ownInit) listen(dir string) error {
	path := filepath.Join(dir, bootSocket)
	err := os.MkdirAll(dir, 0o755)
	if err == nil {
		err = os.Remove(path)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return err
	}
	go func() {
		defer close(o.up)
		b := make([]byte, 4096)
		for {
			n, err := c.Read(b)
			if err != nil || slices.Contains(strings.Split(string(b[:n]), "\n"), "READY=1") {
				break
			}
		}
	}()
	go func() {
		select {
		case <-o.up:
		case <-o.gone:
		case <-o.left:
		}
		c.Close()
	}()
	return nil
}

// bootLimit is how long a session waits for the distribution to come up.
const bootLimit = 30 * time.Second

// awaitOwnInit returns when the distribution's init is up, if there is one.
func (in *initProcess) awaitOwnInit() {
	in.mu.Lock()
	o := in.own
	in.mu.Unlock()
	if o == nil {
		return
	}
	late := time.NewTimer(bootLimit)
	defer late.Stop()
	select {
	case <-o.up:
	case <-o.gone:
	case <-late.C:
	}
}

// bootEnv is an init's environment, by which it knows that it is in a container
// (systemd's CONTAINER_INTERFACE). OpenRC knows some by name only.
func bootEnv(kind string) []string {
	container := "lx"
	if kind == config.InitOpenRC {
		container = "lxc"
	}
	return []string{"PATH=" + defaultPath, "TERM=linux", "container=" + container}
}

// Boot is RoleBoot: it gives the new pid namespace its /proc and becomes the
// distribution's init. It returns an exit code where it could not.
func Boot() int {
	unix.CloseOnExec(bootStatusFD)
	// Units that would load modules or see to the hardware know by this that they
	// cannot; in a user namespace these rights are worth nothing.
	for _, c := range []uintptr{unix.CAP_SYS_MODULE, unix.CAP_SYS_RAWIO} {
		_ = unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0)
	}
	err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "")
	if err != nil {
		err = fmt.Errorf("cannot mount /proc: %w", err)
	} else {
		err = fmt.Errorf("cannot run /sbin/init: %w", syscall.Exec("/sbin/init", []string{"/sbin/init"}, os.Environ()))
	}
	fmt.Fprint(os.NewFile(bootStatusFD, "status"), err)
	return ExitFailed
}

// checkOwnInit refuses what cannot be booted as the init that the user says.
func checkOwnInit(kind string) error {
	to, err := filepath.EvalSymlinks("/sbin/init")
	if err != nil {
		return fmt.Errorf("init = %q: the environment has no /sbin/init: without that key, install it there (on Debian  apt-get install systemd-sysv)", kind)
	}
	if is := strings.Contains(filepath.Base(to), config.InitSystemd); is != (kind == config.InitSystemd) {
		return fmt.Errorf("init = %q: the environment's /sbin/init is %s", kind, to)
	}
	return nil
}

// ownInitGrace is how long a distribution may take to go down.
const ownInitGrace = 30 * time.Second

// systemdPowerOff is SIGRTMIN+4, as the C library counts (systemd(1), "Signals").
const systemdPowerOff = syscall.Signal(34 + 4)

// powerOff has the distribution's init go down.
func (in *initProcess) powerOff() {
	in.mu.Lock()
	o := in.own
	in.own, in.wanted = nil, false
	in.mu.Unlock()
	if o == nil {
		return
	}
	select {
	case <-o.gone:
		return
	default:
	}
	if o.kind == config.InitSystemd {
		kill(o.pid, systemdPowerOff)
	} else if null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0); err == nil {
		attr := &syscall.ProcAttr{Dir: "/", Env: bootEnv(o.kind), Files: []uintptr{null.Fd(), null.Fd(), null.Fd()}, Sys: &syscall.SysProcAttr{Setsid: true}}
		// One that has no poweroff(8) is killed below.
		in.mu.Lock()
		_, _, _ = in.forkIn(o, "/sbin/poweroff", []string{"poweroff"}, attr, 0o022, false)
		in.mu.Unlock()
		null.Close()
	}
	select {
	case <-o.gone:
	case <-time.After(ownInitGrace):
		kill(o.pid, unix.SIGKILL)
	}
}

// followOwnInit boots again when the distribution's init ends by a reboot, and
// else ends the environment as a machine that is switched off.
func (in *initProcess) followOwnInit(o *ownInit) {
	for {
		ws := <-o.done
		close(o.gone)
		in.mu.Lock()
		mine := in.own == o
		in.mu.Unlock()
		if !mine {
			return // powerOff's
		}
		// reboot(2), "Behavior inside PID namespaces".
		if !ws.Signaled() || ws.Signal() != unix.SIGHUP {
			fmt.Fprintf(os.Stderr, "%s has ended: %s\n", o.kind, waitText(ws))
			in.end()
			os.Exit(0)
		}
		close(o.left)
		var err error
		if o, err = in.boot(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			in.end()
			os.Exit(0)
		}
	}
}

func waitText(ws syscall.WaitStatus) string {
	if ws.Signaled() {
		return "signal " + unix.SignalName(ws.Signal())
	}
	return fmt.Sprintf("exit code %d", ws.ExitStatus())
}
