package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lxbridge/lx/core/archive"
	"github.com/lxbridge/lx/core/ns"
)

// RoleWorker is argv[0] of the process that touches environments' files: it
// lives in a user namespace with their map, where owners are what they are.
const RoleWorker = "lx-store"

// Descriptors of a worker, beside its standard ones.
const (
	workerJobFD    = 3 // job as JSON, written when the id map stands
	workerAnswerFD = 4 // takes an answer
)

// job is what a worker does.
type job struct {
	Op      string // unpack standard input, pack to standard output, remove, usage, probe
	Map     ns.Map
	Root    Root             // where: mounted before; for remove and usage Dir
	Dir     string           `json:",omitempty"`
	Unpack  *archive.Options `json:",omitempty"`
	Partial bool             // unpack: more layers come
}

type answer struct {
	Error string `json:",omitempty"`
	archive.Report
}

// work runs a job in a worker, and ends it when ctx ends.
func work(ctx context.Context, j job, in io.Reader, out io.Writer) (archive.Report, error) {
	jobR, jobW, err := os.Pipe()
	if err != nil {
		return archive.Report{}, err
	}
	defer jobW.Close()
	answerR, answerW, err := os.Pipe()
	if err != nil {
		jobR.Close()
		return archive.Report{}, err
	}
	defer answerR.Close()
	cmd := exec.CommandContext(ctx, "/proc/self/exe")
	cmd.Args = []string{RoleWorker}
	source := &errorKeeper{r: in}
	if in != nil {
		cmd.Stdin = source
	}
	cmd.Stdout, cmd.Stderr = out, os.Stderr
	cmd.WaitDelay = time.Second
	cmd.Dir = "/"
	cmd.ExtraFiles = []*os.File{jobR, answerW}
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS, Setpgid: true}
	mapless := j.Map.Birth(cmd.SysProcAttr)
	err = cmd.Start()
	jobR.Close()
	answerW.Close()
	if err != nil {
		return archive.Report{}, fmt.Errorf("cannot start a worker (`lx doctor` tells what this host forbids): %w", err)
	}
	if mapless {
		err = j.Map.Write(cmd.Process.Pid)
	}
	if err := errors.Join(err, json.NewEncoder(jobW).Encode(j)); err != nil {
		_ = cmd.Process.Kill() // it may have ended
		return archive.Report{}, errors.Join(err, ctx.Err(), ended(cmd.Wait()))
	}
	jobW.Close()
	var a answer
	derr := json.NewDecoder(answerR).Decode(&a)
	answerR.Close() // the worker is done; what still writes to its input hears of it by its end
	werr := ended(cmd.Wait())
	switch {
	case ctx.Err() != nil:
		return a.Report, ctx.Err()
	case source.err != nil:
		return a.Report, source.err
	case derr != nil:
		return a.Report, errors.Join(errors.New("a worker ended before its work"), werr)
	case a.Error != "":
		return a.Report, errors.New(a.Error)
	}
	return a.Report, werr
}

// errorKeeper remembers why a source could not be read.
type errorKeeper struct {
	r   io.Reader
	err error
}

func (e *errorKeeper) Read(p []byte) (int, error) {
	n, err := e.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		e.err = err
	}
	return n, err
}

// ended leaves out how the worker exited, and that it did not read to the end.
func ended(err error) error {
	var ee *exec.ExitError
	if errors.As(err, &ee) || errors.Is(err, syscall.EPIPE) || errors.Is(err, exec.ErrWaitDelay) {
		return nil
	}
	return err
}

// Worker is the process's main function; it answers the exit code.
func Worker() int {
	out := os.NewFile(workerAnswerFD, "answer")
	say := func(r archive.Report, err error) int {
		a, code := answer{Report: r}, 0
		if err != nil {
			a.Error, code = err.Error(), 1
		}
		if json.NewEncoder(out).Encode(a) != nil {
			return 1
		}
		return code
	}
	if len(os.Args) < 2 {
		return say(archive.Report{}, ns.Reexec([]string{RoleWorker, "mapped"}, workerJobFD, workerAnswerFD))
	}
	unix.CloseOnExec(workerJobFD)
	unix.CloseOnExec(workerAnswerFD)
	unix.Umask(0)
	var j job
	if err := json.NewDecoder(os.NewFile(workerJobFD, "job")).Decode(&j); err != nil {
		return say(archive.Report{}, fmt.Errorf("cannot read the job: %w", err))
	}
	return say(j.do(context.Background()))
}

func (j job) do(ctx context.Context) (archive.Report, error) {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return archive.Report{}, fmt.Errorf("cannot leave the host's mount propagation: %w", err)
	}
	switch j.Op {
	case "remove":
		return archive.Report{}, archive.Remove(j.Dir)
	case "usage":
		var r archive.Report
		var err error
		r.Bytes, r.Entries, err = archive.Usage(j.Dir)
		return r, err
	case "probe":
		return archive.Report{}, probe(j.Dir)
	case "pack":
		if err := j.Root.View(); err != nil {
			return archive.Report{}, err
		}
		t, err := archive.OpenTree(j.Root.Place)
		if err != nil {
			return archive.Report{}, err
		}
		defer t.Close()
		return archive.Report{}, t.Pack(ctx, os.Stdout, archive.PackOptions{Xattrs: true})
	case "unpack":
		if err := j.Root.Mount(); err != nil {
			return archive.Report{}, err
		}
		if err := os.Chown(j.Root.Place, 0, 0); err != nil {
			return archive.Report{}, err
		}
		t, err := archive.OpenTree(j.Root.Place)
		if err != nil {
			return archive.Report{}, err
		}
		defer t.Close()
		r, err := t.Unpack(ctx, os.Stdin, *j.Unpack)
		if err == nil && !j.Partial {
			err = looksLikeRoot(j.Root.Place)
		}
		return r, err
	}
	return archive.Report{}, fmt.Errorf("a worker knows no %q", j.Op)
}

// looksLikeRoot refuses a tree in which nothing could run.
func looksLikeRoot(dir string) error {
	for _, name := range []string{"bin", "usr", "sbin", "nix"} {
		if _, err := os.Lstat(filepath.Join(dir, name)); err == nil {
			return nil
		}
	}
	return errors.New("this is no root file system: it has neither bin nor usr (are they in a directory of the archive?)")
}

// probe tries an overlay of directories below dir.
func probe(dir string) error {
	var at [4]string
	for i, d := range []string{"lower", "upper", "work", "mount"} {
		at[i] = filepath.Join(dir, d)
		if err := os.Mkdir(at[i], 0o700); err != nil {
			return err
		}
	}
	if err := os.WriteFile(filepath.Join(at[0], "f"), nil, 0o600); err != nil {
		return err
	}
	if err := mountOverlay(at[3], at[:1], at[1], at[2]); err != nil {
		return err
	}
	return os.Remove(filepath.Join(at[3], "f")) // a whiteout, which some file systems refuse
}
