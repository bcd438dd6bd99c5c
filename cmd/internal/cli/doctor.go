package cli

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"github.com/lxbridge/lx/cmd/internal/api"
	"github.com/lxbridge/lx/cmd/internal/command"
	"github.com/lxbridge/lx/core/env"
	"github.com/lxbridge/lx/core/feature"
	"github.com/lxbridge/lx/core/ns"
)

// verdict is how a check went. Only a failure keeps lx from running.
type verdict string

const (
	fine    verdict = "ok"
	lacking verdict = "warn"
	failing verdict = "fail"
)

// finding is one line of the doctor's.
type finding struct {
	Name    string  `json:"name"`
	Status  verdict `json:"status"`
	Detail  string  `json:"detail"`
	Remedy  string  `json:"remedy,omitempty"` // the line that mends it
	Meaning string  `json:"meaning,omitempty"`
}

// host is what the doctor looks at, so that tests can make one up.
type host struct {
	probe    func() probed
	read     func(path string) (string, error)
	lookPath func(program string) (string, error)
	setuid   func(path string) bool // or has file capabilities
	subuid   func() error
	release  func() string
	dirs     func() (env.Dirs, error)
	login    func() login
	groups   func() (string, error)
	root     bool
}

func thisHost() host {
	return host{
		probe: probe,
		read: func(path string) (string, error) {
			b, err := os.ReadFile(path)
			return strings.TrimSpace(string(b)), err
		},
		lookPath: func(p string) (string, error) {
			path, err := exec.LookPath(p)
			if err != nil { // ordinary users often lack these in PATH
				for _, d := range []string{"/usr/sbin/", "/sbin/"} {
					if _, serr := os.Stat(d + p); serr == nil {
						return d + p, nil
					}
				}
			}
			return path, err
		},
		setuid: func(path string) bool {
			var st unix.Stat_t
			_, err := unix.Getxattr(path, "security.capability", nil)
			return err == nil || unix.Stat(path, &st) == nil && st.Uid == 0 && st.Mode&unix.S_ISUID != 0
		},
		release: func() string {
			var u unix.Utsname
			if err := unix.Uname(&u); err != nil {
				return err.Error()
			}
			return unix.ByteSliceToString(u.Release[:])
		},
		subuid: func() error { _, err := ns.Choose(ns.Subuid); return err },
		dirs:   env.UserDirs,
		login:  hostLogin,
		groups: daemonGroup,
		root:   os.Geteuid() == 0,
	}
}

func newDoctor() *cobra.Command {
	var asJSON, quiet bool
	cmd := &cobra.Command{
		Use:   "doctor [--json|--quiet]",
		Short: "Tell whether lx can run here, and what mends what is missing",
		Long: `doctor tries what lx needs of the host, and names for each thing that fails the line
that mends it. It exits with 1 where lx cannot run.`,
		Example: "  lx doctor\n  lx doctor --json",
		Args:    command.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			list := examine(thisHost())
			bad := false
			for _, f := range list {
				bad = bad || f.Status == failing
			}
			var err error
			switch {
			case asJSON:
				err = command.WriteJSON(cmd.OutOrStdout(), list)
			case !quiet || bad:
				err = printFindings(cmd.OutOrStdout(), list, quiet)
			}
			if err == nil && bad {
				return command.Failure
			}
			return err
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "as JSON")
	cmd.Flags().BoolVar(&quiet, "quiet", false, "print only what keeps lx from running")
	cmd.MarkFlagsMutuallyExclusive("json", "quiet")
	return cmd
}

// examine makes all findings, in the order in which they matter.
func examine(h host) []finding {
	p := h.probe()
	list := []finding{h.namespaces(p)}
	if list[0].Status == fine {
		list = append(list,
			tried("proc", p.Proc, "a /proc of its own can be mounted",
				"in a container: run it with --security-opt systempaths=unconfined (docker) or --security-opt unmask=ALL (podman)"),
			tried("seccomp", p.Seccomp, "system calls can be trapped for a listener",
				"needs Linux 5.19 with CONFIG_SECCOMP_FILTER; in a container: --security-opt seccomp=unconfined"),
			tried("memory", p.Memory, "arguments of trapped calls can be read",
				"needs CONFIG_CROSS_MEMORY_ATTACH; in a container: --security-opt seccomp=unconfined"),
			h.device(p))
		if p.Device == "" {
			list = append(list, tried("fuse mount", p.Fuse, "FUSE can be mounted in a user namespace", "needs CONFIG_FUSE_FS; try: sudo modprobe fuse"))
		}
		list = append(list, h.kernel(p))
	}
	if p.Nested {
		list = append(list, finding{Name: "nested", Status: lacking, Detail: "this runs in lx already", Meaning: "the outer lx serves the mounts of both",
			Remedy: "exit  and start lx outside"})
	}
	return append(list, h.yama(), h.subuids(), h.helper("mount", "util-linux", "without it nobody can type mount"),
		h.helper("mount.cifs", "cifs-utils", "without it no password is asked for: use credentials=FILE"),
		h.helper("fusermount3", "fuse3", "without it a mount cannot be shown to the host (lx mounts --expose)"),
		h.runtime(),
		survives(h.login()),
		h.distributionInit(),
		finding{Name: "network", Status: fine, Detail: "shared with the host: its loopback services and abstract sockets can be reached from inside"})
}

func tried(name, failure, good, remedy string) finding {
	if failure == "" {
		return finding{Name: name, Status: fine, Detail: good}
	}
	return finding{Name: name, Status: failing, Detail: failure, Remedy: remedy}
}

func (h host) namespaces(p probed) finding {
	failure := p.Namespaces
	if failure == "" && p.Proc != "" && p.Seccomp != "" { // as AppArmor does it
		failure = "they come without rights: " + p.Seccomp
	}
	f := tried("user namespaces", failure, "can be made", "")
	if failure == "" {
		return f
	}
	for _, k := range []struct{ path, bad, remedy string }{
		{"/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1",
			"sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0  (or an AppArmor profile for lx with the rule userns,)"},
		{"/proc/sys/kernel/unprivileged_userns_clone", "0", "sudo sysctl -w kernel.unprivileged_userns_clone=1"},
		{"/proc/sys/user/max_user_namespaces", "0", "sudo sysctl -w user.max_user_namespaces=15000"},
	} {
		if v, err := h.read(k.path); err == nil && v == k.bad {
			f.Detail = fmt.Sprintf("%s is %s: %s", k.path, v, failure)
			f.Remedy = k.remedy
			return f
		}
	}
	f.Remedy = "in a container: --security-opt seccomp=unconfined --cap-add SYS_ADMIN, or a profile that allows clone(CLONE_NEWUSER) and mount"
	return f
}

func (h host) device(p probed) finding {
	f := tried("/dev/fuse", p.Device, "can be opened", "sudo chmod 0666 /dev/fuse")
	if strings.Contains(p.Device, "no such") || strings.Contains(p.Device, "not permitted") {
		f.Remedy = "sudo modprobe fuse; in a container: --device /dev/fuse"
	}
	return f
}

// kernel tells of what is newer than the kernel floor or can be done without.
func (h host) kernel(p probed) finding {
	f := finding{Name: "kernel", Status: fine, Detail: h.release() + " has all that lx can use"}
	var names, meanings []string
	for _, n := range p.Missing {
		names = append(names, string(n))
		meanings = append(meanings, without[n])
	}
	if len(names) > 0 {
		f.Status = lacking
		f.Detail = h.release() + " lacks " + strings.Join(names, ", ")
		f.Meaning = strings.Join(meanings, "; ")
		f.Remedy = "a newer kernel"
	}
	return f
}

// without says what comes of a feature's absence.
var without = map[feature.Name]string{
	feature.WaitKillable: "a signal interrupts a call that is being served (Linux 5.19)",
	feature.SyncWakeup:   "served calls are slower (Linux 6.6)",
	feature.FuseResend:   "when a broker has died its mounts are aborted, not handed over (Linux 6.9)",
}

// yama: the broker reads the memory of guests, which live in a namespace below
// its own; only the mode that forbids ptrace altogether is in the way.
func (h host) yama() finding {
	v, err := h.read("/proc/sys/kernel/yama/ptrace_scope")
	switch {
	case err != nil:
		return finding{Name: "yama", Status: fine, Detail: "not there"}
	case v == "3":
		return finding{Name: "yama", Status: failing, Detail: "kernel.yama.ptrace_scope is 3: nobody may read another process's memory",
			Remedy: "set kernel.yama.ptrace_scope=1 in /etc/sysctl.d and reboot"}
	}
	return finding{Name: "yama", Status: fine, Detail: "kernel.yama.ptrace_scope is " + v}
}

func (h host) subuids() finding {
	if h.root {
		return finding{Name: "subuid", Status: fine, Detail: "started by root: all ids exist inside"}
	}
	if err := h.subuid(); err != nil {
		return finding{Name: "subuid", Status: lacking, Detail: err.Error(), Meaning: "only root exists inside; su and services with users of their own do not work",
			Remedy: "sudo apt-get install uidmap && sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 $USER"}
	}
	for _, program := range []string{"newuidmap", "newgidmap"} {
		path, err := h.lookPath(program)
		if err != nil || !h.setuid(path) {
			return finding{Name: "subuid", Status: failing, Detail: program + " is not setuid root and has no capabilities", Remedy: "sudo chmod u+s " + path}
		}
	}
	return finding{Name: "subuid", Status: fine, Detail: "users other than root exist inside"}
}

func (h host) helper(program, pkg, meaning string) finding {
	path, err := h.lookPath(program)
	if err != nil {
		return finding{Name: program, Status: lacking, Detail: "not installed", Meaning: meaning, Remedy: "sudo apt-get install " + pkg}
	}
	return finding{Name: program, Status: fine, Detail: path}
}

func (h host) runtime() finding {
	d, err := h.dirs()
	if err != nil {
		return finding{Name: "directories", Status: failing, Detail: err.Error(),
			Remedy: "export " + env.RuntimeVar + "=DIR XDG_STATE_HOME=DIR, directories that only you can enter"}
	}
	return finding{Name: "directories", Status: fine, Detail: fmt.Sprintf("sockets in %s, logs in %s", d.Runtime, d.State)}
}

// survives tells what outlives logout and reboot.
func survives(l login) finding {
	f := finding{Name: "survival", Status: fine, Detail: "environments outlive their consoles and the logout",
		Meaning: "after a reboot what has enabled services comes up with the daemon; to start that at boot, in crontab -e:  @reboot lx daemon start"}
	if l.systemd && !l.linger {
		f.Status = lacking
		f.Detail = "environments outlive their consoles; systemd may end them at logout, and starts none at boot"
		f.Remedy = "loginctl enable-linger " + l.user
	}
	return f
}

// daemonGroup is the delegated control group of the daemon. Where none runs, it is
// that of the caller, who would start it, but for a user manager, which delegates one.
func daemonGroup() (string, error) {
	if d, err := env.UserDirs(); err == nil {
		if p, _ := d.Process(env.DaemonName); p > 0 {
			return env.DelegatedGroup(p)
		}
	}
	dir, err := env.DelegatedGroup(os.Getpid())
	var why *env.NotDelegated
	if errors.As(err, &why) && why.Unified && api.Manager() {
		return "the user manager's, for the daemon", nil
	}
	return dir, err
}

// distributionInit tells what init = "systemd" lacks.
func (h host) distributionInit() finding {
	dir, err := h.groups()
	var why *env.NotDelegated
	if errors.As(err, &why) {
		return finding{Name: "own init", Status: lacking, Detail: "systemd cannot be booted inside: " + why.Reason, Remedy: why.Remedy,
			Meaning: "init = \"systemd\" is refused; lx service import UNIT  runs a distribution's units without it"}
	}
	return finding{Name: "own init", Status: fine, Detail: "init = \"systemd\" boots a distribution's own: control groups are delegated (" + dir + ")"}
}

func printFindings(w io.Writer, list []finding, onlyBad bool) error {
	colour := func(v verdict) string { return string(v) }
	if f, ok := w.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		codes := map[verdict]int{fine: 32, lacking: 33, failing: 31}
		colour = func(v verdict) string { return fmt.Sprintf("\x1b[%dm%s\x1b[0m", codes[v], v) }
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	var errs []error
	line := func(format string, args ...any) {
		_, err := fmt.Fprintf(t, format, args...)
		errs = append(errs, err)
	}
	for _, f := range list {
		if onlyBad && f.Status != failing {
			continue
		}
		line("%s\t%s\t%s\n", colour(f.Status), f.Name, f.Detail)
		if f.Meaning != "" {
			line("\t\t%s\n", f.Meaning)
		}
		if f.Remedy != "" {
			line("\t\tmend: %s\n", f.Remedy)
		}
	}
	return errors.Join(append(errs, t.Flush())...)
}
