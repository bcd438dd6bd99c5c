package main

import (
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// contender measures one way to do a row's work, in the row's unit.
type contender struct {
	name string
	run  func() (float64, error)
}

// row compares the first contender, lx, with its peers: native calls, the raw
// client, another mount.
type row struct {
	name       string
	unit       string
	more       bool // larger is better
	contenders []contender
	// target is what the first must reach against peer contenders[against].
	target  target
	against int
	note    string // why there is no target
}

// target judges two medians.
type target struct {
	text string
	met  func(lx, peer float64) bool
}

func atMost(ratio float64) target {
	return target{fmt.Sprintf("≤ %.2f×", ratio), func(lx, peer float64) bool { return lx <= ratio*peer }}
}

func atLeast(ratio float64) target {
	return target{fmt.Sprintf("≥ %.2f×", ratio), func(lx, peer float64) bool { return lx >= ratio*peer }}
}

func below(limit float64) target {
	return target{fmt.Sprintf("< %g", limit), func(lx, _ float64) bool { return lx < limit }}
}

func above(limit float64) target {
	return target{fmt.Sprintf("≥ %g", limit), func(lx, _ float64) bool { return lx >= limit }}
}

func within(slack float64) target {
	return target{fmt.Sprintf("≤ +%g", slack), func(lx, peer float64) bool { return lx <= peer+slack }}
}

// sample is one contender's figures.
type sample []float64

func (s sample) median() float64 {
	if len(s) == 0 {
		return math.NaN()
	}
	t := slices.Sorted(slices.Values(s))
	if n := len(t); n%2 == 0 {
		return (t[n/2-1] + t[n/2]) / 2
	}
	return t[len(t)/2]
}

func (s sample) String() string {
	if len(s) == 0 {
		return "–"
	}
	return fmt.Sprintf("%s (%s–%s)", figure(s.median()), figure(slices.Min(s)), figure(slices.Max(s)))
}

func figure(v float64) string {
	switch {
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.2f", v)
}

// A row that takes no longer than cheap is measured at least leastRuns times.
const (
	cheap     = 1500 * time.Millisecond
	leastRuns = 3
)

// measure runs the row's contenders in turns, so that what disturbs the
// machine disturbs all of them.
func (r row) measure(times int) ([]sample, error) {
	out := make([]sample, len(r.contenders))
	start := time.Now()
	for turn := 0; turn < times || turn < leastRuns && time.Since(start) < cheap; turn++ {
		for i, c := range r.contenders {
			v, err := c.run()
			if err != nil {
				return nil, fmt.Errorf("%s, %s: %w", r.name, c.name, err)
			}
			out[i] = append(out[i], v)
		}
	}
	return out, nil
}

// table prints rows as they are measured.
type table struct {
	w     io.Writer
	times int
	match string
	miss  int
	fails int
}

func (t *table) group(title string, rows []row) {
	tw := tabwriter.NewWriter(t.w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t.w, "\n%s: median (least–most) of %d interleaved runs, of at least %d where they are cheap\n", title, t.times, leastRuns)
	for _, r := range rows {
		if !strings.Contains(title+" "+r.name, t.match) {
			continue
		}
		s, err := r.measure(t.times)
		if err != nil {
			t.fails++
			fmt.Fprintf(tw, "%s\tFAILED: %v\n", r.name, err)
			tw.Flush()
			continue
		}
		fmt.Fprintf(tw, "%s\t%s", r.name, r.unit)
		for i, c := range r.contenders {
			fmt.Fprintf(tw, "\t%s %s", c.name, s[i])
		}
		if len(s) > 1 {
			for i := 1; i < len(s); i++ {
				fmt.Fprintf(tw, "\t%.2f× %s", s[0].median()/s[i].median(), r.contenders[i].name)
			}
		}
		if r.target.met != nil {
			peer := math.NaN()
			if r.against < len(s) {
				peer = s[r.against].median()
			}
			verdict := "ok"
			if !r.target.met(s[0].median(), peer) {
				verdict = "MISS"
				t.miss++
			}
			fmt.Fprintf(tw, "\t%s %s", r.target.text, verdict)
		}
		if r.note != "" {
			fmt.Fprintf(tw, "\tnot comparable: %s", r.note)
		}
		fmt.Fprintln(tw)
		tw.Flush()
	}
}
