package integration

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/lxbridge/lx/portbroker"
)

// policy tells lxnet a rule.
func (w *world) policy(args ...string) {
	w.t.Helper()
	if r := w.lxnet(append([]string{"policy"}, args...)...); r.code != 0 {
		w.t.Fatal(r)
	}
}

// hostHolds has a program of the user's on the host listen on a port, until the
// test ends or it is ended.
func (w *world) hostHolds(port string) *running {
	w.t.Helper()
	cmd := exec.CommandContext(context.Background(), "/usr/bin/env", "python3", "-m", "http.server", port)
	cmd.Env, cmd.Dir = w.env, w.path("home")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: runAs.credential}
	p := w.startCommand(cmd)
	if r := w.lxnet("wait", port, "--timeout", "30s"); r.code != 0 {
		w.t.Fatalf("%v\n%s", r, p.err.String())
	}
	return p
}

// lastOf is the ledger's last record of a port by an environment, once ok.
func (w *world) lastOf(port, environment string, ok func(portbroker.Record) bool) (last portbroker.Record) {
	w.t.Helper()
	eventually(w.t, bound, func() error {
		all := w.history(port)
		for _, r := range all {
			if r.Environment == environment {
				last = r
			}
		}
		if ok(last) {
			return nil
		}
		return fmt.Errorf("the ledger of %s: %+v", environment, all)
	})
	return last
}

// answers says what a web server at addr gives, from the host.
func answers(t *testing.T, addr string) string {
	t.Helper()
	var text string
	eventually(t, bound, func() error {
		resp, err := http.Get("http://" + addr + "/page")
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		text = string(b)
		return err
	})
	return text
}

// TestPortsPolicies: two environments and the host want one port, under each policy.
func TestPortsPolicies(t *testing.T) {
	w := newWorld(t)
	w.ok("import", "small", w.rootTar())
	hold, small := w.hold(), w.startOpen("-d", "small", "cat")
	defer hold.in.Close()
	defer small.in.Close()
	const bind = "python3 -c 'import socket; socket.socket().bind((\"\", %s))'"
	web := func(port string) []string {
		return []string{"-d", "small", "sh", "-c", "mkdir -p /srv; echo small >/srv/page; exec httpd -f -p " + port + " -h /srv"}
	}

	// The host holds it.
	port := strconv.Itoa(freePort(t))
	l := w.hostHolds(port)
	w.refused("in use", web(port)...)
	w.policy("small", "deny", port, "--why", "ask anna")
	w.refused("Permission denied", web(port)...)
	w.lastOf(port, "small", func(r portbroker.Record) bool {
		return r.Error == "EACCES" && r.Policy == "deny" && r.Why == "ask anna"
	})
	// Another environment's policy is its own.
	if r := w.sh(fmt.Sprintf(bind, port)); !strings.Contains(r.err, "[Errno 98]") {
		t.Errorf("bind in host: %v", r)
	}

	// Remapped, both are reached from the host, and the terminal says where.
	w.policy("small", "remap", port)
	x := w.terminal(t, web(port)...)
	x.expect("lx: Port " + port + " is held by ")
	x.expect("; small's is at :")
	moved := w.lastOf(port, "small", func(r portbroker.Record) bool { return r.Moved() })
	if moved.Local.Port() == moved.Wanted.Port() || !strings.Contains(moved.Why, "on the host") {
		t.Errorf("%+v", moved)
	}
	there := fmt.Sprintf("127.0.0.1:%d", moved.Local.Port())
	same(t, "small's page", answers(t, there), "small\n")
	if c, err := net.Dial("tcp", "127.0.0.1:"+port); err != nil {
		t.Errorf("the host's: %v", err)
	} else {
		c.Close()
	}
	// The other environment wants what small's has now, and the host's.
	if r := w.sh(fmt.Sprintf(bind, strconv.Itoa(int(moved.Local.Port())))); !strings.Contains(r.err, "[Errno 98]") {
		t.Errorf("bind in host: %v", r)
	}
	w.lastOf(strconv.Itoa(int(moved.Local.Port())), "host", func(r portbroker.Record) bool {
		return strings.Contains(r.Why, "in environment small")
	})
	x.typed("\x03")

	// One waits, and is killed; one waits, is interrupted, and goes on; then the port is free.
	w.policy("small", "wait", port)
	w.policy("host", "wait", port)
	killed := w.start("sh", "-c", "echo $$ >pid; exec "+fmt.Sprintf(bind, port))
	w.awaitWaits(port, 1)
	w.must("kill -9 $(cat pid)")
	if r := killed.wait(bound); r.code != 128+int(syscall.SIGKILL) {
		t.Errorf("killed: %v", r)
	}
	interrupted := w.start("python3", "-c", `
import os, signal, socket
open("pid", "w").write(str(os.getpid()))
def stop(*_): raise SystemExit("interrupted")
signal.signal(signal.SIGUSR1, stop)
socket.socket().bind(("", `+port+`))`)
	w.awaitWaits(port, 2)
	w.must("kill -USR1 $(cat pid)")
	if r := interrupted.wait(bound); !strings.Contains(r.err, "interrupted") {
		t.Errorf("interrupted: %v", r)
	}
	waiting := w.start(web(port)...)
	w.awaitWaits(port, 3)
	if err := l.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	same(t, "the page of who waited", answers(t, "127.0.0.1:"+port), "small\n")

	// The broker's death leaves what is bound, and the next one knows the policies.
	w.policy("small", "deny", port)
	w.policy("host", "deny", port)
	if err := syscall.Kill(w.broker(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if r := w.sh(fmt.Sprintf(bind, port)); !strings.Contains(r.err, "[Errno 13]") {
		t.Errorf("after the broker's death: %v", r)
	}
	w.ok("stop", "small")
	waiting.wait(bound)
	if r := w.lxnet("ports", "--port", port); strings.Contains(r.out, port) { // but for TIME-WAIT
		t.Errorf("left behind: %v", r)
	}
}

// awaitWaits returns once n binds have waited for the port.
func (w *world) awaitWaits(port string, n int) {
	w.t.Helper()
	eventually(w.t, bound, func() error {
		other, err := os.ReadFile(w.path("state/lx/small.log"))
		if err != nil {
			return err
		}
		logs := w.log() + string(other)
		if got := strings.Count(logs, "Waits for port "+port); got != n {
			return fmt.Errorf("%d binds have waited, not %d:\n%s", got, n, logs)
		}
		return nil
	})
}

// TestPortsReserved: a port is held for an environment before it starts, and goes
// to it and back without a gap, whoever is killed.
func TestPortsReserved(t *testing.T) {
	w := newWorld(t)
	w.ok("import", "small", w.rootTar())
	port := strconv.Itoa(freePort(t))
	reserved := func(what string) {
		t.Helper()
		if l, err := net.Listen("tcp", ":"+port); err == nil {
			l.Close()
			t.Errorf("%s: the host got the port", what)
		}
	}
	if r := w.lxnet("reserve", "small", port, "--why", "the shop"); r.code != 0 {
		t.Fatal(r)
	}
	reserved("before the environment runs")
	if r := w.lxnet("check", port); r.code != 1 || !strings.Contains(r.out, "reserved for environment small: the shop") {
		t.Errorf("check: %v", r)
	}
	if r := w.lxnet("who", port); !strings.Contains(r.out, "reserved for small: the shop") || !strings.Contains(r.out, "lxnet release") {
		t.Errorf("who: %v", r)
	}
	if r := w.lxnet("free", port, "--yes"); r.code != 1 || !strings.Contains(r.err, "lxnet release") {
		t.Errorf("free: %v", r)
	}
	// Not another environment's.
	if r := w.sh("python3 -c 'import socket; socket.socket().bind((\"\", " + port + "))'"); !strings.Contains(r.err, "[Errno 98]") {
		t.Errorf("host: %v", r)
	}
	w.lastOf(port, "host", func(r portbroker.Record) bool {
		return strings.Contains(r.Why, "reserved for environment small: the shop")
	})

	serve := func() *running {
		return w.start("-d", "small", "sh", "-c", "mkdir -p /srv; echo small >/srv/page; exec httpd -f -p "+port+" -h /srv")
	}
	server := serve()
	same(t, "small's page", answers(t, "127.0.0.1:"+port), "small\n")
	reserved("while small listens")
	if r := w.lxnet("free", port, "--yes"); r.code != 0 {
		t.Errorf("free: %v", r)
	}
	server.wait(bound)
	reserved("after small has let go")

	// A daemon that is killed leaves the port to the broker, and the next goes on with it.
	hold := w.startOpen("-d", "small", "sh", "-c", "echo up; exec cat")
	defer hold.in.Close()
	hold.says("up")
	if r := w.lxnet("reserve", "small", port, "--why", "the shop"); r.code != 0 { // the broker has its copy when this returns
		t.Fatal(r)
	}
	pid := w.ok("daemon", "status", "--json")
	var status struct{ PID int }
	if err := json.Unmarshal([]byte(pid), &status); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(status.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	reserved("without a daemon")
	w.ok("daemon", "start")
	if r := w.lxnet("reserve", "small", port, "--why", "the shop"); r.code != 0 {
		t.Errorf("the next daemon: %v", r)
	}
	if r := w.lxnet("reserve", "--json"); strings.Count(r.out, `"socket"`) != 2 {
		t.Errorf("what is reserved: %v", r)
	}
	hold.in.Close()
	hold.wait(bound)
	w.ok("stop", "small")
	reserved("held by the next daemon")
	server = serve()
	same(t, "small's page", answers(t, "127.0.0.1:"+port), "small\n")

	if r := w.lxnet("release", "small", port); r.code != 0 {
		t.Error(r)
	}
	reserved("released, but listened on")
	w.ok("stop", "small")
	server.wait(bound)
	if r := w.lxnet("ports", "--port", port); strings.Contains(r.out, port) { // but for TIME-WAIT
		t.Errorf("left behind: %v", r)
	}

	// A reservation goes with the environment's name, and ends with it.
	port = strconv.Itoa(freePort(t)) // without TIME-WAIT
	if r := w.lxnet("reserve", "small", port); r.code != 0 {
		t.Fatal(r)
	}
	w.ok("rename", "small", "tiny")
	eventually(t, bound, func() error {
		if r := w.lxnet("check", port); !strings.Contains(r.out, "reserved for environment tiny") {
			return fmt.Errorf("%v", r)
		}
		return nil
	})
	w.ok("remove", "tiny")
	eventually(t, bound, func() error {
		if r := w.lxnet("check", port); r.code != 0 {
			return fmt.Errorf("%v", r)
		}
		return nil
	})
}

// TestPortsLoad: after many binds by fifty processes the ledger has each of them,
// and knows of each socket what the kernel does; killed, they leave nothing.
func TestPortsLoad(t *testing.T) {
	w := newWorld(t)
	load := w.startOpen("python3", "-c", `
import os, signal, socket, sys
r, done = os.pipe()
children = []
for _ in range(50):
    pid = os.fork()
    if pid == 0:
        for _ in range(60):
            s = socket.socket()
            s.bind(("127.0.0.1", 0))
        s.listen()
        os.write(done, b"x")
        signal.pause()
    children.append(pid)
for _ in children: os.read(r, 1)
print("up", flush=True)
sys.stdin.read()
for pid in children: os.kill(pid, signal.SIGKILL)`)
	load.says("up")
	records := map[uint64]portbroker.Record{}
	eventually(t, bound, func() error {
		r := w.lxnet("history", "--json", "--env", "host")
		var all []portbroker.Record
		if err := json.Unmarshal([]byte(r.out), &all); err != nil {
			return err
		}
		binds := 0
		for _, r := range all {
			if r.Call == "bind" {
				binds++
			}
			records[r.Socket] = r
		}
		if binds != 50*60 || len(records) != binds || len(all) != binds+50 {
			return fmt.Errorf("%d records, %d binds of %d sockets", len(all), binds, len(records))
		}
		return nil
	})
	listeners := func() (cookies []uint64) {
		t.Helper()
		var view struct {
			Sockets []struct {
				Cookie uint64
				Local  string
			}
		}
		r := w.lxnet("ports", "-t", "-l", "--env", "host", "--json")
		if err := json.Unmarshal([]byte(r.out), &view); err != nil {
			t.Fatalf("%v: %v", err, r)
		}
		for _, s := range view.Sockets {
			if rec := records[s.Cookie]; rec.Call != "listen" || rec.Local.String() != s.Local {
				t.Errorf("the kernel has %+v, the ledger %+v", s, rec)
			}
			cookies = append(cookies, s.Cookie)
		}
		return cookies
	}
	if n := len(listeners()); n != 50 {
		t.Errorf("%d listeners", n)
	}
	load.in.Close()
	load.wait(bound)
	if n := len(listeners()); n != 0 {
		t.Errorf("%d listeners are left", n)
	}
}
