package fuse

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// Server serves one FileSystem over one connection with the kernel.
//
// Readers take a request each and serve it themselves, so that an operation
// costs no hand-over between goroutines; see reader for how it is seen to that
// any number of them may hang.
//
// A process must not open what it serves itself through package os: see
// fusetest.OpenFile.
type Server struct {
	fs    FileSystem
	cfg   Config
	can   abilities
	table [opCount]handler
	epoch time.Time // the clock's zero

	fd      int
	started atomic.Bool
	aborted atomic.Bool  // everything answers EIO
	waiting atomic.Int32 // readers in read(2)
	count   atomic.Int32 // readers
	neg     atomic.Pointer[Negotiated]
	ready   chan struct{} // closed when neg is set
	done    chan struct{} // closed when Serve has returned
	err     error         // of Serve; set before done is closed

	running sync.WaitGroup // readers and the watcher
	mu      sync.Mutex
	readers map[*reader]struct{}
	ended   atomic.Bool // the connection
	readErr error       // why, where it was not unmounted

	usual [opCount]atomic.Int64 // how long an operation has been taking, in ns

	dozing atomic.Bool   // the watcher does not look for want of readers
	asleep atomic.Bool   // nor for time limits
	kick   chan struct{} // wakes it
	names  nameCache
	stats  counters
}

// New prepares a Server of fs. It finds fs's abilities and does nothing else.
// Dead as fs makes a Server that answers EIO to everything.
func New(fs FileSystem, cfg Config) (*Server, error) {
	if fs == nil {
		return nil, errors.New("cannot serve: no file system")
	}
	s := &Server{
		fs: fs, cfg: cfg.withDefaults(), can: findAbilities(fs),
		epoch: time.Now(),
		ready: make(chan struct{}), done: make(chan struct{}), kick: make(chan struct{}, 1),
		readers: make(map[*reader]struct{}),
	}
	s.table = s.handlers()
	_, isDead := fs.(dead)
	s.aborted.Store(isDead)
	return s, nil
}

// Serve serves the connection fd, an open /dev/fuse that a mount was made with,
// until it is unmounted or aborted, which is no error. When ctx ends it goes on
// as after Abort: read(2) of /dev/fuse cannot be called off, and the connection
// itself ends with its mounts or its last descriptor. Serve owns fd and closes it
// after all handlers have returned. A Server serves once.
func (s *Server) Serve(ctx context.Context, fd int) error { return s.serve(ctx, fd, nil) }

// Resume is Serve on a connection that another process has negotiated and left
// by its death. Requests that it had read and not answered come again where
// n.CanResend (see Resent); where not, they hang until the connection is aborted.
func (s *Server) Resume(ctx context.Context, fd int, n Negotiated) error {
	return s.serve(ctx, fd, &n)
}

func (s *Server) serve(ctx context.Context, fd int, resumed *Negotiated) (err error) {
	if s.started.Swap(true) {
		return errors.New("cannot serve: a Server serves once")
	}
	s.fd = fd
	defer func() {
		if e := syscall.Close(fd); e != nil {
			err = errors.Join(err, fmt.Errorf("cannot close the FUSE descriptor: %w", e))
		}
		s.err = err
		close(s.done)
	}()
	if err := syscall.SetNonblock(fd, false); err != nil {
		return fmt.Errorf("cannot serve: %w", err)
	}
	defer context.AfterFunc(ctx, s.Abort)()
	if resumed == nil {
		if resumed, err = s.init(); err != nil || resumed == nil {
			return err
		}
		s.neg.Store(resumed)
	} else {
		s.neg.Store(resumed)
		if resumed.CanResend() {
			if err := s.NotifyResend(); err != nil && !errors.Is(err, syscall.ENODEV) {
				return fmt.Errorf("cannot take over: %w", err)
			}
		}
	}
	close(s.ready)

	watched := make(chan struct{})
	ended := make(chan struct{})
	go func() { defer close(watched); s.watch(ended) }()
	s.startReader(nil)
	s.running.Wait()
	close(ended)
	<-watched

	return s.readErr
}

// Ready is closed when the connection is negotiated.
func (s *Server) Ready() <-chan struct{} { return s.ready }

// Negotiated is what INIT settled; ok is false before Ready.
func (s *Server) Negotiated() (n Negotiated, ok bool) {
	if p := s.neg.Load(); p != nil {
		return *p, true
	}
	return Negotiated{}, false
}

// Wait waits until Serve or Resume has returned and answers what it did.
func (s *Server) Wait() error {
	<-s.done
	return s.err
}

// Abort answers every request in flight, and all that come later, with EIO,
// until the mount is gone. Only FORGET and RELEASE still reach the FileSystem.
func (s *Server) Abort() {
	s.aborted.Store(true)
	for _, r := range s.requests() {
		r.mu.Lock()
		if r.live.Load() != 0 {
			r.cancelLocked(context.Canceled)
			r.limit = limits{1, 1, context.Canceled, syscall.EIO}
		}
		r.mu.Unlock()
	}
	s.wakeWatcher()
}

// now is the time on the Server's clock, never 0.
func (s *Server) now() time.Duration { return time.Since(s.epoch) + 1 }

// requests are those that readers serve at this moment, and idle ones.
func (s *Server) requests() []*request {
	s.mu.Lock()
	defer s.mu.Unlock()
	rs := make([]*request, 0, len(s.readers))
	for rd := range s.readers {
		rs = append(rs, rd.req.Load())
	}
	return rs
}

// end notes that the connection is gone; err is nil where it was unmounted.
func (s *Server) end(err error) {
	s.mu.Lock()
	if !s.ended.Swap(true) {
		s.readErr = err
	}
	s.mu.Unlock()
	s.cancelAll()
}

func (s *Server) cancelAll() {
	for _, r := range s.requests() {
		r.cancel(context.Canceled)
	}
}
