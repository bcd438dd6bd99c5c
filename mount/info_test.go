package mount

import (
	"errors"
	"log/slog"
	"strings"
	"testing"
)

// TestJournal: a failure that repeats itself is logged once, and again when the
// server was back in between, which is logged too and is no failure.
func TestJournal(t *testing.T) {
	var out strings.Builder
	j := &journal{log: slog.New(slog.NewTextHandler(&out, nil))}
	away := errors.New("it is away")
	for _, err := range []error{away, away, nil, away} {
		j.note(err)
	}
	if text := out.String(); strings.Count(text, "it is away") != 2 || strings.Count(text, "it answers again") != 1 {
		t.Errorf("logged:\n%s", text)
	}
	if last, _ := j.last(); last != "it is away" {
		t.Errorf("the last failure is %q", last)
	}
}
