// Package guest reaches into processes inside an environment: their memory,
// their place in the file tree, their rights. It runs outside of them, in the
// user namespace above theirs (U1), and trusts nothing it reads.
package guest

// Thread is one thread of a guest, by its id in our own pid namespace. What it
// reads may belong to another process once the thread has died: callers check
// that the trap is still valid after reading and before acting.
type Thread struct {
	TID int
}
