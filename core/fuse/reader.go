package fuse

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"syscall"
)

// reader takes requests from the kernel and serves them.
type reader struct {
	srv *Server
	req atomic.Pointer[request]
	buf []byte // nil when another reader took it over
}

var readers = sync.Pool{New: func() any { return new(reader) }}

// startReader starts a reader with a read buffer, or one from the pool where buf is nil.
func (s *Server) startReader(buf []byte) {
	rd := readers.Get().(*reader)
	rd.srv, rd.buf = s, buf
	if r := rd.req.Load(); r != nil {
		r.srv = s
	} else {
		rd.req.Store(&request{srv: s})
	}
	s.mu.Lock()
	s.readers[rd] = struct{}{}
	s.mu.Unlock()
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
	s.mu.Unlock()
	if rd.buf != nil {
		putReadBuffer(rd.buf)
		rd.buf = nil
	}
	rd.req.Load().srv = nil
	rd.srv = nil
	readers.Put(rd)
}

// next takes and serves one request; false means that rd has to end.
func (rd *reader) next() bool {
	s := rd.srv
	if rd.buf == nil {
		rd.buf = getReadBuffer()
	}
	s.waiting.Add(1)
	n, errno := readFD(s.fd, rd.buf)
	waiting := s.waiting.Add(-1)
	switch errno {
	case 0:
	case syscall.ENOENT: // the request was taken back while it was read
		return true
	case syscall.ENODEV, syscall.ECONNABORTED:
		s.end(nil)
		return false
	default:
		s.end(fmt.Errorf("cannot read a FUSE request: %w", errno))
		return false
	}
	if n == 0 { // a socket in place of /dev/fuse, closed
		s.end(nil)
		return false
	}
	msg := rd.buf[:n]
	h := at[inHeader](msg)
	if h == nil {
		return true // nobody to answer
	}
	if waiting == 0 && !s.ended.Load() {
		var buf []byte
		if n <= smallRequest {
			small := getBuffer(n)
			defer small.free()
			msg = small.payload()[:copy(small.payload(), msg)]
			h = at[inHeader](msg)
			buf, rd.buf = rd.buf, nil
		}
		s.startReader(buf)
	}
	rd.serve(h, msg)
	return int(s.waiting.Load()) < s.cfg.Readers
}

// serve answers the request in msg, whose header is h.
func (rd *reader) serve(h *inHeader, msg []byte) {
	s, r := rd.srv, rd.req.Load()
	ext := int(h.ExtLen) * 8
	if int(h.Len) != len(msg) || ext > len(msg)-inHeaderSize {
		s.stats.malformed.Add(1)
		if h.Opcode != opForget && h.Opcode != opBatchForget && h.Unique != 0 {
			s.sent(sendErrno(s.fd, h.Unique, syscall.EIO))
		}
		return
	}
	body := msg[inHeaderSize : len(msg)-ext]
	switch h.Opcode {
	case opForget:
		s.forget(h.Node, body)
		return
	case opBatchForget:
		s.batchForget(body)
		return
	case opInterrupt:
		s.interrupt(h.Unique, body)
		return
	case opNotifyReply: // an answer; nothing is asked for
		return
	}
	r.begin(h, body)
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
	s.stats.count(errno, s.now()-r.start)
	if !r.finish() {
		rd.req.Store(&request{srv: s})
	}
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
