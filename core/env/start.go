package env

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/lxbridge/lx/core/config"
	"github.com/lxbridge/lx/core/ns"
	"github.com/lxbridge/lx/core/seccomp"
	"github.com/lxbridge/lx/core/store"
)

// Roles of the one binary, by argv[0].
const (
	RoleKeeper = "lx-keeper"
	RoleBroker = "lx-broker"
	RoleInit   = "lx-init"
	RoleProbe  = "lx-probe" // tries what the host allows, for lx doctor
	RoleDaemon = "lx-daemon"
	RoleTar    = "lx-tar" // packs and unpacks inside, for lx copy
)

// Config says what environment to start.
type Config struct {
	Name       string
	Map        ns.Map
	Filter     seccomp.Options
	Privileged bool // no user namespaces: started by root only
	Dirs       Dirs
	// Home, Shell and name of the user.
	Home, Shell, User string
	// Settings are what the user's configuration says of it.
	Settings config.Settings
	// Groups is the control group below which the environment gets its own, and
	// Group what it got; empty: none.
	Groups, Group string
	// Root is the environment's root file system; nil: the host's own files.
	Root *store.Root
	// Program to start the keeper from; nil: the caller's own.
	Program *os.File `json:"-"`
	// Host is what it sees of the host's files, and Hidden what of them never.
	Host   Host
	Hidden []string `json:",omitempty"`
	// Environ is the keeper's own environment; nil: the caller's.
	Environ []string `json:"-"`
	// Env are variables for programs inside, unless they have others: of lx, and of the image.
	Env []string
}

// Descriptors that a keeper is born with.
const (
	KeeperConfigFD = 3 // Config as JSON, written when the id map stands
	KeeperReadyFD  = 4 // takes a line: empty when the environment runs, else why not
)

// Launch starts the environment unless it runs already, and returns when it
// takes sessions. Several callers at once start one.
func Launch(ctx context.Context, cfg Config) error {
	unlock, err := LockStart(ctx, cfg.Dirs, cfg.Name)
	if err != nil {
		return err
	}
	defer unlock()
	if Running(ctx, cfg.Dirs, cfg.Name) {
		return nil
	}
	return launch(ctx, cfg)
}

// LockStart keeps others from starting the environment, or the daemon by its
// name, until unlock is called.
func LockStart(ctx context.Context, d Dirs, name string) (unlock func(), err error) {
	lock, err := os.OpenFile(d.Lock(name), os.O_CREATE|os.O_RDWR|syscall.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("cannot lock %s: %w", name, err)
	}
	taken := make(chan error, 1)
	go func() { taken <- flock(lock) }() // it cannot be called off
	select {
	case err = <-taken:
	case <-ctx.Done():
		// Whatever it says, the lock ends with the file.
		go func() { _, _ = <-taken, lock.Close() }()
		return nil, fmt.Errorf("cannot wait for who starts or stops %s: %w", name, context.Cause(ctx))
	}
	if err != nil {
		lock.Close()
		return nil, fmt.Errorf("cannot lock %s: %w", name, err)
	}
	return func() { lock.Close() }, nil
}

func flock(f *os.File) error {
	for {
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != unix.EINTR {
			return err
		}
	}
}

// Running reports whether the environment answers.
func Running(ctx context.Context, d Dirs, name string) bool {
	c, err := Dial(ctx, d, name, ToNobody)
	if err != nil {
		return false
	}
	c.Close()
	return true
}

func launch(ctx context.Context, cfg Config) error {
	logFile, err := OpenLog(cfg.Dirs.Log(cfg.Name))
	if err != nil {
		return err
	}
	defer logFile.Close()
	configR, configW, err := os.Pipe()
	if err != nil {
		return err
	}
	defer configW.Close()
	readyR, readyW, err := os.Pipe()
	if err != nil {
		configR.Close()
		return err
	}
	defer readyR.Close()

	program := "/proc/self/exe"
	if cfg.Program != nil {
		program = fmt.Sprintf("/proc/self/fd/%d", cfg.Program.Fd())
	}
	cmd := exec.Command(program)
	cmd.Args = []string{RoleKeeper}
	cmd.Stdout, cmd.Stderr = logFile, logFile
	cmd.ExtraFiles = []*os.File{configR, readyW}
	cmd.Dir, cmd.Env = "/", cfg.Environ
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Cloneflags: unix.CLONE_NEWNS}
	mapless := !cfg.Privileged && cfg.Map.Birth(cmd.SysProcAttr)
	err = cfg.startInGroups(cmd)
	configR.Close()
	readyW.Close()
	if err != nil {
		return fmt.Errorf("cannot start environment %s (`lx doctor` tells what this host forbids): %w", cfg.Name, err)
	}
	abandon := func(err error) error {
		return errors.Join(err, cmd.Process.Kill(), ignoreExit(cmd.Wait()))
	}
	if mapless {
		if err := cfg.Map.Write(cmd.Process.Pid); err != nil {
			return abandon(err)
		}
	}
	if err := json.NewEncoder(configW).Encode(cfg); err != nil {
		return abandon(fmt.Errorf("cannot configure environment %s: %w", cfg.Name, err))
	}
	configW.Close()
	defer context.AfterFunc(ctx, func() { readyR.Close() })()
	line, err := bufio.NewReader(readyR).ReadString('\n')
	switch why := strings.TrimSpace(line); {
	case err != nil && ctx.Err() != nil:
		return abandon(fmt.Errorf("cannot start environment %s: %w", cfg.Name, context.Cause(ctx)))
	case why != "":
		return abandon(fmt.Errorf("cannot start environment %s: %s", cfg.Name, why))
	case errors.Is(err, io.EOF):
		return abandon(fmt.Errorf("cannot start environment %s: its keeper ended; see `lx log`", cfg.Name))
	case err != nil:
		return abandon(fmt.Errorf("cannot start environment %s: %w", cfg.Name, err))
	}
	return cmd.Process.Release()
}

func ignoreExit(err error) error {
	var ee *exec.ExitError
	if errors.As(err, &ee) {
		return nil
	}
	return err
}

// maxLog is the size at which a new start begins a new log, keeping one old.
const maxLog = 1 << 20

// OpenLog opens a log to append to.
func OpenLog(path string) (*os.File, error) {
	if st, err := os.Stat(path); err == nil && st.Size() > maxLog {
		if err := os.Rename(path, path+".1"); err != nil {
			return nil, fmt.Errorf("cannot begin a new log: %w", err)
		}
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("cannot open the log: %w", err)
	}
	return f, nil
}
