package guest

import (
	"os"
	"os/exec"
	"testing"

	"golang.org/x/sys/unix"
)

// nap starts a process that lives until its standard input ends.
func nap(t *testing.T) (th Thread, stdin *os.File, end func()) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/bin/cat")
	cmd.Stdin = r
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return Thread{TID: cmd.Process.Pid}, r, func() {
		w.Close()
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
		r.Close()
	}
}

// sameInput says whether the thread's standard input is the pipe.
func sameInput(t *testing.T, th Thread, pipe *os.File) bool {
	t.Helper()
	fd, err := th.GetFD(0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	var theirs, ours unix.Stat_t
	if err := unix.Fstat(fd, &theirs); err != nil {
		t.Fatal(err)
	}
	if err := unix.Fstat(int(pipe.Fd()), &ours); err != nil {
		t.Fatal(err)
	}
	return theirs.Ino == ours.Ino
}

// TestKeptPidfds: a thread is not taken for a dead one whose number it has, and
// what is kept is bounded.
func TestKeptPidfds(t *testing.T) {
	dead, _, endDead := nap(t)
	alive, stdin, endAlive := nap(t)
	defer endAlive()
	fd, err := dead.GetFD(0)
	if err != nil {
		t.Fatal(err)
	}
	unix.Close(fd)
	endDead()
	of, ok := pidfds.take(dead.TID)
	if _, err := dead.GetFD(0); err == nil {
		t.Error("a dead process has descriptors")
	}
	for range 2 { // made, and kept
		if !sameInput(t, alive, stdin) {
			t.Error("a descriptor of somebody else's")
		}
	}
	// As if the number had been given again.
	if !ok {
		of = -1 // where none is kept, none is mistaken
	}
	pidfds.put(alive.TID, of)
	if !sameInput(t, alive, stdin) {
		t.Error("a descriptor of a dead thread that had the number")
	}
	for range 2 * maxKept {
		th, stdin, end := nap(t)
		if !sameInput(t, th, stdin) {
			t.Error("a descriptor of somebody else's")
		}
		end()
	}
	if n := len(pidfds.idle); n > maxKept {
		t.Errorf("%d pidfds are kept", n)
	}
}
