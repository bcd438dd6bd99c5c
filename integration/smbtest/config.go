package smbtest

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"maps"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"unicode/utf16"

	"golang.org/x/crypto/md4" //lint:ignore SA1019 the hash that NTLM prescribes

	"github.com/lxbridge/lx/integration/freeport"
)

// prepare makes directories, configuration and password file, finds the
// program and chooses the port.
func (s *Server) prepare() error {
	who, err := identity()
	if err != nil {
		return err
	}
	for _, d := range []string{"private", "lock", "state", "cache", "pid", "ncalrpc", "log"} {
		if err := os.MkdirAll(s.file(d), 0o755); err != nil {
			return err
		}
	}
	// Sessions of another user must reach the shares, and only the shares.
	if err := os.Chmod(s.Dir, 0o711); err != nil {
		return err
	}
	if err := s.shares(who); err != nil {
		return err
	}
	if err := s.program(); err != nil {
		return err
	}
	if s.Port, err = freeport.One(); err != nil {
		return err
	}
	files := map[string]string{
		"smb.conf": s.config(who),
		// smbpasswd(5): written here, because smbpasswd(8) adds users for root only.
		"private/smbpasswd": fmt.Sprintf("%s:%s:%s:%s:[U          ]:LCT-00000001:\n",
			who.Username, who.Uid, strings.Repeat("X", 32), ntHash(s.Password)),
		"users": who.Username + " = " + User + "\n",
	}
	for name, text := range files {
		if err := os.WriteFile(s.file(name), []byte(text), 0o600); err != nil {
			return err
		}
	}
	return nil
}

func (s *Server) shares(who *user.User) error {
	names := append(slices.Collect(maps.Keys(s.opts.Shares)), Data, Guest, Hidden, Odd, Mixed)
	uid, err := strconv.Atoi(who.Uid)
	if err != nil {
		return err
	}
	gid, err := strconv.Atoi(who.Gid)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(s.file("shares"), 0o755); err != nil {
		return err
	}
	for _, name := range names {
		if err := os.MkdirAll(s.Path(name), 0o755); err != nil {
			return err
		}
		if os.Geteuid() == 0 {
			if err := os.Chown(s.Path(name), uid, gid); err != nil {
				return err
			}
		}
	}
	return os.Chmod(s.Path(Guest), 0o777) // anonymous sessions are nobody in particular
}

// config is smb.conf(5). case sensitive: the default searches each directory
// for other spellings whenever a name is new.
func (s *Server) config(who *user.User) string {
	lines := []string{"[global]",
		"server role = standalone",
		"server string = lx test",
		"passdb backend = smbpasswd:" + s.file("private/smbpasswd"),
		"username map = " + s.file("users"),
		"map to guest = Bad User",
		"guest account = " + who.Username,
		"private dir = " + s.file("private"),
		"lock directory = " + s.file("lock"),
		"state directory = " + s.file("state"),
		"cache directory = " + s.file("cache"),
		"pid directory = " + s.file("pid"),
		"ncalrpc dir = " + s.file("ncalrpc"),
		"smb ports = " + strconv.Itoa(s.Port),
		"interfaces = lo 127.0.0.1",
		"bind interfaces only = yes",
		"disable netbios = yes",
		"disable spoolss = yes",
		"load printers = no",
		"printcap name = /dev/null",
		"dns proxy = no",
		"deadtime = 0",
		"server min protocol = SMB2_02",
		"unix extensions = no",
		"case sensitive = yes",
		"read only = no",
		"mangled names = no",
		"create mask = 0777",
		"directory mask = 0777",
	}
	if s.opts.Protocol != "" {
		lines = append(lines, "server max protocol = "+s.opts.Protocol)
	}
	if s.opts.SigningMandatory {
		lines = append(lines, "server signing = mandatory")
	}
	lines = append(lines, s.opts.Global...)
	share := func(name string, more ...string) {
		lines = append(append(lines, "["+name+"]", "path = "+s.Path(name)), more...)
	}
	share(Data)
	share(ReadOnly, "read only = yes")
	share(Encrypted, "smb encrypt = required")
	share(Guest, "guest ok = yes")
	share(Hidden, "browseable = no")
	share(Odd, "mangled names = illegal")
	share(Mixed, "case sensitive = no", "preserve case = yes")
	for _, name := range slices.Sorted(maps.Keys(s.opts.Shares)) {
		share(name, s.opts.Shares[name]...)
	}
	return strings.Join(lines, "\n") + "\n"
}

// program finds smbd and the environment it needs.
func (s *Server) program() error {
	s.bin = filepath.Join("/", s.opts.Root, "usr/sbin/smbd")
	if _, err := os.Stat(s.bin); err != nil {
		return fmt.Errorf("%w; install the package samba", err)
	}
	s.env = os.Environ()
	if s.opts.Root == "" {
		return nil
	}
	libs, err := filepath.Glob(filepath.Join(s.opts.Root, "usr/lib/*/samba"))
	if err != nil {
		return err
	}
	var path []string
	for _, dir := range libs {
		up := filepath.Dir(dir)
		path = append(path, dir, up, filepath.Join(s.opts.Root, "lib", filepath.Base(up)))
	}
	s.env = append(s.env, "LD_LIBRARY_PATH="+strings.Join(path, ":"))
	return nil
}

// ntHash is the MD4 of the password in UTF-16 (MS-NLMP 3.3.1, NTOWFv1).
func ntHash(password string) string {
	h := md4.New()
	for _, u := range utf16.Encode([]rune(password)) {
		h.Write(binary.LittleEndian.AppendUint16(nil, u))
	}
	return strings.ToUpper(hex.EncodeToString(h.Sum(nil)))
}
