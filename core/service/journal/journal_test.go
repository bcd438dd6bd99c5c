package journal

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func read(t *testing.T, l *Log, q Query) []string {
	t.Helper()
	var out []string
	if err := l.Read(t.Context(), q, func(e Entry) error {
		out = append(out, e.Stream+" "+e.Text)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return out
}

func TestLog(t *testing.T) {
	l := New(filepath.Join(t.TempDir(), "x.log"))
	if got := read(t, l, Query{}); got != nil {
		t.Errorf("an empty log has %q", got)
	}
	long := strings.Repeat("x", maxLine+5)
	if err := l.Copy(Stdout, strings.NewReader("one\n\n"+long+"\nlast")); err != nil {
		t.Fatal(err)
	}
	if err := l.Write(Note, "a\nb"); err != nil {
		t.Fatal(err)
	}
	want := []string{"stdout one", "stdout ", "stdout " + long[:maxLine], "stdout xxxxx", "stdout last", "lx a b"}
	if got := read(t, l, Query{}); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%.300q", got)
	}
	if got := read(t, l, Query{Last: 2}); fmt.Sprint(got) != fmt.Sprint(want[4:]) {
		t.Errorf("last two: %.300q", got)
	}
	if got := read(t, l, Query{Since: time.Now().Add(time.Minute)}); got != nil {
		t.Errorf("since the future: %.300q", got)
	}
}

// TestBounded: two files at most, each of bounded size, and followers miss nothing.
func TestBounded(t *testing.T) {
	dir := t.TempDir()
	l := New(filepath.Join(dir, "x.log"))
	line := strings.Repeat("y", 8<<10)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	const lines = 3 * maxFile / (8 << 10)
	seen := make(chan string)
	followed := make(chan error, 1)
	if err := l.Write(Stdout, "first"); err != nil {
		t.Fatal(err)
	}
	go func() {
		followed <- l.Read(ctx, Query{Follow: true}, func(e Entry) error {
			seen <- e.Text
			return nil
		})
	}()
	if s := <-seen; s != "first" {
		t.Errorf("followed %q", s)
	}
	for i := range lines {
		if err := l.Write(Stdout, fmt.Sprint(i)+line); err != nil {
			t.Fatal(err)
		}
		if s := <-seen; !strings.HasPrefix(s, fmt.Sprint(i)+"y") {
			t.Fatalf("line %d: followed %.20q", i, s)
		}
	}
	cancel()
	if err := <-followed; err != nil {
		t.Error(err)
	}
	names, err := os.ReadDir(dir)
	if err != nil || len(names) != 2 {
		t.Fatalf("%v, %v", names, err)
	}
	for _, n := range names {
		if st, err := n.Info(); err != nil || st.Size() > maxFile+maxLine || st.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", n.Name(), st, err)
		}
	}
	stop := errors.New("stop")
	if err := l.Read(t.Context(), Query{}, func(Entry) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("a failing reader: %v", err)
	}
}
