package ns

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestKeep(t *testing.T) {
	for _, c := range []struct {
		name string
		in   []Extent
		id   uint32
		want []Extent
	}{
		{"single", []Extent{{0, 1000, 1}}, 1000, []Extent{{1000, 0, 1}}},
		{"root stays", []Extent{{0, 1000, 1}, {1, 100000, 10}}, 0, []Extent{{0, 0, 1}, {1, 1, 10}}},
		{"in the middle", []Extent{{0, 1000, 1}, {1, 100000, 10}}, 3,
			[]Extent{{3, 0, 1}, {0, 1, 3}, {4, 4, 7}}},
		{"beyond", []Extent{{0, 5000, 1}, {1, 100000, 10}}, 5000,
			[]Extent{{5000, 0, 1}, {0, 1, 10}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := Map{UID: c.in, GID: c.in}.Keep(c.id, c.id)
			if d := cmp.Diff(c.want, got.UID); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestParseSubid(t *testing.T) {
	const text = "# comment\nalice:100000:65536\nbob:200000:10\n1000:300000:5\nalice:1:0\n"
	got, err := ParseSubid(strings.NewReader(text), "alice", "1000")
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]Extent{{0, 100000, 65536}, {0, 300000, 5}}, got); d != "" {
		t.Error(d)
	}
	if _, err := ParseSubid(strings.NewReader("alice:x:5\n"), "alice", "7"); err == nil {
		t.Error("a bad number passed")
	}
}

func FuzzParse(f *testing.F) {
	f.Add("alice:100000:65536\n0 1000 1\n")
	f.Fuzz(func(t *testing.T, s string) {
		es, err := ParseMap(strings.NewReader(s))
		if err == nil {
			again, err := ParseMap(strings.NewReader(lines(es)))
			if err != nil || !cmp.Equal(es, again) {
				t.Errorf("%q read back as %v, %v", s, again, err)
			}
		}
		_, _ = ParseSubid(strings.NewReader(s), "alice", "1000")
	})
}
