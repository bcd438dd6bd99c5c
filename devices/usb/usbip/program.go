package usbip

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"
)

// SSH runs a server of ours on a machine that ssh(1) leads to, by the user's own
// configuration and keys, for the one conversation. destination is ssh's.
func SSH(destination string) Dialer {
	return Program("ssh", "-T", "-o", "BatchMode=yes", "-o", "ServerAliveInterval=5", "-o", "ServerAliveCountMax=4",
		"--", destination, "lxdev", "export", "--stdio", "any")
}

// Program runs a program whose standard input and output are the server.
func Program(argv ...string) Dialer {
	return func(context.Context) (net.Conn, error) {
		pair, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
		if err != nil {
			return nil, fmt.Errorf("cannot run %s: %w", argv[0], err)
		}
		ours, theirs := os.NewFile(uintptr(pair[0]), argv[0]), os.NewFile(uintptr(pair[1]), argv[0])
		defer ours.Close()
		defer theirs.Close()
		conn, err := net.FileConn(ours)
		if err != nil {
			return nil, fmt.Errorf("cannot run %s: %w", argv[0], err)
		}
		p := &program{Conn: conn, cmd: exec.Command(argv[0], argv[1:]...)}
		p.cmd.Stdin, p.cmd.Stdout, p.cmd.Stderr = theirs, theirs, os.Stderr
		if err := p.cmd.Start(); err != nil {
			conn.Close()
			return nil, fmt.Errorf("cannot run %s: %w", argv[0], err)
		}
		return p, nil
	}
}

// program is a connection to a program, which ends with it.
type program struct {
	net.Conn
	cmd  *exec.Cmd
	once sync.Once
	err  error
}

// programTime is how long a program may take to end by itself.
const programTime = 2 * time.Second

// Close closes the connection and waits for the program.
func (p *program) Close() error {
	p.once.Do(func() {
		p.err = p.Conn.Close()
		kill := time.AfterFunc(programTime, func() { _ = p.cmd.Process.Kill() }) // it may have ended
		_ = p.cmd.Wait()                                                         // how it ends does not matter any more
		kill.Stop()
	})
	return p.err
}
