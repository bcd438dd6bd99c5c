package command

import (
	"bytes"
	"errors"
	"fmt"
	"syscall"
	"testing"

	"github.com/lxbridge/lx/core/env"
)

func TestReport(t *testing.T) {
	for _, c := range []struct {
		err  error
		code int
		text string
	}{
		{nil, 0, ""},
		{ExitCode(7), 7, ""},
		{fmt.Errorf("wrapped: %w", ExitCode(3)), 3, ""},
		{errors.New("boom"), 1, "lx: boom\n"},
		{errors.New("an escape\x1b[2J\nand a line\u009b"), 1, "lx: an escape\uFFFD[2J\nand a line\uFFFD\n"},
		{WithHint(errors.New("boom"), "try this"), 1, "lx: boom\nhint: try this\n"},
		{Misused(errors.New("what?")), 2, "lx: what?\nTry 'lx --help'.\n"},
		{&env.ExitError{Code: env.ExitNotFound, Err: errors.New("no such command")}, 127, "lx: no such command\n"},
		{fmt.Errorf("write: %w", syscall.EPIPE), 1, ""},
	} {
		var b bytes.Buffer
		if code := Report(&b, "lx", c.err); code != c.code || b.String() != c.text {
			t.Errorf("%v: %d %q, want %d %q", c.err, code, b.String(), c.code, c.text)
		}
	}
}

// TestWriteJSON: a list that is empty is a list.
func TestWriteJSON(t *testing.T) {
	for want, v := range map[string]any{"[]\n": []string(nil), "{}\n": struct{}{}, "null\n": nil} {
		var b bytes.Buffer
		if err := WriteJSON(&b, v); err != nil || b.String() != want {
			t.Errorf("%v: %q %v, want %q", v, b.String(), err, want)
		}
	}
}
