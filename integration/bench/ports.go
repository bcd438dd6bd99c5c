package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lxbridge/lx/netns"
)

// ports measures lxnet beside ss and lsof, and a bind inside beside one outside.
func (b *bench) ports(t *table) error {
	stop, err := b.keep()
	if err != nil {
		return err
	}
	t.group("ports", []row{
		{name: "bind and close", unit: "ns", target: within(25000), against: 1, contenders: []contender{
			{"lx", b.workload([]string{b.lx}, "bind")}, {"native", b.workload(nil, "bind")}}},
	})
	if err := stop(); err != nil {
		return err
	}
	connections, listeners, processes := 100000, 20000, 500
	if b.short {
		connections, listeners, processes = 9000, 2000, 50
	}
	const perProcess = 9000 // connections have two descriptors
	err = b.crowd(t, fmt.Sprintf("500 listeners among %d connections", connections), max(2, (connections+perProcess-1)/perProcess), 500, connections)
	if err != nil {
		return err
	}
	return b.crowd(t, fmt.Sprintf("%d listeners in %d processes", listeners, processes), processes, listeners, 0)
}

// crowd measures who shows the owners of listeners fastest.
func (b *bench) crowd(t *table, title string, processes, listeners, connections int) (err error) {
	var stops []func() error
	defer func() {
		for _, stop := range stops {
			err = errors.Join(err, stop())
		}
	}()
	for i := range processes {
		share := func(n int) string { return strconv.Itoa(n*(i+1)/processes - n*i/processes) }
		stop, err := b.holder(share(listeners), share(connections))
		if err != nil {
			return err
		}
		stops = append(stops, stop)
	}
	lxnet := contender{"lxnet", b.wall(b.lxnet, "ports", "-t")}
	peers := []contender{{"ss -tlnp", b.wall("ss", "-tlnp")}}
	if _, err := exec.LookPath("lsof"); err == nil {
		peers = append(peers, contender{"lsof", b.wall("lsof", "-nP", "-iTCP", "-sTCP:LISTEN")})
	}
	q := netns.Query{Protocols: []netns.Protocol{netns.TCP}}
	reader := netns.NewReader()
	defer reader.Close()
	warm := contender{"reader", func() (float64, error) {
		start := time.Now()
		s, err := reader.Read(q)
		if err == nil && len(s.Entries) < listeners {
			err = fmt.Errorf("%d of %d listeners seen", len(s.Entries), listeners)
		}
		return float64(time.Since(start).Microseconds()) / 1e3, err
	}}
	if _, err := warm.run(); err != nil {
		return err
	}
	t.group("ports, "+title, []row{
		{name: "with owners, cold", unit: "ms", contenders: append([]contender{lxnet}, peers...), target: atMost(0.5), against: 1},
		{name: "with owners, watching", unit: "ms", contenders: []contender{warm, peers[0]}, target: atMost(0.1), against: 1},
	})
	return nil
}

// holder starts a process that has sockets until stop is called.
func (b *bench) holder(listeners, connections string) (stop func() error, err error) {
	cmd := b.command(b.self, "hold", listeners, connections)
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	stop = func() error { return errors.Join(in.Close(), cmd.Wait()) }
	if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		return nil, errors.Join(fmt.Errorf("the holder of sockets failed: %w", err), stop())
	}
	return stop, nil
}

// holdSockets is a holder's program: it has listeners, and connections to the
// first of them, until its input ends.
func holdSockets(args []string) error {
	if len(args) != 2 {
		return errors.New("hold needs LISTENERS CONNECTIONS")
	}
	listeners, err := strconv.Atoi(args[0])
	connections, err2 := strconv.Atoi(args[1])
	if err := errors.Join(err, err2); err != nil {
		return err
	}
	first, port := -1, 0
	for range max(1, listeners) {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err == nil {
			err = unix.Listen(fd, 128) // which binds to a port of the kernel's choice
		}
		if err != nil {
			return err
		}
		if first < 0 {
			name, err := unix.Getsockname(fd)
			if err != nil {
				return err
			}
			first, port = fd, name.(*unix.SockaddrInet4).Port
		}
	}
	for i := range connections {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err == nil {
			err = unix.Connect(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, byte(1 + i%200)}, Port: port})
		}
		if err == nil {
			_, _, err = unix.Accept4(first, unix.SOCK_CLOEXEC)
		}
		if err != nil {
			return fmt.Errorf("connection %d: %w", i, err)
		}
	}
	fmt.Println("ready")
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

// bindOnce is the call on a socket of its own.
func bindOnce([]string) (float64, error) {
	return perCall(func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		return errors.Join(unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}), unix.Close(fd))
	})
}

// copyLxnet copies the lxnet beside lx to where the measuring user can run it.
func (b *bench) copyLxnet(lx string) error {
	b.lxnet = filepath.Join(b.dir, "lxnet")
	return copyFile(filepath.Join(filepath.Dir(lx), "lxnet"), b.lxnet)
}
