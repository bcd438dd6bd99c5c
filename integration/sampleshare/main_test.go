package main

import (
	"os"
	"path/filepath"
	"testing"
)

// TestRun serves until standard input ends, which it has already.
func TestRun(t *testing.T) {
	empty, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer empty.Close()
	stdin := os.Stdin
	os.Stdin = empty
	defer func() { os.Stdin = stdin }()
	dir := filepath.Join(t.TempDir(), "server")
	if err := run(t.Context(), "", dir); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"credentials", "shares/sample/README.txt", "shares/sample/src/hello.c"} {
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			t.Error(err)
		}
	}
}
