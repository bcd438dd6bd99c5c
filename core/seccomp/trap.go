// Package seccomp traps chosen system calls of guests: the table that names
// them, the filter made from it, and the loop that answers (seccomp(2),
// seccomp_unotify(2)). It knows no broker: they register Handlers for rows.
package seccomp

import (
	"context"
	"syscall"

	"github.com/lxbridge/lx/core/guest"
)

// Trap is one call of a guest that waits for its answer.
type Trap struct {
	ID   uint64 // the kernel's notification id
	Row  *Row
	Arch Arch
	Args [6]uint64 // i386: zero-extended
	guest.Thread
	listener *Listener
}

// Reply is the answer to a Trap. The zero Reply returns 0.
type Reply struct {
	Val   int64
	Errno syscall.Errno
	// Continue lets the kernel run the call as the guest made it: only for
	// calls that lx does not emulate, since the guest may change what its
	// pointers name after they were read.
	Continue bool
}

// Handler serves one row of the table. One of the two may be nil.
type Handler struct {
	// Inline answers at once, without touching guest memory or the file
	// system, or declines; it runs on the receiving thread.
	Inline func(t *Trap) (Reply, bool)
	// Serve runs in a goroutine of its own. ctx ends when the caller dies or
	// has a caught signal pending; the reply is then what the signal needs,
	// whatever Serve answers. Serve must undo its effects when t.Valid fails
	// at its end, and may be called again for a call that was restarted.
	Serve func(ctx context.Context, t *Trap) Reply
}

// Handlers are a broker's, by the name of the Row ("mount").
type Handlers map[string]Handler
