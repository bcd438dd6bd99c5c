package seccomp

import (
	"os"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/lxbridge/lx/core/guest"
)

// watcher looks after handlers that take long. With WAIT_KILLABLE_RECV the
// kernel keeps signals out of a received call, so that a handler must be told
// of them; nothing notifies, hence it looks.
type watcher struct {
	listener *Listener
	wake     chan struct{}

	mu    sync.Mutex // guards traps
	traps map[*Trap]*watched
}

// watched is what is known of one running handler.
type watched struct {
	next     time.Time
	interval time.Duration
	shared   uint64    // signals pending for the process at the last look
	grace    time.Time // when an interrupted caller is answered for; zero: not interrupted
}

const (
	firstLook      = 10 * time.Millisecond
	longestLook    = 50 * time.Millisecond
	interruptGrace = 100 * time.Millisecond
)

func (w *watcher) init(l *Listener) {
	w.listener, w.wake, w.traps = l, make(chan struct{}, 1), map[*Trap]*watched{}
}

func (w *watcher) add(t *Trap) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.traps[t] = &watched{next: time.Now().Add(firstLook), interval: firstLook}
	if len(w.traps) == 1 {
		select {
		case w.wake <- struct{}{}:
		default:
		}
	}
}

func (w *watcher) remove(t *Trap) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.traps, t)
}

// run looks every 10 ms while a handler runs and sleeps otherwise.
func (w *watcher) run(done <-chan struct{}) {
	tick := time.NewTicker(firstLook)
	defer tick.Stop()
	tick.Stop()
	for {
		select {
		case <-w.wake:
			tick.Reset(firstLook)
		case now := <-tick.C:
			if w.look(now) == 0 {
				tick.Stop()
				if w.running() > 0 { // added since
					tick.Reset(firstLook)
				}
			}
		case <-done:
			return
		}
	}
}

func (w *watcher) running() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.traps)
}

// look checks those whose time has come and answers how many are watched.
func (w *watcher) look(now time.Time) int {
	w.mu.Lock()
	var due []*Trap
	for t, s := range w.traps {
		if !now.Before(s.next) {
			due = append(due, t)
		}
	}
	left := len(w.traps)
	w.mu.Unlock()
	for _, t := range due {
		w.check(t, now)
	}
	return left
}

// check looks at one caller. Only the watcher's goroutine touches s.
func (w *watcher) check(t *Trap, now time.Time) {
	w.mu.Lock()
	s, ok := w.traps[t]
	w.mu.Unlock()
	if !ok {
		return
	}
	s.next = now.Add(s.interval)
	s.interval = min(s.interval*3/2, longestLook)
	if !s.grace.IsZero() {
		if now.After(s.grace) {
			t.answer(Reply{Errno: syscall.EINTR})
			w.remove(t)
		}
		return
	}
	acts := w.acts(t.Thread, s)
	if errno := w.listener.idValid(t.ID); errno == syscall.ENOENT {
		t.cancel(ErrCallerGone)
		w.remove(t)
		return
	}
	if acts && t.interrupt() {
		s.grace, s.interval = now.Add(interruptGrace), firstLook
	}
}

// acts says whether a signal is pending that the thread would act on: the
// answer "restart" needs one, or errno 512 would reach the program.
//
// A signal for the thread is sure. One for the process wakes one of its
// threads, which the kernel chooses when the signal is sent: the main thread
// if it does not block the signal, else another that does not
// (complete_signal in kernel/signal.c). A chosen thread keeps its mark until
// it leaves the kernel, whoever takes the signal. So the thread must be the
// main one, or the only one that could be chosen; and it must be so at two
// looks, since a timer's signal may prefer the thread that runs.
func (w *watcher) acts(thread guest.Thread, s *watched) bool {
	status, err := thread.Status()
	if err != nil {
		return false // gone: ID_VALID tells
	}
	if status.Acts(status.Pending) != 0 {
		return true
	}
	before := s.shared
	s.shared = status.Acts(status.Shared)
	both := before & s.shared
	if s.shared != 0 {
		s.interval = firstLook
	}
	return both != 0 && (thread.TID == status.TGID || onlyTaker(thread.TID, status.TGID, both))
}

// onlyTaker says whether all other threads of the process block the signals.
func onlyTaker(tid, tgid int, signals uint64) bool {
	tasks, err := os.ReadDir("/proc/" + strconv.Itoa(tgid) + "/task")
	if err != nil {
		return false
	}
	for _, task := range tasks {
		id, err := strconv.Atoi(task.Name())
		if err != nil || id == tid {
			continue
		}
		other, err := guest.Thread{TID: id}.Status()
		if err == nil && other.Blocked&signals != signals {
			return false
		}
	}
	return true
}
