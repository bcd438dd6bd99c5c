package nfstest

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// process is a program that ends with this one.
type process struct {
	cmd  *exec.Cmd
	done chan struct{}
}

// run starts a program; its output goes to the file "output". stdin may be nil.
func (s *Server) run(env []string, name string, args ...string) (*process, error) {
	out, err := os.OpenFile(s.file("output"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stdout, cmd.Stderr = out, out
	started := make(chan error, 1)
	p := &process{cmd: cmd, done: make(chan struct{})}
	go func() {
		// The kernel sends the signal when the thread that started the program
		// ends: this one stays until the program has ended.
		runtime.LockOSThread()
		defer close(p.done)
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait() // its exit status says nothing: it is ended by signals
		}
		runtime.UnlockOSThread()
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("%w; install nfs-ganesha-vfs, rpcbind and nfs-common", err)
	}
	return p, nil
}

// inside starts a program in the server's mount namespace and, where the
// server has one of its own, network namespace.
func (s *Server) inside(name string, args ...string) (*process, error) {
	enter := []string{"--target", strconv.Itoa(s.holder.pid()), "--mount"}
	if s.opts.Namespace {
		enter = append(enter, "--net")
	}
	var env []string
	if s.opts.Keytab != "" {
		env = []string{"KRB5_CONFIG=" + s.opts.KerberosConfig, "KRB5_KTNAME=" + s.opts.Keytab}
	}
	return s.run(env, "nsenter", append(append(enter, name), args...)...)
}

func (p *process) pid() int { return p.cmd.Process.Pid }

func (p *process) kill() error {
	err := p.cmd.Process.Kill()
	<-p.done
	if errors.Is(err, os.ErrProcessDone) {
		err = nil
	}
	return err
}

// handles says whether files below dir can be opened by handles, which is what
// NFS file handles are made of.
func handles(dir string) bool {
	h, _, err := unix.NameToHandleAt(unix.AT_FDCWD, dir, 0)
	if err != nil {
		return false
	}
	at, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer unix.Close(at)
	fd, err := unix.OpenByHandleAt(at, h, unix.O_PATH|unix.O_CLOEXEC)
	if err != nil {
		return false
	}
	return unix.Close(fd) == nil
}

// until waits for ok to succeed while p lives.
func (s *Server) until(ctx context.Context, p *process, ok func() error) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		err := ok()
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-p.done:
			out, oerr := os.ReadFile(s.file("output"))
			return errors.Join(fmt.Errorf("%s has ended: %s%s", p.cmd.Args[0], out, tail(s.Log(), 2000)), oerr)
		case <-ctx.Done():
			return fmt.Errorf("%w: %w: %s", context.Cause(ctx), err, tail(s.Log(), 2000))
		}
	}
}

// Do runs f on a thread in the network namespace that clients must be in. Only
// what that very thread does is done there: sockets, and programs it starts.
func (s *Server) Do(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // for ever: the thread ends with the goroutine
		own, err := os.Open("/proc/thread-self/ns/net")
		if err != nil {
			done <- err
			return
		}
		defer own.Close()
		ns, err := os.Open(s.NetNS())
		if err != nil {
			done <- err
			return
		}
		defer ns.Close()
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			done <- fmt.Errorf("cannot enter the server's network namespace: %w", err)
			return
		}
		err = f()
		// The main thread cannot end, and lives on in its own namespace.
		done <- errors.Join(err, unix.Setns(int(own.Fd()), unix.CLONE_NEWNET))
	}()
	return <-done
}

// Command is a program in the server's network namespace, not yet started.
func (s *Server) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, "nsenter", append([]string{"--net=" + s.NetNS(), name}, args...)...)
}

// Dial connects to the server from where its clients are.
func (s *Server) Dial(ctx context.Context, network, addr string) (c net.Conn, err error) {
	var d net.Dialer
	if !s.opts.Namespace {
		return d.DialContext(ctx, network, addr)
	}
	err = s.Do(func() error {
		c, err = d.DialContext(ctx, network, addr)
		return err
	})
	return c, err
}

// null calls procedure 0 of NFS (RFC 5531).
func (s *Server) null(ctx context.Context) error {
	c, err := s.Dial(ctx, "tcp", s.Addr())
	if err != nil {
		return err
	}
	defer c.Close()
	version := uint32(4)
	if s.opts.No4 {
		version = 3
	}
	var call []byte
	for _, u := range []uint32{1<<31 | 40, 1, 0, 2, 100003, version, 0, 0, 0, 0, 0} {
		call = binary.BigEndian.AppendUint32(call, u)
	}
	if err := c.SetDeadline(time.Now().Add(time.Second)); err != nil {
		return err
	}
	if _, err := c.Write(call); err != nil {
		return err
	}
	reply := make([]byte, 28)
	if _, err := io.ReadFull(c, reply); err != nil {
		return err
	}
	if state := binary.BigEndian.Uint32(reply[24:]); state != 0 {
		return fmt.Errorf("the server's answer to NULL is %d", state)
	}
	return nil
}
