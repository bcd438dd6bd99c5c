// Package smbtest runs a real smbd on a loopback port for tests, benchmarks
// and the sample share of `make run`. Everything the server writes lies below
// one directory. It runs as root (sessions then act as the user "daemon") and
// as an ordinary user (sessions act as that user).
//
// Needed from Debian: the package samba (4.17 or newer) with what it depends
// on. smbd may also lie in a tree unpacked with dpkg -x (Options.Root): then
// its libraries are found through LD_LIBRARY_PATH, and Packages are enough.
// No other program of Samba's is called.
package smbtest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/cloudsoda/go-smb2"
)

// Packages are what smbd of Debian 12 loads beyond an installed minimal system.
var Packages = []string{
	"samba", "samba-libs", "libwbclient0", "libldb2", "libtalloc2", "libtdb1", "libtevent0", "libpopt0", "libicu72",
	"libjansson4", "libldap-2.5-0", "libsasl2-2", "libavahi-client3", "libavahi-common3", "libdbus-1-3", "libcups2",
	"libgssapi-krb5-2", "libkrb5-3", "libk5crypto3", "libkrb5support0", "libkeyutils1", "libbsd0", "liblmdb0",
}

// Options of a server. The zero value is good.
type Options struct {
	// Dir holds the server's files; a new temporary directory where empty,
	// removed by Stop. For root it must be reachable by the user "daemon".
	Dir string
	// Root is where packages were unpacked with dpkg -x; empty: the system's.
	Root string
	// Password of the one user; a fixed one for tests where empty.
	Password string
	// SigningMandatory refuses clients that do not sign.
	SigningMandatory bool
	// Protocol is the highest dialect offered as smb.conf(5) names it
	// ("SMB2_10", "SMB3_00"); empty: the highest smbd knows.
	Protocol string
	// Global holds further lines for the [global] section.
	Global []string
	// Shares that are added to the standard ones, by name; each value is the
	// lines of its section without path.
	Shares map[string][]string
}

// Names of the standard shares. Each has a directory of its own (Server.Path).
const (
	Data      = "data"        // read and write
	ReadOnly  = "ro"          // the files of Data, read only
	Encrypted = "encrypted"   // the files of Data, refuses clear text
	Guest     = "guest"       // open without a password
	Hidden    = "hidden$"     // not in listings
	Odd       = "Odd näme 1"  // a space and a letter outside ASCII; names that Windows forbids are mangled
	Mixed     = "insensitive" // upper and lower case are the same
)

// User is the name to log in with.
const User = "lx"

// Server is a running smbd.
type Server struct {
	Host     string // an IP address
	Port     int
	User     string
	Password string
	Dir      string

	opts Options
	temp bool
	bin  string
	env  []string

	mu    sync.Mutex
	cmd   *exec.Cmd
	stdin io.Closer
	done  chan struct{}
}

// New is Start for tests: the server ends with the test.
func New(t testing.TB, o Options) *Server {
	t.Helper()
	s, err := Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// Start writes the configuration, starts smbd and returns when it accepts
// connections. ctx bounds the start only.
func Start(ctx context.Context, o Options) (*Server, error) {
	s := &Server{Host: "127.0.0.1", User: User, Password: o.Password, Dir: o.Dir, opts: o}
	if s.Password == "" {
		s.Password = "correct horse, battery=staple"
	}
	if s.Dir == "" {
		dir, err := os.MkdirTemp("", "smbtest")
		if err != nil {
			return nil, err
		}
		s.Dir, s.temp = dir, true
	}
	err := s.prepare()
	if err == nil {
		err = s.Restart(ctx)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("cannot start smbd: %w", err), s.Stop())
	}
	return s, nil
}

// Addr is host:port.
func (s *Server) Addr() string { return net.JoinHostPort(s.Host, strconv.Itoa(s.Port)) }

// Path is the directory behind a standard or added share.
func (s *Server) Path(share string) string {
	switch share {
	case ReadOnly, Encrypted:
		share = Data
	}
	return filepath.Join(s.Dir, "shares", share)
}

// Restart starts smbd again on the same port after Kill; the first start is one too.
func (s *Server) Restart(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cmd != nil {
		return errors.New("smbd is already running")
	}
	cmd := exec.Command(s.bin, "--foreground", "--no-process-group", "--debug-stdout", "--configfile="+s.file("smb.conf"), "--log-basename="+s.file("log"))
	cmd.Env = s.env
	// A process group of its own takes the signals for smbd and its children.
	// smbd ends by itself when its standard input does, so it cannot outlive us.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	out, err := os.OpenFile(s.file("output"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer out.Close()
	cmd.Stdout, cmd.Stderr = out, out
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	s.cmd, s.stdin, s.done = cmd, stdin, make(chan struct{})
	go func(done chan struct{}) {
		defer close(done)
		_ = cmd.Wait() // its exit status says nothing: it is ended by signals
	}(s.done)
	if err := s.ready(ctx); err != nil {
		return errors.Join(err, s.killLocked())
	}
	return nil
}

// ready waits until smbd serves shares: it accepts connections a moment
// before, and then refuses to attach them.
func (s *Server) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		err := s.attach(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-s.done:
			return fmt.Errorf("smbd has ended: %s", s.Log())
		case <-ctx.Done():
			return fmt.Errorf("smbd does not serve on %s: %w: %s", s.Addr(), err, s.Log())
		}
	}
}

func (s *Server) attach(ctx context.Context) error {
	d := smb2.Dialer{Initiator: &smb2.NTLMInitiator{User: s.User, Password: s.Password}}
	session, err := d.Dial(ctx, s.Addr())
	if err != nil {
		return err
	}
	session = session.WithContext(ctx)
	_, err = session.Mount(Data)
	return errors.Join(err, session.Logoff())
}

// Log is what smbd said so far.
func (s *Server) Log() string {
	text, err := os.ReadFile(s.file("output"))
	if err != nil {
		return err.Error()
	}
	return strings.TrimSpace(string(text))
}

// Kill ends smbd and its children with SIGKILL; the shares stay.
func (s *Server) Kill() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.killLocked()
}

func (s *Server) killLocked() error {
	if s.cmd == nil {
		return nil
	}
	err := syscall.Kill(-s.cmd.Process.Pid, syscall.SIGKILL)
	<-s.done
	s.stdin.Close()
	s.cmd = nil
	return err
}

// Pause stops smbd and its children with SIGSTOP: a silent server.
func (s *Server) Pause() error { return s.signal(syscall.SIGSTOP) }

// Resume undoes Pause.
func (s *Server) Resume() error { return s.signal(syscall.SIGCONT) }

func (s *Server) signal(sig syscall.Signal) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cmd == nil {
		return errors.New("smbd is not running")
	}
	return syscall.Kill(-s.cmd.Process.Pid, sig)
}

// Stop ends the server and removes a temporary directory.
func (s *Server) Stop() error {
	err := s.Kill()
	if s.temp {
		err = errors.Join(err, os.RemoveAll(s.Dir))
	}
	return err
}

func (s *Server) file(name string) string { return filepath.Join(s.Dir, name) }

// identity is the unix user that sessions act as.
func identity() (*user.User, error) {
	if os.Geteuid() == 0 {
		return user.Lookup("daemon")
	}
	return user.Current()
}
