package smbtest

import (
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/cloudsoda/go-smb2"
)

func connect(t *testing.T, s *Server, user, share string) (*smb2.Share, error) {
	t.Helper()
	c, err := net.Dial("tcp", s.Addr())
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() { c.Close() })
	d := smb2.Dialer{Initiator: &smb2.NTLMInitiator{User: user, Password: s.Password}}
	session, err := d.DialConn(t.Context(), c, s.Host)
	if err != nil {
		return nil, err
	}
	return session.Mount(share)
}

func TestShares(t *testing.T) {
	s := New(t, Options{Shares: map[string][]string{"more": {"read only = yes"}}})
	if err := os.WriteFile(filepath.Join(s.Path(Data), "hello"), []byte("hello"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{Data, ReadOnly, Encrypted, Guest, Hidden, Odd, Mixed, "more"} {
		share, err := connect(t, s, s.User, name)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		err = share.WriteFile("x", []byte("x"), 0o644)
		if readOnly := name == ReadOnly || name == "more"; (err != nil) != readOnly {
			t.Errorf("%s: writing: %v", name, err)
		}
		if _, err := os.Stat(filepath.Join(s.Path(name), "x")); name != "more" && err != nil {
			t.Error(err)
		}
	}
	if share, err := connect(t, s, "nobody we know", Guest); err != nil {
		t.Error(err)
	} else if _, err := share.ReadDir(""); err != nil {
		t.Error(err)
	}
	if _, err := connect(t, s, "nobody we know", Data); err == nil {
		t.Error("a guest was let into the data share")
	}
}

func TestKillAndRestart(t *testing.T) {
	s := New(t, Options{})
	if err := s.Kill(); err != nil {
		t.Fatal(err)
	}
	if _, err := net.Dial("tcp", s.Addr()); err == nil {
		t.Fatal("the server accepts connections after Kill")
	}
	if err := s.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := connect(t, s, s.User, Data); err != nil {
		t.Fatal(err)
	}
}
