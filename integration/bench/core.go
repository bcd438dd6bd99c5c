package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// core measures what the environment costs programs that mount nothing.
func (b *bench) core(t *table) (err error) {
	work := filepath.Join(b.dir, "work")
	if err := b.sources(work); err != nil {
		return err
	}
	// One environment lives through the whole group; its map makes id calls trap.
	stop, err := b.keep("--map", "single")
	if err != nil {
		return err
	}
	defer stop()
	in := []string{b.lx}
	beside := func(name string, args ...string) []contender {
		c := []contender{{"lx", b.workload(in, name, args...)}, {"native", b.workload(nil, name, args...)}}
		if name != "execcpu" {
			c = append(c, contender{"any filter", b.workload([]string{b.self, "filtered"}, name, args...)})
		}
		if p, err := exec.LookPath("proot"); err == nil {
			c = append(c, contender{"proot", b.workload([]string{p}, name, args...)})
		}
		return c
	}
	n := func(full, short int) string {
		if b.short {
			full = short
		}
		return strconv.Itoa(full)
	}
	make4 := "make -s -C " + work + "/c clean all"
	// Owners are not restored: root, who is who types inside, would do so, the user outside would not.
	tar := fmt.Sprintf("mkdir %[1]s/x && tar -C %[1]s -cf %[1]s/t.tar tree && tar --no-same-owner -C %[1]s/x -xf %[1]s/t.tar && rm -r %[1]s/x", work)
	t.group("core", []row{
		{name: "getppid", unit: "ns", contenders: beside("getppid"), target: within(60), against: 1},
		{name: "read 1 byte", unit: "ns", contenders: beside("read1"), target: within(60), against: 1},
		{name: "stat", unit: "ns", contenders: beside("stat"), target: within(100), against: 1},
		{name: "trapped, answered inline", unit: "ns", contenders: []contender{
			{"lx", b.workload(in, "setresuid")}, {"bare listener", b.workload(nil, "baretrap")}}, target: below(8000)},
		{name: "fork+exec true", unit: "ms", contenders: beside("exec", n(200, 20), "/bin/true"), target: atMost(1.1), against: 1},
		{name: "bash -c true", unit: "ms", contenders: beside("exec", n(100, 10), "/bin/bash", "-c", "true"), target: atMost(1.1), against: 1},
		{name: "ls", unit: "ms", contenders: beside("exec", n(100, 10), "/bin/ls", "/usr/bin"), target: atMost(1.1), against: 1},
		{name: "getaddrinfo", unit: "ms", contenders: beside("exec", n(100, 10), "/usr/bin/getent", "ahosts", "localhost"), target: atMost(1.1), against: 1},
		{name: "C build, CPU", unit: "ms", contenders: beside("execcpu", "1", "/bin/sh", "-c", make4), target: atMost(1.05), against: 1},
		{name: "tar of 4,000 files, CPU", unit: "ms", contenders: beside("execcpu", n(3, 1), "/bin/sh", "-c", tar), target: atMost(1.05), against: 1},
		{name: "lx true, joining", unit: "ms", contenders: []contender{{"lx", b.wall(b.lx, "true")}}, target: below(40)},
		{name: "lx true, cold", unit: "ms", contenders: []contender{{"lx", b.wall(b.lx, "--new", "true")}}, target: below(120)},
	})
	return nil
}

// wall is the milliseconds that argv takes.
func (b *bench) wall(argv ...string) func() (float64, error) {
	return func() (float64, error) {
		start := time.Now()
		_, err := b.output(argv...)
		return float64(time.Since(start).Microseconds()) / 1e3, err
	}
}

// keep starts an environment that lives until stop is called.
func (b *bench) keep(flags ...string) (stop func() error, err error) {
	if _, err := b.output(append(append([]string{b.lx}, flags...), "sh", "-c", "setsid sleep 100000 >/dev/null 2>&1 </dev/null &")...); err != nil {
		return nil, err
	}
	return b.stop, nil
}

// stop ends the environment, also where the bench was interrupted.
func (b *bench) stop() error {
	last := *b
	last.ctx = context.WithoutCancel(b.ctx)
	_, err := last.output(b.lx, "stop")
	return err
}

// sources lays out a small C project and a tree of 4,000 files.
func (b *bench) sources(work string) error {
	var mk, objects strings.Builder
	for i := range 20 {
		fmt.Fprintf(&objects, " f%d.o", i)
	}
	fmt.Fprintf(&mk, "all: prog\nprog: main.o%[1]s\n\tcc -o $@ $^\n%%.o: %%.c\n\tcc -O1 -c -o $@ $<\nclean:\n\trm -f *.o prog\n", objects.String())
	files := map[string]string{"c/Makefile": mk.String()}
	var calls strings.Builder
	for i := range 20 {
		files[fmt.Sprintf("c/f%d.c", i)] = fmt.Sprintf("#include <stdio.h>\n#include <stdlib.h>\n#include <string.h>\nint f%[1]d(int n) { char b[64]; snprintf(b, sizeof b, \"%%d\", n + %[1]d); return atoi(b); }\n", i)
		fmt.Fprintf(&calls, "int f%d(int);\n", i)
	}
	files["c/main.c"] = calls.String() + "int main(void) { return f0(0); }\n"
	for i := range 4000 {
		files[fmt.Sprintf("tree/d%d/f%d", i%40, i)] = strings.Repeat(strconv.Itoa(i)+"\n", 200)
	}
	for name, text := range files {
		p := filepath.Join(work, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(p, []byte(text), 0o644); err != nil {
			return err
		}
	}
	if b.cred == nil {
		return nil
	}
	return filepath.WalkDir(work, func(p string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(p, int(b.cred.Uid), int(b.cred.Gid))
	})
}
