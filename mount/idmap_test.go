package mount

import "testing"

func TestIDMap(t *testing.T) {
	m := parseIDMap("         0       1000          1\n         1     100000      65536\n")
	for inside, outside := range map[uint32]uint32{0: 1000, 1: 100000, 65536: 165535} {
		if got, ok := m.out(inside); !ok || got != outside {
			t.Errorf("%d is %d above, %v", inside, got, ok)
		}
		if got, ok := m.in(outside); !ok || got != inside {
			t.Errorf("%d is %d below, %v", outside, got, ok)
		}
	}
	for _, id := range []uint32{65537, 1<<32 - 1} {
		if got, ok := m.out(id); ok {
			t.Errorf("%d is %d above", id, got)
		}
	}
	for _, id := range []uint32{0, 999, 1001, 165536} {
		if got, ok := m.in(id); ok {
			t.Errorf("%d is %d below", id, got)
		}
	}
	if m.single() || !parseIDMap("0 1000 1").single() || parseIDMap("0 0 4294967295").single() {
		t.Error("which maps have one id")
	}
	if len(parseIDMap("0 1000")) != 0 {
		t.Error("half a line is taken")
	}
}

func FuzzParseIDMap(f *testing.F) {
	f.Add("0 1000 1\n1 100000 65536\n", uint32(7))
	f.Fuzz(func(t *testing.T, text string, id uint32) {
		m := parseIDMap(text)
		m.out(id)
		m.in(id)
	})
}
