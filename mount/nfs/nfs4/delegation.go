package nfs4

import (
	"context"

	"github.com/lxbridge/lx/mount/nfs/nfs4/compound"
	"github.com/lxbridge/lx/mount/nfs/nfs4/session"
)

// delegation is the server's promise to ask before it lets another client
// change (or, of a write delegation, open) a file.
type delegation struct {
	kind  uint32 // DelegateNone where there is none
	state compound.StateID
}

func (f *file) granted(o *compound.Opened)         {}
func (f *file) forget()                            {}
func (f *file) testDelegation(context.Context)     {}
func (f *file) giveBack(ctx context.Context) error { return nil }

// Callback implements session.Holder.
func (v holder) Callback(op *compound.CallbackOp, r *compound.CallbackReply) {
	r.Op(op.Op, compound.OK)
}

var _ session.Holder = holder{}
