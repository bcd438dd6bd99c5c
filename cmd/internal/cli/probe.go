package cli

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/lxbridge/lx/core/env"
	"github.com/lxbridge/lx/core/feature"
	"github.com/lxbridge/lx/core/fuse"
	"github.com/lxbridge/lx/core/ns"
	"github.com/lxbridge/lx/core/seccomp"
)

// probed is what worked inside namespaces like an environment's; an empty
// string is success.
type probed struct {
	Namespaces, Proc, Device, Fuse, Seccomp, Memory string

	Nested  bool           // an outer lx serves already
	Missing []feature.Name // what lx has a fallback for
}

// Probe is the process that tries, in namespaces of its own: the child of probe.
func Probe() int {
	var p probed
	say := func(to *string, err error) {
		if err != nil {
			*to = err.Error()
		}
	}
	say(&p.Memory, readOwn())
	say(&p.Proc, unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""))
	fs, dev, err := fuse.OpenContext()
	if err != nil {
		say(&p.Device, err)
	} else {
		if err = fuse.Configure(fs, dev, fuse.MountConfig{Source: "probe", Subtype: "lx.probe"}); err == nil {
			err = p.offered(dev)
		}
		say(&p.Fuse, err)
		unix.Close(fs)
		unix.Close(dev)
	}
	if err := p.tryFilter(); errors.Is(err, seccomp.ErrNested) {
		p.Nested = true
	} else {
		say(&p.Seccomp, err)
	}
	if err := json.NewEncoder(os.Stdout).Encode(p); err != nil {
		return 1
	}
	return 0
}

// lack notes a feature that the kernel, or LX_FORCE_MISSING, says is not there.
func (p *probed) lack(n feature.Name, missing bool) {
	if missing || feature.Missing(n) {
		p.Missing = append(p.Missing, n)
	}
}

// readOwn reads this process's memory as the broker reads a guest's.
func readOwn() error {
	text, got := []byte("lx"), make([]byte, 2)
	local := []unix.Iovec{{Base: &got[0]}}
	local[0].SetLen(len(got))
	_, err := unix.ProcessVMReadv(os.Getpid(), local, []unix.RemoteIovec{remote(text)}, 0)
	if err != nil {
		return fmt.Errorf("process_vm_readv: %w", err)
	}
	return nil
}

// offered reads the INIT request of a new connection (linux/fuse.h: after the
// header of 40 bytes major, minor, max_readahead, flags, flags2).
func (p *probed) offered(dev int) error {
	const flags, flags2, size, ext, resend = 52, 56, 60, 1 << 30, 1 << 7
	b := make([]byte, 8192) // FUSE_MIN_READ_BUFFER
	n, err := unix.Read(dev, b)
	if err != nil {
		return fmt.Errorf("cannot read from /dev/fuse: %w", err)
	}
	extended := n >= size && binary.NativeEndian.Uint32(b[flags:])&ext != 0
	p.lack(feature.FuseResend, !extended || binary.NativeEndian.Uint32(b[flags2:])&resend == 0)
	return nil
}

func (p *probed) tryFilter() error {
	arch, err := seccomp.Native()
	if err != nil {
		return err
	}
	program, err := seccomp.Assemble(arch, seccomp.Options{Features: []string{seccomp.FeatureMount}})
	if err != nil {
		return err
	}
	// Without a filter the kernel looks at the flags first: EINVAL, or EFAULT where it knows them.
	const flags = unix.SECCOMP_FILTER_FLAG_NEW_LISTENER | unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
	_, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, flags, 0)
	p.lack(feature.WaitKillable, errno != unix.EFAULT)
	fd, err := seccomp.Install(program)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	_, _, errno = unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SECCOMP_IOCTL_NOTIF_SET_FLAGS, unix.SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP)
	p.lack(feature.SyncWakeup, errno != 0)
	if errno := sendNothing(fd); errno != unix.EBADF {
		return fmt.Errorf("descriptors cannot be given with an answer (SECCOMP_ADDFD_FLAG_SEND): %w", errno)
	}
	return nil
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
