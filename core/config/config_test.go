package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestLoad(t *testing.T) {
	dir := t.TempDir()
	if s, err := Load(dir, "host"); err != nil || !cmp.Equal(s, Settings{}) {
		t.Errorf("without a file: %+v, %v", s, err)
	}
	if err := os.WriteFile(filepath.Join(dir, "config.toml"), []byte(`
[environment.debian]
user = "anna"
env = {A = "b"}
services = ["ssh"]
[[environment.debian.mount]]
source = "//nas/x"
target = "/mnt"
type = "cifs"
[environment.debian.limits]
files = 64
`), 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := Load(dir, "debian")
	if err != nil || s.User != "anna" || len(s.Mounts) != 1 || *s.Limits.Files != 64 {
		t.Errorf("%+v, %v", s, err)
	}
	if s, err := Load(dir, "host"); err != nil || !cmp.Equal(s, Settings{}) {
		t.Errorf("of another: %+v, %v", s, err)
	}
}

func TestRefuses(t *testing.T) {
	for text, want := range map[string]string{
		"user = \"x\"\nhost = \"ro\"":             "host is not for an environment to say",
		"init = \"systemd\"":                      "init is not for an environment to say",
		"network = \"own\"":                       `not supported yet: "network"`,
		"usr = \"x\"":                             `line 1: unknown key "usr"`,
		"\n[limits]\nfile = 1":                    `line 3: unknown key "limits.file"`,
		"user =":                                  "line 1",
		"services = [\"../x\"]":                   "service name",
		"auto-update = \"some\"":                  `want "none", "security" or "all"`,
		"[[mount]]\nsource = \"x\"\ntype = \"y\"": "absolute",
		"[[mount]]\nsource = \"x\"\ntype = \"y\"\ntarget = \"/x\"\noptions = \"ro,password=p\"": "credentials=FILE",
		"[[mount]]\ntarget = \"/x\"": "want source",
		"[env]\n\"A=B\" = \"c\"":     "no variable",
		"user = \"a:b\"":             "user",
	} {
		if _, err := ParseSettings([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
	if _, err := Parse([]byte("[environment.x]\nnetwork = \"y\"")); err == nil || !strings.Contains(err.Error(), `line 2: not supported yet: "environment.x.network"`) {
		t.Error(err)
	}
}

// TestInit: it is the user's to say, and one thing.
func TestInit(t *testing.T) {
	f, err := Parse([]byte("[environment.x]\ninit = \"systemd\""))
	if err != nil || f.Environments["x"].Init != InitSystemd {
		t.Errorf("%+v, %v", f, err)
	}
	if _, err := Parse([]byte("[environment.x]\ninit = \"upstart\"")); err == nil || !strings.Contains(err.Error(), `init "upstart": want "systemd" or "openrc"`) {
		t.Error(err)
	}
}

func TestUpdateSettings(t *testing.T) {
	if _, err := Parse([]byte("[environment.host]\nauto-update = \"all\"")); err == nil || !strings.Contains(err.Error(), "imported environments") {
		t.Error(err)
	}
	f, err := Parse([]byte("[environment.host]\ncheck-updates = true\n[environment.x]\nauto-update = \"security\""))
	if err != nil || !*f.Environments["host"].CheckUpdates {
		t.Errorf("%+v, %v", f, err)
	}
	inside, err := ParseSettings([]byte("auto-update = \"all\"\ncheck-updates = false"))
	if err != nil {
		t.Fatal(err)
	}
	if m := f.Environments["x"].Merge(inside); m.AutoUpdate != UpdateSecurity || *m.CheckUpdates {
		t.Errorf("%+v", m)
	}
	if m := (Settings{}).Merge(inside); m.AutoUpdate != UpdateAll {
		t.Errorf("%+v", m)
	}
}

func TestMerge(t *testing.T) {
	one, two := uint64(1), uint64(2)
	a := Settings{User: "a", Env: map[string]string{"X": "a"}, Services: []string{"s"}}
	a.Limits.Files, a.Limits.Core = &one, &two
	b := Settings{User: "b", Env: map[string]string{"X": "b", "Y": "b"}, Services: []string{"t"}}
	b.Limits.Files, b.Limits.Core = &two, &one
	m := a.Merge(b)
	if m.User != "a" || m.Env["X"] != "a" || m.Env["Y"] != "b" || len(m.Services) != 2 || *m.Limits.Files != 1 || *m.Limits.Core != 1 {
		t.Errorf("%+v", m)
	}
}

// FuzzParse: whatever a file says, it is refused or settings.
func FuzzParse(f *testing.F) {
	f.Add([]byte("user = \"x\"\n[[mount]]\nsource = \"a\"\ntarget = \"/b\"\ntype = \"c\"\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if s, err := ParseSettings(b); err == nil {
			s.Merge(s)
		}
		_, _ = Parse(b)
	})
}
