package fuse

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

func init() {
	roles["server"] = serverRole
	roles["stat"] = statRole
}

// hangfs is a memfs with a file "hang" that is never read to an end.
func hangfs() *memfs {
	m := newMemfs()
	m.add("file", []byte("data"))
	hung := m.add("hang", nil)
	m.nodes[hung].target, m.nodes[hung].attr.Size = "hang", 1
	return m
}

// serverRole serves hangfs on descriptor 3, writes what was negotiated, and a
// line when a read hangs.
func serverRole() int {
	m := hangfs()
	s, err := New(m, Config{})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	go func() {
		<-s.Ready()
		n, _ := s.Negotiated()
		json.NewEncoder(os.Stdout).Encode(n)
		for range m.wait {
			fmt.Println("hung")
		}
	}()
	if err := s.Serve(context.Background(), 3); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// killed is a mount whose server was killed while a read of "hang" waited.
type killed struct {
	dir  string
	dev  int // the connection
	n    Negotiated
	hung *os.File
	read chan string // what the waiting read got
}

func killServer(t *testing.T) *killed {
	t.Helper()
	k := &killed{dir: t.TempDir(), read: make(chan string, 1)}
	var err error
	if k.dev, err = Mount(k.dir, MountConfig{Source: "test"}, 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(k.dir, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) {
			t.Error(err)
		}
	})
	dup, err := unix.FcntlInt(uintptr(k.dev), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), roleEnv+"=server")
	cmd.Stderr = os.Stderr
	cmd.ExtraFiles = []*os.File{os.NewFile(uintptr(dup), "fuse")}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	cmd.ExtraFiles[0].Close()
	out := bufio.NewReader(stdout)
	line, err := out.ReadBytes('\n')
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(line, &k.n); err != nil {
		t.Fatal(err)
	}
	k.hung = open(t, filepath.Join(k.dir, "hang"), os.O_RDONLY)
	go func() {
		buf := make([]byte, 10)
		n, err := unix.Pread(int(k.hung.Fd()), buf, 0)
		k.read <- fmt.Sprint(string(buf[:max(n, 0)]), err)
	}()
	if line, err := out.ReadString('\n'); line != "hung\n" {
		t.Fatal(line, err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	cmd.Wait()
	return k
}

// TestDeadTakesOver: the next server answers what waits, and all else, with EIO.
func TestDeadTakesOver(t *testing.T) {
	k := killServer(t)
	if !k.n.CanResend() {
		unix.Close(k.dev) // all that is left: the last descriptor's closing aborts
		if got := <-k.read; got != unix.ECONNABORTED.Error() && got != unix.ENOTCONN.Error() {
			t.Errorf("the hung read: %s; want %v", got, unix.ECONNABORTED)
		}
		k.hung.Close()
		return
	}
	s, err := New(Dead, Config{})
	if err != nil {
		t.Fatal(err)
	}
	go s.Resume(context.Background(), k.dev, k.n)
	if got := <-k.read; got != unix.EIO.Error() {
		t.Errorf("the hung read: %s; want %v", got, unix.EIO)
	}
	if err := unix.Stat(filepath.Join(k.dir, "new"), new(unix.Stat_t)); err != unix.EIO {
		t.Errorf("stat: %v; want EIO", err)
	}
	k.hung.Close() // FLUSH fails as all else does
	if err := unix.Unmount(k.dir, 0); err != nil {
		t.Errorf("umount: %v", err)
	}
	if err := s.Wait(); err != nil {
		t.Errorf("Serve: %v", err)
	}
}

// resumefs is a memfs that tells of resent requests.
type resumefs struct {
	*memfs
	resent chan bool
}

func (r *resumefs) Read(ctx context.Context, node, fh uint64, off int64, dst []byte) (int, syscall.Errno) {
	r.resent <- Resent(ctx)
	return r.memfs.Read(ctx, node, fh, off, dst)
}

// TestResume: a server with the same nodes goes on where the killed one was.
func TestResume(t *testing.T) {
	k := killServer(t)
	m := hangfs()
	if !k.n.CanResend() {
		unix.Close(k.dev)
		<-k.read
		k.hung.Close()
		return
	}
	for _, n := range m.nodes {
		if n.target == "hang" {
			n.target, n.data = "", []byte("x")
		}
	}
	fs := &resumefs{m, make(chan bool, 10)}
	s, err := New(fs, Config{})
	if err != nil {
		t.Fatal(err)
	}
	go s.Resume(context.Background(), k.dev, k.n)
	if got := <-k.read; got != "x<nil>" {
		t.Errorf("the hung read: %s; want x", got)
	}
	if !<-fs.resent {
		t.Error("the hung read is not known as resent")
	}
	if got, ok := s.Negotiated(); !ok || got != k.n {
		t.Errorf("negotiated %+v; want %+v", got, k.n)
	}
	f := open(t, filepath.Join(k.dir, "file"), os.O_RDONLY)
	buf := make([]byte, 10)
	if n, err := f.Read(buf); string(buf[:max(n, 0)]) != "data" || err != nil {
		t.Errorf("read: %d, %v", n, err)
	}
	if <-fs.resent {
		t.Error("a new read is taken for resent")
	}
	f.Close()
	if err := k.hung.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
}

// statRole stats a file while it catches SIGUSR1, and tells its thread before
// and the errno after.
func statRole() int {
	runtime.LockOSThread()
	signal.Notify(make(chan os.Signal, 1), unix.SIGUSR1)
	fmt.Println(unix.Gettid())
	fmt.Println(unix.Stat(os.Getenv("STAT"), new(unix.Stat_t)))
	return 0
}

// TestInterrupt: a caught signal ends a waiting call with EINTR.
func TestInterrupt(t *testing.T) {
	m := newMemfs()
	dir, _ := serve(t, m, Config{InterruptDelay: -1})
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), roleEnv+"=stat", "STAT="+filepath.Join(dir, "stuck"))
	cmd.Stderr = os.Stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	out := bufio.NewReader(stdout)
	var tid int
	if _, err := fmt.Fscanln(out, &tid); err != nil {
		t.Fatal(err)
	}
	<-m.wait
	if err := unix.Tgkill(cmd.Process.Pid, tid, unix.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	if line, err := out.ReadString('\n'); line != unix.EINTR.Error()+"\n" {
		t.Errorf("stat: %q, %v; want %q", line, err, unix.EINTR)
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}

// TestKilledCaller: SIGKILL frees a caller whatever the delay.
func TestKilledCaller(t *testing.T) {
	m := newMemfs()
	dir, _ := serve(t, m, Config{})
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), roleEnv+"=stat", "STAT="+filepath.Join(dir, "stuck"))
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	<-m.wait
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	var exit *exec.ExitError
	if err := cmd.Wait(); !errors.As(err, &exit) {
		t.Errorf("wait: %v", err)
	}
}

// TestContextOfServe: when it ends all is EIO, until the unmount.
func TestContextOfServe(t *testing.T) {
	dir := t.TempDir()
	dev, err := Mount(dir, MountConfig{Source: "test"}, 0)
	if err != nil {
		t.Fatal(err)
	}
	m := newMemfs()
	s, err := New(m, Config{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	go s.Serve(ctx, dev)
	got := make(chan error)
	go func() { got <- unix.Stat(filepath.Join(dir, "stuck"), new(unix.Stat_t)) }()
	<-m.wait
	cancel()
	if err := <-got; err != unix.EIO && err != unix.EINTR {
		t.Errorf("waiting stat: %v; want EIO", err)
	}
	if err := unix.Stat(filepath.Join(dir, "more"), new(unix.Stat_t)); err != unix.EIO {
		t.Errorf("stat: %v; want EIO", err)
	}
	if err := unix.Unmount(dir, 0); err != nil {
		t.Error(err)
	}
	if err := s.Wait(); err != nil {
		t.Errorf("Serve: %v", err)
	}
}
