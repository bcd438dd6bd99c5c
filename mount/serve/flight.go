package serve

import (
	"sync"
	"time"
)

const (
	nearFlight = 8                    // pieces of one file on their way at once
	farFlight  = 24                   // where the way is long
	farTime    = 5 * time.Millisecond // what a piece takes at least on a long way
	reserve    = 32 << 20             // of a budget, in bytes, that is left to those with few pieces on their way
)

// flight is how long pieces are on their way, and from that how many of one
// file are to be at once. A long way is to be filled. Where it is slow, pieces
// take the longer the more of them there are, and no more are sent.
type flight struct {
	mu    sync.Mutex    // guards what follows
	took  time.Duration // lately; 0: not known
	least time.Duration
}

// landed notes that a whole piece was on its way for d.
func (f *flight) landed(d time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.took == 0 {
		f.took, f.least = d, d
	}
	f.took += (d - f.took) / 4
	f.least = min(f.least, d)
}

// depth is how many pieces of one file are to be on their way, whose memory is
// of b.
func (f *flight) depth(b *budget) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.least < farTime || f.took > 2*f.least || b.room() < reserve {
		return nearFlight
	}
	return farFlight
}
