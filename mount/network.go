package mount

import (
	"context"
	"errors"
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
	theirs *os.File // nil where it is our own

	mu    sync.Mutex        // guards what follows
	hosts map[string]string // the address that answered for each name
	names *guest.Resolver   // of other names; nil while the thread is sure to live
	down  error             // why there is no connection; nil while there is one, for all we know
}

// outlive is called when the mount is made: the thread may go from then on. The
// error tells what will not be known without it.
func (n *network) outlive(ctx context.Context) error {
	names, err := n.thread.Resolver(ctx, func(ctx context.Context, proto, addr string) (net.Conn, error) {
		return n.again(ctx, proto, addr, 0)
	})
	n.mu.Lock()
	defer n.mu.Unlock()
	n.names = names
	return err
}

// networkOf holds the thread's network namespace.
func networkOf(t guest.Thread) (*network, error) {
	theirs, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", t.TID))
	if err != nil {
		return nil, fmt.Errorf("cannot hold the caller's network namespace: %w", err)
	}
	n := &network{thread: t, theirs: theirs}
	other, err := theirs.Stat()
	if err == nil {
		var own os.FileInfo
		if own, err = os.Stat("/proc/self/ns/net"); err == nil && os.SameFile(own, other) {
			n.close()
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
	if n.theirs != nil {
		_ = n.theirs.Close() // there is nothing to lose
	}
}

// dial connects to addr, whose name the caller's own resolver configuration
// resolves, and after that for ever to the address that answered.
func (n *network) dial(ctx context.Context, proto, addr string) (net.Conn, error) {
	return n.dialFrom(ctx, proto, addr, 0)
}

// dialFrom is dial from a local port; 0 is any.
func (n *network) dialFrom(ctx context.Context, proto, addr string, from int) (net.Conn, error) {
	conn, err := n.reach(ctx, proto, addr, from)
	n.mu.Lock()
	defer n.mu.Unlock()
	n.down = err
	return conn, err
}

// reach is dialFrom to who need not be the mount's server.
func (n *network) reach(ctx context.Context, proto, addr string, from int) (conn net.Conn, err error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	n.mu.Lock()
	known, names := n.hosts[host], n.names
	n.mu.Unlock()
	switch {
	case known != "":
		conn, err = n.again(ctx, proto, net.JoinHostPort(known, port), from)
	case names == nil:
		conn, err = n.thread.DialFrom(ctx, proto, addr, from)
	default:
		conn, err = n.find(ctx, names, proto, host, port, from)
	}
	if err == nil && known == "" {
		if known, _, err = net.SplitHostPort(conn.RemoteAddr().String()); err != nil {
			conn.Close()
			return nil, err
		}
		n.mu.Lock()
		defer n.mu.Unlock()
		if n.hosts == nil {
			n.hosts = map[string]string{}
		}
		n.hosts[host] = known
	}
	return conn, err
}

// find connects to the first address of host that answers.
func (n *network) find(ctx context.Context, names *guest.Resolver, proto, host, port string, from int) (net.Conn, error) {
	addrs, err := names.Resolve(ctx, host)
	if err != nil {
		return nil, err
	}
	var errs []error
	for _, a := range addrs {
		conn, err := n.again(ctx, proto, net.JoinHostPort(a.String(), port), from)
		if err == nil {
			return conn, nil
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(errs...)
}

// away says why the server was not reached when that was last tried.
func (n *network) away() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.down
}

// again connects in the namespace without the thread's help. A socket belongs
// to the namespace of the OS thread that makes it; from another one there is
// no way back into ours, so that thread is thrown away.
func (n *network) again(ctx context.Context, proto, addr string, from int) (net.Conn, error) {
	d := net.Dialer{LocalAddr: guest.LocalPort(proto, from)}
	d.SetMultipathTCP(false)
	if n.theirs == nil {
		return d.DialContext(ctx, proto, addr)
	}
	type result struct {
		conn net.Conn
		err  error
	}
	done := make(chan result)
	onThread(func() {
		var r result
		if r.err = unix.Setns(int(n.theirs.Fd()), unix.CLONE_NEWNET); r.err != nil {
			r.err = fmt.Errorf("cannot enter the network namespace of the mount: %w", r.err)
		} else {
			r.conn, r.err = d.DialContext(ctx, proto, addr)
		}
		done <- r
	})
	r := <-done
	return r.conn, r.err
}

// onThread runs f on an OS thread that ends with it: Go ends one whose
// goroutine returns locked. The main thread cannot end, so from it another
// goroutine is started while it is kept.
func onThread(f func()) {
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() != unix.Getpid() {
			f()
			return
		}
		started := make(chan struct{})
		onThread(func() { close(started); f() })
		<-started
		runtime.UnlockOSThread()
	}()
}
