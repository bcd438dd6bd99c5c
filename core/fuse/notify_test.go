package fuse

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestNotifications(t *testing.T) {
	m := newMemfs()
	m.valid = time.Hour
	ino := m.add("file", []byte("old"))
	dir, s := serve(t, m, Config{})
	name := filepath.Join(dir, "file")
	size := func() int64 {
		t.Helper()
		var st unix.Stat_t
		if err := unix.Stat(name, &st); err != nil {
			t.Fatal(err)
		}
		return st.Size
	}
	change := func(data string) {
		m.mu.Lock()
		defer m.mu.Unlock()
		n := m.nodes[ino]
		n.data, n.attr.Size = []byte(data), uint64(len(data))
	}
	if size() != 3 {
		t.Fatal(size())
	}
	change("newer")
	if size() != 3 {
		t.Error("attributes are not cached")
	}
	if err := s.NotifyInvalInode(ino, 0, 0); err != nil {
		t.Error(err)
	}
	if size() != 5 {
		t.Error("attributes are cached after NotifyInvalInode")
	}

	m.mu.Lock()
	delete(m.nodes[RootID].children, "file")
	m.mu.Unlock()
	if size() != 5 {
		t.Error("the name is not cached")
	}
	if err := s.NotifyInvalEntry(RootID, "file", true); err != nil {
		t.Error(err)
	}
	if err := unix.Stat(name, new(unix.Stat_t)); err != unix.ENOENT {
		t.Errorf("stat after NotifyInvalEntry: %v; want ENOENT", err)
	}

	ino = m.add("again", []byte("x"))
	name = filepath.Join(dir, "again")
	size()
	if err := s.NotifyStore(ino, 0, []byte("stored")); err != nil {
		t.Error(err)
	}
	if err := s.NotifyDelete(RootID, ino, "again"); err != nil {
		t.Error(err)
	}
	if err := s.NotifyInvalEntry(RootID, "never seen", false); !errors.Is(err, unix.ENOENT) {
		t.Errorf("notification about nothing: %v; want ENOENT", err)
	}
}

// TestNotifyPrune: the kernel forgets what nobody uses, and keeps an open file.
func TestNotifyPrune(t *testing.T) {
	m := newMemfs()
	m.valid = time.Hour
	idle, used := m.add("idle", nil), m.add("used", nil)
	dir, s := serve(t, m, Config{})
	if err := unix.Stat(filepath.Join(dir, "idle"), new(unix.Stat_t)); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(filepath.Join(dir, "used"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	err = s.NotifyPrune([]uint64{idle, used, 12345})
	if s.neg.Load().Minor < minorPrune {
		if err != unix.ENOSYS {
			t.Errorf("a kernel that cannot: %v", err)
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	refs := func(node uint64) uint64 {
		m.mu.Lock()
		defer m.mu.Unlock()
		return m.nodes[node].refs
	}
	for late := time.Now().Add(10 * time.Second); refs(idle) != 0; runtime.Gosched() {
		if time.Now().After(late) {
			t.Fatal("the idle file is not forgotten")
		}
	}
	if refs(used) == 0 {
		t.Error("the open file is forgotten")
	}
}

func TestConfigureTellsTheReason(t *testing.T) {
	fsfd, dev, err := OpenContext()
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fsfd)
	defer unix.Close(dev)
	err = Configure(fsfd, dev, MountConfig{RootMode: 1})
	if err == nil || !strings.HasPrefix(err.Error(), "cannot ") || !errors.Is(err, unix.EINVAL) {
		t.Errorf("a root of no type: %v; want a refusal", err)
	}
	if _, err = Mount(filepath.Join(t.TempDir(), "absent"), MountConfig{}, 0); !errors.Is(err, unix.ENOENT) {
		t.Errorf("absent target: %v; want ENOENT", err)
	}
}

func TestMountShowsItself(t *testing.T) {
	dir, _ := serve(t, newMemfs(), Config{})
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if strings.Contains(line, dir+" ") {
			for _, want := range []string{"fuse.lx.test test ", "default_permissions", "allow_other"} {
				if !strings.Contains(line, want) {
					t.Errorf("%q lacks %q", line, want)
				}
			}
			return
		}
	}
	t.Error("no such mount")
}
