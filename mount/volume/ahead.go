package volume

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/lxbridge/lx/core/fuse"
)

// Ahead is a listing of v's whose next batch is on its way while the last is being
// used. For streams whose batches cost a round trip and are not used again.
func Ahead(v Volume, s DirStream) DirStream { return &ahead{DirStream: s, v: v} }

type ahead struct {
	DirStream
	v      Volume
	coming chan batch // of the one on its way; nil where there is none
	cancel context.CancelFunc
	came   time.Time // when what Next answered last came
}

type batch struct {
	entries []DirEntry
	err     error
	came    time.Time
}

// Next implements DirStream.
func (a *ahead) Next(ctx context.Context) ([]DirEntry, error) {
	var b batch
	if a.coming == nil {
		b = a.next(ctx)
	} else {
		select {
		case b = <-a.coming:
			a.cancel()
			a.coming = nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	a.came = b.came
	if b.err == nil {
		a.fetch(ctx)
	}
	return b.entries, b.err
}

func (a *ahead) next(ctx context.Context) batch {
	entries, err := a.DirStream.Next(ctx)
	return batch{entries, err, time.Now()}
}

// Came implements Dated.
func (a *ahead) Came() time.Time { return a.came }

// fetch asks for the next batch on behalf of ctx's caller.
func (a *ahead) fetch(ctx context.Context) {
	own := context.Background()
	if c, ok := CallerOf(ctx); ok {
		own = fuse.WithCaller(own, c)
	}
	own, a.cancel = context.WithCancel(own)
	coming := make(chan batch, 1)
	a.coming = coming
	go func() { coming <- a.next(own) }()
}

// Close implements DirStream. It waits for the batch that is on its way.
func (a *ahead) Close() error {
	if a.coming == nil {
		return a.DirStream.Close()
	}
	a.cancel()
	b := <-a.coming
	a.coming = nil
	for _, e := range b.entries {
		if e.Node != nil {
			a.v.Forget(e.Node)
		}
	}
	if errors.Is(b.err, io.EOF) || errors.Is(b.err, context.Canceled) {
		b.err = nil
	}
	return errors.Join(b.err, a.DirStream.Close())
}
