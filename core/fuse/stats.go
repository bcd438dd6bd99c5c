package fuse

import (
	"math/bits"
	"sync/atomic"
	"syscall"
	"time"
)

// Stats are a Server's counters since New.
type Stats struct {
	Requests  uint64 // answered
	InFlight  int
	Read      uint64 // bytes
	Written   uint64 // bytes
	Errors    uint64 // answers with an errno other than ENOENT, ENODATA and ENOSYS
	Late      uint64 // requests answered by time limit or interrupt instead of the FileSystem
	Malformed uint64 // messages from the kernel that made no sense
	Unsent    uint64 // answers that the kernel refused

	LatencySum, LatencyMax time.Duration // from reading a request to having answered
	// Latency counts answers that took less than 2^i µs, and not less than half of that.
	Latency [latencyClasses]uint64
}

const latencyClasses = 32

type counters struct {
	read, written, errors, late, malformed, unsent atomic.Uint64

	sum, max atomic.Int64
	latency  [latencyClasses]atomic.Uint64
}

func (c *counters) count(errno syscall.Errno, took time.Duration) {
	switch errno {
	case 0, syscall.ENOENT, syscall.ENODATA, syscall.ENOSYS:
	default:
		c.errors.Add(1)
	}
	c.sum.Add(int64(took))
	for {
		m := c.max.Load()
		if int64(took) <= m || c.max.CompareAndSwap(m, int64(took)) {
			break
		}
	}
	c.latency[min(bits.Len64(uint64(took/time.Microsecond)), latencyClasses-1)].Add(1)
}

// Stats answers the counters now. They are not read at one instant.
func (s *Server) Stats() Stats {
	c := &s.stats
	st := Stats{
		Read: c.read.Load(), Written: c.written.Load(), Errors: c.errors.Load(),
		Late: c.late.Load(), Malformed: c.malformed.Load(), Unsent: c.unsent.Load(),
		LatencySum: time.Duration(c.sum.Load()), LatencyMax: time.Duration(c.max.Load()),
	}
	for i := range c.latency {
		st.Latency[i] = c.latency[i].Load()
		st.Requests += st.Latency[i]
	}
	for _, r := range s.requests() {
		if r.live.Load() != 0 {
			st.InFlight++
		}
	}
	return st
}
