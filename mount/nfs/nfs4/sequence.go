package nfs4

import (
	"context"
	"errors"
	"sync"

	"github.com/lxbridge/lx/mount/nfs/nfs4/compound"
)

// sequenced is an open or lock owner. In 4.0 its calls are numbered, one after the
// other (RFC 7530, section 9.1.7); later versions have sessions for that.
type sequenced struct {
	minor uint32
	turn  chan struct{} // one token

	mu sync.Mutex
	id uint64
	n  uint32
}

func (v *Volume) newOwner() *sequenced {
	o := &sequenced{minor: v.cfg.Minor, id: v.owners.Add(1), turn: make(chan struct{}, 1)}
	o.turn <- struct{}{}
	return o
}

// begin waits for the owner's turn; end gives it on.
func (o *sequenced) begin(ctx context.Context) error {
	select {
	case <-o.turn:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (o *sequenced) end() { o.turn <- struct{}{} }

// next is the owner's name and the number of its next call.
func (o *sequenced) next() (id uint64, seq uint32) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.id, o.n
}

// answered counts a call that got err.
func (o *sequenced) answered(err error) {
	if o.minor > 0 {
		return
	}
	var st compound.Status
	if err != nil && !errors.As(err, &st) {
		return
	}
	switch st {
	case compound.ErrStaleClientID, compound.ErrStaleStateID, compound.ErrBadStateID, compound.ErrBadSeqID, compound.ErrBadXDR,
		compound.ErrResource, compound.ErrNoFileHandle, compound.ErrMoved:
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.n++
}

// rename makes it an owner that the server has not heard of.
func (o *sequenced) rename(id uint64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.id, o.n = id, 0
}

// idle keeps 4.0's open owners for use again: a new one costs an OPEN_CONFIRM.
type idle struct {
	mu     sync.Mutex
	owners []*sequenced
}

const maxIdle = 64

func (i *idle) put(o *sequenced) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if o.minor == 0 && len(i.owners) < maxIdle {
		i.owners = append(i.owners, o)
	}
}

func (i *idle) get() *sequenced {
	i.mu.Lock()
	defer i.mu.Unlock()
	n := len(i.owners)
	if n == 0 {
		return nil
	}
	o := i.owners[n-1]
	i.owners = i.owners[:n-1]
	return o
}
