package smb

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/lxbridge/lx/core/fuse"
	"github.com/lxbridge/lx/integration/smbtest"
	"github.com/lxbridge/lx/mount/volume"
)

func config(s *smbtest.Server, share string) Config {
	return Config{Server: s.Host, Port: s.Port, Share: share, User: s.User, Password: Secret(s.Password),
		Dial: (&net.Dialer{}).DialContext}
}

// dial attaches a share for the time of the test.
func dial(t testing.TB, c Config) volume.Volume {
	t.Helper()
	v, err := Dial(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := v.Close(); err != nil {
			t.Error(err)
		}
	})
	return v
}

func must[T any](t testing.TB) func(v T, err error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func wantErrno(t testing.TB, what string, err error, want syscall.Errno) {
	t.Helper()
	if got := volume.Errno(err); got != want {
		t.Errorf("%s: %v (%v), want %v", what, err, got, want)
	}
}

func create(t testing.TB, v volume.Volume, name string, data []byte) (volume.Node, volume.Handle) {
	t.Helper()
	n, _, h, err := v.Create(t.Context(), v.Root(), name, os.O_RDWR|os.O_EXCL, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := h.WriteAt(t.Context(), data, 0); err != nil {
		t.Fatal(err)
	}
	return n, h
}

func list(t testing.TB, v volume.Volume, dir volume.Node) []volume.DirEntry {
	t.Helper()
	d := must[volume.DirStream](t)(v.ReadDir(t.Context(), dir))
	defer d.Close()
	var all []volume.DirEntry
	for {
		batch, err := d.Next(t.Context())
		if err == io.EOF {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, batch...)
	}
}

func TestFiles(t *testing.T) {
	s := smbtest.New(t, smbtest.Options{})
	for _, share := range []string{smbtest.Data, smbtest.Encrypted, smbtest.Guest, smbtest.Hidden, smbtest.Odd, smbtest.Mixed} {
		t.Run(share, func(t *testing.T) {
			c := config(s, share)
			c.Seal = share == smbtest.Encrypted
			c.NoCase = share == smbtest.Mixed
			if share == smbtest.Guest {
				c.User, c.Password, c.Guest = "", "", true
			}
			files(t, dial(t, c), filepath.Join(s.Path(share)))
		})
	}
}

func files(t *testing.T, v volume.Volume, dir string) {
	ctx := t.Context()
	data := make([]byte, 5<<20+123)
	for i := range data {
		data[i] = byte(rand.Uint32())
	}
	n, h := create(t, v, "file", data)
	attr := must[volume.Attr](t)(v.Getattr(ctx, n, h))
	if attr.Size != uint64(len(data)) || attr.Mode != syscall.S_IFREG|0o755 {
		t.Errorf("attributes %+v", attr)
	}
	got := make([]byte, len(data)+10)
	if n := must[int](t)(h.ReadAt(ctx, got, 0)); n != len(data) || !bytes.Equal(got[:n], data) {
		t.Errorf("read %d bytes, wrong or too few", n)
	}
	if n := must[int](t)(h.ReadAt(context.Background(), got[:100], int64(len(data))-50)); n != 50 || !bytes.Equal(got[:n], data[len(data)-50:]) {
		t.Errorf("read %d bytes at the end", n)
	}
	if n := must[int](t)(h.ReadAt(ctx, got[:100], int64(len(data))+50)); n != 0 {
		t.Errorf("read %d bytes behind the end", n)
	}
	if err := h.Sync(ctx); err != nil {
		t.Error(err)
	}
	if onDisk := must[[]byte](t)(os.ReadFile(filepath.Join(dir, "file"))); !bytes.Equal(onDisk, data) {
		t.Error("the server has other bytes")
	}
	if err := h.Close(ctx); err != nil {
		t.Error(err)
	}

	size, past := uint64(7), time.Unix(1_000_000_000, 123_456_700)
	mode := uint32(0o444)
	attr = must[volume.Attr](t)(v.Setattr(ctx, n, nil, volume.SetAttr{Size: &size, Mtime: &past, Mode: &mode}))
	if attr.Size != 7 || !attr.Mtime.Equal(past) || attr.Mode != syscall.S_IFREG|0o555 {
		t.Errorf("attributes after a change: %+v", attr)
	}
	mode = 0o644
	attr = must[volume.Attr](t)(v.Setattr(ctx, n, nil, volume.SetAttr{Mode: &mode}))
	if attr.Mode != syscall.S_IFREG|0o755 {
		t.Errorf("mode %o", attr.Mode)
	}

	_, _, _, err := v.Create(ctx, v.Root(), "file", os.O_RDWR|os.O_EXCL, 0o644)
	wantErrno(t, "exclusive create", err, syscall.EEXIST)
	d, _, err := v.Mkdir(ctx, v.Root(), "dir", 0o755)
	if err != nil {
		t.Fatal(err)
	}
	_, _, err = v.Mkdir(ctx, v.Root(), "dir", 0o755)
	wantErrno(t, "mkdir again", err, syscall.EEXIST)
	_, _, err = v.Lookup(ctx, v.Root(), "nothing")
	wantErrno(t, "lookup", err, syscall.ENOENT)
	wantErrno(t, "unlink of a directory", v.Unlink(ctx, v.Root(), "dir"), syscall.EISDIR)
	wantErrno(t, "rmdir of a file", v.Rmdir(ctx, v.Root(), "file"), syscall.ENOTDIR)
	if err := v.Rename(ctx, v.Root(), "file", d, "inner", 0); err != nil {
		t.Fatal(err)
	}
	wantErrno(t, "rmdir of a full directory", v.Rmdir(ctx, v.Root(), "dir"), syscall.ENOTEMPTY)
	if _, err := v.Getattr(ctx, n, nil); err != nil {
		t.Errorf("the node did not follow the rename: %v", err)
	}
	entries := list(t, v, d)
	if len(entries) != 1 || entries[0].Name != "inner" || entries[0].Attr.Size != 7 {
		t.Errorf("listing %+v", entries)
	}
	if err := v.Unlink(ctx, d, "inner"); err != nil {
		t.Error(err)
	}
	if err := v.Rmdir(ctx, v.Root(), "dir"); err != nil {
		t.Error(err)
	}
	if st := must[fuse.Statfs](t)(v.Statfs(ctx)); st.Blocks == 0 || st.Bsize == 0 {
		t.Errorf("statfs %+v", st)
	}
	if left := list(t, v, v.Root()); len(left) != 0 {
		t.Errorf("left: %+v", left)
	}
}

// TestReadOnly: the attribute protects from writing, not from removal and
// replacement; a share that is read only refuses everything.
func TestReadOnly(t *testing.T) {
	s := smbtest.New(t, smbtest.Options{})
	v := dial(t, config(s, smbtest.Data))
	ctx := t.Context()
	for _, name := range []string{"removed", "replaced"} {
		n, a, h, err := v.Create(ctx, v.Root(), name, os.O_RDWR, 0o444)
		if err != nil {
			t.Fatal(err)
		}
		if a.Mode != syscall.S_IFREG|0o555 {
			t.Errorf("mode %o", a.Mode)
		}
		for i, to := range []string{"moved", name} {
			from := []string{name, "moved"}[i]
			if err := v.Rename(ctx, v.Root(), from, v.Root(), to, 0); err != nil {
				t.Error(err)
			}
			if _, err := h.WriteAt(ctx, []byte("x"), 0); err != nil {
				t.Errorf("writing to a file created without write permission: %v", err)
			}
		}
		if err := h.Close(ctx); err != nil {
			t.Error(err)
		}
		_, err = v.Open(ctx, n, os.O_RDWR)
		wantErrno(t, "opening for writing", err, syscall.EACCES)
	}
	wantErrno(t, "unlink", v.Unlink(ctx, v.Root(), "removed"), 0)
	_, h := create(t, v, "new", []byte("new"))
	wantErrno(t, "rename over", v.Rename(ctx, v.Root(), "new", v.Root(), "replaced", 0), 0)
	if b, err := os.ReadFile(filepath.Join(s.Path(smbtest.Data), "replaced")); err != nil || string(b) != "new" {
		t.Errorf("%q, %v", b, err)
	}
	if err := h.Close(ctx); err != nil {
		t.Error(err)
	}

	ro := dial(t, config(s, smbtest.ReadOnly))
	_, _, _, err := ro.Create(ctx, ro.Root(), "file", os.O_RDWR, 0o644)
	wantErrno(t, "create", err, syscall.EACCES)
	n, _, err := ro.Lookup(ctx, ro.Root(), "replaced")
	if err != nil {
		t.Fatal(err)
	}
	size := uint64(0)
	_, err = ro.Setattr(ctx, n, nil, volume.SetAttr{Size: &size})
	wantErrno(t, "truncate", err, syscall.EACCES)
	wantErrno(t, "unlink", ro.Unlink(ctx, ro.Root(), "replaced"), syscall.EACCES)
	_, _, err = ro.Mkdir(ctx, ro.Root(), "dir", 0o755)
	wantErrno(t, "mkdir", err, syscall.EACCES)
}

func TestTimes(t *testing.T) {
	s := smbtest.New(t, smbtest.Options{})
	v := dial(t, config(s, smbtest.Data))
	n, h := create(t, v, "file", nil)
	defer h.Close(t.Context())
	for _, want := range []time.Time{time.Unix(0, 0), time.Unix(1, 0), time.Unix(-1, 0), time.Unix(1<<31, 100), time.Unix(4e9, 999_999_900)} {
		a := must[volume.Attr](t)(v.Setattr(t.Context(), n, h, volume.SetAttr{Atime: &want, Mtime: &want}))
		if !a.Mtime.Equal(want) || !a.Atime.Equal(want) {
			t.Errorf("set %v, got %v and %v", want, a.Atime, a.Mtime)
		}
	}
	for _, beyond := range []time.Time{{}, time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC)} {
		a := must[volume.Attr](t)(v.Setattr(t.Context(), n, nil, volume.SetAttr{Mtime: &beyond}))
		if got := a.Mtime; got.Year() > 1901 && got.Year() < 2200 { // ext4 begins in 1901
			t.Errorf("set %v, got %v", beyond, got)
		}
	}
}

// TestTimeOutlivesClose: the time set after a write stays when the handle that
// wrote is closed, as tar(1) and cp -p want it.
func TestTimeOutlivesClose(t *testing.T) {
	s := smbtest.New(t, smbtest.Options{})
	v := dial(t, config(s, smbtest.Data))
	n, h := create(t, v, "file", nil)
	if _, err := h.WriteAt(t.Context(), []byte("text"), 0); err != nil {
		t.Fatal(err)
	}
	want := time.Unix(1_600_000_000, 0)
	must[volume.Attr](t)(v.Setattr(t.Context(), n, h, volume.SetAttr{Mtime: &want}))
	if err := h.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	st, err := os.Stat(filepath.Join(s.Path(smbtest.Data), "file"))
	if err != nil {
		t.Fatal(err)
	}
	if !st.ModTime().Equal(want) {
		t.Errorf("after close: %v, want %v", st.ModTime(), want)
	}
}

// TestNames carries every printable ASCII character, alone, inside and at the end.
func TestNames(t *testing.T) {
	s := smbtest.New(t, smbtest.Options{})
	v := dial(t, config(s, smbtest.Data))
	names := []string{"with space", "ümläut", "日本語", "emoji 😀", strings.Repeat("n", 255), "a.", "a ", ".hidden", "...", "CON", "tab\there", "new\nline"}
	for c := rune(0x20); c < 0x7f; c++ {
		if c != '/' && c != '.' {
			names = append(names, string(c), "in"+string(c)+"side", "end"+string(c))
		}
	}
	var want []string
	for _, name := range names {
		_, _, h, err := v.Create(t.Context(), v.Root(), name, os.O_RDWR, 0o644)
		if err != nil {
			t.Errorf("%q: %v", name, err)
			continue
		}
		if err := h.Close(t.Context()); err != nil {
			t.Error(err)
		}
		want = append(want, name)
	}
	var got []string
	for _, e := range list(t, v, v.Root()) {
		got = append(got, e.Name)
	}
	slices.Sort(got)
	slices.Sort(want)
	if want = slices.Compact(want); !slices.Equal(got, want) {
		t.Errorf("listing %q, want %q", got, want)
	}
	for _, name := range want {
		if err := v.Unlink(t.Context(), v.Root(), name); err != nil {
			t.Error(err)
		}
	}
	_, _, err := v.Lookup(t.Context(), v.Root(), strings.Repeat("n", 256))
	wantErrno(t, "a long name", err, syscall.ENAMETOOLONG)
}

// TestOpenRenamed renames and removes what is open, which the protocol refuses.
func TestOpenRenamed(t *testing.T) {
	s := smbtest.New(t, smbtest.Options{})
	v := dial(t, config(s, smbtest.Data))
	ctx := t.Context()
	d, _, err := v.Mkdir(ctx, v.Root(), "dir", 0o755)
	if err != nil {
		t.Fatal(err)
	}
	n, _, h, err := v.Create(ctx, d, "old", os.O_RDWR, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	stop := make(chan struct{})
	wg.Go(func() {
		for i := int64(0); ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			if _, err := h.WriteAt(ctx, []byte("x"), i); err != nil {
				t.Error(err)
				return
			}
		}
	})
	for i := range 10 {
		if err := v.Rename(ctx, d, "old", d, "new", 0); err != nil {
			t.Fatal(i, err)
		}
		if err := v.Rename(ctx, d, "new", d, "old", 0); err != nil {
			t.Fatal(i, err)
		}
		if err := v.Rename(ctx, v.Root(), "dir", v.Root(), "moved", 0); err != nil {
			t.Fatal(i, err)
		}
		if err := v.Rename(ctx, v.Root(), "moved", v.Root(), "dir", 0); err != nil {
			t.Fatal(i, err)
		}
	}
	close(stop)
	wg.Wait()
	attr := must[volume.Attr](t)(v.Getattr(ctx, n, nil))
	b := make([]byte, attr.Size)
	if must[int](t)(h.ReadAt(ctx, b, 0)); attr.Size == 0 || strings.Trim(string(b), "x") != "" {
		t.Errorf("holes in what was written between renames: %d bytes", attr.Size)
	}

	_, other := create(t, v, "other", []byte("other"))
	if err := v.Rename(ctx, v.Root(), "other", d, "old", 0); err != nil {
		t.Fatalf("rename over an open file: %v", err)
	}
	_, err = h.ReadAt(ctx, b[:1], 0)
	wantErrno(t, "reading what was replaced", err, syscall.ESTALE)
	if err := v.Unlink(ctx, d, "old"); err != nil {
		t.Fatal(err)
	}
	_, err = other.ReadAt(ctx, b[:1], 0)
	wantErrno(t, "reading what was removed", err, syscall.ESTALE)
	for _, h := range []volume.Handle{h, other} {
		if err := h.Close(ctx); err != nil {
			t.Error(err)
		}
	}

	// Directories replace empty ones only, files no directories.
	for _, name := range []string{"empty", "full"} {
		if _, _, err := v.Mkdir(ctx, v.Root(), name, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	full, _, err := v.Lookup(ctx, v.Root(), "full")
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := v.Mkdir(ctx, full, "sub", 0o755); err != nil {
		t.Fatal(err)
	}
	_, h = create(t, v, "file", nil)
	wantErrno(t, "directory over full", v.Rename(ctx, v.Root(), "dir", v.Root(), "full", 0), syscall.ENOTEMPTY)
	wantErrno(t, "file over directory", v.Rename(ctx, v.Root(), "file", v.Root(), "empty", 0), syscall.EISDIR)
	wantErrno(t, "directory over file", v.Rename(ctx, v.Root(), "dir", v.Root(), "file", 0), syscall.ENOTDIR)
	wantErrno(t, "directory into itself", v.Rename(ctx, v.Root(), "full", full, "x", 0), syscall.EINVAL)
	wantErrno(t, "directory over empty", v.Rename(ctx, v.Root(), "dir", v.Root(), "empty", 0), 0)
	if err := h.Close(ctx); err != nil {
		t.Error(err)
	}
}

func TestListing(t *testing.T) {
	s := smbtest.New(t, smbtest.Options{})
	const count = 12_000
	for i := range count {
		if err := os.WriteFile(filepath.Join(s.Path(smbtest.Data), fmt.Sprintf("file with a long name %d", i)), nil, 0o666); err != nil {
			t.Fatal(err)
		}
	}
	v := dial(t, config(s, smbtest.Data))
	seen := map[string]bool{}
	for _, e := range list(t, v, v.Root()) {
		if seen[e.Name] || e.Node == nil {
			t.Fatalf("%q twice or without a node", e.Name)
		}
		seen[e.Name] = true
	}
	if len(seen) != count {
		t.Errorf("%d names, want %d", len(seen), count)
	}
}

// TestLoad has more in flight than the server gives credits for: calls that
// cost many must not fail for it.
func TestLoad(t *testing.T) {
	s := smbtest.New(t, smbtest.Options{})
	v := dial(t, config(s, smbtest.Data))
	n, h := create(t, v, "file", make([]byte, 4<<20))
	var wg sync.WaitGroup
	for i := range 48 {
		wg.Go(func() {
			p := make([]byte, 1<<20)
			for j := range 6 {
				var err error
				switch i % 4 {
				case 0:
					_, err = v.Getattr(t.Context(), n, h)
				case 1:
					var d volume.DirStream
					if d, err = v.ReadDir(t.Context(), v.Root()); err == nil {
						err = d.Close()
					}
				case 2:
					_, err = h.WriteAt(t.Context(), p, int64(j%4)<<20)
				default:
					_, err = h.ReadAt(t.Context(), p, int64(j%4)<<20)
				}
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if err := h.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestMFSymlinks(t *testing.T) {
	s := smbtest.New(t, smbtest.Options{})
	c := config(s, smbtest.Data)
	plain := dial(t, c)
	_, _, err := plain.(volume.Symlinker).Symlink(t.Context(), plain.Root(), "link", "target")
	wantErrno(t, "symlink without mfsymlinks", err, syscall.EOPNOTSUPP)
	c.MFSymlinks = true
	v := dial(t, c)
	for _, target := range []string{"target", "/absolute/ä", strings.Repeat("t", 1024), "."} {
		n, a, err := v.(volume.Symlinker).Symlink(t.Context(), v.Root(), "link", target)
		if err != nil {
			t.Fatal(err)
		}
		got := must[string](t)(v.(volume.Readlinker).Readlink(t.Context(), n))
		if got != target || a.Mode&syscall.S_IFMT != syscall.S_IFLNK || a.Size != uint64(len(target)) {
			t.Errorf("%q: %q, %+v", target, got, a)
		}
		if err := v.Unlink(t.Context(), v.Root(), "link"); err != nil {
			t.Error(err)
		}
	}
	_, _, err = v.(volume.Symlinker).Symlink(t.Context(), v.Root(), "link", strings.Repeat("t", 1025))
	wantErrno(t, "a long target", err, syscall.ENAMETOOLONG)
}

// TestRefusals has the errno that mount.cifs on Linux 6.12 shows for each.
func TestRefusals(t *testing.T) {
	s := smbtest.New(t, smbtest.Options{})
	if err := os.WriteFile(filepath.Join(s.Path(smbtest.Data), "file"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	const secret = "Tr0ub4dor"
	for name, c := range map[string]struct {
		change func(*Config)
		errno  syscall.Errno
		reason string
	}{
		"wrong password":  {func(c *Config) { c.Password = secret }, syscall.EACCES, "STATUS_LOGON_FAILURE"},
		"unknown share":   {func(c *Config) { c.Share = "nix" }, syscall.ENOENT, "STATUS_BAD_NETWORK_NAME"},
		"refused port":    {func(c *Config) { c.Port = closed.Addr().(*net.TCPAddr).Port }, syscall.ECONNREFUSED, "refuses connections"},
		"silent server":   {func(c *Config) { c.Port = silent.Addr().(*net.TCPAddr).Port; c.DialTimeout = 50 * time.Millisecond }, syscall.EHOSTDOWN, "does not answer"},
		"unknown name":    {func(c *Config) { c.Server = "no.such.name.invalid" }, syscall.EHOSTUNREACH, "cannot be resolved"},
		"missing prefix":  {func(c *Config) { c.Prefix = "a/b" }, syscall.ENOENT, ""},
		"prefix a file":   {func(c *Config) { c.Prefix = "file" }, syscall.ENOTDIR, ""},
		"guest":           {func(c *Config) { c.Guest = true }, syscall.EACCES, ""},
		"old dialect":     {func(c *Config) { c.Dialects = []Dialect{0x0100} }, syscall.EOPNOTSUPP, "vers="},
		"clear with seal": {func(c *Config) { c.Seal = true }, syscall.EOPNOTSUPP, "seal"},
		"encrypted, 2.1":  {func(c *Config) { c.Share = smbtest.Encrypted; c.Dialects = []Dialect{SMB210} }, syscall.EACCES, ""},
		"kerberos":        {func(c *Config) { c.Sec = Kerberos }, syscall.EOPNOTSUPP, "sec=krb5"},
		"guest and sign":  {func(c *Config) { c.Guest, c.Sign = true, true }, syscall.EOPNOTSUPP, "sign"},
	} {
		t.Run(name, func(t *testing.T) {
			conf := config(s, smbtest.Data)
			c.change(&conf)
			v, err := Dial(t.Context(), conf)
			if err == nil {
				v.Close()
			}
			wantErrno(t, name, err, c.errno)
			if err != nil && !strings.Contains(err.Error(), c.reason) {
				t.Errorf("%v does not say %q", err, c.reason)
			}
			if text := fmt.Sprintf("%v %+v %#v %s", err, conf, conf, conf.Password); strings.Contains(text, secret) || strings.Contains(text, s.Password) {
				t.Error("the password is shown")
			}
		})
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Dial(ctx, config(s, smbtest.Data)); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

func TestDialects(t *testing.T) {
	s := smbtest.New(t, smbtest.Options{})
	signed := smbtest.New(t, smbtest.Options{SigningMandatory: true})
	for _, d := range []Dialect{SMB202, SMB210, SMB300, SMB302, SMB311} {
		for name, c := range map[string]Config{
			"plain":     config(s, smbtest.Data),
			"sign":      config(s, smbtest.Data),
			"mandatory": config(signed, smbtest.Data),
			"encrypted": config(s, smbtest.Encrypted),
		} {
			if name == "encrypted" && d < SMB300 {
				continue
			}
			t.Run(d.String()+" "+name, func(t *testing.T) {
				c.Dialects = []Dialect{d}
				c.Sign = name == "sign"
				v := dial(t, c)
				if got := Dialect(v.(*Volume).link.wire.dialect.Load()); got != d {
					t.Errorf("negotiated %v", got)
				}
				_, h := create(t, v, "file", bytes.Repeat([]byte("x"), 100_000))
				if n := must[int](t)(h.ReadAt(t.Context(), make([]byte, 1<<20), 0)); n != 100_000 {
					t.Errorf("read %d bytes", n)
				}
				if err := h.Close(t.Context()); err != nil {
					t.Error(err)
				}
				if err := v.Unlink(t.Context(), v.Root(), "file"); err != nil {
					t.Error(err)
				}
			})
		}
	}
}
