//go:build !amd64

package guest

// oldNameCall is of amd64 alone: newer architectures have no such calls.
func oldNameCall(int) bool { return false }
