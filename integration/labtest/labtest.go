// Package labtest runs the lab for tests: a Linux kernel as a user process
// (User-Mode Linux), with servers in it that are not to be had without one,
// such as knfsd. The environment variable LX_LAB names the folder that holds it,
// whose program "lab" has the subcommands start, sh and stop. Tests that want it
// have the build tag lab, so that others do not know of them: make lab-test.
package labtest

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/lxbridge/lx/integration/freeport"
)

// Lab is a guest that runs. It ends with the test.
type Lab struct {
	program, dir string
}

// Boot starts a guest; forwards are the guest's ports that ports on loopback
// are wanted for. It fails the test where there is no lab.
func Boot(t testing.TB, forwards ...int) (l *Lab, addrs []string) {
	t.Helper()
	folder := os.Getenv("LX_LAB")
	if folder == "" {
		t.Fatal("LX_LAB does not name the folder of a lab")
	}
	l = &Lab{program: filepath.Join(folder, "lab"), dir: t.TempDir()}
	if _, err := exec.LookPath(l.program); err != nil {
		t.Fatalf("LX_LAB=%s is not the folder of a lab: %v", folder, err)
	}
	port, err := freeport.Row(2 + len(forwards)) // the lab wants its second beside its first
	if err != nil {
		t.Fatal(err)
	}
	fwd := ""
	for i, guest := range forwards {
		fwd += fmt.Sprintf("%d=%d ", port+2+i, guest)
		addrs = append(addrs, net.JoinHostPort("127.0.0.1", strconv.Itoa(port+2+i)))
	}
	// The first run builds the lab's network.
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	c := exec.CommandContext(ctx, l.program, "start", l.dir)
	c.Env = append(os.Environ(), fmt.Sprintf("PORT=%d", port), "FWD="+fwd)
	t.Cleanup(func() {
		if out, err := exec.Command(l.program, "stop", l.dir).CombinedOutput(); err != nil {
			t.Errorf("cannot stop the lab: %v\n%s", err, out)
		}
	})
	// Output goes to a file: what start leaves running holds it open.
	log, err := os.Create(filepath.Join(l.dir, "start.log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	c.Stdout, c.Stderr = log, log
	if err := c.Run(); err != nil {
		out, _ := os.ReadFile(log.Name())
		t.Fatalf("cannot boot the lab: %v\n%s", err, out)
	}
	return l, addrs
}

// Run runs a shell's commands in the guest, as its root, and answers what they print.
func (l *Lab) Run(ctx context.Context, commands string) (string, error) {
	out, err := exec.CommandContext(ctx, l.program, "sh", l.dir, commands).CombinedOutput()
	if err != nil {
		return string(out), fmt.Errorf("cannot run %q in the lab: %w\n%s", commands, err, out)
	}
	return string(out), nil
}

// Sh is Run that must succeed.
func (l *Lab) Sh(t testing.TB, commands string) string {
	t.Helper()
	out, err := l.Run(t.Context(), commands)
	if err != nil {
		t.Fatal(err)
	}
	return out
}
