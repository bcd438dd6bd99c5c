// Package serve presents a volume.Volume to the kernel: it is the
// fuse.FileSystem of every remote mount. It numbers the inodes, keeps what the
// kernel may believe for how long, reads ahead, writes behind, hides files that
// are removed while open, and keeps locks where the server has none.
package serve

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/lxbridge/lx/core/fuse"
	"github.com/lxbridge/lx/mount/volume"
	"github.com/lxbridge/lx/mount/volume/lock"
)

// Cache is how much the kernel and lx may keep.
type Cache int

const (
	// Strict is close-to-open: what was cached is dropped at open(2) when the
	// file has changed at the server.
	Strict Cache = iota
	// None caches no data: every read and write goes to the server at once.
	None
	// Loose trusts what was cached as long as attributes do not change. It goes
	// with fuse.Config.Writeback.
	Loose
)

// Options of a file system. The zero value is good.
type Options struct {
	Cache Cache
	// AttrTimeout, EntryTimeout and NegativeTimeout are how long the kernel may
	// keep attributes, names and their absence. The first two are 1 s where 0;
	// less than 0 means not at all.
	AttrTimeout, EntryTimeout, NegativeTimeout time.Duration
	// Present changes attributes of the server into those that are shown.
	Present func(*volume.Attr)
	// LocalLocks keeps locks on this mount only, whatever the volume can do.
	LocalLocks bool
	// Note, where set, is told of failures that no caller sees.
	Note func(error)
}

// Notifier drops what the kernel has cached. A *fuse.Server is one.
type Notifier interface {
	NotifyInvalInode(node uint64, off, length int64) error
}

const (
	maxDirty    = 64 << 20 // bytes written behind, per mount
	maxAhead    = 64 << 20 // bytes read ahead, per mount
	fileAhead   = 8        // pieces read ahead, per open file
	fileFlight  = 8        // pieces written at once, per file
	dirtyAge    = 500 * time.Millisecond
	defaultPart = 1 << 20
)

// FS serves one volume. It implements fuse.FileSystem and the abilities that
// make sense; what the volume cannot do answers ENOSYS or the errno of the
// system call's manual page.
type FS struct {
	vol  volume.Volume
	feat volume.Features
	opts Options

	ctx    context.Context // of work that no caller waits for
	cancel context.CancelFunc
	work   sync.WaitGroup

	dirty   budget
	ahead   budget
	waiters lock.Waiters  // for locks, of all files
	clock   atomic.Uint64 // orders questions to the server and changes of our own

	mu     sync.Mutex // guards what follows, and inode.refs, parent, name, children
	inodes map[uint64]*inode
	byNode map[volume.Node]*inode
	byIno  map[uint64]*inode
	nextID uint64
	files  map[uint64]*file
	dirs   map[uint64]*directory
	nextFH uint64
}

// New serves v. The caller calls Drain when the kernel has let go, and then
// closes v.
func New(v volume.Volume, o Options) *FS {
	def := func(d *time.Duration) {
		switch {
		case *d == 0:
			*d = time.Second
		case *d < 0:
			*d = 0
		}
	}
	def(&o.AttrTimeout)
	def(&o.EntryTimeout)
	if o.Note == nil {
		o.Note = func(error) {}
	}
	f := &FS{vol: v, feat: v.Features(), opts: o,
		inodes: map[uint64]*inode{}, byNode: map[volume.Node]*inode{}, byIno: map[uint64]*inode{},
		files: map[uint64]*file{}, dirs: map[uint64]*directory{}, nextID: fuse.RootID}
	f.ctx, f.cancel = context.WithCancel(context.Background())
	f.dirty.init(maxDirty)
	f.ahead.init(maxAhead)
	root := &inode{id: fuse.RootID, ino: fuse.RootID, node: v.Root(), refs: 1, children: map[string]*inode{}}
	f.inodes[root.id], f.byNode[root.node], f.byIno[root.ino] = root, root, root
	return f
}

// Drain writes out what is left after the last request and removes hidden
// files. It answers what was lost. When ctx ends it gives up.
func (f *FS) Drain(ctx context.Context) error {
	stop := context.AfterFunc(ctx, f.cancel)
	defer stop()
	f.mu.Lock()
	var files []*file
	for _, fl := range f.files {
		files = append(files, fl)
	}
	f.mu.Unlock()
	var errs []error
	for _, fl := range files {
		if err := fl.ino.flush(f.ctx); err != nil {
			errs = append(errs, err)
		}
		f.release(fl)
	}
	f.work.Wait()
	f.cancel()
	return errors.Join(errs...)
}

// tick is a moment later than all before.
func (f *FS) tick() uint64 { return f.clock.Add(1) }

// part is the size of a transfer.
func part(n int) int64 {
	if n <= 0 || n > defaultPart {
		return defaultPart
	}
	return int64(n)
}

func errno(err error) syscall.Errno { return volume.Errno(err) }

// inode finds a node that the kernel names.
func (f *FS) inode(id uint64) (*inode, syscall.Errno) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if n, ok := f.inodes[id]; ok {
		return n, 0
	}
	return nil, syscall.ESTALE
}

func (f *FS) file(fh uint64) (*file, syscall.Errno) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if fl, ok := f.files[fh]; ok {
		return fl, 0
	}
	return nil, syscall.EBADF
}

// budget bounds memory. take waits for room, try does not.
type budget struct {
	mu   sync.Mutex
	cond sync.Cond
	left int64
}

func (b *budget) init(n int64) { b.left, b.cond.L = n, &b.mu }

func (b *budget) take(ctx context.Context, n int64) error {
	if b.try(n) {
		return nil
	}
	defer context.AfterFunc(ctx, func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.cond.Broadcast()
	})()
	b.mu.Lock()
	defer b.mu.Unlock()
	for b.left < n {
		if err := ctx.Err(); err != nil {
			return err
		}
		b.cond.Wait()
	}
	b.left -= n
	return nil
}

func (b *budget) try(n int64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.left < n {
		return false
	}
	b.left -= n
	return true
}

func (b *budget) give(n int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.left += n
	b.cond.Broadcast()
}
