package broker

import (
	"net"
	"sync"
)

// once is a listener that accepts the one connection it was made with.
type once struct {
	mu   sync.Mutex
	conn net.Conn
	shut bool
	done chan struct{}
}

func (o *once) Accept() (net.Conn, error) {
	o.mu.Lock()
	c := o.conn
	o.conn = nil
	o.mu.Unlock()
	if c != nil {
		return c, nil
	}
	<-o.done
	return nil, net.ErrClosed
}

func (o *once) Close() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.shut {
		o.shut = true
		close(o.done)
	}
	return nil
}

func (o *once) Addr() net.Addr { return &net.UnixAddr{Net: "unix"} }
