package env

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestOwnInit: the refusal names what is missing.
func TestOwnInit(t *testing.T) {
	root := t.TempDir()
	mine := filepath.Join(root, "user", "mine")
	if err := os.MkdirAll(mine, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, f := range []string{"cgroup.procs", "cgroup.subtree_control"} {
		if err := os.WriteFile(filepath.Join(mine, f), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	is := func(v2 ...string) func(string) (bool, error) {
		return func(dir string) (bool, error) {
			if len(v2) == 0 {
				return false, unix.ENOENT
			}
			for _, d := range v2 {
				if dir == filepath.Join(root, d) {
					return true, nil
				}
			}
			return false, nil
		}
	}
	for name, c := range map[string]struct {
		self           string
		unified        func(string) (bool, error)
		reason, remedy string
	}{
		"none":          {"", is(), "no control groups", "mount -t cgroup2"},
		"version 1":     {"4:memory:/\n", is("none"), "are version 1", "unified_cgroup_hierarchy=1"},
		"hybrid":        {"4:memory:/\n0::/\n", is("unified"), "beside it", "unified_cgroup_hierarchy=1"},
		"in none":       {"4:memory:/\n", is("."), "in no control group", "unified_cgroup_hierarchy=1"},
		"not delegated": {"0::/user/theirs\n", is("."), "is not delegated to the user (" + root + "/user/theirs", "Delegate=yes"},
		"delegated":     {"0::/user/mine\n", is("."), "lx does not support it yet", ""},
	} {
		got := checkOwnInit(root, []byte(c.self), c.unified)
		if !strings.Contains(got.Reason, c.reason) || !strings.Contains(got.Remedy, c.remedy) || (c.remedy == "") != (got.Remedy == "") {
			t.Errorf("%s: %+v", name, got)
		}
	}
	var here *OwnInit
	if err := error(CheckOwnInit()); !errors.As(err, &here) || here.Reason == "" {
		t.Errorf("here: %v", err)
	}
}
