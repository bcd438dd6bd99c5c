package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/lxbridge/lx/cmd/internal/command"
	"github.com/lxbridge/lx/core/archive"
	"github.com/lxbridge/lx/core/image"
	"github.com/lxbridge/lx/core/ns"
	"github.com/lxbridge/lx/core/store"
)

func newImport() *cobra.Command {
	maxSize, maxEntries, idMap := "100G", int64(5_000_000), ""
	cmd := &cobra.Command{
		Use:   "import NAME SOURCE",
		Short: "Make an environment of a distribution's files",
		Long: `import unpacks SOURCE into an environment of its own, which "lx -d NAME" enters:

  ./FILE.tar             a root file system, plain or as gzip, zstd, xz or bzip2
  ./FOLDER               one in a directory; what is yours becomes root's
  oci:DIR                an image in an OCI image layout
  docker-archive:FILE    an image written by docker save
  docker://REFERENCE     an image in a registry

Layers of images are shared by environments and verified by their digests. Owners
and devices that cannot exist here are kept for lx export. If anything fails,
nothing is imported.`,
		Example: "  lx import debian ./rootfs.tar.xz\n  lx import alpine docker://alpine:3",
		Args:    exactly(2, "NAME and SOURCE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			bytes, err := parseSize(maxSize)
			if err != nil {
				return command.Misused(fmt.Errorf("--max-size: %w", err))
			}
			m, err := ns.ChooseOwn(ns.Kind(idMap))
			if err != nil {
				return err
			}
			st, err := openStore()
			if err != nil {
				return err
			}
			return runImport(cmd.Context(), st, args[0], args[1], m, archive.Limits{Bytes: bytes, Entries: maxEntries})
		},
	}
	cmd.Flags().StringVar(&maxSize, "max-size", maxSize, "refuse a source that unpacks to more")
	cmd.Flags().Int64Var(&maxEntries, "max-entries", maxEntries, "refuse a source of more files")
	cmd.Flags().StringVar(&idMap, "map", "", "which ids exist inside: single or subuid (default: what the host offers)")
	return cmd
}

func runImport(ctx context.Context, st *store.Store, name, source string, m ns.Map, limits archive.Limits) error {
	p := newProgress(os.Stderr, "importing "+name)
	defer p.end()
	src, err := image.Open(ctx, source, p.add)
	if errors.Is(err, image.ErrSource) {
		return command.Misused(err)
	}
	if err != nil {
		return err
	}
	r, err := st.Import(ctx, name, src, m, limits)
	p.end()
	if ctx.Err() != nil {
		return fmt.Errorf("cannot import %s: interrupted, nothing is left of it", name)
	}
	if err != nil {
		return fmt.Errorf("cannot import %s: %w", name, err)
	}
	if r.Recorded+r.Lost > 0 && term.IsTerminal(2) {
		fmt.Fprintf(os.Stderr, "lx: %d owners and devices do not exist inside: kept for export (%d could not be)\n", r.Recorded+r.Lost, r.Lost)
	}
	return nil
}

// progress shows on a terminal how far something is; elsewhere nothing.
type progress struct {
	what        string
	done, total atomic.Int64
	stop        chan struct{}
	ended       chan struct{}
}

func newProgress(w *os.File, what string) *progress {
	p := &progress{what: what, stop: make(chan struct{}), ended: make(chan struct{})}
	if !term.IsTerminal(int(w.Fd())) {
		close(p.ended)
		return p
	}
	go func() {
		defer close(p.ended)
		tick := time.NewTicker(200 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-p.stop:
				fmt.Fprint(w, "\r\x1b[K")
				return
			case <-tick.C:
				fmt.Fprint(w, "\r\x1b[K"+p.line())
			}
		}
	}()
	return p
}

func (p *progress) add(n int, total int64) {
	p.done.Add(int64(n))
	p.total.Store(total)
}

func (p *progress) line() string {
	done, total := p.done.Load(), p.total.Load()
	if total <= 0 {
		return fmt.Sprintf("%s  %s", p.what, size(uint64(done)))
	}
	const width = 30
	part := min(done, total)
	bar := strings.Repeat("#", int(part*width/total))
	return fmt.Sprintf("%s  [%-*s] %3d%%  %s", p.what, width, bar, part*100/total, size(uint64(done)))
}

// end takes the line off the terminal; it may be called again.
func (p *progress) end() {
	select {
	case <-p.stop:
	default:
		close(p.stop)
	}
	<-p.ended
}

// parseSize reads a number of bytes with K, M, G or T behind it.
func parseSize(s string) (int64, error) {
	num, shift := s, 0
	if i := strings.IndexAny(s, "KMGT"); i >= 0 && i == len(s)-1 {
		num, shift = s[:i], 10*(1+strings.IndexByte("KMGT", s[i]))
	}
	n, err := strconv.ParseInt(num, 10, 64)
	if err != nil || n <= 0 || n > 1<<62>>shift {
		return 0, fmt.Errorf("%q: want a number of bytes, with K, M, G or T", s)
	}
	return n << shift, nil
}

func newExport() *cobra.Command {
	return &cobra.Command{
		Use:   "export NAME [FILE|-]",
		Short: "Write an environment's files as a tar archive",
		Long: `export writes the files of an imported environment, with the owners, devices and
attributes that it was imported with, to FILE or to standard output.`,
		Example: "  lx export debian debian.tar\n  lx export debian | zstd >debian.tar.zst",
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) < 1 || len(args) > 2 {
				return command.Misused(errors.New("lx export wants NAME and at most one FILE"))
			}
			st, err := openStore()
			if err != nil {
				return err
			}
			if len(args) == 1 || args[1] == "-" {
				if term.IsTerminal(1) {
					return command.Misused(errors.New("an archive is not for a terminal: name a FILE"))
				}
				return exported(st.Export(cmd.Context(), args[0], os.Stdout), args[0])
			}
			return exportFile(cmd.Context(), st, args[0], args[1])
		},
	}
}

func exported(err error, name string) error {
	if err != nil {
		return fmt.Errorf("cannot export %s: %w", name, err)
	}
	return nil
}

// exportFile writes a new file, which is there when all of it is.
func exportFile(ctx context.Context, st *store.Store, name, file string) error {
	f, err := os.OpenFile(file+".part", os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o666)
	if err != nil {
		return exported(err, name)
	}
	p := newProgress(os.Stderr, "exporting "+name)
	err = st.Export(ctx, name, io.MultiWriter(f, progressWriter{p}))
	p.end()
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Rename(f.Name(), file)
	}
	if err != nil {
		err = errors.Join(err, os.Remove(f.Name()))
	}
	return exported(err, name)
}

type progressWriter struct{ p *progress }

func (w progressWriter) Write(b []byte) (int, error) {
	w.p.add(len(b), 0)
	return len(b), nil
}
