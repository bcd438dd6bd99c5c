package env

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/lxbridge/lx/core/ns"
)

// TestDelegatedGroup: the refusal names what is missing.
func TestDelegatedGroup(t *testing.T) {
	root := t.TempDir()
	for _, dir := range []string{"user/mine", "unified/user/mine"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
		for _, f := range []string{"cgroup.procs", "cgroup.subtree_control"} {
			if err := os.WriteFile(filepath.Join(root, dir, f), nil, 0o644); err != nil {
				t.Fatal(err)
			}
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
		self                string
		unified             func(string) (bool, error)
		dir, reason, remedy string
	}{
		"none":                   {"", is(), "", "no control groups", "mount -t cgroup2"},
		"version 1":              {"4:memory:/\n", is("none"), "", "are version 1", "unified_cgroup_hierarchy=1"},
		"in none":                {"4:memory:/\n", is("."), "", "in no control group", "unified_cgroup_hierarchy=1"},
		"not delegated":          {"0::/user/theirs\n", is("."), "", "is not delegated to the user (" + root + "/user/theirs", "Delegate=yes"},
		"delegated":              {"0::/user/mine\n", is("."), "/user/mine", "", ""},
		"not delegated, beside":  {"4:memory:/\n0::/\n", is("unified"), "", "is not delegated to the user (" + root + "/unified", "unified_cgroup_hierarchy=1"},
		"delegated, beside v. 1": {"4:memory:/\n0::/user/mine\n", is("unified"), "/unified/user/mine", "", ""},
	} {
		dir, err := delegatedGroup(root, []byte(c.self), c.unified)
		if c.dir != "" {
			if err != nil || dir != root+c.dir {
				t.Errorf("%s: %s, %v", name, dir, err)
			}
			continue
		}
		var why *NotDelegated
		if !errors.As(err, &why) || !strings.Contains(why.Reason, c.reason) || !strings.Contains(why.Remedy, c.remedy) {
			t.Errorf("%s: %+v", name, err)
		}
	}
}

// TestMakeGroups: what ended environments left is removed, with what was in it, but not
// what another daemon has just made.
func TestMakeGroups(t *testing.T) {
	parent := t.TempDir()
	left := filepath.Join(parent, "lx-old", "guests", "system.slice", "x.service")
	other := filepath.Join(parent, "other", "lx-x")
	theirs := filepath.Join(parent, fmt.Sprint("lx-theirs-", os.Getppid())) // another daemon, about to start one
	dead := filepath.Join(parent, "lx-dead-999999999")
	for _, dir := range []string{left, other, theirs, dead} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	used := filepath.Join(parent, "lx-used")
	if err := errors.Join(os.MkdirAll(filepath.Join(used, "guests"), 0o755), os.WriteFile(filepath.Join(used, "cgroup.events"), []byte("populated 1\nfrozen 0\n"), 0o644)); err != nil {
		t.Fatal(err)
	}
	m, err := ns.Choose(ns.Single)
	if err != nil {
		t.Fatal(err)
	}
	made := fmt.Sprintf("lx-new-%d", os.Getpid())
	makeFiles(t, filepath.Join(parent, made))
	dir, err := makeGroups(parent, "new", m)
	if err != nil || dir != filepath.Join(parent, made) {
		t.Errorf("%s, %v", dir, err)
	}
	for name, want := range map[string]bool{"lx-old": false, "other/lx-x": true, "lx-used/guests": true, made + "/guests": true,
		filepath.Base(theirs): true, filepath.Base(dead): false} {
		if _, err := os.Stat(filepath.Join(parent, name)); (err == nil) != want {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// makeFiles plays the kernel, which gives each group its files.
func makeFiles(t *testing.T, dir string) {
	t.Helper()
	for _, d := range []string{dir, filepath.Join(dir, GuestsGroup)} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
		for _, f := range []string{"cgroup.procs", "cgroup.subtree_control", "cgroup.threads"} {
			if err := os.WriteFile(filepath.Join(d, f), nil, 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
}
