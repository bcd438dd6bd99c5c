package fuse

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// reader takes requests from the kernel and serves them itself.
//
// The fewer readers, the fewer switches between threads: one serves one busy
// client best. Another is started when needed:
//   - at once, when none is left in read(2) and the request is of a kind that
//     has been taking long, or its handler asks for its context's Done;
//   - when requests were there already many times in a row, up to Config.Readers;
//   - otherwise by the watcher, when all have been busy for starveTime.
//
// One ends that has long been waiting beside others.
type reader struct {
	srv  *Server
	req  atomic.Pointer[request]
	buf  atomic.Pointer[readBuffer] // idle; whoever swaps it out has it
	busy atomic.Int64               // since when, on the Server's clock; 0 in read(2)

	small [smallRequest]byte // the message, where it is not larger

	last   time.Duration // when it went to read
	queued int           // requests in a row that were there already
	spare  int           // requests for which it waited beside others
}

const (
	longTime   = 50 * time.Microsecond // an operation that takes this is worth another reader
	starveTime = time.Millisecond
	maxIdle    = 8 // readers that stay when operations take long

	readTime  = 2 * time.Microsecond // read(2) of a request that is there
	maxQueued = 16
	maxSpare  = 256
)

var readers = sync.Pool{New: func() any { return new(reader) }}

// startReader starts a reader with a read buffer, or one from the pool where
// buf is nil. It does nothing when the last reader has ended.
func (s *Server) startReader(buf *readBuffer) {
	rd := readers.Get().(*reader)
	rd.srv = s
	rd.buf.Store(buf)
	rd.busy.Store(0)
	rd.last, rd.queued, rd.spare = s.now(), 0, 0
	rd.req.Store(&request{srv: s, rd: rd})
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.readers) == 0 && s.ended.Load() {
		return
	}
	s.readers[rd] = struct{}{}
	s.count.Store(int32(len(s.readers)))
	s.running.Add(1)
	go rd.run()
}

func (rd *reader) run() {
	s := rd.srv
	defer s.running.Done()
	for rd.next() {
	}
	s.mu.Lock()
	delete(s.readers, rd)
	s.count.Store(int32(len(s.readers)))
	s.mu.Unlock()
	if b := rd.buf.Swap(nil); b != nil {
		readBuffers.Put(b)
	}
	readers.Put(rd)
}

// next takes and serves one request; false means that rd has to end.
func (rd *reader) next() bool {
	s := rd.srv
	buf := rd.buf.Swap(nil)
	if buf == nil {
		buf = getReadBuffer()
	}
	s.waiting.Add(1)
	n, errno := readFD(s.fd, buf[:])
	waiting := s.waiting.Add(-1)
	now := s.now()
	rd.busy.Store(int64(now))
	defer rd.busy.Store(0)

	msg := buf[:max(n, 0)]
	if n <= len(rd.small) {
		msg = rd.small[:copy(rd.small[:], msg)]
		rd.buf.Store(buf)
	} else {
		defer rd.buf.Store(buf)
	}
	switch {
	case errno == syscall.ENOENT: // the request was taken back while it was read
		return true
	case errno == syscall.ENODEV, errno == syscall.ECONNABORTED,
		errno == 0 && n == 0: // a socket in place of /dev/fuse, closed
		s.end(nil)
		return false
	case errno != 0:
		s.end(fmt.Errorf("cannot read a FUSE request: %w", errno))
		return false
	}
	h := at[inHeader](msg)
	if h == nil {
		s.stats.malformed.Add(1)
		return true // nobody to answer
	}
	long := h.Opcode == opSetlkw
	var usual *atomic.Int64
	if h.Opcode < opCount {
		usual = &s.usual[h.Opcode]
		long = long || usual.Load() > int64(longTime)
	}
	rd.note(now-rd.last, waiting > 0)
	switch {
	case waiting > 0:
	case long:
		s.startReader(rd.buf.Swap(nil))
	case rd.queued >= maxQueued && int(s.count.Load()) < s.cfg.Readers:
		s.startReader(nil)
	case s.dozing.Load() && s.dozing.CompareAndSwap(true, false): // once
		s.wakeWatcher()
	}
	handled := rd.serve(h, msg, now)
	rd.last = s.now()
	if usual != nil {
		u := usual.Load()
		usual.Store(u + (int64(handled-now)-u)/8)
	}
	switch idle := int(s.waiting.Load()); {
	case idle == 0:
		return true
	case long:
		return idle < maxIdle
	}
	return int(s.count.Load()) <= s.cfg.Readers && rd.spare < maxSpare
}

// note counts how the last request was had: after waiting for it, and beside
// other readers that still wait or alone.
func (rd *reader) note(waited time.Duration, others bool) {
	switch {
	case waited < readTime:
		if rd.queued++; rd.queued >= maxQueued {
			rd.spare = 0
		}
	case others:
		rd.spare++
		rd.queued = 0
	default:
		rd.queued = 0
	}
}

// relieve starts a reader in place of rd, whose handler is about to wait.
func (rd *reader) relieve() {
	if s := rd.srv; s.waiting.Load() == 0 && !s.ended.Load() {
		s.startReader(rd.buf.Swap(nil))
	}
}

// serve answers the request in msg, read at now, whose header is h, and says
// when its handler was done. Sending is not counted: to copy a large answer
// keeps a processor busy, not a reader waiting.
func (rd *reader) serve(h *inHeader, msg []byte, now time.Duration) (handled time.Duration) {
	s, r := rd.srv, rd.req.Load()
	ext := int(h.ExtLen) * 8
	if int(h.Len) != len(msg) || ext > len(msg)-inHeaderSize {
		s.stats.malformed.Add(1)
		if h.Opcode != opForget && h.Opcode != opBatchForget && h.Unique != 0 {
			s.sent(sendErrno(s.fd, h.Unique, syscall.EIO))
		}
		return now
	}
	body := msg[inHeaderSize : len(msg)-ext]
	switch h.Opcode {
	case opForget:
		s.forget(h.Node, body)
		return now
	case opBatchForget:
		s.batchForget(body)
		return now
	case opInterrupt:
		s.interrupt(h.Unique, body)
		return now
	case opNotifyReply: // an answer; nothing is asked for
		return now
	}
	r.begin(h, body, now)
	if s.asleep.Load() {
		s.wakeWatcher()
	}
	if s.ended.Load() {
		r.cancel(context.Canceled)
	}
	var do handler = (*Server).unknown
	if h.Opcode < opCount {
		do = s.table[h.Opcode]
	}
	var errno syscall.Errno
	if s.aborted.Load() && !alwaysServed(h.Opcode) {
		errno = syscall.EIO
	} else {
		errno = do(s, r)
	}
	handled = s.now()
	if errno > maxErrno {
		errno = syscall.EIO
	}
	unique := h.Unique
	if !r.claim(unique) {
		s.undo(r, errno)
	} else if e := r.send(unique, errno); e != 0 {
		s.undo(r, errno)
		if s.sent(e); e != syscall.ENOENT {
			s.sent(sendErrno(s.fd, unique, syscall.EIO))
		}
	}
	s.stats.count(errno, s.now()-now)
	if !r.finish() {
		rd.req.Store(&request{srv: s, rd: rd})
	}
	return handled
}

// maxErrno is the largest errno that the kernel takes.
const maxErrno = 511

// sent notes how writing to the kernel went. ENOENT is a request that the
// kernel gave up, ENODEV the end, which the readers are told as well.
func (s *Server) sent(errno syscall.Errno) {
	if errno != 0 && errno != syscall.ENOENT && errno != syscall.ENODEV && errno != syscall.EPERM {
		s.stats.unsent.Add(1)
	}
}
