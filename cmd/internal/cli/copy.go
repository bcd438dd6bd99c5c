package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/lxbridge/lx/cmd/internal/command"
	"github.com/lxbridge/lx/core/archive"
	"github.com/lxbridge/lx/core/env"
	"github.com/lxbridge/lx/core/store"
)

func newCopy() *cobra.Command {
	return &cobra.Command{
		Use:   "copy NAME:/PATH DEST | copy SOURCE NAME:/PATH",
		Short: "Copy a file or directory out of an environment, or into it",
		Long: `copy copies PATH of the environment NAME, with its mounts, to DEST, or SOURCE to PATH.
A destination that is a directory gets the copy in it. Files become yours, or
root's inside; links in a directory are copied as links.`,
		Example: "  lx copy debian:/etc/os-release .\n  lx copy ./site debian:/srv",
		Args:    exactly(2, "a source and a destination"),
		RunE: func(cmd *cobra.Command, args []string) error {
			from, fromPath, out := inside(args[0])
			to, toPath, in := inside(args[1])
			switch {
			case out == in:
				return command.Misused(errors.New("one of source and destination is NAME:/PATH, the other of the host"))
			case out:
				return copyOut(cmd.Context(), from, fromPath, args[1])
			}
			return copyIn(cmd.Context(), args[0], to, toPath)
		},
	}
}

// inside takes NAME:/PATH apart.
func inside(arg string) (name, path string, ok bool) {
	name, path, ok = strings.Cut(arg, ":")
	ok = ok && filepath.IsAbs(path) && store.CheckName(name) == nil
	return name, path, ok
}

// copyOut reads a stream that a process inside makes.
func copyOut(ctx context.Context, name, path, dest string) error {
	return stream(ctx, name, []string{"pack", path}, func(_ io.WriteCloser, r io.Reader) error {
		return receive(ctx, r, dest, streamName(path))
	})
}

// streamName is what a stream calls the file or directory at path.
func streamName(path string) string {
	if name := filepath.Base(filepath.Clean(path)); name != "/" {
		return name
	}
	return "root"
}

// copyIn sends a stream that a process inside unpacks.
func copyIn(ctx context.Context, source, name, dest string) error {
	abs, err := filepath.Abs(source)
	if err != nil {
		return err
	}
	return stream(ctx, name, []string{"unpack", dest}, func(w io.WriteCloser, _ io.Reader) error {
		return errors.Join(send(ctx, w, abs), w.Close())
	})
}

// stream runs this program inside, as RoleTar, with f at its standard input and output.
func stream(ctx context.Context, name string, args []string, f func(w io.WriteCloser, r io.Reader) error) error {
	dirs, err := env.UserDirs()
	if err != nil {
		return err
	}
	inR, inW, err := os.Pipe()
	if err != nil {
		return err
	}
	defer inR.Close()
	defer inW.Close()
	outR, outW, err := os.Pipe()
	if err != nil {
		return err
	}
	defer outR.Close()
	defer outW.Close()
	// The program of the process that starts it: a sealed one.
	spec := env.Spec{Argv: append([]string{"/proc/self/exe"}, args...), Arg0: env.RoleTar, Dir: "/", Umask: 0o022}
	se, err := attach(ctx, runOptions{}, dirs, name, func() (*env.Session, error) {
		return env.Start(ctx, dirs, name, spec, [3]int{int(inR.Fd()), int(outW.Fd()), 2})
	})
	if err != nil {
		return err
	}
	defer se.Close()
	inR.Close()
	outW.Close()
	defer context.AfterFunc(ctx, func() { outR.Close(); inW.Close() })()
	ferr := f(inW, outR)
	if ferr != nil {
		outR.Close() // the other side ends with its next write
	}
	ws, err := se.Wait()
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case err != nil:
		return err
	case ws.Exited() && ws.ExitStatus() == tarFailed:
		return command.Failure // it has said why
	case ferr != nil:
		return ferr
	}
	return status(ws)
}

// tarFailed is the exit code of Tar when it has told a failure.
const tarFailed = 3

// Tar is the process inside that makes or takes the stream of a copy.
func Tar() int {
	ctx := context.Background()
	err := errors.New("two arguments wanted")
	if len(os.Args) == 3 {
		switch os.Args[1] {
		case "pack":
			err = send(ctx, os.Stdout, os.Args[2])
		case "unpack":
			err = receive(ctx, os.Stdin, os.Args[2], "")
		}
	}
	if err != nil && !errors.Is(err, syscall.EPIPE) {
		fmt.Fprintln(os.Stderr, "lx:", err)
		return tarFailed
	}
	return 0
}

// send packs the file or directory at path, under its last name.
func send(ctx context.Context, w io.Writer, path string) error {
	t, err := archive.OpenTree("/")
	if err != nil {
		return err
	}
	defer t.Close()
	return t.PackOne(ctx, w, path, streamName(path), archive.PackOptions{})
}

// receive unpacks what send packed beside its destination, and moves it there
// when all of it has come. The other side may have made the stream up: it takes
// one file or directory from it, of the name as; any, where that is empty.
func receive(ctx context.Context, r io.Reader, dest, as string) (err error) {
	dir, name := filepath.Split(filepath.Clean(dest))
	if st, err := os.Stat(dest); err == nil && st.IsDir() {
		dir, name = dest, ""
	}
	if dir == "" {
		dir = "."
	}
	tmp, err := os.MkdirTemp(dir, ".lx-copy-")
	if err != nil {
		return fmt.Errorf("cannot copy to %s: %w", dest, errors.Unwrap(err))
	}
	defer func() { err = errors.Join(err, archive.Remove(tmp)) }()
	t, err := archive.OpenTree(tmp)
	if err != nil {
		return err
	}
	defer t.Close()
	if _, err := t.Unpack(ctx, r, archive.Options{}); err != nil {
		return fmt.Errorf("cannot copy to %s: %w", dest, err)
	}
	found, err := os.ReadDir(tmp)
	if err != nil {
		return err
	}
	if len(found) != 1 {
		return fmt.Errorf("cannot copy to %s: %d names came, not one", dest, len(found))
	}
	came := found[0]
	switch {
	case as != "" && came.Name() != as:
		return fmt.Errorf("cannot copy to %s: %q came, not %q", dest, came.Name(), as)
	case !came.IsDir() && !came.Type().IsRegular():
		return fmt.Errorf("cannot copy to %s: neither a file nor a directory came", dest)
	}
	if name == "" {
		name = came.Name()
	}
	to := filepath.Join(dir, name)
	if err := os.Rename(filepath.Join(tmp, came.Name()), to); err != nil {
		return fmt.Errorf("cannot copy to %s: %w", to, errors.Unwrap(err))
	}
	return nil
}
