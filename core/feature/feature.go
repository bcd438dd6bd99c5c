// Package feature names the kernel features that lx can do without, and lets
// tests pretend that they are missing.
package feature

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
)

// Name is a feature newer than the kernel floor (5.19). It is probed where it
// is used, never inferred from the kernel's version.
type Name string

const (
	WaitKillable  Name = "wait-killable"  // SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV, 5.19
	SyncWakeup    Name = "sync-wakeup"    // SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP, 6.6
	PidfdThread   Name = "pidfd-thread"   // pidfd_open(PIDFD_THREAD), 6.9
	FuseResend    Name = "fuse-resend"    // FUSE_NOTIFY_RESEND, 6.9
	FuseWriteback Name = "fuse-writeback" // FUSE_WRITEBACK_CACHE
	NewMountAPI   Name = "new-mount-api"  // fsopen and kin seen by guests
	Subuid        Name = "subuid"         // newuidmap and a range in /etc/subuid
	Overlay       Name = "overlay"        // overlayfs in a user namespace
)

// All are the features that can be forced missing.
var All = []Name{WaitKillable, SyncWakeup, PidfdThread, FuseResend, FuseWriteback, NewMountAPI, Subuid, Overlay}

// Env is the variable that lists, separated by commas, what to take as missing.
const Env = "LX_FORCE_MISSING"

var forced = sync.OnceValue(func() []Name { return split(os.Getenv(Env)) })

// Missing says whether n must be taken as missing because LX_FORCE_MISSING says so.
// When it is false the caller still has to probe.
func Missing(n Name) bool { return slices.Contains(forced(), n) }

// Check reports names in LX_FORCE_MISSING that no feature has.
func Check() error { return check(forced()) }

func check(names []Name) error {
	for _, n := range names {
		if !slices.Contains(All, n) {
			return fmt.Errorf("%s names %q: expected some of %v", Env, n, All)
		}
	}
	return nil
}

func split(s string) (names []Name) {
	for n := range strings.SplitSeq(s, ",") {
		if n = strings.TrimSpace(n); n != "" {
			names = append(names, Name(n))
		}
	}
	return names
}
