package serve

import (
	"hash/fnv"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/lxbridge/lx/core/fuse"
	"github.com/lxbridge/lx/mount/volume"
	"github.com/lxbridge/lx/mount/volume/lock"
)

// inode is an object that the kernel or an open file knows.
type inode struct {
	fs      *FS
	id, ino uint64
	node    volume.Node
	typ     uint32 // S_IFMT

	// FS.mu guards these.
	fileID   uint64
	refs     uint64 // the kernel's look-ups, and one for each open file
	replaced bool   // the server has another object where this one was
	parent   *inode // where it was seen last; nil for the root and once it has no name
	name     string
	buried   chan struct{}     // not nil while it has a hidden name; closed when that is gone
	grave    *grave            // the hidden name, while buried; it may have others
	removing chan struct{}     // what buried was, while the hidden name is being removed
	children map[string]*inode // of a directory: names that the kernel was told
	graves   map[string]bool   // of a directory: names of hidden files
	listings int               // of a directory: how many times it is open
	lookups  lookups           // of a directory
	listing  *listing          // of a directory that look-ups are answered from; nil if none
	touched  map[string]uint64 // of an open one: the tick at which we changed a name
	disputed bool              // of a directory: files in it are locked, so that no name is believed

	posix, flock lock.Table

	mu      sync.Mutex // guards what follows; never held while the server is asked
	attr    volume.Attr
	known   bool      // attr was told at least once
	attrAt  time.Time // when the server said so; zero: not to be relied on
	asked   uint64    // the tick at which it was asked
	toldAt  time.Time // of a directory: attrAt, where attr came with a change of ours and nothing since
	changes changes   // of a directory
	lease   uint64    // the promise of the server that attr is right by
	pages   uint64    // the one that the kernel's cached pages are right by
	changed uint64    // the tick of our last change of size or times
	shown   shown
	seen    version // what the kernel's cached pages are of
	ours    bool    // all data was written here since the file was empty
	opens   int
	leaving int        // of opens, those that are being closed
	shared  [3]*handle // open handles by access mode, while used
	files   map[*file]struct{}
	owners  map[uint64]*file // of POSIX locks, and through which they locked last
	behind  behind
}

func (f *FS) newInode(id uint64, n volume.Node, a volume.Attr) *inode {
	i := &inode{fs: f, id: id, node: n, typ: a.Mode & syscall.S_IFMT, fileID: a.FileID}
	i.posix.Waiters = &f.waiters
	if i.typ == syscall.S_IFDIR {
		i.children, i.graves = map[string]*inode{}, map[string]bool{}
	}
	return i
}

// intern is the inode of a node that the volume just answered, with one more
// reference of the kernel's, and its attributes; the server was asked at tick
// asked. It gives the volume's reference back where the node was known.
func (f *FS) intern(parent *inode, name string, n volume.Node, a volume.Attr, asked uint64) (*inode, volume.Attr) {
	f.mu.Lock()
	i, known := f.byNode[n]
	if known && i.id != fuse.RootID && (i.typ != a.Mode&syscall.S_IFMT || i.fileID != 0 && a.FileID != 0 && i.fileID != a.FileID) {
		i.replaced, known = true, false
	}
	if !known {
		f.nextID++
		i = f.newInode(f.nextID, n, a)
		i.ino = f.number(a, parent, name, i.id)
		f.inodes[i.id], f.byNode[n], f.byIno[i.ino] = i, i, i
		f.crowded()
	}
	i.refs++
	if i.id != fuse.RootID {
		f.place(i, parent, name)
	}
	f.mu.Unlock()
	if known {
		f.vol.Forget(n)
	}
	return i, i.learn(a, asked)
}

// number chooses an inode number: the server's, else one of the place where
// the object was found, so that it stays the same after the kernel forgot it.
// The caller holds mu.
func (f *FS) number(a volume.Attr, parent *inode, name string, id uint64) uint64 {
	if a.FileID > fuse.RootID {
		return a.FileID
	}
	ino := placeNumber(parent, name)
	for {
		if _, taken := f.byIno[ino]; !taken && ino > fuse.RootID {
			return ino
		}
		ino = ino*6364136223846793005 + id | 2
	}
}

func placeNumber(parent *inode, name string) uint64 {
	h := fnv.New64a()
	h.Write(strconv.AppendUint(nil, parent.ino, 16))
	h.Write([]byte{'/'})
	h.Write([]byte(name))
	return h.Sum64() >> 1
}

// place notes that i is called name in parent. The caller holds mu.
func (f *FS) place(i, parent *inode, name string) {
	if old := parent.children[name]; old != nil && old != i && old.parent == parent && old.name == name {
		old.parent = nil
	}
	parent.children[name] = i
	i.parent, i.name = parent, name
}

// unplace notes that name is gone from parent. The caller holds mu.
func (f *FS) unplace(parent *inode, name string) {
	if i := parent.children[name]; i != nil {
		delete(parent.children, name)
		if i.parent == parent && i.name == name {
			i.parent = nil
		}
	}
}

// touch notes that we changed what name in p is, and with it p's own times.
// The caller holds mu.
func (f *FS) touch(p *inode, name string) {
	if p.listings > 0 {
		p.touched[name] = f.tick()
	}
	f.void(p, name)
	if p.parent != nil {
		f.void(p.parent, p.name)
	}
}

// child is what the kernel knows as name in parent.
func (f *FS) child(parent *inode, name string) *inode {
	f.mu.Lock()
	defer f.mu.Unlock()
	return parent.children[name]
}

// nameOf is what i is called, for people.
func (f *FS) nameOf(i *inode) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	if i.name == "" {
		return "inode " + strconv.FormatUint(i.ino, 10)
	}
	return i.name
}

// Forget gives back n references of the kernel's.
func (f *FS) Forget(id, n uint64) {
	f.mu.Lock()
	i, ok := f.inodes[id]
	f.mu.Unlock()
	if ok {
		f.unref(i, n)
	}
}

func (f *FS) unref(i *inode, n uint64) {
	f.mu.Lock()
	i.refs -= min(n, i.refs)
	gone := i.refs == 0 && i.id != fuse.RootID && f.inodes[i.id] == i
	if gone {
		f.removeInode(i)
	}
	f.mu.Unlock()
	if gone {
		f.vol.Forget(i.node)
	}
}

// removeInode takes i out of the tables. The caller holds mu.
func (f *FS) removeInode(i *inode) {
	delete(f.inodes, i.id)
	f.crowd.least = min(f.crowd.least, len(f.inodes))
	if f.byNode[i.node] == i {
		delete(f.byNode, i.node)
	}
	if f.byIno[i.ino] == i {
		delete(f.byIno, i.ino)
	}
	if p := i.parent; p != nil && p.children[i.name] == i {
		delete(p.children, i.name)
		f.void(p, i.name) // what we changed of it goes with i
	}
}

// forgetAll gives back what the kernel held when it let go.
func (f *FS) forgetAll() {
	f.mu.Lock()
	var left []*inode
	for _, i := range f.inodes {
		if i.id != fuse.RootID {
			left = append(left, i)
			f.removeInode(i)
		}
	}
	f.mu.Unlock()
	for _, i := range left {
		f.vol.Forget(i.node)
	}
}
