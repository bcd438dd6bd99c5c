package serve

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/lxbridge/lx/core/fuse"
	"github.com/lxbridge/lx/mount/volume"
)

// directory is an open directory. The offset of an entry is its number in the
// listing, counted from 3 behind "." and ".."; so offsets hold while the
// directory changes. What was given on is kept as a name, the last keepNames of
// them: seeking back before those lists again.
type directory struct {
	ino *inode

	mu     sync.Mutex // guards what follows; held while the server is asked
	stream volume.DirStream
	asked  uint64            // the tick before stream was opened: it may know of nothing later
	first  int               // number of kept[0]
	kept   []keptName        // what comes before batch
	batch  []volume.DirEntry // a Node is nil once it was given on
	came   time.Time         // when the server told batch
	back   volume.DirEntry   // the kept name that is asked for again
	eof    bool
}

// keptName is what is remembered of an entry.
type keptName struct {
	name string
	id   uint64 // Attr.FileID
	typ  fs.FileMode
}

// keepNames bounds what an open directory remembers.
const keepNames = 1 << 16

// Opendir implements fuse.Opendirer.
func (f *FS) Opendir(_ context.Context, node uint64, _ uint32) (fuse.OpenOut, syscall.Errno) {
	i, no := f.inode(node)
	if no != 0 {
		return fuse.OpenOut{}, no
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.nextFH++
	f.dirs[f.nextFH] = &directory{ino: i}
	i.refs++
	if i.listings++; i.listings == 1 {
		i.touched = map[string]uint64{}
	}
	return fuse.OpenOut{FH: f.nextFH}, 0
}

// Releasedir implements fuse.Releasedirer.
func (f *FS) Releasedir(_, fh uint64) {
	f.mu.Lock()
	d := f.dirs[fh]
	delete(f.dirs, fh)
	if d != nil {
		if d.ino.listings--; d.ino.listings == 0 {
			d.ino.touched = nil
		}
	}
	f.mu.Unlock()
	if d == nil {
		return
	}
	d.mu.Lock()
	f.rewind(d)
	d.mu.Unlock()
	f.unref(d.ino, 1)
}

// rewind drops what was listed. The caller holds d.mu.
func (f *FS) rewind(d *directory) {
	f.keep(d)
	if d.stream != nil {
		if err := d.stream.Close(); err != nil {
			f.opts.Note(err)
		}
	}
	d.stream, d.first, d.kept, d.eof = nil, 0, d.kept[:0], false
}

// keep makes names of the batch. The caller holds d.mu.
func (f *FS) keep(d *directory) {
	if over := len(d.kept) - keepNames; over > 0 {
		over += keepNames / 2
		d.first, d.kept = d.first+over, append(d.kept[:0], d.kept[over:]...)
	}
	for i := range d.batch {
		e := &d.batch[i]
		if e.Node != nil {
			f.vol.Forget(e.Node)
		}
		d.kept = append(d.kept, keptName{e.Name, e.Attr.FileID, e.Type})
	}
	d.batch = nil
}

// at is entry n, which is asked of the server if need be; io.EOF after the
// last. It stays good until the next call.
func (f *FS) at(ctx context.Context, d *directory, n int) (*volume.DirEntry, error) {
	if n < d.first {
		f.rewind(d)
	}
	for {
		switch i := n - d.first; {
		case i < len(d.kept):
			k := d.kept[i]
			d.back = volume.DirEntry{Name: k.name, Type: k.typ, Attr: volume.Attr{FileID: k.id}}
			return &d.back, nil
		case i < len(d.kept)+len(d.batch):
			return &d.batch[i-len(d.kept)], nil
		case d.eof:
			return nil, io.EOF
		}
		if err := f.next(ctx, d); err != nil {
			return nil, err
		}
	}
}

// next lists some more.
func (f *FS) next(ctx context.Context, d *directory) error {
	if d.stream == nil {
		d.asked = f.tick()
		s, err := f.vol.ReadDir(ctx, d.ino.node)
		if err != nil {
			return err
		}
		d.stream = s
	}
	f.keep(d)
	batch, err := d.stream.Next(ctx)
	d.came = time.Now()
	if s, ok := d.stream.(volume.Dated); ok {
		d.came = s.Came()
	}
	if errors.Is(err, io.EOF) {
		d.eof = true
		return nil
	}
	if err != nil {
		return err
	}
	var spare []volume.Node
	f.mu.Lock()
	d.batch = slices.DeleteFunc(batch, func(e volume.DirEntry) bool {
		bad := !validName(e.Name) || d.ino.graves[e.Name]
		if bad && e.Node != nil {
			spare = append(spare, e.Node)
		}
		return bad
	})
	f.mu.Unlock()
	for _, n := range spare {
		f.vol.Forget(n)
	}
	return nil
}

// validName says that a server's name cannot lead out of its directory.
func validName(name string) bool {
	return name != "" && name != "." && name != ".." && !strings.ContainsAny(name, "/\x00")
}

// walk gives the entries after off to emit until it says no.
func (f *FS) walk(ctx context.Context, fh, off uint64, emit func(d *directory, e *volume.DirEntry, off uint64) bool) syscall.Errno {
	f.mu.Lock()
	d := f.dirs[fh]
	f.mu.Unlock()
	if d == nil {
		return syscall.EBADF
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if off == 0 {
		f.rewind(d)
	}
	for ; ; off++ {
		var e *volume.DirEntry
		switch off {
		case 0:
			e = &volume.DirEntry{Name: ".", Type: fs.ModeDir}
		case 1:
			e = &volume.DirEntry{Name: "..", Type: fs.ModeDir}
		default:
			var err error
			if e, err = f.at(ctx, d, int(off-2)); errors.Is(err, io.EOF) {
				return 0
			} else if err != nil {
				return errno(err)
			}
			if f.gone(d, e) {
				continue
			}
		}
		if !emit(d, e, off+1) {
			return 0
		}
	}
}

// gone says that we removed a name after the server listed it. A node of a
// name that we changed otherwise is given back: the kernel is to ask again.
func (f *FS) gone(d *directory, e *volume.DirEntry) bool {
	f.mu.Lock()
	changed := d.ino.touched[e.Name] > d.asked
	gone := changed && d.ino.children[e.Name] == nil
	f.mu.Unlock()
	if changed && e.Node != nil {
		f.vol.Forget(e.Node)
		e.Node = nil
	}
	return gone
}

func (f *FS) dirEntry(d *directory, e *volume.DirEntry, off uint64) fuse.DirEntry {
	ino := d.ino.ino
	switch {
	case e.Name == ".":
	case e.Name == "..":
		f.mu.Lock()
		if p := d.ino.parent; p != nil {
			ino = p.ino
		}
		f.mu.Unlock()
	case e.Attr.FileID != 0:
		ino = e.Attr.FileID
	default:
		f.mu.Lock()
		if c := d.ino.children[e.Name]; c != nil {
			ino = c.ino
		} else {
			ino = placeNumber(d.ino, e.Name)
		}
		f.mu.Unlock()
	}
	return fuse.DirEntry{Name: e.Name, Ino: ino, Off: off, Type: direntType(e.Type)}
}

// ReadDir implements fuse.ReadDirer.
func (f *FS) ReadDir(ctx context.Context, _, fh, off uint64, sink fuse.DirSink) syscall.Errno {
	return f.walk(ctx, fh, off, func(d *directory, e *volume.DirEntry, off uint64) bool {
		return sink.Add(f.dirEntry(d, e, off))
	})
}

// ReadDirPlus implements fuse.ReadDirPluser: entries come with their
// attributes, so that a listing costs no look-ups. Of what was listed so long
// ago that it does not count any more the kernel is to ask again.
func (f *FS) ReadDirPlus(ctx context.Context, _, fh, off uint64, sink fuse.DirPlusSink) syscall.Errno {
	return f.walk(ctx, fh, off, func(d *directory, e *volume.DirEntry, off uint64) bool {
		if !sink.Fits(e.Name) {
			return false
		}
		age := time.Since(d.came)
		if e.Node != nil && f.opts.AttrTimeout > 0 && age >= f.opts.AttrTimeout {
			f.vol.Forget(e.Node)
			e.Node = nil
		}
		if e.Node == nil {
			sink.Add(f.dirEntry(d, e, off), fuse.Entry{})
			return true
		}
		i, a := f.intern(d.ino, e.Name, e.Node, e.Attr, d.asked)
		e.Node = nil
		told := f.entry(i, a)
		told.EntryValid, told.AttrValid = max(0, told.EntryValid-age), max(0, told.AttrValid-age)
		sink.Add(fuse.DirEntry{Name: e.Name, Ino: i.ino, Off: off, Type: direntType(e.Type)}, told)
		return true
	})
}
