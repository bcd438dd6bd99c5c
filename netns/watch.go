package netns

import (
	"context"
	"errors"
	"sync"
	"time"
)

// Event is a change between two looks.
type Event struct {
	Entry
	Gone bool
	At   time.Time
}

// Interval is how often a Watch looks for new sockets: nothing in the kernel
// tells of them.
const Interval = 250 * time.Millisecond

// Watch looks until ctx ends (nil) or f says so with an error (the error). f
// gets each look's snapshot and what has changed since the one before; the
// first has no events. The end of a socket in the caller's own namespace is
// told by the kernel at once, the rest at the next look.
func Watch(ctx context.Context, r *Reader, q Query, f func(*Snapshot, []Event) error) error {
	events, err := dial(destroyGroups)
	if err != nil {
		return err
	}
	gone := make(chan Socket, 1024)
	var eventsErr error
	var wg sync.WaitGroup
	wg.Go(func() {
		eventsErr = events.destroyed(func(s Socket) {
			select {
			case gone <- s:
			default: // the next look tells
			}
		}, func() {})
	})
	err = watch(ctx, r, q, gone, f)
	events.close()
	wg.Wait()
	if ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		err = nil
	}
	return errors.Join(err, eventsErr)
}

func watch(ctx context.Context, r *Reader, q Query, gone <-chan Socket, f func(*Snapshot, []Event) error) error {
	tick := time.NewTicker(Interval)
	defer tick.Stop()
	known := map[key]Entry{}
	for first := true; ; first = false {
		s, err := r.Read(q)
		if err != nil {
			return err
		}
		now := time.Now()
		next := make(map[key]Entry, len(s.Entries))
		var events []Event
		for _, e := range s.Entries {
			k := e.key()
			next[k] = e
			if _, ok := known[k]; !ok && !first {
				events = append(events, Event{Entry: e, At: now})
			}
		}
		for k, e := range known {
			if _, ok := next[k]; !ok {
				events = append(events, Event{Entry: e, Gone: true, At: now})
			}
		}
		known = next
		if err := f(s, events); err != nil {
			return err
		}
		if err := untilTick(ctx, tick.C, gone, known, s, f); err != nil {
			return err
		}
	}
}

// untilTick tells of sockets that end until the next look is due.
func untilTick(ctx context.Context, tick <-chan time.Time, gone <-chan Socket, known map[key]Entry, s *Snapshot, f func(*Snapshot, []Event) error) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick:
			return nil
		case socket := <-gone:
			k := socket.key()
			e, ok := known[k]
			if !ok {
				continue
			}
			delete(known, k)
			s = s.without(k)
			if err := f(s, []Event{{Entry: e, Gone: true, At: time.Now()}}); err != nil {
				return err
			}
		}
	}
}

// without is the snapshot less one socket.
func (s *Snapshot) without(gone key) *Snapshot {
	less := *s
	less.Entries = nil
	for _, e := range s.Entries {
		if e.key() != gone {
			less.Entries = append(less.Entries, e)
		}
	}
	return &less
}
