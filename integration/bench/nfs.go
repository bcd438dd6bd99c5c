package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lxbridge/lx/integration/nfstest"
)

func init() {
	workloads["statmany"] = statMany
	workloads["create1k"] = createFilled
	workloads["write4k"] = writeSmall
	workloads["cpu"] = processorTime
	workloads["served"] = servedTime
}

// nfsBench is a server and what is measured with it.
type nfsBench struct {
	*bench
	srv    *nfstest.Server
	raw    string // libnfs, the program
	export *share // of the server
	mounts int
}

// client is one who does works on new files and directories of a share.
type client struct {
	name  string
	share *share
	// file and directory do a work on that of the share.
	file, directory func(work, name string, args ...string) (float64, error)
}

// onFile is for work on a file that is there.
func (c client) onFile(work string, args ...string) contender {
	return contender{c.name, func() (float64, error) {
		name, err := c.share.fresh()
		if err != nil {
			return 0, err
		}
		return c.file(work, name, args...)
	}}
}

// onNew is for work that makes its file and removes it.
func (c client) onNew(work string) contender {
	return contender{c.name, func() (float64, error) {
		return c.file(work, c.share.next("write"), strconv.Itoa(c.share.mib))
	}}
}

// onDirectory is for work on a directory of so many files.
func (c client) onDirectory(filled int, work string, args ...string) contender {
	return contender{c.name, func() (float64, error) {
		name, err := c.share.directory(filled)
		if err != nil {
			return 0, err
		}
		v, err := c.directory(work, name, args...)
		return v, errors.Join(err, os.RemoveAll(filepath.Join(c.share.dir, name)))
	}}
}

// through is who works on a mount of s.
func through(m mounted, s *share) client {
	run := func(work, name string, args ...string) (float64, error) { return s.run(m, work, name, args...) }
	return client{m.name, s, run, run}
}

// libnfs is the raw client of a version, that has the server at port.
func (n *nfsBench) libnfs(version string, port int, s *share) client {
	run := func(dir, work, path string, args []string) (float64, error) {
		url := fmt.Sprintf("nfs://%s/%s?version=%.1s&nfsport=%d&mountport=%d",
			n.srv.Host, filepath.Join(nfstest.Data, dir), version, port, n.srv.MountPort)
		out, err := n.output(append([]string{n.raw, url, work, path}, args...)...)
		if err != nil {
			return 0, err
		}
		return strconv.ParseFloat(out, 64)
	}
	return client{"libnfs", s,
		func(work, name string, args ...string) (float64, error) { return run("", work, "/"+name, args) },
		func(work, name string, args ...string) (float64, error) { return run(name, work, "/", args) },
	}
}

// nfs measures an export of one ganesha, in memory, through lx and its peers.
func (b *bench) nfs(t *table) (err error) {
	if os.Geteuid() != 0 {
		fmt.Fprintln(t.w, "\nNFS: not measured, since only root can start the server, ganesha")
		return nil
	}
	n := &nfsBench{bench: b, raw: filepath.Join(b.dir, "libnfs")}
	if err := b.buildLibnfs(n.raw); err != nil {
		return err
	}
	if n.srv, err = nfstest.Start(b.ctx, nfstest.Options{Memory: true}); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, n.srv.Stop()) }()
	// No mount here keeps that a name was absent.
	n.export = &share{b: b, dir: n.srv.Path(nfstest.Data), mib: 256, files: 10_000, random: 4000}
	if b.short {
		n.export.mib, n.export.files, n.export.random = 64, 500, 500
	}
	ssh, stop, err := b.sshfsMount(*n.export)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stop()) }()
	defer func() {
		stopErr := b.stop()
		err = errors.Join(err, stopErr)
	}()
	for _, version := range []string{"4.2", "3"} {
		m, err := n.mount(n.srv.Port, nfstest.Data, version)
		if err != nil {
			return err
		}
		rows, err := n.rows(version, m)
		if err != nil {
			return err
		}
		title := "NFS 3"
		if version != "3" {
			title = "NFS " + version + " (libnfs: 4.0)"
			n.others(rows, ssh)
			small, err := n.small(version, m)
			if err != nil {
				return err
			}
			rows = append(rows, small)
		}
		t.group(title, rows)
		if b.short && version == "3" {
			break // far away, what matters is the same for both
		}
		if err := n.distances(t, version); err != nil {
			return err
		}
	}
	return nil
}

// mount mounts an export of the server at port by lx.
func (n *nfsBench) mount(port int, export, version string, more ...string) (m mounted, err error) {
	n.mounts++
	dir, err := n.mountpoint("nfs" + strconv.Itoa(n.mounts))
	if err != nil {
		return m, err
	}
	options := append([]string{"vers=" + version, fmt.Sprintf("port=%d", port)}, more...)
	if version == "3" {
		options = append(options, fmt.Sprintf("mountport=%d", n.srv.MountPort), "nolock")
	}
	_, err = n.output(n.lx, "mount", "-i", "-t", "nfs", n.srv.Host+":/"+export, dir, "-o", strings.Join(options, ","))
	return mounted{"lx", dir, []string{n.lx}}, err
}

const listed = 10_000 // entries of a directory, in short runs as well

// rows are lx beside libnfs.
func (n *nfsBench) rows(version string, m mounted) ([]row, error) {
	s := n.export
	lx, raw := through(m, s), n.libnfs(version, n.srv.Port, s)
	// libnfs 4.0.0 cannot have writes of version 4 in flight: its call to begin one
	// fails. There it is measured by version 3.
	writer := raw
	if version != "3" {
		writer = n.libnfs("3", n.srv.Port, s)
		writer.name = "libnfs 3"
	}
	lxTime, rawTime, err := n.processor(m, raw)
	if err != nil {
		return nil, err
	}
	_, writerTime, err := n.processor(m, writer)
	if err != nil {
		return nil, err
	}
	files, random := strconv.Itoa(s.files), strconv.Itoa(s.random)
	file := func(work string, args ...string) []contender {
		return []contender{lx.onFile(work, args...), raw.onFile(work, args...)}
	}
	directory := func(filled int, work string, args ...string) []contender {
		return []contender{lx.onDirectory(filled, work, args...), raw.onDirectory(filled, work, args...)}
	}
	rows := []row{
		{name: "sequential read, cold", unit: "MB/s", contenders: file("seqread"), target: atLeast(0.6)},
		{name: "sequential write, fsync", unit: "MB/s", contenders: []contender{lx.onNew("seqwrite"), writer.onNew("seqwrite")}, target: atLeast(0.6)},
		{name: "random 4 KiB reads, depth 1", unit: "op/s", contenders: file("randread", "1", random), target: atLeast(0.45)},
		{name: "random 4 KiB reads, depth 32", unit: "op/s", contenders: file("randread", "32", random), target: atLeast(0.7)},
		{name: fmt.Sprintf("ls -l of %d entries, cold", listed), unit: "entry/s", contenders: directory(listed, "list", strconv.Itoa(listed)), target: above(60_000)},
		{name: "stat, 32 at once, cold", unit: "op/s", contenders: directory(s.files, "statmany", files, "32"), target: atLeast(0.8)},
		{name: fmt.Sprintf("create, write 1 KiB, close %d files", s.files), unit: "op/s", contenders: directory(0, "create1k", files), target: atLeast(0.8)},
		{name: fmt.Sprintf("delete %d files", s.files), unit: "op/s", contenders: directory(s.files, "delete", files), target: atLeast(0.8)},
		{name: "processor time of reading", unit: "ms/MiB", contenders: []contender{lxTime.onFile("seqread"), rawTime.onFile("seqread")}, target: atMost(4)},
		{name: "processor time of writing", unit: "ms/MiB", contenders: []contender{lxTime.onNew("seqwrite"), writerTime.onNew("seqwrite")}, target: atMost(4)},
	}
	for i := range rows {
		rows[i].against = 1
	}
	return rows, nil
}

// others adds sshfs and the volume in memory to the rows whose work they know.
func (n *nfsBench) others(rows []row, ssh client) {
	s := n.export
	size, files, random, many := strconv.Itoa(s.mib), strconv.Itoa(s.files), strconv.Itoa(s.random), strconv.Itoa(listed)
	for i, both := range []struct {
		ssh    contender
		memory []string
	}{
		{ssh.onFile("seqread"), []string{"coldread", "@/file", size}},
		{ssh.onNew("seqwrite"), []string{"seqwrite", "@/file", size}},
		{ssh.onFile("randread", "1", random), []string{"coldrand", "@/file", size, "1", random}},
		{ssh.onFile("randread", "32", random), []string{"coldrand", "@/file", size, "32", random}},
		{ssh.onDirectory(listed, "list", many), []string{"filled", "list", "@", many}},
		{ssh.onDirectory(s.files, "statmany", files, "32"), []string{"filled", "statmany", "@", files, "32"}},
		{ssh.onDirectory(0, "create1k", files), []string{"create1k", "@", files}},
		{ssh.onDirectory(s.files, "delete", files), []string{"filled", "delete", "@", files}},
	} {
		rows[i].contenders = append(rows[i].contenders, both.ssh, n.inMemory(both.memory...))
	}
	for i, work := range map[int]string{8: "seqread", 9: "seqwrite"} {
		rows[i].contenders = append(rows[i].contenders, n.inMemory("served", work, "@/file", size))
	}
}

// inMemory does a work on lx's volume in memory.
func (n *nfsBench) inMemory(work ...string) contender {
	return contender{"memory", func() (float64, error) { return n.memory("lx", work[0], work[1:]...) }}
}

// small is the row of small writes, which the kernel gathers where
// close-to-open is not wanted.
func (n *nfsBench) small(version string, m mounted) (row, error) {
	gathered, err := n.mount(n.srv.Port, nfstest.Delegating, version, "nocto")
	if err != nil {
		return row{}, err
	}
	gathered.name = "lx, nocto, delegation"
	return row{name: "sequential 4 KiB writes, fsync", unit: "MB/s", target: above(400), contenders: []contender{
		through(gathered, n.export).onNew("write4k"), through(m, n.export).onNew("write4k"),
		n.inMemory("write4k", "@/file", strconv.Itoa(n.export.mib)),
	}}, nil
}

// processor are clients that answer the processor time of a MiB; lx's is that of
// the broker and of the program that reads or writes.
func (n *nfsBench) processor(m mounted, raw client) (lx, libnfs client, err error) {
	broker, err := n.process("lx-broker")
	if err != nil {
		return lx, libnfs, err
	}
	lx, libnfs = through(m, n.export), raw
	lx.file = func(work, name string, args ...string) (float64, error) {
		before, err := processTime(broker)
		if err != nil {
			return 0, err
		}
		own, err := n.workload(m.prefix, "cpu", append([]string{work, filepath.Join(m.files, name)}, args...)...)()
		if err != nil {
			return 0, err
		}
		after, err := processTime(broker)
		return (own + milliseconds(after-before)) / float64(n.export.mib), err
	}
	libnfs.file = func(work, name string, args ...string) (float64, error) { return raw.file("cpu-"+work, name, args...) }
	return lx, libnfs, nil
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1e3 }

// processTime is what a process has had of processors (clock_getcpuclockid(3)).
func processTime(pid int) (time.Duration, error) {
	const sched = 2
	var ts unix.Timespec
	err := unix.ClockGettime(int32(^pid<<3|sched), &ts)
	return time.Duration(ts.Nano()), err
}

// process finds the one of this bench's environment that plays a role.
func (b *bench) process(role string) (int, error) {
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return 0, err
	}
	for _, d := range dirs {
		argv, err := os.ReadFile(filepath.Join(d, "cmdline"))
		if err != nil || strings.TrimRight(string(argv), "\x00") != role {
			continue // another, or ended
		}
		environ, err := os.ReadFile(filepath.Join(d, "environ"))
		if err == nil && strings.Contains(string(environ), "XDG_RUNTIME_DIR="+filepath.Join(b.dir, "run")+"\x00") {
			return strconv.Atoi(filepath.Base(d))
		}
	}
	return 0, fmt.Errorf("lx has no process %s", role)
}

// processorTime runs a workload and answers the processor time it took, in
// milliseconds.
func processorTime(args []string) (float64, error) {
	work, ok := workloads[args[0]]
	if !ok {
		return 0, fmt.Errorf("no workload %q", args[0])
	}
	before, err := processTime(os.Getpid())
	if err != nil {
		return 0, err
	}
	if _, err := work(args[1:]); err != nil {
		return 0, err
	}
	after, err := processTime(os.Getpid())
	return milliseconds(after - before), err
}

// servedTime is the processor time of a work, with that of the process which
// serves the file and has started this one: milliseconds for each of args[2] MiB.
func servedTime(args []string) (float64, error) {
	size, err := strconv.Atoi(args[2])
	if err != nil {
		return 0, err
	}
	if args[0] == "seqread" {
		if err := writeFile(args[1], args[2]); err != nil {
			return 0, err
		}
	}
	server := os.Getppid()
	before, err := processTime(server)
	if err != nil {
		return 0, err
	}
	own, err := processorTime(args)
	if err != nil {
		return 0, err
	}
	after, err := processTime(server)
	return (own + milliseconds(after-before)) / float64(size), err
}

// statMany is statAll, args[2] at once.
func statMany(args []string) (float64, error) {
	count, err := strconv.Atoi(args[1])
	depth, err2 := strconv.Atoi(args[2])
	if err := errors.Join(err, err2); err != nil {
		return 0, err
	}
	next := make(chan int, count)
	for i := range count {
		next <- i
	}
	close(next)
	errs := make(chan error, depth)
	var wg sync.WaitGroup
	start := time.Now()
	for range depth {
		wg.Go(func() {
			for i := range next {
				var st unix.Stat_t
				if err := unix.Lstat(filepath.Join(args[0], "f"+strconv.Itoa(i)), &st); err != nil {
					errs <- err
					return
				}
			}
		})
	}
	wg.Wait()
	d := time.Since(start)
	close(errs)
	return float64(count) / d.Seconds(), <-errs
}

// createFilled makes files of 1 KiB: operations a second.
func createFilled(args []string) (float64, error) {
	b := make([]byte, 1024)
	return eachFile(args, func(name string) error {
		f, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
		if err != nil {
			return err
		}
		_, err = f.Write(b)
		return errors.Join(err, f.Close())
	})
}

// writeSmall writes args[1] MiB to the new file args[0] in pieces of 4 KiB, then
// fsync: MB/s.
func writeSmall(args []string) (float64, error) {
	size, err := strconv.Atoi(args[1])
	if err != nil {
		return 0, err
	}
	f, err := os.Create(args[0])
	if err != nil {
		return 0, err
	}
	defer os.Remove(args[0])
	defer f.Close()
	b := make([]byte, 4096)
	start := time.Now()
	for range size << 8 {
		if _, err := f.Write(b); err != nil {
			return 0, err
		}
	}
	if err := flushed(f); err != nil {
		return 0, err
	}
	return megabytes(int64(size)<<20, time.Since(start)), nil
}
