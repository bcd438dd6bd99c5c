// Package serve presents a volume.Volume to the kernel: it is the
// fuse.FileSystem of every remote mount. It numbers the inodes, keeps what the
// kernel may believe for how long, reads ahead, writes behind, hides files that
// are removed while open, and keeps locks where the server has none.
package serve

import (
	"context"
	"errors"
	"fmt"
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
	// with fuse.Config.Writeback; the kernel then takes a file's size and times
	// from the server only when it forgot the file.
	Loose
)

// Options of a file system. The zero value is good.
type Options struct {
	Cache Cache
	// AttrTimeout, EntryTimeout and NegativeTimeout are how long the kernel may
	// keep attributes, names and their absence. The first two are 1 s where 0;
	// less than 0 means not at all.
	AttrTimeout, EntryTimeout, NegativeTimeout time.Duration
	// AskAbsent has the server asked whenever a name is not known, whatever was
	// listed: what another client has made is seen at once.
	AskAbsent bool
	// Present changes attributes of the server into those that are shown. An
	// owner that the user namespace does not map must become one that it does,
	// or the VFS refuses to open for writing.
	Present func(*volume.Attr)
	// Accept changes owners that a caller sets into those of the server.
	Accept func(*volume.SetAttr)
	// Unseen says, where the kernel checks modes, that what a caller does shows
	// it no attributes: it opens, makes or removes a name. Nil: never.
	Unseen func(fuse.Caller) bool
	// LocalLocks keeps locks on this mount only, whatever the volume can do.
	LocalLocks bool
	// Note, where set, is told of failures that no caller sees.
	Note func(error)
}

// Notifier drops what the kernel has cached. A *fuse.Server is one.
type Notifier interface {
	// NotifyInvalInode drops a node's attributes and n bytes of data from off;
	// off less than 0: no data, n 0: to the end.
	NotifyInvalInode(node uint64, off, n int64) error
	// NotifyInvalEntry drops a name; with expire it is asked for again instead.
	NotifyInvalEntry(parent uint64, name string, expire bool) error
	// NotifyPrune has the kernel forget those of nodes that nothing uses; ENOSYS
	// where it cannot.
	NotifyPrune(nodes []uint64) error
}

// FS serves one volume. It implements fuse.FileSystem and the abilities that
// make sense; what the volume cannot do answers ENOSYS or the errno of the
// system call's manual page.
type FS struct {
	vol    volume.Volume
	feat   volume.Features
	opts   Options
	leaser volume.Leaser // nil where there are no leases

	ctx      context.Context // of work that no caller waits for
	cancel   context.CancelFunc
	work     sync.WaitGroup
	notifier atomic.Pointer[Notifier]
	clock    atomic.Uint64   // see tick
	slow     time.Duration   // what makes a look-up worth sparing
	ctxList  context.Context // of listings that no caller waits for
	stopList context.CancelFunc
	waiters  lock.Waiters

	dirty, ahead  budget
	reads, writes flight // of pieces: those read ahead, those written behind

	dirtyMu sync.Mutex
	behind  map[*inode]struct{} // those with data that is not at the server

	mu     sync.Mutex // guards what follows, and what inode says
	inodes map[uint64]*inode
	crowd  crowd
	byNode map[volume.Node]*inode
	byIno  map[uint64]*inode
	listed int // names in listings
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
	f := &FS{vol: v, feat: v.Features(), opts: o, crowd: crowd{most: maxInodes}, behind: map[*inode]struct{}{},
		inodes: map[uint64]*inode{}, byNode: map[volume.Node]*inode{}, byIno: map[uint64]*inode{},
		files: map[uint64]*file{}, dirs: map[uint64]*directory{}, nextID: fuse.RootID}
	f.ctx, f.cancel = context.WithCancel(context.Background())
	f.ctxList, f.stopList = context.WithCancel(f.ctx)
	if l, ok := v.(volume.Leaser); ok {
		f.leaser = l
		l.OnRecall(f.recalled, f.dirtySize)
	}
	f.slow = slowLookup
	f.dirty.left, f.ahead.left = maxDirty, maxAhead
	root := f.newInode(fuse.RootID, v.Root(), volume.Attr{Mode: syscall.S_IFDIR})
	root.ino, root.refs = fuse.RootID, 1
	f.inodes[root.id], f.byNode[root.node], f.byIno[root.ino] = root, root, root
	return f
}

// SetNotifier says who can tell the kernel to drop what it has cached. Without
// one, changes made elsewhere show when the kernel's own time is over.
func (f *FS) SetNotifier(n Notifier) { f.notifier.Store(&n) }

// invalidate tells the kernel, without waiting for it: it may hold locks that
// are only let go when the caller has answered.
func (f *FS) invalidate(i *inode, off, n int64) { f.invalidated(i, off, n) }

// invalidated is invalidate for who can wait: what it answers is closed once
// the kernel has dropped what it had.
func (f *FS) invalidated(i *inode, off, n int64) <-chan struct{} {
	done := make(chan struct{})
	p := f.notifier.Load()
	if p == nil {
		close(done)
		return done
	}
	f.work.Go(func() {
		defer close(done)
		f.notified((*p).NotifyInvalInode(i.id, off, n))
	})
	return done
}

// notified notes a failure to tell the kernel. ENOENT: nothing was cached;
// ENODEV, ENOTCONN: unmounted.
func (f *FS) notified(err error) {
	if err != nil && !errors.Is(err, syscall.ENOENT) && !errors.Is(err, syscall.ENODEV) && !errors.Is(err, syscall.ENOTCONN) {
		f.opts.Note(err)
	}
}

// Stats is what is buffered, in bytes.
type Stats struct {
	Dirty int64 // written and not at the server yet
	Ahead int64 // read ahead
}

// Stats tells what is buffered at this moment.
func (f *FS) Stats() Stats {
	return Stats{Dirty: maxDirty - f.dirty.room(), Ahead: maxAhead - f.ahead.room()}
}

// Drain writes out what is left after the last request, removes hidden files
// and waits for all work to end. It answers what was lost. When ctx ends it
// gives up what is not written by then.
func (f *FS) Drain(ctx context.Context) error {
	stop := context.AfterFunc(ctx, f.cancel)
	defer stop()
	f.stopList()
	var errs []error
	f.dirtyMu.Lock()
	var dirty []*inode
	for i := range f.behind {
		dirty = append(dirty, i)
	}
	f.dirtyMu.Unlock()
	for _, i := range dirty {
		if err := i.flush(f.ctx); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", f.nameOf(i), err))
		}
	}
	f.mu.Lock()
	files, dirs := make([]*file, 0, len(f.files)), make([]uint64, 0, len(f.dirs))
	for _, fl := range f.files {
		files = append(files, fl)
	}
	for fh := range f.dirs {
		dirs = append(dirs, fh)
	}
	f.mu.Unlock()
	for _, fl := range files {
		f.release(fl)
	}
	for _, fh := range dirs {
		f.Releasedir(0, fh)
	}
	f.work.Wait()
	f.cancel()
	f.forgetAll()
	return errors.Join(errs...)
}

// tick is the time on the clock that orders what is done here and what is
// asked of the server: an answer to a question asked before a change is older
// than the change.
func (f *FS) tick() uint64 { return f.clock.Add(1) }

func errno(err error) syscall.Errno { return volume.Errno(err) }

// inode finds a node that the kernel names.
func (f *FS) inode(id uint64) (*inode, syscall.Errno) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if i, ok := f.inodes[id]; ok {
		return i, 0
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
