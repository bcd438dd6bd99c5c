package service

import (
	"fmt"
	"math/bits"
	"strconv"
	"strings"
	"time"
)

// Schedule is when a timer runs: crontab(5)'s five fields.
type Schedule struct {
	minute, hour, dom, month, dow uint64 // a bit for each value
	anyDom, anyDow                bool   // the field began with *
	reboot                        bool
}

// field is one of the five.
type field struct {
	name     string
	min, max uint
	names    []string // of values from min on
}

var fields = [5]field{
	{"minute", 0, 59, nil},
	{"hour", 0, 23, nil},
	{"day of month", 1, 31, nil},
	{"month", 1, 12, []string{"jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"}},
	{"day of week", 0, 7, []string{"sun", "mon", "tue", "wed", "thu", "fri", "sat"}},
}

var nicknames = map[string]string{
	"@yearly": "0 0 1 1 *", "@annually": "0 0 1 1 *", "@monthly": "0 0 1 * *", "@weekly": "0 0 * * 0",
	"@daily": "0 0 * * *", "@midnight": "0 0 * * *", "@hourly": "0 * * * *",
}

// ParseSchedule reads five fields, or a nickname as @daily; @reboot is the
// start of the environment.
func ParseSchedule(s string) (Schedule, error) {
	if s == "@reboot" {
		return Schedule{reboot: true}, nil
	}
	text := s
	if strings.HasPrefix(s, "@") {
		var ok bool
		if text, ok = nicknames[s]; !ok {
			return Schedule{}, fmt.Errorf("schedule %q: want @hourly, @daily, @weekly, @monthly, @yearly or @reboot", s)
		}
	}
	parts := strings.Fields(text)
	if len(parts) != len(fields) {
		return Schedule{}, fmt.Errorf("schedule %q: want five fields (minute, hour, day of month, month, day of week), got %d", s, len(parts))
	}
	var masks [5]uint64
	for i, p := range parts {
		m, err := fields[i].parse(p)
		if err != nil {
			return Schedule{}, fmt.Errorf("schedule %q: %w", s, err)
		}
		masks[i] = m
	}
	sc := Schedule{minute: masks[0], hour: masks[1], dom: masks[2], month: masks[3], dow: masks[4],
		anyDom: strings.HasPrefix(parts[2], "*"), anyDow: strings.HasPrefix(parts[4], "*")}
	if sc.dow&(1<<7) != 0 { // Sunday is 0 and 7
		sc.dow |= 1
	}
	return sc, nil
}

// parse reads a list of values, ranges and steps.
func (f field) parse(s string) (mask uint64, err error) {
	for part := range strings.SplitSeq(s, ",") {
		span, stepText, stepped := strings.Cut(part, "/")
		step := uint(1)
		if stepped {
			n, err := strconv.ParseUint(stepText, 10, 8)
			if err != nil || n == 0 {
				return 0, fmt.Errorf("%s %q: want a step of 1 or more", f.name, part)
			}
			step = uint(n)
		}
		lo, hi := f.min, f.max
		if span != "*" {
			a, b, ranged := strings.Cut(span, "-")
			if lo, err = f.value(a); err != nil {
				return 0, err
			}
			hi = lo
			if ranged {
				if hi, err = f.value(b); err != nil {
					return 0, err
				}
			} else if stepped {
				hi = f.max
			}
			if hi < lo {
				return 0, fmt.Errorf("%s %q: the range ends before it begins", f.name, part)
			}
		} else if f.max == 7 {
			hi = 6
		}
		for v := lo; v <= hi; v += step {
			mask |= 1 << v
		}
	}
	return mask, nil
}

func (f field) value(s string) (uint, error) {
	for i, n := range f.names {
		if strings.EqualFold(s, n) {
			return f.min + uint(i), nil
		}
	}
	n, err := strconv.ParseUint(s, 10, 8)
	if err != nil || uint(n) < f.min || uint(n) > f.max {
		return 0, fmt.Errorf("%s %q: want %d to %d", f.name, s, f.min, f.max)
	}
	return uint(n), nil
}

// day reports whether the schedule runs on t's day: where both day fields are
// restricted, either is enough (crontab(5)).
func (s Schedule) day(t time.Time) bool {
	if s.month&(1<<uint(t.Month())) == 0 {
		return false
	}
	dom, dow := s.dom&(1<<uint(t.Day())) != 0, s.dow&(1<<uint(t.Weekday())) != 0
	if s.anyDom || s.anyDow {
		return dom && dow
	}
	return dom || dow
}

// wild reports whether the schedule is one of intervals rather than of times
// of the day: clock changes do not matter to it (cron(8)).
func (s Schedule) wild() bool { return bits.OnesCount64(s.hour) == 24 }

// Next is the first time after t at which the schedule runs, in t's zone; the
// zero time where there is none within five years. As cron(8) has it: a time
// of the day that the clock skips runs right after the skip, one that comes
// twice runs once; a schedule of every hour goes by the time that passes.
func (s Schedule) Next(t time.Time) time.Time {
	if s.reboot {
		return time.Time{}
	}
	loc := t.Location()
	if s.wild() {
		return s.nextWild(t)
	}
	y, mo, d := t.Date()
	for i := range 5*366 + 1 {
		day := time.Date(y, mo, d+i, 12, 0, 0, 0, loc)
		if !s.day(day) {
			continue
		}
		dy, dm, dd := day.Date()
		for h := range 24 {
			if s.hour&(1<<uint(h)) == 0 {
				continue
			}
			for m := range 60 {
				if s.minute&(1<<uint(m)) == 0 {
					continue
				}
				if c := wallClock(dy, dm, dd, h, m, loc); c.After(t) {
					return c
				}
			}
		}
	}
	return time.Time{}
}

// nextWild steps minute by minute through the hours of days that match.
func (s Schedule) nextWild(t time.Time) time.Time {
	c := t.Truncate(time.Minute).Add(time.Minute)
	end := t.AddDate(5, 0, 1)
	for c.Before(end) {
		if !s.day(c) {
			y, m, d := c.Date()
			next := time.Date(y, m, d+1, 0, 0, 0, 0, c.Location())
			if !next.After(c) {
				next = c.Add(time.Hour)
			}
			c = next
			continue
		}
		if s.minute&(1<<uint(c.Minute())) != 0 {
			return c
		}
		c = c.Add(time.Minute)
	}
	return time.Time{}
}

// wallClock is the moment when clocks show the time: the first of two, and the
// end of the gap where they skip it.
func wallClock(y int, mo time.Month, d, h, m int, loc *time.Location) time.Time {
	t := time.Date(y, mo, d, h, m, 0, 0, loc)
	if t.Hour() == h && t.Minute() == m {
		// time.Date does not say which of two it gives: look for an earlier one.
		for _, back := range []time.Duration{30 * time.Minute, time.Hour, 2 * time.Hour} {
			if e := t.Add(-back); e.Day() == t.Day() && e.Hour() == h && e.Minute() == m {
				return e
			}
		}
		return t
	}
	// A gap: the zone changes within a few hours around; find the change.
	lo, hi := t.Add(-4*time.Hour), t.Add(4*time.Hour)
	_, before := lo.Zone()
	for hi.Sub(lo) > time.Second {
		mid := lo.Add(hi.Sub(lo) / 2)
		if _, off := mid.Zone(); off == before {
			lo = mid
		} else {
			hi = mid
		}
	}
	return hi.Truncate(time.Second)
}
