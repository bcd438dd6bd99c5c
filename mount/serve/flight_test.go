package serve

import (
	"testing"
	"time"
)

// More pieces go on a way that is long, not on one that is slow or crowded.
func TestFlight(t *testing.T) {
	const ms = time.Millisecond
	for _, c := range []struct {
		name   string
		landed []time.Duration
		room   int64
		want   int
	}{
		{"nothing is known", nil, maxAhead, nearFlight},
		{"a server beside", []time.Duration{ms, ms, ms}, maxAhead, nearFlight},
		{"a long way", []time.Duration{108 * ms, 109 * ms, 117 * ms, 125 * ms}, maxAhead, farFlight},
		{"a long way, filled", []time.Duration{108 * ms, 220 * ms, 240 * ms, 250 * ms, 250 * ms, 250 * ms, 250 * ms, 250 * ms}, maxAhead, nearFlight},
		{"a slow one", []time.Duration{80 * ms, 160 * ms, 240 * ms, 320 * ms, 400 * ms}, maxAhead, nearFlight},
		{"a slow one, not crowded any more", []time.Duration{80 * ms, 400 * ms, 400 * ms, 80 * ms, 80 * ms, 80 * ms, 80 * ms}, maxAhead, farFlight},
		{"a long way for many files", []time.Duration{108 * ms, 109 * ms}, reserve - 1, nearFlight},
	} {
		t.Run(c.name, func(t *testing.T) {
			var f flight
			for _, d := range c.landed {
				f.landed(d)
			}
			if got := f.depth(&budget{left: c.room}); got != c.want {
				t.Errorf("%d pieces, want %d", got, c.want)
			}
		})
	}
}
