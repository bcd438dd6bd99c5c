package store

import (
	"os"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lxbridge/lx/core/ns"
)

func TestMain(m *testing.M) {
	if os.Args[0] == RoleWorker {
		os.Exit(Worker())
	}
	os.Exit(m.Run())
}

func newStore(t *testing.T) *Store {
	t.Helper()
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	s, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// bound is far more than any of this takes.
const bound = time.Minute

// TestDuringImport: while layers are made, which may take long, records change
// and environments go; layers that nobody needs stay until the next Sweep.
func TestDuringImport(t *testing.T) {
	s := newStore(t)
	for name, layers := range map[string][]string{"one": {"a", "b"}, "two": {"a"}} {
		if err := s.put(Record{Name: name, Map: ns.Single, Layers: layers}); err != nil {
			t.Fatal(err)
		}
	}
	for _, l := range []string{"a", "b", "orphan"} {
		if err := os.Mkdir(s.path("layers", l), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	layers := func(want ...string) {
		t.Helper()
		list, err := os.ReadDir(s.path("layers"))
		var got []string
		for _, e := range list {
			got = append(got, e.Name())
		}
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("layers: %q, %v; want %q", got, err, want)
		}
	}
	imported, err := s.lock(unix.LOCK_SH)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := s.SetWanted("two", true); err != nil {
			t.Error(err)
		}
		if err := s.Rename("two", "three"); err != nil {
			t.Error(err)
		}
		if err := s.Remove(t.Context(), "one"); err != nil {
			t.Error(err)
		}
		s.Sweep(t.Context())
	}()
	select {
	case <-done:
	case <-time.After(bound):
		t.Fatal("they wait for the import")
	}
	if r, err := s.Get("three"); err != nil || !r.Wanted {
		t.Errorf("%+v, %v", r, err)
	}
	layers("a", "b", "orphan")
	imported()
	s.Sweep(t.Context())
	layers("a")
	if left, err := os.ReadDir(s.path("tmp")); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

// TestSweepSpares: a record that cannot be read may need any layer.
func TestSweepSpares(t *testing.T) {
	s := newStore(t)
	for _, d := range []string{s.path("environments", "broken"), s.path("layers", "a")} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(s.path("environments", "broken", "record.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.Sweep(t.Context())
	if _, err := os.Stat(s.path("layers", "a")); err != nil {
		t.Error(err)
	}
}
