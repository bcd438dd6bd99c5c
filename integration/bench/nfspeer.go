package main

import (
	_ "embed"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

//go:embed peer/libnfs.c
var libnfsSource []byte

// buildLibnfs compiles the raw client with the installed libnfs.
func (b *bench) buildLibnfs(program string) error {
	source := program + ".c"
	if err := os.WriteFile(source, libnfsSource, 0o644); err != nil {
		return err
	}
	out, err := exec.CommandContext(b.ctx, "gcc", "-O2", "-Wall", "-o", program, source, "-lnfs").CombinedOutput()
	if err != nil {
		return fmt.Errorf("cannot build the libnfs client: %w: %s; install gcc and libnfs-dev", err, out)
	}
	return os.Chmod(program, 0o755)
}

// sshfsMount mounts a directory in memory by sshfs, from an sshd of the
// measuring user's.
func (b *bench) sshfsMount(s share) (c client, stop func() error, err error) {
	if s.dir, err = b.mountpoint("ssh-files"); err != nil {
		return c, nil, err
	}
	port, stopServer, err := b.sshd()
	if err != nil {
		return c, nil, err
	}
	dir, err := b.mountpoint("ssh-mount")
	if err != nil {
		return c, nil, errors.Join(err, stopServer())
	}
	// Flags of ssh(1): no configuration and no known hosts of the user's.
	cmd := b.command("sshfs", "-f", "-F", "/dev/null", "-p", strconv.Itoa(port), "-o", "IdentityFile="+filepath.Join(b.dir, "home", "key"),
		"-o", "StrictHostKeyChecking=no,UserKnownHostsFile=/dev/null,LogLevel=ERROR", "127.0.0.1:"+s.dir, dir)
	unmount, err := b.fuseProgram("sshfs", cmd, dir)
	if err != nil {
		return c, nil, errors.Join(err, stopServer())
	}
	return through(mounted{"sshfs", dir, nil}, &s), func() error { unmount(); return stopServer() }, nil
}

// sshd starts a server that knows one key, on a free port.
func (b *bench) sshd() (port int, stop func() error, err error) {
	home := filepath.Join(b.dir, "home")
	key, config := filepath.Join(home, "key"), filepath.Join(home, "sshd_config")
	if _, err := b.output("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key); err != nil {
		return 0, nil, err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, nil, err
	}
	port = l.Addr().(*net.TCPAddr).Port
	l.Close()
	if err := b.own(config, fmt.Sprintf("ListenAddress 127.0.0.1\nPort %d\nHostKey %s\nAuthorizedKeysFile %s.pub\n"+
		"UsePAM no\nStrictModes no\nPidFile none\nSubsystem sftp internal-sftp\n", port, key, key)); err != nil {
		return 0, nil, err
	}
	program, err := exec.LookPath("sshd") // wants an absolute path
	if err != nil {
		return 0, nil, fmt.Errorf("%w; install openssh-server", err)
	}
	cmd := b.command(program, "-D", "-e", "-f", config)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		return 0, nil, err
	}
	exited := make(chan error, 1)
	go func() { exited <- cmd.Wait() }()
	stop = func() error {
		err := cmd.Process.Signal(syscall.SIGTERM)
		<-exited // how it ends is its own matter
		return err
	}
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); {
		c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err == nil {
			return port, stop, c.Close()
		}
		select {
		case err := <-exited:
			return 0, nil, fmt.Errorf("sshd: %w: %s", err, stderr.String())
		case <-time.After(10 * time.Millisecond):
		}
	}
	return 0, nil, errors.Join(errors.New("sshd does not answer"), stop())
}
