package fuse

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/lxbridge/lx/core/feature"
)

// TestOperations walks every operation through a real mount.
func TestOperations(t *testing.T) {
	m := newMemfs()
	dir, s := serve(t, m, Config{})
	at := func(name string) string { return filepath.Join(dir, name) }
	check := func(what string, err, want error) {
		t.Helper()
		if !errors.Is(err, want) {
			t.Errorf("%s: %v; want %v", what, err, want)
		}
	}
	calls := func(op string) int {
		m.mu.Lock()
		defer m.mu.Unlock()
		return m.calls[op]
	}

	want := bytes.Repeat([]byte("0123456789abcdef"), 1<<17)
	f := open(t, at("file"), os.O_RDWR|os.O_CREATE)
	if n, err := f.Write(want); n != len(want) || err != nil {
		t.Fatal(n, err)
	}
	got := make([]byte, len(want)+1)
	if n, err := f.ReadAt(got, 0); n != len(want) || err != io.EOF || !bytes.Equal(got[:n], want) {
		t.Fatalf("read %d bytes, %v; want the %d written", n, err, len(want))
	}
	check("fsync", f.Sync(), nil)
	check("fdatasync", unix.Fdatasync(int(f.Fd())), nil)
	if calls("fsync") != 1 || calls("fdatasync") != 1 {
		t.Errorf("%d fsync, %d fdatasync; want one each", calls("fsync"), calls("fdatasync"))
	}
	check("truncate", f.Truncate(10), nil)
	check("fallocate", unix.Fallocate(int(f.Fd()), 0, 0, 100), nil)
	if off, err := unix.Seek(int(f.Fd()), 5, unix.SEEK_HOLE); off != 100 || err != nil {
		t.Errorf("SEEK_HOLE: %d, %v; want 100", off, err)
	}
	if off, err := unix.Seek(int(f.Fd()), 5, unix.SEEK_DATA); off != 5 || err != nil {
		t.Errorf("SEEK_DATA: %d, %v; want 5", off, err)
	}
	g := open(t, at("copy"), os.O_RDWR|os.O_CREATE)
	var from, to int64
	if n, err := unix.CopyFileRange(int(f.Fd()), &from, int(g.Fd()), &to, 10, 0); n != 10 || err != nil {
		t.Errorf("copy_file_range: %d, %v", n, err)
	}
	if calls("copy") != 1 {
		t.Error("copy_file_range was not served")
	}
	check("close", g.Close(), nil)
	check("close", f.Close(), nil)
	if calls("flush") != 2 {
		t.Errorf("%d flushes; want 2", calls("flush"))
	}
	open(t, at("file"), os.O_WRONLY|os.O_TRUNC).Close()
	if fi, err := os.Stat(at("file")); err != nil || fi.Size() != 0 || fi.Mode() != 0o644 {
		t.Errorf("after O_TRUNC: %v, %v", fi, err)
	}

	check("chmod", os.Chmod(at("file"), 0o600), nil)
	stamp := time.Unix(1_000_000_000, 123456789)
	check("utimes", os.Chtimes(at("file"), stamp, stamp), nil)
	if fi, err := os.Stat(at("file")); err != nil || fi.Mode() != 0o600 || !fi.ModTime().Equal(stamp) {
		t.Errorf("stat: %v, %v", fi, err)
	}

	check("mkdir", os.Mkdir(at("d"), 0o750), nil)
	check("mkdir twice", os.Mkdir(at("d"), 0o750), syscall.EEXIST)
	check("mkfifo", unix.Mkfifo(at("d/fifo"), 0o644), nil)
	check("symlink", os.Symlink("d/fifo", at("link")), nil)
	if target, err := os.Readlink(at("link")); target != "d/fifo" || err != nil {
		t.Errorf("readlink: %q, %v", target, err)
	}
	check("link", os.Link(at("file"), at("d/hard")), nil)
	if fi, err := os.Stat(at("d/hard")); err != nil || fi.Sys().(*syscall.Stat_t).Nlink != 2 {
		t.Errorf("after link: %v, %v", fi, err)
	}
	check("rename", os.Rename(at("d/hard"), at("d/other")), nil)
	check("rename, no replace", unix.Renameat2(unix.AT_FDCWD, at("file"), unix.AT_FDCWD, at("copy"), unix.RENAME_NOREPLACE), syscall.EEXIST)
	check("rename, exchange", unix.Renameat2(unix.AT_FDCWD, at("file"), unix.AT_FDCWD, at("copy"), unix.RENAME_EXCHANGE), nil)
	check("rmdir of a full one", unix.Rmdir(at("d")), syscall.ENOTEMPTY)
	check("unlink", unix.Unlink(at("d/other")), nil)
	check("unlink", unix.Unlink(at("d/fifo")), nil)
	check("rmdir", unix.Rmdir(at("d")), nil)
	check("stat of nothing", unix.Stat(at("d"), new(unix.Stat_t)), syscall.ENOENT)

	check("setxattr", unix.Setxattr(at("file"), "user.a", []byte("value"), 0), nil)
	check("setxattr, create", unix.Setxattr(at("file"), "user.a", nil, unix.XATTR_CREATE), syscall.EEXIST)
	buf := make([]byte, 100)
	if n, err := unix.Getxattr(at("file"), "user.a", buf); string(buf[:max(n, 0)]) != "value" || err != nil {
		t.Errorf("getxattr: %d, %v", n, err)
	}
	if n, err := unix.Getxattr(at("file"), "user.a", nil); n != 5 || err != nil {
		t.Errorf("getxattr's size: %d, %v", n, err)
	}
	if n, err := unix.Listxattr(at("file"), buf); string(buf[:max(n, 0)]) != "user.a\x00" || err != nil {
		t.Errorf("listxattr: %d, %v", n, err)
	}
	_, err := unix.Getxattr(at("file"), "user.a", buf[:2])
	check("getxattr into little", err, syscall.ERANGE)
	big := bytes.Repeat([]byte("x"), 60000)
	check("setxattr of 60,000 bytes", unix.Setxattr(at("file"), "user.big", big, 0), nil)
	if n, err := unix.Getxattr(at("file"), "user.big", make([]byte, 1<<16)); n != len(big) || err != nil {
		t.Errorf("getxattr of 60,000 bytes: %d, %v", n, err)
	}
	check("removexattr", unix.Removexattr(at("file"), "user.big"), nil)
	check("removexattr", unix.Removexattr(at("file"), "user.a"), nil)
	_, err = unix.Getxattr(at("file"), "user.a", buf)
	check("getxattr of nothing", err, syscall.ENODATA)

	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil || st.Blocks != 1000 || st.Bavail != 400 || st.Namelen != 200 {
		t.Errorf("statfs: %+v, %v", st, err)
	}
	d := open(t, dir, os.O_RDONLY|unix.O_DIRECTORY)
	check("fsync of a directory", unix.Fsync(int(d.Fd())), nil)
	check("close", d.Close(), nil)
	if calls("fsyncdir") != 1 {
		t.Error("fsyncdir was not served")
	}
	if got := s.Stats(); got.Written != uint64(len(want)) || got.Unsent != 0 || got.Malformed != 0 || got.LatencyMax == 0 || got.Requests == 0 {
		t.Errorf("stats: %+v", got)
	}
}

func TestTransfersOfOneMiB(t *testing.T) {
	m := newMemfs()
	m.direct = true
	m.add("file", nil)
	dir, _ := serve(t, m, Config{})
	f := open(t, filepath.Join(dir, "file"), os.O_RDWR)
	defer f.Close()
	want := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	if n, err := unix.Pwrite(int(f.Fd()), want, 0); n != len(want) || err != nil {
		t.Fatal(n, err)
	}
	got := make([]byte, len(want))
	if n, err := unix.Pread(int(f.Fd()), got, 0); n != len(want) || err != nil || !bytes.Equal(got, want) {
		t.Fatal(n, err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.calls["write"] != 1 || m.calls["read"] != 1 {
		t.Errorf("%d writes, %d reads; want one each", m.calls["write"], m.calls["read"])
	}
}

func TestWriteback(t *testing.T) {
	if feature.Missing(feature.FuseWriteback) {
		return
	}
	m := newMemfs()
	m.add("file", nil)
	dir, _ := serve(t, m, Config{Writeback: true})
	f := open(t, filepath.Join(dir, "file"), os.O_RDWR)
	defer f.Close()
	for i := range 512 {
		if _, err := unix.Pwrite(int(f.Fd()), make([]byte, 4096), int64(i)*4096); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Fsync(int(f.Fd())); err != nil {
		t.Fatal(err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if n := m.calls["write"]; n == 0 || n > 64 || m.calls["cached"] != n {
		t.Errorf("512 writes became %d, %d from the cache; want few", n, m.calls["cached"])
	}
}

func TestNoOpen(t *testing.T) {
	m := newMemfs()
	m.add("file", []byte("data"))
	dir, _ := serve(t, m, Config{NoOpen: true, NoOpendir: true})
	for range 3 {
		f := open(t, filepath.Join(dir, "file"), os.O_RDONLY)
		if n, err := f.Read(make([]byte, 10)); n != 4 || err != nil {
			t.Error(n, err)
		}
		f.Close()
	}
	if names := listDir(t, dir); len(names) != 1 {
		t.Errorf("listing %v", names)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.opened != 0 {
		t.Errorf("%d opens were served", m.opened)
	}
}

// TestForcedUnmount: umount -f frees who waits and ends Serve.
func TestForcedUnmount(t *testing.T) {
	m := newMemfs()
	dir, s := serve(t, m, Config{})
	got := make(chan error)
	go func() { got <- unix.Stat(filepath.Join(dir, "stuck"), new(unix.Stat_t)) }()
	<-m.wait
	if err := unix.Unmount(dir, unix.MNT_FORCE|unix.MNT_DETACH); err != nil {
		t.Fatal(err)
	}
	if err := <-got; err != unix.ECONNABORTED && err != unix.ENOTCONN && err != unix.EINTR {
		t.Errorf("waiting stat: %v; want ECONNABORTED", err)
	}
	if err := s.Wait(); err != nil {
		t.Errorf("Serve: %v", err)
	}
}

func TestIoctl(t *testing.T) {
	m := newMemfs()
	m.add("file", nil)
	dir, _ := serve(t, m, Config{})
	f := open(t, filepath.Join(dir, "file"), os.O_RDWR)
	defer f.Close()
	ioctl := func(cmd uintptr, arg *[8]byte) (int, error) {
		n, _, e := unix.Syscall(unix.SYS_IOCTL, f.Fd(), cmd, uintptr(unsafe.Pointer(arg)))
		if e != 0 {
			return int(n), e
		}
		return int(n), nil
	}
	const readWrite8 = 3<<30 | 8<<16 | 'x'<<8 // _IOWR('x', 0, char[8])
	arg := [8]byte{1, 2, 3, 4, 5, 6, 7, 8}
	if n, err := ioctl(readWrite8, &arg); n != 7 || err != nil || arg != [8]byte{2, 3, 4, 5, 6, 7, 8, 9} {
		t.Errorf("ioctl: %d, %v, %v", n, err, arg)
	}
	if _, err := ioctl(readWrite8|0xff, &arg); err != unix.ENOTTY {
		t.Errorf("unknown ioctl: %v; want ENOTTY", err)
	}
}

// listDir lists a directory through getdents(2), as ls does.
func listDir(t *testing.T, name string) []string {
	t.Helper()
	f := open(t, name, os.O_RDONLY|unix.O_DIRECTORY)
	defer f.Close()
	var names []string
	for buf := make([]byte, 64<<10); ; {
		n, err := unix.Getdents(int(f.Fd()), buf)
		if err != nil {
			t.Fatal(err)
		}
		if n == 0 {
			return names
		}
		_, _, names = unix.ParseDirent(buf[:n], -1, names)
	}
}

func TestTenThousandEntries(t *testing.T) {
	m := newMemfs()
	m.valid = time.Hour
	var want []string
	for i := range 10000 {
		want = append(want, fmt.Sprintf("entry with a long name %05d", i))
		m.add(want[i], nil)
	}
	dir, s := serve(t, m, Config{})
	got := listDir(t, dir)
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Fatalf("%d entries; want %d", len(got), len(want))
	}
	before := s.Stats().Requests
	for _, name := range want {
		if err := unix.Stat(filepath.Join(dir, name), new(unix.Stat_t)); err != nil {
			t.Fatal(err)
		}
	}
	if n := s.Stats().Requests - before; n > 100 {
		t.Errorf("%d requests for stat of what READDIRPLUS told", n)
	}
}

func TestParallelLookups(t *testing.T) {
	m := newMemfs()
	m.valid = 0
	for i := range 64 {
		m.add(fmt.Sprint(i), nil)
	}
	dir, _ := serve(t, m, Config{})
	var wg sync.WaitGroup
	for i := range 64 {
		wg.Go(func() {
			for range 20 {
				if err := unix.Stat(filepath.Join(dir, fmt.Sprint(i)), new(unix.Stat_t)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
}

// TestHungOperations: many that hang stop none of the others, and Abort frees them.
func TestHungOperations(t *testing.T) {
	m := newMemfs()
	m.add("file", []byte("data"))
	for i := range 40 {
		hung := m.add(fmt.Sprint("hang", i), nil)
		m.nodes[hung].target, m.nodes[hung].attr.Size = "hang", 1
	}
	dir, s := serve(t, m, Config{})
	errs := make(chan error, 40)
	for i := range 40 {
		f := open(t, filepath.Join(dir, fmt.Sprint("hang", i)), os.O_RDONLY)
		go func() {
			defer f.Close()
			_, err := unix.Pread(int(f.Fd()), make([]byte, 1), 0)
			errs <- err
		}()
		<-m.wait
	}
	f := open(t, filepath.Join(dir, "file"), os.O_RDONLY)
	defer f.Close()
	buf := make([]byte, 10)
	if n, err := unix.Pread(int(f.Fd()), buf, 0); string(buf[:max(n, 0)]) != "data" || err != nil {
		t.Errorf("read beside hung ones: %d, %v", n, err)
	}
	if n := s.Stats().InFlight; n != 40 {
		t.Errorf("%d in flight; want 40", n)
	}
	s.Abort()
	for range 40 {
		if err := <-errs; err != unix.EIO {
			t.Errorf("hung read after Abort: %v; want EIO", err)
		}
	}
	if err := unix.Stat(filepath.Join(dir, "other"), new(unix.Stat_t)); err != unix.EIO {
		t.Errorf("stat after Abort: %v; want EIO", err)
	}
	close(m.hang)
}

func TestTimeout(t *testing.T) {
	m := newMemfs()
	hung := m.add("hang", nil)
	m.nodes[hung].target, m.nodes[hung].attr.Size = "hang", 1
	dir, s := serve(t, m, Config{Timeout: 50 * time.Millisecond, Grace: 20 * time.Millisecond})
	f := open(t, filepath.Join(dir, "hang"), os.O_RDONLY)
	defer f.Close()
	start := time.Now()
	if _, err := unix.Pread(int(f.Fd()), make([]byte, 1), 0); err != unix.ETIMEDOUT {
		t.Errorf("read: %v; want ETIMEDOUT", err)
	}
	if took := time.Since(start); took < 70*time.Millisecond || took > 5*time.Second {
		t.Errorf("it took %v; want 70 ms", took)
	}
	if late := s.Stats().Late; late == 0 {
		t.Error("no late answer counted")
	}
	close(m.hang)
}

func TestBlockingLock(t *testing.T) {
	m := newMemfs()
	m.add("file", nil)
	dir, _ := serve(t, m, Config{Timeout: time.Hour})
	name := filepath.Join(dir, "file")
	a, b := open(t, name, os.O_RDWR), open(t, name, os.O_RDWR)
	defer a.Close()
	defer b.Close()
	if err := unix.Flock(int(a.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	if err := unix.Flock(int(b.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != unix.EAGAIN {
		t.Errorf("second lock: %v; want EAGAIN", err)
	}
	got := make(chan error)
	go func() { got <- unix.Flock(int(b.Fd()), unix.LOCK_EX) }()
	<-m.wait
	if err := unix.Flock(int(a.Fd()), unix.LOCK_UN); err != nil {
		t.Fatal(err)
	}
	if err := <-got; err != nil {
		t.Errorf("lock after unlock: %v", err)
	}
	lk := unix.Flock_t{Type: unix.F_WRLCK}
	if err := unix.FcntlFlock(a.Fd(), unix.F_GETLK, &lk); err != nil || lk.Type != unix.F_WRLCK {
		t.Errorf("F_GETLK: %+v, %v", lk, err)
	}
}

func TestPollIsWoken(t *testing.T) {
	m := newMemfs()
	m.add("file", nil)
	dir, s := serve(t, &pollfs{m}, Config{})
	f := open(t, filepath.Join(dir, "file"), os.O_RDONLY)
	defer f.Close()
	fds := []unix.PollFd{{Fd: int32(f.Fd()), Events: unix.POLLIN}}
	if n, err := unix.Poll(fds, 0); n != 0 || err != nil {
		t.Fatalf("poll: %d, %v; want nothing ready", n, err)
	}
	got := make(chan int)
	go func() {
		for {
			n, err := unix.Poll(fds, -1)
			if err == unix.EINTR {
				continue
			}
			got <- n
			return
		}
	}()
	kh := <-m.polls
	m.mu.Lock()
	m.ready = true
	m.mu.Unlock()
	if err := s.NotifyPoll(kh); err != nil {
		t.Fatal(err)
	}
	if n := <-got; n != 1 || fds[0].Revents != unix.POLLIN {
		t.Errorf("poll: %d, revents %#x", n, fds[0].Revents)
	}
}
