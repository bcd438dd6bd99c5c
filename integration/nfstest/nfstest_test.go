package nfstest

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// nfs-ls and nfs-cp are libnfs's: a client that nobody here wrote.
func libnfs(t *testing.T, s *Server, version int, export string) error {
	t.Helper()
	url := "nfs://" + s.Host + "/" + export + "/?version=" + strconv.Itoa(version) + "&nfsport=" + strconv.Itoa(s.Port)
	if version == 3 {
		url += "&mountport=" + strconv.Itoa(s.MountPort)
	}
	cmd := exec.CommandContext(t.Context(), "nfs-ls", url)
	if s.opts.Namespace {
		cmd = exec.CommandContext(t.Context(), "nsenter", "--net="+s.NetNS(), "nfs-ls", url)
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		return err
	}
	if !strings.Contains(string(out), "hello") {
		return errors.New(string(out))
	}
	return nil
}

func TestGaneshaServes(t *testing.T) {
	for name, o := range map[string]Options{"loopback": {}, "namespace": {Namespace: true}} {
		t.Run(name, func(t *testing.T) {
			s := New(t, o)
			if err := os.WriteFile(filepath.Join(s.Path(Data), "hello"), []byte("hello"), 0o644); err != nil {
				t.Fatal(err)
			}
			for _, version := range []int{3, 4} {
				for _, export := range []string{Data, RootSquash, AllSquash, ReadOnly} {
					if err := libnfs(t, s, version, export); err != nil {
						t.Errorf("version %d, %s: %v", version, export, err)
					}
				}
				if err := libnfs(t, s, version, "nothing"); err == nil {
					t.Errorf("version %d: an export that does not exist", version)
				}
			}
			if o.Namespace {
				if err := s.registered(t.Context(), "nlockmgr"); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

func TestGaneshaKillAndRestart(t *testing.T) {
	s := New(t, Options{})
	if err := s.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := s.null(t.Context()); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Fatalf("after Kill: %v", err)
	}
	if err := s.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := s.null(t.Context()); err != nil {
		t.Fatal(err)
	}
}
