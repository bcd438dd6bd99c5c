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

	"github.com/lxbridge/lx/core/ns"
	"github.com/lxbridge/lx/core/seccomp"
)

// Roles of the one binary, by argv[0].
const (
	RoleKeeper = "lx-keeper"
	RoleBroker = "lx-broker"
	RoleInit   = "lx-init"
	RoleProbe  = "lx-probe" // tries what the host allows, for lx doctor
)

// Config says what environment to start.
type Config struct {
	Name       string
	Map        ns.Map
	Filter     seccomp.Options
	Privileged bool // no user namespaces: started by root only
	Dirs       Dirs
	// Home and Shell of the user.
	Home, Shell string
}

// Descriptors that a keeper is born with.
const (
	KeeperConfigFD = 3 // Config as JSON, written when the id map stands
	KeeperReadyFD  = 4 // takes a line: empty when the environment runs, else why not
)

// Launch starts the environment unless it runs already, and returns when it
// takes sessions. Several callers at once start one.
func Launch(ctx context.Context, cfg Config) error {
	lock, err := os.OpenFile(cfg.Dirs.Lock(cfg.Name), os.O_CREATE|os.O_RDWR|syscall.O_CLOEXEC, 0o600)
	if err != nil {
		return fmt.Errorf("cannot lock environment %s: %w", cfg.Name, err)
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return fmt.Errorf("cannot lock environment %s: %w", cfg.Name, err)
	}
	if Running(ctx, cfg.Dirs, cfg.Name) {
		return nil
	}
	return launch(ctx, cfg)
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
	logFile, err := openLog(cfg.Dirs.Log(cfg.Name))
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

	cmd := exec.Command("/proc/self/exe")
	cmd.Args = []string{RoleKeeper}
	cmd.Stdout, cmd.Stderr = logFile, logFile
	cmd.ExtraFiles = []*os.File{configR, readyW}
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Cloneflags: unix.CLONE_NEWNS}
	if !cfg.Privileged {
		cmd.SysProcAttr.Cloneflags |= unix.CLONE_NEWUSER
	}
	err = cmd.Start()
	configR.Close()
	readyW.Close()
	if err != nil {
		return fmt.Errorf("cannot start environment %s (`lx doctor` tells what this host forbids): %w", cfg.Name, err)
	}
	abandon := func(err error) error {
		return errors.Join(err, cmd.Process.Kill(), ignoreExit(cmd.Wait()))
	}
	if !cfg.Privileged {
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

func openLog(path string) (*os.File, error) {
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
