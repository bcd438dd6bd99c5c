// Package nfstest runs a real NFS server, ganesha, for tests and benchmarks:
// versions 3, 4.0, 4.1 and 4.2 over TCP on loopback. Only root can run it, so
// tests that do are named TestGanesha…: `make test` runs those as root only.
//
// Everything lies in a directory and a mount namespace of the server's own: its
// exports, what it remembers of its clients, and the socket of the rpcbind that
// it registers with. A server's namespace outlives Kill, so it comes back as
// after a crash. All of it ends with Stop, or with this process.
//
// Needed from Debian 12: nfs-ganesha, nfs-ganesha-vfs, rpcbind, nfs-common
// (rpc.statd), util-linux, iproute2.
package nfstest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/lxbridge/lx/integration/freeport"
)

// Options of a server. The zero value is good.
type Options struct {
	// Host is the address to serve on: 127.0.0.1 where empty, or ::1.
	Host string
	// Namespace gives the server a network namespace of its own, with the
	// standard ports 111 and 2049 and rpc.statd: what the portmapper, lock
	// managers and reserved ports need. Clients enter it (Server.Do, or
	// nsenter --net=Server.NetNS()).
	Namespace bool
	// Grace makes a restarted server of a Namespace wait for its clients to
	// reclaim what they had, for the time of a lease, and its first start as
	// long; without it reclaims are refused there. Elsewhere, where nobody can
	// have NLM locks, there always is a grace period, which ends with the
	// last reclaim.
	Grace bool
	// Minor are the minor versions of 4 that are offered, as ganesha.conf has
	// them; all where empty.
	Minor string
	// No3 offers version 4 only; No4 version 3 only.
	No3, No4 bool
	// Keytab has the key of the service nfs/…, for the export Kerberos, and
	// KerberosConfig is the realm's krb5.conf (package krb5test).
	Keytab, KerberosConfig string
	// Lease is how long clients keep their state unheard; 5 s where 0.
	Lease time.Duration
	// Memory has the exports lie on a tmpfs, for benchmarks. Otherwise that is
	// done only where the temporary directory's file system has no handles
	// (overlayfs): listings of a tmpfs that changes meanwhile repeat and lose
	// names under ganesha, since Linux 6.14 gives each last entry the same offset.
	Memory bool
}

// Names of the exports; "/"+name is what clients mount, with version 3 as well.
const (
	Data       = "data"     // read and write, owners as the client says
	RootSquash = "squash"   // the files of Data; root is nobody
	AllSquash  = "all"      // the files of Data; everybody is Anonymous
	ReadOnly   = "ro"       // the files of Data, read only
	Secure     = "secure"   // the files of Data, for clients on reserved ports
	Kerberos   = "krb5"     // the files of Data, refuses AUTH_SYS
	Delegating = "delegate" // a directory of its own; gives delegations (version 4)
	Small      = "small"    // a directory of its own, on 4 MiB of space
)

// Anonymous is the uid and gid of squashed users.
const Anonymous = 65534

// exports are the lines of each, beside those that all have.
var exports = []struct{ name, files, lines string }{
	{Data, Data, `Access_Type = RW; Squash = No_Root_Squash;`},
	{RootSquash, Data, `Access_Type = RW; Squash = Root_Squash;`},
	{AllSquash, Data, `Access_Type = RW; Squash = All_Squash;`},
	{ReadOnly, Data, `Access_Type = RO; Squash = No_Root_Squash;`},
	{Secure, Data, `Access_Type = RW; Squash = No_Root_Squash; PrivilegedPort = true;`},
	{Kerberos, Data, `Access_Type = RW; Squash = No_Root_Squash; SecType = krb5, krb5i, krb5p;`},
	{Delegating, Delegating, `Access_Type = RW; Squash = No_Root_Squash; Delegations = RW;`},
	{Small, Small, `Access_Type = RW; Squash = No_Root_Squash;`},
}

// Server is a running ganesha.
type Server struct {
	Host                     string
	Port, MountPort, NLMPort int // of NFS, MOUNT and NLM
	Dir                      string
	opts                     Options
	holder                   *process // of the namespaces: rpcbind
	statd                    *process // nil without a namespace

	mu      sync.Mutex
	ganesha *process // nil while it is dead
}

// New is Start for tests: the server ends with the test.
func New(t testing.TB, o Options) *Server {
	t.Helper()
	s, err := Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("ganesha said:\n%s", tail(s.Log(), 4000))
		}
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func tail(s string, n int) string { return s[max(0, len(s)-n):] }

// Start starts a server and returns when it answers. ctx bounds the start only.
func Start(ctx context.Context, o Options) (*Server, error) {
	s := &Server{Host: o.Host, opts: o}
	if s.Host == "" {
		s.Host = "127.0.0.1"
	}
	if os.Geteuid() != 0 {
		return nil, errors.New("cannot start ganesha: it needs root (run tests named TestGanesha… as root)")
	}
	var err error
	if s.Dir, err = os.MkdirTemp("", "nfstest"); err == nil {
		err = s.prepare(ctx)
	}
	if err == nil {
		err = s.Restart(ctx)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("cannot start ganesha: %w", err), s.Stop())
	}
	return s, nil
}

// prepare makes the configuration and the namespaces.
func (s *Server) prepare(ctx context.Context) error {
	if err := s.ports(); err != nil {
		return err
	}
	for _, d := range []string{"exports", "small"} {
		if err := os.Mkdir(s.file(d), 0o755); err != nil {
			return err
		}
	}
	for name, text := range map[string]string{"ganesha.conf": s.config(), "namespace": namespace} {
		if err := os.WriteFile(s.file(name), []byte(text), 0o600); err != nil {
			return err
		}
	}
	memory := ""
	if s.opts.Memory || !handles(s.Dir) {
		memory = "memory"
	}
	var err error
	if s.holder, err = s.run(nil, "unshare", "--mount", "--net", "sh", s.file("namespace"), s.Dir, memory); err != nil {
		return err
	}
	return s.until(ctx, s.holder, func() error {
		return s.Do(func() error { // the port is open only when everything is mounted
			c, err := net.Dial("tcp", "127.0.0.1:111")
			if err != nil {
				return err
			}
			return c.Close()
		})
	})
}

// namespace prepares what it is run in and becomes rpcbind. Its arguments are
// the server's directory and whether the exports lie in memory. rpcbind has
// the network namespace for port 111; a ganesha that is not in that namespace
// reaches it by the socket in /run. Programs look names up, even 127.0.0.1, only
// where there is another address than those of loopback.
const namespace = `set -e
mount --make-rprivate /
mount -t tmpfs -o mode=755 none /run
mount -t tmpfs -o mode=755 none /var/lib/nfs
mkdir -p /run/rpcbind /run/ganesha /run/sm /var/lib/nfs/ganesha /var/lib/nfs/sm /var/lib/nfs/sm.bak
[ -z "$2" ] || mount -t tmpfs -o mode=755 none "$1/exports"
mkdir -p "$1/exports/data" "$1/exports/delegate" "$1/exports/small"
mount -t tmpfs -o mode=777,size=4m none "$1/exports/small"
chmod 777 "$1/exports/data" "$1/exports/delegate"
ip link set lo up
ip address add 192.0.2.1/32 dev lo
exec rpcbind -f
`

// ports chooses free ones, or the standard ones of a namespace.
func (s *Server) ports() error {
	if s.opts.Namespace {
		s.Port, s.MountPort, s.NLMPort = 2049, 20048, 20049
		return nil
	}
	first, err := freeport.Row(3)
	s.Port, s.MountPort, s.NLMPort = first, first+1, first+2
	return err
}

// config is ganesha.conf(5). Lines that are given twice hold as given last.
func (s *Server) config() string {
	protocols, minor, lease := "3,4", "0,1,2", 5*time.Second
	switch {
	case s.opts.No3:
		protocols = "4"
	case s.opts.No4:
		protocols = "3"
	}
	if s.opts.Minor != "" {
		minor = s.opts.Minor
	}
	if s.opts.Lease != 0 {
		lease = s.opts.Lease
	}
	seconds := int(lease.Seconds())
	var b strings.Builder
	fmt.Fprintf(&b, `NFS_CORE_PARAM {
	Protocols = %s; NFS_Port = %d; MNT_Port = %d; NLM_Port = %d; Bind_addr = %s;
	Enable_NLM = %v; Enable_RQUOTA = false; fsid_device = true; mount_path_pseudo = true;
}
NFSV4 {
	Graceless = %v; Grace_Period = %d; Lease_Lifetime = %d; Minor_Versions = %s;
	RecoveryBackend = fs; Delegations = true; Allow_Numeric_Owners = true; Only_Numeric_Owners = true;
}
`, protocols, s.Port, s.MountPort, s.NLMPort, s.Host, s.opts.Namespace, s.opts.Namespace && !s.opts.Grace, seconds, seconds, minor)
	if s.opts.Keytab != "" {
		fmt.Fprintf(&b, "NFS_KRB5 { PrincipalName = nfs; KeytabPath = %s; Active_krb5 = true; }\n", s.opts.Keytab)
	}
	for i, e := range exports {
		sec := "SecType = sys;"
		if strings.Contains(e.lines, "SecType") {
			sec = ""
		}
		fmt.Fprintf(&b, `EXPORT {
	Export_Id = %d; Path = %s; Pseudo = /%s; Tag = %s; Protocols = %s; Transports = TCP; %s
	MaxRead = 1048576; MaxWrite = 1048576; PrefRead = 1048576; PrefWrite = 1048576;
	Anonymous_Uid = %d; Anonymous_Gid = %d; %s FSAL { Name = VFS; }
}
`, i+1, s.file("exports/"+e.files), e.name, e.name, protocols, sec, Anonymous, Anonymous, e.lines)
	}
	return b.String()
}

// Addr is host:port of NFS.
func (s *Server) Addr() string { return net.JoinHostPort(s.Host, strconv.Itoa(s.Port)) }

// Path is the directory behind an export, as this process reaches it.
func (s *Server) Path(export string) string {
	for _, e := range exports {
		if e.name == export {
			return fmt.Sprintf("/proc/%d/root%s", s.holder.pid(), s.file("exports/"+e.files))
		}
	}
	panic("nfstest has no export " + export)
}

// NetNS is the file of the server's network namespace.
func (s *Server) NetNS() string { return fmt.Sprintf("/proc/%d/ns/net", s.holder.pid()) }

// Restart starts ganesha again on the same ports after Kill; the first start is
// one too. It returns when ganesha answers. Its clients may then reclaim what
// they had, and nobody gets anything new meanwhile; the first start waits until
// that is over.
func (s *Server) Restart(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ganesha != nil {
		return errors.New("ganesha is already running")
	}
	first := s.Log() == ""
	if s.opts.Namespace && s.statd == nil {
		var err error
		if s.statd, err = s.inside("rpc.statd", "--foreground", "--no-notify"); err != nil {
			return err
		}
		if err := s.until(ctx, s.statd, func() error { return s.registered(ctx, "status") }); err != nil {
			return err
		}
	}
	said := len(s.Log())
	p, err := s.inside("ganesha.nfsd", "-F", "-f", s.file("ganesha.conf"), "-L", s.file("log"), "-p", s.file("pid"))
	if err != nil {
		return err
	}
	s.ganesha = p
	err = s.until(ctx, p, func() error {
		if err := s.null(ctx); err != nil {
			return err
		}
		if text := s.Log()[said:]; !strings.Contains(text, "NFS SERVER INITIALIZED") || first && strings.Contains(text, "Now IN GRACE") && !strings.Contains(text, "NOT IN GRACE") {
			return errors.New("it is starting")
		}
		return nil
	})
	if err != nil {
		return errors.Join(err, s.killLocked())
	}
	return nil
}

// registered asks rpcbind for a program.
func (s *Server) registered(ctx context.Context, program string) error {
	out, err := exec.CommandContext(ctx, "nsenter", "--net="+s.NetNS(), "rpcinfo", "-p", "127.0.0.1").CombinedOutput()
	if err != nil {
		return fmt.Errorf("rpcinfo: %w: %s", err, out)
	}
	if !strings.Contains(string(out), program) {
		return fmt.Errorf("rpcbind has no %s", program)
	}
	return nil
}

// Log is what ganesha said so far.
func (s *Server) Log() string {
	text, err := os.ReadFile(s.file("log"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err.Error()
	}
	return string(text)
}

// Kill ends ganesha with SIGKILL; its files and what it wrote down of its clients stay.
func (s *Server) Kill() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.killLocked()
}

func (s *Server) killLocked() error {
	if s.ganesha == nil {
		return nil
	}
	err := s.ganesha.kill()
	s.ganesha = nil
	return err
}

// Pause stops ganesha with SIGSTOP: a silent server.
func (s *Server) Pause() error { return s.signal(syscall.SIGSTOP) }

// Resume undoes Pause.
func (s *Server) Resume() error { return s.signal(syscall.SIGCONT) }

func (s *Server) signal(sig syscall.Signal) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ganesha == nil {
		return errors.New("ganesha is not running")
	}
	return s.ganesha.cmd.Process.Signal(sig)
}

// Link sets the loopback link of the server's namespace up or down: a cut network.
func (s *Server) Link(ctx context.Context, up bool) error {
	state := "down"
	if up {
		state = "up"
	}
	if !s.opts.Namespace {
		return errors.New("the server has no network namespace of its own")
	}
	out, err := exec.CommandContext(ctx, "nsenter", "--net="+s.NetNS(), "ip", "link", "set", "lo", state).CombinedOutput()
	if err != nil {
		return fmt.Errorf("cannot set the link %s: %w: %s", state, err, out)
	}
	return nil
}

// Stop ends the server and removes its directory.
func (s *Server) Stop() error {
	err := s.Kill()
	for _, p := range []*process{s.statd, s.holder} {
		if p != nil {
			err = errors.Join(err, p.kill())
		}
	}
	if s.Dir != "" {
		err = errors.Join(err, os.RemoveAll(s.Dir))
	}
	return err
}

func (s *Server) file(name string) string { return filepath.Join(s.Dir, name) }
