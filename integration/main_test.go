// Package integration tests the lx command as a person uses it: the real
// binary, real programs in it, and a real smbd. Root starts the servers; with
// LX_TEST_USER=NAME root runs lx as that user, otherwise lx runs as whoever
// runs the tests. LX_BINARY names an lx to test, with lxnet and lxdev beside it, instead of freshly built ones.
package integration

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
)

// helperVar makes the test binary one of the programs in guest_test.go.
const helperVar = "LX_TEST_HELPER"

var (
	lxPath     string // the lx under test
	lxnetPath  string // and its lxnet
	lxdevPath  string // and its lxdev
	helperPath string // this test binary, where every user can execute it
	runAs      account
)

// account is who runs lx.
type account struct {
	name       string
	uid, gid   int
	credential *syscall.Credential // nil: whoever runs the tests
}

func TestMain(m *testing.M) {
	if name := os.Getenv(helperVar); name != "" {
		if err := runHelper(name, os.Args[1:]); err != nil {
			var code exitCode
			if errors.As(err, &code) {
				os.Exit(int(code))
			}
			fmt.Fprintln(os.Stderr, name+":", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	if os.Getenv(conformanceVar) != "" {
		os.Exit(m.Run())
	}
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "integration:", err)
		code = 1
	}
	os.Exit(code)
}

func run(m *testing.M) (code int, err error) {
	if runAs, err = chooseAccount(); err != nil {
		return 1, err
	}
	dir, err := os.MkdirTemp("", "lx-integration")
	if err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if err := os.Chmod(dir, 0o755); err != nil {
		return 1, err
	}
	lxPath, lxnetPath, lxdevPath = filepath.Join(dir, "lx"), filepath.Join(dir, "lxnet"), filepath.Join(dir, "lxdev")
	helperPath = filepath.Join(dir, "helper")
	if from := os.Getenv("LX_BINARY"); from != "" {
		err = errors.Join(copyProgram(lxPath, from), copyProgram(lxnetPath, filepath.Join(filepath.Dir(from), "lxnet")),
			copyProgram(lxdevPath, filepath.Join(filepath.Dir(from), "lxdev")))
	} else {
		build := exec.Command("go", "build", "-o", dir, "../cmd/lx", "../cmd/lxnet", "../cmd/lxdev")
		build.Env = append(os.Environ(), "CGO_ENABLED=0") // lx runs in environments without the host's libraries
		if out, berr := build.CombinedOutput(); berr != nil {
			err = fmt.Errorf("cannot build lx: %w: %s", berr, out)
		}
	}
	if err != nil {
		return 1, err
	}
	self, err := os.Executable()
	if err != nil {
		return 1, err
	}
	if err := copyProgram(helperPath, self); err != nil {
		return 1, err
	}
	return m.Run(), nil
}

func copyProgram(to, from string) error {
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(dst, src)
	return errors.Join(err, dst.Close())
}

func chooseAccount() (account, error) {
	name := os.Getenv("LX_TEST_USER")
	if name == "" || os.Geteuid() != 0 {
		u, err := user.Current()
		if err != nil {
			return account{}, err
		}
		return account{name: u.Username, uid: os.Getuid(), gid: os.Getgid()}, nil
	}
	return lookAccount(name)
}

// lookAccount is the user name, whom root becomes.
func lookAccount(name string) (account, error) {
	u, err := user.Lookup(name)
	if err != nil {
		return account{}, err
	}
	uid, err := strconv.Atoi(u.Uid)
	if err != nil {
		return account{}, err
	}
	gid, err := strconv.Atoi(u.Gid)
	if err != nil {
		return account{}, err
	}
	ids, err := u.GroupIds()
	if err != nil {
		return account{}, err
	}
	c := &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	for _, s := range ids {
		n, err := strconv.ParseUint(s, 10, 32)
		if err != nil {
			return account{}, err
		}
		c.Groups = append(c.Groups, uint32(n))
	}
	return account{name: name, uid: uid, gid: gid, credential: c}, nil
}
