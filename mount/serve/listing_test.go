package serve

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/lxbridge/lx/core/fuse"
	"github.com/lxbridge/lx/mount/volume"
)

// lookedUp is a bed whose root has n files, of which the first few were looked
// up, so that the root was listed.
func lookedUp(t *testing.T, o Options, n int) *bed {
	t.Helper()
	b := newBed(t, o)
	b.fs.slow = 0
	for i := range n {
		b.elsewhere(fmt.Sprint("f", i), 0, []byte("x"))
	}
	for i := range fewLookups {
		b.find(fmt.Sprint("f", i), 0)
	}
	b.await("a listing", func(l *listing) bool { return l != nil && l.whole })
	return b
}

// await waits for the state of the root's listing.
func (b *bed) await(what string, is func(*listing) bool) {
	b.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; runtime.Gosched() {
		b.fs.mu.Lock()
		ok := is(b.fs.inodes[fuse.RootID].listing)
		b.fs.mu.Unlock()
		if ok {
			return
		}
		if time.Now().After(deadline) {
			b.Fatalf("waited in vain for %s", what)
		}
	}
}

// find looks a name up and has the kernel forget it.
func (b *bed) find(name string, want syscall.Errno) fuse.Entry {
	b.Helper()
	e, no := b.fs.Lookup(b.ctx, fuse.RootID, name)
	if no != want {
		b.Fatalf("look-up of %s: %v, want %v", name, no, want)
	}
	if no == 0 {
		b.fs.Forget(e.Node, 1)
	}
	return e
}

// absent looks up a name whose absence the kernel may keep.
func (b *bed) absent(name string) {
	b.Helper()
	if e, no := b.fs.Lookup(b.ctx, fuse.RootID, name); no != 0 || e.Node != 0 || e.EntryValid <= 0 {
		b.Errorf("look-up of %s: node %d, valid for %v, %v", name, e.Node, e.EntryValid, no)
	}
}

// asks checks how often the server is asked for a name meanwhile.
func (b *bed) asks(want int, do func()) {
	b.Helper()
	before := b.vol.count("lookup")
	do()
	if n := b.vol.count("lookup") - before; n != want {
		b.Errorf("the server was asked %d times, want %d", n, want)
	}
}

func TestLookupsFromListing(t *testing.T) {
	b := lookedUp(t, Options{AttrTimeout: time.Hour, EntryTimeout: time.Hour, NegativeTimeout: time.Hour}, 100)
	b.asks(0, func() {
		for i := fewLookups; i < 100; i++ {
			e := b.find(fmt.Sprint("f", i), 0)
			if e.Attr.Size != 1 || e.EntryValid <= 0 || e.EntryValid >= time.Hour || e.AttrValid != e.EntryValid {
				t.Fatalf("f%d: %+v", i, e)
			}
		}
		for i := range 100 {
			b.absent(fmt.Sprint("absent", i))
		}
	})
	// What was given away, and what may be another spelling or too long, is asked for.
	b.asks(7, func() {
		b.find(strings.Repeat("n", 256), syscall.ENAMETOOLONG)
		b.find("f50", 0)
		for _, name := range []string{"F50", "F~1", "f50.", "f50 ", "fü"} {
			b.absent(name)
		}
	})
	b.end(nil)
}

// circles is a volume whose listings never end.
type circles struct{ volume.Volume }

func (v circles) ReadDir(ctx context.Context, dir volume.Node) (volume.DirStream, error) {
	s, err := v.Volume.ReadDir(ctx, dir)
	return &circle{s, v, dir}, err
}

type circle struct {
	volume.DirStream
	v   circles
	dir volume.Node
}

func (c *circle) Next(ctx context.Context) ([]volume.DirEntry, error) {
	es, err := c.DirStream.Next(ctx)
	if !errors.Is(err, io.EOF) {
		return es, err
	}
	again, err := c.v.Volume.ReadDir(ctx, c.dir)
	if err := errors.Join(err, c.Close()); err != nil {
		return nil, err
	}
	c.DirStream = again
	return again.Next(ctx)
}

// TestListingInCircles: a listing in the background that never ends is given up.
func TestListingInCircles(t *testing.T) {
	b := newBed(t, Options{AttrTimeout: time.Hour, EntryTimeout: time.Hour})
	b.fs.slow = 0
	b.fs.vol = circles{b.fs.vol}
	for i := range fewLookups {
		b.elsewhere(fmt.Sprint("f", i), 0, []byte("x"))
		b.find(fmt.Sprint("f", i), 0)
	}
	b.await("the end of the listing", func(l *listing) bool {
		return l == nil && !b.fs.inodes[fuse.RootID].lookups.again.IsZero()
	})
	b.end(nil)
}

// TestListingAbsent: what another client has just made is found, where absence
// may not be kept.
func TestListingAbsent(t *testing.T) {
	b := lookedUp(t, Options{AttrTimeout: time.Hour, EntryTimeout: time.Hour}, 40)
	b.elsewhere("young", 0, []byte("x"))
	b.asks(1, func() { b.find("young", 0) })
	b.end(nil)
}

// TestListingVoid: what was changed here is asked for, whatever was listed.
func TestListingVoid(t *testing.T) {
	b := lookedUp(t, Options{AttrTimeout: time.Hour, EntryTimeout: time.Hour}, 40)
	b.ok("unlink", b.fs.Unlink(b.ctx, fuse.RootID, "f10"))
	b.ok("rename", b.fs.Rename(b.ctx, fuse.RootID, "f11", fuse.RootID, "f12", 0))
	b.ok("rename", b.fs.Rename(b.ctx, fuse.RootID, "f13", fuse.RootID, "new", 0))
	e, no := b.fs.Mkdir(b.ctx, fuse.RootID, "dir", 0o755, 0)
	b.ok("mkdir", no)
	b.fs.Forget(e.Node, 1)
	node, fh := b.create("f14")
	b.write(node, fh, 0, []byte("longer"))
	b.ok("flush", b.fs.Flush(b.ctx, node, fh, 1))
	b.fs.Release(node, fh, 0, 0)
	b.fs.Forget(node, 1)
	b.asks(7, func() {
		b.find("f10", syscall.ENOENT)
		b.find("f11", syscall.ENOENT)
		b.find("f12", 0)
		b.find("f13", syscall.ENOENT)
		b.find("new", 0)
		b.find("dir", 0)
		if e := b.find("f14", 0); e.Attr.Size != 6 {
			t.Errorf("%d bytes after 6 were written", e.Attr.Size)
		}
	})
	b.end(nil)
}

// TestListingMeanwhile: what changes while the directory is being listed counts
// as changed afterwards.
func TestListingMeanwhile(t *testing.T) {
	b := newBed(t, Options{AttrTimeout: time.Hour, EntryTimeout: time.Hour})
	b.fs.slow = 0
	b.elsewhere("old", 0, []byte("x"))
	listed, goOn := make(chan struct{}, 2), make(chan struct{})
	b.vol.on(func(_ context.Context, op, _ string) error {
		if op == "next" {
			listed <- struct{}{}
			<-goOn
		}
		return nil
	})
	for range fewLookups {
		b.find("none", syscall.ENOENT)
	}
	<-listed
	b.ok("unlink", b.fs.Unlink(b.ctx, fuse.RootID, "old"))
	node, fh := b.create("young")
	b.fs.Release(node, fh, 0, 0)
	b.fs.Forget(node, 1)
	close(goOn)
	b.await("a listing", func(l *listing) bool { return l != nil && l.whole })
	b.asks(2, func() {
		b.find("old", syscall.ENOENT)
		b.find("young", 0)
	})
	b.end(nil)
}

// TestListingEnds: a listing counts no longer than an attribute, and is let go.
func TestListingEnds(t *testing.T) {
	const life = 50 * time.Millisecond
	b := lookedUp(t, Options{AttrTimeout: life, EntryTimeout: time.Hour}, 40)
	b.elsewhere("late", 0, []byte("x"))
	b.await("its end", func(l *listing) bool { return l == nil })
	b.asks(2, func() {
		b.find("f20", 0)
		b.find("late", 0)
	})
	if b.fs.listed != 0 {
		t.Errorf("%d names are still counted", b.fs.listed)
	}
	b.end(nil)
}

// TestListingAttributes: attributes of what the kernel knows come from a listing
// while nobody has it open, and never from before an own change.
func TestListingAttributes(t *testing.T) {
	b := newBed(t, Options{AttrTimeout: time.Hour, EntryTimeout: time.Hour})
	b.fs.slow = 0
	var nodes []uint64
	for i := range 3 {
		b.elsewhere(fmt.Sprint("f", i), 0, []byte("x"))
		e, no := b.fs.Lookup(b.ctx, fuse.RootID, fmt.Sprint("f", i))
		b.ok("lookup", no)
		nodes = append(nodes, e.Node)
	}
	attr := func(node uint64) fuse.Attr {
		t.Helper()
		a, valid, no := b.fs.Getattr(b.ctx, node, 0, false)
		b.ok("getattr", no)
		if valid <= 0 || valid > time.Hour {
			t.Errorf("valid for %v", valid)
		}
		return a
	}
	attr(nodes[0])
	b.await("a listing", func(l *listing) bool { return l != nil && l.whole })
	before := b.vol.count("getattr")
	attr(nodes[0])
	attr(nodes[1])
	if n := b.vol.count("getattr") - before; n != 0 {
		t.Errorf("the server was asked %d times", n)
	}
	a, _, no := b.fs.Setattr(b.ctx, nodes[0], &fuse.SetAttrIn{Valid: fattrSize, Size: 7})
	if no != 0 || a.Size != 7 {
		t.Fatalf("size %d, %v", a.Size, no)
	}
	if a := attr(nodes[0]); a.Size != 7 {
		t.Errorf("size %d after truncation to 7", a.Size)
	}
	fh, _ := b.open(nodes[1], syscall.O_RDONLY)
	before = b.vol.count("getattr")
	attr(nodes[1])
	if n := b.vol.count("getattr") - before; n != 1 {
		t.Errorf("the server was asked %d times for an open file", n)
	}
	b.fs.Release(nodes[1], fh, 0, 0)
	for _, n := range nodes {
		b.fs.Forget(n, 1)
	}
	b.end(nil)
}

// TestListingOfChangedDirectory: what was listed of a directory does not count
// once names in it have changed, for its times have.
func TestListingOfChangedDirectory(t *testing.T) {
	b := newBed(t, Options{AttrTimeout: time.Hour, EntryTimeout: time.Hour})
	b.fs.slow = 0
	d, no := b.fs.Mkdir(b.ctx, fuse.RootID, "d", 0o755, 0)
	b.ok("mkdir", no)
	for range fewLookups {
		b.find("absent", syscall.ENOENT)
	}
	b.await("a listing", func(l *listing) bool { return l != nil && l.whole })
	a, _, no := b.fs.Setattr(b.ctx, d.Node, &fuse.SetAttrIn{Valid: fattrMtime, Mtime: syscall.Timespec{Sec: 1000}})
	if no != 0 || a.Mtime.Sec != 1000 {
		t.Fatalf("mtime %v, %v", a.Mtime, no)
	}
	sub, no := b.fs.Mkdir(b.ctx, d.Node, "sub", 0o755, 0)
	b.ok("mkdir", no)
	a, _, no = b.fs.Getattr(b.ctx, d.Node, 0, false)
	b.ok("getattr", no)
	if a.Mtime.Sec == 1000 {
		t.Error("the time is that from before the change")
	}
	b.fs.Forget(sub.Node, 1)
	b.fs.Forget(d.Node, 1)
	b.end(nil)
}

// TestNoListing: where attributes may not be kept, look-ups are quick, or the
// directory cannot be read, the server is asked for each name.
func TestNoListing(t *testing.T) {
	for name, c := range map[string]struct {
		opts  Options
		slow  time.Duration
		lists int
	}{
		"actimeo=0": {opts: Options{AttrTimeout: -1, EntryTimeout: -1}},
		"quick":     {slow: time.Hour},
		"refused":   {lists: 1},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBed(t, c.opts)
			b.fs.slow = c.slow
			b.vol.on(func(_ context.Context, op, _ string) error {
				if op == "readdir" {
					return &volume.Error{Op: "list", Errno: syscall.EACCES}
				}
				return nil
			})
			b.elsewhere("f", 0, nil)
			b.asks(20, func() {
				for range 20 {
					b.find("f", 0)
				}
			})
			b.end(nil)
			if n := b.vol.count("readdir"); n != c.lists {
				t.Errorf("%d listings, want %d", n, c.lists)
			}
			if len(b.notes) != 0 {
				t.Errorf("told of %v", b.notes)
			}
		})
	}
}

// TestSlowListing: what a listing that took long told last is as young as that;
// that a name is absent is as old as the question.
func TestSlowListing(t *testing.T) {
	b := lookedUp(t, Options{AttrTimeout: time.Hour, EntryTimeout: time.Hour, NegativeTimeout: time.Hour}, 20)
	root := b.fs.inodes[fuse.RootID]
	b.fs.mu.Lock()
	root.listing.at = root.listing.at.Add(-2 * time.Hour)
	b.fs.mu.Unlock()
	before := b.vol.count("lookup")
	if e := b.find("f10", 0); e.EntryValid <= 0 || e.AttrValid <= 0 {
		t.Errorf("valid for %v and %v", e.EntryValid, e.AttrValid)
	}
	if n := b.vol.count("lookup") - before; n != 0 {
		t.Errorf("the server was asked %d times for what it has just told", n)
	}
	b.absent("none")
	if n := b.vol.count("lookup") - before; n != 1 {
		t.Errorf("the server was asked %d times for a name that it did not tell long ago, want 1", n)
	}
	b.end(nil)
}

// early is a volume whose listings came some time before they are used.
type early struct {
	volume.Volume
	age time.Duration
}

type earlyStream struct {
	volume.DirStream
	came time.Time
}

func (v early) ReadDir(ctx context.Context, dir volume.Node) (volume.DirStream, error) {
	s, err := v.Volume.ReadDir(ctx, dir)
	return earlyStream{s, time.Now().Add(-v.age)}, err
}

func (s earlyStream) Came() time.Time { return s.came }

// ages takes entries with how long they count.
type ages struct{ entries []fuse.Entry }

func (a *ages) Fits(string) bool                  { return true }
func (a *ages) Add(_ fuse.DirEntry, e fuse.Entry) { a.entries = append(a.entries, e) }

// TestListingAges: what readdir(3) tells of a file counts from when the server
// told it, however late the program reads on.
func TestListingAges(t *testing.T) {
	for name, c := range map[string]struct {
		limit, age time.Duration
		told       bool
		most       time.Duration
	}{
		"fresh":       {time.Hour, 0, true, time.Hour},
		"aged":        {time.Hour, 40 * time.Minute, true, 20 * time.Minute},
		"too old":     {time.Hour, time.Hour, false, 0},
		"never cache": {-1, time.Hour, true, 0},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBed(t, Options{AttrTimeout: c.limit, EntryTimeout: c.limit})
			b.elsewhere("f", 0, []byte("x"))
			b.fs.vol = early{b.fs.vol, c.age}
			o, no := b.fs.Opendir(b.ctx, fuse.RootID, 0)
			b.ok("opendir", no)
			s := &ages{}
			b.ok("readdirplus", b.fs.ReadDirPlus(b.ctx, fuse.RootID, o.FH, 0, s))
			e := s.entries[2]
			if told := e.Node != 0; told != c.told || e.AttrValid > c.most || e.EntryValid > c.most || c.most-e.AttrValid > time.Minute {
				t.Errorf("told %v, for %v and %v; want %v, %v", told, e.EntryValid, e.AttrValid, c.told, c.most)
			}
			if e.Node != 0 {
				b.fs.Forget(e.Node, 1)
			}
			b.fs.Releasedir(fuse.RootID, o.FH)
			b.end(nil)
		})
	}
}
