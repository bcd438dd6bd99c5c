package fuse

import (
	"bytes"
	"context"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// request is one request on its way through a reader. It is the context that
// the FileSystem gets, so that none has to be made; a reader uses it again and
// again, unless someone asked for its Done or its context ended.
//
//	live = unique ──claim by the handler──▶ 0, the handler's answer is sent
//	             └──claim by the watcher──▶ 0, an errno is sent, the handler's answer undone
type request struct {
	srv  *Server
	rd   *reader
	live atomic.Uint64 // unique of the request to answer; 0 when answered or idle

	hdr    inHeader
	body   []byte // what follows the header, without extensions
	caller Caller
	start  time.Duration // on the Server's clock

	out  [outHeaderSize + 2*entryOutSize]byte // a reply without payload
	outN int                                  // bytes of out after the header
	data *buffer                              // a payload that was asked for
	sent int                                  // bytes of it in the answer
	tail []byte                               // payload that the FileSystem owns
	loan Loan                                 // to return when tail was sent
	dir  dirWriter

	mu    sync.Mutex // guards what follows, and start and hdr.Opcode against the watcher
	used  bool       // Done or AfterFunc was called, or the context ended
	err   error
	done  chan struct{}
	after map[*int]func()
	limit limits
}

// limits are the times at which the watcher ends a request; 0 means never.
type limits struct {
	cancelAt time.Duration // the context ends with cancelErr
	answerAt time.Duration // the caller gets errno
	err      error
	errno    syscall.Errno
}

// sooner lowers l to a limit at t.
func (l *limits) sooner(t, grace time.Duration, err error, errno syscall.Errno) {
	if l.cancelAt == 0 || t < l.cancelAt {
		*l = limits{t, t + grace, err, errno}
	}
}

var _ context.Context = (*request)(nil)

// begin makes r serve the request of header h, read at now.
func (r *request) begin(h *inHeader, body []byte, now time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.hdr, r.body = *h, body
	r.caller = Caller{UID: h.UID, GID: h.GID, PID: h.PID}
	r.outN, r.sent = 0, 0
	r.start = now
	r.limit = limits{}
	if r.bounded() {
		r.limit.sooner(r.start+r.srv.cfg.Timeout, r.srv.cfg.Grace, context.DeadlineExceeded, syscall.ETIMEDOUT)
	}
	r.live.Store(h.Unique)
}

// Deadline answers when the Server's time limit ends.
func (r *request) Deadline() (time.Time, bool) {
	if !r.bounded() {
		return time.Time{}, false
	}
	return r.srv.epoch.Add(r.start + r.srv.cfg.Timeout), true
}

// bounded says whether the time limit holds: a lock may be waited for for ever.
func (r *request) bounded() bool { return r.srv.cfg.Timeout > 0 && r.hdr.Opcode != opSetlkw }

func (r *request) Done() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.use()
	if r.done == nil {
		r.done = make(chan struct{})
		if r.err != nil {
			close(r.done)
		}
	}
	return r.done
}

// use notes that the context may outlive its request, and that its handler is
// about to wait. r.mu is held.
func (r *request) use() {
	if !r.used && r.live.Load() != 0 {
		r.rd.relieve()
	}
	r.used = true
}

func (r *request) Err() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.err
}

func (r *request) Value(key any) any {
	switch key.(type) {
	case callerKey:
		return &r.caller
	case resentKey:
		return r.hdr.Unique&uniqueAgain != 0
	}
	return nil
}

// AfterFunc spares package context a goroutine for each context derived from r.
func (r *request) AfterFunc(f func()) (stop func() bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.use()
	if r.err != nil {
		go f()
		return func() bool { return false }
	}
	if r.after == nil {
		r.after = make(map[*int]func())
	}
	key := new(int)
	r.after[key] = f
	return func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		_, ok := r.after[key]
		delete(r.after, key)
		return ok
	}
}

// cancelLocked ends the context. r.mu is held.
func (r *request) cancelLocked(err error) {
	r.used = true
	if r.err != nil {
		return
	}
	r.err = err
	if r.done != nil {
		close(r.done)
	}
	for _, f := range r.after {
		go f()
	}
	r.after = nil
}

// cancel ends the context of what r serves now.
func (r *request) cancel(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.live.Load() != 0 {
		r.cancelLocked(err)
	}
}

// claim takes the right, and duty, to answer unique; one caller gets it.
func (r *request) claim(unique uint64) bool {
	return unique != 0 && r.live.CompareAndSwap(unique, 0)
}

// finish ends the request's context after its handler returned, and says
// whether r may serve another request.
func (r *request) finish() bool {
	if r.data != nil {
		r.data.free()
		r.data = nil
	}
	r.tail = nil
	if r.loan != nil {
		r.loan.Return()
		r.loan = nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.used {
		r.cancelLocked(context.Canceled)
		return false
	}
	return true
}

// in sees the structure T at the start of a request's body, and what follows;
// nil where the body is too short.
func in[T any](r *request) (*T, []byte) {
	t := at[T](r.body)
	if t == nil {
		return nil, nil
	}
	return t, r.body[size[T]():]
}

// out gives the zeroed structure T of the reply.
func out[T any](r *request) *T {
	r.outN = size[T]()
	b := r.out[outHeaderSize : outHeaderSize+r.outN]
	clear(b)
	return at[T](b)
}

// payload gives n bytes that go into the reply directly after its header;
// reply says how many of them.
func (r *request) payload(n int) []byte {
	r.data = getBuffer(n)
	return r.data.payload()[:n]
}

// reply sends the first n bytes of the payload, n at most what was asked for.
func (r *request) reply(n, limit int) syscall.Errno {
	if n < 0 || n > limit {
		return syscall.EIO
	}
	r.sent = n
	return 0
}

// cutName takes a string that ends in NUL off b; ok is false where no NUL is.
func cutName(b []byte) (name, rest []byte, ok bool) {
	return bytes.Cut(b, []byte{0})
}

// send writes the answer of a request that the caller claimed.
func (r *request) send(unique uint64, errno syscall.Errno) syscall.Errno {
	h := at[outHeader](r.out[:])
	*h = outHeader{Unique: unique, Error: -int32(errno)}
	fd := r.srv.fd
	switch {
	case errno != 0:
		h.Len = outHeaderSize
		return writeFD(fd, r.out[:outHeaderSize])
	case r.data != nil:
		b := r.data.reply(r.sent)
		h.Len = uint32(len(b))
		copy(b, r.out[:outHeaderSize])
		return writeFD(fd, b)
	}
	head := r.out[:outHeaderSize+r.outN]
	h.Len = uint32(len(head) + len(r.tail))
	if len(r.tail) > 0 {
		return writevFD(fd, head, r.tail)
	}
	return writeFD(fd, head)
}

// sendErrno writes an answer that is only an errno.
func sendErrno(fd int, unique uint64, errno syscall.Errno) syscall.Errno {
	h := outHeader{Len: outHeaderSize, Error: -int32(errno), Unique: unique}
	return writeFD(fd, bytesOf(&h))
}
