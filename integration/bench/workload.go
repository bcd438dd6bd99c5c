package main

import (
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A workload runs in the process that sees what is measured: natively, inside
// lx, under proot. It answers its figure in the unit its row names.
var workloads = map[string]func(args []string) (float64, error){
	"getppid": func([]string) (float64, error) { return perCall(func() error { syscall.Getppid(); return nil }) },
	"read1":   read1,
	"stat": func([]string) (float64, error) {
		return perCall(func() error { var st unix.Stat_t; return unix.Stat("/etc/passwd", &st) })
	},
	// Answered by the broker without a look at memory: only root is mapped.
	"setresuid": func([]string) (float64, error) { return perCall(setresuid) },
	"baretrap":  bareTrap,
	"trapped":   trapped,
	"bind":      bindOnce,
	"exec":      execWall,
	"execcpu":   execCPU,
	"seqread":   seqRead,
	"seqwrite":  seqWrite,
	"randread":  randRead,
	"statall":   statAll,
	"list":      list,
	"create":    create,
	"delete":    remove,
}

// perCall is the nanoseconds of one call: the least of 100 bursts of 1 ms, so
// short that some are not disturbed on a busy machine either.
func perCall(f func() error) (float64, error) {
	const batch = 50
	best := math.Inf(1)
	for range 100 {
		n, start := 0, time.Now()
		for time.Since(start) < time.Millisecond {
			for range batch {
				if err := f(); err != nil {
					return 0, err
				}
			}
			n += batch
		}
		best = min(best, float64(time.Since(start).Nanoseconds())/float64(n))
	}
	return best, nil
}

// setresuid is the bare call: the one of package syscall repeats it on every thread.
func setresuid() error {
	if _, _, no := unix.RawSyscall(unix.SYS_SETRESUID, 5, 5, 5); no != 0 {
		return no
	}
	return nil
}

func read1([]string) (float64, error) {
	fd, err := unix.Open("/dev/zero", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	b := make([]byte, 1)
	return perCall(func() error { _, err := unix.Read(fd, b); return err })
}

// execWall runs args[1:] args[0] times: the median's milliseconds.
func execWall(args []string) (float64, error) {
	n, err := strconv.Atoi(args[0])
	if err != nil {
		return 0, err
	}
	var runs sample
	for range n {
		start := time.Now()
		if out, err := exec.Command(args[1], args[2:]...).CombinedOutput(); err != nil {
			return 0, fmt.Errorf("%w: %s", err, out)
		}
		runs = append(runs, float64(time.Since(start).Microseconds())/1e3)
	}
	return runs.median(), nil
}

// execCPU is execWall in milliseconds of processor time of the children, each.
func execCPU(args []string) (float64, error) {
	if _, err := execWall(args); err != nil {
		return 0, err
	}
	n, err := strconv.Atoi(args[0])
	if err != nil {
		return 0, err
	}
	var ru unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_CHILDREN, &ru); err != nil {
		return 0, err
	}
	return float64(ru.Utime.Nano()+ru.Stime.Nano()) / 1e6 / float64(n), nil
}

func megabytes(n int64, d time.Duration) float64 { return float64(n) / 1e6 / d.Seconds() }

// seqRead reads the file args[0] in pieces of 1 MiB: MB/s.
func seqRead(args []string) (float64, error) {
	f, err := os.Open(args[0])
	if err != nil {
		return 0, err
	}
	defer f.Close()
	b := make([]byte, 1<<20)
	var total int64
	start := time.Now()
	for {
		n, err := f.Read(b)
		total += int64(n)
		if errors.Is(err, io.EOF) {
			return megabytes(total, time.Since(start)), nil
		}
		if err != nil {
			return 0, err
		}
	}
}

// seqWrite writes args[1] MiB to the new file args[0], then fsync: MB/s. Where
// args[2] says what the server calls it, it is closed instead, and the time ends
// when all of it is there.
func seqWrite(args []string) (float64, error) {
	size, err := strconv.Atoi(args[1])
	if err != nil {
		return 0, err
	}
	b := make([]byte, 1<<20)
	for i := range b {
		b[i] = byte(rand.Uint32())
	}
	f, err := os.Create(args[0])
	if err != nil {
		return 0, err
	}
	defer os.Remove(args[0])
	defer f.Close()
	start := time.Now()
	for range size {
		if _, err := f.Write(b); err != nil {
			return 0, err
		}
	}
	end := func() error { return flushed(f) }
	if len(args) > 2 {
		end = func() error { return errors.Join(f.Close(), arrived(args[2], int64(size)<<20)) }
	}
	if err := end(); err != nil {
		return 0, err
	}
	return megabytes(int64(size)<<20, time.Since(start)), nil
}

// arrived waits until a file is as long as it should become, and has no holes:
// a client may set the length first.
func arrived(path string, size int64) error {
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(500 * time.Microsecond) {
		var st unix.Stat_t
		err := unix.Stat(path, &st)
		if err == nil && st.Size == size && st.Blocks*512 >= size {
			return nil
		}
		if err != nil && err != unix.ENOENT {
			return err
		}
	}
	return fmt.Errorf("%s did not come to the server", path)
}

// flushed is fsync(2), which go-fuse's memory file system does not have.
func flushed(f *os.File) error {
	if err := f.Sync(); !errors.Is(err, unix.EOPNOTSUPP) {
		return err
	}
	return nil
}

// randRead reads 4 KiB pieces of args[0], no piece twice, args[1] at once, args[2]
// in all: operations a second.
func randRead(args []string) (float64, error) {
	depth, err := strconv.Atoi(args[1])
	if err != nil {
		return 0, err
	}
	count, err := strconv.Atoi(args[2])
	if err != nil {
		return 0, err
	}
	f, err := os.Open(args[0])
	if err != nil {
		return 0, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return 0, err
	}
	if err := unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_RANDOM); err != nil {
		return 0, err
	}
	pieces := rand.Perm(int(st.Size() / 4096))
	if count > len(pieces) {
		return 0, fmt.Errorf("%s has only %d pieces", args[0], len(pieces))
	}
	next := make(chan int, count)
	for _, p := range pieces[:count] {
		next <- p
	}
	close(next)
	errs := make(chan error, depth)
	var wg sync.WaitGroup
	start := time.Now()
	for range depth {
		wg.Go(func() {
			b := make([]byte, 4096)
			for p := range next {
				if _, err := f.ReadAt(b, int64(p)*4096); err != nil {
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

// statAll stats the files f0…f(args[1]-1) of args[0]: operations a second.
func statAll(args []string) (float64, error) {
	return eachFile(args, func(name string) error { var st unix.Stat_t; return unix.Lstat(name, &st) })
}

// create makes empty files: operations a second. Where args[2] is the directory
// at the server, the time ends when all are there.
func create(args []string) (float64, error) {
	start := time.Now()
	n, err := eachFile(args, func(name string) error {
		f, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
		if err != nil {
			return err
		}
		return f.Close()
	})
	if err != nil || len(args) < 3 {
		return n, err
	}
	files := time.Since(start).Seconds() * n
	_, err = allThere([]string{args[2], args[1]})
	return files / time.Since(start).Seconds(), err
}

// allThere waits until the files that create made are in args[0].
func allThere(args []string) (float64, error) {
	return eachFile(args, func(name string) error { return arrived(name, 0) })
}

// remove deletes them.
func remove(args []string) (float64, error) { return eachFile(args, os.Remove) }

func eachFile(args []string, f func(name string) error) (float64, error) {
	n, err := strconv.Atoi(args[1])
	if err != nil {
		return 0, err
	}
	start := time.Now()
	for i := range n {
		if err := f(filepath.Join(args[0], "f"+strconv.Itoa(i))); err != nil {
			return 0, err
		}
	}
	return float64(n) / time.Since(start).Seconds(), nil
}

// list is `ls -l` of args[0], which must have args[1] entries: entries a second.
func list(args []string) (float64, error) {
	want, err := strconv.Atoi(args[1])
	if err != nil {
		return 0, err
	}
	start := time.Now()
	es, err := os.ReadDir(args[0])
	if err != nil {
		return 0, err
	}
	for _, e := range es {
		if _, err := e.Info(); err != nil {
			return 0, err
		}
	}
	if len(es) != want {
		return 0, fmt.Errorf("%d entries, want %d", len(es), want)
	}
	return float64(want) / time.Since(start).Seconds(), nil
}
