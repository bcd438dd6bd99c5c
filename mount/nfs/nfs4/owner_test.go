package nfs4

import (
	"strconv"
	"testing"
)

// TestManyNames: a server that has ever new owners takes no more memory.
func TestManyNames(t *testing.T) {
	n := Names{UserID: func(name string) (uint32, bool) { return 7, name == "anna" }}
	for i := range 3 * maxNames {
		if id := n.uid(strconv.AppendInt([]byte("user"), int64(i), 10)); id != Nobody {
			t.Fatalf("user%d is %d", i, id)
		}
	}
	if id := n.uid([]byte("anna@lx.test")); id != 7 {
		t.Errorf("anna is %d", id)
	}
	count := 0
	n.users.Range(func(any, any) bool { count++; return true })
	if count > maxNames {
		t.Errorf("%d names are kept", count)
	}
}
