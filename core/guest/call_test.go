package guest

import (
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestInNameCall: a thread waits in open(2) of a FIFO, and then in read(2) of it.
func TestInNameCall(t *testing.T) {
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	tid, ended := make(chan int), make(chan error)
	go func() {
		runtime.LockOSThread()
		tid <- unix.Gettid()
		fd, err := unix.Open(fifo, unix.O_RDONLY, 0)
		if err == nil {
			_, err = unix.Read(fd, make([]byte, 1))
			unix.Close(fd)
		}
		ended <- err
	}()
	waiting := Thread{<-tid}
	await := func(what string, want bool) {
		t.Helper()
		for deadline := time.Now().Add(10 * time.Second); waiting.InNameCall() != want; runtime.Gosched() {
			if time.Now().After(deadline) {
				t.Fatalf("in %s: InNameCall stays %v", what, !want)
			}
		}
	}
	await("open", true)
	w, err := os.OpenFile(fifo, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	await("read", false)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"", "running\n", "-1 0x7ffd 0x7f00\n", "99999999999999999999 0x0\n"} {
		if inNameCall([]byte(text)) {
			t.Errorf("%q is a call of a name", text)
		}
	}
	if (Thread{0}).InNameCall() {
		t.Error("a thread that cannot be seen is in a call of a name")
	}
}
