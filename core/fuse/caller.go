package fuse

import "context"

type callerKey struct{}

// CallerOf answers who made the request that ctx belongs to; ok is false for a
// context that no Server made.
func CallerOf(ctx context.Context) (c Caller, ok bool) {
	if p, ok := ctx.Value(callerKey{}).(*Caller); ok {
		return *p, true
	}
	return Caller{}, false
}

// WithCaller is ctx with a caller, for work done on somebody's behalf outside a request.
func WithCaller(ctx context.Context, c Caller) context.Context {
	return context.WithValue(ctx, callerKey{}, &c)
}

type resentKey struct{}

// Resent says whether the request that ctx belongs to was read before by a
// server that died, so that its work may have been done already.
func Resent(ctx context.Context) bool {
	resent, _ := ctx.Value(resentKey{}).(bool)
	return resent
}
