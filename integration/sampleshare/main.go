// Command sampleshare serves a share with a few files from a real smbd on a
// loopback port, until its standard input ends or it gets SIGINT or SIGTERM.
// When the server accepts connections it writes one line of JSON:
//
//	{"host":"127.0.0.1","port":40445,"share":"sample","user":"lx","password_file":"/…/credentials","pid":4711}
//
// The password file has the form that mount.cifs takes as credentials=FILE.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/lxbridge/lx/integration/smbtest"
)

const share = "sample"

func main() {
	root := flag.String("root", "", "directory in which the packages of Samba were unpacked (default: the system's)")
	dir := flag.String("dir", "", "directory for the server's files (default: a temporary one, removed at the end)")
	flag.Parse()
	if flag.NArg() > 0 {
		fmt.Fprintf(os.Stderr, "sampleshare: unexpected argument %q\n", flag.Arg(0))
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *root, *dir); err != nil {
		fmt.Fprintf(os.Stderr, "sampleshare: %v\n", err)
		os.Exit(1)
	}
}

// run serves until ctx ends or standard input does.
func run(ctx context.Context, root, dir string) (err error) {
	s, err := smbtest.Start(ctx, smbtest.Options{Root: root, Dir: dir, Shares: map[string][]string{share: nil}})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Stop()) }()
	if err := fill(s.Path(share)); err != nil {
		return err
	}
	password := filepath.Join(s.Dir, "credentials")
	text := fmt.Sprintf("username=%s\npassword=%s\n", s.User, s.Password)
	if err := os.WriteFile(password, []byte(text), 0o600); err != nil {
		return err
	}
	line := struct {
		Host         string `json:"host"`
		Port         int    `json:"port"`
		Share        string `json:"share"`
		User         string `json:"user"`
		PasswordFile string `json:"password_file"`
		PID          int    `json:"pid"`
	}{s.Host, s.Port, share, s.User, password, os.Getpid()}
	if err := json.NewEncoder(os.Stdout).Encode(line); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		defer cancel()
		_, _ = io.Copy(io.Discard, os.Stdin) // an unreadable input has ended too
	}()
	<-ctx.Done()
	return nil
}

// fill makes the sample's files. They belong to the user that sessions act as.
func fill(dir string) error {
	owner, err := os.Stat(dir)
	if err != nil {
		return err
	}
	st := owner.Sys().(*syscall.Stat_t)
	for name, text := range map[string]string{
		"README.txt":         "These files come from a Samba server.\n",
		"docs/names.txt":     "Spaces, ümlauts and \"quotes\" in names are fine.\n",
		"src/hello.c":        "#include <stdio.h>\n\nint main(void)\n{\n\tputs(\"hello from the share\");\n}\n",
		"data/numbers.txt":   strings.Repeat("0123456789\n", 1000),
		"photos/näme 1.jpeg": "not really a picture\n",
	} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			return err
		}
		for p := path; p != dir; p = filepath.Dir(p) {
			if err := os.Chown(p, int(st.Uid), int(st.Gid)); err != nil {
				return err
			}
		}
	}
	return nil
}
