package volumetest

import (
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// processVar in the environment makes a test binary another process of a test:
// it does what requests on its standard input say.
const processVar = "LX_VOLUMETEST_PROCESS"

func init() {
	if os.Getenv(processVar) != "" {
		serve(os.Stdin, os.Stdout)
		os.Exit(0)
	}
}

// request is one system call for another process to make.
type request struct {
	Op         string
	Path, To   string
	FD, Flag   int
	Mode       uint32
	Lock       unix.Flock_t
	UID, GID   int
	Text       string
	Start, Len int64
}

// reply is what became of it.
type reply struct {
	Errno syscall.Errno
	N     int
	Lock  unix.Flock_t
	Text  string
}

func serve(r io.Reader, w io.Writer) {
	runtime.LockOSThread()
	in, out := json.NewDecoder(r), json.NewEncoder(w)
	for {
		var q request
		if in.Decode(&q) != nil {
			return
		}
		var a reply
		err := again(func() error { return a.do(q) })
		if no, ok := err.(syscall.Errno); ok {
			a.Errno = no
		} else if err != nil {
			a.Errno = syscall.EPROTO
		}
		if out.Encode(a) != nil {
			return
		}
	}
}

func (a *reply) do(q request) (err error) {
	switch q.Op {
	case "open":
		a.N, err = unix.Open(q.Path, q.Flag, q.Mode)
	case "close":
		err = unix.Close(q.FD)
	case "fcntl":
		a.Lock = q.Lock
		err = unix.FcntlFlock(uintptr(q.FD), q.Flag, &a.Lock)
	case "flock":
		err = unix.Flock(q.FD, q.Flag)
	case "write":
		a.N, err = unix.Pwrite(q.FD, []byte(q.Text), q.Start)
	case "read":
		p := make([]byte, q.Len)
		a.N, err = unix.Pread(q.FD, p, q.Start)
		a.Text = string(p[:max(a.N, 0)])
	case "access":
		err = unix.Faccessat(unix.AT_FDCWD, q.Path, q.Mode, 0)
	case "chmod":
		err = unix.Chmod(q.Path, q.Mode)
	case "chown":
		err = unix.Chown(q.Path, q.UID, q.GID)
	case "unlink":
		err = unix.Unlink(q.Path)
	case "mkdir":
		err = unix.Mkdir(q.Path, q.Mode)
	case "rename":
		err = unix.Rename(q.Path, q.To)
	case "stat":
		var st unix.Stat_t
		err = unix.Stat(q.Path, &st)
	case "touch":
		err = unix.UtimesNanoAt(unix.AT_FDCWD, q.Path, nil, 0)
	case "hello":
		a.Text = "hello"
	default:
		err = syscall.ENOSYS
	}
	return err
}

// process is another process of a test.
type process struct {
	t    *T
	cmd  *exec.Cmd
	in   *json.Encoder
	out  *json.Decoder
	stop func()
}

// start starts another process with this one's user.
func (t *T) start() *process {
	p, err := t.spawn("/proc/self/exe", nil)
	t.must("start another process", err)
	return p
}

// startAs starts a process of another user; ok is false where this one may not.
func (t *T) startAs(uid uint32) (p *process, ok bool) {
	p, err := t.spawn("/proc/self/exe", &syscall.Credential{Uid: uid, Gid: uid})
	return p, err == nil
}

func (t *T) spawn(exe string, as *syscall.Credential) (*process, error) {
	p := &process{t: t, cmd: exec.Command(exe)}
	p.cmd.Env = append(os.Environ(), processVar+"=1")
	p.cmd.Dir = "/"
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Credential: as}
	p.cmd.Stderr = os.Stderr
	stdin, err := p.cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	p.stop = sync.OnceFunc(func() {
		p.cmd.Process.Kill()
		p.cmd.Wait()
	})
	t.atEnd(p.stop)
	p.in, p.out = json.NewEncoder(stdin), json.NewDecoder(stdout)
	return p, nil
}

// do makes a call there and waits for it.
func (p *process) do(q request) reply {
	p.send(q)
	return p.receive()
}

// fails checks what a call there answers; 0 is success.
func (p *process) fails(want syscall.Errno, q request) reply {
	a := p.do(q)
	if a.Errno != want {
		p.t.Errorf("another process: %s %s: errno %d (%v), want %d (%v)", q.Op, q.Path, a.Errno, a.Errno, want, want)
	}
	return a
}

// open opens a name of the test's directory there and answers its number.
func (p *process) open(name string, flags int) int {
	a := p.do(request{Op: "open", Path: p.t.path(name), Flag: flags, Mode: 0o644})
	if a.Errno != 0 {
		p.t.Fatalf("another process: open %s: %v", name, a.Errno)
	}
	return a.N
}

// begin makes a call there that may block; the answer comes on the channel.
func (p *process) begin(q request) <-chan reply {
	p.send(q)
	c := make(chan reply, 1)
	go func() {
		var a reply
		if err := p.out.Decode(&a); err != nil {
			a.Errno = syscall.EPIPE
		}
		c <- a
	}()
	return c
}

func (p *process) send(q request) {
	if err := p.in.Encode(q); err != nil {
		p.t.Fatalf("another process: %v", err)
	}
}

func (p *process) receive() reply {
	var a reply
	if err := p.out.Decode(&a); err != nil {
		p.t.Fatalf("another process: %v", err)
	}
	return a
}
