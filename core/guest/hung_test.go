package guest_test

import (
	"context"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lxbridge/lx/core/fuse"
	"github.com/lxbridge/lx/core/seccomp"
)

// hangingFS has one file, "file", whose reads wait for release.
type hangingFS struct {
	reading chan struct{} // closed by the first read
	release chan struct{}
}

var _ fuse.Reader = (*hangingFS)(nil)

func (h *hangingFS) attr(node uint64) fuse.Attr {
	if node == fuse.RootID {
		return fuse.Attr{Ino: node, Mode: unix.S_IFDIR | 0o755, Nlink: 2}
	}
	return fuse.Attr{Ino: node, Mode: unix.S_IFREG | 0o644, Nlink: 1, Size: 4096}
}

func (h *hangingFS) Lookup(_ context.Context, _ uint64, name string) (fuse.Entry, syscall.Errno) {
	if name != "file" {
		return fuse.Entry{}, syscall.ENOENT
	}
	return fuse.Entry{Node: 2, Attr: h.attr(2), EntryValid: time.Hour, AttrValid: time.Hour}, 0
}

func (h *hangingFS) Forget(uint64, uint64) {}

func (h *hangingFS) Getattr(_ context.Context, node, _ uint64, _ bool) (fuse.Attr, time.Duration, syscall.Errno) {
	return h.attr(node), time.Hour, 0
}

func (h *hangingFS) Read(_ context.Context, _, _ uint64, _ int64, dst []byte) (int, syscall.Errno) {
	close(h.reading)
	<-h.release
	clear(dst)
	return copy(dst, "at last"), 0
}

// TestHungMemory: a string in an mmap of a hung FUSE file holds up nobody else.
func TestHungMemory(t *testing.T) {
	dir := t.TempDir()
	h := &hangingFS{reading: make(chan struct{}), release: make(chan struct{})}
	dev, err := fuse.Mount(dir, fuse.MountConfig{Source: "hanging", AllowOther: true}, 0)
	if err != nil {
		t.Fatal(err)
	}
	server, err := fuse.New(h, fuse.Config{})
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(context.Background(), dev) }()
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	at(t, "hung", []string{dir + "/file"}, func(tr *seccomp.Trap) {
		switch tr.Args[2] {
		case waitForHanger:
			<-h.reading
		case releaseHanger:
			close(h.release)
		case hanging:
			if s, err := tr.ReadString(tr.Args[0], 100); s != "at last" || err != nil {
				t.Errorf("read %q, %v", s, err)
			}
		}
	})
}
