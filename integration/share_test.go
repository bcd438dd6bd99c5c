package integration

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lxbridge/lx/integration/smbtest"
)

// share is a server for one test, and how the user of a world logs in to it.
type share struct {
	*smbtest.Server
	w           *world
	credentials string // a file that the user can read
}

func (w *world) share(o smbtest.Options) *share {
	w.t.Helper()
	s := &share{Server: smbtest.New(w.t, o), w: w}
	s.credentials = w.write(fmt.Sprintf("credentials-%d", s.Port), "username="+s.User+"\npassword="+s.Password+"\n")
	return s
}

// in is the share for a subtest.
func (s *share) in(t testing.TB) *share {
	return &share{s.Server, s.w.in(t), s.credentials}
}

// source is what to mount; sub is a directory of the share, or empty.
func (s *share) source(name, sub string) string {
	src := "//" + s.Host + "/" + name
	if sub != "" {
		src += "/" + sub
	}
	return src
}

// options are -o of mount(8), with those that reach the server.
func (s *share) options(more ...string) string {
	return strings.Join(append([]string{fmt.Sprintf("port=%d", s.Port), "credentials=" + s.credentials}, more...), ",")
}

// command mounts the data share on target.
func (s *share) command(target string, more ...string) string {
	return fmt.Sprintf("mount -t cifs %s %s -o %s", s.source(smbtest.Data, ""), target, s.options(more...))
}

// mount mounts the data share on a new directory, whose path it answers.
func (s *share) mount(more ...string) string {
	s.w.t.Helper()
	dir, err := os.MkdirTemp(s.w.dir, "mnt")
	if err != nil {
		s.w.t.Fatal(err)
	}
	s.w.give(dir)
	s.w.must(s.command(dir, more...))
	return dir
}

// put writes a file on the server, past SMB; sessions may change it.
func (s *share) put(name, text string) string {
	s.w.t.Helper()
	path := filepath.Join(s.Path(smbtest.Data), name)
	if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
		s.w.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o666); err != nil {
		s.w.t.Fatal(err)
	}
	s.open(path)
	return path
}

// open lets sessions change what lies below path.
func (s *share) open(path string) {
	s.w.t.Helper()
	for p := path; len(p) > len(s.Path(smbtest.Data)); p = filepath.Dir(p) {
		mode := fs.FileMode(0o666)
		if st, err := os.Stat(p); err == nil && st.IsDir() {
			mode = 0o777
		}
		if err := os.Chmod(p, mode); err != nil {
			s.w.t.Fatal(err)
		}
	}
}

// get reads a file on the server.
func (s *share) get(name string) string {
	s.w.t.Helper()
	b, err := os.ReadFile(filepath.Join(s.Path(smbtest.Data), name))
	if err != nil {
		s.w.t.Fatal(err)
	}
	return string(b)
}

// mounted counts the file systems of lx that the environment shows below the
// world's directory.
func (w *world) mounted() int {
	w.t.Helper()
	n := 0
	for line := range strings.Lines(w.must("cat /proc/self/mountinfo")) {
		if strings.Contains(line, " - fuse.lx.cifs ") && strings.Contains(line, w.dir) {
			n++
		}
	}
	return n
}

func lines(s string) int { return strings.Count(s, "\n") }

// same fails the test unless got is want.
func same[T comparable](t testing.TB, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}
