// Package volumetest checks volumes: Contract the Volume interface itself, Run
// a mounted directory through the kernel. Both are run by every volume's tests;
// Run's verdicts are checked on the kernel's own file systems here.
package volumetest

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Options say what the file system under test is.
type Options struct {
	// RealModes: it keeps modes and owners and checks them. Without it the
	// tests of chmod, chown, umask and permissions are not run.
	RealModes bool
	// TimeGranularity of stored times; 0 is 1 ns.
	TimeGranularity time.Duration
	// NoChars are the printable ASCII characters, beside '/', that its names
	// cannot have.
	NoChars string
	// Stale: a file that is replaced between its look-up and its open is gone
	// for the server, so that a name which is replaced without end may give
	// ESTALE, as with NFS.
	Stale bool
	// Exceptions are the tests that it fails, each with the reason. One that
	// passes is an error, so that lists stay true.
	Exceptions map[string]string
	// Only, where not empty, are the tests to run.
	Only []string
	// Limit is how long one test may take; 0 is two minutes.
	Limit time.Duration
}

// Run runs the suite in dir, an empty directory of the file system under test
// that this process may write. Whatever it makes there it removes. Tests that
// need several user ids are run where this process can become others.
func Run(t *testing.T, dir string, o Options) {
	tests := suite(o)
	for _, name := range o.names(tests) {
		t.Run(name, func(t *testing.T) {
			log, failures := check(dir, name, tests[name], o)
			if log != "" {
				t.Log(log)
			}
			for _, f := range failures {
				t.Error(f)
			}
		})
	}
	for _, f := range o.unknown(tests) {
		t.Error(f)
	}
}

// Check is Run for a program that is no test: it tells each test's failures,
// none where it passed.
func Check(dir string, o Options, tell func(name string, failures []string)) {
	tests := suite(o)
	for _, name := range o.names(tests) {
		_, failures := check(dir, name, tests[name], o)
		tell(name, failures)
	}
	if f := o.unknown(tests); len(f) > 0 {
		tell("Exceptions", f)
	}
}

func suite(o Options) map[string]func(*T) {
	tests := map[string]func(*T){}
	groups := []map[string]func(*T){
		openTests, unlinkTests, renameTests, linkTests, directoryTests, nameTests, dataTests, sparseTests,
		mmapTests, timeTests, attributeTests, lockTests, processTests,
	}
	if o.RealModes {
		groups = append(groups, modeTests)
	}
	for _, group := range groups {
		maps.Copy(tests, group)
	}
	return tests
}

// names are the tests to run, in order.
func (o Options) names(tests map[string]func(*T)) []string {
	names := slices.Sorted(maps.Keys(tests))
	if len(o.Only) > 0 {
		names = slices.DeleteFunc(names, func(name string) bool { return !slices.Contains(o.Only, name) })
	}
	return names
}

// unknown are the exceptions that are no test's.
func (o Options) unknown(tests map[string]func(*T)) (failures []string) {
	for _, name := range slices.Sorted(maps.Keys(o.Exceptions)) {
		if tests[name] == nil {
			failures = append(failures, "an exception is named "+name+", a test is not")
		}
	}
	return failures
}

// check runs a test in a directory of its own.
func check(dir, name string, test func(*T), o Options) (log string, failed []string) {
	own := filepath.Join(dir, name)
	if err := os.Mkdir(own, 0o755); err != nil {
		return "", []string{err.Error()}
	}
	failures := run(own, o, test)
	reason, excepted := o.Exceptions[name]
	if excepted {
		log = fmt.Sprintf("excepted: %s\n%s", reason, strings.Join(failures, "\n"))
	}
	failed = verdict(failures, reason, excepted)
	if err := os.RemoveAll(own); err != nil && !excepted {
		failed = append(failed, fmt.Sprintf("cannot remove what the test made: %v; left: %q", err, left(own)))
	}
	return log, failed
}

// left are the names below dir.
func left(dir string) (names []string) {
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		names = append(names, strings.TrimPrefix(path, dir))
		return err
	})
	if err != nil {
		names = append(names, err.Error())
	}
	return names
}

// verdict is what a test with these failures is blamed for.
func verdict(failures []string, reason string, excepted bool) []string {
	switch {
	case !excepted:
		return failures
	case reason == "":
		return []string{"excepted without a reason"}
	case len(failures) == 0:
		return []string{"excepted and yet it passes; the reason was: " + reason}
	}
	return nil
}

// run answers what went wrong with one test.
func run(dir string, o Options, test func(*T)) []string {
	t := &T{Options: o, dir: dir}
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer t.cleanup()
		test(t)
	}()
	limit := o.Limit
	if limit == 0 {
		limit = 2 * time.Minute
	}
	select {
	case <-done:
	case <-time.After(limit):
		t.Errorf("not done after %v", limit)
		go t.cleanup() // other processes that it waits for end
		select {
		case <-done:
		case <-time.After(limit):
			t.Errorf("not ended after another %v", limit)
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Clone(t.failures)
}

// T is one test at work. What it calls may be called from several goroutines;
// a fatal failure ends the calling one.
type T struct {
	Options
	dir string

	mu       sync.Mutex // guards what follows
	failures []string
	cleanups []func()
}

// Errorf records a failure.
func (t *T) Errorf(format string, args ...any) {
	where := ""
	for skip := 1; ; skip++ { // the line of the test, not of a method of T
		pc, file, line, ok := runtime.Caller(skip)
		if !ok {
			break
		}
		if f := runtime.FuncForPC(pc); f != nil && !strings.Contains(f.Name(), "(*T)") && !strings.Contains(f.Name(), "(*process)") {
			where = fmt.Sprintf("%s:%d: ", filepath.Base(file), line)
			break
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.failures = append(t.failures, where+fmt.Sprintf(format, args...))
}

// Fatalf records a failure and ends the test.
func (t *T) Fatalf(format string, args ...any) {
	t.Errorf(format, args...)
	runtime.Goexit()
}

func (t *T) check(what string, err error) {
	if err != nil {
		t.Errorf("%s: %v", what, err)
	}
}

func (t *T) must(what string, err error) {
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

// fails checks that a call failed, with one of these.
func (t *T) fails(what string, err error, want ...syscall.Errno) {
	if !slices.ContainsFunc(want, func(no syscall.Errno) bool { return errors.Is(err, no) }) {
		t.Errorf("%s: %v, want %v", what, err, want)
	}
}

// atEnd runs f after the test, the last first.
func (t *T) atEnd(f func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.cleanups = append(t.cleanups, f)
}

func (t *T) cleanup() {
	for {
		t.mu.Lock()
		n := len(t.cleanups)
		if n == 0 {
			t.mu.Unlock()
			return
		}
		f := t.cleanups[n-1]
		t.cleanups = t.cleanups[:n-1]
		t.mu.Unlock()
		f()
	}
}

func (t *T) path(elem ...string) string { return filepath.Join(append([]string{t.dir}, elem...)...) }

// again repeats a system call that a signal interrupted: the runtime sends
// itself some.
func again(f func() error) error {
	for {
		if err := f(); err != unix.EINTR {
			return err
		}
	}
}

// open opens a name in the test's directory; it is closed at the end at last.
func (t *T) open(name string, flags int) *os.File {
	f, err := t.tryOpen(name, flags, 0o644)
	t.must("open "+name, err)
	return f
}

func (t *T) tryOpen(name string, flags int, mode os.FileMode) (*os.File, error) {
	f, err := os.OpenFile(t.path(name), flags, mode)
	if err == nil {
		t.atEnd(func() { f.Close() })
	}
	return f, err
}

func (t *T) create(name string) *os.File { return t.open(name, os.O_RDWR|os.O_CREATE|os.O_EXCL) }

func (t *T) mkdir(name string) { t.must("mkdir "+name, os.Mkdir(t.path(name), 0o755)) }

func (t *T) write(name, content string) {
	t.must("write "+name, os.WriteFile(t.path(name), []byte(content), 0o644))
}

// has checks what a name's file contains.
func (t *T) has(name, want string) {
	got, err := os.ReadFile(t.path(name))
	t.same("content of "+name, got, []byte(want), err)
}

// same compares bytes without printing much of them.
func (t *T) same(what string, got, want []byte, err error) {
	if err != nil || len(got) != len(want) {
		t.Errorf("%s: %d bytes, %v; want %d", what, len(got), err, len(want))
		return
	}
	for i := range got {
		if got[i] != want[i] {
			t.Errorf("%s: byte %d is %#x, want %#x", what, i, got[i], want[i])
			return
		}
	}
}

// readsAt checks bytes through an open file.
func (t *T) readsAt(f *os.File, off int64, want string) {
	got := make([]byte, len(want))
	n, err := f.ReadAt(got, off)
	t.same(fmt.Sprintf("read at %d", off), got[:n], []byte(want), err)
}

func (t *T) writeAt(f *os.File, s string, off int64) {
	_, err := f.WriteAt([]byte(s), off)
	t.must(fmt.Sprintf("write at %d", off), err)
}

// exists checks whether a name is there.
func (t *T) exists(name string, want bool) {
	_, err := os.Lstat(t.path(name))
	if want {
		t.check("lstat "+name, err)
	} else {
		t.fails("lstat "+name, err, unix.ENOENT)
	}
}

func (t *T) stat(name string) unix.Stat_t {
	var st unix.Stat_t
	t.must("lstat "+name, again(func() error { return unix.Lstat(t.path(name), &st) }))
	return st
}

func (t *T) fstat(f *os.File) unix.Stat_t {
	var st unix.Stat_t
	t.must("fstat", again(func() error { return unix.Fstat(int(f.Fd()), &st) }))
	return st
}

// lists checks the names in a directory.
func (t *T) lists(name string, want ...string) {
	entries, err := os.ReadDir(t.path(name))
	t.must("readdir", err)
	var got []string
	for _, e := range entries {
		got = append(got, e.Name())
	}
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("the directory lists %q, want %q", got, want)
	}
}

func (t *T) remove(name string) {
	t.must("unlink "+name, again(func() error { return unix.Unlink(t.path(name)) }))
}

func (t *T) rename(from, to string) {
	t.must("rename "+from+" to "+to, t.tryRename(from, to))
}

// tryRename is rename(2): os.Rename refuses directories by itself.
func (t *T) tryRename(from, to string) error { return t.rename2(from, to, 0) }

// rename2 is renameat2(2) with flags.
func (t *T) rename2(from, to string, flags uint) error {
	return again(func() error {
		return unix.Renameat2(unix.AT_FDCWD, t.path(from), unix.AT_FDCWD, t.path(to), flags)
	})
}

// pattern is n bytes that differ from place to place and from seed to seed.
func pattern(seed byte, n int) string {
	p := make([]byte, n)
	for i := range p {
		p[i] = byte(i) ^ byte(i>>8) ^ byte(i>>16) ^ seed
	}
	return string(p)
}
