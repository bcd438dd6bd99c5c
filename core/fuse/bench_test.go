package fuse

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func init() { roles["client"] = clientRole }

// clientOps are what the benchmarks' client does, n times, below dir.
var clientOps = map[string]func(dir string, n int) error{
	"stat": func(dir string, n int) error {
		var st unix.Stat_t
		for range n {
			if err := unix.Stat(dir+"/small", &st); err != nil {
				return err
			}
		}
		return nil
	},
	"stat-8": func(dir string, n int) error {
		var wg sync.WaitGroup
		errs := make(chan error, 8)
		for range 8 {
			wg.Go(func() {
				var st unix.Stat_t
				for range n / 8 {
					if err := unix.Stat(dir+"/small", &st); err != nil {
						errs <- err
						return
					}
				}
			})
		}
		wg.Wait()
		close(errs)
		return <-errs
	},
	"open-close": func(dir string, n int) error {
		for range n {
			fd, err := unix.Open(dir+"/small", unix.O_RDONLY, 0)
			if err != nil {
				return err
			}
			unix.Close(fd)
		}
		return nil
	},
	"read-4k":  func(dir string, n int) error { return clientIO(dir+"/big", n, 4096, false) },
	"read-1m":  func(dir string, n int) error { return clientIO(dir+"/big", n, 1<<20, false) },
	"write-4k": func(dir string, n int) error { return clientIO(dir+"/big", n, 4096, true) },
	"write-1m": func(dir string, n int) error { return clientIO(dir+"/big", n, 1<<20, true) },
	"create": func(dir string, n int) error {
		for i := range n {
			name := fmt.Sprintf("%s/new%d", dir, i)
			fd, err := unix.Open(name, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY, 0o644)
			if err != nil {
				return err
			}
			unix.Close(fd)
		}
		for i := range n {
			if err := unix.Unlink(fmt.Sprintf("%s/new%d", dir, i)); err != nil {
				return err
			}
		}
		return nil
	},
	"readdir": func(dir string, n int) error {
		buf := make([]byte, 128<<10)
		for range n {
			fd, err := unix.Open(dir+"/many", unix.O_RDONLY|unix.O_DIRECTORY, 0)
			if err != nil {
				return err
			}
			for {
				got, err := unix.Getdents(fd, buf)
				if err != nil {
					return err
				}
				if got == 0 {
					break
				}
			}
			unix.Close(fd)
		}
		return nil
	},
}

func clientIO(name string, n, size int, write bool) error {
	fd, err := unix.Open(name, unix.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	buf := make([]byte, size)
	for i := range n {
		off := int64(i*size) % (8 << 20)
		if write {
			_, err = unix.Pwrite(fd, buf, off)
		} else {
			_, err = unix.Pread(fd, buf, off)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// clientRole reads lines "op dir n" and answers how many nanoseconds each took.
func clientRole() int {
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		var op, dir string
		var n int
		if _, err := fmt.Sscan(in.Text(), &op, &dir, &n); err != nil {
			fmt.Println("error:", err)
			return 1
		}
		start := time.Now()
		if err := clientOps[op](dir, n); err != nil {
			fmt.Println("error:", op, err)
			return 1
		}
		fmt.Println(time.Since(start).Nanoseconds())
	}
	return 0
}

// client is a process that uses the mounts, as their guests do.
type client struct {
	in  io.Writer
	out *bufio.Reader
}

func startClient(b testing.TB) *client {
	b.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), roleEnv+"=client")
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		in.Close()
		if err := cmd.Wait(); err != nil {
			b.Error(err)
		}
	})
	return &client{in, bufio.NewReader(out)}
}

func (c *client) run(b testing.TB, op, dir string, n int) time.Duration {
	b.Helper()
	fmt.Fprintln(c.in, op, dir, n)
	line, err := c.out.ReadString('\n')
	if err != nil {
		b.Fatal(err)
	}
	var ns int64
	if _, err := fmt.Sscan(line, &ns); err != nil {
		b.Fatal(strings.TrimSpace(line))
	}
	return time.Duration(ns)
}

func benchfs() *memfs {
	m := newMemfs()
	m.valid, m.direct = 0, true
	m.add("small", []byte("small"))
	m.add("big", make([]byte, 8<<20))
	many := m.make(RootID, unix.S_IFDIR|0o755, Caller{})
	m.nodes[RootID].children["many"] = many.attr.Ino
	for i := range 10000 {
		f := m.make(many.attr.Ino, unix.S_IFREG|0o644, Caller{})
		many.children[fmt.Sprintf("file%05d", i)] = f.attr.Ino
	}
	return m
}

// BenchmarkPeer compares this server with go-fuse's raw server on the same file
// system, in interleaved pairs of short batches. A row tells the least time of
// an operation, which other load disturbs least, and the processor time that
// the server used for it; the ratios are above 1 where ours is better.
func BenchmarkPeer(b *testing.B) {
	ours, _ := serveMount(b, plain{benchfs()}, Config{}, MountConfig{AllowOther: true})
	theirs := servePeer(b, benchfs())
	c := startClient(b)
	for _, row := range []struct {
		op    string
		batch int
	}{
		{"stat", 200}, {"stat-8", 320}, {"open-close", 100}, {"read-4k", 200}, {"write-4k", 200},
		{"read-1m", 10}, {"write-1m", 10}, {"create", 50}, {"readdir", 1},
	} {
		b.Run(row.op, func(b *testing.B) {
			x, y := measure{least: time.Hour}, measure{least: time.Hour}
			for b.Loop() {
				x.batch(b, c, row.op, ours, row.batch)
				y.batch(b, c, row.op, theirs, row.batch)
			}
			us := func(d time.Duration) float64 { return float64(d) / 1000 / float64(row.batch) }
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(us(x.least), "µs")
			b.ReportMetric(us(y.least), "µs-peer")
			b.ReportMetric(float64(y.least)/float64(x.least), "ratio")
			b.ReportMetric(us(x.cpu)/float64(b.N), "cpu-µs")
			b.ReportMetric(us(y.cpu)/float64(b.N), "cpu-µs-peer")
			b.ReportMetric(float64(y.cpu)/float64(x.cpu), "cpu-ratio")
		})
	}
}

// measure is what batches took: the least time of one, the processor time of all.
type measure struct{ least, cpu time.Duration }

func (m *measure) batch(b *testing.B, c *client, op, dir string, n int) {
	before := cpuTime(b)
	m.least = min(m.least, c.run(b, op, dir, n))
	m.cpu += cpuTime(b) - before
}

// cpuTime is what this process, the server, has used.
func cpuTime(b *testing.B) time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
