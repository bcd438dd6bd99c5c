package volume

import "context"

type tellKey struct{}

// Telling is ctx for a call that changes names. A volume that learns with the
// server's answer what a directory is like afterwards hands that to hear, before
// the call returns, in its goroutine.
func Telling(ctx context.Context, hear func(dir Node, a Attr)) context.Context {
	return context.WithValue(ctx, tellKey{}, hear)
}

// Tell hands what a directory is like to who wants to hear it.
func Tell(ctx context.Context, dir Node, a Attr) {
	if hear, ok := ctx.Value(tellKey{}).(func(Node, Attr)); ok {
		hear(dir, a)
	}
}
