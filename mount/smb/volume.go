package smb

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/cloudsoda/go-smb2"

	"github.com/lxbridge/lx/core/fuse"
	"github.com/lxbridge/lx/mount/volume"
	"github.com/lxbridge/lx/mount/volume/pathtree"
)

// Volume is a mounted share. It reconnects by itself: a call that finds the
// connection dead tries once to make another, on which handles are opened
// again when next used.
type Volume struct {
	cfg    *Config
	prefix string // as the server is told, "" or ending in \
	tree   *pathtree.Tree
	ctx    context.Context // ends with Close; for reconnects
	cancel context.CancelFunc
	wg     sync.WaitGroup // calls and reconnects under way

	// names is held for reading while a path is in use on the server, and for
	// writing while one changes.
	names sync.RWMutex

	mu      sync.Mutex // guards what follows
	link    *link
	redial  chan struct{} // closed when the reconnect under way ends; nil if none
	refused error         // of the last reconnect
	again   time.Time     // no reconnect before
	closed  bool
	known   map[*pathtree.Node]known
	open    map[parker]struct{}
}

// known is what the server last told of a node that somebody holds.
type known struct {
	mode  uint32
	size  uint64
	birth time.Time
}

// parker is what keeps an object open on the server and can let go of it for a while.
type parker interface {
	at() *pathtree.Node
	// park closes the server's handle after the transfers under way and keeps
	// it closed until the function it answers is called.
	park() (resume func())
}

var (
	_ volume.Volume     = (*Volume)(nil)
	_ volume.Symlinker  = (*Volume)(nil)
	_ volume.Readlinker = (*Volume)(nil)
)

// Dial connects to the server and attaches the share, within ctx and
// c.DialTimeout. Errors have the errno that mounting with the kernel's cifs
// gives: EACCES (user or password), ENOENT (share or prefix), ECONNREFUSED,
// EHOSTUNREACH (name), EHOSTDOWN (silent), EOPNOTSUPP (see Unsupported).
func Dial(ctx context.Context, c Config) (volume.Volume, error) {
	cfg, err := c.normal()
	if err != nil {
		return nil, err
	}
	prefix, err := cfg.MapChars.path(cfg.Prefix)
	if err != nil {
		return nil, &volume.Error{Op: "mount", Name: cfg.unc() + "/" + cfg.Prefix, Errno: syscall.ENOENT, Err: err}
	}
	if prefix != "" {
		prefix += `\`
	}
	v := &Volume{cfg: cfg, prefix: prefix, known: map[*pathtree.Node]known{}, open: map[parker]struct{}{}}
	var fold func(string) string
	if cfg.NoCase {
		fold = strings.ToUpper
	}
	v.tree = pathtree.New(fold)
	v.ctx, v.cancel = context.WithCancel(context.Background())
	if v.link, err = connect(ctx, cfg); err != nil {
		v.cancel()
		return nil, err
	}
	if err := v.checkRoot(ctx); err != nil {
		return nil, errors.Join(err, v.Close())
	}
	return v, nil
}

// checkRoot looks at the mounted directory, and at what the look went through.
func (v *Volume) checkRoot(ctx context.Context) error {
	attr, err := v.Getattr(ctx, v.tree.Root(), nil)
	if err != nil {
		return err
	}
	if attr.Mode&syscall.S_IFMT != syscall.S_IFDIR {
		return &volume.Error{Op: "mount", Name: v.cfg.unc() + "/" + v.cfg.Prefix, Errno: syscall.ENOTDIR}
	}
	return nil
}

// Root implements volume.Volume.
func (v *Volume) Root() volume.Node { return v.tree.Root() }

// Features implements volume.Volume.
func (v *Volume) Features() volume.Features {
	return volume.Features{
		CaseInsensitive: v.cfg.NoCase,
		MaxRead:         limit(v.cfg.MaxRead),
		MaxWrite:        limit(v.cfg.MaxWrite),
		TimeGranularity: 100 * time.Nanosecond,
		NameMax:         nameMax,
	}
}

// largest is the most that one request of the transport carries.
const largest = 1 << 20

func limit(n int) int {
	if n <= 0 || n > largest {
		return largest
	}
	return n
}

// Forget implements volume.Volume.
func (v *Volume) Forget(n volume.Node) {
	node := n.(*pathtree.Node)
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.tree.Forget(node) {
		delete(v.known, node)
	}
}

// child is the node of name in dir, now known to be so.
func (v *Volume) child(dir *pathtree.Node, name string, a volume.Attr) *pathtree.Node {
	v.mu.Lock()
	defer v.mu.Unlock()
	n := v.tree.Child(dir, name)
	v.known[n] = known{mode: a.Mode, size: a.Size, birth: a.Btime}
	return n
}

// learn notes attributes of a node that is held.
func (v *Volume) learn(n *pathtree.Node, a volume.Attr) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if _, held := v.known[n]; held {
		v.known[n] = known{mode: a.Mode, size: a.Size, birth: a.Btime}
	}
}

// grown notes that a node has at least size bytes.
func (v *Volume) grown(n *pathtree.Node, size uint64) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if k, held := v.known[n]; held && k.size < size {
		k.size = size
		v.known[n] = k
	}
}

func (v *Volume) knownOf(n *pathtree.Node) known {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.known[n]
}

// path is where n is on the server. names must be held.
func (v *Volume) path(n *pathtree.Node) (string, error) {
	p, err := v.tree.Path(n)
	if err != nil {
		return "", err
	}
	return v.wirePath(p)
}

// is reports whether the server last told that n is of the given type, or
// nothing yet.
func (v *Volume) is(n *pathtree.Node, typ uint32) bool {
	mode := v.knownOf(n).mode
	return mode == 0 || mode&syscall.S_IFMT == typ
}

// join is where name in dir is on the server. names must be held.
func (v *Volume) join(dir *pathtree.Node, name string) (string, error) {
	if !v.is(dir, syscall.S_IFDIR) {
		return "", syscall.ENOTDIR
	}
	if _, err := v.cfg.MapChars.encode(name); err != nil {
		return "", err
	}
	p, err := v.tree.Join(dir, name)
	if err != nil {
		return "", err
	}
	return v.wirePath(p)
}

func (v *Volume) wirePath(p string) (string, error) {
	w, err := v.cfg.MapChars.path(p)
	if err != nil {
		return "", err
	}
	if w == "" && v.prefix != "" {
		return v.prefix[:len(v.prefix)-1], nil
	}
	return v.prefix + w, nil
}

// call is one operation: what repeats, and what undoes a success that nobody
// waited for (nil if nothing).
type call[T any] struct {
	op, name string
	node     *pathtree.Node // what it is about where there is no name
	repeat   bool           // safe to do twice
	do       func(*link) (T, error)
	undo     func(T)
}

// failure is err for the caller of the volume; the name is sought only now.
func (c *call[T]) failure(v *Volume, err error) error {
	name := c.name
	if err != nil && c.node != nil {
		name = v.name(c.node)
	}
	return failure(c.op, name, err)
}

// run does c on the live connection. It returns promptly when ctx ends; c then
// goes on by itself until it is answered or the connection dies, because the
// transport must not be cancelled while it sends.
func run[T any](ctx context.Context, v *Volume, c call[T]) (T, error) {
	var none T
	err := context.Cause(ctx)
	if err == nil {
		err = v.begin()
	}
	if err != nil {
		return none, c.failure(v, err)
	}
	if ctx.Done() == nil {
		defer v.wg.Done()
		t, err := attempt(ctx, v, c)
		return t, c.failure(v, err)
	}
	type result struct {
		t   T
		err error
	}
	done := make(chan result)
	go func() {
		defer v.wg.Done()
		t, err := attempt(ctx, v, c)
		r := result{t, err}
		select {
		case done <- r:
			return
		case <-ctx.Done():
		}
		select {
		case done <- r:
		default:
			if err == nil && c.undo != nil {
				c.undo(t)
			}
		}
	}()
	select {
	case r := <-done:
		return r.t, c.failure(v, r.err)
	case <-ctx.Done():
		return none, c.failure(v, context.Cause(ctx))
	}
}

// exec is run for an operation without a result.
func exec(ctx context.Context, v *Volume, c call[struct{}], do func(*link) error) error {
	c.do = func(l *link) (struct{}, error) { return struct{}{}, do(l) }
	_, err := run(ctx, v, c)
	return err
}

// attempt does c once, and once more where the connection died and that is safe.
func attempt[T any](ctx context.Context, v *Volume, c call[T]) (t T, err error) {
	for try := 0; ; try++ {
		l, err := v.live(ctx)
		if err != nil {
			return t, err
		}
		t, err = guarded(l, c.do)
		if lostSession(err) {
			l.kill(err)
		}
		if err == nil || l.alive() {
			return t, err
		}
		if !c.repeat || try > 0 && !v.cfg.Hard {
			return t, l.failure(c.op)
		}
	}
}

// endless bounds one call on a connection that otherwise lives: a server that
// answers without ever coming to an end is given up.
const endless = 10 * time.Minute

// guarded runs do; a panic of the transport's decoders ends the connection
// instead of the process.
func guarded[T any](l *link, do func(*link) (T, error)) (t T, err error) {
	limit := time.AfterFunc(endless, func() {
		l.kill(&volume.Error{Op: "reach", Name: l.cfg.unc(), Errno: syscall.EHOSTDOWN, Reason: "a call did not end"})
	})
	defer limit.Stop()
	defer func() {
		if r := recover(); r != nil {
			err = &volume.Error{Op: "understand", Name: l.cfg.unc(), Errno: syscall.EIO, Reason: "the server's answer is broken"}
			l.kill(err)
			l.cfg.Log(fmt.Errorf("%w: %v\n%s", err, r, debug.Stack()))
		}
	}()
	return do(l)
}

// begin counts a call under way.
func (v *Volume) begin() error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.closed {
		return &volume.Error{Op: "use", Name: v.cfg.unc(), Errno: syscall.EIO, Err: errClosed}
	}
	v.wg.Add(1)
	return nil
}

// patience is the longest pause between failed reconnects.
const patience = 2 * time.Second

// live is a connection that is not known to be dead. One reconnect runs at a
// time, whoever asks; a soft mount fails with its error, at once for a while.
func (v *Volume) live(ctx context.Context) (*link, error) {
	for {
		v.mu.Lock()
		l, redial, wait := v.link, v.redial, time.Until(v.again)
		switch {
		case v.closed:
			v.mu.Unlock()
			return nil, errClosed
		case l.alive():
			v.mu.Unlock()
			return l, nil
		case redial == nil && wait <= 0:
			redial = make(chan struct{})
			v.redial = redial
			v.wg.Go(func() { v.reconnect(l, redial) })
		case redial == nil && !v.cfg.Hard:
			err := v.refused
			v.mu.Unlock()
			return nil, err
		}
		v.mu.Unlock()

		var pause <-chan time.Time
		if redial == nil {
			pause = time.After(wait)
		}
		select {
		case <-redial:
			v.mu.Lock()
			err := v.refused
			v.mu.Unlock()
			if err != nil && !v.cfg.Hard {
				return nil, err
			}
		case <-pause:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-v.ctx.Done():
			return nil, errClosed
		}
	}
}

// reconnect replaces a dead link and closes done.
func (v *Volume) reconnect(dead *link, done chan struct{}) {
	v.cfg.Log(fmt.Errorf("the connection to %s has ended: %w", v.cfg.unc(), dead.err))
	dead.close()
	l, err := connect(v.ctx, v.cfg)
	if err != nil {
		err = &volume.Error{Op: "reconnect to", Name: v.cfg.unc(), Errno: syscall.EHOSTDOWN, Err: err}
		v.cfg.Log(err)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.refused, v.redial = err, nil
	switch {
	case err != nil:
		v.again = time.Now().Add(min(patience, v.cfg.EchoInterval))
	case v.closed:
		v.wg.Go(l.close)
	default:
		v.link = l
	}
	close(done)
}

// Statfs implements volume.Volume.
func (v *Volume) Statfs(ctx context.Context) (fuse.Statfs, error) {
	return run(ctx, v, call[fuse.Statfs]{op: "statfs", name: v.cfg.unc(), repeat: true, do: func(l *link) (fuse.Statfs, error) {
		p, err := v.wirePath("")
		if err != nil {
			return fuse.Statfs{}, err
		}
		fi, err := l.share.Statfs(p)
		if err != nil {
			return fuse.Statfs{}, err
		}
		return statfs(fi), nil
	}})
}

func statfs(fi smb2.FileFsInfo) fuse.Statfs {
	size := fi.BlockSize()
	if size == 0 || size > 1<<30 {
		size = 1
	}
	return fuse.Statfs{Blocks: fi.TotalBlockCount(), Bfree: fi.FreeBlockCount(), Bavail: fi.AvailableBlockCount(),
		Bsize: uint32(size), Frsize: uint32(size), Namelen: nameMax}
}

// Close implements volume.Volume.
func (v *Volume) Close() error {
	v.mu.Lock()
	if v.closed {
		v.mu.Unlock()
		return nil
	}
	v.closed = true
	l := v.link
	v.mu.Unlock()
	v.cancel()
	l.close()
	v.wg.Wait()
	return nil
}

// track and untrack keep the list of what is open on the server.
func (v *Volume) track(p parker) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.open[p] = struct{}{}
}

func (v *Volume) untrack(p parker) {
	v.mu.Lock()
	defer v.mu.Unlock()
	delete(v.open, p)
}

// park lets go of all that is open at or below the given nodes, until resume.
// names must be held.
func (v *Volume) park(nodes ...*pathtree.Node) (resume func()) {
	var resumes []func()
	for _, p := range v.openBelow(nodes) {
		resumes = append(resumes, p.park())
	}
	return func() {
		for _, r := range resumes {
			r()
		}
	}
}
