package supervisor

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/lxbridge/lx/core/service"
)

// newMark is an INVOCATION_ID (systemd.exec(5)).
func newMark() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // it never fails
	return hex.EncodeToString(b[:])
}

// members are the live processes of this run: those that have its mark in
// their environment, those of its sessions, and children of these. The
// sessions of all that are found are its own from then on, for the mark may be
// written over.
func (v *svc) members() []int {
	list, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	all := map[int]procStat{}
	var found []int
	for _, e := range list {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		p, ok := stat(pid)
		if !ok {
			continue
		}
		all[pid] = p
		if pid == v.main || v.sessions[p.session] || v.marked(pid) {
			found = append(found, pid)
		}
	}
	for again := true; again; {
		again = false
		for pid, p := range all {
			if slices.Contains(found, p.parent) && !slices.Contains(found, pid) {
				found = append(found, pid)
				again = true
			}
		}
	}
	for _, pid := range found {
		if s := all[pid].session; s > 1 {
			v.sessions[s] = true
		}
	}
	slices.Sort(found)
	return found
}

// procStat is what /proc/PID/stat says.
type procStat struct {
	parent, session int
	began           uint64 // in clock ticks since boot
}

// stat reads what /proc says of a process; false for zombies and who is gone.
func stat(pid int) (p procStat, ok bool) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return p, false
	}
	f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	if len(f) < 20 || f[0] == "Z" || f[0] == "X" {
		return p, false
	}
	var perr, serr, berr error
	p.parent, perr = strconv.Atoi(f[1])
	p.session, serr = strconv.Atoi(f[3])
	p.began, berr = strconv.ParseUint(f[19], 10, 64)
	return p, perr == nil && serr == nil && berr == nil
}

// ticksNow is the time since boot in the kernel's ticks, as starttime has it
// (proc_pid_stat(5)); USER_HZ is 100 on all architectures that Go knows.
func ticksNow() uint64 {
	var ts unix.Timespec
	if unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts) != nil {
		return 0
	}
	return uint64(ts.Sec)*100 + uint64(ts.Nsec)/10_000_000
}

func (v *svc) marked(pid int) bool {
	if v.mark == "" {
		return false
	}
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/environ")
	return err == nil && bytes.Contains(b, []byte("INVOCATION_ID="+v.mark+"\x00"))
}

func (v *svc) terminate() {
	v.run++
	u := v.m.Unit
	sig := syscall.Signal(unix.SIGTERM)
	if u.StopSignal != "" {
		if s, err := service.Signal(u.StopSignal); err == nil {
			sig = s
		}
	}
	v.signal(sig, false)
	if sig != unix.SIGKILL {
		v.signal(unix.SIGCONT, false)
	}
	v.checkGone()
}

// signal sends sig to whom kill-mode names, or to all.
func (v *svc) signal(sig syscall.Signal, all bool) {
	mode := v.m.Unit.KillMode
	if mode == service.KillNone {
		return
	}
	send := func(pid int) { _ = unix.Kill(pid, sig) } // whom it does not find has ended
	if v.main != 0 {
		send(v.main)
	}
	if mode == service.KillGroup || all || v.main == 0 && mode == service.KillMixed {
		for _, pid := range v.members() {
			if pid != v.main {
				send(pid)
			}
		}
	}
}

// checkGone tells the machine when those are gone whom a stop ends.
func (v *svc) checkGone() {
	if v.m.State != service.Stopping && v.m.State != service.Killing || v.main != 0 {
		return
	}
	mode := v.m.Unit.KillMode
	if (mode == service.KillGroup || mode == service.KillMixed) && len(v.members()) > 0 {
		if mode == service.KillMixed && v.m.State == service.Stopping {
			v.signal(unix.SIGKILL, true) // the main process has ended: the rest goes with it
		}
		return
	}
	v.run++
	v.later(service.Event{Kind: service.Gone}, v.run)
}

// recheck looks at the services that wait for their last process.
func (s *Supervisor) recheck() {
	for _, v := range s.services {
		v.checkGone()
	}
}
