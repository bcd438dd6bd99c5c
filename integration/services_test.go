package integration

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lxbridge/lx/integration/freeport"
)

// serviceStatus is what the tests read of `lx service status --json`.
type serviceStatus struct {
	Name, State, Why, Hint, Result, Broken string
	PID, Restarts                          int
	Enabled                                bool
}

// service asks for a service's status.
func (w *world) service(name string) serviceStatus {
	w.t.Helper()
	r := w.lx("service", "status", "--json", name)
	var list []serviceStatus
	if err := json.Unmarshal([]byte(r.out), &list); err != nil || len(list) != 1 {
		w.t.Fatalf("status of %s: %v, %v", name, err, r)
	}
	return list[0]
}

// freePort is one that nobody listens on.
func freePort(t testing.TB) int {
	t.Helper()
	port, err := freeport.One()
	if err != nil {
		t.Fatal(err)
	}
	return port
}

// sshService writes what sshd needs and a drop-in for the distribution's
// ssh.service, and answers a client's command line.
func (w *world) sshService(port int) []string {
	w.t.Helper()
	for _, key := range []string{"hostkey", "key"} {
		if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", w.path(key)).CombinedOutput(); err != nil {
			w.t.Fatalf("ssh-keygen: %v: %s", err, out)
		}
	}
	w.give(w.path("hostkey"))
	public, err := os.ReadFile(w.path("key.pub"))
	if err != nil {
		w.t.Fatal(err)
	}
	auth := w.write("auth", string(public))
	conf := w.write("sshd_config", fmt.Sprintf("ListenAddress 127.0.0.1\nPort %d\nHostKey %s\nAuthorizedKeysFile %s\nUsePAM no\nStrictModes no\nPidFile none\n", port, w.path("hostkey"), auth))
	dropIn := fmt.Sprintf("[Service]\nExecStartPre=\nExecStart=\nExecStartPre=/usr/sbin/sshd -t -f %s\nExecStart=/usr/sbin/sshd -D -f %s $SSHD_OPTS\n", conf, conf)
	if runAs.uid != 0 {
		// sshd as the user, who may log in as nobody else.
		dropIn += "User=" + runAs.name + "\nRuntimeDirectory=\n"
	}
	for _, d := range []string{"home/.config", "home/.config/lx", "home/.config/lx/services", "home/.config/lx/services/host", "home/.config/lx/services/host/ssh.service.d"} {
		w.mkdir(d)
	}
	w.write("home/.config/lx/services/host/ssh.service.d/port.conf", dropIn)
	return []string{"-F", "none", "-i", w.path("key"), "-p", fmt.Sprint(port), "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null",
		"-o", "BatchMode=yes", "-o", "LogLevel=ERROR", runAs.name + "@127.0.0.1"}
}

// TestSSHService: the distribution's own ssh.service, imported, lives on
// without a console; the services of an environment end with its keeper alone.
func TestSSHService(t *testing.T) {
	w := newWorld(t)
	login := w.sshService(freePort(t))
	if out := w.ok("service", "import", "ssh.service"); !strings.Contains(out, "services/host/ssh.toml") {
		t.Errorf("import wrote %q", out)
	}
	w.ok("service", "enable", "ssh") // the console is closed with the end of this command
	in := func(script string) string {
		out, err := exec.Command("ssh", append(login, script)...).CombinedOutput()
		if err != nil {
			t.Fatalf("ssh: %v: %s\n%s", err, out, w.lx("service", "status", "ssh"))
		}
		return strings.TrimSpace(string(out))
	}
	if out := in("echo in; readlink /proc/self/ns/mnt"); !strings.HasPrefix(out, "in\n") || strings.HasSuffix(out, ownMounts(t)) {
		t.Errorf("by ssh, inside of the environment: %q", out)
	}

	session := exec.Command("ssh", append(login, "echo ready; cat")...)
	stdin, err := session.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	var out buffer
	session.Stdout, session.Stderr = &out, &out
	if err := session.Start(); err != nil {
		t.Fatal(err)
	}
	says := func(text string) {
		t.Helper()
		eventually(t, bound, func() error {
			if !strings.Contains(out.String(), text) {
				return fmt.Errorf("the session says %q", out.String())
			}
			return nil
		})
	}
	says("ready")

	old := w.service("ssh")
	if old.State != "active" || !old.Enabled {
		t.Fatalf("%+v", old)
	}
	w.must(fmt.Sprintf("kill -9 %d", old.PID))
	killed := time.Now()
	eventually(t, bound, func() error {
		out, err := exec.Command("ssh", append(login, "true")...).CombinedOutput()
		if err != nil {
			return fmt.Errorf("ssh: %w: %s", err, out)
		}
		return nil
	})
	if took := time.Since(killed); took > 5*time.Second { // half a second, and the login, on a busy machine
		t.Errorf("a killed sshd is back after %v", took)
	}
	if now := w.service("ssh"); now.Restarts != 1 || now.Why != "killed by SIGKILL" {
		t.Errorf("%+v", now)
	}
	// Neither broker nor daemon nor the runtime directory is what it stands on.
	broker := w.broker()
	if err := unix.Kill(broker, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	daemon, err := listener(w.path("run/lx/daemon.sock"))
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Kill(daemon, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(w.path("run/lx")); err != nil {
		t.Fatal(err)
	}
	if out := w.ok("list"); !strings.Contains(out, "host") {
		t.Errorf("lx list: %q", out)
	}
	if now := w.service("ssh"); now.State != "active" || now.Restarts != 1 {
		t.Errorf("%+v", now)
	}
	if _, err := io.WriteString(stdin, "still here\n"); err != nil {
		t.Fatal(err)
	}
	says("still here")
	in("true")
	stdin.Close()
	if err := session.Wait(); err != nil {
		t.Errorf("the session ended with %v", err)
	}

	// As after a reboot: all processes are gone, and the runtime directory.
	if daemon, err = listener(w.path("run/lx/daemon.sock")); err != nil {
		t.Fatal(err)
	}
	for _, pid := range []int{daemon, w.keeper()} {
		if err := unix.Kill(pid, unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.RemoveAll(w.path("run/lx")); err != nil {
		t.Fatal(err)
	}
	w.ok("daemon", "start")
	eventually(t, bound, func() error {
		if _, err := os.Stat(w.path("run/lx/host.sock")); err != nil {
			return err
		}
		if s := w.service("ssh"); s.State != "active" {
			return fmt.Errorf("%+v", s)
		}
		return nil
	})
	in("true")
	w.ok("service", "disable", "--now", "ssh")
	eventually(t, bound, func() error {
		if s := w.sockets(); len(s) > 0 {
			return fmt.Errorf("an environment without services stays: %v", s)
		}
		return nil
	})
}

// ownMounts names the mount namespace of the tests.
func ownMounts(t *testing.T) string {
	t.Helper()
	ns, err := os.Readlink("/proc/self/ns/mnt")
	if err != nil {
		t.Fatal(err)
	}
	return ns
}

// TestServices: order at the start, what fails says why, exit codes.
func TestServices(t *testing.T) {
	w := newWorld(t)
	if r := w.lx("service", "status", "web"); r.code != 3 || !strings.Contains(r.err, "not running") {
		t.Errorf("without an environment: %v", r)
	}
	if r := w.lx("service", "list"); r.code != 1 || !strings.Contains(r.err, "not running") {
		t.Errorf("without an environment: %v", r)
	}
	w.hold()
	for _, c := range []struct {
		code int
		want string // in either output
		args []string
	}{
		{2, "COMMAND", []string{"service", "add", "web"}},
		{2, "no command", []string{"service", "dance"}},
		{2, "NAME", []string{"service", "start"}},
		{2, "restart", []string{"service", "add", "web", "--restart", "often", "--", "true"}},
		{0, "web.toml", []string{"service", "add", "web", "--ready-port", "1", "--", "sleep", "1000"}},
		{1, "exists", []string{"service", "add", "web", "--", "true"}},
		{3, "inactive", []string{"service", "status", "web"}},
		{4, "no such service", []string{"service", "status", "absent"}},
		{1, "no such service: absent", []string{"service", "start", "absent"}},
		{0, "", []string{"service", "remove", "web"}},
		{1, "no such unit", []string{"service", "import", "absent.service"}},
	} {
		if r := w.lx(c.args...); r.code != c.code || !strings.Contains(r.out+r.err, c.want) {
			t.Errorf("lx %q: want %d and %q, got %v", c.args, c.code, c.want, r)
		}
	}
	port := freePort(t)
	w.write("home/index.html", "served")
	w.ok("service", "add", "db", "--", "sh", "-c", "echo $INVOCATION_ID-$HOME; exec sleep 1000")
	w.ok("service", "add", "web", "--requires", "db", "--dir", ".", "--ready-port", fmt.Sprint(port), "--enable", "--", "python3", "-m", "http.server", "--bind", "127.0.0.1", fmt.Sprint(port))
	text, err := get(fmt.Sprintf("http://127.0.0.1:%d/", port))
	if err != nil || text != "served" {
		t.Errorf("the service answers %q, %v", text, err)
	}
	if s := w.service("db"); s.State != "active" || s.Enabled {
		t.Errorf("what an enabled service requires: %+v", s)
	}
	if out := w.ok("service", "logs", "db"); !strings.Contains(out, "-/") {
		t.Errorf("the log: %q", out)
	}

	services := w.path("home/.config/lx/services/host")
	for name, unit := range map[string]string{
		"broken": "command = [\"true\"]\nrestrat = \"no\"\n",
		"a":      "command = [\"true\"]\nafter = [\"b\"]\nrequires = [\"b\"]\n",
		"b":      "command = [\"true\"]\nafter = [\"a\"]\nrequires = [\"a\"]\n",
		"crash":  "command = [\"sh\", \"-c\", \"echo dying; exit 7\"]\nrestart-delay = \"1ms\"\nstart-limit = 3\n",
		"user":   "command = [\"true\"]\nuser = \"daemon\"\n",
	} {
		w.write("home/.config/lx/services/host/"+name+".toml", unit)
	}
	for name, want := range map[string]string{
		"broken": `line 2: unknown key "restrat"`,
		"a":      "circular dependency: a waits for b waits for a",
	} {
		if r := w.lx("service", "start", name); r.code != 1 || !strings.Contains(r.err, want) {
			t.Errorf("start %s: want %q, got %v", name, want, r)
		}
	}
	if runAs.uid != 0 {
		if r := w.lx("service", "enable", "user"); r.code != 1 || !strings.Contains(r.err, "subuids") || !strings.Contains(r.err, "daemon") {
			t.Errorf("a user that does not exist: %v", r)
		}
	}
	w.lx("service", "start", "crash") // it may be seen up before it crashes
	eventually(t, bound, func() error {
		if s := w.service("crash"); s.State != "failed" || s.Result != "start-limit" || !strings.Contains(s.Why, "exited with code 7") {
			return fmt.Errorf("%+v", s)
		}
		return nil
	})
	if r := w.lx("service", "status", "crash"); r.code != 3 || !strings.Contains(r.out, "dying") || !strings.Contains(r.out, "started 3 times") {
		t.Error(r)
	}
	if runAs.uid != 0 {
		w.ok("service", "add", "low", "--", "python3", "-m", "http.server", "--bind", "127.0.0.1", "81")
		w.lx("service", "start", "low")
		eventually(t, bound, func() error {
			if s := w.service("low"); !strings.Contains(s.Hint, "net.ipv4.ip_unprivileged_port_start=81") {
				return fmt.Errorf("%+v", s)
			}
			return nil
		})
	}
	if r := w.lx("service", "doctor"); r.code != 0 || !strings.Contains(r.out, "enabled: web") || !strings.Contains(r.out, "broken: broken") || !strings.Contains(r.out, "reboot: ") {
		t.Error(r)
	}
	if _, err := os.Stat(services + "/enabled/web"); err != nil {
		t.Error(err)
	}
	w.ok("stop")
	if r := w.lx("service", "list"); r.code != 1 || !strings.Contains(r.err, "hint:") {
		t.Errorf("a stopped environment's services: %v", r)
	}
}

// TestTimers: a timer keeps its environment and runs in it.
func TestTimers(t *testing.T) {
	w := newWorld(t)
	if r := w.lx("timer", "add", "t", "--schedule", "0 25 * * *", "--", "true"); r.code != 2 || !strings.Contains(r.err, "hour") {
		t.Errorf("a schedule that is none: %v", r)
	}
	w.ok("timer", "add", "t", "--every", "1s", "--", "sh", "-c", "echo tick >>"+w.path("home/ticks"))
	w.ok("timer", "add", "d", "--schedule", "0 6 * * *", "--", "sh", "-c", "echo daily")
	eventually(t, bound, func() error {
		if out := w.ok("timer", "list"); !strings.Contains(out, "exited with code 0") {
			return fmt.Errorf("%s", out)
		}
		return nil
	})
	w.ok("timer", "run", "d")
	if out := w.ok("service", "logs", "d"); !strings.Contains(out, "daily") {
		t.Error(out)
	}
	w.ok("timer", "remove", "t", "d")
	eventually(t, bound, func() error {
		if s := w.sockets(); len(s) > 0 {
			return fmt.Errorf("an environment without timers stays: %v", s)
		}
		return nil
	})
}

// TestImportedServices: an environment of its own files with services, a
// crontab, and both configurations.
func TestImportedServices(t *testing.T) {
	w := newWorld(t)
	w.ok("import", "small", w.rootTar())
	for _, d := range []string{"home/.config", "home/.config/lx"} {
		w.mkdir(d)
	}
	conf := "home/.config/lx/config.toml"
	w.write(conf, "[environment.small]\nnetwork = \"own\"\n")
	w.refused(`line 2: not supported yet: "environment.small.network"`, "-d", "small", "true")
	w.write(conf, `[environment.small]
env = {COLOUR = "blue"}
services = ["web"]
[environment.small.limits]
files = 99
[[environment.small.mount]]
source = "none"
target = "/mnt/scratch"
type = "tmpfs"
options = "size=1m"
`)
	port := fmt.Sprint(freePort(t))
	w.ok("-d", "small", "service", "add", "web", "--ready-port", port, "--", "sh", "-c", "echo $COLOUR $(ulimit -n) >/tmp/index.html; exec httpd -f -p 127.0.0.1:"+port+" -h /tmp")
	w.ok("-d", "small", "service", "start", "web")
	page := func() string {
		text, err := get("http://127.0.0.1:" + port + "/index.html")
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(text)
	}
	if got := page(); got != "blue 99" {
		t.Errorf("the service sees %q", got)
	}
	if out := w.ok("-d", "small", "sh", "-c", "echo $COLOUR; grep -c ' /mnt/scratch tmpfs' /proc/mounts"); out != "blue\n1" {
		t.Errorf("a session sees %q", out)
	}
	if out := w.ok("-d", "small", "cat", "/etc/lx/services/web.toml"); !strings.Contains(out, "httpd") {
		t.Errorf("the unit file: %q", out)
	}

	// The environment's own configuration and crontab.
	w.ok("-d", "small", "sh", "-c", "echo 'usr = \"web\"' >/etc/lx.toml; mkdir -p /etc/crontabs; echo '* * * * * echo from cron' >/etc/crontabs/root")
	eventually(t, bound, func() error {
		if out := w.ok("-d", "small", "timer", "list"); !strings.Contains(out, "cron@user.root:1") {
			return fmt.Errorf("%q", out)
		}
		return nil
	})
	w.ok("-d", "small", "timer", "run", "cron@user.root:1")
	if out := w.ok("-d", "small", "service", "logs", "cron@user.root:1"); !strings.Contains(out, "from cron") {
		t.Errorf("%q", out)
	}
	w.refused("/etc/crontabs/root:1", "-d", "small", "timer", "remove", "cron@user.root:1")
	w.ok("stop", "small")
	w.ok("-d", "small", "true")
	if r := w.lx("-d", "small", "service", "list"); !strings.Contains(r.err, `/etc/lx.toml: line 1: unknown key "usr"`) || !strings.Contains(r.out, "web") {
		t.Errorf("a broken configuration inside: %v", r)
	}
	eventually(t, bound, func() error {
		if r := w.lx("-d", "small", "service", "status", "web"); r.code != 0 {
			return fmt.Errorf("a service of the configuration: %v", r)
		}
		return nil
	})
	if got := page(); got != "blue 99" {
		t.Errorf("after a restart the service sees %q", got)
	}
	if kind := w.mapKind("small"); kind == "single" {
		w.ok("-d", "small", "service", "add", "u", "--user", "web", "--", "true")
		w.refused("without subuids", "-d", "small", "service", "enable", "u")
	} else {
		w.ok("-d", "small", "service", "add", "u", "--user", "web", "--", "sh", "-c", "id -u; id -G; exec sleep 1000")
		w.ok("-d", "small", "service", "start", "u")
		eventually(t, bound, func() error {
			if out := w.ok("-d", "small", "service", "logs", "u"); !strings.Contains(out, ": 33\n") || !strings.Contains(out, "33 44") {
				return fmt.Errorf("a service of a user sees %q", out)
			}
			return nil
		})
	}
}

// mapKind is how the environment's ids are mapped.
func (w *world) mapKind(name string) string {
	w.t.Helper()
	var list []struct{ Name, Map string }
	if err := json.Unmarshal([]byte(w.ok("list", "--json")), &list); err != nil {
		w.t.Fatal(err)
	}
	for _, e := range list {
		if e.Name == name {
			return e.Map
		}
	}
	w.t.Fatalf("no environment %s", name)
	return ""
}
