package memvol

import (
	"context"
	"io"
	"slices"
	"sort"

	"github.com/lxbridge/lx/mount/volume"
)

// directory is the names of a directory, guarded by its node's lock. Each name
// has a number for life and the numbers only grow, so that a listing goes on
// where it was whatever comes and goes meanwhile.
type directory struct {
	names  map[string]*dirent
	order  []*dirent // by seq, with the removed ones until there are too many
	gone   int       // removed ones in order
	seq    uint64    // of the newest name
	dead   bool      // removed itself
	parent *node     // guarded by Volume.moving
}

type dirent struct {
	name string
	seq  uint64
	n    *node // nil once removed
}

func (d *directory) find(name string) *node {
	if e := d.names[name]; e != nil {
		return e.n
	}
	return nil
}

// insert adds a name that is not there.
func (d *directory) insert(name string, n *node) {
	if d.names == nil {
		d.names = map[string]*dirent{}
	}
	d.seq++
	e := &dirent{name: name, seq: d.seq, n: n}
	d.names[name] = e
	d.order = append(d.order, e)
}

func (d *directory) remove(name string) {
	d.names[name].n = nil
	delete(d.names, name)
	d.gone++
	if d.gone > 64 && d.gone > len(d.order)/2 {
		d.order = slices.DeleteFunc(d.order, func(e *dirent) bool { return e.n == nil })
		d.gone = 0
	}
}

// put gives a name another node: a listing sees the name once, as it should
// for one that is there throughout.
func (d *directory) put(name string, n *node) {
	if e := d.names[name]; e != nil {
		e.n = n
		return
	}
	d.insert(name, n)
}

// stream lists what was there when it was opened and still is.
type stream struct {
	dir     *node
	at, end uint64 // the last seq answered, and to answer
	buf     []volume.DirEntry
}

// batch is how many entries Next answers at most.
const batch = 128

// Next implements volume.DirStream.
func (s *stream) Next(ctx context.Context) ([]volume.DirEntry, error) {
	if err := s.dir.vol.enter(ctx); err != nil {
		return nil, err
	}
	entries := s.take()
	if len(entries) == 0 {
		return nil, io.EOF
	}
	for i := range entries {
		entries[i].Attr = entries[i].Node.(*node).attr()
	}
	return entries, nil
}

func (s *stream) take() []volume.DirEntry {
	s.dir.mu.RLock()
	defer s.dir.mu.RUnlock()
	order := s.dir.dir.order
	order = order[sort.Search(len(order), func(i int) bool { return order[i].seq > s.at }):]
	if s.buf == nil {
		s.buf = make([]volume.DirEntry, 0, min(batch, len(order)))
	}
	entries := s.buf[:0]
	for _, e := range order {
		if e.seq > s.end || len(entries) == batch {
			break
		}
		s.at = e.seq
		if e.n == nil {
			continue
		}
		e.n.lookups.Add(1)
		entries = append(entries, volume.DirEntry{Name: e.name, Type: volume.FileType(e.n.typ), Node: e.n})
	}
	s.buf = entries
	return entries
}

// Close implements volume.DirStream.
func (s *stream) Close() error { return nil }
