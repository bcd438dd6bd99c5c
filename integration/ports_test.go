package integration

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/lxbridge/lx/portbroker"
)

// lxnet runs lxnet outside, as the user.
func (w *world) lxnet(args ...string) result {
	w.t.Helper()
	cmd := exec.CommandContext(context.Background(), lxnetPath, args...)
	cmd.Env, cmd.Dir = w.env, w.path("home")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: runAs.credential}
	return w.startCommand(cmd).wait(bound)
}

// history are the ledger's records of a port.
func (w *world) history(port string) []portbroker.Record {
	w.t.Helper()
	r := w.lxnet("history", "--json", "--port", port)
	var all []portbroker.Record
	if err := json.Unmarshal([]byte(r.out), &all); err != nil || r.code != 0 {
		w.t.Fatalf("%v: %v", err, r)
	}
	return all
}

// serveHTTP is the helper that serves with Go's net/http, which listens by MPTCP.
func serveHTTP(args []string) error {
	return http.ListenAndServe(":"+args[0], http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "hello") }))
}

// servers are programs that serve on $P until they are ended.
var servers = []struct{ name, script, process string }{
	{"python http.server", "exec python3 -m http.server $P", "python3"},
	{"node", `exec node -e 'require("http").createServer((q,r)=>r.end("hello")).listen(process.env.P)'`, "node"},
	{"net/http", "", "helper"},
	{"nginx with proxy_pass", `mkdir -p ng; cat >ng/conf <<EOF
daemon off; user root root; pid $PWD/ng/pid; events {}
http {
	access_log off; client_body_temp_path $PWD/ng/b; proxy_temp_path $PWD/ng/p; fastcgi_temp_path $PWD/ng/f; uwsgi_temp_path $PWD/ng/u; scgi_temp_path $PWD/ng/s;
	server { listen 127.0.0.1:$P; location / { proxy_pass http://127.0.0.2:$P; } }
	server { listen 127.0.0.2:$P; location / { return 200 hello; } }
}
EOF
exec nginx -e stderr -c $PWD/ng/conf`, "nginx"},
	{"asyncio", `exec python3 -c '
import asyncio, os
async def hello(r, w):
    await r.readline()
    w.write(b"HTTP/1.0 200 OK\r\n\r\nhello"); await w.drain(); w.close()
async def main():
    s = await asyncio.start_server(hello, "127.0.0.1", int(os.environ["P"]))
    await s.serve_forever()
asyncio.run(main())'`, "python3"},
	{"fork after socket", `exec python3 -c '
import os, socket
s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
if os.fork() == 0:
    s.bind(("", int(os.environ["P"]))); s.listen()
    while True:
        c, _ = s.accept(); c.recv(4096); c.sendall(b"HTTP/1.0 200 OK\r\n\r\nhello"); c.close()
os.wait()'`, "python3"},
	{"socket activation", `exec python3 -c '
import os, socket
s = socket.socket(); s.bind(("127.0.0.1", int(os.environ["P"]))); s.listen()
os.dup2(s.fileno(), 9)
os.execvp("python3", ["python3", "-c", """
import socket
s = socket.socket(fileno=9)
while True:
    c, _ = s.accept(); c.recv(4096); c.sendall(b"HTTP/1.0 200 OK\\r\\n\\r\\nhello"); c.close()
"""])'`, "python3"},
}

// TestPortsServers: servers of all kinds listen inside, are reached and named
// outside, and one that comes second is refused as Linux does, with the reason
// in the ledger.
func TestPortsServers(t *testing.T) {
	w := newWorld(t)
	hold := w.hold()
	defer hold.in.Close()
	for _, s := range servers {
		t.Run(s.name, func(t *testing.T) {
			w := w.in(t)
			port := strconv.Itoa(freePort(t))
			script := s.script
			if script == "" {
				script = "exec env " + helper("serve-http") + " " + port
			}
			server := w.start("sh", "-c", "export P="+port+"; "+script)
			if r := w.lxnet("wait", port, "--timeout", "30s"); r.code != 0 {
				t.Fatalf("%v\n%s", r, server.err.String())
			}
			resp, err := http.Get("http://127.0.0.1:" + port)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			if resp.StatusCode != http.StatusOK {
				t.Error(resp.Status)
			}
			if r := w.lxnet("who", port); r.code != 0 || !strings.Contains(r.out, s.process+" (") || !strings.Contains(r.out, "environment  host") {
				t.Errorf("who: %v", r)
			}
			r := w.sh("python3 -c 'import socket; socket.socket().bind((\"127.0.0.1\", " + port + "))'")
			if r.code == 0 || !strings.Contains(r.err, "[Errno 98] Address already in use") {
				t.Errorf("the second: %v", r)
			}
			eventually(t, bound, func() error {
				all := w.history(port)
				last := all[len(all)-1]
				if all[0].Error == "" && all[0].Environment == "host" && last.Error == "EADDRINUSE" && strings.Contains(last.Why, "port "+port+" is held by "+s.process+" (") {
					return nil
				}
				return fmt.Errorf("the ledger: %+v", all)
			})
			if r := w.lxnet("free", port, "--yes"); r.code != 0 {
				t.Errorf("free: %v", r)
			}
			server.wait(bound)
		})
	}
}

// TestPortsOfTheHost: inside sees exactly what Linux shows, and the host's
// holder is named.
func TestPortsOfTheHost(t *testing.T) {
	w := newWorld(t)
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	r := w.sh("python3 -c 'import socket; socket.socket().bind((\"\", " + port + "))'")
	if r.code == 0 || !strings.Contains(r.err, "[Errno 98]") {
		t.Errorf("bind: %v", r)
	}
	eventually(t, bound, func() error {
		if all := w.history(port); len(all) == 1 && strings.Contains(all[0].Why, "port "+port+" is held by") {
			return nil
		} else {
			return fmt.Errorf("the ledger: %+v", all)
		}
	})
	if r := w.sh("python3 -c 'import socket; socket.socket().bind((\"\", 80))'"); r.code == 0 && runAs.uid != 0 {
		t.Errorf("a low port: %v", r)
	}
}

// TestPortsBrokerKilled: servers live on, and binds go on with the next broker.
func TestPortsBrokerKilled(t *testing.T) {
	w := newWorld(t)
	hold := w.hold()
	defer hold.in.Close()
	first, second := strconv.Itoa(freePort(t)), strconv.Itoa(freePort(t))
	server := w.start("python3", "-m", "http.server", first)
	if r := w.lxnet("wait", first, "--timeout", "30s"); r.code != 0 {
		t.Fatal(r)
	}
	old := w.broker()
	if err := syscall.Kill(old, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	another := w.start("python3", "-m", "http.server", second)
	if r := w.lxnet("wait", second, "--timeout", "30s"); r.code != 0 {
		t.Fatalf("%v\n%s", r, another.err.String())
	}
	c, err := net.DialTimeout("tcp", "127.0.0.1:"+first, 10*time.Second)
	if err != nil {
		t.Errorf("the server before: %v", err)
	} else {
		c.Close()
	}
	for _, port := range []string{first, second} {
		if all := w.history(port); len(all) == 0 {
			t.Errorf("port %s is not in the ledger", port)
		}
		if r := w.lxnet("free", port, "--yes"); r.code != 0 {
			t.Error(r)
		}
	}
	server.wait(bound)
	another.wait(bound)
}
