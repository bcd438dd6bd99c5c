package fuse

import (
	"context"
	"syscall"
	"time"
)

// watch ends requests whose limit is reached, until ended is closed. It sleeps
// until the nearest limit, and at most Timeout, so that it meets requests that
// begin meanwhile in time without being told of each.
func (s *Server) watch(ended <-chan struct{}) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ended:
			return
		case <-s.kick:
		case <-timer.C:
		}
		s.asleep.Store(false)
		next := s.expire()
		if next == 0 && s.cfg.Timeout > 0 {
			// Look again: a request may have begun before it could see asleep.
			s.asleep.Store(true)
			next = s.expire()
		}
		if next == 0 {
			timer.Stop()
			continue
		}
		wait := next - s.now()
		if s.cfg.Timeout > 0 {
			wait = min(wait, s.cfg.Timeout)
		}
		timer.Reset(max(wait, 0))
	}
}

func (s *Server) wakeWatcher() {
	select {
	case s.kick <- struct{}{}:
	default:
	}
}

// expire ends what is due and answers when the next is; 0 where none is.
func (s *Server) expire() (next time.Duration) {
	now := s.now()
	for _, r := range s.requests() {
		if t := r.expire(now); t != 0 && (next == 0 || t < next) {
			next = t
		}
	}
	return next
}

func (r *request) expire(now time.Duration) (next time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	unique := r.live.Load()
	switch {
	case unique == 0 || r.limit.cancelAt == 0:
		return 0
	case now < r.limit.cancelAt:
		return r.limit.cancelAt
	}
	r.cancelLocked(r.limit.err)
	if now < r.limit.answerAt {
		return r.limit.answerAt
	}
	if r.claim(unique) {
		r.srv.stats.late.Add(1)
		r.srv.sent(sendErrno(r.srv.fd, unique, r.limit.errno))
	}
	return 0
}

// interrupt serves INTERRUPT: the request's context ends after the configured
// delay. One that is not here is perhaps not yet begun; EAGAIN makes the kernel
// ask again.
func (s *Server) interrupt(unique uint64, body []byte) {
	in := at[interruptIn](body)
	if in == nil {
		s.stats.malformed.Add(1)
		return
	}
	for _, r := range s.requests() {
		if r.interrupt(in.Unique) {
			s.wakeWatcher()
			return
		}
	}
	s.sent(sendErrno(s.fd, unique, syscall.EAGAIN))
}

func (r *request) interrupt(unique uint64) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.live.Load() != unique {
		return false
	}
	delay := max(r.srv.cfg.InterruptDelay, 0)
	if r.hdr.Opcode == opSetlkw {
		delay = 0
	}
	r.limit.sooner(r.srv.now()+delay, r.srv.cfg.Grace, context.Canceled, syscall.EINTR)
	return true
}
