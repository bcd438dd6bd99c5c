package systemd

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/lxbridge/lx/core/service"
)

// tree writes files and answers their folder.
func tree(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		p := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestImport(t *testing.T) {
	etc := tree(t, map[string]string{
		"ssh.service.d/20-port.conf": "[Service]\nExecStart=\nExecStart=/usr/sbin/sshd -D -p 2222 $SSHD_OPTS\n",
		"ssh.service.d/ignored":      "[Service]\nUser=x\n",
	})
	lib := tree(t, map[string]string{
		"ssh.service": `[Unit]
Description=OpenBSD Secure Shell server
After=network.target auditd.service
ConditionPathExists=!/etc/ssh/sshd_not_to_be_run

[Service]
EnvironmentFile=-/etc/default/ssh
ExecStartPre=/usr/sbin/sshd -t
ExecStart=/usr/sbin/sshd -D $SSHD_OPTS
ExecReload=/bin/kill -HUP $MAINPID
KillMode=process
Restart=on-failure
RestartPreventExitStatus=255
Type=notify
RuntimeDirectory=sshd
RuntimeDirectoryMode=0755
ProtectSystem=full
LimitNOFILE=64K

[Install]
WantedBy=multi-user.target
Alias=sshd.service
`,
		"ssh.service.d/10-env.conf":  "[Service]\nEnvironment=A=1 \"B=two words\" 'C=x'\n",
		"ssh.service.d/20-port.conf": "[Service]\nUser=nobody\n", // hidden by the one in etc
	})
	im, err := Import([]string{etc, lib}, "ssh.service")
	if err != nil {
		t.Fatal(err)
	}
	files := uint64(64 << 10)
	want := service.Unit{
		Name: "ssh", Description: "OpenBSD Secure Shell server", Type: service.Notify, Expand: true,
		Command: service.Command{"/usr/sbin/sshd", "-D", "-p", "2222", "$SSHD_OPTS"},
		Reload:  []service.Command{{"/bin/kill", "-HUP", "$MAINPID"}},
		Env:     map[string]string{"A": "1", "B": "two words", "C": "x"}, EnvFiles: []string{"-/etc/default/ssh"},
		Before:      []service.Command{{"/usr/sbin/sshd", "-t"}},
		RuntimeDirs: []string{"sshd"}, DirMode: "0755", ConditionPaths: []string{"!/etc/ssh/sshd_not_to_be_run"},
		NoRestartStatus: []string{"255"}, After: []string{"auditd"}, Restart: service.RestartOnFailure, KillMode: service.KillProcess,
		StopTimeout: service.Duration(90 * time.Second), Limits: service.Limits{Files: &files},
	}
	if d := cmp.Diff(want, im.Unit); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff([]string{"ProtectSystem= is not supported: left out"}, im.Notes); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff([]string{lib + "/ssh.service", lib + "/ssh.service.d/10-env.conf", etc + "/ssh.service.d/20-port.conf"}, im.Files); d != "" {
		t.Error(d)
	}
	b, err := service.Marshal(im.Unit)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := service.Parse("ssh", b); err != nil {
		t.Errorf("%v\n%s", err, b)
	}
}

func TestTemplate(t *testing.T) {
	dir := tree(t, map[string]string{"pg@.service": "[Service]\nType=forking\nExecStart=-/usr/bin/pg_ctlcluster %i start \\\n  --pid %t/%p-%I.pid\nPIDFile=pg-%i.pid\nUser=postgres\n"})
	im, err := Import([]string{dir}, "pg@15-main")
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(service.Command{"-", "/usr/bin/pg_ctlcluster", "15-main", "start", "--pid", "/run/pg-15/main.pid"}, im.Unit.Command); d != "" {
		t.Error(d)
	}
	if im.Unit.PIDFile != "/run/pg-15-main.pid" || im.Unit.User != "postgres" || im.Unit.Name != "pg@15-main" {
		t.Errorf("%+v", im.Unit)
	}
}

func TestRefuses(t *testing.T) {
	for text, want := range map[string]string{
		"[Service]\nType=dbus\nExecStart=/x":            "x.service:2: Type=: dbus is not supported",
		"[Service]\nExecStart=/x\nDynamicUser=yes":      "x.service:3: DynamicUser=",
		"[Service]\nExecStart=/x \"y":                   "a quote does not end",
		"[Service]\nExecStart=/x %z":                    "specifier %z",
		"[Service]\nExecStart=@/x y":                    "prefix \"@\"",
		"[Service]\nUser=x":                             "ExecStart",
		"[Service\nUser=x":                              "x.service:1: want [SECTION]",
		"User=x":                                        "x.service:1: want KEY=VALUE in a section",
		"[Service]\nExecStart=/x \\":                    "the last line is continued",
		"[Service]\nExecStart=/x\nRestart=often":        "restart",
		"[Service]\nExecStart=/x\nLimitNOFILE=many":     "LimitNOFILE=",
		"[Service]\nExecStart=/x\nRestartSec=soon":      "RestartSec=",
		"[Service]\nExecStart=/x\nKillMode=some":        "KillMode=",
		"[Service]\nExecStart=/x\nEnvironment=A":        "NAME=VALUE",
		"[Service]\nExecStart=/x\\q":                    "escape",
		"[Service]\nExecStart=-":                        "empty",
		"[Service]\nExecStart=/x\nStartLimitBurst=some": "StartLimitBurst",
	} {
		dir := tree(t, map[string]string{"x.service": text})
		if _, err := Import([]string{dir}, "x"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
	dir := tree(t, map[string]string{"masked.service": "", "t@.service": "[Service]\nExecStart=/x"})
	for name, want := range map[string]string{"masked": "masked", "absent": "no such unit", "t@": "template", "x.timer": "only .service and .socket", "x.socket": "no such unit", "../x": "no such unit", ".x": "service name"} {
		if _, err := Import([]string{dir}, name); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", name, err, want)
		}
	}
}

// TestSocket: a socket unit is its service, started by the first client.
func TestSocket(t *testing.T) {
	etc := tree(t, map[string]string{"ssh.socket.d/port.conf": "[Socket]\nListenStream=\nListenStream=127.0.0.1:2222\nListenStream=[::1]:2222\n"})
	lib := tree(t, map[string]string{
		"ssh.service": "[Service]\nExecStart=/usr/sbin/sshd -D\n",
		"ssh.socket":  "[Unit]\nBefore=sockets.target\n[Socket]\nListenStream=22\nAccept=no\nFreeBind=yes\nPriority=3\n[Install]\nWantedBy=sockets.target\n",
		"web.service": "[Service]\nExecStart=/bin/web\n",
		"p.socket":    "[Socket]\nListenStream=%t/p.sock\nListenDatagram=53\nSocketMode=0600\nFileDescriptorName=p\nService=web.service\n",
	})
	im, err := Import([]string{etc, lib}, "ssh.socket")
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]service.Socket{{Listen: "tcp/127.0.0.1:2222", OnDemand: true}, {Listen: "tcp/[::1]:2222", OnDemand: true}}, im.Unit.Sockets); d != "" || im.Unit.Name != "ssh" {
		t.Error(im.Unit.Name, d)
	}
	if d := cmp.Diff([]string{lib + "/ssh.socket", etc + "/ssh.socket.d/port.conf", lib + "/ssh.service"}, im.Files); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff([]string{"Priority= is not supported: left out"}, im.Notes); d != "" {
		t.Error(d)
	}
	if im, err = Import([]string{lib}, "p.socket"); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]service.Socket{{Listen: "/run/p.sock", Name: "p", Mode: "0600", OnDemand: true}, {Listen: "udp/53", Name: "p", OnDemand: true}}, im.Unit.Sockets); d != "" || im.Unit.Name != "web" {
		t.Error(im.Unit.Name, d)
	}
	for text, want := range map[string]string{
		"[Socket]\nListenStream=1\nAccept=yes": "x.socket:3: Accept=: a process for each client",
		"[Socket]\nListenStream=@x":            "abstract",
		"[Socket]\nListenStream=vsock::1":      "x.socket:2: ListenStream=",
		"[Socket]\nListenDatagram=/x":          "datagrams at a path",
		"[Socket]\nListenFIFO=/x":              "not supported",
		"[Socket]\nAccept=no":                  "no ListenStream=",
		"[Socket]\nListenStream=1":             "cannot import x.service: no such unit",
		"[Socket]\nListenStream=1\nService=x":  "its Service=x is no .service",
	} {
		if _, err := Import([]string{tree(t, map[string]string{"x.socket": text})}, "x.socket"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}

// TestMasked: a link to /dev/null masks a unit, or empties a drop-in.
func TestMasked(t *testing.T) {
	dir := tree(t, map[string]string{"web.service": "[Service]\nExecStart=/bin/true\n", "web.service.d/b.conf": "[Service]\nNice=0\n"})
	if err := errors.Join(os.Symlink(os.DevNull, filepath.Join(dir, "web.service.d", "a.conf")), os.Symlink(os.DevNull, filepath.Join(dir, "off.service"))); err != nil {
		t.Fatal(err)
	}
	if _, err := Import([]string{dir}, "web"); err != nil {
		t.Error(err)
	}
	if _, err := Import([]string{dir}, "off"); err == nil || !strings.Contains(err.Error(), "masked") {
		t.Error(err)
	}
}

func TestWords(t *testing.T) {
	got, err := words(`a "b c" 'd "e' f\x41\101\sg "" h"i"`)
	if d := cmp.Diff([]string{"a", "b c", `d "e`, "fAA g", "", "hi"}, got); d != "" || err != nil {
		t.Error(err, d)
	}
	cmds, expand, notes, err := commands(`-:/bin/a b ; +/bin/c \; d`)
	if d := cmp.Diff([]service.Command{{"-", "/bin/a", "b"}, {"/bin/c", ";", "d"}}, cmds); err != nil || expand || len(notes) != 1 {
		t.Error(err, expand, notes, d)
	}
}

// FuzzConvert: whatever a unit file says, it is refused or a unit that can be
// written and read.
func FuzzConvert(f *testing.F) {
	f.Add("[Service]\nExecStart=-/x \"a b\" %i \\\n c\nEnvironment=A=b\n")
	f.Fuzz(func(t *testing.T, text string) {
		entries, err := parse("f", text)
		if err != nil {
			return
		}
		u, _, err := convert("x@i.service", entries)
		if err != nil {
			return
		}
		if sockets, _, _, err := convertSocket("x@i.socket", entries); err == nil {
			u.Sockets = sockets
			if u.Check() != nil {
				return
			}
		}
		b, err := service.Marshal(u)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := service.Parse("x@i", b); err != nil {
			t.Errorf("%v\n%s", err, b)
		}
	})
}
