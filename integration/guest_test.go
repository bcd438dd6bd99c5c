package integration

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// exitCode ends a helper without a message.
type exitCode int

func (c exitCode) Error() string { return fmt.Sprintf("exit code %d", int(c)) }

// helpers are programs that run inside: the test binary with helperVar set.
var helpers = map[string]func(args []string) error{
	"mount":      bareMount,
	"read":       readInterruptibly,
	"mmap-write": mmapWrite,
	"mmap-read":  mmapRead,
	"probe":      probe, "overwrite": overwrite, "impersonate": impersonate,
	"speak":    speak,
	"keyed":    keyed,
	"fsconfig": fsconfig, "hang": hang, "latency": latency, "serve-http": serveHTTP,
	"conformance": conformance,
}

func runHelper(name string, args []string) error {
	f, ok := helpers[name]
	if !ok {
		return fmt.Errorf("no such helper")
	}
	return f(args)
}

// helper is the shell command that runs one of helpers.
func helper(name string) string { return helperVar + "=" + name + " " + helperPath }

// bareMount is mount(8) without libmount: -t TYPE SOURCE TARGET -o OPTIONS in
// this order, given to mount(2) as they are.
func bareMount(args []string) error {
	if len(args) != 6 {
		return fmt.Errorf("six arguments wanted, got %q", args)
	}
	return interruptibly(func() error { return unix.Mount(args[2], args[3], args[1], unix.MS_MGC_VAL, args[5]) })
}

// speak says what the listener at SOCKET answers to HTTP.
// keyed runs a command in a session with a key of the user's, whose id it prints.
func keyed(args []string) error {
	runtime.LockOSThread()
	if _, err := unix.KeyctlJoinSessionKeyring("lx-test"); err != nil {
		return err
	}
	id, err := unix.AddKey("user", "lx-secret", []byte("the host's"), unix.KEY_SPEC_SESSION_KEYRING)
	if err != nil {
		return err
	}
	fmt.Println(id)
	return unix.Exec(args[0], args, append(os.Environ(), helperVar+"="))
}

func speak(args []string) error {
	c, err := net.Dial("unix", args[0])
	if err != nil {
		return err
	}
	defer c.Close()
	// An error here, as below, is how a refusal looks.
	_, _ = io.WriteString(c, "GET /v1/daemon HTTP/1.0\r\n\r\n")
	b, _ := io.ReadAll(c)
	line, _, _ := strings.Cut(string(b), "\r\n")
	if line == "" {
		line = "nothing"
	}
	fmt.Println(line)
	return nil
}

// interruptibly runs f while another goroutine waits for SIGINT, which ends
// the program with code 7.
func interruptibly(f func() error) error {
	interrupted := make(chan os.Signal, 1)
	signal.Notify(interrupted, unix.SIGINT)
	done := make(chan error, 1)
	go func() { done <- f() }()
	select {
	case err := <-done:
		return err
	case <-interrupted:
		return exitCode(7)
	}
}

// readInterruptibly reads FILE.
func readInterruptibly(args []string) error {
	return interruptibly(func() error {
		_, err := os.ReadFile(args[0])
		return err
	})
}

// mmapWrite writes FILE of SIZE bytes through a shared mapping, letter by
// letter of the alphabet for each page; with "exit" it ends without unmapping.
func mmapWrite(args []string) error {
	var size int
	if _, err := fmt.Sscan(args[1], &size); err != nil {
		return err
	}
	f, err := os.OpenFile(args[0], os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return err
	}
	if err := f.Truncate(int64(size)); err != nil {
		return err
	}
	m, err := unix.Mmap(int(f.Fd()), 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return err
	}
	for i := range m {
		m[i] = 'a' + byte(i>>12%26)
	}
	if len(args) > 2 && args[2] == "exit" {
		return nil
	}
	return errors.Join(unix.Munmap(m), f.Close())
}

// mmapRead prints the first letter of every page of FILE.
func mmapRead(args []string) error {
	f, err := os.Open(args[0])
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	m, err := unix.Mmap(int(f.Fd()), 0, int(st.Size()), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return err
	}
	var b strings.Builder
	for i := 0; i < len(m); i += 4096 {
		b.WriteByte(m[i])
	}
	fmt.Println(b.String())
	return unix.Munmap(m)
}
