package nfs4

import (
	"sync"

	"github.com/lxbridge/lx/mount/nfs/nfs4/compound"
)

// offloads is how copies ended that went on at the server, as it called to say.
type offloads struct {
	mu    sync.Mutex
	ended map[[12]byte]*offload
}

type offload struct {
	done chan struct{}
	op   *compound.CallbackOp // set once done is closed
}

// maxOffloads bounds the answers that nobody has asked for yet.
const maxOffloads = 256

func (o *offloads) get(id compound.StateID) *offload {
	if o.ended == nil {
		o.ended = map[[12]byte]*offload{}
	}
	e := o.ended[id.Other]
	if e == nil && len(o.ended) < maxOffloads {
		e = &offload{done: make(chan struct{})}
		o.ended[id.Other] = e
	}
	return e
}

// tell notes how a copy ended. It may come before the answer to COPY.
func (o *offloads) tell(op *compound.CallbackOp) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if e := o.get(op.State); e != nil && e.op == nil {
		e.op = op
		close(e.done)
	}
}

// wait is closed when the copy has ended; nil where it cannot be told.
func (o *offloads) wait(id compound.StateID) <-chan struct{} {
	o.mu.Lock()
	defer o.mu.Unlock()
	if e := o.get(id); e != nil {
		return e.done
	}
	return nil
}

// take is how the copy ended, if it has.
func (o *offloads) take(id compound.StateID) (*compound.CallbackOp, bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	e := o.ended[id.Other]
	if e == nil || e.op == nil {
		return nil, false
	}
	delete(o.ended, id.Other)
	return e.op, true
}
