package main

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/lxbridge/lx/integration/smbtest"
)

// mounted is a way to reach the share: files is where, prefix runs a program
// that sees it.
type mounted struct {
	name   string
	files  string
	prefix []string
}

// mounts measures a share of one smbd through lx and its peers.
func (b *bench) mounts(t *table) (err error) {
	srv, err := smbtest.Start(b.ctx, smbtest.Options{Dir: filepath.Join(b.dir, "smbd")})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, srv.Stop()) }()
	cred := filepath.Join(b.dir, "home", "credentials")
	if err := b.own(cred, fmt.Sprintf("username=%s\npassword=%s\n", srv.User, srv.Password)); err != nil {
		return err
	}
	lx, unmount, err := b.lxMount(srv, cred)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unmount()) }()
	all := []mounted{lx}
	title := "cifs mount, no rclone at hand"
	if version, err := b.output(b.rclone, "version"); err == nil {
		rc, stop, err := b.rcloneMount(srv)
		if err != nil {
			return err
		}
		defer stop()
		all = append(all, rc)
		title, _, _ = strings.Cut(version, "\n")
		title = "cifs mount beside " + title
	}
	s := share{b: b, dir: srv.Path(smbtest.Data), mib: 256, files: 10_000, random: 4000, trusted: cacheTime + cacheTime/10}
	if b.short {
		s.mib, s.files, s.random = 64, 1000, 1000
	}
	smbclient := func(command func() (string, error)) contender {
		return contender{"smbclient", func() (float64, error) {
			cmd, err := command()
			if err != nil {
				return 0, err
			}
			start := time.Now()
			_, err = b.output("smbclient", "//"+srv.Host+"/"+smbtest.Data, "-p", strconv.Itoa(srv.Port), "-A", cred, "-c", cmd)
			return megabytes(int64(s.mib)<<20, time.Since(start)), err
		}}
	}
	blob := filepath.Join(b.dir, "blob")
	if err := s.random256(blob); err != nil {
		return err
	}
	rows := []row{
		{name: "sequential read, cold", unit: "MB/s", contenders: append(s.each(all, s.coldRead), smbclient(func() (string, error) {
			name, err := s.fresh()
			return "get " + name + " /dev/null", err
		}))},
		{name: "sequential read, warm", unit: "MB/s", contenders: s.each(all, s.warmRead)},
		{name: "sequential write, close, until the server has it", unit: "MB/s", contenders: append(s.each(all, s.write(true)), smbclient(func() (string, error) {
			return "put " + blob + " put", nil
		}))},
		{name: "sequential write, fsync", unit: "MB/s", contenders: s.each(all, s.write(false)), note: "rclone's fsync returns before the upload, lx's when the server's disk has it"},
		{name: "random 4 KiB reads, depth 1", unit: "op/s", contenders: s.each(all, s.randread(1))},
		{name: "random 4 KiB reads, depth 32", unit: "op/s", contenders: s.each(all, s.randread(32))},
		{name: "stat", unit: "op/s", contenders: s.each(all, s.stat)},
		{name: fmt.Sprintf("ls -l of %d entries", s.files), unit: "entry/s", contenders: s.each(all, s.list)},
		{name: fmt.Sprintf("create %d files, until the server has them", s.files), unit: "op/s", contenders: s.each(all, s.create(true))},
		{name: fmt.Sprintf("create %d files, until close returns", s.files), unit: "op/s", contenders: s.each(all, s.create(false)), note: "rclone's close returns before the upload"},
		{name: fmt.Sprintf("delete %d files", s.files), unit: "op/s", contenders: s.each(all, s.delete)},
	}
	for i := range rows {
		rows[i].more, rows[i].against = true, 1
		if len(all) > 1 && rows[i].note == "" {
			rows[i].target = atLeast(1)
		}
	}
	t.group(title, rows)
	return nil
}

// own writes a file that the measuring user alone can read.
func (b *bench) own(path, text string) error {
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		return err
	}
	if b.cred == nil {
		return nil
	}
	return os.Chown(path, int(b.cred.Uid), int(b.cred.Gid))
}

func (b *bench) mountpoint(name string) (string, error) {
	dir := filepath.Join(b.dir, name)
	if err := os.Mkdir(dir, 0o755); err != nil {
		return "", err
	}
	if b.cred == nil {
		return dir, nil
	}
	return dir, os.Chown(dir, int(b.cred.Uid), int(b.cred.Gid))
}

func (b *bench) lxMount(srv *smbtest.Server, cred string) (m mounted, unmount func() error, err error) {
	dir, err := b.mountpoint("lx-mount")
	if err != nil {
		return m, nil, err
	}
	if _, err := b.output(b.lx, "mount", "-t", "cifs", "//"+srv.Host+"/"+smbtest.Data, dir,
		"-o", fmt.Sprintf("port=%d,credentials=%s", srv.Port, cred)); err != nil {
		return m, nil, err
	}
	return mounted{"lx", dir, []string{b.lx}}, b.stop, nil
}

// cacheTime is how long the mounts may keep what a server told of a directory.
const cacheTime = time.Second

func (b *bench) rcloneMount(srv *smbtest.Server) (m mounted, stop func(), err error) {
	dir, err := b.mountpoint("rclone-mount")
	if err != nil {
		return m, nil, err
	}
	obscured, err := b.output(b.rclone, "obscure", srv.Password)
	if err != nil {
		return m, nil, err
	}
	log := filepath.Join(b.dir, "home", "rclone.log")
	cmd := b.command(b.rclone, "mount", "bench:"+smbtest.Data, dir,
		"--log-file", log, "--vfs-cache-mode", "full", "--vfs-write-back", "0s", "--dir-cache-time", cacheTime.String())
	cmd.Env = append(cmd.Env, "RCLONE_CONFIG_BENCH_TYPE=smb", "RCLONE_CONFIG_BENCH_HOST="+srv.Host,
		"RCLONE_CONFIG_BENCH_PORT="+strconv.Itoa(srv.Port), "RCLONE_CONFIG_BENCH_USER="+srv.User, "RCLONE_CONFIG_BENCH_PASS="+obscured)
	if stop, err = b.fuseProgram("rclone", cmd, dir); err != nil {
		return m, nil, err
	}
	// Where it cannot have one rclone mounts without, which would be another peer.
	text, err := os.ReadFile(log)
	if err == nil && strings.Contains(string(text), "vfs cache") {
		err = fmt.Errorf("rclone has no cache: %s", text)
	}
	if err != nil {
		stop()
		return m, nil, err
	}
	return mounted{"rclone", dir, nil}, stop, nil
}

// fuseProgram starts a program that serves a mount on dir until stop is called.
func (b *bench) fuseProgram(name string, cmd *exec.Cmd, dir string) (stop func(), err error) {
	var stderr strings.Builder
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	exited := make(chan error, 1)
	go func() { exited <- cmd.Wait() }()
	stop = func() {
		// It unmounts at SIGTERM; how it ends is its own matter.
		_ = cmd.Process.Signal(syscall.SIGTERM)
		<-exited
		if !hasMount(dir) {
			return
		}
		fmt.Fprintf(os.Stderr, "%s leaves its mount\n", name)
		umount := exec.Command("fusermount3", "-u", "-z", dir)
		umount.SysProcAttr = cmd.SysProcAttr
		if out, err := umount.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "cannot unmount %s: %v: %s\n", dir, err, out)
		}
	}
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); {
		if hasMount(dir) {
			return stop, nil
		}
		select {
		case err := <-exited:
			return nil, fmt.Errorf("%s: %w: %s", name, err, stderr.String())
		case <-time.After(50 * time.Millisecond):
		}
	}
	stop()
	return nil, fmt.Errorf("%s did not mount: %s", name, stderr.String())
}

// hasMount asks the table, for another user's FUSE mount denies even root.
func hasMount(dir string) bool {
	b, err := os.ReadFile("/proc/self/mounts")
	return err == nil && strings.Contains(string(b), " "+dir+" ")
}

// share makes work on the server's own directory, so that no client has seen it.
type share struct {
	b                  *bench
	dir                string
	mib, files, random int
	trusted            time.Duration // how long a mount may believe what it knew of a directory that changes here
	last               string        // directory that was made
	n                  int
	data               []byte
}

// each makes a contender of every mount.
func (s *share) each(all []mounted, work func(m mounted) (float64, error)) (cs []contender) {
	for _, m := range all {
		cs = append(cs, contender{m.name, func() (float64, error) { return work(m) }})
	}
	return cs
}

func (s *share) random256(path string) error {
	if s.data == nil {
		s.data = make([]byte, s.mib<<20)
		if _, err := rand.Read(s.data); err != nil {
			return err
		}
	}
	return os.WriteFile(path, s.data, 0o666)
}

func (s *share) next(kind string) string { s.n++; return kind + strconv.Itoa(s.n) }

// fresh is the name of a new file of full size that no mount has heard of. Only
// the newest is kept.
func (s *share) fresh() (string, error) {
	os.Remove(filepath.Join(s.dir, "file"+strconv.Itoa(s.n)))
	name := s.next("file")
	err := s.random256(filepath.Join(s.dir, name))
	s.age()
	return name, err
}

// age waits until no mount believes what it knew of directories before.
func (s *share) age() { time.Sleep(s.trusted) }

func (s *share) run(m mounted, name, path string, args ...string) (float64, error) {
	return s.b.workload(m.prefix, name, append([]string{filepath.Join(m.files, path)}, args...)...)()
}

func (s *share) coldRead(m mounted) (float64, error) {
	name, err := s.fresh()
	if err != nil {
		return 0, err
	}
	return s.run(m, "seqread", name)
}

func (s *share) warmRead(m mounted) (float64, error) {
	name, err := s.fresh()
	if err != nil {
		return 0, err
	}
	if _, err := s.run(m, "seqread", name); err != nil {
		return 0, err
	}
	return s.run(m, "seqread", name)
}

// warm makes the server's memory as ready for the next contender's data as it
// was for the last one's.
func (s *share) warm() error {
	path := filepath.Join(s.dir, "warm")
	return errors.Join(s.random256(path), os.Remove(path))
}

// write writes a new file and waits for fsync(2); atServer: closes it, and waits
// until the server has all of it.
func (s *share) write(atServer bool) func(m mounted) (float64, error) {
	return func(m mounted) (float64, error) {
		if err := s.warm(); err != nil {
			return 0, err
		}
		name := s.next("write")
		args := []string{strconv.Itoa(s.mib)}
		if atServer {
			args = append(args, filepath.Join(s.dir, name))
		}
		return s.run(m, "seqwrite", name, args...)
	}
}

func (s *share) randread(depth int) func(m mounted) (float64, error) {
	return func(m mounted) (float64, error) {
		name, err := s.fresh()
		if err != nil {
			return 0, err
		}
		return s.run(m, "randread", name, strconv.Itoa(depth), strconv.Itoa(s.random))
	}
}

// directory makes a new directory with files files on the server. The last one
// goes only when its mount has long been done with it: rclone crashes where a
// file vanishes that it has just sent.
func (s *share) directory(files int) (string, error) {
	name := s.next("dir")
	dir := filepath.Join(s.dir, name)
	if err := os.Mkdir(dir, 0o777); err != nil {
		return "", err
	}
	if err := os.Chmod(dir, 0o777); err != nil {
		return "", err
	}
	for i := range files {
		if err := os.WriteFile(filepath.Join(dir, "f"+strconv.Itoa(i)), []byte("x"), 0o666); err != nil {
			return "", err
		}
	}
	s.age()
	err := os.RemoveAll(s.last)
	s.last = dir
	return name, err
}

// inDirectory runs work on a new directory; atServer: it is told where that is
// at the server.
func (s *share) inDirectory(m mounted, files int, work string, atServer bool) (float64, error) {
	name, err := s.directory(files)
	if err != nil {
		return 0, err
	}
	args := []string{strconv.Itoa(s.files)}
	if atServer {
		args = append(args, filepath.Join(s.dir, name))
	}
	v, err := s.run(m, work, name, args...)
	if work == "create" && err == nil {
		_, err = allThere([]string{filepath.Join(s.dir, name), args[0]}) // what is late is not to disturb others
	}
	return v, err
}

func (s *share) stat(m mounted) (float64, error) {
	return s.inDirectory(m, s.files, "statall", false)
}
func (s *share) list(m mounted) (float64, error) { return s.inDirectory(m, s.files, "list", false) }
func (s *share) delete(m mounted) (float64, error) {
	return s.inDirectory(m, s.files, "delete", false)
}

func (s *share) create(atServer bool) func(m mounted) (float64, error) {
	return func(m mounted) (float64, error) { return s.inDirectory(m, 0, "create", atServer) }
}
