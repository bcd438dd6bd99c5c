package mount

import (
	"context"
	"fmt"
	"net"
	"os"
	"runtime"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/lxbridge/lx/core/guest"
)

// network is where a mount's connections are made: the network namespace of
// the process that mounted, which it may outlive, as the kernel's mounts do.
type network struct {
	thread guest.Thread
	own    *os.File // ours
	theirs *os.File // nil where it is ours

	mu   sync.Mutex // guards what follows
	addr string     // where the first connection went; before it the thread must live
}

// networkOf holds the thread's network namespace.
func networkOf(t guest.Thread) (*network, error) {
	own, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return nil, fmt.Errorf("cannot hold our network namespace: %w", err)
	}
	theirs, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", t.TID))
	if err != nil {
		own.Close()
		return nil, fmt.Errorf("cannot hold the caller's network namespace: %w", err)
	}
	n := &network{thread: t, own: own, theirs: theirs}
	ours, err := own.Stat()
	if err == nil {
		var other os.FileInfo
		if other, err = theirs.Stat(); err == nil && os.SameFile(ours, other) {
			theirs.Close()
			n.theirs = nil
		}
	}
	if err != nil {
		n.close()
		return nil, fmt.Errorf("cannot compare network namespaces: %w", err)
	}
	return n, nil
}

// close lets the namespace go. Nobody may dial any more.
func (n *network) close() {
	n.own.Close() // nothing is written through these
	if n.theirs != nil {
		n.theirs.Close()
	}
}

// dial connects to addr, whose name the caller's own resolver configuration
// resolves, and after that for ever to the address that answered.
func (n *network) dial(ctx context.Context, proto, addr string) (net.Conn, error) {
	n.mu.Lock()
	known := n.addr
	n.mu.Unlock()
	if known != "" {
		return n.again(ctx, proto, known)
	}
	conn, err := n.thread.DialContext(ctx, proto, addr)
	if err == nil {
		n.mu.Lock()
		n.addr = conn.RemoteAddr().String()
		n.mu.Unlock()
	}
	return conn, err
}

// again connects in the namespace without the thread's help. A socket belongs
// to the namespace of the OS thread that makes it.
func (n *network) again(ctx context.Context, proto, addr string) (net.Conn, error) {
	var d net.Dialer
	d.SetMultipathTCP(false)
	if n.theirs == nil {
		return d.DialContext(ctx, proto, addr)
	}
	runtime.LockOSThread()
	if err := unix.Setns(int(n.theirs.Fd()), unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		return nil, fmt.Errorf("cannot enter the network namespace of the mount: %w", err)
	}
	conn, err := d.DialContext(ctx, proto, addr)
	if back := unix.Setns(int(n.own.Fd()), unix.CLONE_NEWNET); back != nil {
		panic(fmt.Sprintf("cannot return to our network namespace: %v", back)) // whose sockets would be next?
	}
	runtime.UnlockOSThread()
	return conn, err
}
