package image_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/lxbridge/lx/core/archive"
	"github.com/lxbridge/lx/core/feature"
	"github.com/lxbridge/lx/core/image"
	"github.com/lxbridge/lx/core/ns"
	"github.com/lxbridge/lx/core/store"
)

func TestMain(m *testing.M) {
	if os.Args[0] == store.RoleWorker {
		os.Exit(store.Worker())
	}
	os.Exit(m.Run())
}

// layer is a layer of files by name; a name that ends in / is a directory.
func layer(t testing.TB, files ...string) v1.Layer {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range files {
		name, body, _ := strings.Cut(f, "=")
		h := tar.Header{Name: name, Mode: 0o755, Size: int64(len(body)), Typeflag: tar.TypeReg, Uid: 7, Gid: 8}
		if strings.HasSuffix(name, "/") {
			h.Typeflag = tar.TypeDir
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
	l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b.Bytes())), nil })
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// build is an image of layers as a distribution's is: like is its package manager's place.
func build(t testing.TB, like string) v1.Image {
	t.Helper()
	img, err := mutate.AppendLayers(empty.Image,
		layer(t, "bin/", "bin/sh=sh", "etc/", "etc/old=old", "opt/", "opt/a=a", like+"=db"),
		layer(t, "etc/.wh.old=", "etc/new=new", "opt/.wh..wh..opq=", "opt/b=b"))
	if err != nil {
		t.Fatal(err)
	}
	img, err = mutate.Config(img, v1.Config{Env: []string{"FLAVOUR=" + like}})
	if err != nil {
		t.Fatal(err)
	}
	return img
}

func newStore(t testing.TB) (*store.Store, string, ns.Map) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "store")
	st, err := store.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	m, err := ns.ChooseOwn("")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		list, err := st.List()
		if err != nil {
			t.Error(err)
		}
		for _, r := range list[1:] {
			if err := st.Remove(context.Background(), r.Name); err != nil {
				t.Error(err)
			}
		}
		for _, d := range []string{"environments", "layers", "tmp"} {
			if left, err := os.ReadDir(filepath.Join(dir, d)); err != nil || len(left) > 0 {
				t.Errorf("left in %s: %v, %v", d, left, err)
			}
		}
	})
	return st, dir, m
}

func doImport(st *store.Store, m ns.Map, name, text string) error {
	src, err := image.Open(context.Background(), text, nil)
	if err != nil {
		return err
	}
	_, err = st.Import(context.Background(), name, src, m, archive.Limits{Bytes: 1 << 20})
	return err
}

// tree are the names and owners of an environment, as it is exported.
func tree(t testing.TB, st *store.Store, name string) string {
	t.Helper()
	var b bytes.Buffer
	if err := st.Export(context.Background(), name, &b); err != nil {
		t.Fatal(err)
	}
	var names []string
	for tr := tar.NewReader(&b); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return strings.Join(names, " ")
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.Typeflag == tar.TypeReg {
			names = append(names, fmt.Sprintf("%s:%d", h.Name, h.Uid))
		}
	}
}

// TestImages: an image from each kind of source; layers are shared, whiteouts
// hold, owners come back.
func TestImages(t *testing.T) {
	for like, file := range map[string]string{"dnf": "rpmdb.sqlite", "apk": "installed", "pacman": "local"} {
		t.Run(like, func(t *testing.T) {
			st, dir, m := newStore(t)
			img := build(t, file)
			at := t.TempDir()
			if _, err := layout.Write(filepath.Join(at, "oci"), mutate.AppendManifests(empty.Index, mutate.IndexAddendum{Add: img})); err != nil {
				t.Fatal(err)
			}
			ref, err := name.NewTag("example/" + like + ":1")
			if err != nil {
				t.Fatal(err)
			}
			if err := tarball.WriteToFile(filepath.Join(at, "docker.tar"), ref, img); err != nil {
				t.Fatal(err)
			}
			srv := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
			defer srv.Close()
			pull := strings.TrimPrefix(srv.URL, "http://") + "/" + like + ":1"
			if ref, err = name.NewTag(pull); err != nil {
				t.Fatal(err)
			}
			if err := remote.Write(ref, img); err != nil {
				t.Fatal(err)
			}
			files := []string{"bin/sh:7", "etc/new:7", "opt/b:7", file + ":7"}
			slices.Sort(files)
			want := strings.Join(files, " ")
			sources := map[string][]string{ // several of one image share its layers
				"dnf":    {"oci:" + at + "/oci", "docker-archive:" + at + "/docker.tar"},
				"apk":    {"docker://" + pull},
				"pacman": {"docker-archive:" + at + "/docker.tar"},
			}[like]
			for i, source := range sources {
				env := fmt.Sprint("e", i)
				if err := doImport(st, m, env, source); err != nil {
					t.Fatal(err)
				}
				if got := tree(t, st, env); got != want {
					t.Errorf("%s: %s\nwant %s", source, got, want)
				}
				rec, err := st.Get(env)
				if err != nil || len(rec.Env) != 1 || rec.Env[0] != "FLAVOUR="+file {
					t.Errorf("record %+v, %v", rec, err)
				}
			}
			layers, err := os.ReadDir(filepath.Join(dir, "layers"))
			if err != nil {
				t.Fatal(err)
			}
			if want := 2; len(layers) != want && !feature.Missing(feature.Overlay) {
				t.Errorf("%d layers for environments of one image, want %d", len(layers), want)
			}
			if len(sources) < 2 {
				return
			}
			if err := st.Remove(context.Background(), "e0"); err != nil {
				t.Fatal(err)
			}
			if got := tree(t, st, "e1"); got != want {
				t.Errorf("after another was removed: %s", got)
			}
		})
	}
}

// TestWrongDigest: a layer that is not what its digest says is refused, and
// nothing of it stays.
func TestWrongDigest(t *testing.T) {
	st, _, m := newStore(t)
	at := filepath.Join(t.TempDir(), "oci")
	img := build(t, "x")
	if _, err := layout.Write(at, mutate.AppendManifests(empty.Index, mutate.IndexAddendum{Add: img})); err != nil {
		t.Fatal(err)
	}
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	other, err := layer(t, "bin/", "bin/sh=evil").Compressed()
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(other)
	if err != nil {
		t.Fatal(err)
	}
	d, err := layers[1].Digest()
	if err != nil {
		t.Fatal(err)
	}
	blob := filepath.Join(at, "blobs", d.Algorithm, d.Hex)
	if err := os.WriteFile(blob, b, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := doImport(st, m, "x", "oci:"+at); err == nil || !strings.Contains(err.Error(), "wrong digest") {
		t.Errorf("a wrong layer: %v", err)
	}
	if _, err := st.Get("x"); !errors.Is(err, store.ErrUnknown) {
		t.Errorf("half imported: %v", err)
	}
	// The first layer, which was right, stays for the next import, and goes
	// when an environment is removed.
	if err := doImport(st, m, "y", "docker://localhost:1/none"); err == nil {
		t.Error("a registry that is not there")
	}
	if err := doImport(st, m, "y", folder(t)); err != nil {
		t.Fatal(err)
	}
}

// folder is a root file system in a directory.
func folder(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	if err := errors.Join(os.Mkdir(filepath.Join(dir, "bin"), 0o755), os.WriteFile(filepath.Join(dir, "bin/sh"), nil, 0o755), os.Symlink("/etc", filepath.Join(dir, "out"))); err != nil {
		t.Fatal(err)
	}
	return dir
}

// TestFolder: what is the user's becomes root's.
func TestFolder(t *testing.T) {
	st, _, m := newStore(t)
	if err := doImport(st, m, "f", folder(t)); err != nil {
		t.Fatal(err)
	}
	if got := tree(t, st, "f"); got != "bin/sh:0" {
		t.Errorf("%s", got)
	}
}

func TestSources(t *testing.T) {
	for _, text := range []string{"", "debian", "oci:", "http://x", "docker-archive:", "file.tar"} {
		if _, err := image.Open(context.Background(), text, nil); !errors.Is(err, image.ErrSource) {
			t.Errorf("%q: %v", text, err)
		}
	}
	for _, text := range []string{"oci:/none", "docker-archive:/none", "docker://UPPER//x", "/none", "./none"} {
		if _, err := image.Open(context.Background(), text, nil); err == nil || errors.Is(err, image.ErrSource) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// FuzzDecompress: whatever the bytes, it ends.
func FuzzDecompress(f *testing.F) {
	f.Add([]byte("\x1f\x8b\x08"))
	f.Add([]byte("\x28\xb5\x2f\xfd\x04"))
	f.Add([]byte("\xfd7zXZ\x00\x00"))
	f.Add([]byte("BZh9"))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := image.Decompress(bytes.NewReader(b))
		if err != nil {
			return
		}
		_, _ = io.Copy(io.Discard, io.LimitReader(r, 1<<20)) // an error is a good answer
	})
}
