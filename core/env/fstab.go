package env

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"
)

// fstabTypes are what an environment mounts by itself of its fstab(5): file
// systems of the network. Disks are the host's, and the rest is mounted already.
var fstabTypes = []string{"cifs", "smb3", "nfs", "nfs4", "sshfs", "fuse.sshfs"}

// fstabLimit is how long sessions wait for servers that do not answer; mounting
// goes on after it.
const fstabLimit = 20 * time.Second

// mountFstab runs mount -a where the environment has files of its own and
// these name network file systems, before the first session. What fails is in the
// environment's log, and tried again by the unit mount@fstab.
func (in *initProcess) mountFstab() {
	defer close(in.mounted)
	if !in.cfg.OwnRoot {
		return
	}
	b, err := os.ReadFile("/etc/fstab")
	if err != nil || !wantsMount(b) {
		return
	}
	if err := in.runMount(); err != nil {
		fmt.Fprintln(os.Stderr, "mount -a:", err)
	}
}

func (in *initProcess) runMount() error {
	env := []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root"}
	path, err := lookPath("mount", "/", env)
	if err != nil {
		return err
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		return err
	}
	defer null.Close()
	_, done, err := in.fork(path, []string{"mount", "-a", "-t", strings.Join(fstabTypes, ",")},
		&syscall.ProcAttr{Dir: "/", Env: env, Files: []uintptr{null.Fd(), 2, 2}, Sys: &syscall.SysProcAttr{Setsid: true}}, 0o022, false)
	if err != nil {
		return err
	}
	select {
	case ws := <-done:
		if ws.ExitStatus() != 0 {
			return fmt.Errorf("exit code %d", ws.ExitStatus())
		}
	case <-time.After(fstabLimit):
		return fmt.Errorf("not done after %v, goes on", fstabLimit)
	}
	return nil
}

// wantsMount says whether fstab has a line for mount -a to do.
func wantsMount(fstab []byte) bool {
	for s := bufio.NewScanner(bytes.NewReader(fstab)); s.Scan(); {
		f := strings.Fields(s.Text())
		if len(f) < 3 || strings.HasPrefix(f[0], "#") || !slices.Contains(fstabTypes, f[2]) {
			continue
		}
		if len(f) < 4 || !slices.Contains(strings.Split(f[3], ","), "noauto") {
			return true
		}
	}
	return false
}
