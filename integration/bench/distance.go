package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/lxbridge/lx/integration/nfstest"
)

const (
	lineRate   = 1e9 / 8 // bytes a second each way, of all connections together
	lineWindow = 6 << 20 // bytes of one connection sent and not acknowledged, each way
	linePacket = 64 << 10
)

// line is a long way to a server: a relay that delays what it carries, as TCP
// on a line of that rate and round trip would.
type line struct {
	listener net.Listener
	to       string
	delay    time.Duration // one way
	there    wire
	back     wire
	wg       sync.WaitGroup
	ctx      context.Context
	cancel   context.CancelFunc
}

// wire is one direction.
type wire struct {
	mu   sync.Mutex
	free time.Time // when all that was put on it has left
}

// leaves is when n more bytes have left.
func (w *wire) leaves(n int) time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	if now := time.Now(); w.free.Before(now) {
		w.free = now
	}
	w.free = w.free.Add(time.Duration(float64(n) / lineRate * 1e9))
	return w.free
}

func newLine(to string, roundTrip time.Duration) (*line, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	d := &line{listener: l, to: to, delay: roundTrip / 2}
	d.ctx, d.cancel = context.WithCancel(context.Background())
	d.wg.Go(d.accept)
	return d, nil
}

func (d *line) port() int { return d.listener.Addr().(*net.TCPAddr).Port }

// close ends all connections.
func (d *line) close() {
	d.cancel()
	d.listener.Close()
	d.wg.Wait()
}

func (d *line) accept() {
	for {
		near, err := d.listener.Accept()
		if err != nil {
			return // closed
		}
		far, err := net.Dial("tcp", d.to)
		if err != nil {
			near.Close()
			continue
		}
		stop := context.AfterFunc(d.ctx, func() { near.Close(); far.Close() })
		var both sync.WaitGroup
		both.Go(func() { d.carry(&d.there, near, far) })
		both.Go(func() { d.carry(&d.back, far, near) })
		d.wg.Go(func() { both.Wait(); stop() })
	}
}

// packet is on its way.
type packet struct {
	data    []byte
	arrives time.Time
}

// carry takes what comes from one end to the other, until either ends; then
// it closes both.
func (d *line) carry(w *wire, from, to net.Conn) {
	packets := make(chan packet, 2*lineWindow/linePacket)
	var window sync.Mutex
	room := sync.NewCond(&window)
	left := lineWindow
	var deliver sync.WaitGroup
	deliver.Go(func() {
		for p := range packets {
			time.Sleep(time.Until(p.arrives))
			if _, err := to.Write(p.data); err != nil {
				from.Close() // which ends the reading
			}
			time.AfterFunc(d.delay, func() { // the acknowledgement
				window.Lock()
				defer window.Unlock()
				left += len(p.data)
				room.Signal()
			})
		}
		to.Close()
	})
	defer deliver.Wait()
	defer close(packets)
	for {
		window.Lock()
		for left < linePacket {
			room.Wait()
		}
		window.Unlock()
		b := make([]byte, linePacket)
		n, err := from.Read(b)
		if n > 0 {
			window.Lock()
			left -= n
			window.Unlock()
			packets <- packet{b[:n], w.leaves(n).Add(d.delay)}
		}
		if err != nil {
			if !errors.Is(err, io.EOF) {
				from.Close()
			}
			return
		}
	}
}

// distances measures the export over long lines, whose rate is the limit.
func (n *nfsBench) distances(t *table, version string) error {
	for _, far := range []struct {
		roundTrip time.Duration
		options   []string
	}{
		{10 * time.Millisecond, nil},
		{100 * time.Millisecond, []string{"nconnect=4"}}, // one connection's window is half of the line
	} {
		if err := n.distance(t, version, far.roundTrip, far.options); err != nil {
			return err
		}
	}
	return nil
}

func (n *nfsBench) distance(t *table, version string, roundTrip time.Duration, options []string) error {
	d, err := newLine(n.srv.Addr(), roundTrip)
	if err != nil {
		return err
	}
	defer d.close()
	m, err := n.mount(d.port(), nfstest.Data, version, options...)
	if err != nil {
		return err
	}
	s := *n.export // whose files have names of their own
	s.mib, s.data = 256, nil
	defer func() { n.export.n = s.n }()
	lx, raw, writer := through(m, &s), n.libnfs(version, d.port(), &s), n.libnfs("3", d.port(), &s)
	rows := []row{
		{name: "sequential read, cold", contenders: []contender{lx.onFile("seqread"), raw.onFile("seqread")}},
		{name: "sequential write, fsync", contenders: []contender{lx.onNew("seqwrite"), writer.onNew("seqwrite")}},
	}
	for i := range rows {
		rows[i].unit, rows[i].target = "MB/s", above(0.7*lineRate/1e6)
		if n.short {
			rows[i].contenders = rows[i].contenders[:1]
		}
	}
	t.group(fmt.Sprintf("NFS %s over %v and 1 Gbit/s", version, roundTrip), rows)
	_, err = n.output(n.lx, "umount", m.files)
	return err
}
