package serve

import (
	"context"
	"sync"
)

const (
	maxDirty = 64 << 20 // bytes written behind, per mount
	maxAhead = 64 << 20 // bytes read ahead, per mount
)

// budget bounds memory.
type budget struct {
	mu   sync.Mutex // guards what follows
	left int64
	more chan struct{} // closed when some comes back; nil while nobody waits
}

// take waits until n is there.
func (b *budget) take(ctx context.Context, n int64) error {
	for {
		b.mu.Lock()
		if b.left >= n {
			b.left -= n
			b.mu.Unlock()
			return nil
		}
		if b.more == nil {
			b.more = make(chan struct{})
		}
		more := b.more
		b.mu.Unlock()
		select {
		case <-more:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// try takes n if it is there.
func (b *budget) try(n int64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.left < n {
		return false
	}
	b.left -= n
	return true
}

func (b *budget) give(n int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.left += n
	if b.more != nil {
		close(b.more)
		b.more = nil
	}
}

func (b *budget) room() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.left
}
