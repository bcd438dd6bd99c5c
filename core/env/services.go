package env

import (
	"context"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lxbridge/lx/core/ns"
	"github.com/lxbridge/lx/core/regular"
	"github.com/lxbridge/lx/core/service/runner"
	"github.com/lxbridge/lx/core/service/supervisor"
)

// ServiceDirs are where an environment's services are kept, as seen inside.
// The host environment's lie in the user's own directories; another's within
// its files: its root may define what runs there, and nothing outside of it
// executes or follows what is named there.
type ServiceDirs struct {
	Units, Logs, State, Run string
}

// ServiceDirs are those of the environment.
func (c Config) ServiceDirs() ServiceDirs {
	if c.Root != nil {
		return ServiceDirs{Units: "/etc/lx/services", Logs: "/var/log/lx", State: "/var/lib/lx/timers", Run: "/run/lx"}
	}
	return ServiceDirs{
		Units: filepath.Join(c.Dirs.Config, "services", c.Name),
		Logs:  filepath.Join(c.Dirs.State, "services", c.Name),
		State: filepath.Join(c.Dirs.State, "services", c.Name, "timers"),
		// Empty and the environment's own there: see RuntimeVar.
		Run: filepath.Join(c.Dirs.Runtime, "services"),
	}
}

// serviceGrace is how long services may take to stop in order, before all
// processes are told to.
const serviceGrace = 20 * time.Second

// startServices begins supervision. The filter is installed: services have it too.
func (in *initProcess) startServices(ctx context.Context) {
	in.wanted = true                               // until it is known better
	d, mounts := in.cfg.Services, in.startMounts() // which may add notes
	in.services = supervisor.New(supervisor.Config{
		Units: d.Units, Logs: d.Logs, State: d.State, Run: d.Run,
		Syslog:   in.syslog(),
		Crontabs: in.crontabs(),
		Fixed:    mounts, Enabled: in.cfg.Settings.Services, Notes: in.notes, Limits: in.cfg.Settings.Limits,
		Env: in.serviceEnv(),
		Exe: "/proc/self/exe",
		Fork: func(path string, argv []string, attr *syscall.ProcAttr) (int, <-chan syscall.WaitStatus, error) {
			return in.fork(path, argv, attr, 0o022, false)
		},
		Adopted: in.adopt,
		Owner:   in.owner,
		Wanted:  in.setWanted,
	})
	go in.services.Run(ctx)
}

// syslog is the socket of syslog(3), where no distribution's init sees to it. The
// host's is the host's own.
func (in *initProcess) syslog() string {
	if in.cfg.OwnRoot && in.cfg.Settings.Init == "" {
		return "/dev/log"
	}
	return ""
}

// crontabs is the root whose crontabs are honoured. Those of the host are its own cron's.
func (in *initProcess) crontabs() string {
	if in.cfg.Settings.Init != "" {
		return "" // the distribution's cron
	}
	if on := in.cfg.Settings.Crontabs; on != nil && *on || on == nil && in.cfg.OwnRoot {
		return "/"
	}
	return ""
}

// serviceEnv is what each service's environment begins with.
func (in *initProcess) serviceEnv() []string {
	own := []string{"PATH=" + defaultPath, "LANG=C.UTF-8", EnvironmentVar + "=" + in.cfg.Name}
	if !in.cfg.OwnRoot {
		return mergeEnv(own, []string{RuntimeVar + "=" + in.cfg.Runtime}, in.variables())
	}
	if in.timeZone != "" {
		own = append(own, "TZ="+in.timeZone)
	}
	return mergeEnv(own, in.cfg.Env, in.variables())
}

// stopServices ends the services in order, within serviceGrace.
func (in *initProcess) stopServices() {
	ctx, cancel := context.WithTimeout(context.Background(), serviceGrace)
	defer cancel()
	in.services.Shutdown(ctx)
}

// setWanted hears whether services have to live on.
func (in *initProcess) setWanted(wanted bool) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.wanted = wanted || in.own != nil
	text := "0"
	if in.wanted {
		text = "1"
	}
	_ = in.keeper.Send(InitWanted, text) // a keeper that is gone is seen by serve
	in.tellIdle()
}

// adopt gives how a process ends that others have made.
func (in *initProcess) adopt(pid int) (<-chan syscall.WaitStatus, bool) {
	in.mu.Lock() // while it is held, nobody is reaped
	defer in.mu.Unlock()
	if unix.Kill(pid, 0) != nil {
		return nil, false
	}
	if _, ok := in.children[pid]; ok {
		return nil, false
	}
	done := make(chan syscall.WaitStatus, 1)
	in.children[pid] = child{done: done}
	return done, true
}

// control answers a client that speaks with the services.
func (in *initProcess) control(ctx context.Context, c *net.UnixConn) {
	defer in.opened()
	defer c.Close()
	_ = in.services.Serve(ctx, c) // a client that is gone needs no answer
}

// DialServices connects to the environment's services; see supervisor.Call.
func DialServices(ctx context.Context, d Dirs, name string) (*net.UnixConn, error) {
	return Dial(ctx, d, name, ToServices)
}

// owner finds whom a service runs as (passwd(5), group(5)).
func (in *initProcess) owner(user, group string) (supervisor.Owner, error) {
	if user == "" {
		user = "root"
	}
	a, err := lookUser(user)
	if err != nil {
		return supervisor.Owner{}, err
	}
	if group != "" {
		b, err := regular.ReadFile("/etc/group", maxAccounts)
		if err != nil {
			return supervisor.Owner{}, fmt.Errorf("cannot find group %s: %w", group, err)
		}
		gid, ok := parseGroup(b, group)
		if !ok {
			return supervisor.Owner{}, fmt.Errorf("cannot find group %s: /etc/group of the environment has none", group)
		}
		a.GID = gid
	}
	o := supervisor.Owner{Name: a.Name, Home: a.Home, Shell: a.Shell, UID: int(a.UID), GID: int(a.GID)}
	m := in.cfg.Map
	switch {
	case a.UID == 0 && (a.GID == 0 || m.Kind == ns.Single):
		return o, nil
	case m.Kind == ns.Single && a.UID == in.cfg.UID: // the user outside
		if err := asUser(&syscall.SysProcAttr{}, in.cfg.UID, in.cfg.GID); err != nil {
			return o, err
		}
		o.Attr = func() *syscall.SysProcAttr {
			attr := &syscall.SysProcAttr{}
			_ = asUser(attr, in.cfg.UID, in.cfg.GID) // it succeeded above
			return attr
		}
		return o, nil
	case m.Kind == ns.Single:
		who := in.cfg.User
		if who == "" {
			who = "USER"
		}
		return o, fmt.Errorf("cannot run as %s (id %d): only root exists inside without subuids; the host's root gives them by  usermod --add-subuids 100000-165535 --add-subgids 100000-165535 %s  (`lx doctor`); or run it as root, who is you",
			user, a.UID, who)
	case !mapped(m.UID, a.UID) || !mapped(m.GID, a.GID):
		return o, fmt.Errorf("cannot run as %s (id %d, group %d): the environment does not map these ids (`lx doctor`)", user, a.UID, a.GID)
	}
	o.Creds = &runner.Creds{UID: a.UID, GID: a.GID, Groups: []int{int(a.GID)}}
	for _, g := range a.Groups {
		if mapped(m.GID, g) {
			o.Creds.Groups = append(o.Creds.Groups, int(g))
		}
	}
	return o, nil
}

func mapped(es []ns.Extent, id uint32) bool {
	return slices.ContainsFunc(es, func(e ns.Extent) bool { return id-e.Inside < e.Size })
}

// parseGroup finds a group of group(5) by name or number.
func parseGroup(b []byte, name string) (uint32, bool) {
	for line := range strings.Lines(string(b)) {
		f := strings.Split(strings.TrimSuffix(line, "\n"), ":")
		if len(f) != 4 || f[0] != name && f[2] != name {
			continue
		}
		if gid, err := strconv.ParseUint(f[2], 10, 32); err == nil {
			return uint32(gid), true
		}
	}
	return 0, false
}
