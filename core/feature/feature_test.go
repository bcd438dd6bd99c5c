package feature

import (
	"slices"
	"testing"
)

func TestSplit(t *testing.T) {
	for in, want := range map[string][]Name{
		"":                             nil,
		" , ":                          nil,
		"wait-killable":                {WaitKillable},
		"wait-killable, sync-wakeup, ": {WaitKillable, SyncWakeup},
	} {
		if got := split(in); !slices.Equal(got, want) {
			t.Errorf("split(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestCheck(t *testing.T) {
	if err := check(All); err != nil {
		t.Error(err)
	}
	if err := check([]Name{"wait-kilable"}); err == nil {
		t.Error("a misspelt feature was accepted")
	}
}
