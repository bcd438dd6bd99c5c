package env

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

// Run starts s in the environment with this process's standard descriptors,
// waits, and answers the command's status. Where standard input is a terminal
// the session gets a terminal of its own that shows in this one; else signals
// are passed on.
func Run(ctx context.Context, d Dirs, name string, s Spec) (syscall.WaitStatus, error) {
	if !term.IsTerminal(0) {
		return runPlain(ctx, d, name, s)
	}
	return runTerminal(ctx, d, name, s)
}

// startGrace is how long a session that a signal meets at its start may take
// to begin, so that the signal can be passed on to it.
const startGrace = 2 * time.Second

// lingering is a context for Start that ends startGrace later than ctx: what
// ends ctx is a signal, which belongs to the session if that begins, and the
// command may run before its client has heard of it.
func lingering(ctx context.Context) (context.Context, context.CancelFunc) {
	longer, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() {
		select {
		case <-longer.Done():
		case <-time.After(startGrace):
			cancel()
		}
	})
	return longer, func() {
		stop()
		cancel()
	}
}

func runPlain(ctx context.Context, d Dirs, name string, s Spec) (syscall.WaitStatus, error) {
	// From here on no signal is lost: one that comes early is passed on later.
	sigs := make(chan os.Signal, 16)
	for _, sig := range []os.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGCONT, syscall.SIGTSTP} {
		// What nohup(1) or a shell's & has us ignore, the session is not told of.
		if !signal.Ignored(sig) {
			signal.Notify(sigs, sig)
		}
	}
	defer signal.Stop(sigs)
	starting, started := lingering(ctx)
	se, err := Start(starting, d, name, s, [3]int{0, 1, 2})
	started()
	if err != nil {
		return 0, err
	}
	defer se.Close()
	over := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case sig := <-sigs:
				if se.Signal(sig.(syscall.Signal)) != nil {
					return
				}
			case <-over:
				return
			}
		}
	})
	ws, err := se.Wait()
	close(over)
	wg.Wait()
	return ws, err
}

func runTerminal(ctx context.Context, d Dirs, name string, s Spec) (ws syscall.WaitStatus, err error) {
	master, slave, err := pty.Open()
	if err != nil {
		return 0, fmt.Errorf("cannot open a terminal for the session: %w", err)
	}
	defer master.Close()
	if err := pty.InheritSize(os.Stdin, master); err != nil {
		return 0, fmt.Errorf("cannot size the session's terminal: %w", err)
	}
	// Standard output or error that goes elsewhere stays where it goes.
	stdio := [3]int{int(slave.Fd()), 1, 2}
	for fd := 1; fd <= 2; fd++ {
		if term.IsTerminal(fd) {
			stdio[fd] = int(slave.Fd())
		}
	}
	s.Terminal = true
	ending := make(chan os.Signal, 1)
	signal.Notify(ending, syscall.SIGTERM, syscall.SIGHUP)
	defer signal.Stop(ending)
	// From here on Ctrl-C is the session's: typed before it runs, it waits for it.
	old, err := term.MakeRaw(0)
	if err != nil {
		return 0, fmt.Errorf("cannot prepare the terminal: %w", err)
	}
	defer func() { err = errors.Join(err, term.Restore(0, old)) }()
	starting, started := lingering(ctx)
	se, err := Start(starting, d, name, s, stdio)
	started()
	slave.Close()
	if err != nil {
		return 0, err
	}
	defer se.Close()
	resized := make(chan os.Signal, 1)
	signal.Notify(resized, syscall.SIGWINCH)
	over := make(chan struct{})
	var signals, output sync.WaitGroup
	signals.Go(func() {
		for {
			select {
			case <-resized:
				// A failed resize leaves the old size: nothing to undo.
				_ = pty.InheritSize(os.Stdin, master)
			case sig := <-ending:
				if se.Signal(sig.(syscall.Signal)) != nil {
					return
				}
			case <-over:
				return
			}
		}
	})
	// Reading the user's terminal cannot be called off: this goroutine ends
	// with the process.
	go func() { _, _ = io.Copy(master, os.Stdin) }()
	output.Go(func() { _, _ = io.Copy(os.Stdout, master) }) // EIO is the terminal's end
	ws, err = se.Wait()
	// What the session has written is shown; a background process that keeps
	// the terminal open is not waited for.
	drained(master)
	err = errors.Join(err, master.SetReadDeadline(time.Now()))
	close(over)
	signal.Stop(resized)
	signals.Wait()
	output.Wait()
	return ws, err
}

// drained returns when nothing is left to read from the terminal.
func drained(master *os.File) {
	rc, err := master.SyscallConn()
	if err != nil {
		return
	}
	for range 100 {
		n := 0
		if rc.Control(func(fd uintptr) { n, err = unix.IoctlGetInt(int(fd), unix.TIOCINQ) }) != nil || err != nil || n == 0 {
			return
		}
		time.Sleep(time.Millisecond)
	}
}
