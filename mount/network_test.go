package mount

import (
	"context"
	"net"
	"os/exec"
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
		tid      int
		err      error
	}
	made, end, ended := make(chan world), make(chan struct{}), make(chan struct{})
	onThread(func() {
		defer close(ended)
		var w world
		if w.err = unix.Unshare(unix.CLONE_NEWNET); w.err == nil {
			if out, err := exec.Command("ip", "link", "set", "lo", "up").CombinedOutput(); err != nil {
				t.Error(err, string(out))
			}
			w.listener, w.err = net.Listen("tcp", "127.0.0.1:0")
		}
		w.tid = unix.Gettid()
		made <- w
		<-end
	})
	w := <-made
	if w.err != nil {
		t.Fatal(w.err)
	}
	n, err := networkOf(guest.Thread{TID: w.tid})
	if err == nil {
		err = n.outlive(t.Context())
	}
	close(end)
	<-ended
	if err != nil {
		t.Fatal(err)
	}
	defer w.listener.Close()
	defer n.close()
	addr := w.listener.Addr().String()
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	n.hosts = map[string]string{"name.that.is.not.asked.for": host}
	for _, name := range []string{"name.that.is.not.asked.for", host, "localhost"} {
		for range 2 {
			c, err := n.dial(t.Context(), "tcp4", net.JoinHostPort(name, port))
			if err != nil {
				t.Fatal(err)
			}
			c.Close()
		}
	}
	if n.away() != nil {
		t.Error(n.away())
	}
	if c, err := net.Dial("tcp", addr); err == nil {
		c.Close()
		t.Error("it is our own network")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := n.dial(ctx, "tcp", "name.that.is.not.asked.for:"+port); err == nil || !strings.Contains(err.Error(), "cancel") || n.away() == nil {
		t.Error(err)
	}
}
