package mount

import (
	"testing"

	"github.com/lxbridge/lx/core/guest"
	"github.com/lxbridge/lx/mount/option"
)

func TestAccounts(t *testing.T) {
	a := parseAccounts("root:x:0:0::/root:/bin/sh\n# comment:x:1\ntoor:x:0:0::/:\n\nalice:x:1000:1000\nalice:x:7:7\nbad:x:-1:\n+::\nlast:x:4294967295")
	for name, want := range map[string]uint32{"root": 0, "toor": 0, "alice": 1000, "last": 4294967295} {
		if id, ok := a.id(name); !ok || id != want {
			t.Errorf("%s is %d, %v; want %d", name, id, ok, want)
		}
	}
	for _, name := range []string{"", "bad", "+", "# comment", "bob"} {
		if id, ok := a.id(name); ok {
			t.Errorf("%q is %d", name, id)
		}
	}
	if name, ok := a.name(0); !ok || name != "root" {
		t.Errorf("0 is %q, %v", name, ok)
	}
	if name, ok := a.name(2); ok {
		t.Errorf("2 is %q", name)
	}
}

func TestIdmapdDomain(t *testing.T) {
	for text, want := range map[string]string{
		"": "",
		"[General]\nVerbosity = 0\n# Domain = no\n Domain = example.org \n[Mapping]\nDomain = other\n": "example.org",
		"[general]\ndomain=a.b":      "a.b",
		"Domain = none\n[Mapping]\n": "",
	} {
		if got := parseDomain(text); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}

// Names are the host's, or with idmap=guest the mounting program's; where all
// users are one there are none.
func TestOwnersNames(t *testing.T) {
	self := guest.Thread{TID: 1}
	for mode, want := range map[option.IDMap]bool{option.IDMapHost: true, option.IDMapFixed: false} {
		n, err := (&owners{mode: mode}).names(t.Context(), self)
		if err != nil {
			t.Fatal(err)
		}
		if (n != nil) != want {
			t.Fatalf("mode %v: %v", mode, n)
		}
		if n == nil {
			continue
		}
		if id, ok := n.UserID("root"); !ok || id != 0 {
			t.Errorf("root is %d, %v", id, ok)
		}
		if name, ok := n.GroupName(0); !ok || name != "root" {
			t.Errorf("group 0 is %q, %v", name, ok)
		}
	}
}
