package rpc_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/lxbridge/lx/mount/nfs/rpc"
	"github.com/lxbridge/lx/mount/nfs/rpc/rpctest"
	"github.com/lxbridge/lx/mount/nfs/xdr"
)

// Procedures of the test's program.
const (
	procNull  = 0
	procEcho  = 1 // opaque → opaque
	procRead  = 2 // length → opaque
	procNever = 3 // no reply
)

func serve(c *rpctest.Call) {
	switch c.Proc {
	case procNull:
		c.Reply(nil)
	case procEcho:
		p := c.Args.Opaque(4 << 20)
		c.Reply(func(e *xdr.Encoder) { e.Opaque(p) })
	case procRead:
		n := c.Args.Uint32()
		c.Reply(func(e *xdr.Encoder) { e.Opaque(bytes.Repeat([]byte{7}, int(n))) })
	}
}

func dial(t testing.TB, s *rpctest.Server, change func(*rpc.Config)) *rpc.Client {
	t.Helper()
	cfg := rpc.Config{Dial: rpctest.Dial, Network: "tcp", Addr: s.Addr, Program: 100003, Version: 3}
	if change != nil {
		change(&cfg)
	}
	c, err := rpc.Dial(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

// echo calls with p, by reference, and checks what comes back.
func echo(ctx context.Context, c *rpc.Client, p []byte) error {
	call := c.NewCall(procEcho, rpc.None)
	defer call.Free()
	call.Again = true
	call.Args.OpaqueRef(p)
	if err := c.Do(ctx, call); err != nil {
		return err
	}
	if got := call.Results.Opaque(4 << 20); !bytes.Equal(got, p) {
		return fmt.Errorf("%d bytes echo as %d others: %w", len(p), len(got), call.Results.Err())
	}
	return nil
}

// into reads an opaque into memory of the caller's.
type into struct {
	p []byte
	n int
}

func (r *into) DecodeResults(d *xdr.Decoder) error {
	r.n = d.OpaqueInto(r.p)
	return d.Err()
}

func read(ctx context.Context, c *rpc.Client, n int) error {
	call := c.NewCall(procRead, rpc.None)
	defer call.Free()
	call.Again = true
	call.Args.Uint32(uint32(n))
	r := into{p: make([]byte, n+10)}
	call.Into = &r
	if err := c.Do(ctx, call); err != nil {
		return err
	}
	if !bytes.Equal(r.p[:r.n], bytes.Repeat([]byte{7}, n)) {
		return fmt.Errorf("%d bytes wanted, %d read", n, r.n)
	}
	return nil
}

func TestCalls(t *testing.T) {
	s := rpctest.New(t, serve)
	for _, fragment := range []int{0, 50_000} {
		s.Fragment(fragment)
		for _, conns := range []int{1, 4} {
			c := dial(t, s, func(cfg *rpc.Config) { cfg.Conns = conns })
			var wg sync.WaitGroup
			for i := range 16 {
				wg.Go(func() {
					for _, n := range []int{0, 1, 5, 100 * i, 300_000} {
						if err := errors.Join(echo(t.Context(), c, bytes.Repeat([]byte{byte(i)}, n)), read(t.Context(), c, n)); err != nil {
							t.Error(err)
						}
					}
				})
			}
			wg.Wait()
		}
	}
}

func TestRefused(t *testing.T) {
	s := rpctest.New(t, func(c *rpctest.Call) {
		switch c.Proc {
		case 1, 3, 4, 5:
			c.Refuse(c.Proc)
		case 2:
			c.Refuse(2, 3, 4)
		case 7:
			c.Deny(5)
		case 8:
			c.Refuse(77)
		}
	})
	c := dial(t, s, nil)
	for proc, want := range map[uint32]struct {
		errno syscall.Errno
		words string
	}{
		1: {syscall.EPFNOSUPPORT, "does not offer this program"},
		2: {syscall.EPROTONOSUPPORT, "versions 3 to 4"},
		3: {syscall.EOPNOTSUPP, "procedure"},
		4: {syscall.EIO, "arguments"},
		5: {syscall.EIO, "internal error"},
		7: {syscall.EACCES, "stronger"},
		8: {0, "accept_stat 77"},
	} {
		call := c.NewCall(proc, rpc.NewSys("host", 1, 2, nil))
		err := c.Do(t.Context(), call)
		call.Free()
		if err == nil || want.errno != 0 && !errors.Is(err, want.errno) || !strings.Contains(err.Error(), want.words) {
			t.Errorf("proc %d: %v", proc, err)
		}
		if want.errno == 0 && !errors.Is(err, xdr.ErrFormat) {
			t.Errorf("proc %d: %v is no ErrFormat", proc, err)
		}
	}
}

func TestCredential(t *testing.T) {
	got := make(chan *rpctest.Call, 1)
	s := rpctest.New(t, func(c *rpctest.Call) {
		got <- c
		c.Reply(nil)
	})
	c := dial(t, s, nil)
	var groups []uint32
	for i := range 20 {
		groups = append(groups, uint32(100+i))
	}
	call := c.NewCall(procNull, rpc.NewSys("me", 1000, 1001, groups))
	defer call.Free()
	if err := c.Do(t.Context(), call); err != nil {
		t.Fatal(err)
	}
	in := <-got
	d := xdr.NewDecoder(in.Credential)
	d.Uint32()
	if m, uid, gid, n := d.String(255), d.Uint32(), d.Uint32(), d.Uint32(); in.Flavor != 1 || m != "me" || uid != 1000 || gid != 1001 || n != 16 || d.Remaining() != 64 {
		t.Errorf("flavour %d: %s %d %d, %d groups, %d bytes", in.Flavor, m, uid, gid, n, d.Remaining())
	}
}

// TestLost: what may be sent again is, with the same id; the rest says so.
func TestLost(t *testing.T) {
	var mu sync.Mutex
	seen := map[uint32]int{}
	s := rpctest.New(t, func(c *rpctest.Call) {
		mu.Lock()
		seen[c.XID]++
		first := seen[c.XID] == 1
		mu.Unlock()
		if first && c.Proc == procEcho {
			c.Conn.Close()
			return
		}
		serve(c)
	})
	lost := make(chan error, 10)
	c := dial(t, s, func(cfg *rpc.Config) { cfg.Lost = func(_ *rpc.Conn, err error) { lost <- err } })
	if err := echo(t.Context(), c, []byte("again")); err != nil {
		t.Error(err)
	}
	if err := <-lost; err == nil {
		t.Error("Lost without a reason")
	}
	call := c.NewCall(procEcho, rpc.None)
	defer call.Free()
	call.Args.String("once")
	if err := c.Do(t.Context(), call); !errors.Is(err, rpc.ErrLost) || !errors.Is(err, syscall.EIO) {
		t.Errorf("a call that must not be repeated: %v", err)
	}
	s.Drop() // while nothing is on its way
	if err := read(t.Context(), c, 10); err != nil {
		t.Error(err)
	}
	mu.Lock()
	defer mu.Unlock()
	twice := 0
	for _, n := range seen {
		if n == 2 {
			twice++
		}
	}
	if twice != 1 {
		t.Errorf("calls by id: %v, want one seen twice", seen)
	}
}

// TestFaults: connections break all the time under many callers, and every call is done.
func TestFaults(t *testing.T) {
	var n atomic.Uint32
	s := rpctest.New(t, func(c *rpctest.Call) {
		if n.Add(1)%29 == 0 {
			c.Conn.Close()
			return
		}
		serve(c)
	})
	c := dial(t, s, func(cfg *rpc.Config) { cfg.Conns = 3 })
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			for j := range 20 {
				if err := errors.Join(echo(t.Context(), c, bytes.Repeat([]byte{byte(i)}, j*j*100)), read(t.Context(), c, j*10_000)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
}

func TestTimeout(t *testing.T) {
	s := rpctest.New(t, serve)
	for _, w := range []struct {
		rpc.Recovery
		syscall.Errno
	}{{rpc.Soft, syscall.EIO}, {rpc.SoftErr, syscall.ETIMEDOUT}} {
		c := dial(t, s, func(cfg *rpc.Config) {
			cfg.Recovery, cfg.Timeout, cfg.Retrans = w.Recovery, 20*time.Millisecond, 1
		})
		call := c.NewCall(procNever, rpc.None)
		start := time.Now()
		err := c.Do(t.Context(), call)
		call.Free()
		var late *rpc.TimeoutError
		if !errors.As(err, &late) || !errors.Is(err, w.Errno) || time.Since(start) < 40*time.Millisecond {
			t.Errorf("after %v: %v, want %v", time.Since(start), err, w.Errno)
		}
	}
}

// TestHard: a hard call outlives a server that is silent, then away, then back.
func TestHard(t *testing.T) {
	var well atomic.Bool
	s := rpctest.New(t, func(c *rpctest.Call) {
		if well.Load() {
			serve(c)
		}
	})
	notes := make(chan error, 100)
	c := dial(t, s, func(cfg *rpc.Config) {
		cfg.Timeout, cfg.Retrans = 10*time.Millisecond, -1
		cfg.Note = func(err error) { notes <- err }
	})
	done := make(chan error, 1)
	go func() { done <- echo(t.Context(), c, []byte("x")) }()
	if err := <-notes; err == nil {
		t.Error("the first note says that all is well")
	}
	s.Refuse(true)
	s.Drop()
	for s.Accepted() < 4 { // it tries again
		runtime.Gosched()
	}
	well.Store(true)
	s.Refuse(false)
	if err := <-done; err != nil {
		t.Error(err)
	}
	for err := range notes {
		if err == nil {
			break
		}
	}
	if err := c.Away(); err != nil {
		t.Error(err)
	}
}

// TestCancel: a cancelled call returns at once wherever it is, its memory is
// its owner's again, and the connection lives on.
func TestCancel(t *testing.T) {
	slow, stop := make(chan *rpctest.Call, 100), make(chan struct{})
	s := rpctest.New(t, func(c *rpctest.Call) {
		switch c.Proc {
		case procRead:
			// A reply that stops in the middle of its data.
			var e xdr.Encoder
			for _, v := range []uint32{1<<31 | 28 + 1<<20, c.XID, 1, 0, 0, 0, 0, 1 << 20} {
				e.Uint32(v)
			}
			c.Conn.Write(e.Bytes())
			c.Conn.Write(make([]byte, 300_000))
			slow <- c
			<-stop
			c.Conn.Write(make([]byte, 1<<20-300_000))
		case procNever:
			slow <- c
		default:
			serve(c)
		}
	})
	c := dial(t, s, nil)
	for _, proc := range []uint32{procNever, procRead} {
		ctx, cancel := context.WithCancel(t.Context())
		go func() { <-slow; cancel() }()
		call := c.NewCall(proc, rpc.None)
		call.Args.Uint32(0)
		r := into{p: make([]byte, 1<<20)}
		call.Into = &r
		if err := c.Do(ctx, call); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		clear(r.p) // the race detector looks
		call.Free()
	}
	close(stop)
	if err := echo(t.Context(), c, make([]byte, 1<<20)); err != nil || s.Accepted() != 1 {
		t.Errorf("%v; %d connections", err, s.Accepted())
	}
}

// TestCancelWrite: a call cancelled while the socket takes no more is sent as
// it was, though its owner overwrites the data.
func TestCancelWrite(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := rpc.Dial(t.Context(), rpc.Config{Dial: rpctest.Dial, Network: "tcp", Addr: l.Addr().String(), MaxRecord: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	nc, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	const size = 16 << 20 // more than loopback buffers
	ctx, cancel := context.WithCancel(t.Context())
	data := bytes.Repeat([]byte{1}, size)
	var wg sync.WaitGroup
	for range 2 { // the second waits behind the first, and is never sent
		wg.Go(func() {
			call := c.NewCall(procEcho, rpc.None)
			defer call.Free()
			call.Args.OpaqueRef(data)
			if err := c.Do(ctx, call); !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
		})
	}
	mark := make([]byte, 4)
	if _, err := io.ReadFull(nc, mark); err != nil {
		t.Fatal(err)
	}
	cancel()
	wg.Wait()
	clear(data)
	wg.Go(func() {
		call := c.NewCall(procNull, rpc.None)
		defer call.Free()
		if err := c.Do(t.Context(), call); err == nil {
			t.Error("an answer without a server")
		}
	})
	p, err := rpctest.Record(io.MultiReader(bytes.NewReader(mark), nc))
	if err != nil {
		t.Fatal(err)
	}
	if got := p[len(p)-size:]; !bytes.Equal(got, bytes.Repeat([]byte{1}, size)) {
		t.Error("data was sent that the owner wrote after the call")
	}
	if p, err = rpctest.Record(nc); err != nil || len(p) != 40 {
		t.Errorf("the next record: %d bytes, %v", len(p), err)
	}
	nc.Close()
	c.Close()
	wg.Wait()
}

func TestServe(t *testing.T) {
	replies := make(chan *rpctest.Call, 1)
	s := rpctest.New(t, func(c *rpctest.Call) {
		if c.IsReply {
			replies <- c
			return
		}
		c.Reply(nil)
	})
	c := dial(t, s, func(cfg *rpc.Config) {
		cfg.Serve = func(_ context.Context, in *rpc.Incoming, results *xdr.Encoder) rpc.Status {
			if in.Proc == 9 {
				return rpc.ProcUnavail
			}
			results.Uint32(in.Args.Uint32() + 1)
			return 0
		}
	})
	if err := func() error { call := c.NewCall(procNull, nil); defer call.Free(); return c.Do(t.Context(), call) }(); err != nil {
		t.Fatal(err)
	}
	for proc, want := range map[uint32]string{1: "\x00\x00\x00\x00\x00\x00\x00\x2a", 9: "\x00\x00\x00\x03"} {
		var e xdr.Encoder
		for _, v := range []uint32{99, 0, 2, 0x40000000, 1, proc, 0, 0, 0, 0, 41} {
			e.Uint32(v)
		}
		if err := s.Conns()[0].Send(e.Bytes()); err != nil {
			t.Fatal(err)
		}
		r := <-replies
		r.Args.Skip(12) // accepted, verifier
		if got := r.Args.Fixed(r.Args.Remaining()); r.XID != 99 || string(got) != want {
			t.Errorf("proc %d: reply %d %x", proc, r.XID, got)
		}
	}
}

// TestConnected: the hook's calls come first on each connection.
func TestConnected(t *testing.T) {
	var mu sync.Mutex
	first := map[*rpctest.Conn]uint32{}
	s := rpctest.New(t, func(c *rpctest.Call) {
		mu.Lock()
		if _, ok := first[c.Conn]; !ok {
			first[c.Conn] = c.Proc
		}
		mu.Unlock()
		serve(c)
	})
	c := dial(t, s, func(cfg *rpc.Config) {
		cfg.Connected = func(ctx context.Context, n *rpc.Conn) error {
			call := new(rpc.Client).NewCall(procNull, rpc.None)
			defer call.Free()
			return n.Do(ctx, call)
		}
	})
	for range 3 {
		if err := echo(t.Context(), c, nil); err != nil {
			t.Fatal(err)
		}
		s.Drop()
	}
	if err := echo(t.Context(), c, nil); err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	defer mu.Unlock()
	for _, proc := range first {
		if proc != procNull {
			t.Errorf("the first call on a connection was %d", proc)
		}
	}
	if len(first) < 2 {
		t.Errorf("%d connections", len(first))
	}
}

// TestReservedPort: where none can be had, a high one serves.
func TestReservedPort(t *testing.T) {
	s := rpctest.New(t, serve)
	var low int
	c := dial(t, s, func(cfg *rpc.Config) {
		cfg.ReservedPort = true
		cfg.Dial = func(ctx context.Context, network, addr string, port int) (net.Conn, error) {
			if port != 0 {
				low++
				return nil, &net.OpError{Op: "dial", Err: map[bool]error{true: syscall.EADDRINUSE, false: syscall.EACCES}[low < 3]}
			}
			return rpctest.Dial(ctx, network, addr, 0)
		}
	})
	if err := echo(t.Context(), c, nil); err != nil || low != 3 || c.Reserved() {
		t.Errorf("%v; %d low ports tried, reserved %v", err, low, c.Reserved())
	}
}

// TestUDP: lost datagrams are sent again.
func TestUDP(t *testing.T) {
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer pc.Close()
	go func() {
		p := make([]byte, 65536)
		for i := 0; ; i++ {
			n, from, err := pc.ReadFrom(p)
			if err != nil {
				return
			}
			if i%2 == 0 {
				continue
			}
			var e xdr.Encoder
			e.Fixed(p[:4])
			for _, v := range []uint32{1, 0, 0, 0, 0} {
				e.Uint32(v)
			}
			e.Fixed(p[40:n])
			pc.WriteTo(e.Bytes(), from)
		}
	}()
	c, err := rpc.Dial(t.Context(), rpc.Config{Dial: rpctest.Dial, Network: "udp", Addr: pc.LocalAddr().String(), Timeout: 20 * time.Millisecond, Retrans: 50, Recovery: rpc.Soft})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for range 3 {
		if err := echo(t.Context(), c, []byte("datagram")); err != nil {
			t.Fatal(err)
		}
	}
}

// TestClose: calls on their way fail, and no goroutine stays.
func TestClose(t *testing.T) {
	s := rpctest.New(t, serve)
	before := runtime.NumGoroutine()
	c, err := rpc.Dial(t.Context(), rpc.Config{Dial: rpctest.Dial, Network: "tcp", Addr: s.Addr, Conns: 4})
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			call := c.NewCall(procNever, rpc.None)
			defer call.Free()
			call.Again = true
			if err := c.Do(t.Context(), call); !errors.Is(err, rpc.ErrClosed) {
				t.Error(err)
			}
		})
	}
	for len(s.Conns()) < 4 {
		runtime.Gosched()
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	wg.Wait()
	s.Close()
	for deadline := time.Now().Add(5 * time.Second); runtime.NumGoroutine() > before; runtime.Gosched() {
		if time.Now().After(deadline) {
			t.Fatalf("%d goroutines, %d before", runtime.NumGoroutine(), before)
		}
	}
}

func TestUnreachable(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	if _, err := rpc.Dial(t.Context(), rpc.Config{Dial: rpctest.Dial, Network: "tcp", Addr: l.Addr().String()}); !errors.Is(err, syscall.ECONNREFUSED) || !strings.Contains(err.Error(), l.Addr().String()) {
		t.Error(err)
	}
}

// TestNoAllocations: a call costs no memory.
func TestNoAllocations(t *testing.T) {
	s := rpctest.New(t, nil)
	s.Close()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() { // answers each call of 40 bytes and then data with 1 KiB, and allocates nothing
		nc, err := l.Accept()
		if err != nil {
			return
		}
		defer nc.Close()
		in, out := make([]byte, 4+40+4+1<<16), make([]byte, 4+24+4+1024)
		copy(out, []byte{0x80, 0, 4, 28, 0, 0, 0, 0, 0, 0, 0, 1})
		out[4+24+2] = 4
		for {
			if _, err := io.ReadFull(nc, in); err != nil {
				return
			}
			copy(out[4:8], in[4:8])
			if _, err := nc.Write(out); err != nil {
				return
			}
		}
	}()
	c, err := rpc.Dial(t.Context(), rpc.Config{Dial: rpctest.Dial, Network: "tcp", Addr: l.Addr().String()})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	data := make([]byte, 1<<16)
	r := &into{p: make([]byte, 1024)}
	call := c.NewCall(procEcho, rpc.None) // kept: the race detector empties pools
	defer call.Free()
	once := func(direct bool) {
		call.Args.Reset()
		call.Args.OpaqueRef(data)
		if direct {
			call.Into = r
		}
		if err := c.Do(context.Background(), call); err != nil {
			t.Fatal(err)
		}
		if !direct && len(call.Results.Opaque(2000)) != 1024 {
			t.Fatal(call.Results.Err())
		}
	}
	for _, direct := range []bool{false, true} {
		once(direct)
		if n := testing.AllocsPerRun(500, func() { once(direct) }); n >= 1 {
			t.Errorf("direct %v: %v allocations a call", direct, n)
		}
	}
}

// TestUnreadReplies: a server that calls and does not read the answers gets no
// more than some of them made.
func TestUnreadReplies(t *testing.T) {
	ours, theirs := net.Pipe() // nothing is written that is not read
	defer theirs.Close()
	var served atomic.Int32
	c, err := rpc.Dial(t.Context(), rpc.Config{
		Network: "tcp",
		Dial:    func(context.Context, string, string, int) (net.Conn, error) { return ours, nil },
		Serve: func(context.Context, *rpc.Incoming, *xdr.Encoder) rpc.Status {
			served.Add(1)
			return 0
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	var e xdr.Encoder
	for _, v := range []uint32{1<<31 | 40, 99, 0, 2, 0x40000000, 1, 1, 0, 0, 0, 0} {
		e.Uint32(v)
	}
	for range 1000 {
		if _, err := theirs.Write(e.Bytes()); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	if n := served.Load(); n == 0 || n > 100 {
		t.Errorf("%d of 1000 calls were answered", n)
	}
}

// TestConnectedCalledOff: who dials is not held by a server that does not
// answer the hook's calls.
func TestConnectedCalledOff(t *testing.T) {
	asked := make(chan struct{}, 1)
	s := rpctest.New(t, func(*rpctest.Call) { asked <- struct{}{} })
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-asked; cancel() }()
	c, err := rpc.Dial(ctx, rpc.Config{Dial: rpctest.Dial, Network: "tcp", Addr: s.Addr, Timeout: time.Minute,
		Connected: func(ctx context.Context, n *rpc.Conn) error {
			call := new(rpc.Client).NewCall(procNull, rpc.None)
			defer call.Free()
			return n.Do(ctx, call)
		}})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("%v, %v", c, err)
	}
}
