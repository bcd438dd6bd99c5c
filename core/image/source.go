// Package image opens what environments are imported from: archives, folders,
// and OCI images in a layout, a docker-archive or a registry.
package image

import (
	"bufio"
	"bytes"
	"compress/bzip2"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"

	"github.com/lxbridge/lx/core/archive"
	"github.com/lxbridge/lx/core/store"
)

// Progress is told how many more bytes of a source have been read, of how
// many; total is 0 where that is not known.
type Progress func(n int, total int64)

// ErrSource says that no form of source has this name.
var ErrSource = errors.New("want ./FILE.tar, ./FOLDER, docker://REFERENCE, oci:DIR or docker-archive:FILE")

type source struct {
	name   string
	layers []store.Layer
	env    []string
}

func (s source) Layers() []store.Layer { return s.layers }
func (s source) Env() []string         { return s.env }
func (s source) String() string        { return s.name }

// Open opens the source that text names, as the command line has it.
func Open(ctx context.Context, text string, progress Progress) (store.Source, error) {
	if progress == nil {
		progress = func(int, int64) {}
	}
	kind, rest, _ := strings.Cut(text, ":")
	switch {
	case strings.HasPrefix(text, "docker://"):
		return openRegistry(ctx, strings.TrimPrefix(text, "docker://"), progress)
	case kind == "oci" && rest != "":
		return openLayout(rest, progress)
	case kind == "docker-archive" && rest != "":
		return openArchive(rest, progress)
	case strings.HasPrefix(text, "/"), strings.HasPrefix(text, "./"), strings.HasPrefix(text, "../"), text == ".", text == "..":
		return openPath(text, progress)
	}
	return nil, fmt.Errorf("cannot import from %q: %w", text, ErrSource)
}

// openPath opens a folder or an archive of a root file system.
func openPath(path string, progress Progress) (store.Source, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	st, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("cannot import: %w", err)
	}
	open := func(context.Context) (io.ReadCloser, error) {
		f, err := os.Open(abs)
		if err != nil {
			return nil, fmt.Errorf("cannot import: %w", err)
		}
		size := st.Size()
		if !st.Mode().IsRegular() {
			size = 0
		}
		r, err := Decompress(&counter{r: f, total: size, progress: progress})
		if err != nil {
			f.Close()
			return nil, fmt.Errorf("cannot read %s: %w", path, err)
		}
		return closer{r, f.Close}, nil
	}
	if st.IsDir() {
		open = func(ctx context.Context) (io.ReadCloser, error) { return openFolder(ctx, abs, progress) }
	}
	return source{name: abs, layers: []store.Layer{{Open: open}}}, nil
}

// openFolder packs a folder while it is read: what is the user's becomes root's.
func openFolder(ctx context.Context, dir string, progress Progress) (io.ReadCloser, error) {
	t, err := archive.OpenTree(dir)
	if err != nil {
		return nil, err
	}
	me, mine := uint32(os.Getuid()), uint32(os.Getgid())
	owner := func(uid, gid uint32) (uint32, uint32) {
		if uid == me {
			uid = 0
		}
		if gid == mine {
			gid = 0
		}
		return uid, gid
	}
	r, w := io.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		w.CloseWithError(t.Pack(ctx, w, archive.PackOptions{Owner: owner, Xattrs: true}))
		t.Close()
	}()
	return closer{&counter{r: r, progress: progress}, func() error {
		err := r.Close()
		<-done
		return err
	}}, nil
}

// Decompress reads r as it is, or as gzip, zstd, xz or bzip2 by its first bytes.
func Decompress(r io.Reader) (io.Reader, error) {
	br := bufio.NewReaderSize(r, 64<<10)
	head, err := br.Peek(6)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	switch {
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b}):
		return gzip.NewReader(br)
	case bytes.HasPrefix(head, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		d, err := zstd.NewReader(br, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(256<<20))
		if err != nil {
			return nil, err
		}
		return d.IOReadCloser(), nil
	case bytes.HasPrefix(head, []byte("\xfd7zXZ\x00")):
		return xz.NewReader(br)
	case bytes.HasPrefix(head, []byte("BZh")):
		return bzip2.NewReader(br), nil
	}
	return br, nil
}

var platform = v1.Platform{OS: "linux", Architecture: runtime.GOARCH}

func openRegistry(ctx context.Context, ref string, progress Progress) (store.Source, error) {
	r, err := name.ParseReference(ref)
	if err != nil {
		return nil, fmt.Errorf("cannot import docker://%s: %w", ref, err)
	}
	img, err := remote.Image(r, remote.WithContext(ctx), remote.WithPlatform(platform), remote.WithAuthFromKeychain(authn.DefaultKeychain))
	if err != nil {
		return nil, fmt.Errorf("cannot import docker://%s: %w", ref, err)
	}
	return fromImage("docker://"+ref, img, progress)
}

func openArchive(file string, progress Progress) (store.Source, error) {
	img, err := tarball.ImageFromPath(file, nil)
	if err != nil {
		return nil, fmt.Errorf("cannot import docker-archive:%s: %w", file, err)
	}
	return fromImage("docker-archive:"+file, img, progress)
}

// openLayout picks the image for this machine from an OCI image layout, whose
// manifests it checks against their digests.
func openLayout(dir string, progress Progress) (store.Source, error) {
	fail := func(err error) (store.Source, error) {
		return nil, fmt.Errorf("cannot import oci:%s: %w", dir, err)
	}
	index, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		return fail(err)
	}
	for range 8 { // an index may lie in an index
		m, err := index.IndexManifest()
		if err != nil {
			return fail(err)
		}
		desc, err := pick(m.Manifests)
		if err != nil {
			return fail(err)
		}
		if desc.MediaType.IsIndex() {
			if index, err = index.ImageIndex(desc.Digest); err != nil {
				return fail(err)
			}
			raw, err := index.RawManifest()
			if err := errors.Join(err, check(desc.Digest, raw)); err != nil {
				return fail(err)
			}
			continue
		}
		img, err := index.Image(desc.Digest)
		if err != nil {
			return fail(err)
		}
		raw, err := img.RawManifest()
		if err := errors.Join(err, check(desc.Digest, raw)); err != nil {
			return fail(err)
		}
		return fromImage("oci:"+dir, img, progress)
	}
	return fail(errors.New("indexes within indexes"))
}

// pick is the image for this machine, or the only one.
func pick(list []v1.Descriptor) (v1.Descriptor, error) {
	var found []v1.Descriptor
	for _, d := range list {
		if d.Platform == nil || d.Platform.Satisfies(platform) {
			found = append(found, d)
		}
	}
	if len(found) == 0 {
		return v1.Descriptor{}, fmt.Errorf("no image for %s among %d", platform, len(list))
	}
	return found[0], nil
}

func check(want v1.Hash, b []byte) error {
	sum := sha256.Sum256(b)
	if got := "sha256:" + hex.EncodeToString(sum[:]); got != want.String() {
		return fmt.Errorf("wrong digest: %s is %s", want, got)
	}
	return nil
}

// fromImage makes layers of an image. Their streams are verified by the digests
// in its configuration, which the manifest names by its own.
func fromImage(text string, img v1.Image, progress Progress) (store.Source, error) {
	fail := func(err error) (store.Source, error) { return nil, fmt.Errorf("cannot import %s: %w", text, err) }
	want, err := img.ConfigName()
	if err != nil {
		return fail(err)
	}
	raw, err := img.RawConfigFile()
	if err := errors.Join(err, check(want, raw)); err != nil {
		return fail(err)
	}
	cfg, err := img.ConfigFile()
	if err != nil {
		return fail(err)
	}
	if cfg.OS != "" && cfg.OS != "linux" || cfg.Architecture != "" && cfg.Architecture != runtime.GOARCH {
		return fail(fmt.Errorf("the image is for %s/%s, this machine is %s", cfg.OS, cfg.Architecture, platform))
	}
	layers, err := img.Layers()
	if err != nil {
		return fail(err)
	}
	if len(layers) == 0 || len(layers) != len(cfg.RootFS.DiffIDs) {
		return fail(fmt.Errorf("%d layers, and %d digests of them", len(layers), len(cfg.RootFS.DiffIDs)))
	}
	var total int64
	for _, l := range layers {
		n, err := l.Size()
		if err != nil {
			return fail(err)
		}
		total += n
	}
	s := source{name: text, env: cfg.Config.Env}
	for i, l := range layers {
		id := cfg.RootFS.DiffIDs[i]
		if id.Algorithm != "sha256" {
			return fail(fmt.Errorf("a digest %s: want sha256", id))
		}
		s.layers = append(s.layers, store.Layer{ID: id.String(), Open: func(context.Context) (io.ReadCloser, error) {
			c, err := l.Compressed()
			if err != nil {
				return nil, fmt.Errorf("cannot read layer %s: %w", id, err)
			}
			r, err := Decompress(&counter{r: c, total: total, progress: progress})
			if err != nil {
				c.Close()
				return nil, fmt.Errorf("cannot read layer %s: %w", id, err)
			}
			return closer{&verifier{r: r, want: id, hash: sha256.New()}, c.Close}, nil
		}})
	}
	return s, nil
}

// verifier fails at the end of a stream that has not the digest.
type verifier struct {
	r    io.Reader
	want v1.Hash
	hash hash.Hash
}

func (v *verifier) Read(p []byte) (int, error) {
	n, err := v.r.Read(p)
	v.hash.Write(p[:n])
	if errors.Is(err, io.EOF) {
		if got := hex.EncodeToString(v.hash.Sum(nil)); got != v.want.Hex {
			return n, fmt.Errorf("wrong digest: layer %s is sha256:%s", v.want, got)
		}
	}
	return n, err
}

type counter struct {
	r        io.Reader
	total    int64
	progress Progress
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.progress(n, c.total)
	return n, err
}

type closer struct {
	io.Reader
	close func() error
}

func (c closer) Close() error { return c.close() }
