package mount

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lxbridge/lx/core/fuse"
	"github.com/lxbridge/lx/core/guest"
	"github.com/lxbridge/lx/mount/option"
	"github.com/lxbridge/lx/mount/serve"
	"github.com/lxbridge/lx/mount/volume"
)

// mounted is one file system that is served.
//
//	start ──▶ served ──── unmounted ────▶ written out ──▶ gone
//	             └── umount -f ──▶ aborted ─┘
type mounted struct {
	identity
	driver  *driver        // nil where a dead broker's mount was taken over
	options option.Options // nil as driver
	net     *network       // nil as driver
	vol     volume.Volume  // nil as driver
	fs      fileSystem     // nil as driver
	server  *fuse.Server
	journal *journal

	ctx    context.Context // of writing out what is buffered
	cancel context.CancelFunc
	gone   chan struct{} // closed when nothing is left
	lost   error         // what could not be written out; read after gone

	mu      sync.Mutex // guards what follows
	ended   bool       // unmounted
	aborted bool
	exposed []exposure
}

// identity is what a next broker is told of a mount.
type identity struct {
	Key     string          `json:"key"`
	Type    string          `json:"type"`
	Source  string          `json:"source"`
	Target  string          `json:"target"` // as the caller said it
	Options []string        `json:"options"`
	Since   time.Time       `json:"since"`
	Dev     uint64          `json:"dev"` // as stat(2) shows it
	Neg     fuse.Negotiated `json:"negotiated"`
}

// fileSystem is a volume made ready for the kernel.
type fileSystem interface {
	fuse.FileSystem
	// Drain writes out what is buffered and answers what was lost. Requests
	// have ended before.
	Drain(ctx context.Context) error
	// SetNotifier says who can tell the kernel to drop what it has cached.
	SetNotifier(n serve.Notifier)
}

// request is what a guest asks to mount.
type request struct {
	driver  *driver
	options option.Options
	given   []option.Param // as the guest said them
	target  string         // for people; may be empty
}

// fresh is a file system that is served and mounted nowhere.
type fresh struct {
	*mounted
	sb   *superblock
	conn int // a copy of the connection
}

// close lets go; what was not mounted meanwhile ends, and with it all the rest.
func (f *fresh) close() {
	f.sb.close()
	unix.Close(f.conn)
}

// establish connects to the server that r names and makes a superblock for it.
func (b *Broker) establish(ctx context.Context, t guest.Thread, r request) (*fresh, error) {
	o := r.options.General()
	m := &mounted{
		identity: identity{Key: rand.Text(), Type: o.Type, Source: o.Source, Target: r.target, Since: time.Now()},
		driver:   r.driver,
		options:  r.options,
		journal:  &journal{log: b.cfg.Log.With("source", o.Source)},
	}
	for _, p := range r.given {
		m.Options = append(m.Options, p.String())
	}
	var err error
	if m.net, err = networkOf(t); err != nil {
		return nil, err
	}
	if m.vol, err = m.driver.connect(ctx, m.net, m.options, m.journal.note); err != nil {
		m.net.close()
		return nil, err
	}
	f, err := b.build(m)
	if err != nil {
		err = errors.Join(err, m.vol.Close())
		m.net.close()
		return nil, err
	}
	if err := b.hold(ctx, f); err != nil {
		f.close()
		return nil, err
	}
	return f, nil
}

// build makes m's superblock and starts to serve it.
func (b *Broker) build(m *mounted) (_ *fresh, err error) {
	cfg, server := m.driver.arrange(m.vol, m.options)
	m.fs = m.driver.present(m.vol, m.options, nil, m.journal.note)
	if m.server, err = fuse.New(m.fs, server); err != nil {
		return nil, err
	}
	m.fs.SetNotifier(m.server)
	sb, err := newSuperblock(cfg, m.options.General().Mount)
	if err != nil {
		return nil, err
	}
	m.Dev = sb.dev
	f := &fresh{mounted: m, sb: sb}
	f.conn, err = unix.FcntlInt(uintptr(sb.conn), unix.F_DUPFD_CLOEXEC, 0)
	if err == nil {
		if err = b.start(m, func() error { return m.server.Serve(b.ctx, sb.conn) }); err == nil {
			return f, nil
		}
		unix.Close(f.conn)
	}
	sb.close()
	unix.Close(sb.conn)
	return nil, err
}

// start registers m and serves it by run.
func (b *Broker) start(m *mounted, run func() error) error {
	m.gone = make(chan struct{})
	m.ctx, m.cancel = context.WithCancel(b.ctx)
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.draining {
		m.cancel()
		return fmt.Errorf("the environment is about to end: %w", syscall.ESHUTDOWN)
	}
	b.mounts[m.Key] = m
	b.wg.Go(func() { b.serve(m, run) })
	return nil
}

// hold gives the connection to the keeper once it is negotiated.
func (b *Broker) hold(ctx context.Context, f *fresh) error {
	m := f.mounted
	select {
	case <-m.server.Ready():
	case <-m.gone:
		return fmt.Errorf("cannot mount %s: the kernel gave the FUSE connection up: %w", m.Source, syscall.EIO)
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	m.Neg, _ = m.server.Negotiated()
	blob, err := json.Marshal(m.identity)
	if err != nil {
		return fmt.Errorf("cannot describe the mount: %w", err)
	}
	if err := b.cfg.Holder.Hold(m.Key, f.conn, blob); err != nil {
		return fmt.Errorf("cannot give the mount to the keeper: %w", err)
	}
	return nil
}

// serve is the life of m from its start.
func (b *Broker) serve(m *mounted, run func() error) {
	defer close(m.gone)
	defer m.cancel()
	served := make(chan error, 1)
	go func() { served <- run() }()
	select {
	case err := <-served:
		if err != nil {
			m.journal.note(fmt.Errorf("cannot serve: %w", err))
		}
	case <-b.ending: // the mount may outlive us: its requests end, its connection with the process
		m.server.Abort()
	}
	m.mu.Lock()
	m.ended = true
	exposed := slices.Clone(m.exposed)
	m.mu.Unlock()
	for _, e := range exposed {
		e.end(m)
	}
	if m.fs != nil {
		if err := m.fs.Drain(m.ctx); err != nil {
			m.lost = fmt.Errorf("%s: data was lost: %w", m.Source, err)
			m.journal.note(m.lost)
		}
		if err := m.vol.Close(); err != nil {
			m.journal.note(fmt.Errorf("cannot close the connection: %w", err))
		}
		m.net.close()
	}
	if err := b.cfg.Holder.Drop(m.Key); err != nil {
		m.journal.note(fmt.Errorf("cannot tell the keeper: %w", err))
	}
	b.mu.Lock()
	delete(b.mounts, m.Key)
	b.mu.Unlock()
}

// abort answers everything with EIO from now on, and gives up writing out.
func (m *mounted) abort() {
	m.mu.Lock()
	m.aborted = true
	m.mu.Unlock()
	m.server.Abort()
	m.cancel()
}

// Adopt takes over a mount that a dead broker had given to the Holder. All
// its requests, also those that the dead one had read, are answered with EIO
// until it is unmounted. It owns fd. Where the kernel cannot give requests
// again (before Linux 6.9) the connection is ended instead.
func (b *Broker) Adopt(key string, fd int, blob []byte) error {
	var id identity
	err := json.Unmarshal(blob, &id)
	if err == nil && id.Key != key {
		err = fmt.Errorf("it names itself %q", id.Key)
	}
	if err != nil {
		unix.Close(fd)
		return fmt.Errorf("cannot take over mount %q: %w", key, err)
	}
	m := &mounted{identity: id, journal: &journal{log: b.cfg.Log.With("source", id.Source)}}
	m.journal.note(errRestarted)
	if !id.Neg.CanResend() {
		unix.Close(fd)
		return b.cfg.Holder.Drop(key)
	}
	if m.server, err = fuse.New(fuse.Dead, fuse.Config{}); err == nil {
		err = b.cfg.Holder.Hold(key, fd, blob)
	}
	if err == nil {
		err = b.start(m, func() error { return m.server.Resume(b.ctx, fd, id.Neg) })
	}
	if err != nil {
		unix.Close(fd)
		return fmt.Errorf("cannot take over the mount of %s: %w", id.Source, err)
	}
	return nil
}

var errRestarted = errors.New("the broker was restarted; unmount and mount again")
