package keeper

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"

	"github.com/lxbridge/lx/core/env"
	"github.com/lxbridge/lx/core/feature"
)

// child is init or a broker. messages is closed when its link ends, exited
// when the process is gone.
type child struct {
	link     *env.Link
	cmd      *exec.Cmd
	messages chan env.Message
	exited   chan struct{}
}

// spawn starts this program in role, with config on a pipe and a link.
func (k *keeper) spawn(role string, attr *syscall.SysProcAttr, config any) (child, error) {
	link, theirs, err := env.NewLink()
	if err != nil {
		return child{}, err
	}
	defer theirs.Close()
	configR, configW, err := os.Pipe()
	if err != nil {
		link.Close()
		return child{}, err
	}
	defer configW.Close()
	defer configR.Close()
	cmd := exec.Command(fmt.Sprintf("/proc/self/fd/%d", k.exe.Fd()))
	cmd.Args = []string{role}
	if role == env.RoleInit {
		// By its name the environment is known of programs that write over their variables.
		cmd.Args = append(cmd.Args, k.cfg.Name)
	}
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	if role == env.RoleInit && k.cfg.Root != nil {
		// Guests can open what their first process has open, and read its variables:
		// nothing of the host's.
		out := &limited{w: os.Stderr, left: maxInitLog}
		cmd.Stdout, cmd.Stderr = out, out
		cmd.Env = []string{feature.Env + "=" + os.Getenv(feature.Env)}
	}
	cmd.ExtraFiles = []*os.File{theirs, configR}
	cmd.SysProcAttr = attr
	if err := cmd.Start(); err != nil {
		link.Close()
		return child{}, fmt.Errorf("cannot start %s: %w", role, err)
	}
	c := child{link: link, cmd: cmd, messages: make(chan env.Message, 16), exited: make(chan struct{})}
	go c.receive()
	go func() {
		defer close(c.exited)
		if err := cmd.Wait(); err != nil {
			k.log.Warn("ended", "child", role, "how", err)
		}
	}()
	if err := json.NewEncoder(configW).Encode(config); err != nil {
		return c, fmt.Errorf("cannot configure %s: %w", role, err)
	}
	return c, nil
}

// maxInitLog bounds what an untrusted environment can put into the log, in bytes.
const maxInitLog = 256 << 10

// limited writes no more than left; the rest is dropped.
type limited struct {
	w    io.Writer
	left int
}

func (l *limited) Write(p []byte) (int, error) {
	n := min(len(p), l.left)
	l.left -= n
	if n > 0 {
		if _, err := l.w.Write(p[:n]); err != nil {
			return 0, err
		}
	}
	return len(p), nil
}

func (c child) receive() {
	defer close(c.messages)
	for {
		m, err := c.link.Receive()
		if err != nil {
			if !errors.Is(err, io.EOF) {
				c.link.Close()
			}
			return
		}
		c.messages <- m
	}
}

// kill ends the child if it lives; exited tells.
func (c child) kill() {
	if c.cmd != nil {
		// An error means that it has ended already.
		_ = c.cmd.Process.Kill()
	}
}
