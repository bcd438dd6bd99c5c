package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/creack/pty"
)

// environments measures many imported environments at once.
func (b *bench) environments(t *table) (err error) {
	count := 50
	if b.short {
		count = 10
	}
	root, err := b.busyboxRoot()
	if err != nil {
		return err
	}
	name := func(i int) string { return "e" + strconv.Itoa(i) }
	all := func(argv func(name string) []string) error {
		errs := make([]error, count)
		var wg sync.WaitGroup
		for i := range count {
			wg.Go(func() { _, errs[i] = b.output(argv(name(i))...) })
		}
		wg.Wait()
		return errors.Join(errs...)
	}
	for i := range count { // one after the other: the disk is not what is measured
		if _, err := b.output(b.lx, "import", name(i), root); err != nil {
			return err
		}
	}
	defer func() {
		_, serr := b.output(b.lx, "shutdown")
		err = errors.Join(err, serr)
	}()
	begin := func(name string) []string {
		return []string{b.lx, "-d", name, "sh", "-c", "setsid sleep 100000 >/dev/null 2>&1 </dev/null &"}
	}
	rows := []row{
		{name: "all up", unit: "s", note: "no peer starts as much", contenders: []contender{{"lx", func() (float64, error) {
			if err := all(func(name string) []string { return []string{b.lx, "stop", name} }); err != nil {
				return 0, err
			}
			start := time.Now()
			err := all(begin)
			return time.Since(start).Seconds(), err
		}}}},
		{name: "lx list", unit: "ms", contenders: []contender{{"lx", b.wall(b.lx, "list")}}, target: below(50)},
		{name: "lx -d NAME true, joining", unit: "ms", contenders: []contender{{"lx", b.wall(b.lx, "-d", name(0), "true")}}, target: below(40)},
		{name: "console, to the prompt", unit: "ms", contenders: []contender{{"lx", func() (float64, error) { return b.prompt(b.lx, "-d", name(0)) }}}, target: below(30)},
	}
	if os.Geteuid() == 0 { // who alone may look into keepers and brokers
		rows = append(rows, row{name: "memory of one, idle", unit: "MiB", target: below(15), contenders: []contender{{"lx", func() (float64, error) { return b.resident(name, count) }}}})
	}
	if err := all(begin); err != nil {
		return err
	}
	t.group(fmt.Sprintf("%d environments", count), rows)
	return nil
}

// busyboxRoot is a folder with a small root file system.
func (b *bench) busyboxRoot() (string, error) {
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		return "", err
	}
	root := filepath.Join(b.dir, "busybox")
	for _, d := range []string{"bin", "etc", "root", "tmp", "dev", "proc", "sys", "run"} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			return "", err
		}
	}
	if err := copyFile(busybox, filepath.Join(root, "bin", "busybox")); err != nil {
		return "", err
	}
	for _, applet := range []string{"sh", "true", "sleep", "setsid"} {
		if err := os.Symlink("busybox", filepath.Join(root, "bin", applet)); err != nil {
			return "", err
		}
	}
	return root, os.WriteFile(filepath.Join(root, "etc", "passwd"), []byte("root:x:0:0:root:/root:/bin/sh\n"), 0o644)
}

// prompt is the milliseconds until a terminal shows the shell's prompt.
func (b *bench) prompt(argv ...string) (float64, error) {
	cmd := b.command(argv...)
	start := time.Now()
	tty, err := pty.Start(cmd)
	if err != nil {
		return 0, err
	}
	defer tty.Close()
	// The shell's greeting comes first, at once or on its own.
	var text []byte
	for err == nil && len(text) < 4096 && !bytes.ContainsAny(text, "#$") {
		part := make([]byte, 256)
		var n int
		n, err = tty.Read(part)
		text = append(text, part[:n]...)
	}
	took := float64(time.Since(start).Microseconds()) / 1e3
	if err == nil {
		_, err = tty.WriteString("exit\n")
	}
	if err != nil || !bytes.ContainsAny(text, "#$") {
		return 0, errors.Join(fmt.Errorf("%q instead of a prompt", text), err, cmd.Process.Kill(), cmd.Wait())
	}
	return took, cmd.Wait()
}

// resident is the MiB that keeper, broker and init of one environment take: what
// they share with others divided by how many share it (PSS, proc_pid_smaps(5)).
func (b *bench) resident(name func(int) string, count int) (float64, error) {
	sum := 0
	for i := range count {
		mark, err := os.ReadFile(filepath.Join(b.dir, "home", ".local", "state", "lx", name(i)+".pid"))
		if err != nil {
			return 0, err
		}
		keeper, _, _ := strings.Cut(string(mark), " ")
		pids, err := os.ReadFile("/proc/" + keeper + "/task/" + keeper + "/children")
		if err != nil {
			return 0, err
		}
		for _, pid := range append(strings.Fields(string(pids)), keeper) {
			text, err := os.ReadFile("/proc/" + pid + "/smaps_rollup")
			if err != nil {
				return 0, err
			}
			_, rest, _ := strings.Cut(string(text), "\nPss:")
			kib, err := strconv.Atoi(strings.Fields(rest + " ?")[0])
			if err != nil {
				return 0, fmt.Errorf("cannot read the memory of process %s: %w", pid, err)
			}
			sum += kib
		}
	}
	return float64(sum) / 1024 / float64(count), nil
}
