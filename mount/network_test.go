package mount

import (
	"context"
	"net"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/lxbridge/lx/core/guest"
)

// A mount's connections belong to the network namespace of who mounted, also
// when that thread is gone.
func TestNetworkOutlivesItsThread(t *testing.T) {
	type world struct {
		listener net.Listener
		net      *network
		err      error
	}
	made := make(chan world)
	go func() {
		runtime.LockOSThread() // for good: the thread ends with us
		var w world
		if w.err = unix.Unshare(unix.CLONE_NEWNET); w.err == nil {
			if out, err := exec.Command("ip", "link", "set", "lo", "up").CombinedOutput(); err != nil {
				t.Error(err, string(out))
			}
			if w.listener, w.err = net.Listen("tcp", "127.0.0.1:0"); w.err == nil {
				w.net, w.err = networkOf(guest.Thread{TID: unix.Gettid()})
			}
		}
		made <- w
	}()
	w := <-made
	if w.err != nil {
		t.Fatal(w.err)
	}
	defer w.listener.Close()
	defer w.net.close()
	addr := w.listener.Addr().String()
	w.net.addr = addr
	for range 3 {
		c, err := w.net.dial(t.Context(), "tcp", "name.that.is.not.asked.for:445")
		if err != nil {
			t.Fatal(err)
		}
		c.Close()
	}
	if c, err := net.Dial("tcp", addr); err == nil {
		c.Close()
		t.Error("it is our own network")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := w.net.dial(ctx, "tcp", addr); err == nil || !strings.Contains(err.Error(), "cancel") {
		t.Error(err)
	}
}
