package fuse

import (
	"hash/maphash"
	"sync/atomic"
)

// nameCache keeps strings of names that were looked up lately, so that looking
// them up again allocates nothing. The zero value is ready.
type nameCache struct {
	slots [512]atomic.Pointer[string]
}

var nameSeed = maphash.MakeSeed()

func (c *nameCache) get(b []byte) string {
	slot := &c.slots[maphash.Bytes(nameSeed, b)%uint64(len(c.slots))]
	if s := slot.Load(); s != nil && *s == string(b) {
		return *s
	}
	s := string(b)
	slot.Store(&s)
	return s
}
