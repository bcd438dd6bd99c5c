package ids

import (
	"bufio"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// nap starts a process that lives until its standard input ends.
func nap(t *testing.T, flags uintptr) (tid int, end func()) {
	t.Helper()
	cmd := exec.Command("/bin/sh", "-c", "echo; read line")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: flags, Pdeathsig: syscall.SIGKILL}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := bufio.NewReader(out).ReadByte(); err != nil {
		t.Fatal(err)
	}
	return cmd.Process.Pid, func() {
		in.Close()
		cmd.Wait() // read(1) ends with a failure
	}
}

// TestLinks: a thread is known by its present namespace, and another that has
// its number later is not taken for it.
func TestLinks(t *testing.T) {
	name, err := os.Readlink("/proc/self/ns/user")
	if err != nil {
		t.Fatal(err)
	}
	l := links{fds: map[int]int{}}
	same, endSame := nap(t, 0)
	other, endOther := nap(t, unix.CLONE_NEWUSER)
	for range 2 { // found, and kept
		if !l.is(same, name) {
			t.Error("a process in our namespace is taken for a stranger")
		}
		if l.is(other, name) {
			t.Error("a process in another namespace is taken for one of ours")
		}
	}
	// As if the number of the dead one were given again.
	endSame()
	l.fds[other], l.fds[same] = l.fds[same], l.fds[other]
	if l.is(other, name) {
		t.Error("a thread is taken for the dead one whose number it has")
	}
	endOther()
	if l.is(other, name) || l.is(same, name) {
		t.Error("dead threads are in a namespace")
	}
	if len(l.fds) != 0 {
		t.Errorf("%d links of dead threads are kept", len(l.fds))
	}
	for range 2 * maxLinks {
		tid, end := nap(t, 0)
		if !l.is(tid, name) {
			t.Fatal("a process in our namespace is taken for a stranger")
		}
		end()
	}
	if len(l.fds) > maxLinks {
		t.Errorf("%d links are kept", len(l.fds))
	}
	for _, fd := range l.fds {
		unix.Close(fd)
	}
}

func BenchmarkLink(b *testing.B) {
	name, err := os.Readlink("/proc/self/ns/user")
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if !namespaces.is(os.Getpid(), name) {
			b.Fatal("not in our own namespace")
		}
	}
}
