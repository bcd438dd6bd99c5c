package owner

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/lxbridge/lx/core/env"
)

// readyFD is where a process that Detach started says that it listens: a line,
// empty, or why it does not.
const readyFD = 3

// Detach starts this program as role, in a session of its own, with its output in
// name's log, and returns when it listens. hint is where to look if it ends before.
func Detach(ctx context.Context, d env.Dirs, name, role, hint string) error {
	logFile, err := env.OpenLog(d.Log(name))
	if err != nil {
		return err
	}
	defer logFile.Close()
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = []string{role}
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr = logFile, logFile
	cmd.ExtraFiles = []*os.File{w}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = cmd.Start()
	w.Close()
	if err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() { r.Close() })()
	line, err := bufio.NewReader(r).ReadString('\n')
	if err != nil {
		return errors.Join(fmt.Errorf("it ended; see %s", hint), cmd.Process.Kill(), ctx.Err())
	}
	if why := strings.TrimSpace(line); why != "" {
		return errors.New(why)
	}
	return cmd.Process.Release()
}

// Run is the main function of what Detach starts, and answers its exit code. serve
// lasts until ctx ends, and calls ready when it listens.
func Run(serve func(ctx context.Context, ready func()) error) int {
	unix.CloseOnExec(readyFD)
	ready := os.NewFile(readyFD, "ready")
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	err := serve(ctx, func() {
		fmt.Fprintln(ready)
		ready.Close()
	})
	if err != nil {
		fmt.Fprintln(ready, err)
		return 1
	}
	return 0
}
