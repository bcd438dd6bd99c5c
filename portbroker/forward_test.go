package portbroker

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"testing"

	"github.com/lxbridge/lx/core/seccomp/seccomptest"
)

// TestForward: what either side sends arrives whole, also after the other has
// ended its direction, behind the client's address where that is asked for.
func TestForward(t *testing.T) {
	for _, proxy := range []bool{false, true} {
		target, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer target.Close()
		served := make(chan error, 1)
		go func() {
			c, err := target.Accept()
			if err != nil {
				served <- err
				return
			}
			defer c.Close()
			b, err := io.ReadAll(c) // until the client has ended its direction
			if err == nil {
				_, err = fmt.Fprintf(c, "got %q", b)
			}
			served <- err
		}()
		l, err := net.Listen("tcp", "[::]:0")
		if err != nil {
			t.Fatal(err)
		}
		f := &Forwarder{Proxy: proxy, Log: seccomptest.Log(t), Dial: func(ctx context.Context) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", target.Addr().String())
		}}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- f.Serve(ctx, l) }()
		_, port, _ := net.SplitHostPort(l.Addr().String())
		c, err := net.Dial("tcp", "127.0.0.1:"+port)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprint(c, "hello")
		if err := c.(*net.TCPConn).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(c)
		want := `got "hello"`
		if proxy {
			from := netip.MustParseAddrPort(c.LocalAddr().String())
			want = fmt.Sprintf("got %q", fmt.Sprintf("PROXY TCP4 127.0.0.1 127.0.0.1 %d %s\r\nhello", from.Port(), port))
		}
		if err != nil || string(b) != want {
			t.Errorf("%s, %v; want %s", b, err, want)
		}
		if err := <-served; err != nil {
			t.Error(err)
		}
		// A connection that idles ends with the forwarder.
		idle, err := net.Dial("tcp", "127.0.0.1:"+port)
		if err != nil {
			t.Fatal(err)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if _, err := io.ReadAll(idle); err == nil {
			continue
		} else if _, reset := err.(*net.OpError); !reset {
			t.Error(err)
		}
	}
}

func TestProxyLine(t *testing.T) {
	tcp := func(s string) net.Addr { return net.TCPAddrFromAddrPort(netip.MustParseAddrPort(s)) }
	for want, ends := range map[string][2]net.Addr{
		"PROXY TCP4 10.0.0.1 10.0.0.2 7 8\r\n": {tcp("[::ffff:10.0.0.1]:7"), tcp("10.0.0.2:8")},
		"PROXY TCP6 fe80::1 ::1 7 8\r\n":       {tcp("[fe80::1%lo]:7"), tcp("[::1]:8")},
		"PROXY UNKNOWN\r\n":                    {&net.UnixAddr{Name: "x"}, tcp("[::1]:8")},
	} {
		if got := proxyLine(ends[0], ends[1]); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
