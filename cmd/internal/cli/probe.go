package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/lxbridge/lx/core/env"
	"github.com/lxbridge/lx/core/fuse"
	"github.com/lxbridge/lx/core/ns"
	"github.com/lxbridge/lx/core/seccomp"
)

// probed is what worked inside namespaces like an environment's; an empty
// string is success.
type probed struct {
	Namespaces, Proc, Device, Fuse, Seccomp string
}

// Probe is the process that tries, in namespaces of its own: the child of probe.
func Probe() int {
	var p probed
	say := func(to *string, err error) {
		if err != nil {
			*to = err.Error()
		}
	}
	say(&p.Proc, unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""))
	fs, dev, err := fuse.OpenContext()
	if err != nil {
		say(&p.Device, err)
	} else {
		say(&p.Fuse, fuse.Configure(fs, dev, fuse.MountConfig{Source: "probe", Subtype: "lx.probe"}))
		unix.Close(fs)
		unix.Close(dev)
	}
	say(&p.Seccomp, tryFilter())
	if err := json.NewEncoder(os.Stdout).Encode(p); err != nil {
		return 1
	}
	return 0
}

func tryFilter() error {
	arch, err := seccomp.Native()
	if err != nil {
		return err
	}
	program, err := seccomp.Assemble(arch, seccomp.Options{Features: []string{seccomp.FeatureMount}})
	if err != nil {
		return err
	}
	fd, err := seccomp.Install(program)
	if errors.Is(err, seccomp.ErrNested) {
		return nil
	}
	if err != nil {
		return err
	}
	return unix.Close(fd)
}

// probe tries what an environment needs, in a child that ends at once.
func probe() probed {
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = []string{env.RoleProbe}
	uid, gid := ns.Map{
		UID: []ns.Extent{{Outside: uint32(os.Geteuid()), Size: 1}},
		GID: []ns.Extent{{Outside: uint32(os.Getegid()), Size: 1}},
	}.SysProcIDMaps()
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWUSER | unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC,
		UidMappings: uid, GidMappings: gid,
	}
	var out, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &stderr
	var p probed
	if err := cmd.Run(); err != nil {
		p.Namespaces = fmt.Sprintf("%v %s", err, bytes.TrimSpace(stderr.Bytes()))
		return p
	}
	if err := json.Unmarshal(out.Bytes(), &p); err != nil {
		p.Namespaces = err.Error()
	}
	return p
}
