package serve

import (
	"context"
	"errors"
	"io"
	"sync"
	"syscall"

	"github.com/lxbridge/lx/core/fuse"
	"github.com/lxbridge/lx/mount/volume"
)

// directory is an open directory. The offset of an entry is its place in list,
// counted from 1 behind "." and ".."; so offsets hold while the directory
// changes, and seeking back lists again what was listed.
type directory struct {
	ino *inode

	mu     sync.Mutex // guards what follows; held while the server is asked
	stream volume.DirStream
	list   []listed
	used   int // entries of list whose Node was given on
	eof    bool
}

// listed is an entry and when the server was asked for it.
type listed struct {
	volume.DirEntry
	asked uint64
}

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
	return fuse.OpenOut{FH: f.nextFH}, 0
}

// Releasedir implements fuse.Releasedirer.
func (f *FS) Releasedir(_, fh uint64) {
	f.mu.Lock()
	d := f.dirs[fh]
	delete(f.dirs, fh)
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
	for _, e := range d.list[d.used:] {
		if e.Node != nil {
			f.vol.Forget(e.Node)
		}
	}
	if d.stream != nil {
		if err := d.stream.Close(); err != nil {
			f.opts.Note(err)
		}
	}
	d.stream, d.list, d.used, d.eof = nil, nil, 0, false
}

// at is entry n, which is asked of the server if need be; io.EOF after the last.
func (f *FS) at(ctx context.Context, d *directory, n int) (*listed, error) {
	for n >= len(d.list) {
		if d.eof {
			return nil, io.EOF
		}
		if d.stream == nil {
			s, err := f.vol.ReadDir(ctx, d.ino.node)
			if err != nil {
				return nil, err
			}
			d.stream = s
		}
		asked := f.tick()
		batch, err := d.stream.Next(ctx)
		if errors.Is(err, io.EOF) {
			d.eof = true
			continue
		}
		if err != nil {
			return nil, err
		}
		for _, e := range batch {
			if isHidden(e.Name) {
				if e.Node != nil {
					f.vol.Forget(e.Node)
				}
				continue
			}
			d.list = append(d.list, listed{e, asked})
		}
	}
	return &d.list[n], nil
}

// walk gives the entries after off to emit until it says no.
func (f *FS) walk(ctx context.Context, fh, off uint64, emit func(d *directory, n int, e *listed, off uint64) bool) syscall.Errno {
	f.mu.Lock()
	d := f.dirs[fh]
	f.mu.Unlock()
	if d == nil {
		return syscall.EBADF
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if off == 0 && d.used > 0 {
		f.rewind(d)
	}
	for {
		var e *listed
		n := -1
		switch off {
		case 0:
			e = &listed{DirEntry: volume.DirEntry{Name: ".", Type: modeDir}}
		case 1:
			e = &listed{DirEntry: volume.DirEntry{Name: "..", Type: modeDir}}
		default:
			n = int(off - 2)
			var err error
			if e, err = f.at(ctx, d, n); errors.Is(err, io.EOF) {
				return 0
			} else if err != nil {
				return errno(err)
			}
		}
		if !emit(d, n, e, off+1) {
			return 0
		}
		off++
		d.used = max(d.used, n+1)
	}
}

func (f *FS) dirEntry(d *directory, e *listed, off uint64) fuse.DirEntry {
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
	return f.walk(ctx, fh, off, func(d *directory, n int, e *listed, off uint64) bool {
		if !sink.Add(f.dirEntry(d, e, off)) {
			return false
		}
		if n >= d.used && e.Node != nil {
			f.vol.Forget(e.Node)
			e.Node = nil
		}
		return true
	})
}

// ReadDirPlus implements fuse.ReadDirPluser: entries come with their
// attributes, so that a listing costs no look-ups.
func (f *FS) ReadDirPlus(ctx context.Context, _, fh, off uint64, sink fuse.DirPlusSink) syscall.Errno {
	return f.walk(ctx, fh, off, func(d *directory, n int, e *listed, off uint64) bool {
		if !sink.Fits(e.Name) {
			return false
		}
		if n < d.used || e.Node == nil {
			sink.Add(f.dirEntry(d, e, off), fuse.Entry{})
			return true
		}
		i, a := f.intern(d.ino, e.Name, e.Node, e.Attr, e.asked)
		e.Node = nil
		sink.Add(fuse.DirEntry{Name: e.Name, Ino: i.ino, Off: off, Type: direntType(e.Type)}, f.entry(i, a))
		return true
	})
}
