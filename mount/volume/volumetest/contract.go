package volumetest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/lxbridge/lx/mount/volume"
)

// Contract checks what package volume promises of a Volume, without a kernel:
// each part on a volume of its own from newVolume, in a new directory that it
// removes as far as it can. Abilities that a volume does not have are left out.
// Run it under the race detector.
func Contract(t *testing.T, newVolume func() volume.Volume) {
	for name, f := range map[string]func(*contract){
		"Allocate":    (*contract).allocate,
		"Cancelled":   (*contract).cancelled,
		"Closed":      (*contract).closed,
		"Concurrent":  (*contract).concurrent,
		"Copy":        (*contract).copyRange,
		"Create":      (*contract).create,
		"Errno":       (*contract).errno,
		"Forget":      (*contract).forget,
		"Link":        (*contract).link,
		"Lock":        (*contract).lock,
		"Mknod":       (*contract).mknod,
		"ReadDir":     (*contract).readDir,
		"ReadWrite":   (*contract).readWrite,
		"Rename":      (*contract).rename,
		"Setattr":     (*contract).setattr,
		"Statfs":      (*contract).statfs,
		"Symlink":     (*contract).symlink,
		"Told":        (*contract).told,
		"UnlinkOpen":  (*contract).unlinkOpen,
		"WhileListed": (*contract).whileListed,
		"Xattr":       (*contract).xattr,
	} {
		t.Run(name, func(t *testing.T) {
			c := &contract{T: t, ctx: context.Background(), v: newVolume()}
			dir := fmt.Sprintf("contract-%s-%x", name, rand.Uint64())
			var err error
			c.dir, _, err = c.v.Mkdir(c.ctx, c.v.Root(), dir, 0o755)
			if err != nil {
				t.Fatalf("Mkdir: %v", err)
			}
			defer func() {
				if name == "Closed" {
					return
				}
				c.clear(c.dir)
				c.check(c.v.Rmdir(c.ctx, c.v.Root(), dir))
				c.v.Forget(c.dir)
				c.check(c.v.Close())
			}()
			f(c)
		})
	}
}

type contract struct {
	*testing.T
	ctx context.Context
	v   volume.Volume
	dir volume.Node // made for the test
}

func (c *contract) check(err error) {
	c.Helper()
	if err != nil {
		c.Error(err)
	}
}

func (c *contract) must(err error) {
	c.Helper()
	if err != nil {
		c.Fatal(err)
	}
}

// is checks an error's errno.
func (c *contract) is(what string, err error, want ...syscall.Errno) {
	c.Helper()
	if no := volume.Errno(err); !slices.Contains(want, no) {
		c.Errorf("%s: %v (errno %d), want %v", what, err, no, want)
	}
}

// clear removes all that is in a directory.
func (c *contract) clear(dir volume.Node) {
	c.Helper()
	for name, typ := range c.list(dir) {
		if typ&os.ModeDir == 0 {
			c.check(c.v.Unlink(c.ctx, dir, name))
			continue
		}
		n, _, err := c.v.Lookup(c.ctx, dir, name)
		c.must(err)
		c.clear(n)
		c.check(c.v.Rmdir(c.ctx, dir, name))
		c.v.Forget(n)
	}
}

// list is a whole listing; its nodes are forgotten.
func (c *contract) list(dir volume.Node) map[string]os.FileMode {
	c.Helper()
	s, err := c.v.ReadDir(c.ctx, dir)
	c.must(err)
	defer func() { c.check(s.Close()) }()
	names := map[string]os.FileMode{}
	for {
		entries, err := s.Next(c.ctx)
		if errors.Is(err, io.EOF) {
			if len(entries) != 0 {
				c.Error("entries beside io.EOF")
			}
			return names
		}
		c.must(err)
		for _, e := range entries {
			if _, twice := names[e.Name]; twice {
				c.Errorf("%q is listed twice", e.Name)
			}
			names[e.Name] = e.Type
			if e.Node != nil {
				if e.Attr.Mode&syscall.S_IFMT == 0 {
					c.Errorf("%q has a node and no type in its attributes", e.Name)
				}
				c.v.Forget(e.Node)
			}
		}
	}
}

// file makes a file with content and forgets it.
func (c *contract) file(dir volume.Node, name, content string) {
	c.Helper()
	n, h := c.open(dir, name, os.O_RDWR|os.O_EXCL)
	if content != "" {
		c.write(h, content, 0)
	}
	c.must(h.Close(c.ctx))
	c.v.Forget(n)
}

func (c *contract) open(dir volume.Node, name string, flags int) (volume.Node, volume.Handle) {
	c.Helper()
	n, _, h, err := c.v.Create(c.ctx, dir, name, flags|os.O_CREATE, 0o644)
	c.must(err)
	return n, h
}

func (c *contract) write(h volume.Handle, s string, off int64) {
	c.Helper()
	if n, err := h.WriteAt(c.ctx, []byte(s), off); err != nil || n != len(s) {
		c.Fatalf("WriteAt(%d bytes, %d) = %d, %v", len(s), off, n, err)
	}
}

// reads checks that h has want at off, and whether the file ends there.
func (c *contract) reads(h volume.Handle, off int64, want string, end bool) {
	c.Helper()
	p := make([]byte, len(want))
	if end {
		p = append(p, "more room"...)
	}
	n, err := h.ReadAt(c.ctx, p, off)
	if err != nil || n != len(want) || string(p[:n]) != want {
		c.Errorf("ReadAt(%d): %d bytes, %v; want %d", off, n, err, len(want))
	}
}

func (c *contract) content(dir volume.Node, name, want string) {
	c.Helper()
	n, a, err := c.v.Lookup(c.ctx, dir, name)
	c.must(err)
	defer c.v.Forget(n)
	if a.Size != uint64(len(want)) {
		c.Errorf("%s: size %d, want %d", name, a.Size, len(want))
	}
	h, err := c.v.Open(c.ctx, n, os.O_RDONLY)
	c.must(err)
	c.reads(h, 0, want, true)
	c.must(h.Close(c.ctx))
}

func (c *contract) mkdir(dir volume.Node, name string) volume.Node {
	c.Helper()
	n, a, err := c.v.Mkdir(c.ctx, dir, name, 0o755)
	c.must(err)
	if a.Mode&syscall.S_IFMT != syscall.S_IFDIR {
		c.Errorf("Mkdir answered mode %o", a.Mode)
	}
	return n
}

func (c *contract) absent(dir volume.Node, name string) {
	c.Helper()
	_, _, err := c.v.Lookup(c.ctx, dir, name)
	c.is("Lookup of "+name, err, syscall.ENOENT)
}

// cancelled: each call returns soon with the context's error.
func (c *contract) cancelled() {
	c.file(c.dir, "f", "x")
	n, h := c.open(c.dir, "f", os.O_RDWR)
	s, err := c.v.ReadDir(c.ctx, c.dir)
	c.must(err)
	ctx, cancel := context.WithCancel(c.ctx)
	cancel()
	size := uint64(0)
	for name, call := range map[string]func() error{
		"Lookup":  func() error { _, _, err := c.v.Lookup(ctx, c.dir, "f"); return err },
		"Getattr": func() error { _, err := c.v.Getattr(ctx, n, nil); return err },
		"Setattr": func() error { _, err := c.v.Setattr(ctx, n, nil, volume.SetAttr{Size: &size}); return err },
		"ReadDir": func() error { _, err := c.v.ReadDir(ctx, c.dir); return err },
		"Next":    func() error { _, err := s.Next(ctx); return err },
		"Open":    func() error { _, err := c.v.Open(ctx, n, os.O_RDONLY); return err },
		"Create":  func() error { _, _, _, err := c.v.Create(ctx, c.dir, "g", os.O_RDWR, 0o644); return err },
		"Mkdir":   func() error { _, _, err := c.v.Mkdir(ctx, c.dir, "d", 0o755); return err },
		"Unlink":  func() error { return c.v.Unlink(ctx, c.dir, "f") },
		"Rmdir":   func() error { return c.v.Rmdir(ctx, c.dir, "d") },
		"Rename":  func() error { return c.v.Rename(ctx, c.dir, "f", c.dir, "g", 0) },
		"Statfs":  func() error { _, err := c.v.Statfs(ctx); return err },
		"ReadAt":  func() error { _, err := h.ReadAt(ctx, make([]byte, 1), 0); return err },
		"WriteAt": func() error { _, err := h.WriteAt(ctx, make([]byte, 1), 0); return err },
		"Sync":    func() error { return h.Sync(ctx) },
	} {
		done := make(chan error, 1)
		go func() { done <- call() }()
		select {
		case err := <-done:
			if !errors.Is(err, context.Canceled) {
				c.Errorf("%s with a cancelled context: %v", name, err)
			}
		case <-time.After(10 * time.Second):
			c.Fatalf("%s with a cancelled context does not return", name)
		}
	}
	c.check(s.Close())
	c.check(h.Close(c.ctx))
	c.v.Forget(n)
	c.content(c.dir, "f", "x")
}

// closed: calls on a closed volume fail and do not hang.
func (c *contract) closed() {
	n, h := c.open(c.dir, "f", os.O_RDWR|os.O_EXCL)
	c.must(c.v.Close())
	if _, err := c.v.Getattr(c.ctx, n, nil); err == nil {
		c.Error("Getattr on a closed volume")
	}
	if _, err := h.WriteAt(c.ctx, []byte("x"), 0); err == nil {
		c.Error("WriteAt on a closed volume")
	}
}

func (c *contract) errno() {
	v, ctx := c.v, c.ctx
	c.file(c.dir, "file", "")
	full := c.mkdir(c.dir, "full")
	c.file(full, "x", "")
	f, _, err := v.Lookup(ctx, c.dir, "file")
	c.must(err)
	c.absent(c.dir, "none")
	_, _, err = v.Lookup(ctx, f, "x")
	c.is("Lookup in a file", err, syscall.ENOTDIR)
	_, _, err = v.Mkdir(ctx, c.dir, "file", 0o755)
	c.is("Mkdir over a file", err, syscall.EEXIST)
	_, _, err = v.Mkdir(ctx, c.dir, "full", 0o755)
	c.is("Mkdir over a directory", err, syscall.EEXIST)
	_, _, _, err = v.Create(ctx, c.dir, "full", os.O_RDWR, 0o644)
	c.is("Create over a directory", err, syscall.EISDIR)
	_, err = v.Open(ctx, full, os.O_RDONLY)
	c.is("Open of a directory", err, syscall.EISDIR)
	c.is("Unlink of nothing", v.Unlink(ctx, c.dir, "none"), syscall.ENOENT)
	c.is("Unlink of a directory", v.Unlink(ctx, c.dir, "full"), syscall.EISDIR, syscall.EPERM, syscall.ENOTEMPTY)
	c.is("Rmdir of nothing", v.Rmdir(ctx, c.dir, "none"), syscall.ENOENT)
	c.is("Rmdir of a file", v.Rmdir(ctx, c.dir, "file"), syscall.ENOTDIR)
	c.is("Rmdir of a full directory", v.Rmdir(ctx, c.dir, "full"), syscall.ENOTEMPTY)
	_, err = v.ReadDir(ctx, f)
	c.is("ReadDir of a file", err, syscall.ENOTDIR)
	nameMax := v.Features().NameMax
	if nameMax == 0 {
		nameMax = 255
	}
	long := strings.Repeat("n", nameMax+1)
	_, _, _, err = v.Create(ctx, c.dir, long, os.O_RDWR, 0o644)
	c.is("Create with a long name", err, syscall.ENAMETOOLONG)
	_, _, err = v.Mkdir(ctx, c.dir, long, 0o755)
	c.is("Mkdir with a long name", err, syscall.ENAMETOOLONG)
	c.file(c.dir, long[1:], "")
	v.Forget(f)
	v.Forget(full)
}
