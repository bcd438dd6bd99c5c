// Package keeper is the process that holds what an environment must not lose:
// its first process, the seccomp listener, the FUSE descriptors. It restarts
// the broker, hands clients' connections over, and parses nothing.
package keeper

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lxbridge/lx/core/env"
	"github.com/lxbridge/lx/core/ns"
	"github.com/lxbridge/lx/core/seccomp"
)

const (
	// firstVisit is how long a new environment waits for its first session.
	firstVisit = 10 * time.Second
	// killGrace is how long init may take to end its processes.
	killGrace = time.Minute
	// drainLimit is how long a stopping broker may take to write out.
	drainLimit = 2 * time.Minute
)

// Main runs the keeper and answers its exit code.
func Main() int {
	// Children are killed when the thread that made them ends: this one does not.
	runtime.LockOSThread()
	unix.Umask(0o022)
	log := slog.New(slog.NewTextHandler(os.Stderr, nil)).With("process", "keeper")
	ready := os.NewFile(env.KeeperReadyFD, "ready")
	if len(os.Args) < 2 {
		err := ns.Reexec([]string{env.RoleKeeper, "mapped"}, env.KeeperConfigFD, env.KeeperReadyFD)
		fmt.Fprintln(ready, err)
		return 1
	}
	unix.CloseOnExec(env.KeeperConfigFD)
	unix.CloseOnExec(env.KeeperReadyFD)
	k, err := start(log)
	if err == nil {
		err = k.awaitInit()
	}
	if err != nil {
		log.Error("cannot start", "err", err)
		if k != nil {
			if err := k.cfg.Dirs.Withdraw(k.cfg.Name); err != nil {
				log.Warn("cannot start", "err", err)
			}
		}
		fmt.Fprintln(ready, err)
		return 1
	}
	fmt.Fprintln(ready)
	ready.Close()
	return k.run()
}

type keeper struct {
	cfg  env.Config
	log  *slog.Logger
	exe  *os.File // this program, sealed
	wake chan os.Signal
	dir  *os.File // the runtime directory, which is masked for guests
	sock net.Listener

	init, broker child
	listener     int // the seccomp listener; -1 until init has sent it
	inflight     int // the page of notification ids in flight
	held         map[string]held

	clients   chan client
	forwarded int  // connections given to init
	idle      bool // init has served all of them and no process is left
	wanted    bool // services have to live on
	visited   bool // the time for a first session is over
	asked     int  // value of forwarded that the broker was last to echo
	heard     int  // and the last that it did
	restarts  backoff
	pending   []client // for a broker that is not there

	stopping bool
	lost     []string        // what a stopping broker could not write out
	waiters  []*net.UnixConn // want to know when the environment is gone
}

// held is a descriptor kept for the broker.
type held struct {
	fd   int
	blob string
}

// start answers a keeper with an error too, if it got as far as its configuration.
func start(log *slog.Logger) (k *keeper, err error) {
	k = &keeper{log: log, listener: -1, held: map[string]held{}, clients: make(chan client), wake: make(chan os.Signal, 1)}
	signal.Notify(k.wake, env.WakeSignal)
	config := os.NewFile(env.KeeperConfigFD, "config")
	defer config.Close()
	if err := json.NewDecoder(config).Decode(&k.cfg); err != nil {
		return nil, fmt.Errorf("cannot read the configuration: %w", err)
	}
	if !k.cfg.Privileged {
		if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
			return k, fmt.Errorf("cannot protect the keeper's memory: %w", err)
		}
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return k, fmt.Errorf("cannot leave the host's mount propagation: %w", err)
	}
	if k.exe, err = env.SealedSelf(); err != nil {
		return k, err
	}
	if k.inflight, err = seccomp.NewInflight(); err != nil {
		return k, err
	}
	if err := k.listen(); err != nil {
		return k, err
	}
	if k.cfg.Root != nil {
		if err := k.mountRoot(); err != nil {
			return k, err
		}
	}
	if err := k.startInit(); err != nil {
		return k, err
	}
	if err := unix.Chdir("/"); err != nil {
		return k, err
	}
	return k, k.startBroker()
}

// listen makes the control socket, then hides the runtime directory from the
// guests to come: a mask made here is locked in their user namespace.
func (k *keeper) listen() error {
	path := k.cfg.Dirs.Socket(k.cfg.Name)
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("cannot make the control socket: %w", err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
	if err != nil {
		return fmt.Errorf("cannot make the control socket: %w", err)
	}
	l.SetUnlinkOnClose(false)
	k.sock = l
	if err := k.cfg.Dirs.Announce(k.cfg.Name); err != nil {
		return err
	}
	if k.dir, err = os.Open(k.cfg.Dirs.Runtime); err != nil {
		return fmt.Errorf("cannot open the runtime directory: %w", err)
	}
	if err := unix.Mount("lx", k.cfg.Dirs.Runtime, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=700,size=1m"); err != nil {
		return fmt.Errorf("cannot hide the runtime directory from guests: %w", err)
	}
	go k.accept(l)
	return nil
}

// listenAgain makes the control socket where it was, after somebody who did not
// find it has asked for that. The directory may be a new one.
func (k *keeper) listenAgain() error {
	var st unix.Stat_t
	if err := unix.Fstat(int(k.dir.Fd()), &st); err != nil || st.Nlink == 0 {
		if err := os.Mkdir(k.cfg.Dirs.Runtime, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
			return fmt.Errorf("cannot make the control socket again: %w", err)
		}
		dir, err := os.OpenFile(k.cfg.Dirs.Runtime, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
		if err != nil {
			return fmt.Errorf("cannot make the control socket again: %w", err)
		}
		// Another user may have made one in its place, as below /tmp.
		if err := unix.Fstat(int(dir.Fd()), &st); err != nil || st.Uid != k.cfg.Map.Owner && st.Uid != uint32(os.Geteuid()) || st.Mode&0o077 != 0 {
			dir.Close()
			return fmt.Errorf("cannot make the control socket again: %s is not the user's alone", k.cfg.Dirs.Runtime)
		}
		k.dir.Close()
		k.dir = dir
	}
	name := k.cfg.Name + ".sock"
	if unix.Fstatat(int(k.dir.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW) == nil {
		return nil
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: fmt.Sprintf("/proc/self/fd/%d/%s", k.dir.Fd(), name)})
	if err != nil {
		return fmt.Errorf("cannot make the control socket again: %w", err)
	}
	l.SetUnlinkOnClose(false)
	k.sock.Close()
	k.sock = l
	go k.accept(l)
	return nil
}

func (k *keeper) initConfig() env.InitConfig {
	c := env.InitConfig{
		Map: k.cfg.Map.Inner(), Filter: k.cfg.Filter, Home: k.cfg.Home, Shell: k.cfg.Shell, User: k.cfg.User,
		OwnRoot: k.cfg.Root != nil, Hostname: k.cfg.Name, Env: k.cfg.Env,
		Name: k.cfg.Name, Runtime: k.cfg.Dirs.Runtime, Services: k.cfg.ServiceDirs(), Settings: k.cfg.Settings,
	}
	if k.cfg.Map.Kind == ns.Single && k.cfg.Root == nil {
		c.UID, c.GID = k.cfg.Map.UID[0].Outside, k.cfg.Map.GID[0].Outside
	}
	return c
}

// mountRoot mounts the environment's own root file system and makes it the
// working directory, by which init finds it: what leads there is not for guests.
func (k *keeper) mountRoot() error {
	if err := env.WriteFiles(k.cfg.Dirs.Runtime, k.cfg.Name); err != nil {
		return err
	}
	if err := k.cfg.Root.Mount(); err != nil {
		return err
	}
	if err := env.MountFiles(k.cfg.Dirs.Runtime, k.cfg.Root.Place); err != nil {
		return err
	}
	if err := k.cfg.Host.Mount(k.cfg.Root.Place, k.cfg.Home, k.cfg.Hidden); err != nil {
		return err
	}
	if err := unix.Chdir(k.cfg.Root.Place); err != nil {
		return fmt.Errorf("cannot enter the root file system: %w", err)
	}
	return nil
}

func (k *keeper) startInit() error {
	attr := &syscall.SysProcAttr{
		Pdeathsig:  unix.SIGKILL,
		Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC,
	}
	if !k.cfg.Privileged {
		attr.Cloneflags |= unix.CLONE_NEWUSER
		attr.UidMappings, attr.GidMappings = k.cfg.Map.Identity().SysProcIDMaps()
		attr.GidMappingsEnableSetgroups = k.cfg.Map.Kind != ns.Single
	}
	group := k.cfg.Group
	if group != "" {
		group = filepath.Join(group, env.GuestsGroup)
	}
	return env.InGroup(group, attr, func() (err error) {
		if k.cfg.Root != nil {
			if err := env.HideUsersOwn(); err != nil {
				return err
			}
			// Nor are the keys of the user's login for its guests: the thread that
			// forks init has a session keyring of its own (session-keyring(7)).
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			if _, err := unix.KeyctlInt(unix.KEYCTL_JOIN_SESSION_KEYRING, 0, 0, 0, 0); err != nil && !errors.Is(err, unix.ENOSYS) {
				return fmt.Errorf("cannot leave the user's session keyring: %w", err)
			}
		}
		k.init, err = k.spawn(env.RoleInit, attr, k.initConfig())
		return err
	})
}

// startBroker starts a broker and gives it what its predecessor left.
func (k *keeper) startBroker() error {
	c, err := k.spawn(env.RoleBroker, &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL}, k.cfg)
	if err != nil {
		return err
	}
	k.broker = c
	k.asked, k.heard = 0, 0
	for key, h := range k.held {
		if err := c.link.Send(env.BrokerOrphan, key+"\x00"+h.blob, h.fd); err != nil {
			return err
		}
	}
	// What the dead one held is the new one's to hold again, or to let go.
	k.release()
	if k.listener >= 0 {
		if err := c.link.Send(env.BrokerListener, "", k.listener, k.inflight); err != nil {
			return err
		}
	}
	if err := c.link.Send(env.BrokerGo, strconv.Itoa(k.init.cmd.Process.Pid)); err != nil {
		return err
	}
	for _, conn := range k.pending {
		k.hand(c.link, conn)
	}
	k.pending = nil
	return nil
}

func (k *keeper) release() {
	for key, h := range k.held {
		unix.Close(h.fd)
		delete(k.held, key)
	}
}

// hand gives a client's connection away; a child that does not take it is
// about to be seen dead.
func (k *keeper) hand(to *env.Link, c client) {
	defer c.conn.Close()
	raw, err := c.conn.SyscallConn()
	if err == nil {
		cerr := raw.Control(func(fd uintptr) { err = to.Send(env.LinkConn, string(rune(c.to)), int(fd)) })
		err = errors.Join(err, cerr)
	}
	if err != nil {
		k.log.Warn("cannot hand a client over", "err", err)
	}
}

// awaitInit takes init's first message.
func (k *keeper) awaitInit() error {
	select {
	case m, ok := <-k.init.messages:
		if !ok {
			return errors.New("the environment's first process ended; see `lx log`")
		}
		return k.initSays(m)
	case <-time.After(30 * time.Second):
		return errors.New("the environment's first process does not answer")
	}
}

// initSays needs nothing of what init says to be true: it comes from a process
// that guests may have taken over.
func (k *keeper) initSays(m env.Message) error {
	defer m.Discard()
	switch m.Letter {
	case env.InitListener:
		if k.listener >= 0 || len(m.FDs) != 1 {
			return nil
		}
		fd, err := unix.FcntlInt(uintptr(m.FDs[0]), unix.F_DUPFD_CLOEXEC, 3)
		if err != nil {
			return fmt.Errorf("cannot hold the listener: %w", err)
		}
		k.listener = fd
		if err := k.broker.link.Send(env.BrokerListener, "", k.listener, k.inflight); err != nil {
			k.log.Warn("a broker is gone before it had the listener", "err", err) // the next one gets it
		}
	case env.InitNested:
		k.log.Info("nested: an outer lx serves the traps")
	case env.InitFailed:
		return errors.New(m.Text)
	case env.InitIdle:
		n, err := strconv.Atoi(m.Text)
		k.idle = err == nil && n == k.forwarded && (n > 0 || k.visited)
	case env.InitWanted:
		k.wanted = m.Text == "1"
	}
	return nil
}

func (k *keeper) brokerSays(m env.Message) {
	key, blob, _ := strings.Cut(m.Text, "\x00")
	switch {
	case m.Letter == env.BrokerHold && len(m.FDs) == 1:
		if old, ok := k.held[key]; ok {
			unix.Close(old.fd)
		}
		k.held[key] = held{fd: m.FDs[0], blob: blob}
		return
	case m.Letter == env.BrokerDrop:
		if old, ok := k.held[key]; ok {
			unix.Close(old.fd)
			delete(k.held, key)
		}
	case m.Letter == env.LinkEcho:
		if n, err := strconv.Atoi(m.Text); err == nil {
			k.heard = n
		}
	case m.Letter == env.BrokerLost:
		k.lost = append(k.lost, m.Text)
	}
	m.Discard()
}
