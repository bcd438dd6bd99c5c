package cli

import (
	"bytes"
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/lxbridge/lx/core/env"
	"github.com/lxbridge/lx/core/feature"
)

// healthy is a host that lacks nothing.
func healthy() host {
	return host{
		probe:    func() probed { return probed{} },
		read:     func(string) (string, error) { return "", os.ErrNotExist },
		lookPath: func(p string) (string, error) { return "/usr/bin/" + p, nil },
		setuid:   func(string) bool { return true },
		subuid:   func() error { return nil },
		release:  func() string { return "6.18" },
		dirs:     func() (env.Dirs, error) { return env.Dirs{Runtime: "/run/user/1/lx"}, nil },
		login:    func() login { return login{user: "anna"} },
		groups:   func() (string, error) { return "", &env.NotDelegated{Reason: "version 1", Remedy: "boot"} },
	}
}

func TestDoctor(t *testing.T) {
	reads := func(path, value string) func(string) (string, error) {
		return func(p string) (string, error) {
			if p == path {
				return value, nil
			}
			return "", os.ErrNotExist
		}
	}
	for _, c := range []struct {
		name    string
		spoil   func(*host)
		finding string
		status  verdict
		remedy  string
	}{
		{"healthy", func(*host) {}, "", fine, ""},
		{"apparmor", func(h *host) {
			h.probe = func() probed { return probed{Namespaces: "permission denied"} }
			h.read = reads("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1")
		}, "user namespaces", failing, "apparmor_restrict_unprivileged_userns=0"},
		{"old Debian", func(h *host) {
			h.probe = func() probed { return probed{Namespaces: "operation not permitted"} }
			h.read = reads("/proc/sys/kernel/unprivileged_userns_clone", "0")
		}, "user namespaces", failing, "unprivileged_userns_clone=1"},
		{"none allowed", func(h *host) {
			h.probe = func() probed { return probed{Namespaces: "no space left on device"} }
			h.read = reads("/proc/sys/user/max_user_namespaces", "0")
		}, "user namespaces", failing, "max_user_namespaces"},
		{"container", func(h *host) { h.probe = func() probed { return probed{Namespaces: "operation not permitted"} } }, "user namespaces", failing, "seccomp=unconfined"},
		{"masked proc", func(h *host) { h.probe = func() probed { return probed{Proc: "operation not permitted"} } }, "proc", failing, "systempaths"},
		{"fuse closed", func(h *host) { h.probe = func() probed { return probed{Device: "permission denied"} } }, "/dev/fuse", failing, "chmod 0666"},
		{"fuse absent", func(h *host) {
			h.probe = func() probed { return probed{Device: "open /dev/fuse: no such file or directory"} }
		}, "/dev/fuse", failing, "--device /dev/fuse"},
		{"no notification", func(h *host) { h.probe = func() probed { return probed{Seccomp: "invalid argument"} } }, "seccomp", failing, "5.19"},
		{"yama", func(h *host) { h.read = reads("/proc/sys/kernel/yama/ptrace_scope", "3") }, "yama", failing, "ptrace_scope=1"},
		{"yama that does no harm", func(h *host) { h.read = reads("/proc/sys/kernel/yama/ptrace_scope", "2") }, "yama", fine, ""},
		{"no subuids", func(h *host) { h.subuid = func() error { return errors.New("no range") } }, "subuid", lacking, "--add-subuids"},
		{"no helper", func(h *host) {
			h.lookPath = func(p string) (string, error) { return "", errors.New("not found") }
		}, "mount.cifs", lacking, "cifs-utils"},
		{"helper without rights", func(h *host) { h.setuid = func(string) bool { return false } }, "subuid", failing, "chmod u+s /usr/bin/newuidmap"},
		{"apparmor that allows empty namespaces", func(h *host) {
			h.probe = func() probed { return probed{Proc: "permission denied", Seccomp: "permission denied"} }
			h.read = reads("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1")
		}, "user namespaces", failing, "apparmor_restrict_unprivileged_userns=0"},
		{"fuse not for this container", func(h *host) {
			h.probe = func() probed { return probed{Device: "cannot open /dev/fuse: operation not permitted"} }
		}, "/dev/fuse", failing, "--device /dev/fuse"},
		{"no cross memory attach", func(h *host) { h.probe = func() probed { return probed{Memory: "function not implemented"} } }, "memory", failing, "CROSS_MEMORY"},
		{"older kernel", func(h *host) {
			h.probe = func() probed { return probed{Missing: []feature.Name{feature.FuseResend}} }
		}, "kernel", lacking, "newer"},
		{"in lx", func(h *host) { h.probe = func() probed { return probed{Nested: true} } }, "nested", lacking, "outside"},
		{"no lingering", func(h *host) { h.login = func() login { return login{systemd: true, user: "anna"} } }, "survival", lacking, "enable-linger anna"},
		{"own init", func(*host) {}, "own init", lacking, "boot"},
		{"delegated", func(h *host) { h.groups = func() (string, error) { return "/mine", nil } }, "own init", fine, ""},
		{"lingering", func(h *host) { h.login = func() login { return login{systemd: true, linger: true, user: "anna"} } }, "survival", fine, ""},
		{"open runtime directory", func(h *host) {
			h.dirs = func() (env.Dirs, error) { return env.Dirs{}, errors.New("open to others") }
		}, "directories", failing, env.RuntimeVar},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := healthy()
			c.spoil(&h)
			found := false
			for _, f := range examine(h) {
				if f.Name != c.finding {
					continue
				}
				found = true
				if f.Status != c.status || !strings.Contains(f.Remedy, c.remedy) || f.Status != fine && f.Remedy == "" {
					t.Errorf("%+v", f)
				}
			}
			if !found && c.finding != "" {
				t.Errorf("no finding %q", c.finding)
			}
		})
	}
}

// TestDoctorHere: a host that runs these tests can run lx.
func TestDoctorHere(t *testing.T) {
	for _, f := range examine(thisHost()) {
		if f.Status == failing {
			t.Errorf("%+v", f)
		}
	}
}

func TestPrintFindings(t *testing.T) {
	var b bytes.Buffer
	list := []finding{{Name: "a", Status: fine, Detail: "good"}, {Name: "b", Status: failing, Detail: "bad", Meaning: "worse", Remedy: "do this"}}
	if err := printFindings(&b, list, true); err != nil {
		t.Fatal(err)
	}
	if s := b.String(); strings.Contains(s, "good") || !strings.Contains(s, "mend: do this") || !strings.Contains(s, "worse") {
		t.Errorf("printed %q", s)
	}
}
