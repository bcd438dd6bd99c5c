package fuse

import (
	"context"
	"math"
	"syscall"
	"time"
)

// watch ends requests whose limit is reached, and starts a reader when all are
// stuck, until ended is closed. For limits it sleeps until the nearest, and at
// most Timeout, so that it meets requests that begin meanwhile in time without
// being told of each. Want of readers it looks for only while none is waiting.
func (s *Server) watch(ended <-chan struct{}) {
	calm := 0 // looks in a row at which a reader was waiting
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ended:
			return
		case <-s.kick:
		case <-timer.C:
		}
		if !s.dozing.Load() && calm >= calmTicks {
			calm = 0 // a reader found no other waiting
		}
		s.asleep.Store(false)
		wait := s.expire()
		if wait == never && s.cfg.Timeout > 0 {
			// Look again: a request may have begun before it could see asleep.
			s.asleep.Store(true)
			wait = s.expire()
		}
		if wait != never && s.cfg.Timeout > 0 {
			wait = min(wait, s.cfg.Timeout)
		}
		if s.waiting.Load() == 0 {
			calm = 0
			if s.starving() {
				s.startReader(nil)
			}
		} else if calm++; calm == calmTicks {
			s.dozing.Store(true)
			if s.waiting.Load() == 0 {
				s.dozing.Store(false)
			}
		}
		if !s.dozing.Load() {
			wait = min(wait, starveTime)
		}
		timer.Reset(wait)
	}
}

const (
	never     = math.MaxInt64
	calmTicks = 20 // of starveTime, after which the watcher looks no more for want of readers
)

// starving says whether all readers have been busy for starveTime.
func (s *Server) starving() bool {
	now := s.now()
	s.mu.Lock()
	defer s.mu.Unlock()
	for rd := range s.readers {
		if t := time.Duration(rd.busy.Load()); t == 0 || now-t < starveTime {
			return false
		}
	}
	return !s.ended.Load()
}

func (s *Server) wakeWatcher() {
	select {
	case s.kick <- struct{}{}:
	default:
	}
}

// expire ends what is due and answers how long it is to the next; never where
// none is.
func (s *Server) expire() (wait time.Duration) {
	now := s.now()
	wait = never
	for _, r := range s.requests() {
		if t := r.expire(now); t != 0 {
			wait = min(wait, t-now)
		}
	}
	return wait
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
