package seccomp

import (
	"context"
	"fmt"
	"log/slog"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lxbridge/lx/core/guest"
)

// Listener answers the trapped calls of all processes below one filter.
//
// One thread has the turn to receive. It answers Inline handlers itself and
// starts a goroutine for the others. When it has not come back within a
// millisecond (an Inline handler that is slow, or a page of ours that is),
// the turn goes to a new thread, and the old one ends when it comes back:
//
//	            receives                   comes back in time
//	waiting ───────────────────▶ busy ───────────────────────▶ waiting
//	(turn n)                    (turn n)
//	                               │ 1 ms
//	                               ▼
//	                       waiting (turn n+1, another thread)
type Listener struct {
	fd       int
	handlers map[*Row]Handler
	inflight *Inflight
	log      *slog.Logger
	stop     int // eventfd that ends receiving

	turn  atomic.Uint64 // the turn's number << 1 | busy
	since atomic.Int64  // when it became busy, by clock
	armed atomic.Bool   // somebody looks after the turn
	arm   chan struct{}

	watch    watcher
	handling sync.WaitGroup // Serve handlers
	ended    chan error     // why receiving ended
}

const (
	turnTime   = time.Millisecond
	serveGrace = time.Second // for handlers when the listener ends
)

var start = time.Now()

// clock is cheap monotonic time.
func clock() int64 { return int64(time.Since(start)) }

// NewListener makes the listener for the descriptor that Install gave, which
// stays the caller's. inflight may be nil where no other process will answer
// what this one leaves; else its orphans have been answered.
func NewListener(fd int, handlers Handlers, inflight *Inflight, log *slog.Logger) (*Listener, error) {
	l := &Listener{fd: fd, handlers: map[*Row]Handler{}, inflight: inflight, log: log,
		arm: make(chan struct{}, 1), ended: make(chan error, maxReceivers)}
	for name, h := range handlers {
		row, ok := Lookup(name)
		if !ok || row.Action != Notify {
			return nil, fmt.Errorf("cannot handle %q: the table traps no such call", name)
		}
		l.handlers[row] = h
	}
	if inflight == nil {
		l.inflight = &Inflight{page: make([]byte, inflightSize)}
		l.inflight.reset()
	}
	return l, syncWakeup(fd)
}

// Serve receives and answers until the last process under the filter is gone
// (nil), ctx ends (nil) or the kernel refuses (the error). Handlers still
// running are then told through their context and given a second; one that
// hangs in a guest's memory stays behind.
func (l *Listener) Serve(ctx context.Context) error {
	stop, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return fmt.Errorf("cannot make an eventfd: %w", err)
	}
	l.stop = stop
	handlers, cancel := context.WithCancelCause(ctx)
	l.watch.init(l)

	done := make(chan struct{})
	var helpers, receivers sync.WaitGroup
	helpers.Go(func() { l.keepTurn(handlers, done, &receivers) })
	helpers.Go(func() { l.watch.run(done) })
	seat, _ := l.inflight.seat()
	receivers.Go(func() { l.receive(handlers, l.turn.Load()>>1, seat) })

	select {
	case err = <-l.ended:
	case <-ctx.Done():
		if _, werr := unix.Write(stop, []byte{1, 0, 0, 0, 0, 0, 0, 0}); werr != nil {
			l.log.Error("cannot stop receiving", "err", werr)
		}
		err = <-l.ended
	}
	cancel(ErrCallerGone)
	close(done)
	helpers.Wait()

	all := make(chan struct{})
	go func() {
		receivers.Wait() // first: they start handlers
		l.handling.Wait()
		unix.Close(stop)
		close(all)
	}()
	select {
	case <-all:
	case <-time.After(serveGrace):
		l.log.Warn("handlers of trapped calls stay behind")
	}
	return err
}

// receive is a receiving thread for as long as it has the turn.
func (l *Listener) receive(ctx context.Context, turn uint64, seat int) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer l.inflight.leave(seat)
	buf := l.inflight.receiver(seat)
	poll := []unix.PollFd{{Fd: int32(l.fd), Events: unix.POLLIN}, {Fd: int32(l.stop), Events: unix.POLLIN}}
	for {
		// RECV cannot be ended from outside, and before 6.13 not even by the
		// last caller's exit; after POLLIN it does not block, for only the
		// thread that has the turn receives.
		_, err := unix.Poll(poll, -1)
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			l.ended <- fmt.Errorf("cannot wait for trapped calls: %w", err)
			return
		case poll[1].Revents != 0:
			l.ended <- nil
			return
		case poll[0].Revents&unix.POLLIN == 0:
			if poll[0].Revents&unix.POLLHUP != 0 {
				l.ended <- nil
				return
			}
			l.ended <- fmt.Errorf("cannot wait for trapped calls: the listener's descriptor is bad: %w", unix.EBADF)
			return
		}
		switch errno := receive(l.fd, buf); errno {
		case 0:
		case unix.ENOENT, unix.EINTR: // the caller died before we had it
			continue
		default:
			l.ended <- fmt.Errorf("cannot receive a trapped call: %w", errno)
			return
		}
		l.since.Store(clock())
		l.turn.Store(turn<<1 | 1)
		if l.armed.CompareAndSwap(false, true) {
			l.arm <- struct{}{}
		}
		l.dispatch(ctx, buf)
		clear(buf[:])
		if !l.turn.CompareAndSwap(turn<<1|1, turn<<1) {
			return
		}
	}
}

// keepTurn gives the turn on when its thread is late. It sleeps while no
// call is trapped, and wakes once a millisecond while some are.
func (l *Listener) keepTurn(ctx context.Context, done <-chan struct{}, receivers *sync.WaitGroup) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-l.arm:
		case <-done:
			return
		}
		for l.armed.Load() {
			late := turnTime - time.Duration(clock()-l.since.Load())
			timer.Reset(max(late, turnTime/10))
			select {
			case <-timer.C:
			case <-done:
				return
			}
			state := l.turn.Load()
			if state&1 == 0 {
				l.armed.Store(false)
				if l.turn.Load()&1 == 0 || !l.armed.CompareAndSwap(false, true) {
					break
				}
				continue
			}
			if time.Duration(clock()-l.since.Load()) < turnTime {
				continue
			}
			seat, ok := l.inflight.seat()
			if !ok {
				continue // as many threads are late as there are places
			}
			next := state>>1 + 1
			if !l.turn.CompareAndSwap(state, next<<1) {
				l.inflight.leave(seat)
				continue
			}
			l.log.Debug("a receiving thread is late", "turn", next)
			receivers.Go(func() { l.receive(ctx, next, seat) })
		}
	}
}

// dispatch answers or starts what answers.
func (l *Listener) dispatch(ctx context.Context, buf *[notifSize]byte) {
	n, err := decode(buf[:])
	if err != nil {
		panic(err) // the buffer's size is a constant
	}
	arch, known := archOf(n.arch)
	var e entry
	if known {
		e = byNumber[arch][n.nr]
	}
	h, handled := l.handlers[e.row]
	if !handled {
		l.send(n.id, Reply{Continue: true})
		return
	}
	t := &Trap{ID: n.id, Row: e.row, Arch: arch, Args: n.args, Thread: guest.Thread{TID: int(n.tid)}, listener: l, slot: -1}
	e.widen(&t.Args)
	if h.Inline != nil {
		if r, ok := h.Inline(t); ok {
			t.answer(r)
			return
		}
	}
	if h.Serve == nil {
		t.answer(Reply{Continue: true})
		return
	}
	slot, ok := l.inflight.add(t.ID)
	if !ok {
		l.log.Warn("too many trapped calls in flight", "call", t.Row.Name)
		t.answer(Reply{Errno: syscall.ENOMEM})
		return
	}
	t.slot = slot
	l.handling.Go(func() { l.serve(ctx, t, h) })
}

// serve runs a handler under the watcher's eyes.
func (l *Listener) serve(ctx context.Context, t *Trap, h Handler) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	t.cancel = cancel
	l.watch.add(t)
	r := h.Serve(ctx, t)
	l.watch.remove(t)
	t.answer(r)
}

// send answers the kernel.
func (l *Listener) send(id uint64, r Reply) {
	switch errno := respond(l.fd, id, r); errno {
	case 0, unix.ENOENT:
	default:
		l.log.Error("cannot answer a trapped call", "id", id, "err", errno)
	}
}

func (l *Listener) idValid(id uint64) syscall.Errno { return idValid(l.fd, id) }

func (l *Listener) addFD(id uint64, fd int, cloexec bool, flags uint32) (int, syscall.Errno) {
	return addFD(l.fd, id, fd, cloexec, flags)
}
