// Command bench measures lx beside native calls and its peers, in turns in the
// same run, and prints ratios. A row that misses its target says MISS; the
// exit code tells only whether measuring worked.
//
//	bench [-lx FILE] [-rclone FILE] [-user NAME] [-short] [-runs N] [-match TEXT] [core] [environments] [mounts] [nfs] [fuse] [ports] [usb]
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

func main() {
	if len(os.Args) > 2 && os.Args[1] == "workload" {
		w, ok := workloads[os.Args[2]]
		if !ok {
			fatal(fmt.Errorf("no workload %q", os.Args[2]))
		}
		v, err := w(os.Args[3:])
		if err != nil {
			fatal(err)
		}
		fmt.Println(v)
		return
	}
	if len(os.Args) > 2 && os.Args[1] == "filtered" {
		fatal(filtered(os.Args[2:]))
	}
	if len(os.Args) > 1 && os.Args[1] == "hold" {
		fatal(holdSockets(os.Args[2:]))
	}
	if len(os.Args) > 2 && os.Args[1] == "serve-memory" {
		fatal(serveMemory(os.Args[2], os.Args[3:]))
	}
	if len(os.Args) > 1 && os.Args[1] == "serve-usb" {
		fatal(serveUSB())
	}
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer cancel()
	if err := run(ctx); err != nil {
		fatal(err)
	}
}

func fatal(err error) {
	if err == nil {
		os.Exit(0)
	}
	fmt.Fprintln(os.Stderr, "bench:", err)
	os.Exit(1)
}

// bench is one run: who measures, with what, where.
type bench struct {
	ctx    context.Context
	self   string
	lx     string
	lxnet  string
	rclone string
	dir    string // scratch, the measuring user's own
	env    []string
	cred   *syscall.Credential
	short  bool
}

func run(ctx context.Context) (err error) {
	lx := flag.String("lx", "build/lx", "the lx to measure")
	rclone := flag.String("rclone", "rclone", "the rclone to measure beside")
	name := flag.String("user", "", "as root: measure as this user")
	short := flag.Bool("short", false, "fewer runs of smaller work")
	runs := flag.Int("runs", 5, "runs of each contender")
	match := flag.String("match", "", "only rows whose title has this text")
	flag.Parse()
	groups := flag.Args()
	if len(groups) == 0 {
		groups = []string{"core", "environments", "mounts", "nfs", "fuse", "ports", "usb"}
	}
	b := &bench{ctx: ctx, short: *short}
	if b.lx, err = filepath.Abs(*lx); err != nil {
		return err
	}
	if b.dir, err = os.MkdirTemp(scratch(), "lx-bench-"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(b.dir)) }()
	// The server's own user and the measuring one both come here.
	if err := os.Chmod(b.dir, 0o711); err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	// A copy that the measuring user can execute wherever this one is.
	b.self = filepath.Join(b.dir, "bench")
	if err := copyFile(self, b.self); err != nil {
		return err
	}
	if err := b.copyLxnet(b.lx); err != nil {
		return err
	}
	lxCopy := filepath.Join(b.dir, "lx")
	if err := copyFile(b.lx, lxCopy); err != nil {
		return err
	}
	b.lx = lxCopy
	if b.rclone = *rclone; strings.Contains(b.rclone, "/") {
		b.rclone = filepath.Join(b.dir, "rclone")
		if err := copyFile(*rclone, b.rclone); err != nil {
			return err
		}
	}
	if err := b.become(*name); err != nil {
		return err
	}
	if *short {
		*runs = min(*runs, 3)
	}
	t := &table{w: os.Stdout, times: *runs, match: *match}
	for _, g := range groups {
		switch g {
		case "core":
			err = b.core(t)
		case "environments":
			err = b.environments(t)
		case "mounts":
			err = b.mounts(t)
		case "nfs":
			err = b.nfs(t)
		case "fuse":
			err = b.fuse(t)
		case "ports":
			err = b.ports(t)
		case "usb":
			err = b.usb(t)
		default:
			err = fmt.Errorf("no group %q: want core, environments, mounts, nfs, fuse, ports, usb", g)
		}
		if err != nil {
			return err
		}
	}
	fmt.Printf("\n%d rows missed their target, %d failed\n", t.miss, t.fails)
	if t.fails > 0 {
		return errors.New("some rows could not be measured")
	}
	return nil
}

// scratch is where to work: in memory where there is room for it and programs
// may be run from it, so that no disk is measured.
func scratch() string {
	const shm, room = "/dev/shm", 4 << 30
	var st unix.Statfs_t
	if err := unix.Statfs(shm, &st); err != nil || st.Flags&unix.ST_NOEXEC != 0 || st.Bavail*uint64(st.Bsize) < room {
		return ""
	}
	return shm
}

func copyFile(from, to string) error {
	b, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, b, 0o755)
}

// become sets who measures, with a home and runtime directory of its own.
func (b *bench) become(name string) error {
	home, runtime := filepath.Join(b.dir, "home"), filepath.Join(b.dir, "run")
	for _, d := range []string{home, runtime} {
		if err := os.Mkdir(d, 0o700); err != nil {
			return err
		}
	}
	b.env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + home, "XDG_RUNTIME_DIR=" + runtime, "LC_ALL=C.UTF-8"}
	if name == "" {
		return nil
	}
	u, err := user.Lookup(name)
	if err != nil {
		return err
	}
	uid, err := strconv.Atoi(u.Uid)
	if err != nil {
		return err
	}
	gid, err := strconv.Atoi(u.Gid)
	if err != nil {
		return err
	}
	b.cred = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	for _, d := range []string{b.dir, home, runtime} {
		if err := os.Chown(d, uid, gid); err != nil {
			return err
		}
	}
	return nil
}

// command is argv as the measuring user, in a session of its own as programs
// inside lx are: the scheduler gives each session its share (autogroup).
func (b *bench) command(argv ...string) *exec.Cmd {
	cmd := exec.CommandContext(b.ctx, argv[0], argv[1:]...)
	cmd.Env, cmd.Dir = b.env, b.dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: b.cred, Setsid: true}
	return cmd
}

// output runs argv and answers what it printed.
func (b *bench) output(argv ...string) (string, error) {
	cmd := b.command(argv...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s: %w: %s", strings.Join(argv, " "), err, strings.TrimSpace(stderr.String()))
	}
	return strings.TrimSpace(string(out)), nil
}

// workload runs a workload behind prefix (nothing, lx, proot).
func (b *bench) workload(prefix []string, name string, args ...string) func() (float64, error) {
	return func() (float64, error) {
		argv := append(append(append([]string{}, prefix...), b.self, "workload", name), args...)
		out, err := b.output(argv...)
		if err != nil {
			return 0, err
		}
		return strconv.ParseFloat(out, 64)
	}
}
