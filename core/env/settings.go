package env

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/lxbridge/lx/core/config"
	"github.com/lxbridge/lx/core/service"
)

// configure adds what the environment says of itself. What is wrong with that
// does not keep it from starting, for it is mended inside.
func (in *initProcess) configure() {
	inside, err := config.LoadInside()
	if err != nil {
		in.notes = append(in.notes, err.Error())
		fmt.Fprintln(os.Stderr, "configuration:", err)
	}
	in.cfg.Settings = in.cfg.Settings.Merge(inside)
}

// variables are those of the configuration.
func (in *initProcess) variables() (env []string) {
	for k, v := range in.cfg.Settings.Env {
		env = append(env, k+"="+v)
	}
	return env
}

// startMounts are the configuration's mounts and those of the environment's
// own fstab(5), as units: a server that is not there yet is tried again.
func (in *initProcess) startMounts() map[string][]service.Unit {
	unit := func(name string, before []service.Command, argv ...string) service.Unit {
		return service.Unit{Name: name, Type: service.Oneshot, RemainAfterExit: true, Restart: service.RestartOnFailure, KillMode: service.KillGroup,
			Before: before, Command: argv, RestartDelay: service.Duration(service.DefaultRestartDelay), RestartDelayMax: service.Duration(service.DefaultRestartDelayMax),
			StartTimeout: service.Duration(service.DefaultStartTimeout), StopTimeout: service.Duration(service.DefaultStopTimeout)}
	}
	const here, fstab = "the configuration", "/etc/fstab"
	units := map[string][]service.Unit{}
	for i, m := range in.cfg.Settings.Mounts {
		argv := []string{"mount", "-t", m.Type}
		if m.Options != "" {
			argv = append(argv, "-o", m.Options)
		}
		units[here] = append(units[here], unit(fmt.Sprintf("mount@%d", i+1), []service.Command{{"mkdir", "-p", "--", m.Target}}, append(argv, "--", m.Source, m.Target)...))
	}
	if !in.cfg.OwnRoot {
		return units
	}
	targets, err := fstabTargets(fstab)
	if err != nil {
		in.notes = append(in.notes, err.Error())
	}
	for i, t := range targets {
		units[fstab] = append(units[fstab], unit(fmt.Sprintf("mount@fstab-%d", i+1), nil, "mount", "--", t))
	}
	return units
}

// limitProcess sets the limits of a session, whose children inherit them. What
// the host does not allow stays as it is, and is told.
func limitProcess(pid int, l service.Limits) {
	for _, r := range []struct {
		resource int
		value    *uint64
	}{
		{unix.RLIMIT_NOFILE, l.Files}, {unix.RLIMIT_NPROC, l.Processes}, {unix.RLIMIT_CORE, l.Core}, {unix.RLIMIT_AS, l.Memory},
		{unix.RLIMIT_FSIZE, l.FileSize}, {unix.RLIMIT_MEMLOCK, l.Locked}, {unix.RLIMIT_CPU, l.CPU},
	} {
		if r.value == nil {
			continue
		}
		if err := unix.Prlimit(pid, r.resource, &unix.Rlimit{Cur: *r.value, Max: *r.value}, nil); err != nil {
			fmt.Fprintf(os.Stderr, "cannot limit a session (resource %d to %d): %v\n", r.resource, *r.value, err)
		}
	}
}
