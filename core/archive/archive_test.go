package archive_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/lxbridge/lx/core/archive"
	"github.com/lxbridge/lx/core/ns"
)

// caller is the map in which the tests' own user is root: all that others own
// is recorded.
func caller() *ns.Map {
	if os.Getuid() == 0 {
		return &ns.Map{UID: []ns.Extent{{Size: 1}}, GID: []ns.Extent{{Size: 1}}}
	}
	return nil
}

func stream(t testing.TB, headers ...tar.Header) *bytes.Buffer {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range headers {
		body := h.PAXRecords["body"] // where file puts it
		h.PAXRecords = nil
		h.Size = int64(len(body))
		if h.Mode == 0 {
			h.Mode = 0o755
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, body); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return &b
}

func file(name, body string) tar.Header {
	return tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644, PAXRecords: map[string]string{"body": body}}
}

func link(name, to string) tar.Header {
	return tar.Header{Name: name, Typeflag: tar.TypeSymlink, Linkname: to}
}

func hard(name, to string) tar.Header {
	return tar.Header{Name: name, Typeflag: tar.TypeLink, Linkname: to}
}

func dir(name string) tar.Header { return tar.Header{Name: name, Typeflag: tar.TypeDir} }

// place is a directory to unpack in, beside one that must stay as it is.
func place(t testing.TB) (root, outside string) {
	t.Helper()
	top := t.TempDir()
	root, outside = filepath.Join(top, "root"), filepath.Join(top, "outside")
	for _, d := range []string{root, outside} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(outside, "secret"), []byte("untouched"), 0o600); err != nil {
		t.Fatal(err)
	}
	return root, outside
}

func unpack(t testing.TB, root string, r io.Reader, opt archive.Options) (archive.Report, error) {
	t.Helper()
	tree, err := archive.OpenTree(root)
	if err != nil {
		t.Fatal(err)
	}
	defer tree.Close()
	return tree.Unpack(context.Background(), r, opt)
}

func untouched(t testing.TB, outside string) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(outside, "secret"))
	if err != nil || string(b) != "untouched" {
		t.Errorf("a file outside: %q, %v", b, err)
	}
	names, err := os.ReadDir(outside)
	if err != nil || len(names) != 1 {
		t.Errorf("the directory outside holds %v, %v", names, err)
	}
}

// TestRefused: names that leave the root are errors.
func TestRefused(t *testing.T) {
	for name, c := range map[string]struct {
		entries []tar.Header
		says    string
	}{
		"up":             {[]tar.Header{file("../outside/x", "x")}, "leaves the root"},
		"up in between":  {[]tar.Header{dir("a"), file("a/../../outside/x", "x")}, "leaves the root"},
		"absolute":       {[]tar.Header{file("/etc/x", "x")}, "absolute name"},
		"hard link up":   {[]tar.Header{hard("a", "../outside/secret")}, "leaves the root"},
		"hard link none": {[]tar.Header{hard("a", "b")}, "hard link to b"},
		"hard link out":  {[]tar.Header{link("l", "../outside"), hard("a", "l/secret")}, "hard link to l/secret"},
		"unknown type":   {[]tar.Header{{Name: "a", Typeflag: 'Z'}}, "unknown type"},
		"root no dir":    {[]tar.Header{link(".", "/etc")}, "root is no directory"},
	} {
		root, outside := place(t)
		_, err := unpack(t, root, stream(t, c.entries...), archive.Options{})
		if err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, want %q", name, err, c.says)
		}
		untouched(t, outside)
	}
}

// TestConfined: links lead nowhere but into the root, whatever they say.
func TestConfined(t *testing.T) {
	for name, to := range map[string]string{"relative": "../outside", "absolute": "OUTSIDE", "root": "/", "magic": "/proc/self/root", "itself": "l"} {
		root, outside := place(t)
		to = strings.ReplaceAll(to, "OUTSIDE", outside)
		_, err := unpack(t, root, stream(t, link("l", to), file("l/secret", "changed"), dir("l"), file("l/secret", "changed")), archive.Options{})
		if name == "itself" && err == nil {
			t.Error("a link to itself led somewhere")
		}
		untouched(t, outside)
	}
	// A link that stays is followed by later layers, as a merged /lib wants it.
	root, _ := place(t)
	if _, err := unpack(t, root, stream(t, dir("usr/lib"), link("lib", "/usr/lib"), file("lib/x", "x")), archive.Options{}); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(filepath.Join(root, "usr/lib/x")); err != nil {
		t.Error(err)
	}
}

// TestLinkSwapped: somebody swaps a directory for a link out of the root, in a
// loop, while it is unpacked into.
func TestLinkSwapped(t *testing.T) {
	root, outside := place(t)
	var entries []tar.Header
	for i := range 400 {
		entries = append(entries, file(fmt.Sprintf("d%d/secret", i%2), "changed"), file(fmt.Sprintf("e%d", i), "x"))
	}
	in := stream(t, entries...)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		d := filepath.Join(root, "d0")
		for {
			select {
			case <-stop:
				return
			default:
			}
			_ = os.RemoveAll(d) // the unpacking makes it again and again
			_ = os.Symlink(outside, d)
			_ = os.Remove(d)
		}
	})
	for range 20 {
		_, _ = unpack(t, root, bytes.NewReader(in.Bytes()), archive.Options{}) // it may fail, it may not leave
	}
	close(stop)
	wg.Wait()
	untouched(t, outside)
}

func TestTruncated(t *testing.T) {
	whole := stream(t, file("a", strings.Repeat("x", 5000)), file("b", "y")).Bytes()
	for _, n := range []int{10, 512, 600, 512 + 5120, 512 + 5120 + 512, len(whole) - 1024} {
		root, _ := place(t)
		if _, err := unpack(t, root, bytes.NewReader(whole[:n]), archive.Options{}); err == nil || !strings.Contains(err.Error(), "truncated") && !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%d bytes of %d: %v", n, len(whole), err)
		}
	}
}

func TestLimits(t *testing.T) {
	in := stream(t, file("a", "12345"), file("b", "12345"), dir("c")).Bytes()
	for _, c := range []struct {
		limits archive.Limits
		says   string
	}{
		{archive.Limits{Bytes: 9}, "more than 9 bytes"},
		{archive.Limits{Entries: 2}, "more than 2 entries"},
		{archive.Limits{Names: 2}, "more than 2 bytes of names"},
		{archive.Limits{Bytes: 10, Entries: 3, Names: 3}, ""},
	} {
		root, _ := place(t)
		_, err := unpack(t, root, bytes.NewReader(in), archive.Options{Limits: c.limits})
		if (err == nil) != (c.says == "") || err != nil && !strings.Contains(err.Error(), c.says) {
			t.Errorf("%+v: %v", c.limits, err)
		}
	}
}

// TestWhiteouts: a layer removes what was below, and not what is its own.
func TestWhiteouts(t *testing.T) {
	root, outside := place(t)
	for _, l := range [][]tar.Header{
		{dir("etc"), file("etc/a", "a"), file("etc/b", "b"), dir("opt"), file("opt/x", "x"), link("out", "../outside")},
		{file("etc/.wh.a", ""), file("opt/y", "y"), file("opt/.wh..wh..opq", ""), file("out/.wh.secret", "")},
	} {
		if _, err := unpack(t, root, stream(t, l...), archive.Options{Layer: true}); err != nil {
			t.Fatal(err)
		}
	}
	for name, there := range map[string]bool{"etc/a": false, "etc/b": true, "opt/x": false, "opt/y": true, "etc/.wh.a": false} {
		if _, err := os.Lstat(filepath.Join(root, name)); (err == nil) != there {
			t.Errorf("%s: %v", name, err)
		}
	}
	untouched(t, outside)
	if _, err := unpack(t, root, stream(t, file(".wh...", "")), archive.Options{Layer: true}); err == nil {
		t.Error("a whiteout of .. was followed")
	}
}

// TestRoundTrip: what was unpacked is packed again as it was, with owners and
// devices that cannot exist here, holes, hard links and attributes.
func TestRoundTrip(t *testing.T) {
	root, _ := place(t)
	m := caller()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	big := append(make([]byte, 1<<20), "end"...)
	for _, h := range []tar.Header{
		{Name: "./", Typeflag: tar.TypeDir, Mode: 0o755},
		{Name: "bin/", Typeflag: tar.TypeDir, Mode: 0o755},
		{Name: "bin/su", Typeflag: tar.TypeReg, Mode: 0o4755, Size: 2},
		{Name: "bin/su2", Typeflag: tar.TypeLink, Linkname: "bin/su"},
		{Name: "dev/null", Typeflag: tar.TypeChar, Mode: 0o666, Devmajor: 1, Devminor: 3},
		{Name: "fifo", Typeflag: tar.TypeFifo, Mode: 0o600},
		{Name: "link", Typeflag: tar.TypeSymlink, Linkname: "/etc/passwd", Mode: 0o777},
		{Name: "sparse", Typeflag: tar.TypeReg, Mode: 0o640, Size: int64(len(big)), Uid: 5, Gid: 42, PAXRecords: map[string]string{"SCHILY.xattr.user.note": "kept"}, Format: tar.FormatPAX},
	} {
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		body := []byte("su")
		if h.Size > 2 {
			body = big
		}
		if h.Size > 0 {
			if _, err := w.Write(body); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	r, err := unpack(t, root, &b, archive.Options{Map: m})
	if err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	if err := unix.Stat(filepath.Join(root, "sparse"), &st); err != nil || st.Blocks*512 > 64<<10 || st.Size != int64(len(big)) {
		t.Errorf("sparse: %d blocks of a file of %d, %v", st.Blocks, st.Size, err)
	}
	tree, err := archive.OpenTree(root)
	if err != nil {
		t.Fatal(err)
	}
	defer tree.Close()
	var out bytes.Buffer
	if err := tree.Pack(context.Background(), &out, archive.PackOptions{Xattrs: true}); err != nil {
		t.Fatal(err)
	}
	got := map[string]*tar.Header{}
	for tr := tar.NewReader(&out); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		got[h.Name] = h
		if h.Name == "sparse" {
			if b, err := io.ReadAll(tr); err != nil || !bytes.Equal(b, big) {
				t.Errorf("sparse has other content (%d bytes), %v", len(b), err)
			}
		}
	}
	if h := got["bin/su2"]; h == nil || h.Typeflag != tar.TypeLink || h.Linkname != "bin/su" {
		t.Errorf("hard link: %+v", h)
	}
	if h := got["link"]; h == nil || h.Linkname != "/etc/passwd" {
		t.Errorf("link: %+v", h)
	}
	if h := got["fifo"]; h == nil || h.Typeflag != tar.TypeFifo {
		t.Errorf("fifo: %+v", h)
	}
	if m == nil {
		if st, err := os.Stat(filepath.Join(root, "bin/su")); err != nil || st.Mode()&os.ModeSetuid != 0 {
			t.Errorf("a stream for the user's own files made a setuid file: %v, %v", st.Mode(), err)
		}
		return
	}
	if r.Recorded != 2 || r.Lost != 0 {
		t.Errorf("report %+v", r)
	}
	if h := got["bin/su"]; h == nil || h.Mode != 0o4755 {
		t.Errorf("setuid: %+v", h)
	}
	if h := got["dev/null"]; h == nil || h.Typeflag != tar.TypeChar || h.Devmajor != 1 || h.Devminor != 3 {
		t.Errorf("device: %+v", h)
	}
	if h := got["sparse"]; h == nil || h.Uid != 5 || h.Gid != 42 || h.PAXRecords["SCHILY.xattr.user.note"] != "kept" {
		t.Errorf("owner, attributes: %+v", h)
	}
}

// TestRemove follows no links.
// TestPackOneKinds: what is neither file nor directory is not even opened.
func TestPackOneKinds(t *testing.T) {
	root, _ := place(t)
	for name, make := range map[string]func(string) error{
		"a fifo":   func(p string) error { return unix.Mkfifo(p, 0o600) },
		"a socket": func(p string) error { return unix.Mknod(p, unix.S_IFSOCK|0o600, 0) },
	} {
		if err := make(filepath.Join(root, name)); err != nil {
			t.Fatal(err)
		}
		tree, err := archive.OpenTree(root)
		if err != nil {
			t.Fatal(err)
		}
		err = tree.PackOne(t.Context(), io.Discard, name, "x", archive.PackOptions{})
		tree.Close()
		if err == nil || !strings.Contains(err.Error(), "neither a file nor a directory") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestRemove(t *testing.T) {
	root, outside := place(t)
	if err := errors.Join(os.MkdirAll(filepath.Join(root, "a/b"), 0o755), os.Symlink(outside, filepath.Join(root, "a/l")), os.Chmod(filepath.Join(root, "a/b"), 0)); err != nil {
		t.Fatal(err)
	}
	if err := archive.Remove(root); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(root); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
	untouched(t, outside)
}

// FuzzUnpack: no stream reaches outside.
func FuzzUnpack(f *testing.F) {
	f.Add(stream(f, dir("a"), file("a/b", "x"), link("l", "/"), hard("h", "a/b"), file(".wh.x", "")).Bytes(), true)
	f.Add(stream(f, link("l", "../outside"), file("l/secret", "x")).Bytes(), false)
	f.Fuzz(func(t *testing.T, b []byte, layer bool) {
		root, outside := place(t)
		_, _ = unpack(t, root, bytes.NewReader(b), archive.Options{Layer: layer, Limits: archive.Limits{Bytes: 1 << 20, Entries: 1000}})
		untouched(t, outside)
	})
}
