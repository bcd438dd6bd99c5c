package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/lxbridge/lx/integration/nfstest"
)

// nfsVersions are those that lx speaks.
var nfsVersions = []string{"3", "4.0", "4.1", "4.2"}

// nfsShare is an NFS server for one test.
type nfsShare struct {
	*nfstest.Server
	w *world
	o nfstest.Options
}

// nfs starts a server. Where it has a network namespace of its own, what w
// starts from now on lives in that.
func (w *world) nfs(o nfstest.Options) *nfsShare {
	w.t.Helper()
	s := &nfsShare{nfstest.New(w.t, o), w, o}
	w.t.Cleanup(func() { w.lx("stop") }) // before the server ends: mounts want to log off
	if o.Namespace {
		w.enter = s.Do
	}
	return s
}

// in is the share for a subtest.
func (s *nfsShare) in(t testing.TB) *nfsShare { return &nfsShare{s.Server, s.w.in(t), s.o} }

func (s *nfsShare) source(export string) string {
	host := s.Host
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	return host + ":/" + export
}

// options are -o of mount(8), with those that reach the server.
func (s *nfsShare) options(version string, more ...string) string {
	o := []string{"vers=" + version}
	if !s.o.Namespace {
		o = append(o, fmt.Sprintf("port=%d", s.Port))
		if version == "3" {
			o = append(o, fmt.Sprintf("mountport=%d", s.MountPort))
		}
	}
	if version == "3" && !slices.Contains(more, "lock") {
		o = append(o, "nolock")
	}
	return strings.Join(append(o, more...), ",")
}

// command mounts an export on target, without mount.nfs.
func (s *nfsShare) command(export, target, version string, more ...string) string {
	return fmt.Sprintf("mount -i -t nfs %s %s -o %s", s.source(export), target, s.options(version, more...))
}

// mount mounts an export on a new directory, whose path it answers.
func (s *nfsShare) mount(export, version string, more ...string) string {
	s.w.t.Helper()
	dir, err := os.MkdirTemp(s.w.dir, "mnt")
	if err != nil {
		s.w.t.Fatal(err)
	}
	s.w.give(dir)
	s.w.must(s.command(export, dir, version, more...))
	return dir
}

// put writes a file on the server, past NFS, for an owner.
func (s *nfsShare) put(export, name, text string, mode os.FileMode, uid int) string {
	s.w.t.Helper()
	path := filepath.Join(s.Path(export), name)
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		s.w.t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil {
		s.w.t.Fatal(err)
	}
	if err := os.Chown(path, uid, uid); err != nil {
		s.w.t.Fatal(err)
	}
	return path
}

// get reads a file on the server.
func (s *nfsShare) get(export, name string) string {
	s.w.t.Helper()
	b, err := os.ReadFile(filepath.Join(s.Path(export), name))
	if err != nil {
		s.w.t.Fatal(err)
	}
	return string(b)
}

// nfsType is the type that mounts of a version show, after fuse.lx.
func nfsType(version string) string {
	if version == "3" {
		return "nfs"
	}
	return "nfs4"
}
