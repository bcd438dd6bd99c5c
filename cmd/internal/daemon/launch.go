package daemon

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/lxbridge/lx/cmd/internal/api"
	"github.com/lxbridge/lx/core/config"
	"github.com/lxbridge/lx/core/env"
	"github.com/lxbridge/lx/core/feature"
	"github.com/lxbridge/lx/core/ns"
	"github.com/lxbridge/lx/core/seccomp"
	"github.com/lxbridge/lx/core/store"
)

// Launch starts the environment unless it runs. st may be nil for one of the
// host's own files, program for the caller's own.
func Launch(ctx context.Context, d env.Dirs, st *store.Store, program *os.File, name string, o api.StartOptions) error {
	if o.Privileged && os.Geteuid() != 0 {
		return errors.New("--privileged is for root")
	}
	if err := feature.Check(); err != nil {
		return err
	}
	cfg := env.Config{Name: name, Privileged: o.Privileged, Program: program, Dirs: d, Home: o.Home, Shell: o.Shell, User: env.UserName(), Environ: o.Environ, Env: deviceVariables(d.Runtime)}
	var err error
	if cfg.Settings, err = config.Load(d.Config, name); err != nil {
		return err
	}
	choose := ns.Choose
	if store.IsHost(name) && cfg.Settings.Init != "" {
		return fmt.Errorf("cannot start %s with init = %q: that is for imported environments", name, cfg.Settings.Init)
	}
	if !store.IsHost(name) {
		rec, err := st.Get(name)
		if err != nil {
			return err
		}
		if o.Privileged {
			return fmt.Errorf("cannot start %s with --privileged: that is for the host environment", name)
		}
		if o.Map != "" && o.Map != rec.Map {
			return fmt.Errorf("cannot start %s with the map %q: its files were imported with %q", name, o.Map, rec.Map)
		}
		// A guest may mount control groups, by which it sees those below its own: where
		// they are its user's, it gets one of its own. Root's are nobody's inside.
		systemd := cfg.Settings.Init == config.InitSystemd
		if systemd || os.Geteuid() != 0 {
			var why *env.NotDelegated
			if cfg.Groups, err = env.DelegatedGroup(os.Getpid()); errors.As(err, &why) && systemd {
				return hinted{fmt.Errorf("cannot start %s with init = %q: %w", name, cfg.Settings.Init, err), cmp.Or(why.Remedy, "lx service import UNIT  runs a distribution's units without its init")}
			}
		}
		root := st.Root(rec)
		cfg.Host = env.Host(cfg.Settings.Host)
		cfg.Hidden = []string{st.Dir(), d.Runtime, d.State, d.Config}
		o.Map, cfg.Root, choose = rec.Map, &root, ns.ChooseOwn
		cfg.Env = append(deviceVariables("/run"), rec.Env...)
	}
	if cfg.Map, err = choose(o.Map); err != nil {
		return err
	}
	cfg.Filter = seccomp.Options{Features: features(cfg.Map), AllowIOUring: o.IOUring}
	return env.Launch(ctx, cfg)
}

// deviceVariables let programs use the devices of the hub: libudev does without a true
// sysfs, adb without true device nodes, and has a server of the environment's own in
// runtime, which is another directory in each.
func deviceVariables(runtime string) []string {
	return []string{"SYSTEMD_DEVICE_VERIFY_SYSFS=0", "ADB_LIBUSB=1", "ADB_SERVER_SOCKET=localfilesystem:" + runtime + "/adb.sock"}
}

// features are what the environment's filter traps for.
func features(m ns.Map) []string {
	fs := []string{seccomp.FeatureMount, seccomp.FeaturePorts}
	if m.Kind == ns.Single {
		fs = append(fs, seccomp.FeatureIDs)
	}
	return fs
}
