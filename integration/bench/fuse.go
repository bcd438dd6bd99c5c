package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	gofs "github.com/hanwen/go-fuse/v2/fs"
	gofuse "github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/lxbridge/lx/core/fuse"
	"github.com/lxbridge/lx/mount/memvol"
	"github.com/lxbridge/lx/mount/serve"
)

// fuse measures the FUSE server and the serving layer on a volume in memory,
// beside go-fuse's own memory file system.
func (b *bench) fuse(t *table) error {
	mib, files, random := 256, 10_000, 20_000
	if b.short {
		mib, files, random = 64, 2000, 5000
	}
	both := func(work string, args ...string) (cs []contender) {
		for _, kind := range []string{"lx", "go-fuse"} {
			cs = append(cs, contender{kind, func() (float64, error) { return b.memory(kind, work, args...) }})
		}
		return cs
	}
	size, n, r := strconv.Itoa(mib), strconv.Itoa(files), strconv.Itoa(random)
	rows := []row{
		{name: "sequential read, cold", unit: "MB/s", contenders: both("coldread", "@/file", size)},
		{name: "sequential write, fsync", unit: "MB/s", contenders: both("seqwrite", "@/file", size)},
		{name: "random 4 KiB reads, depth 1", unit: "op/s", contenders: both("coldrand", "@/file", size, "1", r)},
		{name: "random 4 KiB reads, depth 32", unit: "op/s", contenders: both("coldrand", "@/file", size, "32", r)},
		{name: fmt.Sprintf("create %d files", files), unit: "op/s", contenders: both("create", "@", n)},
		{name: "stat", unit: "op/s", contenders: both("filled", "statall", "@", n)},
		{name: fmt.Sprintf("ls -l of %d entries", files), unit: "entry/s", contenders: both("filled", "list", "@", n)},
		{name: fmt.Sprintf("delete %d files", files), unit: "op/s", contenders: both("filled", "delete", "@", n)},
	}
	for i := range rows {
		rows[i].more, rows[i].against, rows[i].target = true, 1, atLeast(1)
	}
	t.group("FUSE server, volume in memory", rows)
	return nil
}

func init() {
	workloads["coldread"] = coldRead
	workloads["coldrand"] = coldRand
	workloads["filled"] = filled
}

// memory runs a workload on a memory file system in a namespace of its own. @
// in its arguments stands for the mount.
func (b *bench) memory(kind, work string, args ...string) (float64, error) {
	cmd := b.command(append([]string{b.self, "serve-memory", kind, work}, args...)...)
	uid, gid := os.Getuid(), os.Getgid()
	if b.cred != nil {
		uid, gid = int(b.cred.Uid), int(b.cred.Gid)
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWUSER | unix.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: uid, Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: gid, Size: 1}},
		// The namespace's root, which is the measuring user.
		Credential: &syscall.Credential{NoSetGroups: true},
	}
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return 0, fmt.Errorf("%s: %w: %s", kind, err, stderr.String())
	}
	return strconv.ParseFloat(strings.TrimSpace(string(out)), 64)
}

// serveMemory mounts a memory file system, runs a workload on it in another
// process, and prints the figure.
func serveMemory(kind string, args []string) (err error) {
	dir, err := os.MkdirTemp("", "lx-memory-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.Remove(dir)) }()
	serve := map[string]func(string) (func() error, error){"lx": serveLX, "go-fuse": serveGoFuse}[kind]
	if serve == nil {
		return fmt.Errorf("no memory file system %q", kind)
	}
	stop, err := serve(dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stop()) }()
	argv := append([]string{"workload"}, args...)
	for i := range argv {
		if rest, ok := strings.CutPrefix(argv[i], "@"); ok {
			argv[i] = dir + rest
		}
	}
	cmd := exec.Command("/proc/self/exe", argv...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	return cmd.Run()
}

func serveLX(dir string) (func() error, error) {
	vol := memvol.New(memvol.Options{})
	fs := serve.New(vol, serve.Options{})
	srv, err := fuse.New(fs, fuse.Config{})
	if err != nil {
		return nil, err
	}
	dev, err := fuse.Mount(dir, fuse.MountConfig{Source: "memory", Subtype: "lx.mem", AllowOther: true, DefaultPermissions: true}, 0)
	if err != nil {
		return nil, err
	}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(context.Background(), dev) }()
	return func() error {
		return errors.Join(unix.Unmount(dir, unix.MNT_DETACH), <-served, fs.Drain(context.Background()), vol.Close())
	}, nil
}

// memoryDir is a directory of go-fuse's memory file system.
type memoryDir struct{ gofs.Inode }

func (d *memoryDir) Create(ctx context.Context, name string, flags, mode uint32, out *gofuse.EntryOut) (*gofs.Inode, gofs.FileHandle, uint32, syscall.Errno) {
	f := &gofs.MemRegularFile{Attr: gofuse.Attr{Mode: mode}}
	out.Attr = f.Attr
	return d.NewInode(ctx, f, gofs.StableAttr{Mode: syscall.S_IFREG}), nil, gofuse.FOPEN_KEEP_CACHE, 0
}

func (d *memoryDir) Unlink(context.Context, string) syscall.Errno { return 0 }

func serveGoFuse(dir string) (func() error, error) {
	second := time.Second
	srv, err := gofs.Mount(dir, &memoryDir{}, &gofs.Options{
		AttrTimeout: &second, EntryTimeout: &second,
		MountOptions: gofuse.MountOptions{
			DirectMountStrict: true, AllowOther: true, FsName: "memory", Name: "memory",
			MaxWrite: 1 << 20, DisableSplice: true, Options: []string{"default_permissions"},
		},
	})
	if err != nil {
		return nil, err
	}
	return srv.Unmount, nil
}

// coldRead writes the file args[0] of args[1] MiB, drops its pages, and reads it.
func coldRead(args []string) (float64, error) {
	if err := writeFile(args[0], args[1]); err != nil {
		return 0, err
	}
	return seqRead(args[:1])
}

// coldRand is coldRead with randRead: the rest of args are its own.
func coldRand(args []string) (float64, error) {
	if err := writeFile(args[0], args[1]); err != nil {
		return 0, err
	}
	return randRead([]string{args[0], args[2], args[3]})
}

func writeFile(name, mib string) error {
	n, err := strconv.Atoi(mib)
	if err != nil {
		return err
	}
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Truncate(int64(n) << 20); err != nil {
		return err
	}
	b := make([]byte, 1<<20)
	for i := range b {
		b[i] = byte(i * 7)
	}
	for range n {
		if _, err := f.Write(b); err != nil {
			return err
		}
	}
	if err := flushed(f); err != nil {
		return err
	}
	return unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
}

// filled creates the files and lets the kernel forget them, then runs args[0]
// on them.
func filled(args []string) (float64, error) {
	if _, err := create(args[1:3]); err != nil {
		return 0, err
	}
	time.Sleep(1100 * time.Millisecond) // entries and attributes live for a second
	return workloads[args[0]](args[1:])
}
