package volumetest

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lxbridge/lx/mount/volume"
)

func (c *contract) create() {
	v, ctx := c.v, c.ctx
	n, a, h, err := v.Create(ctx, c.dir, "f", os.O_RDWR|os.O_EXCL, 0o640)
	c.must(err)
	if a.Mode&syscall.S_IFMT != syscall.S_IFREG || a.Size != 0 {
		c.Errorf("a new file: %+v", a)
	}
	if v.Features().RealModes && a.Mode&0o777 != 0o640 {
		c.Errorf("mode %o, want 640", a.Mode)
	}
	c.write(h, "content", 0)
	c.must(h.Close(ctx))
	_, _, _, err = v.Create(ctx, c.dir, "f", os.O_RDWR|os.O_EXCL, 0o644)
	c.is("O_EXCL over a file", err, syscall.EEXIST)

	same, a, h, err := v.Create(ctx, c.dir, "f", os.O_RDWR, 0o600)
	c.must(err)
	if same != n || a.Size != 7 {
		c.Errorf("an existing file was created anew: same node %v, size %d", same == n, a.Size)
	}
	c.reads(h, 0, "content", true)
	c.must(h.Close(ctx))
	v.Forget(same)

	same, _, h, err = v.Create(ctx, c.dir, "f", os.O_WRONLY|os.O_TRUNC, 0o600)
	c.must(err)
	if _, err := h.ReadAt(ctx, make([]byte, 1), 0); err == nil {
		c.Error("read through O_WRONLY")
	}
	c.must(h.Close(ctx))
	c.content(c.dir, "f", "")
	h, err = v.Open(ctx, n, os.O_RDONLY)
	c.must(err)
	if _, err := h.WriteAt(ctx, []byte("x"), 0); err == nil {
		c.Error("write through O_RDONLY")
	}
	c.must(h.Close(ctx))
	v.Forget(same)
	v.Forget(n)
}

func (c *contract) readWrite() {
	n, h := c.open(c.dir, "f", os.O_RDWR|os.O_EXCL)
	c.reads(h, 0, "", true)
	c.write(h, "hello", 0)
	c.write(h, "J", 0)
	c.write(h, "", 3)
	c.reads(h, 1, "ell", false)
	c.reads(h, 0, "Jello", true)
	c.reads(h, 5, "", true)
	c.reads(h, 1<<40, "", true)
	c.write(h, "far", 10)
	c.reads(h, 0, "Jello\x00\x00\x00\x00\x00far", true)

	// More than one transfer each way.
	size := 2*max(c.v.Features().MaxRead, c.v.Features().MaxWrite, 1<<20) + 12345
	big := make([]byte, size)
	for i := range big {
		big[i] = byte(i * 7 >> 3)
	}
	c.write(h, string(big), 100)
	c.reads(h, 100, string(big), true)
	c.check(h.Sync(c.ctx))
	a, err := c.v.Getattr(c.ctx, n, h)
	if err != nil || a.Size != uint64(size)+100 {
		c.Errorf("Getattr: size %d, %v; want %d", a.Size, err, size+100)
	}
	c.must(h.Close(c.ctx))
	c.v.Forget(n)
}

func (c *contract) setattr() {
	v, ctx := c.v, c.ctx
	n, h := c.open(c.dir, "f", os.O_RDWR|os.O_EXCL)
	c.write(h, "0123456789", 0)
	size := uint64(4)
	a, err := v.Setattr(ctx, n, h, volume.SetAttr{Size: &size})
	if err != nil || a.Size != 4 {
		c.Errorf("Setattr down: size %d, %v", a.Size, err)
	}
	size = 6
	a, err = v.Setattr(ctx, n, nil, volume.SetAttr{Size: &size})
	if err != nil || a.Size != 6 {
		c.Errorf("Setattr up: size %d, %v", a.Size, err)
	}
	c.reads(h, 0, "0123\x00\x00", true)

	gran := max(v.Features().TimeGranularity, 1)
	at := time.Unix(1234567890, 123456789).Truncate(gran)
	mt := time.Unix(1000000001, 987654321).Truncate(gran)
	if _, err = v.Setattr(ctx, n, nil, volume.SetAttr{Atime: &at, Mtime: &mt}); err != nil {
		c.Errorf("Setattr of times: %v", err)
	}
	a, err = v.Getattr(ctx, n, nil)
	c.must(err)
	if !a.Atime.Equal(at) || !a.Mtime.Equal(mt) {
		c.Errorf("times %v %v, want %v %v", a.Atime, a.Mtime, at, mt)
	}
	if v.Features().RealModes {
		mode := uint32(0o4711)
		a, err = v.Setattr(ctx, n, nil, volume.SetAttr{Mode: &mode})
		if err != nil || a.Mode != syscall.S_IFREG|mode || !a.Mtime.Equal(mt) {
			c.Errorf("Setattr of the mode: %o, mtime %v, %v", a.Mode, a.Mtime, err)
		}
	}
	c.must(h.Close(ctx))
	v.Forget(n)
}

func (c *contract) readDir() {
	if names := c.list(c.dir); len(names) != 0 {
		c.Errorf("a new directory has %v", names)
	}
	want := map[string]os.FileMode{"sub": os.ModeDir}
	c.v.Forget(c.mkdir(c.dir, "sub"))
	for i := range 300 {
		name := fmt.Sprintf("file %03d", i)
		c.file(c.dir, name, "")
		want[name] = 0
	}
	got := c.list(c.dir)
	for name, typ := range want {
		if g, ok := got[name]; !ok || g != typ {
			c.Errorf("%q: listed %v, type %v, want %v", name, ok, g, typ)
		}
		delete(got, name)
	}
	if len(got) != 0 {
		c.Errorf("listed beyond: %v", got)
	}
	s, err := c.v.ReadDir(c.ctx, c.dir)
	c.must(err)
	for range 1000 {
		if _, err = s.Next(c.ctx); err != nil {
			break
		}
	}
	if _, again := s.Next(c.ctx); !errors.Is(err, io.EOF) || !errors.Is(again, io.EOF) {
		c.Errorf("after the last entry: %v, then %v", err, again)
	}
	c.check(s.Close())
}

// whileListed: names that stay are listed once, whatever goes meanwhile.
func (c *contract) whileListed() {
	const n = 1500
	for i := range n {
		c.file(c.dir, fmt.Sprint(i), "")
	}
	s, err := c.v.ReadDir(c.ctx, c.dir)
	c.must(err)
	seen := map[string]int{}
	removed := 0
	for {
		entries, err := s.Next(c.ctx)
		if errors.Is(err, io.EOF) {
			break
		}
		c.must(err)
		for _, e := range entries {
			seen[e.Name]++
			if e.Node != nil {
				c.v.Forget(e.Node)
			}
		}
		for range 300 {
			if removed < n-100 {
				c.must(c.v.Unlink(c.ctx, c.dir, fmt.Sprint(removed)))
				c.file(c.dir, fmt.Sprint("new", removed), "")
				removed++
			}
		}
	}
	c.check(s.Close())
	for i := n - 100; i < n; i++ {
		if k := seen[fmt.Sprint(i)]; k != 1 {
			c.Errorf("%d, there throughout, is listed %d times", i, k)
		}
	}
}

func (c *contract) forget() {
	v, ctx := c.v, c.ctx
	c.file(c.dir, "f", "x")
	a, attrA, err := v.Lookup(ctx, c.dir, "f")
	c.must(err)
	b, attrB, err := v.Lookup(ctx, c.dir, "f")
	c.must(err)
	if a != b || attrA.FileID != attrB.FileID {
		c.Errorf("one file, two nodes: FileID %d and %d", attrA.FileID, attrB.FileID)
	}
	v.Forget(a)
	if _, err := v.Getattr(ctx, b, nil); err != nil {
		c.Errorf("found twice, forgotten once: %v", err)
	}
	v.Forget(b)
	c.content(c.dir, "f", "x")

	// A node and those below it live through a rename of what is above.
	d := c.mkdir(c.dir, "d")
	c.file(d, "g", "y")
	g, _, err := v.Lookup(ctx, d, "g")
	c.must(err)
	c.must(v.Rename(ctx, c.dir, "d", c.dir, "e", 0))
	if attr, err := v.Getattr(ctx, g, nil); err != nil || attr.Size != 1 {
		c.Errorf("below a renamed directory: size %d, %v", attr.Size, err)
	}
	c.content(d, "g", "y")
	v.Forget(g)
	v.Forget(d)
}

func (c *contract) unlinkOpen() {
	if !c.v.Features().UnlinkOpen {
		return
	}
	v, ctx := c.v, c.ctx
	n, h := c.open(c.dir, "f", os.O_RDWR|os.O_EXCL)
	c.write(h, "old", 0)
	c.must(v.Unlink(ctx, c.dir, "f"))
	c.absent(c.dir, "f")
	c.file(c.dir, "f", "new")
	c.write(h, "er", 3)
	c.reads(h, 0, "older", true)
	if a, err := v.Getattr(ctx, n, h); err != nil || a.Size != 5 || a.Nlink != 0 {
		c.Errorf("unlinked and open: size %d, %d links, %v", a.Size, a.Nlink, err)
	}
	size := uint64(2)
	_, err := v.Setattr(ctx, n, h, volume.SetAttr{Size: &size})
	c.check(err)
	c.reads(h, 0, "ol", true)
	c.check(h.Close(ctx))
	v.Forget(n)
	c.content(c.dir, "f", "new")

	n, h = c.open(c.dir, "over", os.O_RDWR|os.O_EXCL)
	c.write(h, "still", 0)
	c.must(v.Rename(ctx, c.dir, "f", c.dir, "over", 0))
	c.reads(h, 0, "still", true)
	c.check(h.Close(ctx))
	v.Forget(n)
	c.content(c.dir, "over", "new")
}

func (c *contract) rename() {
	v, ctx := c.v, c.ctx
	c.file(c.dir, "a", "aa")
	c.file(c.dir, "b", "bb")
	d := c.mkdir(c.dir, "d")
	e := c.mkdir(d, "e")
	c.is("to an own subdirectory", v.Rename(ctx, c.dir, "d", e, "x", 0), syscall.EINVAL)
	c.is("of nothing", v.Rename(ctx, c.dir, "none", c.dir, "x", 0), syscall.ENOENT)
	c.is("file over directory", v.Rename(ctx, c.dir, "a", c.dir, "d", 0), syscall.EISDIR)
	c.is("directory over file", v.Rename(ctx, d, "e", c.dir, "a", 0), syscall.ENOTDIR)
	c.is("of nothing over a directory", v.Rename(ctx, c.dir, "none2", c.dir, "d", 0), syscall.ENOENT)
	c.v.Forget(c.mkdir(c.dir, "empty"))
	c.is("over a full directory", v.Rename(ctx, c.dir, "empty", c.dir, "d", 0), syscall.ENOTEMPTY, syscall.EEXIST)
	c.is("directory over an empty one", v.Rename(ctx, c.dir, "empty", d, "e", 0), 0)
	c.is("unknown flags", v.Rename(ctx, c.dir, "a", c.dir, "b", 1<<20), syscall.EINVAL)
	c.is("NOREPLACE", v.Rename(ctx, c.dir, "a", c.dir, "b", unix.RENAME_NOREPLACE), syscall.EEXIST, syscall.EINVAL)
	c.content(c.dir, "b", "bb")
	switch err := v.Rename(ctx, c.dir, "a", c.dir, "b", unix.RENAME_EXCHANGE); volume.Errno(err) {
	case 0:
		c.content(c.dir, "a", "bb")
		c.content(c.dir, "b", "aa")
		c.must(v.Rename(ctx, c.dir, "a", c.dir, "b", unix.RENAME_EXCHANGE))
		c.is("EXCHANGE with nothing", v.Rename(ctx, c.dir, "a", c.dir, "none", unix.RENAME_EXCHANGE), syscall.ENOENT)
	case syscall.EINVAL:
	default:
		c.Errorf("EXCHANGE: %v", err)
	}
	c.must(v.Rename(ctx, c.dir, "a", c.dir, "a", 0))
	c.content(c.dir, "a", "aa")
	c.must(v.Rename(ctx, c.dir, "a", d, "b", 0))
	c.absent(c.dir, "a")
	c.content(d, "b", "aa")
	c.must(v.Rename(ctx, d, "b", c.dir, "b", 0))
	c.content(c.dir, "b", "aa")
	v.Forget(e)
	v.Forget(d)
}

// told: what a volume tells of directories with a change of names is what it
// answers when asked.
func (c *contract) told() {
	v, told := c.v, map[volume.Node]volume.Attr{}
	ctx := volume.Telling(c.ctx, func(n volume.Node, a volume.Attr) { told[n] = a })
	agree := func(what string, err error) {
		c.Helper()
		c.must(err)
		for n, a := range told {
			now, err := v.Getattr(c.ctx, n, nil)
			c.must(err)
			if a.Change != now.Change || a.Size != now.Size || a.Nlink != now.Nlink || a.Mode != now.Mode || !a.Mtime.Equal(now.Mtime) {
				c.Errorf("%s: told %+v, asked %+v", what, a, now)
			}
		}
		clear(told)
	}
	f, _, h, err := v.Create(ctx, c.dir, "f", os.O_RDWR|os.O_EXCL, 0o644)
	agree("Create", err)
	defer v.Forget(f)
	c.must(h.Close(c.ctx))
	d, _, err := v.Mkdir(ctx, c.dir, "d", 0o755)
	agree("Mkdir", err)
	defer v.Forget(d)
	if s, ok := v.(volume.Symlinker); ok {
		if n, _, err := s.Symlink(ctx, c.dir, "s", "target"); !lacking(err) {
			agree("Symlink", err)
			v.Forget(n)
		}
	}
	if l, ok := v.(volume.Linker); ok {
		if _, err := l.Link(ctx, f, d, "l"); !lacking(err) {
			agree("Link", err)
			agree("Unlink of one name", v.Unlink(ctx, d, "l"))
		}
	}
	agree("Rename", v.Rename(ctx, c.dir, "f", d, "g", 0))
	agree("Rename within", v.Rename(ctx, d, "g", d, "h", 0))
	agree("Unlink", v.Unlink(ctx, d, "h"))
	agree("Rmdir", v.Rmdir(ctx, c.dir, "d"))
}

func (c *contract) statfs() {
	s, err := c.v.Statfs(c.ctx)
	if err != nil || s.Bsize == 0 || s.Blocks == 0 || s.Bfree > s.Blocks || s.Bavail > s.Bfree {
		c.Errorf("Statfs: %+v, %v", s, err)
	}
}

// concurrent works in one directory, and in one file, from many goroutines.
func (c *contract) concurrent() {
	const workers, part = 8, 10000
	shared, h := c.open(c.dir, "shared", os.O_RDWR|os.O_EXCL)
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			own := strings.Repeat(string(rune('a'+w)), part)
			for i := range 20 {
				if _, err := h.WriteAt(c.ctx, []byte(own), int64(w*part)); err != nil {
					c.Error(err)
				}
				p := make([]byte, part)
				if n, err := h.ReadAt(c.ctx, p, int64(w*part)); err != nil || n != part || string(p) != own {
					c.Errorf("another's bytes in a region of its own: %d, %v", n, err)
				}
				c.churn(fmt.Sprintf("w%d-%d", w, i))
			}
		})
	}
	wg.Wait()
	for w := range workers {
		c.reads(h, int64(w*part), strings.Repeat(string(rune('a'+w)), part), false)
	}
	c.check(h.Close(c.ctx))
	c.v.Forget(shared)
	if names := c.list(c.dir); len(names) != 1 {
		c.Errorf("left: %v", names)
	}
}

// churn makes, finds, renames and removes a file while others do the same.
func (c *contract) churn(name string) {
	n, _, h, err := c.v.Create(c.ctx, c.dir, name, os.O_RDWR|os.O_EXCL, 0o644)
	if err != nil {
		c.Error(err)
		return
	}
	defer c.v.Forget(n)
	_, err = h.WriteAt(c.ctx, []byte(name), 0)
	c.check(errors.Join(err, h.Close(c.ctx)))
	c.check(c.v.Rename(c.ctx, c.dir, name, c.dir, name+"r", 0))
	c.list(c.dir)
	again, a, err := c.v.Lookup(c.ctx, c.dir, name+"r")
	if err != nil || a.Size != uint64(len(name)) {
		c.Errorf("after a rename: size %d, %v", a.Size, err)
	}
	if err == nil {
		c.v.Forget(again)
	}
	c.check(c.v.Unlink(c.ctx, c.dir, name+"r"))
}
