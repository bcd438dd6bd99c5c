package cli

import (
	"archive/tar"
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestReceive: a stream out of an environment, which may have made it up,
// brings the one file or directory that was asked for.
func TestReceive(t *testing.T) {
	file := tar.Header{Name: "os-release", Typeflag: tar.TypeReg, Mode: 0o644}
	for name, c := range map[string]struct {
		headers []tar.Header
		err     string
	}{
		"what was asked for": {[]tar.Header{file}, ""},
		"a directory":        {[]tar.Header{{Name: "os-release/", Typeflag: tar.TypeDir, Mode: 0o755}, {Name: "os-release/x", Typeflag: tar.TypeReg, Mode: 0o644}}, ""},
		"another name":       {[]tar.Header{{Name: ".bashrc", Typeflag: tar.TypeReg, Mode: 0o644}}, `".bashrc" came, not "os-release"`},
		"two names":          {[]tar.Header{file, {Name: ".bashrc", Typeflag: tar.TypeReg, Mode: 0o644}}, "2 names came"},
		"a link":             {[]tar.Header{{Name: "os-release", Typeflag: tar.TypeSymlink, Linkname: "/etc/passwd"}}, "neither a file nor a directory"},
		"nothing":            {nil, "0 names came"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, ".bashrc"), []byte("mine"), 0o600); err != nil {
				t.Fatal(err)
			}
			var b bytes.Buffer
			w := tar.NewWriter(&b)
			for _, h := range c.headers {
				if err := w.WriteHeader(&h); err != nil {
					t.Fatal(err)
				}
			}
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
			err := receive(t.Context(), &b, dir, "os-release")
			_, serr := os.Lstat(filepath.Join(dir, "os-release"))
			switch {
			case c.err == "" && (err != nil || serr != nil):
				t.Errorf("%v, %v", err, serr)
			case c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err) || serr == nil):
				t.Errorf("%v, want %q", err, c.err)
			}
			if mine, err := os.ReadFile(filepath.Join(dir, ".bashrc")); string(mine) != "mine" {
				t.Errorf("another file was touched: %q, %v", mine, err)
			}
			if left, err := filepath.Glob(filepath.Join(dir, ".lx-copy-*")); len(left) > 0 {
				t.Errorf("left: %v, %v", left, err)
			}
		})
	}
}

func TestStreamName(t *testing.T) {
	for path, want := range map[string]string{"/etc/os-release": "os-release", "/": "root", "/a/b/..": "a", "/a/": "a"} {
		if got := streamName(path); got != want {
			t.Errorf("%s: %q, want %q", path, got, want)
		}
	}
}
